"""The Lightning callback: what it measures is what trained, and it changes nothing of that."""

import copy
import logging

import lightning
import numpy as np
import pytest
import torch
import torchmetrics
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import ireg
from ireg.core.clipping import Clip
from ireg.lit.callback import ImplicitRegularizationMonitor as Monitor
from ireg.system.errors import UserError
from tests import reference
from tests.reference import timeless

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
pytestmark = pytest.mark.filterwarnings("ignore")

INPUTS = torch.randn(50, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
TARGETS = torch.randint(0, 3, (50,), generator=torch.Generator().manual_seed(1))
TAGS = ["ireg/sgd", "ireg/full_batch", "ireg/minibatch_variance"]


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


class Module(lightning.LightningModule):
    """A module with what people keep on modules: lists of losses, counters, metrics, in-place steps."""

    def __init__(self, layers=(), optimizer=sgd, skip=()):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(5, 4), *copy.deepcopy(list(layers)), nn.Tanh(), nn.Linear(4, 3)).double()
        self.optimizer = optimizer
        self.skip = skip
        self.losses, self.count, self.used = [], 0, []
        self.metric = torchmetrics.MeanMetric()

    def training_step(self, batch, batch_idx):
        inputs, targets = batch
        if batch_idx in self.skip:
            return None
        inputs.add_(1)
        loss = cross_entropy(self.net(inputs), targets)
        self.losses.append(loss)  # with its history
        self.count += 1
        self.metric.update(loss.detach())
        self.log("loss", loss, on_step=False, on_epoch=True)
        self.logger.log_metrics({"step": float(self.count)})
        self.used.append((inputs.clone(), targets.clone()))
        return {"loss": loss, "more": 1}

    def configure_optimizers(self):
        return self.optimizer(self.net.parameters())


def make_trainer(tmp_path, *callbacks, epochs=2, **arguments):
    arguments = {"enable_checkpointing": False, "logger": CSVLogger(tmp_path), **arguments}
    return lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", devices=1, callbacks=list(callbacks), log_every_n_steps=1,
        enable_progress_bar=False, enable_model_summary=False, **arguments,
    )  # fmt: skip


def make_loader(batch_size=8):
    generator = torch.Generator().manual_seed(2)
    return DataLoader(TensorDataset(INPUTS, TARGETS), batch_size, shuffle=True, generator=generator)


def fit(tmp_path, module, *callbacks, batch_size=8, **arguments):
    trainer = make_trainer(tmp_path, *callbacks, **arguments)
    trainer.fit(module, make_loader(batch_size))
    return trainer


def gradients_of(module, windows, divisor=1, training=False):
    """Of sums over windows of micro-batches, over a divisor, by a plain loop."""
    found = []
    for window in windows:
        twin = copy.deepcopy(module.net).train(training)
        (sum(cross_entropy(twin(inputs), targets) for inputs, targets in window) / divisor).backward()
        found.append({name: parameter.grad.clone() for name, parameter in twin.named_parameters()})
    return found


def expected(gradients, lr=0.1):
    functions = (reference.sgd, reference.full_batch, reference.minibatch_variance)
    values = {tag: function(gradients, lr) for tag, function in zip(TAGS, functions, strict=True)}
    return pytest.approx(values, rel=1e-8, abs=0)


def values(monitor, row=-1):
    row = {tag.replace(monitor.prefix, "ireg/"): value for tag, value in monitor.rows.iloc[row].items()}
    return {tag: row[tag] for tag in TAGS}


def last_epoch(module, count=7):
    """Each minibatch as a window."""
    return [[pair] for pair in module.used[-count:]]


def test_the_terms_of_the_minibatches_used(tmp_path):
    module, monitor = Module(), Monitor(TAGS)
    fit(tmp_path, module, monitor)
    assert monitor.rows["epoch"].tolist() == [1, 2]
    assert [len(inputs) for inputs, _ in module.used[-7:]] == [8] * 6 + [2]
    assert values(monitor) == expected(gradients_of(module, last_epoch(module)))


