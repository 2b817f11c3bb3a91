"""The Lightning callback with a criterion, a penalty, and what it keeps from epoch to epoch."""

import logging

import lightning
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

import ireg
from ireg.core.functional import functional_loss, trained_parameters
from ireg.core.moments import linear
from ireg.core.moments.needs import Need, needs
from ireg.lit.callback import ImplicitRegularizationMonitor as Monitor
from ireg.lit.twin import note_passing
from ireg.objective import Objective
from ireg.regularizers import FullBatch, Minibatch
from ireg.system.errors import UserError
from ireg.terms.named import TERMS
from tests.reference import timeless

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
pytestmark = pytest.mark.filterwarnings("ignore")

INPUTS = torch.randn(22, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
TARGETS = torch.randint(0, 3, (22,), generator=torch.Generator().manual_seed(1))
TAGS = ["ireg/sgd", "ireg/full_batch", "ireg/minibatch_variance", "ireg/own", "norm/l2"]


def stack():
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.Tanh(), nn.Linear(6, 3))


def convolutions():
    return nn.Sequential(nn.Conv1d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3))


class Module(lightning.LightningModule):
    def __init__(self, make=stack, momentum=0.0):
        super().__init__()
        torch.manual_seed(0)
        self.net = make().double()
        self.momentum = momentum

    def forward(self, inputs):
        return self.net(inputs)

    def training_step(self, batch, batch_idx):
        return cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=self.momentum)


def loader(sampler=None, tensors=(INPUTS, TARGETS)):
    generator = torch.Generator().manual_seed(2)
    data = TensorDataset(*tensors)
    return DataLoader(data, 4, shuffle=sampler is None, sampler=sampler, generator=generator)


def fit(module, *callbacks, epochs=2, data=None, resume=None, **arguments):
    trainer = lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", devices=1, callbacks=list(callbacks), logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, **arguments,
    )  # fmt: skip
    trainer.fit(module, loader() if data is None else data, ckpt_path=resume, weights_only=True)
    return trainer


class Watching(Monitor):
    """Which method has computed the moments of each row."""

    def __init__(self, terms=tuple(TAGS), **options):
        self.methods = []

        @needs(Need.MEAN | Need.SQ_NORMS)
        def watch(snapshot):
            self.methods.append(snapshot.moments.method)

        super().__init__({tag: TERMS[tag] for tag in terms} | {"watch": watch}, **options)


def close(monitor, rel=1e-10):
    return [pytest.approx(row, rel=rel, abs=0) for row in monitor.rows[TAGS].to_dict("records")]


@pytest.mark.parametrize(
    ("make", "options", "expected"),
    [
        (stack, {}, {"ghost", "layers"}),
        (stack, {"method": "layers"}, {"layers"}),
        (convolutions, {"method": "hooks"}, {"hooks"}),
        (convolutions, {}, {"hooks", "loop"}),
    ],
)
def test_a_criterion_opens_the_faster_methods(make, options, expected):
    fast, plain = Watching(criterion=cross_entropy, **options), Watching(prefix="ireg/")
    one_by_one, elsewhere = (
        Watching(criterion=cross_entropy, method="loop"),
        Watching(criterion=cross_entropy, cache_device="cpu", **options),
    )
    for monitor in (fast, plain, one_by_one, elsewhere):
        fit(Module(make), monitor)
    assert len(fast.methods) == 2
    assert set(fast.methods) <= expected
    assert plain.methods == one_by_one.methods == ["loop", "loop"]
    assert fast.rows[TAGS].to_dict("records") == close(one_by_one)
    assert plain.rows[TAGS].to_dict("records") == close(one_by_one)
    assert timeless(elsewhere).equals(timeless(fast))
    assert (fast.rows["check/replay"] < 1e-12).all()


class Doubling(Module):
    """More than the stack: no fast way for it is known, and the criterion is right nevertheless."""

    def forward(self, inputs):
        return 2 * self.net(inputs)


def test_a_forward_that_does_more_than_the_stack_has_no_way_of_stacks():
    fast, plain = Watching(criterion=cross_entropy), Watching()
    fit(Doubling(), fast)
    fit(Doubling(), plain)
    assert not {"ghost", "layers"} & set(fast.methods)
    assert fast.rows[TAGS].to_dict("records") == close(plain)


@pytest.mark.parametrize("arguments", [{"accumulate_grad_batches": 2}, {"precision": "bf16-mixed"}])
def test_steps_of_several_minibatches_and_mixed_precision_take_the_loop(arguments):
    fast, plain = Watching(criterion=cross_entropy), Watching()
    fit(Module(), fast, **arguments)
    fit(Module(), plain, **arguments)
    assert fast.methods == ["loop", "loop"]
    assert timeless(fast).equals(timeless(plain))


