"""What explicit penalties are worth in implicit regularization, by orders of accuracy.

The penalties are the product's: every step takes the gradient of `ireg.objective.Objective`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import permutations, product

import numpy as np
import torch
from torch import Tensor
from torch.optim import SGD

from ireg.certify.certificate import fit
from ireg.certify.ends import iterated, over_all_orders
from ireg.certify.experiments import whole_epochs
from ireg.certify.optimizers import Recipe, start
from ireg.certify.problems import NAME, Problem, quadratics, quadratics_and_log_cosh
from ireg.core.types import Params
from ireg.objective import Objective
from ireg.regularizers import SAM, Minibatch, MomentumLike, Norm, Regularizer

TOLERANCE = 0.15
"""How far a slope may be from its order."""
LOWER = 0.5
"""How far below the order a control's slope has to be."""
MOMENTUM = 0.9


@dataclass(frozen=True, kw_only=True)
class Order:
    """The result of a certificate: the order of its error, as claimed and as measured.

    Attributes:
        order: of the error, as theory has it.
        slope: of log error against log rate, as measured.
        controls: slopes of what is wrong in one place, by what is wrong.
    """

    order: int
    slope: float
    controls: Mapping[str, float]

    @property
    def holds(self) -> bool:
        """Whether the slope is right, and every control's is lower."""
        return abs(self.slope - self.order) <= TOLERANCE and not self.accepted

    @property
    def accepted(self) -> tuple[str, ...]:
        """Controls that pass for the truth."""
        return tuple(name for name, slope in self.controls.items() if not slope <= self.order - LOWER)


def exchange_rate(epochs: int) -> Order:
    """Certify how steps are exchanged for a penalty, over all orders of r = `epochs` epochs.

    r epochs at η₀/r with λ = η₀(1 − 1/r) on each minibatch end, in the mean, where one epoch at η₀ does. The error of
    one epoch is of third order, with any other λ of second.
    """
    problem, rates = quadratics_and_log_cosh(seed=3, num_batches=3), _halving(2**-5)
    strengths = {"": 1.0, "λ = 0": 0.0, "λ half": 0.5, "λ double": 2.0}
    errors: dict[str, list[float]] = {name: [] for name in strengths}
    for rate in rates:
        plain = _mean_end(problem, Minibatch(strength=0.0), rate, 1)
        for name, factor in strengths.items():
            penalty = Minibatch(strength=factor * rate * (1 - 1 / epochs))
            errors[name].append(float((_mean_end(problem, penalty, rate / epochs, epochs) - plain).norm()))
    return _order(3, rates, errors)


def _mean_end(problem: Problem, regularizer: Regularizer, rate: float, epochs: int) -> Tensor:
    """Compute the mean of ω over every order of every epoch, (p,)."""
    orders = [sum(chosen, ()) for chosen in product(permutations(range(problem.num_batches)), repeat=epochs)]
    points = problem.start[:, None].repeat(1, len(orders))
    for which in torch.tensor(orders).T:
        points = points - rate * _gradient(problem, regularizer, points, which)
    return points.mean(1)


def _gradient(problem: Problem, regularizer: Regularizer, points: Tensor, which: Tensor) -> Tensor:
    """Compute the objective's gradient at each column, (p, R), on the minibatch that `which` (R,) names."""
    batches = [torch.full_like(which, number) for number in range(problem.num_batches)]
    objective = Objective(partial(_loss, problem), regularizer, batches)
    leaf = points.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(objective.evaluate({NAME: leaf}, which).total, leaf)
    return gradient


def _loss(problem: Problem, params: Params, which: Tensor) -> Tensor:
    """Compute Ĉ of each column's minibatch, summed over the columns."""
    residuals = torch.einsum("cni,ic->nc", problem.inputs[which], params[NAME]) - problem.targets[which].T
    return residuals[: problem.squares].square().sum() / 2 + residuals[problem.squares :].cosh().log().sum()


@dataclass(frozen=True, kw_only=True)
class _Wrong(MomentumLike):
    """Momentum's penalty with other factors of ‖ḡ‖² and of the variance."""

    of_mean: Callable[[float, float], float]
    of_variance: Callable[[float, float], float]

    def coefficients(self, num_batches: int) -> tuple[float, float]:
        """Return the factors of (1/4) ‖g_k‖² and of (1/4) ‖ḡ‖²."""
        # With a of ‖ḡ‖² and b of the variance the penalty is (1/4) [b mean ‖g_k‖² + (a − b) ‖ḡ‖²], as the mean of
        # ‖g_k‖² is ‖ḡ‖² + Var. Momentum's own has a = 2L and b = −τ.
        right, whole = super().coefficients(num_batches)
        common = -right / self.strength
        lag = (whole / self.strength - common) / 2
        variance = self.of_variance(lag, common) * self.strength
        return variance, self.of_mean(lag, common) * self.strength - variance


