"""The callback and `ireg.Monitor` by optimizer steps: when there is a row, of which minibatches, and in what memory."""

import itertools
import logging
from types import SimpleNamespace

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import ireg
from ireg.lit.callback import ImplicitRegularizationMonitor as Callback
from ireg.lit.step_loss import training_step
from ireg.lit.twin import _passes_to
from ireg.system.errors import UserError
from ireg.window import Cadence
from tests import reference
from tests.reference import timeless

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
pytestmark = pytest.mark.filterwarnings("ignore")

INPUTS = torch.randn(48, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
TARGETS = torch.randint(0, 3, (48,), generator=torch.Generator().manual_seed(1))
TAGS = ["ireg/sgd", "ireg/full_batch", "ireg/own", "norm/l2"]


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()


class Module(lightning.LightningModule):
    def __init__(self, scheduled=False):
        super().__init__()
        self.net = network()
        self.scheduled = scheduled
        self.used = []

    def forward(self, inputs):
        return self.net(inputs)

    def training_step(self, batch, batch_idx):
        inputs, targets = batch
        self.used.append((inputs.clone(), targets.clone()))
        return cross_entropy(self.net(inputs), targets)

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.net.parameters(), lr=0.1, momentum=0.5)
        if not self.scheduled:
            return optimizer
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class Stream(IterableDataset):
    """Minibatches without end, each a draw of its own."""

    sampling = "independent"

    def __iter__(self):
        generator = torch.Generator().manual_seed(3)
        while True:
            index = torch.randint(48, (4,), generator=generator)
            yield INPUTS[index], TARGETS[index]


class Unknown(Stream):
    sampling = None


def shuffled():
    return DataLoader(
        TensorDataset(INPUTS, TARGETS), 4, shuffle=True, generator=torch.Generator().manual_seed(2)
    )  # 12 steps an epoch


def fit(tmp_path, monitor, loader=None, *, module=None, ckpt_path=None, validation=None, **arguments):
    module = Module() if module is None else module
    trainer = lightning.Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=isinstance(monitor, list),
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=monitor if isinstance(monitor, list) else [monitor],
        **arguments,
    )
    trainer.fit(module, shuffled() if loader is None else loader, validation, ckpt_path=ckpt_path, weights_only=True)
    return module, trainer


def sampled_sgd(module, batches, lr=0.1):
    return reference.sgd(reference.minibatch_gradients(module.net, cross_entropy, batches), lr)


def test_rows_come_every_n_steps_and_at_the_end(tmp_path):
    monitor = Callback(TAGS, every_n_steps=5, criterion=cross_entropy)
    module, _ = fit(tmp_path, monitor, max_epochs=2)
    rows = monitor.rows
    # Epochs have 12 steps: the windows of steps 15 and 25 begin with theirs.
    assert rows["step"].tolist() == [5, 10, 15, 20, 24]
    assert rows["epoch"].tolist() == pytest.approx([5 / 12, 10 / 12, 1.25, 20 / 12, 2])
    assert (rows["time/terms"] > 0).all()
    assert rows["ireg/sgd"].iloc[-1] == pytest.approx(sampled_sgd(module, module.used[20:24]), rel=1e-8)
    assert (rows["ireg/sgd_se"] > 0).all()  # 3 to 5 of an epoch's 12
    assert "check/share" not in rows
    assert rows["check/replay"].tolist() == [0] * 5


def test_a_window_is_a_sample_of_the_epoch(tmp_path):
    class Kept(Callback):
        def _measure(self, trainer, pl_module):
            self.windows = [*getattr(self, "windows", []), list(self._steps.window.sample.items)]
            self.weights = [*getattr(self, "weights", []), {k: v.clone() for k, v in pl_module.state_dict().items()}]
            super()._measure(trainer, pl_module)

    monitor = Kept(TAGS, every_n_steps=6, num_batches=4, criterion=cross_entropy)
    module, _ = fit(tmp_path, monitor, max_epochs=1)
    assert [len(items) for items in monitor.windows] == [4, 4]
    for row, items, weights in zip(monitor.rows.to_dict("records"), monitor.windows, monitor.weights, strict=True):
        module.load_state_dict(weights)
        batches = [batch for step in items for batch, _ in step.batches]
        optimizer = torch.optim.SGD(module.net.parameters(), lr=0.1, momentum=0.5)
        expected = ireg.measure(
            module.net, batches, optimizer=optimizer, criterion=cross_entropy, terms=TAGS, population=12
        )
        assert {tag: row[tag] for tag in expected} == pytest.approx(expected, rel=1e-9)


