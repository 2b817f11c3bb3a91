"""The Lightning callback on what trainings do: it measures the loss that trains, whatever that reads or changes."""

import copy
import logging

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, StochasticWeightAveraging
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from ireg.lit.callback import ImplicitRegularizationMonitor as Monitor
from ireg.lit.twin import QuietTrainer, muted_twin
from ireg.system.errors import UserError
from tests import reference

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
pytestmark = pytest.mark.filterwarnings("ignore")


class Toy(lightning.LightningModule):
    """wx + b with w = 2, b = 0 at x = 1, y = 0: g = (4, 4), and `ireg/sgd` is 8 times the rate."""

    rate = 1e-9

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(1, 1)
        self.net.weight.data.fill_(2.0)
        self.net.bias.data.fill_(0.0)

    def training_step(self, batch, batch_idx):
        return mse_loss(self.net(batch[0]), batch[1]) * self.factor()

    def factor(self):
        return 1.0

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.rate)


def trainer(*callbacks, epochs=1, **arguments):
    return lightning.Trainer(**{
        "max_epochs": epochs, "accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False,
        "enable_progress_bar": False, "enable_model_summary": False, "callbacks": list(callbacks), **arguments,
    })  # fmt: skip


def ones(count=1):
    return DataLoader([(torch.ones(1, 1), torch.zeros(1, 1)) for _ in range(count)], batch_size=None)


def fit(module, monitor, *callbacks, loader=None, **arguments):
    trainer(monitor, *callbacks, **arguments).fit(module, ones() if loader is None else loader)
    return monitor.rows


# The copy has its trainer, and does nothing to it.


class ByEpoch(Toy):
    def factor(self):
        return 1 + self.current_epoch


class ByStep(Toy):
    def factor(self):
        return 1 + self.global_step


@pytest.mark.parametrize(("module", "values"), [(ByEpoch, [8e-9, 32e-9, 72e-9]), (ByStep, [32e-9, 72e-9, 128e-9])])
def test_a_loss_that_depends_on_the_trainer(module, values):
    rows = fit(module(), Monitor(["ireg/sgd"]), epochs=3)
    assert rows["ireg/sgd"].tolist() == pytest.approx(values, rel=1e-6, abs=0)
    assert rows["check/replay"].tolist() == [0, 0, 0]  # at the step it is that of the step


class Acting(Toy):
    """A step that does all it can to its trainer, in the copy as in training."""

    def training_step(self, batch, batch_idx):
        if isinstance(self.trainer, QuietTrainer):
            self.trainer.should_stop = True
            self.trainer.callback_metrics["seen"] = torch.ones(())
            self.trainer.optimizers[0].param_groups[0]["lr"] = 1e9
            self.optimizers().step()
            self.optimizers().param_groups[0]["lr"] = 1e9
            self.lr_schedulers().step()
            self.trainer.save_checkpoint("nowhere.ckpt")
            self.manual_backward(None)
            self.trainer.logger.log_metrics({"seen": 1.0})
            self.trainer.strategy.seen = True
        rate = self.optimizers().param_groups[0]["lr"]
        assert self.trainer.max_epochs == 3
        return super().training_step(batch, batch_idx) * (rate / self.rate)

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        return [optimizer], [torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)]


