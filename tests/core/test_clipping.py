"""Clipping as a map of the step: potentials, terms, and the ramp that goes through the clip."""

import threading
import warnings

import pytest
import torch
from torch import nn
from torch.func import jvp
from torch.nn.functional import mse_loss

import ireg
from ireg.certify import clipped
from ireg.certify.any_optimizer import network
from ireg.core.clipping import Clip, clipping_of
from ireg.core.norms import norm
from ireg.core.optimizers import view
from ireg.core.ramp import respond

PROBLEM = network()
GRADIENT = PROBLEM.gradient(PROBLEM.start)
SIZE = float(norm(GRADIENT))
TAG = "ireg/own_full_batch"
GENERATOR = torch.Generator().manual_seed(0)
BATCHES = [tuple(torch.randn(6, size, generator=GENERATOR).double() for size in (3, 2)) for _ in range(3)]


def product(direction):
    return PROBLEM.product(PROBLEM.start, direction)


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


def by_torch(clip):
    parameters = [nn.Parameter(torch.zeros_like(value)) for value in GRADIENT.values()]
    for parameter, value in zip(parameters, GRADIENT.values(), strict=True):
        parameter.grad = value.clone()
    if clip.by == "norm":
        nn.utils.clip_grad_norm_(parameters, clip.bound)
    else:
        nn.utils.clip_grad_value_(parameters, clip.bound)
    return [parameter.grad for parameter in parameters]


@pytest.mark.parametrize("clip", [Clip(0.1), Clip(0.9 * SIZE), Clip(2 * SIZE), Clip(0.3, "value"), Clip(9.0, "value")])
def test_what_torch_clips_is_the_gradient_of_the_potential(clip):
    leaves = {name: value.clone().requires_grad_() for name, value in GRADIENT.items()}
    found = torch.autograd.grad(clip.potential(leaves), list(leaves.values()))
    for one, other in zip(found, by_torch(clip), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-12)  # torch adds 1e-6 to the norm
    assert clip.acts(GRADIENT) == (clip.bound < (SIZE if clip.by == "norm" else 0.55))


def test_shares_of_the_rates():
    gradient = {"a": torch.tensor([3.0]), "b": torch.tensor([-1.0])}
    shares = {"a": torch.tensor([1.0]), "b": torch.tensor([0.5])}
    assert float(Clip(2.0, "value").potential(gradient, shares)) == pytest.approx(2 * 3 - 2 + 0.25)
    assert Clip(2.0).potential(gradient, shares) is None


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((0.0,), r"clip: bound=0.0: must be a finite number above 0"),
        ((float("inf"),), "clip: bound=inf"),
        ((1.0, "layer"), "clip: by='layer': must be one of norm, value"),
    ],
)
def test_a_clip_that_is_none_is_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        Clip(*arguments)


def test_the_bound_is_read_off_two_gradients():
    before = {"w": torch.tensor([3.0, 4.0])}
    assert clipping_of(before, {"w": 0.2 * before["w"]}).clip == Clip(1.0)
    assert clipping_of(before, {"w": torch.tensor([3.0, 3.1])}).clip == Clip(3.1, "value")
    other = {"w": torch.tensor([3.0, 1.7])}
    assert clipping_of(other, {"w": other["w"] * 0.5}).clip is None  # the largest entry becomes 1.5


@pytest.mark.parametrize(("size", "known"), [(1.25, True), (1.253, False), (125.0, True), (0.00125, True)])
def test_a_bound_that_somebody_has_chosen_has_three_digits(size, known):
    before = {"w": torch.tensor([3.0, 4.0]).double()}  # at a norm of 1.253 the largest entry is 1.0024
    found = clipping_of({"w": 1e3 * before["w"]}, {"w": size / 5 * before["w"]})
    assert (found.clip == Clip(size)) if known else found is None


@pytest.mark.parametrize("name", [name for name in clipped.CASES if not name.startswith("Adam")])
def test_the_ramp_through_the_clip_has_the_closed_form(name):
    """ηc = η_e² (½ + L) DT(g)[H T(g)] of SGD and momentum, the derivative of T by forward differentiation."""
    rate, case = 1e-3, clipped.CASES[name]
    momentum = 0.8 if name.startswith("momentum") else 0.0
    effective, lag = rate / (1 - momentum), momentum / (1 - momentum)
    found = respond(case.through(case.make(rate)), PROBLEM.start, GRADIENT, product)
    step = _clipped_together if "norm" in name else {key: clipped.cut for key in GRADIENT}

    def mapped(gradient):
        if callable(step):
            return step(gradient)
        return {key: step[key](value) for key, value in gradient.items()}

    taken = mapped(GRADIENT)
    turned = jvp(mapped, (GRADIENT,), (product(taken),))[1]
    expected = {key: effective**2 * (0.5 + lag) * value for key, value in turned.items()}
    assert float(norm({key: value - found.correction[key] for key, value in expected.items()})) <= 1e-5 * float(
        norm(expected)
    )


