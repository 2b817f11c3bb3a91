"""What Muon, Lion and Signum penalize on full batches: the gradient's nuclear and ℓ₁ norm."""

import math

import pytest
import torch
from torch.nn.functional import mse_loss

import ireg
from ireg.certify import steepest as certified
from ireg.core.optimizers import view
from ireg.core.optimizers.steepest import (
    READERS,
    GradientFilter,
    NewtonSchulz,
    Steepest,
    absolute,
    nuclear,
    polar,
    polar_along,
    steepest_of,
)
from ireg.terms.named import TERMS

GENERATOR = torch.Generator().manual_seed(0)
BATCHES = [tuple(torch.randn(6, size, generator=GENERATOR).double() for size in (4, 2)) for _ in range(3)]


class Lion(torch.optim.Optimizer):
    """A stand-in that says it is pytorch-optimizer's."""

    def __init__(self, params, lr, betas=(0.9, 0.99)):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": 0.0})


Lion.__module__, Lion.__qualname__ = "pytorch_optimizer.optimizer.lion", "Lion"


class Signum(torch.optim.Optimizer):
    """A stand-in for pytorch-optimizer's SignSGD."""

    def __init__(self, params, lr, momentum=0.9, weight_decay=0.0, weight_decouple=True):
        super().__init__(
            params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "weight_decouple": weight_decouple}
        )

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                mean = self.state[parameter].setdefault("mean", torch.zeros_like(parameter))
                mean.lerp_(parameter.grad, 1 - group["momentum"])
                parameter.sub_(mean.sign() + group["weight_decay"] * parameter, alpha=group["lr"])


Signum.__module__, Signum.__qualname__ = "pytorch_optimizer.optimizer.sgd", "SignSGD"


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(4, 3, bias=False), torch.nn.Tanh(), torch.nn.Linear(3, 2, bias=False)
    ).double()


def mean_gradient(model):
    model.zero_grad()
    torch.stack([mse_loss(model(inputs), targets) for inputs, targets in BATCHES]).mean().backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


def singular_values(matrix):
    """By the eigenvalues of MᵀM: another path than the norm's."""
    return torch.linalg.eigvalsh(matrix.T @ matrix).clamp(min=0).sqrt()


def measured(model, optimizer, **keywords):
    return ireg.measure(model, BATCHES, optimizer=optimizer, criterion=mse_loss, **keywords)


@pytest.mark.parametrize(
    ("options", "factors", "lag"),
    [
        ({}, (1.0, 1.0), 0.95**2 / 0.05),
        ({"nesterov": False, "momentum": 0.8}, (1.0, 1.0), 4.0),
        ({"momentum": 0.5, "adjust_lr_fn": "match_rms_adamw"}, (0.2 * 2.0, 0.2 * math.sqrt(3)), 0.5),
        ({"momentum": 0.5, "adjust_lr_fn": "spectral_unclamped"}, (math.sqrt(3 / 4), math.sqrt(2 / 3)), 0.5),
    ],
)
def test_muon_penalizes_the_nuclear_norm(options, factors, lag):
    model = network()
    optimizer = torch.optim.Muon(model.parameters(), lr=0.01, weight_decay=0.0, **options)
    gradients = mean_gradient(model)
    sums = [factor * float(singular_values(value).sum()) for factor, value in zip(factors, gradients, strict=True)]
    expected = 0.01 * (0.5 + lag) * sum(sums)
    found = measured(model, optimizer)
    assert found["ireg/own_full_batch"] == pytest.approx(expected, rel=1e-6)
    assert not {"ireg/own", "ireg/own_variance"} & found.keys()


def test_a_tall_matrix_has_a_larger_rate():
    model = torch.nn.Linear(2, 8, bias=False).double()
    optimizer = torch.optim.Muon(model.parameters(), lr=0.01)
    assert view(optimizer, dict(model.named_parameters())).steepest.rates["weight"] == pytest.approx(0.02, rel=1e-12)


