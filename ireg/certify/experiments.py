"""The experiments: an optimizer's mean against the ends of flows, after a fixed time of the flow."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ireg.certify.certificate import EXACT, Criterion, Outcome, fit, share
from ireg.certify.ends import SampledMean, on_full_batches, over_all_orders, over_sampled_orders
from ireg.certify.flows import MeanFlowParts, ModifiedLoss, integrate, logged_loss
from ireg.certify.optimizers import Recipe, Start, start
from ireg.certify.problems import Problem

PLAIN, MODIFIED = "plain", "modified"
MEAN, VARIANCE = "‖ḡ‖²", "Var"
PARTS = ("M", "V", "F")

PRECISION = 1e-12
"""Relative tolerance of the integrator, where the flow is in closed form."""

PRECISION_BY_AUTOGRAD = 1e-9
"""Where each velocity is a pass of `ireg.core.mean_flow`: far below the smallest error, 2e-7."""

PRECISION_IF_SAMPLED = 1e-8
"""The same, where means are over a sample of orders: the smallest error is 1e-6."""

PRECISION_OF_CONTROLS = 1e-7
"""The same, for flows that are wrong: some are not smooth."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The sample of orders that a mean is taken over.

    Attributes:
        columns: how many.
        seed: of the random orders.
    """

    columns: int
    seed: int = 0


def mean_end(
    recipe: Recipe, problem: Problem, begin: Start, rate: float, steps: int, sample: Sample | None
) -> SampledMean:
    """Compute the mean of ω after some steps, exactly unless a sample of orders is asked for.

    Args:
        recipe: the optimizer.
        problem: the loss.
        begin: the optimizer's state before the first step.
        rate: the abscissa that the recipe takes.
        steps: how many, whole epochs.
        sample: the orders to take; None for the exact mean, whose standard error is 0.
    """
    if sample is not None:
        epochs, seed = steps // problem.num_batches, sample.seed + steps
        return over_sampled_orders(recipe, problem, begin, rate, epochs, sample.columns, seed)
    if problem.num_batches == 1:
        mean = on_full_batches(recipe, problem, begin, rate, steps)
    else:
        mean = over_all_orders(recipe, problem, begin, rate, steps // problem.num_batches)
    return SampledMean(mean=mean, standard_error=0.0)


def whole_epochs(time: float, step_time: float, num_batches: int) -> int:
    """Return the number of steps in the whole epochs that come nearest to a time; at least one epoch.

    Args:
        time: of the flow, in units of the learning rate times steps.
        step_time: the time of one step.
        num_batches: the steps of one epoch.
    """
    return max(1, round(time / step_time / num_batches)) * num_batches


@dataclass(frozen=True, kw_only=True)
class OfModifiedLoss:
    """Filters of the gradient under a fixed P, against the flow of `ireg.terms.own`'s modified loss.

    Attributes:
        recipe: the optimizer.
        problem: one minibatch, or several quadratic ones, for the exact mean over all orders.
        rates: learning rates.
        controls: what to make of the modified flow so that it is wrong.
        time: of the flow.
        abscissa: what the rates are.
        free: whether other rates can be given.
    """

    recipe: Recipe
    problem: Problem
    rates: tuple[float, ...]
    controls: Mapping[str, Callable[[ModifiedLoss], ModifiedLoss]]
    time: float = 1.0
    abscissa: str = "η"
    free: bool = True

    def outcome(self, rates: Sequence[float]) -> Outcome:
        """Run the optimizer and its flows at these rates, and compare their ends."""
        variants = {PLAIN: without_terms, MODIFIED: lambda flow: flow, **self._without, **self.controls}
        ends, means = _Ends(variants), []
        for rate in rates:
            begin = start(self.recipe, self.problem, rate)
            flow = logged_loss(self.problem, begin.torch)
            steps = whole_epochs(self.time, flow.step_time, self.problem.num_batches)
            means.append(mean_end(self.recipe, self.problem, begin, rate, steps, None))
            for name, variant in variants.items():
                other = variant(flow)
                reached = integrate(other.velocity, self.problem.start.numpy(), steps * other.step_time, PRECISION)
                ends.points[name].append(reached)
        return ends.outcome(rates, means, tuple(self._without), EXACT)

    @property
    def _without(self) -> dict[str, Callable[[ModifiedLoss], ModifiedLoss]]:
        """The flow without each of its parts, by the part."""
        of_mean: Callable[[ModifiedLoss], ModifiedLoss] = lambda flow: replace(flow, of_mean=0.0)  # noqa: E731
        if self.problem.num_batches == 1:
            return {MEAN: of_mean}
        return {MEAN: of_mean, VARIANCE: lambda flow: replace(flow, of_variance=0.0)}


def without_terms(flow: ModifiedLoss) -> ModifiedLoss:
    """Leave out both parts and the slower clock: the plain flow."""
    return replace(flow, of_mean=0.0, of_variance=0.0, clock=1.0)


@dataclass(frozen=True, kw_only=True)
class OfMeanFlow:
    """Any optimizer against the mean flow of `ireg.core.mean_flow`.

    Attributes:
        recipe: the optimizer.
        problem: the loss, at each abscissa.
        rates: learning rates, or values of 1 − ρ.
        parts: factors of M, V, F that are wrong, by name.
        leading: those of M, V, F that are of first order in the abscissa, whose size is measured.
        controls: other flows that are wrong: what to make of the right one.
        sample: the orders to take, None for the exact mean.
        time: of the flow.
        abscissa: what the rates are.
        free: whether they are learning rates, with nothing else tied to them.
        criterion: what the slopes are held to.
    """

    recipe: Recipe
    problem: Callable[[float], Problem]
    rates: tuple[float, ...]
    parts: Mapping[str, tuple[float, float, float]]
    leading: tuple[str, ...]
    controls: Mapping[str, Callable[[MeanFlowParts], MeanFlowParts]] = field(default_factory=dict)
    sample: Sample | None = None
    time: float = 1.0
    abscissa: str = "η"
    free: bool = True
    criterion: Criterion = EXACT

    def outcome(self, rates: Sequence[float]) -> Outcome:
        """Run the optimizer and its flows at these rates, and compare their ends."""
        without = {name: tuple(float(name != other) for other in PARTS) for name in self.leading}
        parts = {PLAIN: (0.0, 0.0, 0.0), MODIFIED: (1.0, 1.0, 1.0), **without, **self.parts}
        rows = list(dict.fromkeys(parts.values()))  # a part left out is a control, too
        ends, means = _Ends((*parts, *self.controls)), []
        for rate in rates:
            problem = self.problem(rate)
            begin = start(self.recipe, problem, rate)
            step_time = begin.optimizer.memory.effective_rate
            steps = whole_epochs(self.time, step_time, problem.num_batches)
            means.append(mean_end(self.recipe, problem, begin, rate, steps, self.sample))
            flow = MeanFlowParts(problem=problem, optimizer=begin.optimizer, parts=np.array(rows))
            by_row = dict(zip(rows, flow.ends(steps * step_time, self._precision), strict=True))
            reached = {name: by_row[row] for name, row in parts.items()}
            right = replace(flow, parts=np.ones((1, 3)))
            for name, variant in self.controls.items():
                reached[name] = variant(right).ends(steps * step_time, PRECISION_OF_CONTROLS)[0]
            for name, point in reached.items():
                ends.points[name].append(point)
        return ends.outcome(rates, means, self.leading, self.criterion)

    @property
    def _precision(self) -> float:
        return PRECISION_BY_AUTOGRAD if self.sample is None else PRECISION_IF_SAMPLED


class _Ends:
    """The ends of flows at each rate, by name."""

    def __init__(self, names: Iterable[str]) -> None:
        self.points: dict[str, list[np.ndarray]] = {name: [] for name in names}

    def outcome(
        self, rates: Sequence[float], means: Sequence[SampledMean], parts: Sequence[str], criterion: Criterion
    ) -> Outcome:
        """Compare the ends with the means of the optimizer.

        Args:
            rates: the abscissas.
            means: of the optimizer at each.
            parts: names of the flows without a part each.
            criterion: what the slopes are held to.
        """
        standard_errors = [mean.standard_error for mean in means]
        rests = [mean.mean - end for mean, end in zip(means, self.points[MODIFIED], strict=True)]
        coefficients = {}
        for part in parts:
            effects = [end - other for end, other in zip(self.points[MODIFIED], self.points[part], strict=True)]
            coefficients[part] = share(rates, rests, effects, standard_errors)
        curves = {
            name: fit(rates, [_apart(*pair) for pair in zip(means, ends, strict=True)], standard_errors)
            for name, ends in self.points.items()
            if name not in parts
        }
        return Outcome(
            rates=tuple(rates),
            plain=curves.pop(PLAIN),
            modified=curves.pop(MODIFIED),
            controls=curves,
            standard_errors=tuple(standard_errors),
            criterion=criterion,
            coefficients=coefficients,
        )


def _apart(mean: SampledMean, end: np.ndarray) -> float:
    return float(np.linalg.norm(mean.mean - end))
