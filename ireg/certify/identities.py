"""Identities of curvature and of the norm's growth, certified to rounding.

Each is computed twice: by the function that a term uses, and by its definition or a closed form. Each has controls,
which are the same with one mistake. A check that accepts one shows nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import pairwise, product

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Adagrad, Adam, AdamW, NAdam, Optimizer, RMSprop

from ireg.core import diagonal
from ireg.core.functional import ModuleLoss, detached_parameters, functional_loss
from ireg.core.hessian import MeanHessian
from ireg.core.optimizers import view
from ireg.core.params import by_name
from ireg.core.path import Growth, Path, PathRecorder
from ireg.core.random import named_generator
from ireg.core.sharpness import batch_sharpness, steepest
from ireg.models import CNN, MLP, ResNet

CLOSE = 1e-9
"""Largest relative error that passes."""
APART = 1e-2
"""Least relative error of a control."""

_RATE = 0.05
_STEPS = 12
Batches = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Identity:
    """What came out of an identity.

    Attributes:
        error: relative, of the identity.
        controls: the same of what is wrong in one place, by what is wrong.
        close: largest error that passes.
    """

    error: float
    controls: Mapping[str, float] = field(default_factory=dict)
    close: float = CLOSE

    @property
    def holds(self) -> bool:
        """Whether the identity is right, and every control is wrong."""
        return self.error <= self.close and not self.accepted

    @property
    def accepted(self) -> tuple[str, ...]:
        """Controls that pass for the truth."""
        return tuple(name for name, error in self.controls.items() if not error >= APART)


def _data(size: int = 5, count: int = 3, shape: Sequence[int] = (1, 4, 4)) -> Batches:
    generator = named_generator("identities")
    return [
        (
            torch.randn(size, *shape, generator=generator, dtype=torch.float64),
            torch.randint(3, (size,), generator=generator),
        )
        for _ in range(count)
    ]


def _network(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().double()


def _mlp(activation: str = "relu", *, bias: bool = True) -> nn.Module:
    return _network(lambda: MLP(input_shape=(1, 4, 4), num_classes=3, hidden=[6, 5], activation=activation, bias=bias))


def _flat(values: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([value.detach().flatten() for value in values.values()])


def _relative(found: float | Tensor, expected: float | Tensor) -> float:
    """The distance over the size of what is expected."""
    found, expected = (torch.as_tensor(value, dtype=torch.float64) for value in (found, expected))
    return float((found - expected).norm() / expected.norm())


# The growth of the norm.

OPTIMIZERS: Mapping[str, Callable[[Sequence[Tensor]], Optimizer]] = {
    "sgd, gd": lambda params: SGD(params, lr=_RATE, weight_decay=0.1),
    "momentum": lambda params: SGD(params, lr=_RATE, momentum=0.9, dampening=0.5),
    "nesterov": lambda params: SGD(params, lr=_RATE, momentum=0.9, nesterov=True),
    "rmsprop": lambda params: RMSprop(params, lr=_RATE, momentum=0.5, eps=1e-3),
    "adagrad": lambda params: Adagrad(params, lr=_RATE),
    "adam": lambda params: Adam(params, lr=_RATE, eps=1e-3),
    "adamw": lambda params: AdamW(params, lr=_RATE, weight_decay=0.3, eps=1e-3),
    "nadam": lambda params: NAdam(params, lr=_RATE, eps=1e-3),
}
"""One of each rule."""


def growth_of(make: Callable[[Sequence[Tensor]], Optimizer]) -> Identity:
    """Compare both parts of the growth with sums over lists of weights."""
    module = _mlp("tanh")
    found, weights, settled, _ = _walk(module, make(list(module.parameters())))
    assert found.settled is not None
    error = max(_apart(found.weights, weights), _apart(found.settled, settled))
    controls = {"a step left out": _apart(found.weights, weights[1:])}
    if not torch.equal(weights[-1], settled[-1]):
        controls["weights for settled weights"] = _apart(found.settled, weights)
    return Identity(error, controls)


def _walk(module: nn.Module, optimizer: Optimizer) -> tuple[Path, list[Tensor], list[Tensor], list[Tensor]]:
    """Take some steps; return what is recorded, and all ω, y, g."""
    recorder, batches = PathRecorder(optimizer), _data()
    named = dict(module.named_parameters())
    recorder.start()
    weights, settled, gradients = [_flat(named)], [_flat(named)], []
    for number in range(_STEPS):
        inputs, labels = batches[number % len(batches)]
        optimizer.zero_grad()
        cross_entropy(module(inputs), labels).backward()
        optimizer.step()
        seen = view(optimizer, named)
        held, scale = seen.buffer, seen.preconditioner
        weights.append(_flat(named))
        settled.append(weights[-1])
        gradients.append(_flat({name: value.grad for name, value in named.items() if value.grad is not None}))
        if held is not None:
            assert seen.first_moment is not None
            pending = _flat(seen.first_moment)
            if scale is not None and not held.divided:
                pending = _flat(scale) * pending
            settled[-1] = weights[-1] - held.ahead * pending
    path = recorder.path()
    assert path is not None
    return path, weights, settled, gradients


def _apart(found: Growth, places: Sequence[Tensor]) -> float:
    """The relative error of both parts against their definition."""
    steps = [before - after for before, after in pairwise(places)]
    radial = sum(float(-2 * place @ step) for place, step in zip(places[:-1], steps, strict=True))
    diffusive = sum(float(step @ step) for step in steps)
    return max(_relative(found.radial, radial), _relative(found.diffusive, diffusive))


def diffusion() -> Identity:
    """Check the diffusive part against gradients.

    SGD's is η² Σ ‖g_k‖², momentum's in settled weights η_e² Σ ‖g_k‖².
    """
    errors, controls = [], {}
    for momentum in (0.0, 0.9):
        module = _mlp("tanh")
        found, _, _, gradients = _walk(module, SGD(module.parameters(), lr=_RATE, momentum=momentum))
        assert found.settled is not None
        expected = (_RATE / (1 - momentum)) ** 2 * sum(float(gradient @ gradient) for gradient in gradients)
        errors.append(_relative(found.settled.diffusive, expected))
        if momentum:
            controls["in the weights themselves"] = _relative(found.weights.diffusive, expected)
    return Identity(max(errors), controls)


def homogeneity() -> Identity:
    """Check the radial part of a network without biases.

    SGD's is −2ηD Σ mean_i Σ_c f_c (p_c − y_c), D the number of layers.
    """
    module, batches = _mlp(bias=False), _data()
    optimizer = SGD(module.parameters(), lr=_RATE)
    recorder, total = PathRecorder(optimizer), 0.0
    recorder.start()
    for number in range(_STEPS):
        inputs, labels = batches[number % len(batches)]
        outputs = module(inputs)
        errors = outputs.softmax(1) - nn.functional.one_hot(labels, 3)
        total += float((outputs * errors).detach().sum(1).mean())
        optimizer.zero_grad()
        cross_entropy(outputs, labels).backward()
        optimizer.step()
    path = recorder.path()
    assert path is not None
    layers = 3
    wrong = {"a layer less": _relative(path.weights.radial, -2 * _RATE * (layers - 1) * total)}
    return Identity(_relative(path.weights.radial, -2 * _RATE * layers * total), wrong)


class _Normalized(nn.Module):
    """A layer with or without a normalization after it."""

    def __init__(self, *, normalizes: bool) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 3, 3, bias=False)
        self.norm = nn.GroupNorm(1, 3, eps=0.0, affine=False) if normalizes else nn.Identity()

    def forward(self, inputs: Tensor) -> Tensor:
        pooled: Tensor = self.norm(self.layer(inputs)).square().mean((2, 3))
        return pooled


def normalization() -> Identity:
    """Check that SGD's radial part is 0 before a normalization.

    The error is its share of the diffusive one.
    """
    shares = {}
    for normalizes in (True, False):
        module = _network(lambda normalizes=normalizes: _Normalized(normalizes=normalizes))  # type: ignore[misc]
        found, *_ = _walk(module, SGD(module.parameters(), lr=_RATE))
        shares[normalizes] = abs(found.weights.radial) / found.weights.diffusive
    return Identity(shares[True], {"no normalization": shares[False]})


# Curvature.


def _dense(module: nn.Module, batches: Batches) -> Tensor:
    """The Hessian of C (p, p) by torch.func, which nothing here uses."""
    params = detached_parameters(module)

    def value(vector: Tensor) -> Tensor:
        outputs = [torch.func.functional_call(module, by_name(vector, params), (inputs,)) for inputs, _ in batches]
        losses = [cross_entropy(output, labels) for output, (_, labels) in zip(outputs, batches, strict=True)]
        return torch.stack(losses).mean()

    matrix: Tensor = torch.autograd.functional.hessian(value, _flat(params))
    return matrix


PIECEWISE_LINEAR: Mapping[str, Callable[[], nn.Module]] = {
    "linear": lambda: MLP(input_shape=(1, 4, 4), num_classes=3, hidden=[]),
    "mlp": lambda: MLP(input_shape=(1, 4, 4), num_classes=3, hidden=[6, 5]),
    "cnn": lambda: CNN(input_shape=(1, 4, 4), num_classes=3, channels=[2, 3], groups=0),
    "resnet": lambda: ResNet(input_shape=(1, 4, 4), num_classes=3, channels=[2, 3], groups=0),
}
"""Those of conf/model, without normalization."""


def _tied() -> nn.Module:
    module = nn.Sequential(nn.Flatten(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))
    module[3].weight = module[1].weight
    return module


REFUSED: Mapping[str, Callable[[], nn.Module]] = {
    "tanh": lambda: MLP(input_shape=(1, 4, 4), num_classes=3, hidden=[6, 5], activation="tanh"),
    "layer normalization": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(16, 6), nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 3)
    ),
    "tied weights": _tied,
}
"""Networks whose diagonal is not Gauss–Newton's."""