def test_a_window_as_long_as_the_epoch_is_the_epoch(tmp_path):
    by_steps, by_epochs = Callback("theory", every_n_steps=24), Callback("theory", every_n_epochs=2)
    for monitor in (by_steps, by_epochs):
        fit(tmp_path, monitor, max_epochs=4)
    tags = [tag for tag in timeless(by_epochs) if tag not in ("epoch", "step")]
    assert by_steps.rows["step"].tolist() == [24, 48]
    assert by_steps.rows[tags].to_numpy() == pytest.approx(by_epochs.rows[tags].to_numpy(), rel=1e-12)


@pytest.mark.parametrize("loader", [Stream, Unknown])
def test_a_stream_without_length(tmp_path, loader):
    monitor = Callback(TAGS, every_n_steps=7, num_batches=3)
    stream = DataLoader(loader(), batch_size=None)
    if loader is Stream:
        stream.sampling = "independent"
        fit(tmp_path, monitor, stream, max_steps=24)
    else:
        with pytest.warns(UserWarning, match=r"not known: the terms are those of sampling='independent', of a stream"):
            fit(tmp_path, monitor, stream, max_steps=24)
    assert monitor.rows["step"].tolist() == [7, 14, 21, 24]
    assert monitor.rows["epoch"].tolist() == [0, 0, 0, 0]  # the endless one is the first
    assert "ireg/own" in monitor.rows
    assert monitor._asked.drawing == "independent"


def test_independent_windows_reach_over_the_end_of_an_epoch(tmp_path):
    sampler = torch.utils.data.RandomSampler(range(48), replacement=True, num_samples=48)
    loader = DataLoader(TensorDataset(INPUTS, TARGETS), 4, sampler=sampler)
    monitor = Callback(["ireg/sgd"], every_n_steps=10, criterion=cross_entropy)
    module, _ = fit(tmp_path, monitor, loader, max_epochs=2)
    assert monitor.rows["step"].tolist() == [10, 20, 24]
    longer = Callback(["ireg/sgd"], every_n_steps=20, criterion=cross_entropy)
    module, _ = fit(tmp_path, longer, loader, max_steps=20, max_epochs=2)
    assert longer.rows["ireg/sgd"].tolist() == [pytest.approx(sampled_sgd(module, module.used), rel=1e-8)]


def test_a_training_that_resumes_in_the_middle_has_rows_at_the_same_steps(tmp_path):
    through, second = (Callback(TAGS, every_n_steps=5) for _ in range(2))
    keeping = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=7, save_top_k=-1)
    fit(tmp_path, [through, keeping], max_steps=20, max_epochs=2)
    fit(tmp_path, second, max_steps=20, max_epochs=2, ckpt_path=tmp_path / "step=7.ckpt")
    assert second.rows["step"].tolist() == [5, 10, 15, 20]
    nan = float("nan")
    assert second.rows["check/share"].tolist() == pytest.approx([nan, 3 / 5, nan, nan], nan_ok=True)
    assert through.rows["step"].tolist() == [5, 10, 15, 20]


def test_a_window_that_is_too_small_waits(tmp_path):
    monitor = Callback(["ireg/sgd"], every_n_steps=13)  # the first of the second epoch
    fit(tmp_path, monitor, max_epochs=2)
    assert monitor.rows["step"].tolist() == [15, 24]