def test_double_precision_of_the_trainer_is_that_of_the_criterion():
    fast, plain = Watching(criterion=cross_entropy), Watching()
    fit(Module(), fast, precision="64-true")
    fit(Module(), plain, precision="64-true")
    assert set(fast.methods) <= {"ghost", "layers"}
    assert fast.rows[TAGS].to_dict("records") == close(plain)


def smoothed(outputs, targets):
    return cross_entropy(outputs, targets, label_smoothing=0.1)


def test_a_criterion_that_is_not_trained_is_refused_at_the_first_step():
    module, monitor = Module(), Monitor(TAGS, criterion=smoothed)
    with pytest.raises(UserError, match="^ImplicitRegularizationMonitor: the gradient of the first step.*another fun"):
        fit(module, monitor)
    assert module.trainer.global_step == 1
    fit(Module(), Monitor(TAGS, criterion=smoothed, check="off"))  # the advice


def test_a_minibatch_that_is_no_pair_is_refused_at_the_first_step():
    class Triples(Module):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch[:2], batch_idx)

    data = loader(tensors=(INPUTS, TARGETS, TARGETS))
    for check in ("each", "off"):
        match = "^ImplicitRegularizationMonitor: a minibatch is a list, and criterion takes pairs.*; give loss"
        with pytest.raises(UserError, match=match):
            fit(Triples(), Monitor(TAGS, criterion=cross_entropy, check=check), data=data)
    own = Monitor(TAGS, loss=lambda module, batch: cross_entropy(module(batch[0]), batch[1]))
    fit(Triples(), own, data=data)  # the advice
    assert len(own.rows) == 2


# Where `forward` does no more than call a child.


class Forward(nn.Module):
    """A module whose forward is a given function of itself and the inputs."""

    def __init__(self, function, more=False):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        self.more = nn.Linear(2, 2) if more else None
        self.function = function

    def forward(self, inputs):
        return self.function(self, inputs)


def changes_inputs(module, inputs):
    return module.net(inputs.add_(1))


def changes_outputs(module, inputs):
    return module.net(inputs).mul_(2)


def without_gradient(module, inputs):
    with torch.no_grad():
        return module.net(inputs)


def in_half(module, inputs):
    with torch.autocast("cpu"):
        return module.net(inputs)


@pytest.mark.parametrize(
    ("function", "more", "passes"),
    [
        (lambda module, inputs: module.net(inputs), False, True),
        (lambda module, inputs: module.net(inputs), True, False),  # weights that the stack does not hold
        (lambda module, inputs: module.net(inputs + 1), False, False),
        (lambda module, inputs: module.net(inputs) + 1, False, False),
        (lambda module, inputs: module.net(input=inputs), False, False),
        (lambda module, inputs: module.net(module.net(inputs)), False, False),
        (lambda module, inputs: module.net[0](inputs), False, False),
        (lambda module, inputs: module.net(inputs * torch.rand(())), False, False),
        (changes_inputs, False, False),
        (changes_outputs, False, False),
        (without_gradient, False, False),
        (in_half, False, False),
    ],
)
def test_which_modules_pass_their_inputs_on(function, more, passes):
    inner = Forward(function, more)
    outer = Forward(lambda module, inputs: module.net(inputs))
    outer.net = inner
    inputs = torch.ones(3, 2)
    before = torch.get_rng_state()
    note_passing(outer, inputs)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(inputs, torch.ones(3, 2))
    assert linear.serves(outer, 2) == passes
    assert not linear.serves(Forward(function, more), 2)  # unless it is noted
    assert not [module for module in outer.modules() if module._forward_hooks]


# A penalty.


class Penalized(Module):
    """Its steps descend the loss and a penalty."""

    strength = 0.3

    def training_step(self, batch, batch_idx):
        loss = functional_loss(self.net, cross_entropy)
        objective = Objective(loss, Minibatch(strength=self.strength), [batch] * 6)
        return objective.evaluate(trained_parameters(self.net), tuple(batch)).total


def by_a_plain_loop(epochs=2):
    """The same training with `ireg.Monitor`."""
    module, data = Penalized(momentum=0.5), loader()
    optimizer, penalty = module.configure_optimizers(), Minibatch(strength=Penalized.strength)
    monitor = ireg.Monitor(module.net, optimizer, criterion=cross_entropy, terms=TAGS, regularizer=penalty)
    for _ in range(epochs):
        for batch in data:
            optimizer.zero_grad()
            module.training_step(batch, 0).backward()
            optimizer.step()
            monitor.update(tuple(batch))
        monitor.compute()
        monitor.reset()
    return monitor