def test_lion_penalizes_the_sum_of_absolute_gradients():
    model = network()
    expected = 0.01 * (0.5 + 90) * sum(float(value.abs().sum()) for value in mean_gradient(model))
    found = measured(model, Lion(model.parameters(), lr=0.01), terms=["ireg/own_full_batch"])
    assert found == {"ireg/own_full_batch": pytest.approx(expected, rel=1e-9)}


def deviations(model, batches):
    """Of each parameter the minibatch gradients less their mean, (m, *shape), and the mean."""
    found = []
    for inputs, targets in batches:
        model.zero_grad()
        mse_loss(model(inputs), targets).backward()
        found.append([parameter.grad.clone() for parameter in model.parameters()])
    stacked = [torch.stack(rows) for rows in zip(*found, strict=True)]
    return [(rows - rows.mean(0), rows.mean(0)) for rows in stacked]


@pytest.mark.parametrize("method", ["auto", "loop", "vmap", "hooks", "layers"])
@pytest.mark.parametrize("size", [1, 6])
def test_noise_scales_are_in_the_dual_norm(method, size):
    """The nuclear norm of all deviations side by side is the trace of the root of their outer products' sum."""
    model = network()
    batches = [(x[i : i + size], y[i : i + size]) for x, y in BATCHES for i in range(0, 6, size)]
    count = len(batches)
    per_example = size * (18 - 1) / (18 - size)  # the variance of one example's gradient over a minibatch's
    assert size > 1 or per_example == 1
    parts = deviations(model, batches)

    def scale(optimizer):
        found = ireg.measure(
            model, batches, optimizer=optimizer, criterion=mse_loss, terms=["noise/scale_own"], method=method
        )
        return found["noise/scale_own"]

    rates = (math.sqrt(3 / 4), math.sqrt(2 / 3))
    above = sum(
        rate * float(torch.linalg.matrix_norm(torch.cat(list(rows if short else rows.mT), 1), "nuc")) / count**0.5
        for rate, (rows, mean) in zip(rates, parts, strict=True)
        for short in [mean.shape[0] <= mean.shape[1]]
    )
    below = sum(rate * float(singular_values(mean).sum()) for rate, (_, mean) in zip(rates, parts, strict=True))
    muon = torch.optim.Muon(model.parameters(), lr=0.01, adjust_lr_fn="spectral_unclamped")
    assert scale(muon) == pytest.approx(per_example * (above / below) ** 2, rel=1e-7)
    above = sum(float(rows.std(0, correction=0).sum()) for rows, _ in parts)
    below = sum(float(mean.abs().sum()) for _, mean in parts)
    wanted = pytest.approx(per_example * (above / below) ** 2, rel=1e-9)
    assert scale(Lion(model.parameters(), lr=0.01)) == wanted
    assert scale(torch.optim.SGD(model.parameters(), lr=0.01)) != wanted


@pytest.mark.parametrize("options", [{"population": 9}, {"sampling": "independent"}], ids=str)
def test_norms_of_noise_take_all_minibatches(options):
    model = network()
    for optimizer in (Lion(model.parameters(), lr=0.01), torch.optim.Muon(model.parameters())):
        assert measured(model, optimizer, terms=["noise/scale_own"], **options) == {}
        assert "noise/scale" in measured(model, optimizer, terms=["noise/scale"], **options)


def test_groups_have_rates_of_their_own_and_one_memory():
    model = network()
    first, second = model.parameters()
    optimizer = Lion([{"params": [first], "lr": 0.1}, {"params": [second], "lr": 0.01}], lr=1.0)
    one, other = (float(value.abs().sum()) for value in mean_gradient(model))
    found = measured(model, optimizer, terms=["ireg/own_full_batch"])
    assert found["ireg/own_full_batch"] == pytest.approx(90.5 * (0.1 * one + 0.01 * other), rel=1e-9)
    optimizer.param_groups[1]["betas"] = (0.5, 0.5)
    assert measured(model, optimizer, terms=["ireg/own_full_batch"]) == {}