def diagonal_of(make: Callable[[], nn.Module]) -> Identity:
    """Check diag H = diag G for a piecewise linear network.

    The controls are networks for which G is wrong, and is refused.
    """
    batches, module = _data(), _network(make)
    loss = functional_loss(module, cross_entropy)
    found = diagonal.exact_diagonal(loss, detached_parameters(module), batches)
    error = float("nan") if found is None else _relative(_flat(found), _dense(module, batches).diagonal())
    return Identity(error, {name: _error_of_refused(name) for name in REFUSED})


@cache
def _error_of_refused(name: str) -> float:
    """How wrong Gauss–Newton's diagonal would be; 0 if it is not refused."""
    module, batches = _network(REFUSED[name]), _data()
    loss, params = functional_loss(module, cross_entropy), detached_parameters(module)
    assert isinstance(loss, ModuleLoss)
    if diagonal.exact_diagonal(loss, params, batches) is not None:
        return 0.0
    return _relative(_flat(diagonal.gauss_newton_diagonal(loss, params, batches)), _dense(module, batches).diagonal())


def sharpness_of_minibatches() -> Identity:
    """Check batch sharpness by steps on quadratics.

    A step changes Ĉ_k by −η‖g_k‖² (1 − η b_k/2), and batch sharpness is the mean of b_k.
    """
    generator = named_generator("quadratics")
    roots = torch.randn(4, 5, 5, generator=generator, dtype=torch.float64)
    batches = [root @ root.mT for root in roots]
    start = {"w": torch.randn(5, generator=generator, dtype=torch.float64)}

    def loss(params: Mapping[str, Tensor], matrix: Tensor) -> Tensor:
        return params["w"] @ matrix @ params["w"] / 2

    bends, of_mean = [], []
    mean = torch.stack(batches).mean(0)
    for matrix in batches:
        gradient = matrix @ start["w"]
        square = gradient @ gradient
        change = loss({"w": start["w"] - _RATE * gradient}, matrix) - loss(start, matrix)
        bends.append(2 / _RATE * (1 + change / (_RATE * square)))
        of_mean.append(gradient @ mean @ gradient / square)
    found = batch_sharpness(loss, start, batches)
    return Identity(
        _relative(found, torch.stack(bends).mean()),
        {"the Hessian of C for each minibatch's": _relative(torch.stack(of_mean).mean(), torch.stack(bends).mean())},
    )