def _clipped_together(gradient):
    size = torch.cat([value.flatten() for value in gradient.values()]).norm()
    return {key: value * (clipped.BY_NORM.bound / size) for key, value in gradient.items()}


def test_the_ramp_of_adam_goes_through_the_clip():
    """As if Adam saw the clipped gradient, and uphill what the clip's derivative makes of HΔ."""
    rate = 1e-3
    through = respond(clipped.BY_NORM.made(clipped.adam(rate)), PROBLEM.start, GRADIENT, product)

    def of_clipped(direction):
        return jvp(_clipped_together, (GRADIENT,), (product(direction),))[1]

    expected = respond(clipped.adam(rate), PROBLEM.start, _clipped_together(GRADIENT), of_clipped)
    left_out = respond(clipped.adam(rate), PROBLEM.start, GRADIENT, product)

    def off(one):
        return float(norm({key: value - one.correction[key] for key, value in expected.correction.items()}))

    assert off(through) <= 1e-4 * float(norm(expected.correction))
    assert off(left_out) >= 0.05 * float(norm(expected.correction))


def test_the_modified_flow_of_a_model_is_clipped():
    found = ireg.modified_flow(
        lambda p: torch.optim.SGD(p, lr=0.1), model(), BATCHES, criterion=mse_loss, clip=ireg.Clip(0.01)
    )
    assert float(norm(found.leading)) == pytest.approx(0.1 * 0.01, rel=1e-3)


def measured(made, optimizer, **keywords):
    return ireg.measure(made, BATCHES, optimizer=optimizer, criterion=mse_loss, **keywords)


def mean_gradient(made):
    torch.stack([mse_loss(made(inputs), targets) for inputs, targets in BATCHES]).mean().backward()
    found = {name: value.grad.clone() for name, value in made.named_parameters()}
    made.zero_grad()
    return found


@pytest.mark.parametrize(("momentum", "nesterov", "lag"), [(0.0, False, 0.0), (0.8, False, 4.0), (0.8, True, 3.2)])
@pytest.mark.parametrize("by", ["norm", "value"])
def test_clipped_sgd_penalizes_hubers_function(momentum, nesterov, lag, by):
    made = model()
    entries = torch.cat([value.flatten() for value in mean_gradient(made).values()])
    optimizer = torch.optim.SGD(made.parameters(), lr=0.01, momentum=momentum, nesterov=nesterov)
    if by == "norm":
        bound = 0.5 * float(entries.norm())
        potential = bound * float(entries.norm()) - bound**2 / 2
    else:
        bound = 0.5 * float(entries.abs().max())
        sizes = entries.abs()
        potential = float(torch.where(sizes <= bound, sizes.square() / 2, bound * sizes - bound**2 / 2).sum())
    found = measured(made, optimizer, clip=Clip(bound, by))
    assert found[TAG] == pytest.approx(0.01 / (1 - momentum) * (0.5 + lag) * potential, rel=1e-9)
    assert not {"ireg/own", "ireg/own_variance"} & found.keys()  # what minibatches add is not known then
    wide = measured(made, optimizer, clip=Clip(1e3, by))
    assert wide == measured(made, optimizer)


def test_where_clipped_steps_have_no_loss():
    made = model()
    first, *others = made.parameters()
    small, each = Clip(1e-3), Clip(1e-3, "value")
    decayed = torch.optim.SGD(made.parameters(), lr=0.01, weight_decay=0.1)
    assert measured(made, decayed, terms=[TAG], clip=small) == {}
    grouped = torch.optim.SGD([{"params": [first], "lr": 0.1}, {"params": others}], lr=0.01)
    assert measured(made, grouped, terms=[TAG], clip=small) == {}
    sizes = [value.abs() for value in mean_gradient(made).values()]
    parts = [float(torch.where(s <= 1e-3, s * s / 2, 1e-3 * s - 5e-7).sum()) for s in sizes]
    found = measured(made, grouped, terms=[TAG], clip=each)[TAG]
    assert found == pytest.approx(0.5 * (0.1 * parts[0] + 0.01 * sum(parts[1:])), rel=1e-6)


