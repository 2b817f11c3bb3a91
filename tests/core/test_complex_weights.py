"""Complex weights, against the same functions of two real weights each."""

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

import ireg
from ireg.core.complex_weights import LossByReals
from ireg.core.params import inner_product, squared_norm, wide_squared_norm
from ireg.core.path import PathRecorder
from ireg.optim import Switch
from ireg.regularizers import L2
from ireg.terms.named import TERMS

LR = 0.01


def numbers(*shape, seed, dtype=torch.complex128):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


class Complex(nn.Module):
    """|tanh(W x + b)|² and one more complex number, and a real weight."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(0.5 * numbers(3, 4, seed=1))
        self.bias = nn.Parameter(0.5 * numbers(3, seed=2))
        self.factor = nn.Parameter(numbers((), seed=3))
        self.scale = nn.Parameter(torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64))

    def forward(self, inputs):
        hidden = torch.tanh(inputs @ self.weight.T + self.bias)
        return self.scale * (self.factor * hidden).real + hidden.abs().square()


class Real(nn.Module):
    """The same by real and imaginary parts, without a complex number."""

    def __init__(self, twin):
        super().__init__()
        for name, value in twin.named_parameters():
            real = torch.stack([value.real, value.imag], -1) if value.is_complex() else value
            self.register_parameter(name, nn.Parameter(real.detach().clone()))

    def forward(self, inputs):
        (a, b), (u, v), (c, d) = inputs.unbind(-1), self.weight.unbind(-1), self.bias.unbind(-1)
        x, y = a @ u.T - b @ v.T + c, a @ v.T + b @ u.T + d
        # tanh(x + iy) = (sinh 2x + i sin 2y)/(cosh 2x + cos 2y)
        below = torch.cosh(2 * x) + torch.cos(2 * y)
        real, imaginary = torch.sinh(2 * x) / below, torch.sin(2 * y) / below
        return self.scale * (self.factor[0] * real - self.factor[1] * imaginary) + real.square() + imaginary.square()


BATCHES = [(0.3 * numbers(5, 4, seed=10 + k), numbers(5, 3, seed=20 + k, dtype=torch.float64)) for k in range(5)]
OPTIMIZERS = {
    "sgd": (torch.optim.SGD, {"weight_decay": 0.1}),
    "momentum": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "adam": (torch.optim.Adam, {"weight_decay": 0.1}),
    "amsgrad": (torch.optim.Adam, {"amsgrad": True}),
    "adamw": (torch.optim.AdamW, {"weight_decay": 0.1}),
    "nadam": (torch.optim.NAdam, {}),
    "rmsprop": (torch.optim.RMSprop, {"momentum": 0.5, "eps": 1e-3}),
    "centered": (torch.optim.RMSprop, {"centered": True, "eps": 1e-3}),
    "adagrad": (torch.optim.Adagrad, {}),
    "no rule": (torch.optim.RAdam, {}),
}
OF_MATRICES = ("norm/layers", "norm/spectral_product", "norm/product")
SAME = {"rel": 1e-8, "abs": 1e-14}


def monitored(module, batches, optimizer, terms, *, groups=False, **options):
    cls, arguments = OPTIMIZERS[optimizer]
    params = list(module.parameters())
    parts = [{"params": params[:2], "lr": LR / 2}, {"params": params[2:]}] if groups else params
    made = cls(parts, lr=LR, **arguments)
    monitor = ireg.Monitor(module, made, criterion=mse_loss, terms=terms, **options)
    for inputs, targets in batches:
        made.zero_grad()
        mse_loss(module(inputs), targets).backward()
        made.step()
        monitor.update((inputs, targets))
    return monitor.compute()


def compared(optimizer, terms, **options):
    """Terms of both networks after the same epoch."""
    module = Complex()
    twin = Real(module)
    reals = [(torch.view_as_real(inputs), targets) for inputs, targets in BATCHES]
    found = monitored(module, BATCHES, optimizer, terms, **options)
    expected = monitored(twin, reals, optimizer, terms, **options)
    for name, value in module.named_parameters():
        ends = torch.view_as_real(value) if value.is_complex() else value
        torch.testing.assert_close(ends, dict(twin.named_parameters())[name], rtol=1e-9, atol=1e-11)
    return found, expected


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_term_is_that_of_two_real_weights(optimizer):
    flow = optimizer in ("sgd", "momentum", "adam", "adamw", "nadam", "rmsprop")
    left_out = OF_MATRICES if flow else (*OF_MATRICES, "ireg/strength", "ireg/alignment", "noise/step")
    terms = [tag for tag in TERMS if not tag.startswith((*left_out, "curvature/"))]
    found, expected = compared(optimizer, terms)
    assert found == pytest.approx(expected, **SAME)
    assert {"ireg/sgd", "norm/l2", "norm/distance", "path/radial"} <= set(found)
    assert ("ireg/own" in found, "path/settled_whole" in found) == (optimizer != "no rule",) * 2


def test_curvature_is_that_of_two_real_weights():
    # Random signs are drawn in the same order, so that estimates are the same, too.
    found, expected = compared("adam", "curvature")
    assert found == pytest.approx(expected, rel=1e-6)
    assert "curvature/lambda_max" in found


@pytest.mark.parametrize("options", [{"num_batches": 4}, {"mode": "two_draws"}, {"method": "vmap"}, {"groups": True}])
def test_other_ways_to_measure(options):
    found, expected = compared("adam", ["ireg/sgd", "ireg/full_batch", "ireg/rmsprop", "ireg/own"], **options)
    assert found == pytest.approx(expected, **SAME)
    assert ("ireg/own_se" in found) == ("num_batches" in options)


def test_one_complex_weight_by_hand():
    """C = |ω|²: the gradient is 2ω, and (η/4)‖g‖² = η|ω|²; a step of SGD is (1 − 2η)ω."""
    module = nn.Module()
    module.weight = nn.Parameter(torch.tensor([3 + 4j]))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    found = ireg.measure(
        module,
        [{}],
        optimizer=optimizer,
        loss=lambda model, batch: model.weight.abs().square().sum(),
        terms=["ireg/sgd", "ireg/own", "norm/l2", "curvature/lambda_max", "curvature/trace"],
    )
    # ∇²C = 2 in both real weights.
    expected = {"ireg/sgd": 2.5, "ireg/own": 2.5, "norm/l2": 5.0, "curvature/lambda_max": 2.0, "curvature/trace": 4.0}
    assert {tag: found[tag] for tag in expected} == pytest.approx(expected, rel=1e-6)


def test_sizes_of_complex_matrices():
    module = Complex()
    found = ireg.measure(
        module, BATCHES, optimizer=torch.optim.SGD(module.parameters(), lr=LR), criterion=mse_loss, terms=OF_MATRICES
    )
    matrix = module.weight.detach()
    assert found == pytest.approx(
        {
            "norm/layers/weight": float(matrix.abs().square().sum().sqrt()),
            "norm/product": float(matrix.abs().square().sum().sqrt()),
            "norm/spectral_product": float(torch.linalg.svdvals(matrix)[0]),
        },
        rel=1e-10,
    )


def test_margins_of_a_network_with_complex_weights():
    module = Complex()
    batches = [(inputs, torch.tensor([0, 1, 2, 0, 1])) for inputs, _ in BATCHES]
    optimizer = torch.optim.SGD(module.parameters(), lr=LR)
    criterion = nn.functional.cross_entropy
    found = ireg.measure(module, batches, optimizer=optimizer, criterion=criterion, terms=["margin/median"])
    outputs = torch.cat([module(inputs) for inputs, _ in batches]).detach()
    right = torch.cat([labels for _, labels in batches])
    margins = [float(row[y] - max(row[j] for j in range(3) if j != y)) for row, y in zip(outputs, right, strict=True)]
    assert found["margin/median"] == pytest.approx(float(torch.tensor(margins).median()), rel=1e-6)


def test_complex_outputs_have_no_margins():
    module = nn.Linear(4, 3, dtype=torch.complex128)
    batches = [(inputs, torch.tensor([0, 1, 2, 0, 1])) for inputs, _ in BATCHES]
    optimizer = torch.optim.SGD(module.parameters(), lr=LR)

    def criterion(outputs, targets):
        return nn.functional.cross_entropy(outputs.abs(), targets)

    found = ireg.measure(module, batches, optimizer=optimizer, criterion=criterion, terms=["ireg/sgd", "margin/median"])
    assert set(found) == {"ireg/sgd"}


def test_refusals():
    module = Complex()
    given = {"optimizer": torch.optim.SGD(module.parameters(), lr=LR), "criterion": mse_loss}
    for method in ("ghost", "layers", "hooks"):
        with pytest.raises(
            ValueError, match=rf"^method='{method}': not for complex weights; choose auto, loop or vmap$"
        ):
            ireg.measure(module, BATCHES, method=method, **given)
    with pytest.raises(ValueError, match="^a regularizer is not measured with complex weights; leave it out"):
        ireg.measure(module, BATCHES, regularizer=L2(strength=0.1), **given)


def test_inner_products_are_real_parts():
    left, right = {"a": numbers(3, seed=1)}, {"a": numbers(3, seed=2).conj()}
    expected = float((left["a"].conj() * right["a"]).sum().real)
    assert float(inner_product(left, right)) == pytest.approx(expected, rel=1e-12)
    square = float(left["a"].abs().square().sum())
    assert float(squared_norm(left)) == pytest.approx(square, rel=1e-12)
    assert float(wide_squared_norm(left)) == pytest.approx(square, rel=1e-12)


def test_a_path_of_several_parts(monkeypatch):
    monkeypatch.setattr("ireg.core.path.CHUNK", 3)  # which cuts a complex number in two
    weight = nn.Parameter(numbers(5, seed=1))
    before = weight.detach().clone()
    optimizer = torch.optim.SGD([weight], lr=0.5)
    recorder = PathRecorder(optimizer)
    recorder.start()
    weight.grad = numbers(5, seed=2)
    optimizer.step()
    step = before - weight.detach()
    found = recorder.path().weights
    assert found.diffusive == pytest.approx(float(step.abs().square().sum()), rel=1e-12)
    assert found.radial == pytest.approx(-2 * float((before.conj() * step).sum().real), rel=1e-12)


def test_the_outputs_are_kept():
    module = Complex()
    loss = LossByReals(ireg.core.functional.functional_loss(module, mse_loss), frozenset({"weight"}))
    params = {name: value.detach() for name, value in module.named_parameters()}
    value, outputs = loss.with_outputs({**params, "weight": torch.view_as_real(params["weight"])}, BATCHES[0])
    torch.testing.assert_close(outputs, module(BATCHES[0][0]))
    assert float(value) == pytest.approx(float(mse_loss(outputs, BATCHES[0][1])), rel=1e-12)


def test_a_switch_takes_both_parts():
    ends = []
    for weight in (nn.Parameter(numbers(3, seed=1)), nn.Parameter(torch.view_as_real(numbers(3, seed=1)).clone())):
        optimizer = Switch([weight], first="adam", first_lr=0.1, at="swats", lr="swats")
        for _ in range(3):
            optimizer.zero_grad()
            weight.abs().square().sum().backward()
            optimizer.step()
        ends.append(optimizer.numbers())
    assert ends[0] == pytest.approx(ends[1], rel=1e-10)
