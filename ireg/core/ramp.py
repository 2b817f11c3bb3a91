"""Any optimizer's modified flow: its response to a straight line of weights and gradients.

One step takes off the weights what past gradients and weights make of it, with a memory that fades. Let Δ be what a
step takes off where weights ω and gradient g have been the same for long: η times the leading velocity F. To first
order in η, the weights follow ω̇ = −(F + c), where F + c is what the optimizer makes of the line that it leaves behind,
half a step late: at lag j, weights ω + (j + ½)Δ and gradients g + (j + ½)HΔ. Its step sees gradients at ω + jΔ, and an
Euler step of velocity −F bends by ½F′F. Both are sums over lags of the same derivatives:

    ηc = Σ_j (j + ½) (∂step/∂g_j HΔ + ∂step/∂ω_j Δ).

No formula of the optimizer is needed. It is fed with the line, its weights overwritten before each step, and the last
step's difference between a small line forwards and backwards is read off. All is computed in double precision.

It holds where a step is a smooth function of a memory that fades. `python -m ireg.verify --optimizer` certifies it.

Derived and certified here (docs/theory.md, section 18).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.overrides import TorchFunctionMode

from ireg.core.norms import norm
from ireg.core.params import add_scaled, same_values
from ireg.core.types import Params

Make = Callable[[list[nn.Parameter]], Optimizer]
"""Makes an optimizer of a list of parameters."""

FIRST = 32
"""Steps that are tried first. Each try has twice as many as the one before."""
MOST = 2**16
"""Steps at most: a memory of 4,000 steps has faded to 1e-7 then."""
SHORTER = 10.0
"""By what a line is shortened at a time."""
ROUNDING = torch.finfo(torch.float64).eps


class NoFlowError(ValueError):
    """An optimizer has no modified flow that its steps could show."""


class NoFadeError(NoFlowError):
    """An optimizer's memory has not faded within the steps that were allowed."""


@dataclass(frozen=True, kw_only=True)
class Response:
    """What an optimizer makes of a line, by parameter name, in what one step takes off the weights.

    Attributes:
        leading: Δ = ηF.
        correction: ηc, the response to the line half a step late.
        slope: the response to a line that is the same at all lags: half of it is what half a step makes.
        steps: after so many steps the memory has faded.
        nonlinearity: by how much of its norm, and beyond rounding, the correction differs along a line that is half as
            long.
    """

    leading: Params
    correction: Params
    slope: Params
    steps: int
    nonlinearity: float

    @property
    def strength(self) -> float:
        """‖c‖/‖F‖."""
        return _over(float(norm(self.correction)), float(norm(self.leading)))

    def late(self, lag: float) -> Params:
        """Return the response to a line that is so many steps late: the correction for ½."""
        return add_scaled(self.correction, self.slope, lag - 0.5)


