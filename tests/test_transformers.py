"""`ireg.integrations.transformers.watch` on tiny networks with random weights: nothing is downloaded."""

import copy
import math
import os
import socket
import warnings

import pytest
import torch
import torch.multiprocessing as multiprocessing
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset, IterableDataset, RandomSampler

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

import ireg  # noqa: E402
from ireg.integrations.transformers import sampling_of_loader, watch  # noqa: E402
from tests import reference  # noqa: E402
from tests.reference import timeless  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
TAGS = ["ireg/sgd", "ireg/full_batch", "ireg/minibatch_variance", "ireg/own", "norm/l2"]
TOKENS = torch.randint(0, 32, (48, 12), generator=torch.Generator().manual_seed(0))
LENGTHS = torch.randint(4, 13, (48,), generator=torch.Generator().manual_seed(1))


class Texts(Dataset):
    """Token sequences of different lengths, padded, so that micro-batches have different numbers of tokens."""

    def __len__(self):
        return 48

    def __getitem__(self, index):
        length = int(LENGTHS[index])
        labels = TOKENS[index].clone()
        labels[length:] = -100
        return {"input_ids": TOKENS[index], "attention_mask": (torch.arange(12) < length).long(), "labels": labels}


class Stream(IterableDataset):
    def __iter__(self):
        generator = torch.Generator().manual_seed(5)
        while True:
            yield Texts()[int(torch.randint(48, (), generator=generator))]


def gpt2():
    config = transformers.GPT2Config(
        vocab_size=32, n_positions=16, n_embd=16, n_layer=2, n_head=2, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0
    )
    return transformers.GPT2LMHeadModel(config)


def llama():
    config = transformers.LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=16,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


