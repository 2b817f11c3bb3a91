"""What a term may look at: one moment of training."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeVar

import torch
import torch.distributed as distributed
from torch import Tensor

from ireg.core.batches import examples_of
from ireg.core.clipping import Clip
from ireg.core.diagonal import exact_diagonal
from ireg.core.differenced_hessian import DifferencedHessian, hessian_of
from ireg.core.drawing import EPOCH, INDEPENDENT, population_size, require_sampling
from ireg.core.driven_noise import driven_noise
from ireg.core.fluctuation import Fluctuation
from ireg.core.frozen_gradients import FrozenGradients
from ireg.core.full_batch_flow import FullBatchFlow, full_batch_flow
from ireg.core.hessian import MeanHessian
from ireg.core.lanczos import Eigenpair
from ireg.core.large import is_large
from ireg.core.margins import margins
from ireg.core.mean_flow import MeanFlow, mean_flow, moments_needed
from ireg.core.moments import (
    DrawnMoments,
    Foreseen,
    GradientMoments,
    IndependentMoments,
    Observer,
    SampledGradients,
    drawn_moments,
    gradient_moments,
    sampled_gradients,
)
from ireg.core.moments.needs import EVERYTHING, Need
from ireg.core.norms import widened
from ireg.core.optimizers import Memory, OptimizerState
from ireg.core.own_passes import OwnPasses
from ireg.core.params import add_scaled, as_reals, by_name
from ireg.core.parts import Parts
from ireg.core.path import Path
from ireg.core.preconditioner_noise import preconditioner_noise
from ireg.core.ramp import NoFadeError
from ireg.core.random import named_generator
from ireg.core.ranks import MeanOverRanks
from ireg.core.sharpness import (
    Estimate,
    batch_sharpness,
    gradient_noise_interaction,
    minibatch_curvatures,
    probed_trace,
    steepest,
)
from ireg.core.steepest_noise import steepest_noise
from ireg.core.types import Batch, Descended, LossFn, Params, Shared
from ireg.core.wide import brought, wide

NO_FADE = "no fade"
"""Kept for the next measurement where an optimizer's memory has not faded: it would take as many steps again."""