def test_what_a_step_does_with_the_trainer_has_no_effect(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module, monitor = Acting(), Monitor(["ireg/sgd"])
    running = trainer(monitor, epochs=3)
    running.fit(module, ones())
    assert monitor.rows["epoch"].tolist() == [1, 2, 3]
    assert "seen" not in running.callback_metrics
    assert running.optimizers[0].param_groups[0]["lr"] == Toy.rate
    assert running.lr_scheduler_configs[0].scheduler.last_epoch == 3
    assert list(tmp_path.iterdir()) == []


def test_a_copy_without_a_trainer():
    twin = muted_twin(Toy())
    assert twin._trainer is None
    assert twin.net.weight.data_ptr() != 0


# Weights stay.


class Clamped(Toy):
    rate = 0.1

    def training_step(self, batch, batch_idx):
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.clamp_(-1, 1)
        return mse_loss(self.net(batch[0]), batch[1] + 9)


def test_a_step_that_writes_to_weights_trains_as_without_the_callback():
    ends = []
    for callbacks in ([], [Monitor()]):
        module = Clamped()
        trainer(*callbacks).fit(module, ones())
        ends.append([float(parameter) for parameter in module.parameters()])
    assert ends[0] == ends[1] == pytest.approx([2.6, 1.6])


# What the step has used.


class Network(lightning.LightningModule):
    def __init__(self, optimizer=None):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()

    def training_step(self, batch, batch_idx):
        return cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.net.parameters(), lr=0.1)


INPUTS = torch.randn(48, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LABELS = torch.randint(0, 3, (48,), generator=torch.Generator().manual_seed(1))
BATCHES = list(zip(INPUTS.split(8), LABELS.split(8), strict=True))


def loader():
    return DataLoader(TensorDataset(INPUTS, LABELS), batch_size=8)


def test_gradients_that_are_removed_before_the_step():
    class Removing(Network):
        def on_after_backward(self):
            for parameter in self.net[2].parameters():
                parameter.grad = None

    module = Removing()
    rows = fit(module, Monitor(["ireg/sgd"]), loader=loader())
    gradients = reference.minibatch_gradients(module.net, cross_entropy, BATCHES)
    first = [{name: value for name, value in gradient.items() if name.startswith("0.")} for gradient in gradients]
    assert rows["ireg/sgd"][0] == pytest.approx(reference.sgd(first, 0.1), rel=1e-10)


def test_gradients_that_are_changed_before_the_step_end_the_training_at_the_first():
    class Changing(Network):
        steps = 0

        def on_after_backward(self):
            self.net[2].weight.grad.mul_(0.3)
            self.steps += 1

    module = Changing()
    with pytest.raises(UserError, match="^ImplicitRegularizationMonitor: the gradient of the first step.*net.2.weight"):
        fit(module, Monitor(), loader=loader())
    assert module.steps == 1
    rows = fit(Changing(), Monitor(["ireg/sgd"], check="off"), loader=loader())
    assert "check/replay" not in rows


def test_momentum_that_a_scheduler_changes_by_epoch():
    class Scheduled(Network):
        def configure_optimizers(self):
            self.optimizer = torch.optim.SGD(self.net.parameters(), lr=1e-3, momentum=0.9)
            return self.optimizer

        def on_train_epoch_end(self):
            self.optimizer.param_groups[0]["momentum"] = 0.5

    module = Scheduled()
    rows = fit(module, Monitor(["ireg/own_full_batch", "ireg/full_batch"]), loader=loader(), epochs=2)
    factors = rows["ireg/own_full_batch"] / rows["ireg/full_batch"]
    # η_e (1 + 2L)/η: 10 · 19 with 0.9, 2 · 3 with 0.5
    assert factors.tolist() == pytest.approx([190, 6], rel=1e-6)


@pytest.mark.parametrize("bound", [0, -1])
def test_a_bound_of_nothing_clips_nothing(bound):
    rows = fit(Toy(), Monitor(["ireg/sgd"]), gradient_clip_val=bound)
    assert rows["ireg/clipped"].tolist() == [0.0]


def test_a_step_without_a_gradient_is_not_clipped_and_has_no_row():
    class Nothing(Toy):
        def training_step(self, batch, batch_idx):
            return None

    assert len(fit(Nothing(), Monitor(["ireg/sgd"]), gradient_clip_val=1e-6)) == 0


def test_clipping_by_value_with_a_parameter_without_entries():
    class Empty(Toy):
        def __init__(self):
            super().__init__()
            self.empty = nn.Parameter(torch.zeros(0))

        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) + self.empty.sum()

    rows = fit(Empty(), Monitor(["ireg/sgd"]), gradient_clip_val=1e-6, gradient_clip_algorithm="value")
    assert rows["ireg/clipped"].tolist() == [1.0]