def test_layers_add_up_by_value_alone():
    made = model()
    optimizer = torch.optim.SGD(made.parameters(), lr=0.01)
    assert set(measured(made, optimizer, terms=[TAG], by="layer", clip=Clip(1e-3))) == {TAG}
    found = measured(made, optimizer, terms=[TAG], by="layer", clip=Clip(1e-3, "value"))
    whole = found.pop(TAG)
    assert len(found) == 2
    assert sum(found.values()) == pytest.approx(whole, rel=1e-9)


def test_signs_and_polar_factors_of_clipped_gradients():
    """A common factor changes neither; signs stay by value, too, and singular vectors do not."""
    made = nn.Linear(3, 2, bias=False).double()
    muon = torch.optim.Muon(made.parameters(), lr=0.01)
    plain = measured(made, muon, terms=[TAG])
    assert measured(made, muon, terms=[TAG], clip=Clip(1e-3)) == plain
    assert measured(made, muon, terms=[TAG], clip=Clip(1e-3, "value")) == {}


def test_adaptive_optimizers_terms_are_those_without_clipping():
    made = model()
    optimizer = torch.optim.Adam(made.parameters(), lr=0.01)
    made.zero_grad()
    mse_loss(made(BATCHES[0][0]), BATCHES[0][1]).backward()
    optimizer.step()
    assert measured(made, optimizer, clip=Clip(1e-3)) == measured(made, optimizer)


def trained(step, **options):
    made = model()
    optimizer = torch.optim.SGD(made.parameters(), lr=0.01)
    monitor = ireg.Monitor(made, optimizer, criterion=mse_loss, terms=[TAG], **options)
    for batch in BATCHES:
        optimizer.zero_grad()
        mse_loss(made(batch[0]), batch[1]).backward()
        step(made)
        optimizer.step()
        monitor.update(batch)
    return made, optimizer, monitor


@pytest.mark.parametrize(
    ("step", "clip"),
    [
        (lambda made: nn.utils.clip_grad_norm_(made.parameters(), 0.05), Clip(0.05)),
        (lambda made: nn.utils.clip_grad_value_(made.parameters(), 0.02), Clip(0.02, "value")),
    ],
)
def test_a_monitor_sees_the_clip_in_the_step_that_it_compares(step, clip):
    made, optimizer, monitor = trained(step)
    found = monitor.compute()[TAG]
    assert found == pytest.approx(measured(made, optimizer, terms=[TAG], clip=clip)[TAG], rel=1e-6)
    assert found < 0.9 * measured(made, optimizer, terms=[TAG])[TAG]


def test_a_monitor_that_compares_no_step_is_told():
    made, optimizer, monitor = trained(lambda made: nn.utils.clip_grad_norm_(made.parameters(), 0.05), check="off")
    monitor.clip = Clip(0.05)
    assert monitor.compute() == pytest.approx(measured(made, optimizer, terms=[TAG], clip=Clip(0.05)), rel=1e-12)


class Plain(torch.optim.Optimizer):
    """A class that no rule is known for: SGD."""

    def __init__(self, params, lr, momentum=0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                mean = self.state[parameter].setdefault("mean", torch.zeros_like(parameter))
                mean.mul_(group["momentum"]).add_(parameter.grad)
                parameter.sub_(mean, alpha=group["lr"])


class Unmakeable(Plain):
    """It holds what cannot be copied."""

    def __init__(self, params):
        super().__init__(params, 0.01)
        self.lock = threading.Lock()


class Summing(Plain):
    """Its memory does not fade."""

    def __init__(self, params, lr):
        super().__init__(params, lr, momentum=1.0)


def test_a_class_that_no_rule_is_known_for_has_a_flow_of_full_batches():
    made = model()
    with pytest.warns(
        UserWarning, match="^Plain: no rule is known for it; ireg/strength/full_batch and ireg/alignment"
    ):
        found = measured(made, Plain(made.parameters(), 0.01, momentum=0.8), terms="theory")
    one = [(torch.cat([x for x, _ in BATCHES]), torch.cat([y for _, y in BATCHES]))]  # one minibatch is a full batch
    sgd = torch.optim.SGD(made.parameters(), 0.01, momentum=0.8)
    known = ireg.measure(made, one, optimizer=sgd, criterion=mse_loss, terms="theory")
    assert found["ireg/strength/full_batch"] == pytest.approx(known["ireg/strength"], rel=1e-4)
    assert found["ireg/alignment/full_batch"] == pytest.approx(known["ireg/alignment"], rel=1e-4)
    with pytest.warns(UserWarning, match="Plain"):
        clip = measured(made, Plain(made.parameters(), 0.01, momentum=0.8), terms="theory", clip=Clip(1e-3))
    assert clip["ireg/strength/full_batch"] < 0.5 * found["ireg/strength/full_batch"]


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (
            Unmakeable,
            "Unmakeable: no rule .*; nor is a flow of full batches: Unmakeable cannot be copied",
        ),
        (lambda p: Summing(p, 0.01), "nor is a flow of full batches: the memory of Summing has not faded after 128"),
        (lambda p: torch.optim.Adafactor(p, lr=0.01), "Adafactor: no rule .*; nor is a flow of full batches: "),
        (lambda p: torch.optim.Adagrad(p, lr=0.01), "adagrad: its mean flow is known only where .*; nor is a flow"),
        (
            lambda p: torch.optim.Rprop(p, lr=0.01),
            "Rprop: .*: a step does not respond to small changes of the gradient",
        ),
    ],
)
def test_what_has_no_flow_is_said_and_stops_nothing(make, match, monkeypatch):
    monkeypatch.setattr("ireg.core.full_batch_flow.MOST", 128)
    made = model()
    with pytest.warns(UserWarning, match=match):
        found = measured(made, make(made.parameters()), terms="theory")
    assert {"ireg/sgd", "norm/l2"} <= found.keys()
    assert not [tag for tag in found if "strength" in tag or "alignment" in tag]