class Driven:
    """An optimizer that is fed with gradients, and whose weights are overwritten before each step.

    Args:
        make: makes it.
        weights: where it begins, by name.

    Attributes:
        parameters: that it holds, by name.

    Raises:
        NoFlowError: it does not hold all of the parameters that it was given.
    """

    def __init__(self, make: Make, weights: Params) -> None:
        self.parameters = {name: nn.Parameter(value.clone()) for name, value in weights.items()}
        self.optimizer = make(list(self.parameters.values()))
        held = {id(value) for group in self.optimizer.param_groups for value in group["params"]}
        for name, value in self.parameters.items():
            if id(value) not in held:
                raise NoFlowError(
                    f"{type(self.optimizer).__name__} does not hold {name}, of {len(held)} parameters that it was "
                    "given; make it of all of them"
                )

    def put(self, weights: Params) -> None:
        """Overwrite the weights."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(weights[name])

    def step(self, gradients: Params) -> None:
        """Take a step with these gradients, of which the optimizer may keep and write to the tensors.

        Raises:
            NoFlowError: the optimizer cannot take a step with gradients alone.
        """
        for name, parameter in self.parameters.items():
            parameter.grad = gradients[name]
        try:
            self.optimizer.step()
        except Exception as error:  # whatever a class of somebody's raises
            name = type(self.optimizer).__name__
            raise NoFlowError(f"{name} takes no step with gradients alone: {str(error).splitlines()[0]}") from error

    @property
    def weights(self) -> Params:
        """Copies of the weights as they are now."""
        return {name: value.detach().clone() for name, value in self.parameters.items()}

    def off(self, weights: Params) -> Params:
        """Return by how much the weights are less than these."""
        return {name: weights[name] - value.detach() for name, value in self.parameters.items()}


def settled_step(
    make: Make, weights: Params, gradient: Params, *, tolerance: float, most: int = MOST
) -> tuple[Params, int]:
    """Find what a step takes off at constant weights and gradient, once the beginning is forgotten.

    Args:
        make: makes the optimizer.
        weights: ω.
        gradient: g.
        tolerance: the step is settled once it differs by less than this share of its norm from that of half as many
            steps.
        most: steps at most.

    Returns:
        Δ, and after how many steps.

    Raises:
        NoFlowError: the memory does not fade (`NoFadeError`), two optimizers take different steps, or a step is none.
    """
    driven, twin = Driven(make, weights), Driven(make, weights)
    steps, earlier, due = 0, None, FIRST
    while due <= most:
        for step in range(steps, due):
            driven.put(weights)
            driven.step(_copied(gradient))
            if step < FIRST // 2:
                twin.put(weights)
                twin.step(_copied(gradient))
                _require_same(driven, twin)
        taken, steps = driven.off(weights), due
        size = float(norm(taken))
        if not math.isfinite(size) or size == 0:
            raise NoFlowError(f"{type(driven.optimizer).__name__} takes a step of {size:g} at a constant gradient")
        if earlier is not None and distance(taken, earlier) <= tolerance * size:
            return taken, steps
        earlier, due = taken, 2 * due
    raise NoFadeError(_no_fade(driven.optimizer, most))


def step_after(make: Make, weights: Params, gradient: Params, steps: int) -> Params:
    """Return what the last of so many steps takes off at constant weights and gradient."""
    driven = Driven(make, weights)
    for _ in range(steps):
        driven.put(weights)
        driven.step(_copied(gradient))
    return driven.off(weights)


def respond(
    make: Make,
    weights: Params,
    gradient: Params,
    product: Callable[[Params], Params],
    *,
    tolerance: float = 1e-3,
    most: int = MOST,
) -> Response:
    """Compute an optimizer's response to the line that it leaves behind.

    Args:
        make: makes the optimizer of parameters in the order of `weights`.
        weights: ω, by name, in double precision.
        gradient: g = ∇C(ω).
        product: from a direction v to Hv, by name.
        tolerance: the memory has faded once the response differs by less than this share of its norm from that of half
            as many steps. That of a memory that decays evenly is then known to the square of it.
        most: steps at most.

    Returns:
        The response.

    Raises:
        NoFlowError: the memory does not fade (`NoFadeError`), the step is not smooth, the optimizer draws random
            numbers, or it takes no step with gradients alone.

    Example:
        >>> weights, gradient = {"w": torch.ones(1).double()}, {"w": torch.full((1,), 2.0).double()}  # C = ω²
        >>> found = respond(
        ...     lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.5),
        ...     weights, gradient, lambda direction: {"w": 2 * direction["w"]},
        ... )
        >>> round(float(found.leading["w"]), 6)  # η_e ∇C = 0.2 · 2
        0.4
        >>> round(float(found.correction["w"]), 6)  # η_e (η_e/2) (1 + 2L) H∇C = 0.2 · 0.1 · 3 · 4
        0.24
    """
    leading, settled = settled_step(make, weights, gradient, tolerance=tolerance, most=most)
    line = Line(make, weights, gradient, leading, product(leading))
    line = _short_enough(line, tolerance)
    due, earlier = max(FIRST, settled // 2), None
    while due <= most:
        found = line.correction(due)
        if earlier is not None and distance(found, earlier) <= tolerance * float(norm(found)) + line.rounding(due):
            response = line.response(due)
            _require_smooth(make, weights, response, tolerance)
            return response
        earlier, due = found, 2 * due
    _require_smooth(make, weights, line.response(due // 2), tolerance)
    raise NoFadeError(_no_fade(Driven(make, weights).optimizer, most))


@dataclass(frozen=True)
class Line:
    """A straight line of weights and gradients, which an optimizer is fed with.

    Attributes:
        make: makes the optimizer.
        weights: ω, where the line ends.
        gradient: g, there.
        along: Δ, what a step takes off the weights.
        uphill: HΔ.
        length: of the line, as a share of what suits a step that is smooth on the scale of the whole gradient.
    """

    make: Make
    weights: Params
    gradient: Params
    along: Params
    uphill: Params
    length: float = 1.0

    def scale(self, steps: int) -> float:
        """Return by what a line of so many steps is shortened.

        The error of a difference along it has a part by rounding, which falls with its length, and one of its square.
        """
        size, moved = float(norm(self.weights)), float(norm(self.along))
        change = max(_over(float(norm(self.uphill)), float(norm(self.gradient))), _over(moved, size))
        share = (ROUNDING * max(1.0, _over(size, moved))) ** (1 / 3)
        return self.length * (share / (max(1.0, steps / 8) * change) if change else share)

    def rounding(self, steps: int) -> float:
        """Return what rounding makes of the norm of ηc."""
        return ROUNDING * float(norm(self.weights)) / self.scale(steps)

    def correction(self, steps: int, part: float = 1.0) -> Params:
        """Return ηc, by a line of so many steps and of a part of the length."""
        scale = part * self.scale(steps)
        return _difference(self._last(steps, scale)[1], self._last(steps, -scale)[1], scale)

    def response(self, steps: int, *, with_nonlinearity: bool = True) -> Response:
        """Return all that a line of so many steps shows; on request without what takes two more lines."""
        scale = self.scale(steps)
        forwards, backwards = (self._last(steps, sign * scale) for sign in (1, -1))
        before, last = (_difference(one, other, scale) for one, other in zip(forwards, backwards, strict=True))
        size = float(norm(last))
        return Response(
            leading={name: (value + backwards[1][name]) / 2 for name, value in forwards[1].items()},
            correction=last,
            slope={name: value - last[name] for name, value in before.items()},
            steps=steps,
            nonlinearity=_over(self._off(last, steps), size) if with_nonlinearity else 0.0,
        )

    def _off(self, correction: Params, steps: int) -> float:
        """Return the norm by which a line that is half as long has another correction, beyond rounding."""
        return max(0.0, distance(correction, self.correction(steps, part=0.5)) - 4 * self.rounding(steps))

    def _last(self, steps: int, scale: float) -> tuple[Params, Params]:
        """Return what the last two steps take off."""
        return self.driven(steps, scale)[1:]

    def driven(self, steps: int, scale: float = 1.0, *, late: float = 0.5) -> tuple[Driven, Params, Params]:
        """Feed an optimizer with the line, as far as a last step that is so late.

        Args:
            steps: how many.
            scale: of the line; negative ones lead to the other side.
            late: by how many steps the last one is before the end.

        Returns:
            The optimizer, and what its last two steps take off.
        """
        driven = Driven(self.make, self.weights)
        before: Params = {}
        last: Params = {}
        for lag in range(steps - 1, -1, -1):
            gone = scale * (lag + late)
            driven.put(add_scaled(self.weights, self.along, gone))
            start = driven.weights if lag < 2 else {}
            driven.step({name: value.add(self.uphill[name], alpha=gone) for name, value in self.gradient.items()})
            if lag < 2:
                before, last = last, driven.off(start)
        return driven, before, last


def _difference(one: Params, other: Params, scale: float) -> Params:
    """Return half the difference of two vectors, over a scale."""
    return {name: (value - other[name]) / (2 * scale) for name, value in one.items()}


def _over(upper: float, lower: float) -> float:
    return upper / lower if lower else 0.0


def distance(one: Params, other: Params) -> float:
    """Return ‖v − w‖."""
    return float(norm(add_scaled(one, other, -1.0)))


def _require_same(one: Driven, other: Driven) -> None:
    """Check that two optimizers have taken the same step.

    Raises:
        NoFlowError: they have not.
    """
    weights = other.weights
    if not all(same_values(value, weights[name]) for name, value in one.weights.items()):
        raise NoFlowError(
            f"{type(one.optimizer).__name__} draws random numbers: two of it take different steps with the same "
            "gradients"
        )


def _copied(values: Params) -> Params:
    return {name: value.clone() for name, value in values.items()}


def _short_enough(line: Line, tolerance: float) -> Line:
    """Shorten a line until the response is proportional to its length, while rounding allows it.

    Weights with gradients near 0 have a response of their own to a change that is small against the whole gradient.

    Raises:
        NoFlowError: at no length it is.
    """
    first = line.response(FIRST)
    found = first
    while found.nonlinearity > tolerance:
        line = replace(line, length=line.length / SHORTER)
        found = line.response(FIRST)
        if line.rounding(FIRST) > tolerance * float(norm(found.correction)):
            _require_smooth(line.make, line.weights, first, tolerance)
    return line


def _require_smooth(make: Make, weights: Params, response: Response, tolerance: float) -> None:
    """Check that the response to a line is proportional to its length.

    Raises:
        NoFlowError: it is not.
    """
    if response.nonlinearity > tolerance:
        name = type(Driven(make, weights).optimizer).__name__
        raise NoFlowError(
            f"a step of {name} is no smooth function of the gradient: along a line half as long the response differs "
            f"by {response.nonlinearity:.1g} of itself"
        )


def _no_fade(optimizer: Optimizer, most: int) -> str:
    return (
        f"the memory of {type(optimizer).__name__} has not faded after {most} steps: what it does depends on all of "
        "its past, and there is no flow of its weights alone"
    )


def lowest_precision(make: Make, weights: Params, gradient: Params) -> torch.dtype | None:
    """Return the lowest precision that a step computes in; None where it is double."""
    driven = Driven(make, weights)
    driven.put(weights)
    with _Seen() as seen:
        driven.step(_copied(gradient))
    coarse = [dtype for dtype in seen.dtypes if torch.finfo(dtype).eps > ROUNDING]
    return max(coarse, key=lambda dtype: torch.finfo(dtype).eps, default=None)


class _Seen(TorchFunctionMode):
    """The types of floating-point tensors that functions return within the block; single numbers aside."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: set[torch.dtype] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the function, and note the type of what it returns."""
        found = func(*args, **(kwargs or {}))
        for value in found if isinstance(found, list | tuple) else [found]:
            if isinstance(value, torch.Tensor) and value.numel() > 1 and value.dtype.is_floating_point:
                self.dtypes.add(value.dtype)
        return found