def momentum_imitated() -> Order:
    """Certify that SGD with momentum's penalty takes momentum's mean path, at a fixed time."""
    problem, rates = quadratics(seed=3), _halving(2**-9)
    wrong = partial(_Wrong, momentum=MOMENTUM)
    none = lambda lag, common: 0.0  # noqa: E731
    penalties: dict[str, Callable[..., Regularizer]] = {
        "": partial(MomentumLike, momentum=MOMENTUM),
        "without": partial(wrong, of_mean=none, of_variance=none),
        "without −τ": partial(wrong, of_mean=lambda lag, _: 2 * lag, of_variance=none),
        "+τ": partial(wrong, of_mean=lambda lag, _: 2 * lag, of_variance=lambda _, common: common),
        "2L on both": partial(wrong, of_mean=lambda lag, _: 2 * lag, of_variance=lambda lag, _: 2 * lag),
    }
    recipe = Recipe(make=SGD, arguments=lambda rate: {"lr": rate * (1 - MOMENTUM), "momentum": MOMENTUM})
    errors: dict[str, list[float]] = {name: [] for name in penalties}
    for rate in rates:  # η_e
        epochs = whole_epochs(1.0, rate, problem.num_batches) // problem.num_batches
        end = over_all_orders(recipe, problem, start(recipe, problem, rate), rate, epochs)
        for name, penalty in penalties.items():
            other = _iterated(problem, penalty(strength=rate), rate, epochs)
            errors[name].append(float(np.linalg.norm(other - end)))
    return _order(2, rates, errors)


def _iterated(problem: Problem, regularizer: Regularizer, rate: float, epochs: int) -> np.ndarray:
    """Compute the mean of ω over all orders of all epochs, (p,), as the power of an affine map.

    It is one where losses are quadratic.
    """
    size = len(problem.start)
    corners = torch.cat([torch.zeros(size, 1, dtype=torch.float64), torch.eye(size, dtype=torch.float64)], 1)
    orders = torch.tensor(list(permutations(range(problem.num_batches))))
    points = corners.repeat(1, len(orders))
    for which in orders.repeat_interleave(size + 1, 0).T:
        points = points - rate * _gradient(problem, regularizer, points, which)
    images = points.view(size, len(orders), size + 1).mean(1).numpy()
    return iterated(images, problem.start.numpy(), epochs)


def nearby() -> Order:
    """Certify the expansion of SAM's gradient: ∇(C + ρ ‖∇C‖) + O(ρ²)."""
    problem, radii = quadratics_and_log_cosh(seed=3), _halving(2**-4)
    which, points = torch.zeros(1, dtype=torch.long), problem.start[:, None]
    errors: dict[str, list[float]] = {"": [], "C alone": [], "ρ/2": []}
    for radius in radii:
        gradient = _gradient(problem, SAM(strength=radius), points, which)
        for name, strength in (("", radius), ("C alone", 0.0), ("ρ/2", radius / 2)):
            errors[name].append(float((gradient - _gradient(problem, Norm(strength=strength), points, which)).norm()))
    return _order(2, radii, errors)


def differences() -> Order:
    """Certify the penalty's gradient by central differences: its error is of second order in their step."""
    problem, steps = quadratics_and_log_cosh(seed=3), _halving(2**-4)
    which, points = torch.zeros(1, dtype=torch.long), problem.start[:, None]
    exact = Minibatch(strength=1.0)
    expected, bare = (
        _gradient(problem, regularizer, points, which) for regularizer in (exact, replace(exact, strength=0.0))
    )
    size, errors = float(bare.norm()), {"": [], "forward differences": []}  # type: ignore[var-annotated]
    for step in steps:
        central = _gradient(problem, replace(exact, method="differences", step=step), points, which)
        ahead = _gradient(problem, replace(exact, strength=0.0), points + step * bare / size, which)
        forward = bare + size / 2 * (ahead - bare) / step
        for name, gradient in (("", central), ("forward differences", forward)):
            errors[name].append(float((gradient - expected).norm()))
    return _order(2, steps, errors)


EXCHANGES: Mapping[str, Callable[[], Order]] = {
    "2 epochs at η₀/2 with λ = η₀/2": partial(exchange_rate, 2),
    "3 epochs at η₀/3 with λ = 2η₀/3": partial(exchange_rate, 3),
    "SGD with momentum's penalty": momentum_imitated,
    "SAM and the norm of the gradient": nearby,
    "penalty by central differences": differences,
}
"""By name."""


def all_exchanges(chosen: Mapping[str, Callable[[], Order]] = EXCHANGES) -> dict[str, Order]:
    """Compute each certificate, by its name."""
    return {name: make() for name, make in chosen.items()}


def _halving(highest: float) -> tuple[float, ...]:
    return tuple(highest / 2**power for power in range(4))


def _order(order: int, rates: Sequence[float], errors: Mapping[str, Sequence[float]]) -> Order:
    slopes = {name: fit(rates, values, [0.0] * len(rates)).slope for name, values in errors.items()}
    return Order(order=order, slope=slopes.pop(""), controls=slopes)