# When there are rows.


@pytest.mark.parametrize("by", ["steps", "stop"])
def test_the_last_epoch_has_a_row_whatever_ends_it(by):
    class Stopping(Toy):
        def on_train_batch_end(self, *arguments):
            if by == "stop" and self.global_step == 18:
                self.trainer.should_stop = True

    monitor = Monitor(["ireg/sgd"], every_n_epochs=2)
    arguments = {"max_steps": 18} if by == "steps" else {}
    rows = fit(Stopping(), monitor, loader=ones(6), epochs=-1, **arguments)
    assert rows["epoch"].tolist() == [2, 3]
    assert "check/share" not in rows


def test_a_part_of_an_epoch_is_marked():
    rows = fit(Toy(), Monitor(["ireg/sgd"], every_n_epochs=2), loader=ones(6), epochs=-1, max_steps=15)
    assert rows["epoch"].tolist() == [2, 3]
    assert rows["check/share"].tolist()[1] == 0.5


def test_resuming_within_an_epoch_marks_its_row(tmp_path):
    class Saving(Toy):
        def on_train_batch_end(self, *arguments):
            if self.global_step == 4:
                self.trainer.save_checkpoint(tmp_path / "within.ckpt")

    fit(Saving(), Monitor(["ireg/sgd"]), loader=ones(6))
    second = Monitor(["ireg/sgd"])
    trainer(second).fit(Toy(), ones(6), ckpt_path=tmp_path / "within.ckpt", weights_only=True)
    assert second.rows["epoch"].tolist() == [1]
    assert second.rows["check/share"].tolist() == pytest.approx([1 / 3])
    assert second.rows["check/replay"].tolist() == [0]


def test_a_term_that_somebody_waits_for_has_a_value_after_each_epoch():
    seen = []

    class Looking(lightning.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            seen.append(float(trainer.callback_metrics["ireg/sgd"]))

    monitor = Monitor(["ireg/sgd"], every_n_epochs=2)
    rows = fit(Network(), monitor, EarlyStopping("ireg/sgd", patience=9), Looking(), loader=loader(), epochs=4)
    assert rows["epoch"].tolist() == [1, 2, 4]
    values = rows["ireg/sgd"].tolist()
    assert seen == pytest.approx([values[0], values[1], values[1], values[2]])


def test_a_scheduler_that_waits_for_a_term_has_a_value_after_each_epoch():
    class Waiting(Network):
        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            # What does not fall by a factor of a million is no progress: the rate is halved from the second epoch on.
            plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=1 - 1e-6)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "ireg/sgd"}}

    module = Waiting()
    rows = fit(module, Monitor(["ireg/sgd"], every_n_epochs=2), loader=loader(), epochs=4)
    assert rows["epoch"].tolist() == [1, 2, 4]
    assert module.optimizers().param_groups[0]["lr"] == 0.1 * 0.5**3


def test_an_epoch_without_steps_has_no_row():
    rows = fit(Network(), Monitor(["ireg/sgd"]), StochasticWeightAveraging(0.1, swa_epoch_start=1), loader=loader(),
               epochs=3)  # fmt: skip
    assert rows["epoch"].tolist() == [1, 2, 3]  # it adds an epoch that takes none


def test_one_callback_in_several_fits_starts_again():
    monitor = Monitor(["ireg/sgd", "norm/distance"])
    fit(Network(), monitor, loader=loader(), epochs=2)
    rows = fit(Network(), monitor, loader=loader())
    assert rows["epoch"].tolist() == [1]
    alone = fit(Network(), Monitor(["ireg/sgd", "norm/distance"]), loader=loader())
    assert rows["norm/distance"].tolist() == alone["norm/distance"].tolist()