def test_a_monitor_says_it_once_and_does_not_try_again(monkeypatch):
    monkeypatch.setattr("ireg.core.full_batch_flow.MOST", 1024)
    made = model()
    optimizer = Summing(made.parameters(), 0.01)
    monitor = ireg.Monitor(made, optimizer, criterion=mse_loss, terms=["ireg/strength", "norm/l2"], check="off")
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        for _ in range(2):
            for batch in BATCHES:
                monitor.update(batch)
            assert monitor.compute().keys() == {"norm/l2"}
            monitor.reset()
    assert [str(warning.message) for warning in given if "Summing" in str(warning.message)] == [
        "Summing: no rule is known for it; nor is a flow of full batches: the memory of Summing has not faded after "
        "1024 steps: what it does depends on all of its past, and there is no flow of its weights alone; ireg/strength "
        "and ireg/alignment are left out"
    ]
    assert monitor._rows[1]["time/terms"] < 0.2 * monitor._rows[0]["time/terms"]


def test_groups_with_rates_of_their_own_have_the_flow_of_full_batches():
    made = model()
    first, *others = made.parameters()
    groups = [{"params": [first], "lr": 0.05}, {"params": others}]
    optimizer = torch.optim.SGD(groups, lr=0.01, momentum=0.5)
    with pytest.warns(UserWarning, match="^the mean flow is known for one rate and one weight decay"):
        found = measured(made, optimizer, terms=["ireg/strength"])
    flow = ireg.modified_flow(
        lambda p: torch.optim.SGD([{"params": p[:1], "lr": 0.05}, {"params": p[1:]}], lr=0.01, momentum=0.5),
        made, BATCHES, criterion=mse_loss,
    )  # fmt: skip
    assert found == {"ireg/strength/full_batch": pytest.approx(flow.strength, rel=1e-4)}


def test_large_models_take_no_steps_of_their_own(monkeypatch):
    monkeypatch.setattr("ireg.core.large.LARGE", 8)
    made = model()
    with pytest.warns(UserWarning, match="its own steps are not taken for more than 16 MiB of weights"):
        assert measured(made, Plain(made.parameters(), 0.01), terms=["ireg/strength"]) == {}


def test_an_optimizer_is_made_again_from_what_its_groups_say():
    made = model()
    optimizer = torch.optim.AdamW(made.parameters(), lr=0.01, betas=(0.5, 0.6), weight_decay=0.3)
    optimizer.param_groups[0]["lr"] = 0.2
    parameters = [nn.Parameter(value.detach().clone()) for value in made.parameters()]
    again = view(optimizer, dict(made.named_parameters())).make(parameters)
    assert type(again) is torch.optim.AdamW
    assert again.param_groups[0]["params"] == parameters
    for key in ("lr", "betas", "weight_decay", "eps"):
        assert again.param_groups[0][key] == optimizer.param_groups[0][key]
    assert not optimizer.state
    with pytest.raises(ValueError, match="^Unmakeable cannot be copied: .*lock"):
        view(Unmakeable(made.parameters()), dict(made.named_parameters())).make(parameters)


def test_a_penalty_beside_the_loss_has_no_flow_of_full_batches():
    made = model()
    with pytest.warns(UserWarning, match="it is not computed with a regularizer"):
        found = measured(
            made,
            Plain(made.parameters(), 0.01),
            terms=["ireg/strength"],
            regularizer=ireg.regularizers.L2(strength=0.1),
        )
    assert found == {}