def test_each_layer_has_its_part():
    model = network()
    found = measured(model, Lion(model.parameters(), lr=0.01), terms=["ireg/own_full_batch"], by="layer")
    whole = found.pop("ireg/own_full_batch")
    assert len(found) == 2
    assert sum(found.values()) == pytest.approx(whole, rel=1e-9)


@pytest.mark.parametrize("options", [{"sampling": "independent"}, {"mode": "two_draws"}])
def test_a_norm_has_no_estimate_from_some_draws(options):
    model = network()
    assert measured(model, Lion(model.parameters(), lr=0.01), terms=["ireg/own_full_batch"], **options) == {}


def test_a_sample_has_no_estimate():
    model, batches = network(), [*BATCHES, *BATCHES]
    optimizer = Lion(model.parameters(), lr=0.01)
    keywords = {"optimizer": optimizer, "criterion": mse_loss, "terms": ["ireg/own_full_batch"]}
    assert ireg.measure(model, batches, num_batches=4, **keywords) == {}
    assert len(ireg.measure(model, batches, **keywords)) == 1


def test_others_are_not_known():
    model = network()
    named = dict(model.named_parameters())
    groups = {name: {"lr": 0.1, "betas": (0.9, 0.99)} for name in named}
    assert steepest_of(torch.optim.Adafactor(model.parameters()), groups, named) is None
    assert steepest_of(Lion(model.parameters(), lr=0.1), groups, named).norm is absolute
    places = {"pytorch_optimizer.optimizer.lion.Lion", "pytorch_optimizer.optimizer.sgd.SignSGD"}
    assert READERS.keys() == {"torch.optim.Muon", *places}
    for changed in ("use_gc", "adanorm", "cautious"):  # another map of the step
        of_each = {name: {**group, changed: True} for name, group in groups.items()}
        assert steepest_of(Lion(model.parameters(), lr=0.1), of_each, named) is None


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda p: torch.optim.Muon(p, momentum=1.0), "muon with momentum 1: its memory must fade"),
        (lambda p: Lion(p, lr=0.1, betas=(0.9, 1.0)), "lion with momentum 1: its memory must fade"),
        (lambda p: Signum(p, lr=0.1, momentum=1.0), "signum with momentum 1: its memory must fade"),
    ],
)
def test_a_memory_for_ever_is_refused(make, match):
    model = network()
    with pytest.raises(ValueError, match=match):
        measured(model, make(model.parameters()), terms=["ireg/own_full_batch"])


def test_an_unknown_factor_of_the_rate_is_refused():
    model = network()
    optimizer = torch.optim.Muon(model.parameters())
    optimizer.param_groups[0]["adjust_lr_fn"] = "other"
    with pytest.raises(ValueError, match="adjust_lr_fn='other': unknown; known are original"):
        measured(model, optimizer, terms=["ireg/own_full_batch"])


@pytest.mark.parametrize("nesterov", [True, False])
def test_torchs_muon_is_the_one_that_is_certified(nesterov):
    """Its filter is that of `ireg.certify.steepest`, which has another step without Nesterov's: to bfloat16."""
    ends = []
    for twin in (True, False):
        weights = torch.nn.Parameter(torch.zeros(3, 4).double())
        if twin:
            steps = certified.Norm(step_map=certified.newton_schulz, betas=(0.8, 0.8), nesterov=nesterov)
            optimizer = steps.made(0.1)([weights])
        else:
            optimizer = torch.optim.Muon([weights], lr=0.1, weight_decay=0.0, momentum=0.8, nesterov=nesterov)
        generator = torch.Generator().manual_seed(1)
        for _ in range(6):
            weights.grad = torch.randn(3, 4, generator=generator).double()
            optimizer.step()
        ends.append(weights.detach())
    assert float((ends[0] - ends[1]).norm() / ends[0].norm()) < 0.02