class Keeping(transformers.Trainer):
    """Keep the micro-batches of all steps, and the weights and the optimizer's state after each."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.used, self.states = [], []

    def training_step(self, model, inputs, num_items_in_batch=None):
        self.used.append({name: value.clone() for name, value in inputs.items()})
        return super().training_step(model, inputs, num_items_in_batch)


class Snapshots(transformers.TrainerCallback):
    def __init__(self, trainer):
        self.trainer = trainer

    def on_optimizer_step(self, args, state, control, optimizer=None, model=None, **known):
        inner = getattr(optimizer, "optimizer", optimizer)
        self.trainer.states.append((copy.deepcopy(model), copy.deepcopy(inner.state_dict())))


def trained(tmp_path, make, *, data=None, watched=True, steps=8, kind=Keeping, options=None, **arguments):
    torch.manual_seed(0)
    given = {
        "per_device_train_batch_size": 3,
        "gradient_accumulation_steps": 2,
        "max_steps": steps,
        "learning_rate": 1e-2,
        "weight_decay": 0.1,
        "warmup_steps": 3,
        "lr_scheduler_type": "cosine",
        "max_grad_norm": 0.0,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 2,
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 3,
        **arguments,
    }
    trainer = kind(
        model=make(),
        args=transformers.TrainingArguments(output_dir=str(tmp_path), **given),
        train_dataset=Texts() if data is None else data,
    )
    callback = watch(trainer, TAGS, **{"every_n_steps": 4, "num_batches": None, **(options or {})}) if watched else None
    if hasattr(trainer, "states"):
        trainer.add_callback(Snapshots(trainer))
    trainer.train()
    return trainer, callback


def step_gradients(model, micro_batches):
    """The gradient of one step's loss in float64: all tokens of the step have one weight.

    `Trainer` counts the tokens that are predicted; of GPT-2 the first of each text, too.
    """
    twin = copy.deepcopy(model).double().train()
    first = 0 if isinstance(model, transformers.GPT2LMHeadModel) else 1
    tokens = sum(int((batch["labels"][:, first:] != -100).sum()) for batch in micro_batches)
    for batch in micro_batches:
        logits = twin(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
        labels = batch["labels"][:, 1:]
        (cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum") / tokens).backward()
    return {name: value.grad.clone() for name, value in twin.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("make", [gpt2, llama])
def test_the_terms_of_the_trainers_own_steps(tmp_path, make):
    trainer, callback = trained(tmp_path, make)
    rows = callback.rows.to_dict("records")
    assert [row["step"] for row in rows] == [4, 8]
    assert rows[0]["check/replay"] < 1e-5
    for row, last in zip(rows, (4, 8), strict=True):
        model, state = trainer.states[last - 1]
        steps = [trainer.used[2 * step : 2 * step + 2] for step in range(last - 4, last)]
        gradients = [step_gradients(model, step) for step in steps]
        rates = [1e-2 * factor(step) for step in range(last - 4, last)]
        square = sum(reference.squared_norm(gradient) for gradient in gradients) / 4
        whole = reference.squared_norm(reference.mean(gradients))
        sample = (square - whole) * 4 / 3  # s² of four of the epoch's eight
        mean, variance = whole - (1 / 4 - 1 / 8) * sample, sample * 7 / 8
        total, squares = 2 * sum(rates), 2 * sum(rate * rate for rate in rates)
        full, noise = squares / (4 * total) * mean, (total**2 - squares) / (4 * 7 * total) * variance
        expected = {"ireg/full_batch": full, "ireg/minibatch_variance": noise, "ireg/sgd": full + noise}
        assert {tag: row[tag] for tag in expected} == pytest.approx(expected, rel=1e-6, abs=0)
        assert row["ireg/own"] == pytest.approx(own(model, state, gradients, sum(rates) / 4), rel=1e-6)


def factor(step, warmup=3, steps=8):
    """The warm-up and cosine of transformers, by its own formula."""
    if step < warmup:
        return step / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def own(model, state, gradients, lr):
    """(η/4) [(1 + 2L) ‖ḡ + wP⁻¹ω‖²_P + (1 − τ) Var_P] of AdamW, for four of an epoch's eight minibatches.

    τ is found by enumeration of the filter of β₁ over an epoch of eight: the chance that two steps see one minibatch.
    """
    beta, second, eps = 0.9, 0.999, 1e-8
    names = {id(value): name for name, value in model.named_parameters()}
    order = [name for group in groups(model) for name in group]
    assert len(order) == len(names) == len(state["state"])
    decays = {name: 0.1 * (position == 0) for position, group in enumerate(groups(model)) for name in group}
    scale, weights = {}, dict(model.named_parameters())
    for place, name in enumerate(order):
        entry = state["state"][place]
        corrected = entry["exp_avg_sq"].double() / (1 - second ** float(entry["step"]))
        scale[name] = 1 / (corrected.sqrt() + eps)
    shift = {name: decays[name] * weights[name].detach().double() / scale[name] for name in order}

    def norm(vector):
        return sum(float((scale[name] * vector[name].square()).sum()) for name in order)

    count = len(gradients)
    mean = reference.mean(gradients)
    s2 = sum(norm({name: g[name] - mean[name] for name in order}) for g in gradients) / (count - 1)
    shifted = norm({name: mean[name] + shift[name] for name in order}) - (1 / count - 1 / 8) * s2
    lag = beta / (1 - beta)
    return lr / 4 * ((1 + 2 * lag) * shifted + (1 - reference.overlap(beta, 8)) * s2 * 7 / 8)


def groups(model):
    """The two parameter groups of `Trainer`: with and without decay."""
    decayed = [
        name for name, value in model.named_parameters() if value.ndim > 1 and "norm" not in name and "ln" not in name
    ]
    return [decayed, [name for name, _ in model.named_parameters() if name not in decayed]]


def test_training_is_as_without(tmp_path):
    ends = []
    for watched in (False, True):
        trainer, _ = trained(tmp_path, gpt2, watched=watched, max_grad_norm=1.0)
        ends.append(trainer.model.state_dict())
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


def test_rows_are_in_the_trainers_log(tmp_path):
    trainer, callback = trained(tmp_path, gpt2, steps=6)
    logged = [entry for entry in trainer.state.log_history if "ireg/sgd" in entry]
    assert [entry["step"] for entry in logged] == [4]  # of the two steps after it nothing can be estimated
    assert logged[0]["ireg/own"] == callback.rows["ireg/own"][0]
    assert logged[0]["time/terms"] > 0
    trainer, callback = trained(tmp_path, gpt2, steps=7)
    assert callback.rows["step"].tolist() == [4, 7]


def test_a_stream_counts_as_independent(tmp_path):
    _, callback = trained(tmp_path, gpt2, data=Stream(), options={"num_batches": 3})
    assert callback.monitor.options.sampling == "independent"
    assert "epoch" not in callback.rows


def test_examples_of_all_micro_batches_are_counted(tmp_path, monkeypatch):
    """Three sequences in each of two micro-batches of four steps, for noise scales."""
    terms = {"mine/examples": lambda snapshot: torch.tensor(float(sum(snapshot.examples)))}
    monkeypatch.setattr(f"{__name__}.TAGS", terms)
    _, watched = trained(tmp_path, gpt2, steps=4)
    assert watched.rows["mine/examples"].tolist() == [24.0]


def test_the_trainers_own_entries_stay(tmp_path):
    """Rows at steps 4 and 8 leave those that are due there, with the loss since the entry before."""
    plain, _ = trained(tmp_path, gpt2, watched=False)
    watched, _ = trained(tmp_path, gpt2)
    own = [
        [(entry["step"], entry["loss"]) for entry in one.state.log_history if "loss" in entry]
        for one in (plain, watched)
    ]
    assert [step for step, _ in own[0]] == [2, 4, 6, 8]
    assert own[0] == own[1]


@pytest.mark.parametrize("arguments", [{"label_smoothing_factor": 0.1}, {"average_tokens_across_devices": False}])
def test_other_losses_of_the_trainer_are_replayed(tmp_path, arguments):
    _, callback = trained(tmp_path, gpt2, steps=4, **arguments)
    assert callback.rows["check/replay"][0] < 1e-5


class Unaware(Keeping):
    """A loss that is the mean of each micro-batch, which the trainer divides by their number."""

    loss_is_scaled_for_ga = False

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        return super().compute_loss(model, inputs, return_outputs)


class Other(Keeping):
    """A step of its own, which `compute_loss` does not know."""

    def training_step(self, model, inputs, num_items_in_batch=None):
        loss = 3 * self.compute_loss(model, self._prepare_inputs(inputs), num_items_in_batch=num_items_in_batch)
        self.accelerator.backward(loss)
        return loss.detach()


def test_means_of_micro_batches_are_divided_by_their_number(tmp_path):
    _, callback = trained(tmp_path, gpt2, steps=4, kind=Unaware)
    assert callback.rows["check/replay"][0] < 1e-5
    weighted, _ = trained(tmp_path, gpt2, steps=4)
    model = weighted.states[3][0]
    one, other = (step_gradients(model, batches) for batches in (weighted.used[:2], weighted.used[:1]))
    assert reference.squared_norm(one) != pytest.approx(reference.squared_norm(other), rel=1e-3)


@pytest.mark.parametrize(("bound", "share"), [(0.0, None), (1e6, 0.0), (0.1, 1.0)])
def test_the_share_of_clipped_steps(tmp_path, bound, share):
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        trainer, callback = trained(tmp_path, gpt2, max_grad_norm=bound)
    said = [str(warning.message) for warning in given if "clipping" in str(warning.message)]
    line = (
        "gradient clipping acted in 4 of 4 steps; ireg/own_full_batch of SGD and momentum has it, other terms are "
        "those of steps without it"
    )
    assert said == [line] * bool(share)
    assert callback.monitor.clip == (ireg.Clip(bound) if bound else None)
    logged = [entry.get("ireg/clipped") for entry in trainer.state.log_history if "ireg/own" in entry]
    assert logged == [share, share]
    assert ("ireg/clipped" in callback.rows) == (share is not None)
    assert share is None or callback.rows["ireg/clipped"].tolist() == [share, share]
    assert "clip_grad_norm_" not in vars(trainer.accelerator) or trainer.accelerator.clip_grad_norm_ != callback._clip


def test_a_step_of_ones_own_is_refused_at_once(tmp_path):
    with pytest.raises(ValueError, match="the gradient of the first step") as error:
        trained(tmp_path, gpt2, kind=Other)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["criterion", "loss", "population"])
def test_what_is_the_trainers_own_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match=f"{name} is the trainer's own; leave it out"):
        trained(tmp_path, gpt2, options={name: None})


def test_there_are_no_rows_before_training(tmp_path):
    trainer, _ = trained(tmp_path, gpt2, watched=False, steps=1)
    with pytest.raises(ValueError, match="no training has begun"):
        watch(trainer).rows  # noqa: B018


def test_loaders_that_draw_otherwise(tmp_path):
    def loader(sampler):
        return torch.utils.data.DataLoader(Texts(), batch_size=3, sampler=sampler)

    class Shuffled(RandomSampler):
        pass

    assert sampling_of_loader(loader(None)) == "epoch"
    assert sampling_of_loader(loader(RandomSampler(Texts(), replacement=True))) == "independent"
    with pytest.warns(UserWarning, match="how DataLoader draws its minibatches is not known"):
        assert sampling_of_loader(loader(Shuffled(Texts()))) == "epoch"


def in_double(make=gpt2):
    return make().double()


def on_rank(rank, port, folder):
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE="2", RANK=str(rank), LOCAL_RANK=str(rank)
    )
    torch.set_num_threads(1)
    found = {}
    for name, watched in (("with", True), ("without", False)):
        trainer, callback = trained(
            f"{folder}/{rank}", in_double, kind=transformers.Trainer, watched=watched, steps=7, ddp_backend="gloo",
            options={"every_n_steps": 3, "num_batches": None},
        )  # fmt: skip
        found[name] = trainer.model.state_dict()
        if callback is not None:
            found["rows"] = timeless(callback).to_dict("records")
            found["log"] = trainer.state.log_history
    torch.save(found, f"{folder}/{rank}.pt")


def test_two_processes_measure_what_one_does(tmp_path):
    """Two with two micro-batches a step have the steps of one process with four."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(on_rank, (port, str(tmp_path)), 2)
    one, two = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    trainer, callback = trained(
        tmp_path / "alone", in_double, kind=transformers.Trainer, steps=7, gradient_accumulation_steps=4,
        options={"every_n_steps": 3, "num_batches": None},
    )  # fmt: skip
    expected = timeless(callback).to_dict("records")
    assert [row["step"] for row in expected] == [3, 7]  # the second epoch begins with step 5
    assert one["rows"] == two["rows"]
    for row, other in zip(one["rows"], expected, strict=True):
        assert row["check/replay"] < 1e-10
        tags = [tag for tag in other if tag != "check/replay"]
        assert {tag: row[tag] for tag in tags} == pytest.approx({tag: other[tag] for tag in tags}, rel=1e-6)
    for found in (one, two):
        assert all(torch.equal(value, found["without"][name]) for name, value in found["with"].items())
    for name, value in trainer.model.state_dict().items():
        torch.testing.assert_close(one["with"][name], value, rtol=1e-8, atol=1e-12)
    assert [entry["ireg/own"] for entry in one["log"] if "ireg/own" in entry]


