"""The engine's public functions, against plain autograd, dense Hessians and LAPACK in float64."""

import copy
import random
import re

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

import ireg
from ireg.terms import norm
from tests import reference
from tests.conftest import ROOT

EXACT = {"rtol": 1e-10, "atol": 1e-14}
"""Sums of the same numbers in another order."""
DENSE = {"rtol": 1e-9, "atol": 1e-12}
"""A Hessian by another order of differentiation."""
EIGENVALUE = 1e-8
"""Relative, at a residual of 1e-6 of it: the error is of second order."""


class Tied(nn.Module):
    """One matrix in two layers."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.second.weight = self.first.weight

    def forward(self, inputs):
        return self.last(torch.tanh(self.second(torch.tanh(self.first(inputs)))))


def plain():
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


def normalized():
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3))


def frozen():
    model = plain()
    model[0].requires_grad_(False)
    return model


def noisy():
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Dropout(0.5), nn.Linear(5, 3))


MODELS = {"plain": plain, "BatchNorm": normalized, "frozen": frozen, "tied": Tied, "dropout": noisy}


@pytest.fixture(params=MODELS)
def model(request):
    return made(request.param)


def made(name):
    torch.manual_seed(1)
    return MODELS[name]().double()


@pytest.fixture
def batches():
    """Two minibatches of different sizes."""
    generator = torch.Generator().manual_seed(2)
    return [
        (torch.randn(size, 4, generator=generator).double(), torch.randint(3, (size,), generator=generator))
        for size in (7, 3)
    ]


def quiet(model):
    """A copy without dropout."""
    twin = copy.deepcopy(model)
    for layer in twin.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    return twin


def dense_hessian(model, batches, weights=None):
    """The Hessian of Σ w_k Ĉ_k, by default of C, (n, n), by what requires a gradient; by torch.autograd.functional."""
    twin = quiet(model)
    weights = [1 / len(batches)] * len(batches) if weights is None else weights
    moving = {name: value.detach() for name, value in twin.named_parameters() if value.requires_grad}

    def mean_loss(flat):
        parts = torch.split(flat, [value.numel() for value in moving.values()])
        params = {name: part.view_as(moving[name]) for name, part in zip(moving, parts, strict=True)}
        losses = [cross_entropy(torch.func.functional_call(twin, params, (x,)), y) for x, y in batches]
        return sum(weight * loss for weight, loss in zip(weights, losses, strict=True))

    return torch.autograd.functional.hessian(mean_loss, flattened(moving))


def flattened(params):
    return torch.cat([value.flatten() for value in params.values()])


def direction_like(params, seed=3):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(value.shape, generator=generator).to(value) for name, value in params.items()}


def as_dictionaries(batches):
    """The same minibatches and the same loss without a criterion."""
    return [{"inputs": x, "labels": y} for x, y in batches], lambda model, batch: cross_entropy(
        model(batch["inputs"]), batch["labels"]
    )


def test_moments_are_those_of_a_plain_loop(model, batches):
    gradients = reference.minibatch_gradients(quiet(model), cross_entropy, batches, training=True)
    moving = {name for name, value in model.named_parameters() if value.requires_grad}
    gradients = [{name: value for name, value in each.items() if name in moving} for each in gradients]
    as_pairs = ireg.gradient_moments(model, batches, criterion=cross_entropy)
    dictionaries, loss = as_dictionaries(batches)
    for moments in (as_pairs, ireg.gradient_moments(model, dictionaries, loss=loss)):
        torch.testing.assert_close(moments.mean, reference.mean(gradients), **EXACT)
        torch.testing.assert_close(moments.square, reference.mean_square(gradients), **EXACT)
        expected = torch.tensor([reference.squared_norm(gradient) for gradient in gradients], dtype=torch.float64)
        torch.testing.assert_close(moments.sq_norms, expected, **EXACT)
        assert float(moments.sq_norm_mean) == pytest.approx(float(expected.mean()), rel=1e-10, abs=0)
        assert moments.num_batches == 2
        assert not any(value.requires_grad for value in moments.mean.values())


def test_products_are_those_of_the_dense_hessian(model, batches):
    expected = dense_hessian(model, batches)
    dictionaries, loss = as_dictionaries(batches)
    for hessian in (
        ireg.Hessian(model, batches, criterion=cross_entropy),
        ireg.Hessian(model, dictionaries, loss=loss),
    ):
        direction = direction_like(hessian.params)
        product = hessian(direction)
        assert [value.shape for value in product.values()] == [value.shape for value in hessian.params.values()]
        torch.testing.assert_close(flattened(product), expected @ flattened(direction), **DENSE)
        assert hessian.products == 1
        assert not any(value.requires_grad for value in product.values())


def test_the_largest_eigenvalue_is_lapacks(model, batches):
    values, vectors = torch.linalg.eigh(dense_hessian(model, batches))
    found = ireg.top_eigenvalue(model, batches, criterion=cross_entropy, tolerance=1e-6, max_products=100)
    assert found.eigenvalue == pytest.approx(float(values[-1]), rel=EIGENVALUE, abs=0)
    vector = flattened(found.eigenvector)
    assert float(vector.norm()) == pytest.approx(1, rel=1e-12, abs=0)
    assert abs(float(vector @ vectors[:, -1])) == pytest.approx(1, rel=1e-8, abs=0)
    assert found.residual <= 1e-6 * float(values.abs().max())
    assert 10 <= found.products <= len(vector)


def test_other_references_are_rejected(batches):
    """What would be equal if minibatches counted by their examples, or BatchNorm were in the other mode."""
    model = made("BatchNorm")
    hessian = ireg.Hessian(model, batches, criterion=cross_entropy)
    direction = direction_like(hessian.params)
    product = flattened(hessian(direction))
    by_examples = dense_hessian(model, batches, [0.7, 0.3]) @ flattened(direction)
    evaluated = dense_hessian(model.eval(), batches) @ flattened(direction)
    for other in (by_examples, evaluated):
        assert float((product - other).norm()) > 1e-2 * float(product.norm())


def test_eval_mode_is_that_of_the_evaluated_model(batches):
    model = made("BatchNorm")
    for x, _ in batches:
        model(x)  # running statistics
    options = {"criterion": cross_entropy, "mode": "eval"}
    hessian, found = ireg.Hessian(model, batches, **options), ireg.top_eigenvalue(model, batches, **options)
    moments = ireg.gradient_moments(model, batches, **options)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ireg.snapshot(model, batches, optimizer=optimizer, **options) as snapshot:
        torch.testing.assert_close(snapshot.moments.mean, moments.mean, rtol=0, atol=0)
    assert model.training
    model.eval()
    gradients = reference.minibatch_gradients(model, cross_entropy, batches)
    torch.testing.assert_close(moments.mean, reference.mean(gradients), **EXACT)
    expected, direction = dense_hessian(model, batches), direction_like(hessian.params)
    torch.testing.assert_close(flattened(hessian(direction)), expected @ flattened(direction), **DENSE)
    assert found.eigenvalue == pytest.approx(float(torch.linalg.eigvalsh(expected)[-1]), rel=1e-3, abs=0)


def test_complex_weights_are_given_by_their_parts():
    model = nn.Module()
    model.weight = nn.Parameter(torch.tensor([1.0 + 2.0j, 3.0j], dtype=torch.complex128))

    def loss(model, batch):
        return batch * model.weight.abs().square().sum()

    hessian = ireg.Hessian(model, [torch.tensor(1.0)], loss=loss)
    direction = direction_like(hessian.params)
    assert direction["weight"].shape == (2, 2)
    torch.testing.assert_close(hessian(direction)["weight"], 2 * direction["weight"], **EXACT)


def test_what_the_optimizer_moves_is_differentiated(batches):
    model = made("plain")
    optimizer = torch.optim.SGD(model[2].parameters(), lr=0.1)
    names = ["2.weight", "2.bias"]
    options = {"criterion": cross_entropy, "optimizer": optimizer}
    assert list(ireg.gradient_moments(model, batches, **options).mean) == names
    assert list(ireg.Hessian(model, batches, **options).params) == names
    assert list(ireg.top_eigenvalue(model, batches, **options).eigenvector) == names
    with ireg.snapshot(model, batches, **options) as snapshot:
        assert list(snapshot.moving) == names
        assert len(snapshot.params) == 4
    model.register_parameter("unused", nn.Parameter(torch.ones(2)))
    assert "unused" not in ireg.gradient_moments(model, batches, criterion=cross_entropy).mean


def test_only_what_is_needed_is_computed(batches):
    model = made("plain")
    moments = ireg.gradient_moments(model, batches, criterion=cross_entropy, needs=ireg.Need.MEAN, method="loop")
    assert moments.method == "loop"
    assert list(moments.mean) == [name for name, _ in model.named_parameters()]
    with pytest.raises(ValueError, match=r"SQUARE was not computed: ask for it by needs=Need.SQUARE"):
        _ = moments.square
    for bad in ("mean", ireg.Need(0), 2):
        with pytest.raises(ValueError, match=r"needs=.*: must be one or several of ireg.Need"):
            ireg.gradient_moments(model, batches, criterion=cross_entropy, needs=bad)


def test_a_term_is_computed_from_a_snapshot(batches):
    model = made("plain")
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    initial = {name: torch.zeros_like(value) for name, value in model.named_parameters()}
    options = {"optimizer": optimizer, "criterion": cross_entropy}
    with ireg.snapshot(model, batches, **options, initial=initial, method="loop") as snapshot:
        assert isinstance(snapshot, ireg.Snapshot)
        assert float(norm.distance(snapshot)) == pytest.approx(reference.l2(initial_less(model)), rel=1e-12, abs=0)
        assert snapshot.moments.method == "loop"
        assert snapshot.optimizer.lr == 0.1
        moments = snapshot.moments
    with ireg.snapshot(model, batches, **options) as snapshot:
        assert float(norm.distance(snapshot)) == 0.0
        _ = snapshot.hessian
    assert moments.num_batches == 2  # what has been computed stays
    for pass_ in (lambda: snapshot.moments, lambda: snapshot.hessian(direction_like(snapshot.moving))):
        with pytest.raises(ValueError, match="the snapshot has ended: .* within the with block"):
            pass_()


def initial_less(model):
    return {name: value.detach() for name, value in model.named_parameters()}


def test_a_snapshot_keeps_the_weights_that_it_was_taken_at(batches):
    model = made("plain")
    before = flattened(initial_less(model)).clone()
    hessian = ireg.Hessian(model, batches, criterion=cross_entropy)
    direction = direction_like(hessian.params)
    first = hessian(direction)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(1)
    assert torch.equal(flattened(hessian.params), before)
    torch.testing.assert_close(hessian(direction), first, rtol=0, atol=0)
    assert hessian.products == 2
    other = ireg.Hessian(model, batches, criterion=cross_entropy)(direction)
    assert float((flattened(other) - flattened(first)).norm()) > 1e-3


def test_observing_changes_nothing(batches):
    """Gradients, buffers, modes, the optimizer's state, and the streams of torch and of Python stay as they are."""
    model = nn.Sequential(normalized(), nn.Tanh(), nn.Dropout(0.5), nn.Linear(3, 3)).double()
    model[0][0].eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    cross_entropy(model(batches[0][0]), batches[0][1]).backward()
    optimizer.step()
    states = copy.deepcopy([model.state_dict(), optimizer.state_dict()])
    gradients = [value.grad.clone() for value in model.parameters()]
    streams = torch.get_rng_state(), random.getstate()
    for options in ({}, {"mode": "eval"}):
        options |= {"criterion": cross_entropy, "optimizer": optimizer}
        ireg.gradient_moments(model, batches, **options)
        hessian = ireg.Hessian(model, batches, **options)
        hessian(direction_like(hessian.params))
        ireg.top_eigenvalue(model, batches, **options)
        with ireg.snapshot(model, batches, **options) as snapshot:
            _ = snapshot.moments, snapshot.steepest
        with pytest.raises(KeyError), ireg.snapshot(model, batches, **options):
            raise KeyError
    assert torch.equal(torch.get_rng_state(), streams[0])
    assert random.getstate() == streams[1]
    torch.testing.assert_close([model.state_dict(), optimizer.state_dict()], states, rtol=0, atol=0)
    assert all(torch.equal(value.grad, kept) for value, kept in zip(model.parameters(), gradients, strict=True))
    assert [layer.training for layer in model[0]] == [False, True, True, True]
    assert model[2].training