def test_the_l1_norm_and_the_nuclear_norm():
    matrix = torch.tensor([[3.0, 0.0], [0.0, -4.0]])
    assert (float(absolute(matrix)), float(nuclear(matrix))) == (7.0, pytest.approx(7.0))
    running = GradientFilter(mixed=1.0, kept=0.6, ahead=True)
    found = Steepest(norm=nuclear, step_map=NewtonSchulz(), filter=running, rates={"w": 0.1}, smooth=True).penalty(
        {"w": matrix}
    )
    assert float(found) == pytest.approx(1.4)


@pytest.mark.parametrize(("momentum", "lag"), [(0.0, 0.0), (0.8, 4.0)])
def test_signum_penalizes_the_sum_of_absolute_gradients(momentum, lag):
    model = network()
    expected = 0.01 * (0.5 + lag) * sum(float(value.abs().sum()) for value in mean_gradient(model))
    optimizer = Signum(model.parameters(), lr=0.01, momentum=momentum)
    found = measured(model, optimizer, terms=["ireg/own_full_batch"])
    assert found == {"ireg/own_full_batch": pytest.approx(expected, rel=1e-9)}


@pytest.mark.parametrize(
    ("make", "steps"),
    [
        (lambda p: Signum(p, lr=0.1, momentum=0.8), certified.Norm(step_map=certified.identity, betas=(0.0, 0.8))),
        (
            lambda p: Lion(p, lr=0.1, betas=(0.7, 0.8)),
            certified.Norm(step_map=certified.identity, betas=(0.7, 0.8), ahead=False),
        ),
        (
            lambda p: torch.optim.Muon(p, lr=0.1, momentum=0.8),
            certified.Norm(step_map=certified.identity, betas=(0.8, 0.8), nesterov=True),
        ),
    ],
)
def test_what_is_remembered_is_what_one_gradient_among_zeros_shows(make, steps):
    """η_e, L and the shares of gradients that are d steps old, by steps of the same filter."""
    model = torch.nn.Linear(2, 1, bias=False).double()
    memory = view(make(model.parameters()), dict(model.named_parameters())).memory
    parameter = torch.nn.Parameter(torch.zeros(1).double())
    optimizer = steps.made(1.0)([parameter])
    taken = []
    for step in range(400):
        before = parameter.detach().clone()
        parameter.grad = torch.full_like(parameter, float(step == 0))
        optimizer.step()
        taken.append(float(before - parameter.detach()))
    assert sum(taken) == pytest.approx(1.0, rel=1e-12)
    assert (memory.effective_rate, memory.lag) == pytest.approx(
        (0.1, sum(age * share for age, share in enumerate(taken))), rel=1e-10
    )
    for distance in (1, 2, 5):
        assert memory.tail_share(distance) == pytest.approx(sum(taken[distance:]), rel=1e-10)


def test_a_step_without_a_linear_edge_has_no_number_of_it():
    """Near 0 a sign, a polar factor and a direction are no linear maps: nothing is said of an edge of stability."""
    tags = [tag for tag in TERMS if tag.startswith("curvature/")]
    edges = {
        "curvature/preconditioned_sharpness", "curvature/edge_fraction", "curvature/along_step", "curvature/noise_edge"
    }  # fmt: skip
    for make in (Lion, Signum, torch.optim.Muon):
        model = network()
        optimizer = make(model.parameters(), lr=0.01)
        found = measured(model, optimizer, terms=tags)
        assert "curvature/lambda_max" in found
        assert not edges & found.keys()
        with pytest.raises(ValueError, match="no rule is known for it"):
            _ = view(optimizer, dict(model.named_parameters())).edge
    sgd = measured(network_ := network(), torch.optim.SGD(network_.parameters(), lr=0.01), terms=tags)
    assert edges <= sgd.keys()