def test_a_loop_of_accelerate(tmp_path):
    """`Monitor` takes what `accelerator.prepare` returns; the examples of a step are those of all its micro-batches."""
    import accelerate

    torch.manual_seed(0)
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    model = gpt2().double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    loader = torch.utils.data.DataLoader(Texts(), 4, shuffle=True, generator=torch.Generator().manual_seed(3))
    prepared, optimizer, loader = accelerator.prepare(model, optimizer, loader)

    def loss(module, micro_batches):
        return torch.stack([module(**batch).loss for batch in micro_batches]).mean()

    monitor = ireg.Monitor(prepared, optimizer, loss=loss, terms=TAGS)
    held, seen = [], []
    for batch in loader:
        held.append(batch)
        with accelerator.accumulate(prepared):
            accelerator.backward(prepared(**batch).loss)
            optimizer.step()
            optimizer.zero_grad()
        if accelerator.sync_gradients:
            monitor.update(held)
            seen.append(held)
            held = []
    row = monitor.compute()
    gradients = []
    for micro_batches in seen:
        model.zero_grad()
        loss(model, micro_batches).backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
    assert len(seen) == 6
    assert row["check/replay"] <= 1e-12
    assert row["ireg/sgd"] == pytest.approx(reference.sgd(gradients, 0.05), rel=1e-8)