@pytest.mark.parametrize("name", ["plain", "BatchNorm"])
def test_products_in_inference_mode(name, batches):
    model = made(name)
    hessian = ireg.Hessian(model, batches, criterion=cross_entropy)
    direction = direction_like(hessian.params)
    with torch.inference_mode():
        inside = [(x.clone(), y.clone()) for x, y in batches]
        product = hessian({name: value.clone() for name, value in direction.items()})
        moments = ireg.gradient_moments(model, inside, criterion=cross_entropy)
    torch.testing.assert_close(product, hessian(direction), rtol=0, atol=0)
    expected = ireg.gradient_moments(model, batches, criterion=cross_entropy)
    torch.testing.assert_close(moments.mean, expected.mean, rtol=0, atol=0)


def test_lanczos_starts_and_ends_as_it_is_asked_to(batches):
    model = made("plain")
    cold = ireg.top_eigenvalue(model, batches, criterion=cross_entropy, tolerance=1e-6)
    warm = ireg.top_eigenvalue(model, batches, criterion=cross_entropy, tolerance=1e-6, start=cold.eigenvector)
    assert warm.products < cold.products
    loose = ireg.top_eigenvalue(model, batches, criterion=cross_entropy, tolerance=0.5)
    assert loose.products == 10 < cold.products
    few = ireg.top_eigenvalue(model, batches, criterion=cross_entropy, max_products=2)
    assert few.products == 2
    assert few.residual > 0.01 * few.eigenvalue  # and says so
    generator = torch.Generator().manual_seed(5)
    drawn = [ireg.top_eigenvalue(model, batches, criterion=cross_entropy, generator=generator) for _ in range(2)]
    again = ireg.top_eigenvalue(model, batches, criterion=cross_entropy, generator=torch.Generator().manual_seed(5))
    assert again.eigenvalue == drawn[0].eigenvalue != drawn[1].eigenvalue