Window = TypeVar("Window", GradientMoments, DrawnMoments)


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The state of training at one moment, for all terms; what is derived from it is computed once.

    `ireg.snapshot` makes one of a model and its optimizer; `ireg.measure`, `ireg.Monitor` and the callback hand one to
    each term.

    Attributes:
        params: all parameters ω, detached.
        initial: the parameters before training, ω₀.
        loss: the mean loss of a minibatch as a function of the parameters, which has what it is not given itself.
        batches: the minibatches of the epoch that has just ended (before training: of the first).
        optimizer: what the optimizer holds, and which of the parameters it moves.
        generator: random numbers for estimators; its own stream.
        needs: what the moments are asked for, the union of what the terms need.
        method: how the moments are computed, see `gradient_moments`.
        observer: called with each minibatch's outputs when the moments are computed.
        population: the number m of the epoch's minibatches, where `batches` are a random sample of them; None where
            they are all, by rule.
        sampling: how training draws its minibatches, see `ireg.sampling_of`. With `independent` ones C is the loss of
            the population that they are drawn from, and `batches` are a window of them.
        drawn: whether the loss draws masks, of which the terms are means.
        kept: what a measurement leaves for the next one, by name: vectors to start from. It is written to.
        path: sums over the epoch's steps; None where they were not recorded, as before training.
        corrupted: which examples have a wrong label, (N,), in the order of the minibatches; None where that is unknown.
        objective: what is descended, where that is the loss and an explicit penalty; None for the bare loss.
        parts: layers or groups, of which terms of gradients are measured, too, see `by_part`.
        whole: the snapshot of all parameters, where this is a part of it.
        clip: how gradients are clipped before the optimizer's steps, where that is known.
        notes: what terms have left out, and why, a line each. It is written to.

    Example:
        >>> import ireg
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> _ = torch.nn.init.constant_(model.weight, 2.0)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> batches, loss = [(torch.ones(1, 1), torch.zeros(1, 1))], torch.nn.functional.mse_loss
        >>> with ireg.snapshot(model, batches, optimizer=optimizer, criterion=loss) as snapshot:
        ...     snapshot.moments.mean, snapshot.optimizer.lr  # ∇w² = 2w
        ({'weight': tensor([[4.]])}, 0.1)
    """

    params: Params
    initial: Params
    loss: LossFn
    batches: Sequence[Batch]
    optimizer: OptimizerState
    generator: torch.Generator
    needs: Need = EVERYTHING
    method: str = "auto"
    observer: Observer | None = None
    population: int | None = None
    sampling: str = EPOCH
    drawn: bool = False
    kept: dict[str, Tensor] = field(default_factory=dict)
    path: Path | None = None
    corrupted: Tensor | None = None
    objective: Descended | None = None
    parts: Parts | None = None
    whole: "Snapshot | None" = None
    clip: Clip | None = None
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        require_sampling(self.sampling)

    @property
    def independent(self) -> bool:
        """Whether each minibatch is drawn independently of the others."""
        return self.sampling == INDEPENDENT

    @property
    def population_size(self) -> float:
        """The number of minibatches that `batches` are drawn from: m, or infinite for independent draws."""
        return population_size(self.sampling, self.num_batches)

    @property
    def num_batches(self) -> int:
        """The number m of the epoch's minibatches."""
        return len(self.batches) if self.population is None else self.population

    @property
    def is_sample(self) -> bool:
        """Whether `batches` are some of the epoch's minibatches only."""
        return len(self.batches) < self.num_batches

    @property
    def is_estimated(self) -> bool:
        """Whether the gradient of all minibatches is not known, but estimated from some, or from drawn masks."""
        return self.independent or self.drawn or self.population is not None

    @property
    def has_errors(self) -> bool:
        """Whether `gradients` are estimates that have standard errors."""
        return self.population is not None and len(self.batches) < self.population_size

    @property
    def step_factors(self) -> tuple[float, float]:
        """The factors of SGD's two parts for rates that change, see `OptimizerState.step_factors`.

        Raises:
            ValueError: all minibatches of the epoch are here, and there are other rates than minibatches.
        """
        return self.optimizer.step_factors(self.num_batches, self.sampling, of_some_steps=self.population is not None)

    @property
    def own_coefficients(self) -> tuple[float, float]:
        """The coefficients of the own regularizer's parts, see `OptimizerState.own_coefficients`.

        Raises:
            ValueError: as `step_factors`, or the optimizer's memory is not known.
        """
        return self.optimizer.own_coefficients(self.num_batches, of_some_steps=self.population is not None)

    @cached_property
    def moving(self) -> Params:
        """The parameters that the optimizer moves, by name: what is differentiated.

        Complex ones are their real and imaginary parts, (…, 2).
        """
        return {name: as_reals(self.params[name]) for name in self.optimizer.moving}

    @cached_property
    def moments(self) -> GradientMoments:
        """Moments of the minibatch gradients by what moves, from one pass over the data for all terms.

        Raises:
            ValueError: the minibatches are a sample, or masks are drawn: what is computed of the moments is biased.
        """
        self._require_exact()
        if self.whole is not None:
            return self.whole.moments.of(self.optimizer.moving)
        return gradient_moments(
            self.loss, self.moving, self.batches, needs=self.needs, method=self.method, observer=self.observer
        )

    def _require_exact(self) -> None:
        if self.is_sample or self.drawn:
            some = "drawn masks" if self.drawn else f"{len(self.batches)} of {self.num_batches} minibatches"
            raise ValueError(
                f"moments of {some} are biased; a term that is estimated uses snapshot.gradients alone, and says so by "
                "@needs(…, estimable=True)"
            )

    @cached_property
    def gradients(self) -> GradientMoments | IndependentMoments | SampledGradients | DrawnMoments:
        """The sums that the terms are made of, exact or estimated.

        `mean_square`, `mean_square_of_product` and `square_of_mean` return 0-d tensors over all minibatches. From a
        sample of these, from drawn masks, or from independent minibatches, they return estimates without bias, see
        `SampledGradients`, `DrawnMoments` and `IndependentMoments`.
        """
        if self.whole is not None:
            return self.whole.gradients.of(self.optimizer.moving)
        if self.drawn or self.has_errors:
            return self._estimated(self.loss, self.method)
        return self._of_population(self.moments)

    def _estimated(self, loss: LossFn, method: str) -> IndependentMoments | SampledGradients | DrawnMoments:
        if self.drawn:
            by_parameter = Need.BY_PARAMETER in self.needs
            return self._of_population(drawn_moments(loss, self.moving, self.batches, by_parameter=by_parameter))
        return sampled_gradients(
            loss,
            self.moving,
            self.batches,
            self.population_size,
            method=method,
            foreseen=self._foreseen,
            generator=self._stream("sketch"),
        )

    @property
    def _foreseen(self) -> Foreseen:
        """What the terms ask of a sample's gradients: the metrics of SGD and of the own optimizer."""
        optimizer, needs = self.optimizer, self.needs
        scales: list[Params | None] = [None] if Need.SQ_NORMS in needs or optimizer.shares is None else []
        factors = []
        if Need.SQUARE in needs:
            wanted = (optimizer.shares, self.preconditioner)
            scales += [scale for scale in {id(scale): scale for scale in wanted}.values() if scale is not None]
            factors = [] if optimizer.second_moment is None else [optimizer.second_moment]
        if Need.STEPS in needs and self.preconditioner is not None:
            factors.append(self.preconditioner)
        return Foreseen(scales=scales, factors=factors, parts=None if self.parts is None else list(self.parts.values()))

    @cached_property
    def by_part(self) -> dict[str, "Snapshot"]:
        """The same of each part of the parameters that move, by the part's name; empty without `parts`.

        Gradients are those by the part's parameters, of the passes that serve all parts together.
        """
        return {
            part: replace(self, optimizer=replace(self.optimizer, moving=names), parts=None, whole=self)
            for part, names in (self.parts or {}).items()
        }

    @cached_property
    def examples(self) -> list[int] | None:
        """How many examples each of `batches` has, those of all ranks; None where a minibatch does not say."""
        if self.whole is not None:
            return self.whole.examples
        loss, ranks = self.loss, 1
        if isinstance(loss, MeanOverRanks) or (isinstance(loss, OwnPasses) and loss.has_ranks):
            ranks = distributed.get_world_size(loss.group)
        counts = examples_of(self.batches)
        return None if counts is None else [ranks * count for count in counts]

    @property
    def inverse_size(self) -> float | None:
        """The mean of 1/B_k over `batches`; None where a minibatch does not say its size, or is empty."""
        sizes = self.examples
        return None if sizes is None or 0 in sizes else sum(1 / size for size in sizes) / len(sizes)

    def _of_population(self, moments: Window) -> IndependentMoments | Window:
        """Return the moments as they are, or as estimates for independent minibatches."""
        return IndependentMoments(window=moments, size=len(self.batches)) if self.independent else moments

    @cached_property
    def descended_moments(self) -> GradientMoments:
        """Moments of the objective's gradients, without what all minibatches share.

        Raises:
            ValueError: as `moments`.
        """
        if self.objective is None or not self.objective.of_minibatches:
            return self.moments
        self._require_exact()
        if self.whole is not None:
            return self.whole.descended_moments.of(self.optimizer.moving)
        # One by one: what is differentiated holds gradients itself.
        return gradient_moments(self.objective, self.moving, self.batches, needs=self.needs, method="loop")

    @cached_property
    def descended(self) -> GradientMoments | IndependentMoments | SampledGradients | DrawnMoments:
        """The same sums as `gradients`, of the objective without what all minibatches share."""
        if self.objective is None or not self.objective.of_minibatches:
            return self.gradients
        if self.whole is not None:
            return self.whole.descended.of(self.optimizer.moving)
        if self.drawn or self.has_errors:
            return self._estimated(self.objective, "loop")
        return self._of_population(self.descended_moments)

    @cached_property
    def shared(self) -> Shared | None:
        """What the minibatches' objectives share; None if there is nothing."""
        if self.whole is not None:
            return self.whole.shared
        return None if self.objective is None else self.objective.shared(self.moving)

    @cached_property
    def memory(self) -> Memory:
        """What the optimizer remembers of past gradients."""
        return self.optimizer.memory

    @cached_property
    def preconditioner(self) -> Params | None:
        """P of the optimizer's last step, by name; None for the identity, and before the first step."""
        return self.optimizer.preconditioner if self.whole is None else self.whole.preconditioner

    @cached_property
    def hessian(self) -> MeanHessian | DifferencedHessian:
        """The Hessian of C by what moves, as products with vectors.

        Raises:
            ValueError: the minibatches are a sample, or masks are drawn: no term of it has an estimate.
        """
        if self.is_sample or self.drawn:
            raise ValueError("the Hessian needs all minibatches of the epoch, and a loss without drawn masks")
        return hessian_of(self.loss, self.moving, self.batches)

    @cached_property
    def steepest(self) -> Eigenpair:
        """The largest eigenvalue of H; `kept` has its vector for the next measurement."""
        pair = steepest(self.hessian, self._stream("lambda_max"), before=self.kept.pop("lambda_max", None))
        return self._kept_for_next("lambda_max", pair)

    def _kept_for_next(self, name: str, pair: Eigenpair) -> Eigenpair:
        """Keep the eigenvector for the next measurement, that of a large model in half precision."""
        if is_large(self.moving):
            pair = replace(pair, vector=pair.vector.bfloat16())
        self.kept[name] = pair.vector
        return pair

    @cached_property
    def steepest_own(self) -> Eigenpair | None:
        """The largest eigenvalue of P^½ (H + λ) P^½.

        None without a rule, and before the first step of an optimizer that divides.
        """
        optimizer, scale = self.optimizer, self.preconditioner
        if not optimizer.has_rule or (scale is None and optimizer.second_moment is not None):
            return None
        decay = optimizer.l2_decay
        if scale is None and decay is None:
            return self.steepest
        pair = steepest(
            self.hessian,
            self._stream("lambda_max_own"),
            scale=scale,
            decay=decay or 0.0,
            before=self.kept.pop("lambda_max_own", None),
        )
        return self._kept_for_next("lambda_max_own", pair)

    @cached_property
    def steepest_curvatures(self) -> Tensor:
        """vᵀH_kv of each minibatch along the eigenvector v of `steepest`, (m,)."""
        one = next(iter(self.moving.values()))
        direction = by_name(brought(self.steepest.vector, one), self.moving)
        if isinstance(self.hessian, DifferencedHessian):
            return self.hessian.curvatures(direction)
        return minibatch_curvatures(self.loss, self.moving, self.hessian.batches, direction)

    @cached_property
    def batch_sharpness(self) -> Tensor:
        """(1/m) Σ_k g_kᵀ H_k g_k / ‖g_k‖², 0-d."""
        if isinstance(self.hessian, DifferencedHessian):
            return self.hessian.batch_sharpness()
        return batch_sharpness(self.loss, self.moving, self.hessian.batches)

    @cached_property
    def gradient_noise_interaction(self) -> Estimate:
        """(1/m) Σ_k g_kᵀ H g_k / ‖ḡ‖²."""
        return gradient_noise_interaction(self.hessian, self.moments.mean, self._stream("gni"))

    @cached_property
    def margins(self) -> Tensor | None:
        """The margin of each example, (N,); None for what is no classifier."""
        return margins(self.loss, self.params, self.batches)

    @cached_property
    def diagonal(self) -> Params | None:
        """The diagonal of H, where it is known exactly; else None."""
        return exact_diagonal(self.loss, self.moving, self.hessian.batches)

    @cached_property
    def probed_trace(self) -> Estimate:
        """The trace of H, estimated."""
        return probed_trace(self.hessian, self._stream("trace"))

    @cached_property
    def probed_adaptive(self) -> Estimate:
        """Σ_i ω_i² H_ii, estimated."""
        return probed_trace(self.hessian, self._stream("adaptive"), self.moving)

    def _stream(self, name: str) -> torch.Generator:
        """Make the random numbers of one quantity, which are the same whatever else is measured."""
        return named_generator(name, self.generator.initial_seed())

    @cached_property
    def mean_flow(self) -> MeanFlow:
        """The optimizer's mean flow in what moves, from a second pass over the data with double backward."""
        objective = self.objective
        loss = self.loss if objective is None or not objective.of_minibatches else objective.smooth
        return mean_flow(
            loss, self.moving, self.batches, self.optimizer, self.descended_moments, self.shared, sampling=self.sampling
        )

    @property
    def has_mean_flow(self) -> bool:
        """Whether the optimizer's mean flow is known."""
        return self._no_mean_flow is None

    @cached_property
    def _no_mean_flow(self) -> str | None:
        """Why the optimizer's mean flow is not known; None where it is."""
        if self.optimizer.rule is None:
            return self.optimizer.reason
        try:
            moments_needed(self.optimizer)
        except ValueError as error:
            return str(error)
        return None

    @cached_property
    def full_batch_flow(self) -> FullBatchFlow | None:
        """What finite steps do on full batches, where `mean_flow` is not known.

        None where that is not known either, and where `mean_flow` is.

        What is missing is noted in `notes`.
        """
        reason = self._no_mean_flow
        if reason is None or NO_FADE in self.kept:
            return None
        try:
            flow = self._full_batch_flow()
        except ValueError as error:
            if isinstance(error, NoFadeError):
                self.kept[NO_FADE] = torch.ones(())
            self.notes.append(
                f"{reason}; nor is a flow of full batches: {error}; ireg/strength and ireg/alignment are left out"
            )
            return None
        self.notes.append(f"{reason}; ireg/strength/full_batch and ireg/alignment/full_batch are of full batches alone")
        return flow

    def _full_batch_flow(self) -> FullBatchFlow:
        """Compute the flow of full batches.

        Raises:
            ValueError: there is none, or a penalty is descended beside the loss.
        """
        if self.objective is not None:
            raise ValueError("it is not computed with a regularizer")
        moving = dict(self.moving)

        def product(direction: Params) -> Params:
            return widened(self.hessian({name: direction[name].to(value) for name, value in moving.items()}))

        return full_batch_flow(self.optimizer, moving, self.moments.mean, product, self.clip)

    @cached_property
    def frozen_gradients(self) -> FrozenGradients:
        """The gradients of what is descended, decay of the loss included, of each minibatch.

        Raises:
            ValueError: minibatches that are a sample, or masks that are drawn.
        """
        self._require_exact()
        optimizer, objective, shared, shift = self.optimizer, self.objective, self.shared, None
        decays = optimizer.l2_decay if optimizer.has_rule else None  # an optimizer that is driven adds its own
        if optimizer.steepest is not None:
            decays = dict(optimizer.steepest.l2_decays)
        if shared is not None or decays:
            shift = {name: torch.zeros_like(value) for name, value in self.moving.items()}
            if shared is not None:
                shift = add_scaled(shift, shared.gradient, 1.0)
            for name, decay in (decays or {}).items():
                shift[name] = torch.add(shift[name], self.moving[name], alpha=decay)
        loss = self.loss if objective is None or not objective.of_minibatches else objective
        return FrozenGradients(loss, self.moving, self.batches, shift)

    @cached_property
    def fluctuation(self) -> Fluctuation | None:
        """F at rate 0, by the optimizer's own filters, or by its own steps, over drawn orders.

        It takes a pass over the data and the time of some epochs of the filter. An optimizer without a rule takes steps
        itself, on gradients that are stored. None for SGD and momentum, and with a single minibatch: nothing
        fluctuates.

        Raises:
            ValueError: a second moment that never settles, another memory that does not fade, minibatches that are a
                sample, or masks that are drawn.
        """
        optimizer, stream = self.optimizer, self._stream("fluctuation")
        dividing = optimizer.filtered_by if optimizer.has_rule else None
        if (optimizer.has_rule and dividing is None) or len(self.batches) == 1:
            return None
        gradients = self.frozen_gradients
        if dividing is not None:
            found = preconditioner_noise(gradients, dividing, stream, sampling=self.sampling)
            weights = torch.cat([wide(value).flatten() for value in self.moving.values()])
            decay = optimizer.decoupled_decay * weights
            return replace(found, leading=found.leading + decay, noiseless=found.noiseless + decay)
        if optimizer.steepest is not None:
            return steepest_noise(gradients, optimizer.steepest, self.moving, stream, sampling=self.sampling)
        if optimizer.make is not None:
            return driven_noise(optimizer.make, gradients, self.moving, stream, sampling=self.sampling)
        raise ValueError(optimizer.reason)


Term = Callable[[Snapshot], Tensor | Mapping[str, Tensor] | None]
"""One number at a snapshot, 0-d, or several by name; None where it does not exist for the optimizer.

From a sample of the minibatches it may be what `Snapshot.gradients` return.
"""