@pytest.mark.parametrize("layers", [[], [nn.BatchNorm1d(4), nn.Dropout(0.2)]], ids=["plain", "statistics"])
def test_nothing_of_the_training_is_changed(tmp_path, layers):
    def run(*callbacks):
        module = Module(layers, lambda parameters: torch.optim.Adam(parameters, lr=0.05))
        trainer = fit(tmp_path, module, *callbacks)
        return module, trainer, torch.rand(())

    (plain, before, stream), (watched, after, other) = run(), run(Monitor())
    for name, value in plain.state_dict().items():
        assert torch.equal(value, watched.state_dict()[name])
    assert stream == other
    assert watched.count == plain.count == 14
    assert [float(loss) for loss in watched.losses] == [float(loss) for loss in plain.losses]
    assert all(loss.grad_fn is not None for loss in watched.losses)
    assert watched.metric.compute() == plain.metric.compute()
    assert after.callback_metrics["loss"] == before.callback_metrics["loss"]
    assert type(watched) is Module


def test_the_rows_are_seen_by_loggers_and_checkpoints(tmp_path):
    monitor = Monitor()
    best = ModelCheckpoint(tmp_path / "best", monitor="ireg/sgd", filename="{epoch}")
    fit(tmp_path, Module(), monitor, best, epochs=3, enable_checkpointing=True)
    lowest = int(monitor.rows["ireg/sgd"].idxmin())
    assert best.best_model_path.endswith(f"epoch={lowest}.ckpt")
    assert float(best.best_model_score) == pytest.approx(monitor.rows["ireg/sgd"].min(), rel=1e-6)
    assert "ireg/own" in (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").read_text()


def test_rates_are_read_before_schedulers(tmp_path):
    class Scheduled(Module):
        def configure_optimizers(self):
            optimizer = sgd(self.net.parameters())
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.1)]

    module, monitor = Scheduled(), Monitor(TAGS)
    fit(tmp_path, module, monitor)
    assert values(monitor) == expected(gradients_of(module, last_epoch(module)), lr=0.01)


def test_accumulation_with_an_incomplete_last_window(tmp_path):
    module, monitor = Module(), Monitor(TAGS)
    fit(tmp_path, module, monitor, accumulate_grad_batches=3)
    used = module.used[-7:]
    assert values(monitor) == expected(gradients_of(module, [used[:3], used[3:6], used[6:]], divisor=3))


@pytest.mark.parametrize(
    ("arguments", "skip", "windows"),
    [
        ({}, (), 7),
        ({"accumulate_grad_batches": 2}, (), 4),
        ({}, (1, 4), 5),
        ({"accumulate_grad_batches": 2}, (2, 3), 3),
    ],
    ids=["plain", "accumulation", "steps without a minibatch", "a window without any"],
)
def test_some_of_the_minibatches(tmp_path, arguments, skip, windows):
    class Keeping(Monitor):
        def on_train_epoch_end(self, trainer, pl_module):
            self.kept, self.population = list(self._steps.window.sample.items), len(self._steps.window)
            super().on_train_epoch_end(trainer, pl_module)

    module, monitor = Module(skip=skip), Keeping(TAGS, num_batches=3, prefix="some/")
    fit(tmp_path, module, monitor, **arguments)
    assert (len(monitor.kept), monitor.population) == (3, windows)
    divisor = arguments.get("accumulate_grad_batches", 1)
    kept = [[(inputs + 1, targets) for (inputs, targets), _ in window.batches] for window in monitor.kept]
    gradients = gradients_of(module, kept, divisor)
    row, population = monitor.rows.iloc[-1], windows
    square = reference.squared_norm(reference.mean(gradients))
    variance = (np.mean([reference.squared_norm(gradient) for gradient in gradients]) - square) * 3 / 2
    assert row["some/sgd"] == pytest.approx(reference.sgd(gradients, 0.1), rel=1e-8)
    corrected = 0.025 * (square - (1 / 3 - 1 / population) * variance)
    assert row["some/full_batch"] == pytest.approx(corrected, rel=1e-8)
    assert (row["some/sgd_se"] > 0) == (population > 3)
    if population == 3:
        assert row["some/sgd_se"] == 0