@pytest.mark.parametrize("shape", [(3, 2), (2, 3), (3, 3)])
def test_the_polar_factor_and_its_derivative(shape):
    generator = torch.Generator().manual_seed(1)
    matrix, direction = (torch.randn(shape, generator=generator).double() for _ in range(2))
    potential = matrix.clone().requires_grad_()
    (expected,) = torch.autograd.grad(nuclear(potential), potential)
    torch.testing.assert_close(polar(matrix), expected, rtol=1e-10, atol=1e-12)
    step = 1e-6
    difference = (polar(matrix + step * direction) - polar(matrix - step * direction)) / (2 * step)
    torch.testing.assert_close(polar_along(matrix, direction), difference, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_muons_flow_of_full_batches_is_that_of_its_own_steps_in_double_precision(decay):
    """torch's own rounds to bfloat16; a twin of it shows its flow by no formula (docs/theory.md, section 18)."""
    model = network()  # of wide matrices, whose rates have the factor 1
    optimizer = torch.optim.Muon(model.parameters(), lr=0.01, momentum=0.8, weight_decay=decay)
    with pytest.warns(UserWarning, match="Muon: no rule is known for it; .* are of full batches alone"):
        found = measured(model, optimizer, terms="theory")

    def decayed(optimizer, *_):
        for value in optimizer.param_groups[0]["params"]:
            value.data.mul_(1 - 0.01 * decay)

    def twin(parameters):
        made = certified.Norm(step_map=certified.newton_schulz, betas=(0.8, 0.8), nesterov=True).made(0.01)(parameters)
        made.register_step_pre_hook(decayed)
        return made

    flow = ireg.modified_flow(twin, model, BATCHES, criterion=mse_loss)
    assert found["ireg/strength/full_batch"] == pytest.approx(flow.strength, rel=1e-4)
    assert found["ireg/alignment/full_batch"] == pytest.approx(flow.alignment, rel=1e-4)
    assert not {"ireg/strength", "ireg/alignment", "ireg/strength_memory"} & found.keys()


def test_the_flow_of_a_sign_is_what_its_decay_makes():
    model = network()
    with pytest.warns(UserWarning, match="Signum: no rule is known for it"):
        found = measured(model, Signum(model.parameters(), lr=0.01), terms=["ireg/strength", "ireg/alignment"])
    assert found == {"ireg/strength/full_batch": 0.0}
    optimizer = Signum(model.parameters(), lr=0.01, momentum=0.5, weight_decay=0.5)
    with pytest.warns(UserWarning, match="Signum: no rule is known for it"):
        found = measured(model, optimizer, terms=["ireg/strength"])
    assert found["ireg/strength/full_batch"] == pytest.approx(0.5 * 0.01 * 0.5, rel=1e-9)  # ½ηw of the step itself
    flow = ireg.modified_flow(
        lambda p: Signum(p, lr=0.01, momentum=0.5, weight_decay=0.5), model, BATCHES, criterion=mse_loss
    )
    assert found["ireg/strength/full_batch"] == pytest.approx(flow.strength, rel=1e-4)


@pytest.mark.parametrize(("name", "arguments"), [("Lion", {"betas": (0.7, 0.8)}), ("SignSGD", {"momentum": 0.8})])
def test_the_librarys_own_classes_are_read(name, arguments):
    library = pytest.importorskip("pytorch_optimizer", reason="NOT TESTED: pip install -e '.[optimizers]'")
    model = network()
    optimizer = getattr(library, name)(model.parameters(), lr=0.01, **arguments)
    lag = {"Lion": 0.7 / 0.2, "SignSGD": 4.0}[name]
    expected = 0.01 * (0.5 + lag) * sum(float(value.abs().sum()) for value in mean_gradient(model))
    found = measured(model, optimizer, terms=["ireg/own_full_batch"])
    assert found == {"ireg/own_full_batch": pytest.approx(expected, rel=1e-9)}
