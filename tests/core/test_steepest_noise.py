"""F at rate 0 of steepest descent and of any optimizer: over all orders, by formulas, and by steps of their own."""

from itertools import product

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss
from torch.testing import assert_close

import ireg
from ireg.certify import fluctuation
from ireg.certify.steepest import NORMS
from ireg.core.driven_noise import driven_noise
from ireg.core.frozen_gradients import FrozenGradients
from ireg.core.optimizers import view
from ireg.core.optimizers.steepest import GradientFilter, NewtonSchulz, Steepest, absolute
from ireg.core.optimizers.twin import twins
from ireg.core.ramp import NoFlowError
from ireg.core.steepest_noise import expanded_noise, steepest_noise
from tests.core.optimizers.test_steepest import Lion

SHAPES = {"first": (3, 2), "second": (2, 3)}
STILL = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in SHAPES.items()}


def rows(count=3, size=1.0):
    generator = torch.Generator().manual_seed(2)
    mean = {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in SHAPES.items()}
    return [
        {name: value + size * torch.randn(value.shape, generator=generator, dtype=torch.float64)
         for name, value in mean.items()}
        for _ in range(count)
    ]  # fmt: skip


def frozen(given, **options):
    return FrozenGradients(lambda weights, row: sum((weights[n] * row[n]).sum() for n in row), STILL, given, **options)


def steepest(of, **options):
    keywords = {"rates": dict.fromkeys(SHAPES, 1.0), "smooth": True} | options
    return Steepest(norm=absolute, step_map=of.step_map, filter=of.filter, **keywords)


@pytest.mark.parametrize("name", ["lion, smoothed", "muon, smoothed", "momentum of clipped means"])
def test_f_is_that_of_all_orders(name):
    of, given = fluctuation._shortened(NORMS[name]), rows()
    expected = fluctuation._over_all_orders(of, given)
    found = steepest_noise(frozen(given), steepest(of), STILL, torch.Generator().manual_seed(0), orders=200)
    assert bool(((found.mean - expected).abs() < 4.5 * found.variance.sqrt()).all())
    assert float(expected.norm()) > 5 * float(found.variance.sum().sqrt())
    value, error = found.change
    assert abs(value - float(expected.norm())) < 4 * error
    assert error < 0.1 * value


def test_the_linear_part_saves_orders_and_a_sign_has_none():
    of, given = fluctuation._shortened(NORMS["lion, smoothed"]), rows(6, size=0.2)
    smooth, rough = (
        steepest_noise(frozen(given), steepest(of, smooth=each), STILL, torch.Generator().manual_seed(0), orders=50)
        for each in (True, False)
    )
    assert float(smooth.variance.sum()) < 0.7 * float(rough.variance.sum())
    assert expanded_noise(frozen(given), steepest(of, smooth=False), STILL) is None


def test_independent_minibatches_vary_more():
    of, given = fluctuation._shortened(NORMS["signum, smoothed"]), rows(4, size=0.02)
    whole = steepest_noise(
        frozen(given), steepest(of), STILL, torch.Generator().manual_seed(0), orders=400, sampling="independent"
    )
    expanded = [expanded_noise(frozen(given), steepest(of), STILL, sampling=s)[1] for s in ("independent", "epoch")]
    assert float((whole.mean - expanded[0]).norm() / expanded[0].norm()) < 0.2
    left = of.filter.noise(4, independent=True) * 4 / 3 / of.filter.noise(4)
    assert_close(expanded[0], left * expanded[1], rtol=1e-10, atol=0)


@pytest.mark.parametrize("ahead", [True, False])
@pytest.mark.parametrize(("mixed", "kept"), [(0.9, 0.5), (1.0, 0.6), (0.7, 0.0)])
def test_what_is_left_of_the_noise_is_a_double_sum_over_lags(mixed, kept, ahead):
    """Two lags are of one epoch for a share of the steps; two minibatches of it have the covariance −1/(m − 1)."""
    of, m = GradientFilter(mixed=mixed, kept=kept, ahead=ahead), 4
    mean, weights = 0.0, []
    for step in range(60):  # one gradient of 1, and then zeros
        new = 1.0 if step == 0 else 0.0
        after = kept * mean + (1 - kept) * new
        weights.append((1 - mixed) * new + mixed * (after if ahead else mean))
        mean = after
    assert sum(weights) == pytest.approx(1, rel=1e-12)
    assert sum(n * weight for n, weight in enumerate(weights)) == pytest.approx(of.lag, rel=1e-9)
    assert of.first == pytest.approx(weights[:2], rel=1e-12)
    pairs = sum(
        weights[i] * weights[j] * (1.0 if i == j else -max(0.0, 1 - abs(i - j) / m) / (m - 1))
        for i, j in product(range(60), repeat=2)
    )
    assert of.noise(m) == pytest.approx(pairs, rel=1e-10)
    assert of.noise(m, independent=True) == pytest.approx(sum(weight**2 for weight in weights), rel=1e-10)