def test_a_diverged_model_has_no_eigenvalue(batches):
    model = made("plain")
    nn.init.constant_(model[2].weight, torch.inf)
    found = ireg.top_eigenvalue(model, batches, criterion=cross_entropy)
    assert found.eigenvalue != found.eigenvalue
    assert found.residual != found.residual


CALLS = {
    "gradient_moments": ireg.gradient_moments,
    "Hessian": ireg.Hessian,
    "top_eigenvalue": ireg.top_eigenvalue,
    "snapshot": lambda model, batches, **options: ireg.snapshot(
        model, batches, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), **options
    ).__enter__(),
}


@pytest.mark.parametrize("call", CALLS)
def test_what_is_refused_of_all(call, batches):
    model, criterion = made("plain"), {"criterion": cross_entropy}

    def own(model, batch):
        return cross_entropy(model(batch[0]), batch[1])

    for given, options, message in (
        (batches, {}, "neither of criterion and loss are given; give criterion"),
        (batches, {**criterion, "loss": own}, "both of criterion and loss are given; give criterion"),
        (iter(batches), criterion, r"batches is a list_iterator; must be a sequence.*give list\(loader\)"),
        ([], criterion, "there are no minibatches; give at least one"),
        ([batches[0][0]], criterion, "a minibatch is a Tensor, and criterion takes pairs"),
        (batches, {**criterion, "mode": "training"}, "mode='training': must be one of as_trained, two_draws, eval"),
        (batches, {**criterion, "mode": "two_draws"}, r"mode='two_draws'.*ireg\.measure; must be as_trained or eval"),
        (
            batches,
            {"loss": lambda model, batch: own(model, batch) * torch.ones(2)},
            r"of shape \(2,\); must be one number",
        ),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            CALLS[call](model, given, **options)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("call", ["gradient_moments", "Hessian", "top_eigenvalue"])
def test_nothing_to_differentiate_by(call, batches):
    model = made("plain").requires_grad_(False)
    with pytest.raises(ValueError, match="Sequential has no parameter that requires a gradient; unfreeze one"):
        CALLS[call](model, batches, criterion=cross_entropy)
    with pytest.raises(ValueError, match=r"model is a function; must be a torch\.nn\.Module"):
        CALLS[call](mse_loss, batches, criterion=cross_entropy)
    with pytest.raises(ValueError, match=r"optimizer is a list; must be one of torch\.optim"):
        CALLS[call](model, batches, criterion=cross_entropy, optimizer=[])


def test_an_unknown_method_is_refused(batches):
    with pytest.raises(ValueError, match="method='fast': unknown; choose one of auto, .*loop"):
        ireg.gradient_moments(made("plain"), batches, criterion=cross_entropy, method="fast")
    with pytest.raises(ireg.NotServedError, match="BatchNorm, which mixes examples; choose auto or loop"):
        ireg.gradient_moments(made("BatchNorm"), batches, criterion=cross_entropy, method="hooks")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.pop("0.bias"), r"lacks 0\.bias; must have the names .* Hessian\(…\)\.params"),
        (lambda v: v.update(other=torch.ones(1)), "has other; must have the names"),
        (lambda v: (v.pop("0.bias"), v.update(bias=torch.ones(1))), r"lacks 0\.bias and has bias; must"),
        (lambda v: v.update({str(n): torch.ones(1) for n in range(3)}), "has 0, 1, 2; must"),
        (lambda v: v.update({str(n): torch.ones(1) for n in range(4)}), "has 0, 1, 2 and 1 more; must"),
        (lambda v: v.update({"0.bias": torch.ones(4).double()}), r"\['0\.bias'\] is \(4,\) .*; must be \(5,\) float64"),
        (lambda v: v.update({"0.bias": torch.ones(5)}), r"\['0\.bias'\] is \(5,\) float32 on cpu; must be .* float64"),
        (lambda v: v.update({"0.bias": [0.0] * 5}), r"\['0\.bias'\] is a list; must be \(5,\) float64 on cpu"),
    ],
)  # fmt: skip
def test_a_direction_that_does_not_fit_is_refused(change, message, batches):
    model = made("plain")
    hessian = ireg.Hessian(model, batches, criterion=cross_entropy)
    direction = direction_like(hessian.params)
    change(direction)
    with pytest.raises(ValueError, match=f"direction{'' if message.startswith('[') else ' ?'}{message}"):
        hessian(direction)
    with pytest.raises(ValueError, match="start"):
        ireg.top_eigenvalue(model, batches, criterion=cross_entropy, start=direction)
    assert hessian.products == 0