def variance_of_probes() -> Identity:
    """Check that probes vᵀHv have the variance 2 (‖H‖_F² − Σ H_ii²)."""
    module = _network(
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False), nn.Tanh(), nn.Linear(2, 2, bias=False))
    )
    batches = [(inputs.flatten(1)[:, :2], labels % 2) for inputs, labels in _data()]
    params = detached_parameters(module)
    hessian, matrix = MeanHessian(functional_loss(module, cross_entropy), params, batches), _dense(module, batches)
    signs = torch.tensor([(1.0, *rest) for rest in product((1.0, -1.0), repeat=len(matrix) - 1)], dtype=torch.float64)
    values = torch.stack([hessian.along(by_name(vector, params)) for vector in signs])  # of −v it is that of v
    whole = matrix.square().sum()
    expected = 2 * (whole - matrix.diagonal().square().sum())
    found = values.var(correction=0)
    return Identity(_relative(found, expected), {"with the diagonal": _relative(found, 2 * whole)})


def largest_eigenvalue() -> Identity:
    """Check Lanczos' value against the whole H.

    Its error is of second order in the residual of 1 %.
    """
    module, batches = _mlp("tanh"), _data()
    hessian = MeanHessian(functional_loss(module, cross_entropy), detached_parameters(module), batches)
    eigenvalues = torch.linalg.eigvalsh(_dense(module, batches))
    found = steepest(hessian, named_generator("identities")).value
    return Identity(
        _relative(found, eigenvalues[-1]), {"the second one": _relative(found, eigenvalues[-2])}, close=1e-3
    )


IDENTITIES: Mapping[str, Callable[[], Identity]] = {
    **{f"growth of the norm: {name}": partial(growth_of, make) for name, make in OPTIMIZERS.items()},
    "growth of the norm: diffusion of SGD and momentum": diffusion,
    "growth of the norm: homogeneous network": homogeneity,
    "growth of the norm: before a normalization": normalization,
    **{f"diagonal of H: {name}": partial(diagonal_of, make) for name, make in PIECEWISE_LINEAR.items()},
    "batch sharpness: a quadratic's own step": sharpness_of_minibatches,
    "variance of a trace's probes": variance_of_probes,
    "largest eigenvalue": largest_eigenvalue,
}
"""By name."""


def all_identities(chosen: Mapping[str, Callable[[], Identity]] = IDENTITIES) -> dict[str, Identity]:
    """Compute each identity."""
    return {name: make() for name, make in chosen.items()}