def test_steps_without_a_minibatch(tmp_path):
    module, monitor = Module(skip=(2, 6)), Monitor(TAGS)
    fit(tmp_path, module, monitor)
    assert values(monitor) == expected(gradients_of(module, last_epoch(module, 5)))


def test_a_loss_of_ones_own_and_batch_statistics(tmp_path):
    def loss(module, batch):
        return cross_entropy(module.net(batch[0] + 1), batch[1])

    module, mine, own_step = Module([nn.BatchNorm1d(4)]), Monitor(TAGS, loss=loss), Monitor(TAGS, prefix="step/")
    fit(tmp_path, module, mine, own_step, batch_size=10)
    assert values(mine) == expected(gradients_of(module, last_epoch(module, 5), training=True))
    assert values(mine) == values(own_step)
    module, plain = Module([nn.BatchNorm1d(4)]), Monitor(TAGS, mode="eval")
    fit(tmp_path, module, plain, batch_size=10)
    assert values(plain) == expected(gradients_of(module, last_epoch(module, 5)))


@pytest.mark.parametrize(("algorithm", "bound"), [("norm", 1e-3), ("value", 1e-4), ("norm", 1e3)])
def test_clipping_is_counted(tmp_path, algorithm, bound):
    monitor = Monitor(TAGS)
    fit(tmp_path, Module(), monitor, gradient_clip_val=bound, gradient_clip_algorithm=algorithm)
    assert monitor.rows["ireg/clipped"].tolist() == [float(bound < 1)] * 2


@pytest.mark.parametrize(("algorithm", "clip"), [("norm", Clip(1e-3)), ("value", Clip(1e-4, "value"))])
def test_clipping_is_in_the_regularizer_of_full_batches(tmp_path, algorithm, clip):
    monitor = Monitor(["ireg/own_full_batch", "ireg/own"])
    module = Module()
    fit(tmp_path, module, monitor, gradient_clip_val=clip.bound, gradient_clip_algorithm=algorithm)
    gradients = gradients_of(module, last_epoch(module))
    mean = {name: torch.stack([gradient[name] for gradient in gradients]).mean(0) for name in gradients[0]}
    entries = torch.cat([value.flatten() for value in mean.values()]).double()
    sizes = entries.norm() if algorithm == "norm" else entries.abs()
    potential = torch.where(sizes <= clip.bound, sizes**2 / 2, clip.bound * (sizes - clip.bound / 2)).sum()
    assert monitor.rows["ireg/own_full_batch"].iloc[-1] == pytest.approx(0.1 / 2 * float(potential), rel=1e-4)
    assert "ireg/own" not in monitor.rows


def test_every_n_epochs_and_the_last_with_another_prefix(tmp_path):
    monitor = Monitor(["ireg/sgd", "norm/l2"], every_n_epochs=2, prefix="reg/")
    fit(tmp_path, Module(), monitor, epochs=5)
    assert monitor.rows["epoch"].tolist() == [2, 4, 5]
    assert monitor.rows.columns.tolist() == ["epoch", "step", "reg/sgd", "norm/l2", "check/replay", "time/terms"]


def test_minibatches_kept_on_another_device(tmp_path):
    here, there = Monitor(TAGS), Monitor(TAGS, prefix="b/", cache_device=torch.device("cpu"))
    fit(tmp_path, Module(), here, there)
    assert values(here) == values(there)


