"""Training by steps: rows, rates, averages, and how it resumes."""

import csv

import pytest
import torch
from torch.nn.functional import cross_entropy

import ireg
from ireg.config.read import read
from ireg.data.batches import IndependentBatches, ShuffledBatches
from ireg.experiment.build import make_classifier, make_data, make_model
from ireg.system.errors import UserError
from tests.conftest import SMALL

STEPS = ("max_steps=14", "terms.every_n_steps=7")
SCHEDULE = ("schedule=cosine", "schedule.warmup=3", "schedule.final=0.1")
EMA = ("weight_average=ema", "weight_average.decay=0.6")


def rows(folder):
    with (folder / "metrics.csv").open() as file:
        return [{tag: float(value) for tag, value in row.items() if value} for row in csv.DictReader(file)]


def untimed(row):
    return {tag: value for tag, value in row.items() if not tag.startswith("time/")}


def state(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def weights(folder):
    return {name: value for name, value in state(folder)["state_dict"].items() if name.startswith("model.")}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


DATA = torch.arange(20.0)[:, None], torch.arange(20)


@pytest.mark.parametrize("kind", [ShuffledBatches, IndependentBatches])
def test_windows_are_parts_of_one_stream(kind):
    whole = [batch.tolist() for epoch in range(5) for batch in kind(*DATA, batch_size=6, seed=1).indices(epoch)]
    for steps in (1, 3, 4, 5, 9):
        loader = kind(*DATA, batch_size=6, seed=1, steps=steps)
        assert len(loader) == steps
        windows = [[batch.tolist() for batch in loader.indices(epoch)] for epoch in range(2)]
        assert [len(window) for window in windows] == [steps, steps]
        assert [*windows[0], *windows[1]] == whole[: 2 * steps]
        loader.set_epoch(1)
        assert [indices.tolist() for _, _, indices in loader] == windows[1]


def test_windows_of_a_pass_are_epochs(tmp_path, small_run):
    small_run(tmp_path / "epochs")
    small_run(tmp_path / "steps", *STEPS)
    by_steps = rows(tmp_path / "steps")
    assert [row.pop("train/step") for row in by_steps] == [0, 7, 14]
    assert list(map(untimed, by_steps)) == list(map(untimed, rows(tmp_path / "epochs")))
    assert same(weights(tmp_path / "epochs"), weights(tmp_path / "steps"))


def test_how_often_there_is_a_row_changes_nothing(tmp_path, small_run):
    arguments = (*SCHEDULE, *EMA, "optimizer=adam", "max_steps=12")
    small_run(tmp_path / "often", *arguments, "terms.every_n_steps=3")
    small_run(tmp_path / "seldom", *arguments, "terms.every_n_steps=6", "terms=[l2]")
    assert [row["train/step"] for row in rows(tmp_path / "often")] == [0, 3, 6, 9, 12]
    assert same(state(tmp_path / "often")["state_dict"], state(tmp_path / "seldom")["state_dict"])


def by_hand(composed, *overrides, steps=14, decay=0.6):
    """Train by a loop of one's own; return network, data, minibatches, rates, and the average of the weights."""
    settings = read(composed(*SMALL, *overrides))
    torch.manual_seed(0)
    data = make_data(settings)
    model = make_model(settings, data)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    rates = [0.1 / 3, 0.2 / 3, 0.1]
    shares = torch.arange(11, dtype=torch.float64) / 11
    rates += (0.1 * (0.1 + 0.9 * (1 + torch.cos(torch.pi * shares)) / 2)).tolist()
    passes = ShuffledBatches(data.train_inputs, data.train_labels.observed, batch_size=32, seed=0)
    minibatches = [indices for epoch in range(2) for indices in passes.indices(epoch)]
    average = None
    for indices, rate in zip(minibatches[:steps], rates, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        cross_entropy(model(data.train_inputs[indices]), data.train_labels.observed[indices]).backward()
        optimizer.step()
        now = [parameter.detach().clone() for parameter in model.parameters()]
        average = now if average is None else [decay * a + (1 - decay) * b for a, b in zip(average, now, strict=True)]
    return model, data, minibatches, rates, average


def test_rates_of_the_steps_are_those_of_a_hand_written_loop(tmp_path, small_run, composed):
    small_run(tmp_path, *STEPS, *SCHEDULE, "lr=0.1", "terms=[sgd,own,minibatch_variance]")
    model, data, minibatches, rates, _ = by_hand(composed)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(weights(tmp_path)[f"model.{name}"], value, rtol=1e-5, atol=1e-6)
    found = rows(tmp_path)
    assert [row["schedule/lr"] for row in found] == pytest.approx([rates[0], rates[6], rates[13]], rel=1e-12)
    model.load_state_dict({name.removeprefix("model."): value for name, value in weights(tmp_path).items()})
    batches = [(data.train_inputs[chosen], data.train_labels.observed[chosen]) for chosen in minibatches[7:]]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def measured(used):
        terms = ["sgd", "own", "minibatch_variance"]
        return ireg.measure(
            model,
            batches,
            optimizer=optimizer,
            criterion=cross_entropy,
            terms=terms,
            rates=[[rate] for rate in used],
        )

    for tag, value in measured(rates[7:]).items():
        assert found[2][tag] == pytest.approx(value, rel=1e-5)
        assert found[2][tag] != pytest.approx(measured(7 * [0.1])[tag], rel=1e-2)


def test_terms_before_training_have_the_rates_to_come(tmp_path, small_run):
    """With S = Σ η_t² and T = Σ η_t: S/(4T) ‖ḡ‖² and (T² − S)/(4(m − 1)T) · (1/m) Σ ‖g_k − ḡ‖²."""
    terms = "terms=[full_batch,minibatch_variance]"
    small_run(tmp_path / "with", *STEPS, *SCHEDULE, "lr=0.1", terms)
    small_run(tmp_path / "without", *STEPS, "lr=0.1", terms)
    first, plain = (rows(tmp_path / name)[0] for name in ("with", "without"))
    shares = torch.arange(4, dtype=torch.float64) / 11
    rates = torch.tensor([1 / 3, 2 / 3, 1, *(0.1 + 0.9 * (1 + torch.cos(torch.pi * shares)) / 2)]).double()
    squares, total = rates.square().sum().item(), rates.sum().item()
    assert first["ireg/full_batch"] / plain["ireg/full_batch"] == pytest.approx(squares / total, rel=1e-6)
    variance = first["ireg/minibatch_variance"] / plain["ireg/minibatch_variance"]
    assert variance == pytest.approx((total**2 - squares) / (6 * total), rel=1e-6)


def test_the_average_of_the_weights_is_that_of_a_hand_written_loop(tmp_path, small_run, composed):
    small_run(tmp_path / "with", *STEPS, *SCHEDULE, *EMA, "lr=0.1")
    small_run(tmp_path / "without", *STEPS, *SCHEDULE, "lr=0.1")
    assert same(weights(tmp_path / "with"), weights(tmp_path / "without"))
    model, data, _, _, average = by_hand(composed)
    kept = state(tmp_path / "with")["state_dict"]
    for (name, parameter), value in zip(model.named_parameters(), average, strict=True):
        torch.testing.assert_close(kept[f"average.averaged.module.{name}"], value, rtol=1e-5, atol=1e-6)
        parameter.data.copy_(value)
    first, _, last = rows(tmp_path / "with")
    logits = model(data.test_inputs)
    labels = data.test_labels.observed
    assert last["test/loss_ema"] == pytest.approx(cross_entropy(logits, labels).item(), rel=1e-5)
    assert last["test/error_ema"] == pytest.approx((logits.argmax(1) != labels).double().mean().item(), abs=1e-9)
    assert last["test/loss_ema"] != last["test/loss"]
    assert first["test/loss_ema"] == first["test/loss"]
    for row, plain in zip(rows(tmp_path / "with"), rows(tmp_path / "without"), strict=True):
        assert untimed(plain).items() <= row.items()  # the terms are of the weights themselves


def test_without_them_a_run_has_no_such_columns_and_no_such_state(tmp_path, small_run):
    small_run(tmp_path, "terms=[]")
    assert not any("ema" in name for name in state(tmp_path)["state_dict"])
    assert not {"train/step", "schedule/lr", "test/loss_ema"} & rows(tmp_path)[2].keys()
    assert state(tmp_path)["lr_schedulers"] == []


def test_decay_groups_reach_the_optimizer_and_the_terms(composed):
    settings = read(composed(*SMALL, "optimizer=adamw", "+optimizer.decay_groups=true", "optimizer.weight_decay=0.5"))
    model = make_model(settings, make_data(settings))
    made = make_classifier(settings, model).make_optimizer(model.parameters())
    assert [group["weight_decay"] for group in made.param_groups] == [0.5, 0.0]
    assert [value.ndim for group in made.param_groups for value in group["params"]] == [2, 2, 1, 1]
    assert made.defaults["fused"]  # with its kernel


def test_decay_groups_need_a_decay(composed):
    settings = read(composed(*SMALL, "optimizer=switch", "+optimizer.decay_groups=true"))
    with pytest.raises(UserError, match="^optimizer.decay_groups=True: optimizer=switch takes no weight_decay; use"):
        make_classifier(settings, make_model(settings, make_data(settings)))


@pytest.mark.parametrize("further", [SCHEDULE, ("optimizer=adamw", "+optimizer.decay_groups=true")])
def test_terms_that_need_one_rate_are_of_full_batches(tmp_path, small_run, caplog, further):
    settings = ("optimizer=adamw", "optimizer.betas=[0.5,0.5]", "optimizer.weight_decay=0.5", "terms=theory")
    small_run(tmp_path, *STEPS, *settings, *further)
    assert caplog.text.count("the mean flow is known for one rate and one weight decay") == 1
    assert rows(tmp_path)[-1]["ireg/strength/full_batch"] > 0


@pytest.mark.parametrize("name", ["full", "momentum"])
def test_a_penalty_of_an_epoch_needs_epochs(composed, name):
    settings = read(composed(*SMALL, *STEPS, f"regularizer={name}", "regularizer.strength=0.1"))
    with pytest.raises(UserError, match="^max_steps=14: .* is a penalty of all minibatches of an epoch, .*=null"):
        make_classifier(settings, make_model(settings, make_data(settings)))


def test_tensorboard_has_the_steps_on_its_axis(tmp_path, small_run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    small_run(tmp_path, *STEPS, "logger.histograms=true")
    for folder, read_from in ((tmp_path, "tensors"), (tmp_path / "histograms", "histograms")):
        events = EventAccumulator(str(folder), {"tensors": 0, "histograms": 0})  # all of them
        events.Reload()
        tag = "test/error" if read_from == "tensors" else "weights/1.weight"
        found = events.Tensors(tag) if read_from == "tensors" else events.Histograms(tag)
        assert [event.step for event in found] == [0, 7, 14]