def test_rates_that_change_within_a_window(tmp_path):
    """Two windows of six steps have the coefficients of an epoch of twelve with such rates."""
    monitor = Callback(["ireg/full_batch", "ireg/minibatch_variance"], every_n_steps=6, criterion=cross_entropy)
    module, _ = fit(tmp_path, monitor, module=Module(scheduled=True), max_epochs=1)
    gradients = reference.minibatch_gradients(module.net, cross_entropy, module.used[6:])
    rates = [0.1 * 0.9**step for step in range(6, 12)] * 2
    total, squares = sum(rates), sum(rate * rate for rate in rates)
    sample = reference.minibatch_variance(gradients, 4.0) * 6 / 5  # s²
    mean = reference.squared_norm(reference.mean(gradients)) - (1 / 6 - 1 / 12) * sample
    expected = [squares / (4 * total) * mean, (total**2 - squares) / (4 * 11 * total) * sample * 11 / 12]
    assert monitor.rows.iloc[-1][["ireg/full_batch", "ireg/minibatch_variance"]].tolist() == pytest.approx(
        expected, rel=1e-8
    )


def test_early_stopping_within_an_epoch_sees_the_terms(tmp_path):
    monitor = Callback(["ireg/sgd"], every_n_steps=3)
    stopping = EarlyStopping("ireg/sgd", patience=1, mode="max", min_delta=10.0)
    validation = DataLoader(TensorDataset(INPUTS, TARGETS), 48)
    _, trainer = fit(tmp_path, [monitor, stopping], validation=validation, val_check_interval=3, max_epochs=2)
    assert trainer.global_step == 6
    assert monitor.rows["step"].tolist() == [3, 6]


def test_training_is_as_without(tmp_path):
    ends = []
    for monitor in ([], [Callback("default", every_n_steps=4, num_batches=3)]):
        module, _ = fit(tmp_path, monitor, max_epochs=2)
        ends.append(module.state_dict())
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


def test_the_memory_is_that_of_the_sample(tmp_path):
    size = 4 * 5 * 8 + 4 * 8  # of a minibatch
    fit(tmp_path, Callback(TAGS, every_n_steps=12, num_batches=3, max_cache=5 * size), max_epochs=1)
    with pytest.raises(UserError, match=r"max_cache=0\.0 MiB; .* num_batches \(at least 3\), or more often by every_n"):
        fit(tmp_path, Callback(TAGS, every_n_steps=12, max_cache=5 * size), max_epochs=1)
    fit(tmp_path, Callback(TAGS, every_n_steps=4, max_cache=5 * size), max_epochs=1)


@pytest.mark.parametrize(
    ("options", "arguments", "match"),
    [
        ({"sampling": "epoch"}, {"loader": DataLoader(Stream(), batch_size=None)}, "has no length, so that no epoch"),
        ({"terms": "theory"}, {}, "ireg/strength has no estimate from drawn minibatches"),
        ({"criterion": cross_entropy, "regularizer": ireg.regularizers.Minibatch(strength=1.0)}, {}, "a regularizer"),
    ],
)
def test_what_has_no_windows_is_refused(tmp_path, options, arguments, match):
    with pytest.raises(UserError, match=match) as error:
        fit(tmp_path, Callback(every_n_steps=5, **options), max_steps=12, **arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"every_n_steps": 0}, "every_n_steps=0: must be at least 1"),
        ({"every_n_steps": 5, "max_cost": 0.0}, "max_cost=0.0: must be above 0, a share"),
        ({"every_n_steps": 5, "every_n_epochs": 2}, "every_n_epochs=2 and every_n_steps=5: rows are of epochs or"),
    ],
)
def test_wrong_steps_are_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        Callback(**arguments)


# The monitor of a loop of one's own.