def test_it_resumes_with_the_trainers_checkpoints(tmp_path):
    tags = ["norm/distance", "ireg/sgd"]
    through, first, second = Monitor(tags), Monitor(tags), Monitor(tags)
    fit(tmp_path, Module(), through, epochs=4)
    trainer = fit(tmp_path, Module(), first)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    loader = make_loader()
    for _ in range(2):  # a loader's own stream is not in the checkpoint
        list(loader)
    make_trainer(tmp_path, second, epochs=4).fit(Module(), loader, ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert timeless(second).equals(timeless(through))


class Manual(Module):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False


class Iterating(Module):
    def training_step(self, dataloader_iter):
        raise AssertionError("refused before")


class Uncopied(Module):
    def __init__(self):
        super().__init__()
        self.held = iter(np.arange(3) for _ in range(2))


@pytest.mark.parametrize(
    ("module", "arguments", "match"),
    [
        (Manual, {}, "automatic_optimization=False"),
        (Iterating, {}, "training_step takes the iterator"),
        (lambda: Module(optimizer=torch.optim.LBFGS), {}, "LBFGS evaluates the loss several times"),
        (Module, {"precision": "16-true"}, "precision=16-true"),
        (Uncopied, {}, "Uncopied cannot be copied: cannot pickle 'generator' object"),
    ],
)
def test_refusals(tmp_path, module, arguments, match):
    with pytest.raises(UserError, match=f"ImplicitRegularizationMonitor: {match}") as error:
        fit(tmp_path, module(), Monitor(), **arguments)
    assert "\n" not in str(error.value)


def test_strategies_that_shard_the_weights_are_refused(tmp_path):
    trainer = lightning.Trainer(accelerator="cpu", devices=1, logger=False)
    trainer.strategy.__class__ = type("ShardingStrategy", (type(trainer.strategy),), {})
    Monitor().setup(trainer, Module(), "fit")  # a kind of one device
    trainer = lightning.Trainer(accelerator="cpu", devices=2, strategy="ddp_spawn", logger=False)
    Monitor().setup(trainer, Module(), "fit")
    trainer.strategy.__class__ = type("ShardingStrategy", (type(trainer.strategy),), {})
    with pytest.raises(UserError, match="strategy=ShardingStrategy: spreads the weights as no method here"):
        Monitor().setup(trainer, Module(), "fit")
    Monitor().setup(trainer, Module(), "validate")
    trainer = make_trainer(tmp_path)
    with pytest.raises(UserError, match="0 optimizers: nothing moves"):
        Monitor().on_train_start(trainer, Module())


def test_too_much_memory_is_one_line_with_the_remedies(tmp_path):
    match = (
        r"minibatches up to the 2. of the epoch take 0.0 MiB, more than max_cache=0.0 MiB; raise max_cache, "
        r".*cache_device='cpu'.*num_batches \(at least 3\).*limit_train_batches"
    )
    with pytest.raises(UserError, match=match):
        fit(tmp_path, Module(), Monitor(max_cache=500))
    fit(tmp_path, Module(), Monitor(max_cache="1MiB"))
    # What the reservoir throws out again takes no memory: three minibatches of 8 examples with 48 bytes each.
    fit(tmp_path, Module(), Monitor(max_cache=4 * 8 * 48, num_batches=3))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"num_batches": 2}, "num_batches=2: must be at least 3"),
        ({"num_batches": 9, "terms": "theory"}, "ireg/strength has no estimate from drawn minibatches"),
        ({"every_n_epochs": 0}, "every_n_epochs=0: must be at least 1"),
        ({"mode": "train"}, "mode='train'"),
        ({"max_cache": "1 TB"}, "max_cache='1 TB': must be a number of bytes, or like"),
        ({"terms": "sdg"}, "'sdg' is unknown"),
    ],
)
def test_wrong_arguments(arguments, match):
    with pytest.raises(ValueError, match=match):
        Monitor(**arguments)


def test_the_public_name():
    assert ireg.ImplicitRegularizationMonitor is Monitor