def test_a_flat_direction_is_refused(batches):
    hessian = ireg.Hessian(made("plain"), batches, criterion=cross_entropy)
    with pytest.raises(ValueError, match="direction is a Tensor; must be a dictionary with a tensor for each weight"):
        hessian(torch.ones(43).double())


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"tolerance": -0.1}, r"tolerance=-0\.1: must be a share from 0 to below 1"),
        ({"tolerance": 1.0}, r"tolerance=1\.0: must be a share"),
        ({"tolerance": float("nan")}, "tolerance=nan: must be a share"),
        ({"max_products": 0}, "max_products=0: must be at least 1"),
    ],
)
def test_lanczos_options_are_checked(option, message, batches):
    with pytest.raises(ValueError, match=message):
        ireg.top_eigenvalue(made("plain"), batches, criterion=cross_entropy, **option)


def test_sparse_gradients_are_those_of_dense_ones():
    model = nn.Sequential(nn.Embedding(5, 2, sparse=True), nn.Flatten(0), nn.Linear(4, 1)).double()
    dense = copy.deepcopy(model)
    dense[0].sparse = False
    batches = [(torch.tensor([0, 3]), torch.zeros(1).double())]
    products, means = [], []
    for each in (model, dense):
        hessian = ireg.Hessian(each, batches, criterion=mse_loss)
        products.append(hessian(direction_like(hessian.params)))
        means.append(ireg.gradient_moments(each, batches, criterion=mse_loss).mean)
    torch.testing.assert_close(products[0], products[1], **EXACT)
    torch.testing.assert_close(means[0], means[1], **EXACT)