def watched(steps, *, seen=INPUTS, **options):
    """Train over epochs of 12 minibatches, and return the monitor and what `update` returned."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
    monitor = ireg.Monitor(model, optimizer, criterion=cross_entropy, terms=TAGS, **options)
    returned = []
    for step in range(steps):
        epoch, place = divmod(step, 12)
        order = torch.randperm(48, generator=torch.Generator().manual_seed(epoch))
        index = order[4 * place : 4 * place + 4]
        optimizer.zero_grad()
        cross_entropy(model(INPUTS[index]), TARGETS[index]).backward()
        optimizer.step()
        returned.append(monitor.update((INPUTS[index], TARGETS[index])))
    return model, monitor, returned


def test_update_returns_the_row_that_is_due():
    _, monitor, returned = watched(24, every_n_steps=5, population=12)
    assert [step for step, row in enumerate(returned, 1) if row is not None] == [5, 10, 15, 20]
    rows = monitor.rows.to_dict("records")
    assert [row for row in returned if row is not None] == rows
    assert [row["epoch"] for row in rows] == pytest.approx([5 / 12, 10 / 12, 15 / 12, 20 / 12])
    assert list(rows[0])[:2] == ["step", "epoch"]


def test_the_monitor_and_the_callback_agree(tmp_path):
    monitor = Callback(TAGS, every_n_steps=5, criterion=cross_entropy)
    order = torch.randperm(48, generator=torch.Generator().manual_seed(0))
    loader = DataLoader(TensorDataset(INPUTS[order], TARGETS[order]), 4)
    fit(tmp_path, monitor, loader, max_epochs=1)
    _, other, _ = watched(10, every_n_steps=5, population=12)
    tags = [*TAGS, "ireg/sgd_se", "ireg/own_se", "step", "epoch"]
    assert monitor.rows[tags].to_numpy()[:2] == pytest.approx(other.rows[tags].to_numpy(), rel=1e-9)


def test_short_and_long_windows_agree_within_their_errors():
    """At small rates windows of 3 and of 12 steps see the same loss; taken for epochs, short ones are far off."""
    means, errors, naive = {}, {}, {}
    for every in (3, 12):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9)
        given = {"criterion": cross_entropy, "terms": ["ireg/own"]}
        sampled, whole = (
            ireg.Monitor(model, optimizer, **given, every_n_steps=every, population=12),
            ireg.Monitor(model, optimizer, **given),
        )
        found = []
        for epoch in range(40):
            order = torch.randperm(48, generator=torch.Generator().manual_seed(epoch))
            for step, index in enumerate(order.split(4), 1):
                optimizer.zero_grad()
                cross_entropy(model(INPUTS[index]), TARGETS[index]).backward()
                optimizer.step()
                sampled.update((INPUTS[index], TARGETS[index]))
                whole.update((INPUTS[index], TARGETS[index]))
                if step % every == 0:
                    found.append(whole.compute()["ireg/own"])
                    whole.reset()
        values = sampled.rows["ireg/own"]
        means[every], errors[every] = values.mean(), values.std() / len(values) ** 0.5
        naive[every] = sum(found) / len(found)
    assert abs(means[3] - means[12]) < 3 * (errors[3] ** 2 + errors[12] ** 2) ** 0.5
    assert naive[12] == pytest.approx(means[12], rel=1e-9)
    assert naive[3] - naive[12] > 10 * errors[3]


def test_independent_windows_need_no_population():
    _, monitor, returned = watched(20, every_n_steps=8, sampling="independent")
    assert [step for step, row in enumerate(returned, 1) if row is not None] == [8, 16]
    assert "epoch" not in monitor.rows


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"every_n_steps": 5}, "every_n_steps=5: a window has some of an epoch's minibatches, .* population=len"),
        ({"every_n_steps": 5, "population": 0}, "population=0: must be at least 1"),
        ({"population": 9, "sampling": "independent"}, "population=9: independent minibatches are drawn from no"),
        ({"population": 9, "terms": "theory"}, "ireg/strength has no estimate from drawn minibatches"),
        ({"population": 9, "regularizer": ireg.regularizers.Minibatch(strength=1.0)}, "a regularizer is measured"),
    ],
)
def test_a_monitor_refuses_windows_without_meaning(arguments, match):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=match) as error:
        ireg.Monitor(model, optimizer, criterion=cross_entropy, **arguments)
    assert "\n" not in str(error.value)


def test_a_penalty_in_windows_of_whole_epochs():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    penalty = ireg.regularizers.Minibatch(strength=0.1)
    monitor = ireg.Monitor(
        model, optimizer, criterion=cross_entropy, terms=TAGS, regularizer=penalty, every_n_steps=24, population=12,
        check="off",
    )  # fmt: skip
    for index in itertools.chain(*[torch.arange(48).split(4)] * 2):
        monitor.update((INPUTS[index], TARGETS[index]))
    assert monitor.rows["step"].tolist() == [24]


# What measurements may cost.


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 100.0

        def perf_counter(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr("ireg.window.time", clock)
    return clock


def test_rows_that_cost_too_much_are_left_out(clock):
    cadence = Cadence(every_n_steps=10, max_cost=0.05)
    assert cadence.is_due(10)  # its cost is not known yet
    cadence.note(2.0, minibatches=1)
    clock.now += 39.0
    assert not cadence.is_due(20)
    clock.now += 1.0
    assert not cadence.is_due(25)
    assert cadence.is_due(30)
    free = Cadence(every_n_steps=10)
    free.note(1e9, minibatches=1)
    assert free.is_due(20)
    assert not Cadence().is_due(10)


def test_a_long_measurement_is_preceded_by_a_line(clock):
    cadence = Cadence(every_n_steps=10)
    cadence._since = clock.now
    clock.now += 10.0
    assert cadence.warning(100) is None  # nothing is known of it
    cadence.note_gradient(0.03)
    assert cadence.warning(60) is None  # it is short
    assert cadence.warning(100) == (
        "the terms of 100 minibatches take about 3 s, after 10 s of training; measure fewer minibatches by "
        "num_batches, less often, or at most a share of the time by max_cost=0.05"
    )
    cadence.note(10.0, minibatches=100)
    cadence.note_gradient(50.0)  # no longer needed
    clock.now += 100.5
    assert cadence.warning(100) is None  # below a tenth
    assert cadence.warning(110).startswith("the terms of 110 minibatches take about 11 s, after 100 s of training; ")


@pytest.mark.parametrize("by_callback", [True, False])
def test_the_line_comes_once(tmp_path, monkeypatch, by_callback):
    monkeypatch.setattr("ireg.window.LONG", 0.0)
    monkeypatch.setattr("ireg.window.LARGE_SHARE", 0.0)

    def train():
        if by_callback:
            fit(tmp_path, Callback(TAGS, every_n_steps=4), max_epochs=1)
        else:
            watched(12, every_n_steps=4, sampling="independent")

    with pytest.warns(UserWarning, match="the terms of 4 minibatches take") as found:
        train()
    assert sum("minibatches take" in str(warning.message) for warning in found) == 1


def test_the_last_row_is_never_left_out(tmp_path, clock):
    monitor = Callback(TAGS, every_n_steps=4, max_cost=1e-12)
    fit(tmp_path, monitor, max_epochs=2)
    assert monitor.rows["step"].tolist() == [4, 24]
    monitor = Callback(TAGS, max_cost=1e-12)
    fit(tmp_path, monitor, max_epochs=4)
    assert monitor.rows["epoch"].tolist() == [1, 4]


def test_a_step_that_returns_no_loss_is_refused():
    module = SimpleNamespace(training_step=lambda batch, number: None)
    with pytest.raises(UserError, match="training_step returns None where it returned a loss in training; give loss="):
        training_step(module, None, 0)
    given = SimpleNamespace(training_step=lambda batch: {"loss": torch.tensor(2.0)})
    assert training_step(given, None, 0) == 2.0


def test_a_child_whose_outputs_are_no_tensor_is_passed_through():
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Inner()

        def forward(self, inputs):
            return self.inner(inputs)

    class Inner(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 1)

        def forward(self, inputs):
            return {"logits": self.layer(inputs)}

    assert _passes_to(Wrapped(), torch.ones(1, 2)) == "inner"
    other = Wrapped()
    other.forward = lambda inputs: dict(other.inner(inputs))
    assert _passes_to(other, torch.ones(1, 2)) is None
