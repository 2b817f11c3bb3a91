"""What a certificate is and when it holds: orders of accuracy, their tolerances, and a verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, isnan
from typing import Protocol

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """Where the fitted slopes have to lie.

    Attributes:
        plain: lowest and highest slope of the plain flow's error.
        modified: of the modified flow's error.
    """

    plain: tuple[float, float]
    modified: tuple[float, float]


REJECTED_BELOW = 1.5
"""A control is rejected if its slope lies below, nearer to order 1 than to order 2."""

EXACT = Criterion(plain=(0.85, 1.15), modified=(1.85, 2.15))
"""Without sampling, one small parameter: order 1 and order 2 within 0.15."""

TWO_PARAMETERS = Criterion(plain=(-inf, REJECTED_BELOW), modified=(1.7, 2.3))
"""η and 1 − ρ shrink together: parts of different sign make slopes approach their order from far, above and below."""

CANCELLING = Criterion(plain=(-inf, REJECTED_BELOW), modified=(1.7, 3.2))
"""The same where errors of second order nearly cancel, so that the third shows: Adam at β = 0.9 with minibatches."""

COEFFICIENT_WITHIN = 0.02
"""How far the measured share of a part may be from 1."""

STANDARD_ERRORS = 2.0
"""A slope has to be where it should by so many of its standard errors, where means are over a sample of orders."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Errors of a flow at a fixed time against the rates, and the order that is fitted to them.

    Attributes:
        errors: ‖mean of the optimizer − flow‖ at each rate.
        slope: of the straight line through log error against log rate; nan where an error is none.
        uncertainty: standard error of the slope that comes from sampling; 0 without sampling.
    """

    errors: tuple[float, ...]
    slope: float
    uncertainty: float

    def within(self, low: float, high: float) -> bool:
        """Say whether the slope is from `low` to `high`, by at least `STANDARD_ERRORS` of its standard errors."""
        margin = STANDARD_ERRORS * self.uncertainty
        return low <= self.slope - margin and self.slope + margin <= high


def fit(rates: Sequence[float], errors: Sequence[float], standard_errors: Sequence[float]) -> Curve:
    """Fit the order of errors by least squares in the logarithms.

    A standard error counts in full as if it lay along the error, where only its component there would.

    Args:
        rates: the abscissas, positive.
        errors: one at each rate; an error that is 0 or not finite leaves the curve without a slope (nan).
        standard_errors: of each error, from sampling; zeros without sampling.
    """
    values = np.array(errors)
    usable = bool(np.all(np.isfinite(values)) and np.all(values > 0))
    deviations = np.log(rates) - np.mean(np.log(rates))
    weights = deviations / (deviations @ deviations)
    return Curve(
        errors=tuple(float(error) for error in values),
        slope=float(weights @ np.log(values)) if usable else float("nan"),
        uncertainty=float(np.linalg.norm(weights * np.array(standard_errors) / values)) if usable else 0.0,
    )


@dataclass(frozen=True, kw_only=True)
class Coefficient:
    """How much of a part is in the optimizer's mean: 1 if the part's constant is right.

    Attributes:
        value: measured over predicted, in the limit of small rates.
        uncertainty: standard error that comes from sampling; 0 without sampling.
    """

    value: float
    uncertainty: float

    @property
    def holds(self) -> bool:
        """Whether the value is 1, sampling considered."""
        return abs(self.value - 1) + STANDARD_ERRORS * self.uncertainty <= COEFFICIENT_WITHIN


def share(
    rates: Sequence[float],
    rests: Sequence[np.ndarray],
    effects: Sequence[np.ndarray],
    standard_errors: Sequence[float],
) -> Coefficient:
    """Extrapolate the share of a part to the rate 0 from the two smallest rates.

    At each rate it is 1 + ⟨rest, effect⟩/‖effect‖², which is 1 but for O(rate).

    Args:
        rates: the abscissas, at least two.
        rests: mean of the optimizer less the end of the modified flow, (p,) at each rate.
        effects: end of the modified flow less that without the part, (p,) at each rate.
        standard_errors: of the mean of the optimizer, at each rate.
    """
    points = sorted(zip(rates, rests, effects, standard_errors, strict=True), key=lambda point: point[0])[:2]
    (one, first, first_error), (other, second, second_error) = (
        (rate, 1 + float(rest @ effect / (effect @ effect)), error / float(np.linalg.norm(effect)))
        for rate, rest, effect, error in points
    )
    # The straight line through both shares, at the rate 0.
    return Coefficient(
        value=(first * other - second * one) / (other - one),
        uncertainty=float(np.hypot(first_error * other, second_error * one)) / (other - one),
    )


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of a certificate: errors of the right flow, of the plain one and of the wrong ones.

    Attributes:
        rates: the abscissas.
        plain: the error of the plain flow, without the terms of first order.
        modified: the error of the modified flow.
        controls: errors of modified flows with a constant or a place that is wrong, by name.
        standard_errors: of the mean of the optimizer, at each rate; zeros where the mean is exact.
        criterion: what the slopes are held to.
        coefficients: the measured share of each part of the modified flow, by its name.
    """

    rates: tuple[float, ...]
    plain: Curve
    modified: Curve
    controls: Mapping[str, Curve]
    standard_errors: tuple[float, ...]
    criterion: Criterion
    coefficients: Mapping[str, Coefficient] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        """Whether both flows have the orders claimed, and each part its size."""
        of_order = self.plain.within(*self.criterion.plain) and self.modified.within(*self.criterion.modified)
        return of_order and all(coefficient.holds for coefficient in self.coefficients.values())

    @property
    def rejected(self) -> list[str]:
        """The controls that are rejected, as they should be."""
        return [
            name for name, curve in self.controls.items() if isnan(curve.slope) or curve.within(-inf, REJECTED_BELOW)
        ]

    @property
    def passes(self) -> bool:
        """Whether the certificate holds and rejects every control, without which it could not have failed."""
        return self.holds and len(self.rejected) == len(self.controls)


class Experiment(Protocol):
    """An optimizer and its flows, which run at some rates."""

    @property
    def rates(self) -> tuple[float, ...]:
        """The abscissas that are taken unless others are given."""

    @property
    def abscissa(self) -> str:
        """What the abscissas are: η, or 1 − ρ."""

    @property
    def free(self) -> bool:
        """Whether other abscissas can be given."""

    def outcome(self, rates: Sequence[float]) -> Outcome:
        """Run the optimizer and its flows at these rates, and compare their ends."""


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """A claim of theory about one optimizer, with the experiment that could refute it.

    Attributes:
        optimizer: a name of conf/optimizer.
        setting: its hyperparameters, as far as they matter, and the data.
        theory: the modified flow in short.
        source: who derived it.
        experiment: what is run.
    """

    optimizer: str
    setting: str
    theory: str
    source: str
    experiment: Experiment

    @property
    def name(self) -> str:
        """The name that no other certificate has."""
        return f"{self.optimizer}, {self.setting}: {self.theory}"

    def run(self, rates: Sequence[float] | None = None) -> Outcome:
        """Run the experiment, at other rates than its own if they are free.

        Args:
            rates: the abscissas; None for those of the experiment.

        Raises:
            ValueError: rates for a certificate whose rates are tied to other parameters.
        """
        if rates is not None and not self.experiment.free:
            raise ValueError(f"{self.name}: its rates are tied to {self.experiment.abscissa}")
        return self.experiment.outcome(self.experiment.rates if rates is None else rates)