class Drawing(nn.Linear):
    """A layer with noise of its own."""

    def forward(self, inputs):
        return super().forward(inputs) * (1 + torch.rand(()))


def test_noise_that_is_not_dropout_is_warned_of(batches):
    model = Drawing(4, 3).double()
    with pytest.warns(UserWarning, match="the loss of the first minibatch differs by .* between two seeds"):
        ireg.gradient_moments(model, batches, criterion=cross_entropy)


class Hidden(nn.Linear):
    """A layer that reads its weight under another name, where no other can be put in its place."""

    def __init__(self):
        super().__init__(4, 3)
        self.hidden = [self.weight]

    def forward(self, inputs):
        return nn.functional.linear(inputs, self.hidden[0], self.bias)


@pytest.mark.parametrize("call", CALLS)
def test_gradients_that_are_not_the_models_own_are_refused(call, batches):
    model = Hidden().double()
    model.hidden = [model.weight]
    with pytest.raises(ValueError, match="the gradient of the first minibatch at given weights differs"):
        CALLS[call](model, batches, criterion=cross_entropy)


def test_a_loss_without_the_model_is_refused(batches):
    model, other = made("plain"), made("plain")
    with pytest.raises(ValueError, match="moves no parameter: .* none is used by the loss"):
        ireg.gradient_moments(model, batches, loss=lambda given, batch: other[0].weight.square().sum())


def test_a_criterion_may_read_the_weights(batches):
    model = made("plain")

    def criterion(outputs, targets):
        return cross_entropy(outputs, targets) + model[0].weight.square().sum()

    mean = ireg.gradient_moments(model, batches, criterion=criterion).mean
    bare = reference.mean(reference.minibatch_gradients(model, cross_entropy, batches))
    torch.testing.assert_close(mean["0.weight"], bare["0.weight"] + 2 * model[0].weight.detach(), **EXACT)


def test_the_page_shows_what_is_printed(capsys):
    """Each comment below a line of the engine's page that prints is its output."""
    page = (ROOT / "docs" / "engine.md").read_text(encoding="utf-8")
    code = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)[0]
    exec(compile(code, "engine.md", "exec"), {})
    shown = re.findall(r"^# (.*)$", code, re.MULTILINE)
    assert len(shown) == code.count("print(") == 5
    assert capsys.readouterr().out.splitlines() == shown