def test_an_epoch_that_need_not_be_measured_may_leave_the_memory():
    monitor = Monitor(["ireg/sgd"], every_n_epochs=3, max_cache=9 * 8 * 8)
    with pytest.warns(UserWarning, match="the last epoch has no row: its minibatches take more than max_cache"):
        fit(Network(), monitor, loader=loader(), epochs=-1, max_time={"seconds": 0}, min_epochs=1)
    assert len(monitor.rows) == 0


# Other kinds of modules.


def test_a_compiled_module():
    plain, compiled = Network(), Network()
    monitors = Monitor(["ireg/sgd"]), Monitor(["ireg/sgd"])
    fit(plain, monitors[0], loader=loader(), epochs=2)
    fit(torch.compile(compiled, backend="eager"), monitors[1], loader=loader(), epochs=2)
    assert monitors[1].rows["ireg/sgd"].tolist() == pytest.approx(monitors[0].rows["ireg/sgd"].tolist(), rel=1e-10)


def test_lazy_layers_have_their_initial_weights_after_the_first_minibatch():
    class Lazy(Network):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.LazyLinear(3)).double()

    module = Lazy()
    rows = fit(module, Monitor(["ireg/sgd", "norm/distance"]), loader=loader(), epochs=2)
    assert rows["norm/distance"][0] > 0
    assert rows["check/replay"].tolist() == [0, 0]


def test_a_group_that_joins_within_an_epoch():
    class Joining(Network):
        def on_train_batch_start(self, batch, batch_idx):
            if batch_idx == 4:
                self.trainer.optimizers[0].add_param_group({"params": self.net[2].parameters(), "lr": 0.01})

        def configure_optimizers(self):
            return torch.optim.SGD(self.net[0].parameters(), lr=0.1)

    module = Joining()
    rows = fit(module, Monitor(["ireg/sgd"]), loader=loader())
    gradients = reference.minibatch_gradients(module.net, cross_entropy, BATCHES[4:])
    parts = [[{name: value for name, value in g.items() if name[0] == layer} for g in gradients] for layer in "02"]
    total = reference.sgd(parts[0], 0.1) + reference.sgd(parts[1], 0.01)
    assert rows["ireg/sgd"][0] == pytest.approx(total, rel=1e-10)


def test_an_optimizer_without_a_rate_is_refused_before_the_start():
    class Rateless(Network):
        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            del optimizer.param_groups[0]["lr"]
            return optimizer

    module = Rateless()
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(UserError, match="ImplicitRegularizationMonitor: SGD: group 0 of its parameters has lr=None"):
        fit(module, Monitor(), loader=loader())
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_how_minibatches_are_drawn_is_read_off_the_loader():
    data = TensorDataset(INPUTS, LABELS)
    drawn = DataLoader(data, batch_size=8, sampler=RandomSampler(data, replacement=True))
    terms = ["ireg/own", "ireg/own_variance", "ireg/full_batch"]
    rows = fit(Network(), Monitor(terms), loader=drawn)
    assert "ireg/own_variance" not in rows
    assert rows["ireg/own"][0] == pytest.approx(rows["ireg/full_batch"][0])
    given = fit(Network(), Monitor(terms, sampling="epoch"), loader=drawn)
    assert given["ireg/own_variance"][0] > 0
    once = fit(Network(), Monitor(terms), loader=loader())
    assert once["ireg/own_variance"][0] > 0
    with pytest.raises(ValueError, match="sampling='stream': must be one of epoch, independent"):
        Monitor(sampling="stream")


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        yield from zip(INPUTS, LABELS, strict=True)


def test_where_it_is_not_known_that_is_said():
    with pytest.warns(UserWarning, match="how DataLoader draws its minibatches is not known.*sampling='independent'"):
        fit(Network(), Monitor(["ireg/sgd"]), loader=DataLoader(Stream(), batch_size=8))


def test_one_independent_minibatch_has_no_row():
    with pytest.warns(UserWarning, match="epoch 1 has no row: of 1 independent minibatches nothing can be estimated"):
        rows = fit(Network(), Monitor(["ireg/sgd"], sampling="independent"), loader=loader(), limit_train_batches=1)
    assert len(rows) == 0