@pytest.mark.parametrize("shape", [(5, 3), (3, 5)])
def test_newton_and_schulz_are_torchs(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weight = nn.Parameter(torch.zeros(shape, dtype=torch.float64))
    weight.grad = matrix.clone()
    torch.optim.Muon([weight], lr=1.0, weight_decay=0.0, momentum=0.0, adjust_lr_fn="match_rms_adamw").step()
    step = -weight.detach() / (0.2 * 5**0.5)
    assert float((step - NewtonSchulz()(matrix)).norm() / step.norm()) < 0.03  # bfloat16


# Any optimizer by its own steps


def test_the_filter_is_what_an_optimizer_does_itself():
    given, of = rows(4), NORMS["muon, smoothed"]
    by_filter = steepest_noise(frozen(given), steepest(of), STILL, torch.Generator().manual_seed(0), orders=100)
    driven = driven_noise(of.made(0.5), frozen(given), STILL, torch.Generator().manual_seed(1), orders=16)
    assert_close(driven.noiseless, 0.5 * by_filter.noiseless, rtol=1e-6, atol=0)
    (one, error), (other, its) = by_filter.change, driven.change
    assert abs(0.5 * one - other) < 4 * (0.25 * error**2 + its**2) ** 0.5
    assert its < 0.2 * other


def test_what_does_not_settle_is_refused():
    given, generator = rows(2), torch.Generator()

    def noise(make, **options):
        gradients = frozen(given, **options.pop("kept", {}))
        return driven_noise(make, gradients, STILL, generator, orders=2, **options)

    with pytest.raises(NoFlowError, match="gradients of 2 minibatches are too many to be stored"):
        noise(torch.optim.SGD, kept={"stored": 8})
    with pytest.raises(NoFlowError, match="memory of Adagrad has not faded after 128 steps"):
        noise(torch.optim.Adagrad, most=128)
    with pytest.raises(NoFlowError, match=r"Adam has not forgotten its first steps after \d+ more"):
        noise(lambda parameters: torch.optim.Adam(parameters, betas=(0.5, 0.999)), most=128)
    with pytest.raises(ValueError, match="orders=1: must be at least 2"):
        driven_noise(torch.optim.SGD, frozen(given), STILL, generator, orders=1)


class Named(torch.optim.SGD):
    """What is made of it has no rule: it is driven."""

    def __init__(self, params, lr, held=None):
        super().__init__(params, lr, momentum=0.5)
        self.held = held


def test_a_twin_has_the_settings_and_no_past():
    first, second = (nn.Parameter(torch.ones(2)) for _ in range(2))
    of = torch.optim.Adadelta([{"params": [first], "lr": 0.3}, {"params": [second], "rho": 0.5}], lr=0.1)
    first.grad = torch.ones(2)
    torch.optim.lr_scheduler.StepLR(of, 1)  # it sets `step` of this object
    of.step()
    (mine,) = parameters = [nn.Parameter(torch.zeros(2))]
    twin = twins(of, {"first": first}, of.param_groups)(parameters)
    assert [group["lr"] for group in twin.param_groups] == [0.3]
    before = first.detach().clone()
    mine.grad = torch.ones(2)
    twin.step()
    assert torch.equal(first, before)
    assert bool((mine < 0).all())
    assert len(twin.state[mine]) == len(of.state[first])


def test_what_cannot_be_copied_is_refused():
    weight = nn.Parameter(torch.ones(1))
    of = Named([weight], 0.1, held=(number for number in range(3)))
    with pytest.raises(ValueError, match="Named cannot be copied: cannot pickle 'generator' object"):
        twins(of, {"weight": weight}, of.param_groups)([weight])


# As terms


def problem():
    torch.manual_seed(1)
    model = nn.Linear(3, 2, bias=False).double()
    batches = [tuple(torch.randn(4, width, dtype=torch.float64) for width in (3, 2)) for _ in range(5)]
    return model, batches


def measured(make, terms, **options):
    model, batches = problem()
    return ireg.measure(model, batches, optimizer=make(model.parameters()), criterion=mse_loss, terms=terms, **options)


def test_muon_has_its_set():
    found = measured(
        lambda p: torch.optim.Muon(p, lr=0.1, momentum=0.5, weight_decay=0.0), ["fluctuation", "mean_step"]
    )
    assert found["noise/step"] == pytest.approx(found["ireg/strength_fluctuation_exact"], rel=1e-9)
    assert found["ireg/strength_fluctuation"] > 0
    assert not {"ireg/alignment_fluctuation", "ireg/alignment_fluctuation_exact"} & found.keys()
    decayed = measured(lambda p: torch.optim.Muon(p, lr=0.1, momentum=0.5, weight_decay=9.0), ["noise/step"])
    assert decayed["noise/step"] < 0.9 * found["noise/step"]


def test_lions_is_that_of_signs_and_it_has_no_expansion():
    """Of one gradient's sign: the mean of the signs less the sign of the mean."""
    model, batches = problem()
    signs = []
    for inputs, targets in batches:
        (gradient,) = torch.autograd.grad(mse_loss(model(inputs), targets), model.weight)
        signs.append(gradient)
    each = torch.stack(signs)
    expected = float((each.sign().mean(0) - each.mean(0).sign()).norm() / 6**0.5)
    found = measured(lambda p: Lion(p, lr=0.1, betas=(0.0, 0.0)), ["fluctuation", "mean_step", "theory"])
    assert found["noise/step"] == pytest.approx(expected, rel=1e-9)
    assert found["ireg/strength_fluctuation_exact"] == pytest.approx(expected, rel=1e-9)
    assert expected > 0.1
    assert not {"ireg/strength", "ireg/strength_fluctuation", "ireg/alignment"} & found.keys()


def test_lions_decay_is_decoupled_or_not():
    weight = nn.Parameter(torch.ones(2))
    for said, decays, l2_decays in (
        ({}, {"w": 0.05}, {}),
        ({"fixed_decay": True}, {"w": 0.5}, {}),
        ({"weight_decouple": False}, {}, {"w": 0.5}),
    ):
        optimizer = Lion([weight], lr=0.1)
        optimizer.param_groups[0].update(weight_decay=0.5, **said)
        seen = view(optimizer, {"w": weight}).steepest
        assert (dict(seen.decays), dict(seen.l2_decays)) == (decays, l2_decays)


def test_an_optimizer_without_a_rule_is_driven():
    """RAdam past its warm-up is Adam, whose noise is computed by filters."""
    options = {"lr": 0.1, "betas": (0.5, 0.9)}
    radam, adam = (
        measured(lambda p, of=of: of(p, **options), ["mean_step"]) for of in (torch.optim.RAdam, torch.optim.Adam)
    )
    error = (radam["noise/step_se"] ** 2 + adam["noise/step_se"] ** 2) ** 0.5
    assert abs(radam["noise/step"] - adam["noise/step"]) < 4 * error
    assert error < 0.1 * adam["noise/step"]


def test_a_linear_step_does_not_change():
    for make in (lambda p: torch.optim.SGD(p, lr=0.1), lambda p: Named(p, 0.1)):
        found = measured(make, ["noise/step", "noise/step_se"])
        assert found["noise/step"] <= 6 * found.get("noise/step_se", 0.0)  # three times the error of its square
    assert measured(lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), ["mean_step"])["noise/step"] == 0


def test_groups_of_a_rule_have_no_mean_step():
    """Filters know one rate: a number for several would be wrong."""
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1)).double()
    groups = [{"params": model[0].parameters(), "lr": 0.2}, {"params": model[1].parameters(), "lr": 0.1}]
    batches = [(torch.full((1, 2), x).double(), torch.ones(1, 1).double()) for x in (1.0, -2.0)]
    for make in (torch.optim.Adam, torch.optim.RMSprop):
        with pytest.raises(ValueError, match="give all parameter groups the same"):
            ireg.measure(
                model, batches, optimizer=make(groups), criterion=torch.nn.functional.mse_loss, terms=["noise/step"]
            )


def test_who_has_no_mean_step():
    for make, match in (
        (lambda p: torch.optim.Adagrad(p, lr=0.1), "fading mean"),
        (lambda p: torch.optim.Adam(p, lr=0.1, amsgrad=True), "fading mean"),
    ):
        with pytest.raises(ValueError, match=match):
            measured(make, ["noise/step"])
    with pytest.raises(ValueError, match="no rule is known for it"):
        measured(lambda p: torch.optim.RAdam(p, lr=0.1), ["ireg/strength_fluctuation_exact"])
