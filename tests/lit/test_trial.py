"""What would fail after the start is refused before it, in one line."""

import csv
import math

import pytest
import torch
from torch import nn
from torch.optim import SGD

from ireg.models import MLP
from ireg.runs.status import read_status
from ireg.system.errors import UserError
from tests.lit.test_module import rows, weights

HERE = __name__
EVERY_TERM = "terms=[theory,curvature,margin,path]"


class Network(MLP):
    """What a network may be, with one thing wrong."""

    def __init__(self, *, wrong, **arguments):
        super().__init__(**arguments)
        self.wrong = wrong
        if wrong == "frozen":
            self.requires_grad_(False)
        if wrong == "hidden weights":
            self.hidden = [self[1].weight]
        if wrong == "lazy":
            self.append(nn.LazyLinear(10))
        if wrong == "lazy buffers":
            self.insert(2, nn.LazyBatchNorm1d(affine=False))
        if wrong == "nothing in a parameter":
            self.nothing = nn.Parameter(torch.zeros(0, 3))
        if wrong == "normalized":
            self.insert(2, nn.BatchNorm1d(16))

    def forward(self, inputs):
        if self.wrong == "clamped":
            with torch.no_grad():
                for parameter in self.parameters():
                    parameter.clamp_(-0.01, 0.01)
        logits = super().forward(inputs)
        if self.wrong == "fails":
            raise RuntimeError("mat1 and mat2\nshapes cannot be multiplied")
        made = {
            "nothing in a parameter": lambda: logits + self.nothing.sum(),
            "tuple": lambda: (logits, logits),
            "dict": lambda: {"logits": logits},
            "classes": lambda: logits[:, :9],
            "integers": lambda: logits.round().long(),
            "hidden weights": lambda: logits * (1 + self.hidden[0].sum()),
            "noisy": lambda: logits + torch.randn_like(logits) if self.training else logits,
            "scaled in training": lambda: logits * (2.0 if self.training else 1.0),
            "tuple in evaluation": lambda: logits if self.training else (logits,),
        }
        return made.get(self.wrong, lambda: logits)()


def broken_term(snapshot):
    raise KeyError("weights")


NETWORKS = {
    "tuple": r"model: Network on a minibatch of 32 images of shape \(1, 28, 28\): returns a tuple; must return",
    "dict": r"returns a dict; must return one tensor of logits of shape \(32, 10\)",
    "classes": r"returns torch.float32 of shape \(32, 9\); must return floating-point logits \(32, 10\)",
    "integers": r"returns torch.int64 of shape \(32, 10\); must return floating-point logits",
    "lazy": r"has parameters or buffers whose shapes are not known before its first call \(Lazy layers\); give",
    "lazy buffers": r"model: Network has parameters or buffers whose shapes are not known before its first call",
    "fails": r"model: Network on a minibatch of 32 images.*: mat1 and mat2 shapes cannot be multiplied",
    "frozen": r"terms: SGD moves no parameter: of 4 it holds 4, of which 0 require a gradient",
    "hidden weights": r"model: Network: the gradient of the first .*read them there, or take method='backward'$",
    "tuple in evaluation": r"model: Network in evaluation on .*: returns a tuple",
}


@pytest.mark.parametrize("wrong", NETWORKS)
def test_a_network_that_does_not_fit_is_refused(tmp_path, small_run, wrong):
    with pytest.raises(UserError, match=NETWORKS[wrong]):
        small_run(tmp_path, f"model._target_={HERE}.Network", f"+model.wrong={wrong}")
    status = read_status(tmp_path)
    assert (status["state"], status["epochs_done"], "\n" in status["error"]) == ("failed", 0, False)
    assert not (tmp_path / "metrics.csv").exists()


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_parameter_without_an_element_changes_no_number(tmp_path, small_run, optimizer):
    options = (f"optimizer={optimizer}", "epochs=1", EVERY_TERM, "terms.curvature=null", "terms.path=null",
               "+trainer.gradient_clip_val=0.1", "+trainer.gradient_clip_algorithm=value")  # fmt: skip
    for wrong in ("nothing", "nothing in a parameter"):
        small_run(tmp_path / wrong, f"model._target_={HERE}.Network", f"+model.wrong={wrong}", *options)
    one, other = rows(tmp_path / "nothing"), rows(tmp_path / "nothing in a parameter")
    assert "norm/spectral_product" in one[1]
    for epoch in (0, 1):
        expected = {tag: pytest.approx(value, rel=1e-5, abs=1e-9) for tag, value in one[epoch].items()}
        assert {tag: value for tag, value in other[epoch].items() if tag[:5] != "time/"} == {
            tag: value for tag, value in expected.items() if tag[:5] != "time/"
        }