@pytest.mark.parametrize("kind", ["criterion", "loss"])
def test_a_penalty_is_measured_as_by_a_monitor(kind):
    given = {
        "criterion": {"criterion": cross_entropy},
        "loss": {"loss": lambda module, batch: cross_entropy(module(batch[0]), batch[1])},
    }[kind]
    monitor, bare = Monitor(TAGS, regularizer=Minibatch(strength=0.3), **given), Monitor(TAGS, check="off", **given)
    fit(Penalized(momentum=0.5), monitor)
    fit(Penalized(momentum=0.5), bare)
    expected = by_a_plain_loop()
    assert monitor.rows[TAGS].to_dict("records") == close(expected)
    assert (monitor.rows["check/replay"] < 1e-12).all()
    assert (bare.rows["ireg/own"] - expected.rows["ireg/own"]).abs().min() > 1e-4
    assert bare.rows["ireg/sgd"].tolist() == pytest.approx(expected.rows["ireg/sgd"].tolist(), rel=1e-10)


@pytest.mark.parametrize(
    ("strength", "given"),
    [(0.2, {"criterion": cross_entropy}), (0.3, {})],
    ids=["another one", "beside a loss that has it already"],
)
def test_a_penalty_that_is_not_descended_is_refused(strength, given):
    monitor = Monitor(TAGS, regularizer=Minibatch(strength=strength), **given)
    with pytest.raises(UserError, match="^ImplicitRegularizationMonitor: the gradient of the first step, computed aga"):
        fit(Penalized(), monitor)


def test_a_penalty_of_an_epoch_and_a_loader_of_independent_minibatches():
    data = loader(sampler=RandomSampler(range(22), replacement=True))
    match = "^ImplicitRegularizationMonitor: sampling='independent': FullBatch is a penalty of all minibatches"
    with pytest.raises(UserError, match=match):
        fit(Module(), Monitor(TAGS, criterion=cross_entropy, regularizer=FullBatch(strength=0.1)), data=data)


class Joining(Penalized):
    """A layer's weights join the optimizer in the second epoch's third step."""

    def configure_optimizers(self):
        return torch.optim.SGD(self.net[3].parameters(), lr=0.1)

    def on_train_batch_start(self, batch, batch_idx):
        if (self.current_epoch, batch_idx) == (1, 2):
            self.trainer.optimizers[0].add_param_group({"params": list(self.net[1].parameters())})


def test_a_recorded_step_that_is_left_out_is_not_compared():
    """Steps before a parameter group joined moved other weights; their minibatches are forgotten."""
    monitor = Monitor(TAGS, criterion=cross_entropy, regularizer=Minibatch(strength=0.3))
    fit(Joining(), monitor, epochs=3)
    assert (monitor.rows["check/replay"].dropna() < 1e-12).all()
    assert monitor.rows["check/replay"].notna().tolist() == [True, True, True]


# What is kept.


def test_a_training_that_resumes_starts_from_the_same_eigenvectors(tmp_path):
    tags = ["curvature/lambda_max", "curvature/lambda_max_products"]
    through, first, second, forgetful = (Monitor(tags, criterion=cross_entropy) for _ in range(4))
    fit(Module(), through)
    fit(Module(), first, epochs=1).save_checkpoint(tmp_path / "last.ckpt")
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    state = checkpoint["callbacks"][first.state_key]
    assert list(state["kept"]) == ["lambda_max"]
    assert state["kept"]["lambda_max"].device.type == "cpu"
    del state["kept"]  # as of a checkpoint of before
    torch.save(checkpoint, tmp_path / "bare.ckpt")
    for monitor, name in ((second, "last"), (forgetful, "bare")):
        data = loader()
        list(data)  # a loader's own stream is not in the checkpoint
        fit(Module(), monitor, data=data, resume=tmp_path / f"{name}.ckpt")
    assert timeless(second).equals(timeless(through))
    assert not timeless(forgetful).equals(timeless(through))
    products = through.rows["curvature/lambda_max_products"]
    assert products[1] < products[0]  # a start near the vector takes fewer


def test_another_training_starts_without_them():
    monitor = Monitor(["curvature/lambda_max"], criterion=cross_entropy)
    fit(Module(), monitor, epochs=1)
    rows = timeless(monitor)
    fit(Module(), monitor, epochs=1)
    assert timeless(monitor).equals(rows)


def test_mean_squared_errors_and_outputs_of_any_shape():
    """A criterion is any function of outputs and targets, not a classifier's alone."""

    class Regression(Module):
        def training_step(self, batch, batch_idx):
            return mse_loss(self(batch[0]), batch[1])

    data = loader(tensors=(INPUTS, INPUTS[:, 0, :3].clone()))
    fast, plain = Watching(criterion=mse_loss), Watching()
    for monitor in (fast, plain):
        data.generator.manual_seed(0)
        fit(Regression(), monitor, data=data)
    assert set(fast.methods) <= {"ghost", "layers"}
    assert fast.rows[TAGS].to_dict("records") == close(plain)