def test_a_network_that_differs_in_training_is_measured_as_it_trains(tmp_path, small_run):
    for wrong in ("scaled in training", "nothing"):
        small_run(tmp_path / wrong, f"model._target_={HERE}.Network", f"+model.wrong={wrong}", "epochs=1", "lr=1e-9")
    scaled, plain = (rows(tmp_path / wrong)[1] for wrong in ("scaled in training", "nothing"))
    assert scaled["ireg/sgd"] > 1.5 * plain["ireg/sgd"]  # of twice the logits
    for tag in ("fit/memorized", "test/loss"):  # of eval mode
        assert scaled[tag] == pytest.approx(plain[tag], rel=1e-5, abs=1e-9)


def test_a_network_with_noise_of_its_own_marks_its_rows(tmp_path, small_run):
    small_run(tmp_path / "noisy", f"model._target_={HERE}.Network", "+model.wrong=noisy", "epochs=1")
    small_run(tmp_path / "plain", f"model._target_={HERE}.Network", "+model.wrong=nothing", "epochs=1")
    assert all(row["check/noise"] > 0 for row in rows(tmp_path / "noisy"))
    assert not any("check/noise" in row for row in rows(tmp_path / "plain"))


def test_a_network_that_writes_to_its_weights_trains_as_without_terms(tmp_path, small_run):
    ends = []
    for terms in ("terms=default", "terms=[]"):
        small_run(tmp_path / terms, f"model._target_={HERE}.Network", "+model.wrong=clamped", "epochs=2", terms)
        ends.append({tag: value for tag, value in rows(tmp_path / terms)[2].items() if tag.startswith("train/")})
    assert ends[0] == ends[1]


class WithoutRate(torch.optim.Optimizer):
    """A rate under another name."""

    def __init__(self, parameters, lr):
        super().__init__(parameters, {"rate": lr})

    @torch.no_grad()
    def step(self, closure):
        with torch.enable_grad():
            closure()
        for parameter in self.param_groups[0]["params"]:
            parameter -= self.param_groups[0]["rate"] * parameter.grad


def test_an_optimizer_that_names_no_rate_is_refused_where_terms_need_it(tmp_path, small_run):
    target = f"optimizer._target_={HERE}.WithoutRate"
    with pytest.raises(UserError, match="WithoutRate: group 0 of its parameters has lr=None; must be a number"):
        small_run(tmp_path / "refused", target)
    assert not (tmp_path / "refused" / "metrics.csv").exists()
    small_run(tmp_path / "run", target, "terms=[]", "lr=0.1")
    small_run(tmp_path / "sgd", "terms=[]", "lr=0.1")
    expected = weights(tmp_path / "sgd")
    for name, value in weights(tmp_path / "run").items():
        torch.testing.assert_close(value, expected[name])


def test_without_terms_a_frozen_network_is_refused_too(tmp_path, small_run):
    with pytest.raises(UserError, match="on a backward pass: the loss has no gradient; unfreeze a parameter"):
        small_run(tmp_path, f"model._target_={HERE}.Network", "+model.wrong=frozen", "terms=[]")


def test_normalizing_a_last_minibatch_of_one_example_is_refused(tmp_path, small_run):
    normalized = (f"model._target_={HERE}.Network", "+model.wrong=normalized", "epochs=1")
    what = "on a minibatch of 1 images.*Expected more than 1 value per channel.*last minibatch has 1 examples: choose"
    with pytest.raises(UserError, match=what):
        small_run(tmp_path / "refused", *normalized, "data.train_size=97")
    small_run(tmp_path / "run", *normalized, "data.train_size=97", "batch_size=31")


@pytest.mark.parametrize(
    ("overrides", "match"),
    [
        (
            ("optimizer=momentum", "optimizer.momentum=1"),
            "term ireg/own: sgd with momentum 1: its memory must fade; choose",
        ),
        (
            ("optimizer=adam", "+optimizer.capturable=true", "trainer.fused=false"),
            "optimizer: a step of Adam: .*capturable",
        ),
        (
            (f"+terms.ireg.mine._target_={HERE}.broken_term", "+terms.ireg.mine._partial_=true"),
            "term ireg/mine: 'weights'",
        ),
    ],
)
def test_the_first_step_and_measurement_are_tried(tmp_path, small_run, overrides, match):
    with pytest.raises(UserError, match=match):
        small_run(tmp_path, *overrides)
    assert not (tmp_path / "metrics.csv").exists()


class Sometimes(SGD):
    """Evaluates the loss once in the first step, and twice from the second on."""

    def step(self, closure):
        if self.param_groups[0].get("begun", False):
            closure()
        self.param_groups[0]["begun"] = True
        return super().step(closure)


class Never(SGD):
    """Leaves the loss as it is."""

    def step(self, closure=None):
        return super().step()


@pytest.mark.parametrize(
    ("target", "times"), [("torch.optim.LBFGS", r"\d\d"), (f"{HERE}.Sometimes", 2), (f"{HERE}.Never", 0)]
)
def test_an_optimizer_that_does_not_evaluate_the_loss_once_a_step_is_refused(tmp_path, small_run, target, times):
    """Each evaluation in training takes the next minibatch, and yet the run ended as `done`."""
    name = target.rpartition(".")[2]
    with pytest.raises(
        UserError, match=f"optimizer: a step of {name}: evaluates the loss {times} times; must do so once"
    ):
        small_run(tmp_path / "run", f"optimizer._target_={target}", "terms=[]")
    assert not (tmp_path / "run" / "metrics.csv").exists()


def test_an_optimizer_that_must_evaluate_the_loss_and_does_it_once_trains(tmp_path, small_run):
    lbfgs = ("optimizer._target_=torch.optim.LBFGS", "+optimizer.max_iter=1", "terms=[]", "lr=0.1")
    small_run(tmp_path, *lbfgs)
    assert read_status(tmp_path)["state"] == "done"
    assert rows(tmp_path)[2]["train/loss"] < rows(tmp_path)[0]["train/loss"]


@pytest.mark.parametrize(
    "overrides",
    [
        ("optimizer=adam", "lr=1e38"),
        ("optimizer=sgd", "lr=1e39"),
        ("optimizer=sgd", "lr=1e30", "terms=curvature", "epochs=1"),
        ("optimizer=adam", "lr=1e30", "epochs=1", EVERY_TERM),
        ("optimizer=switch", "lr=1e30", "epochs=1", EVERY_TERM),
    ],
)
def test_a_step_beyond_the_weights_range_diverges(tmp_path, small_run, overrides):
    assert small_run(tmp_path, *overrides) == math.inf
    status = read_status(tmp_path)
    assert (status["state"], status["epochs_done"]) == ("diverged", 1)
    assert math.isnan(rows(tmp_path)[1]["train/loss"])


def test_measuring_a_normalized_network_leaves_its_training_as_it_is(tmp_path, small_run):
    target = "model._target_=tests.lit.test_module.Normalized"
    small_run(tmp_path / "with", target)
    small_run(tmp_path / "without", target, "terms=[]")
    with_terms, without = weights(tmp_path / "with"), weights(tmp_path / "without")
    assert any("running_mean" in name for name in with_terms)
    for name, value in with_terms.items():
        assert torch.equal(value, without[name]), name
    with (tmp_path / "with" / "metrics.csv").open() as one, (tmp_path / "without" / "metrics.csv").open() as other:
        for row, bare in zip(csv.DictReader(one), csv.DictReader(other), strict=True):
            assert {tag: row[tag] for tag in bare if not tag.startswith("time/")} == {
                tag: value for tag, value in bare.items() if not tag.startswith("time/")
            }
