"""The mean flow of an optimizer to first order: where the mean over orders of the minibatches moves.

With g_k, H_k gradient and Hessian of minibatch k of m, ḡ and H their means, s̄ = (1/m) Σ g_k⊙g_k, P = φ(s̄) with
φ(v) = 1/(√v + ε) as torch has it (P = 1 for SGD), u = Pḡ, the mean over orders follows in time n η_e, past the
transient of the first steps,

    ω̇ = −(u + M + V + F).

- M, finite step and memory of gradients: (η_e/2) P [(1 + 2L) Hu + (1 − τ_β) ((1/m) Σ H_k P g_k − HPḡ)];
- V, lag of the second moment: η_e (ρ/(1−ρ) + ½) ḡ⊙φ'(s̄)⊙(∇s̄·u), ∇s̄·u = (2/m) Σ g_k⊙(H_k u);
- F, fluctuation of the second moment, which vanishes with 1 − ρ, not with η:
  (1−ρ)(1−β)/(1−βρ) φ'(s̄)⊙Cov (1 − (τ_ρ + τ_β)/2) + (1−ρ)/(2(1+ρ)) φ''(s̄)⊙ḡ⊙Var (1 − τ_ρ),
  Cov = (1/m) Σ g_k⊙q_k − ḡ⊙s̄, Var = (1/m) Σ q_k⊙q_k − s̄⊙s̄, q_k = g_k⊙g_k.

η_e, L, τ are those of the rule (`ireg.core.optimizers`); β of F is Adam's. RMSProp's momentum filters what is divided
already: F has β = 0, and V lags by L steps more. Where rates or momenta change within the epoch, M has 2A for
(η_e/2)(1 + 2L) and 2B for (η_e/2)(1 − τ), see `ireg.core.optimizers.schedule`. Weight decay belongs to the loss, and to
g_k. Decoupled, it is added to u, and no gradient remembers it: M then has (η_e/2) (P(1 + 2L) Hu + λu).

Independent minibatches (`ireg.core.drawing`): M has (η_e/2) P (1 + 2L) Hu alone, and F has τ = 0. H and ∇C are the
population's, and what is given is a window of k draws:

- Hu is freed of what H_k and g_k of one minibatch share, by ((1/k) Σ H_k P g_k − HPḡ)/(k − 1). For fixed P the result
  has no bias. The noise of P, by s̄ of the window, is left;
- Cov and Var are k/(k − 1) times those of the window, without bias but for the powers of s̄ beside them;
- u of SGD and momentum, and ∇Q, have no bias;
- V is a product of three means of the window. Its bias, like that of every vector's norm, falls with 1/k.

Derived and certified here (docs/theory.md, section 7); for full batches it is Cattaneo, Klusowski & Shigida 2024,
arXiv:2309.00079, with ε outside of the root. It holds while M + V + F is small against u.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ireg.core.drawing import EPOCH, require_several
from ireg.core.hessian_sums import (
    CUBES,
    FOURTHS,
    OF_GRADIENTS,
    OF_SPREAD,
    OF_VELOCITY,
    WEIGHED,
    Point,
    Sums,
    hessian_sums,
)
from ireg.core.large import computed, is_large
from ireg.core.moments import GradientMoments
from ireg.core.moments.needs import Need
from ireg.core.optimizers import Memory, OptimizerState, SecondMoment, overlap
from ireg.core.types import Batch, LossFn, Params, Shared


@dataclass(frozen=True, kw_only=True)
class MeanFlow:
    """The vectors of the mean flow, by parameter name.

    Attributes:
        leading: u.
        memory: M.
        lag: V; None for optimizers without second moment.
        fluctuation: F; None for optimizers without second moment, and with a single minibatch: nothing fluctuates.
        squares_gradient: ∇Q, Q = (1/m) Σ ‖g_k‖², the quantity of Smith et al.'s regularizer.
    """

    leading: Params
    memory: Params
    lag: Params | None
    fluctuation: Params | None
    squares_gradient: Params

    @cached_property
    def correction(self) -> Params:
        """X = M + V + F; of a large model added up whenever it is asked for."""
        parts = [part for part in (self.memory, self.lag, self.fluctuation) if part is not None]
        return computed(self.memory, lambda name: torch.stack([part[name] for part in parts]).sum(0))


def require_uniform(optimizer: OptimizerState) -> None:
    """Check that all weights have one rate and one decay, and of what divides also all steps.

    V and F of section 7 are known at one rate only. M is known at rates that change.

    Raises:
        ValueError: they have not.
    """
    steady = optimizer if optimizer.eps is not None else replace(optimizer, rates=None)
    if not steady.uniform:
        raise ValueError(
            "the mean flow is known for one rate and one weight decay, at all weights, and of optimizers that divide "
            "at all steps of the epoch; give all parameter groups the same"
        )


def moments_needed(optimizer: OptimizerState) -> Need:
    """Return what `mean_flow` needs of the moments.

    Raises:
        ValueError: an optimizer whose mean flow is not known.
    """
    require_uniform(optimizer)
    return Need.MEAN if optimizer.divides_by is None else Need.MEAN | Need.SQUARE


def mean_flow(
    loss: LossFn,
    params: Params,
    batches: Sequence[Batch],
    optimizer: OptimizerState,
    moments: GradientMoments,
    shared: Shared | None = None,
    *,
    sampling: str = EPOCH,
) -> MeanFlow:
    """Compute the mean flow at `params`.

    It takes one pass over the minibatches with double backward, on top of that of `moments`.

    Coordinates whose gradient is zero in every minibatch contribute 0 to V and F. Memory does not grow with the number
    of minibatches.

    Args:
        loss: pure function `(params, batch) -> 0-d mean loss`.
        params: where; neither they nor any `.grad` are changed.
        batches: the minibatches; sizes may differ.
        optimizer: its hyperparameters; of its state nothing is read.
        moments: of the gradients at `params` over `batches`: mean and, for adaptive optimizers, square.
        shared: what all minibatches' losses share, and `loss` and `moments` do not have.
        sampling: how training draws the minibatches, `epoch` or `independent`.

    Returns:
        The vectors by name, all in the unit of u.

    Raises:
        ValueError: an optimizer whose mean flow is not known, or fewer than two independent minibatches.

    Example:
        >>> from ireg.core.moments import gradient_moments
        >>> from ireg.core.optimizers.sgd import SGDRule
        >>> def loss(params, batch):  # g = x²w, H = x²
        ...     return (params["w"] * batch[0]).square().mean() / 2
        >>> params, batches = {"w": torch.tensor([1.0])}, [(torch.tensor([x]), torch.zeros(1)) for x in (1.0, 2.0)]
        >>> state = OptimizerState(lr=0.1, moving=("w",), weight_decay=0.0, rule=SGDRule())
        >>> flow = mean_flow(loss, params, batches, state, gradient_moments(loss, params, batches))
        >>> flow.leading, flow.memory  # ḡ = 5/2, and (η/4) ∇Q = (η/2) (1/m) Σ H_k g_k = 0.05 · 17/2
        ({'w': tensor([2.5000])}, {'w': tensor([0.4250])})
    """
    dividing = optimizer.divides_by
    drawing = Drawing(len(batches), independent=sampling != EPOCH)
    point = Point(params, moments, dividing, optimizer, None if shared is None else shared.gradient)

    def passed(asked: Collection[str] | None, over: Params = params) -> Sums:
        found = hessian_sums(loss, over, batches, point, asked)
        if shared is not None:
            found.add_shared(point, shared.product)
        return found

    whole = None if is_large(params) else passed(None)

    def sums(*asked: str, over: Params = params) -> Sums:
        """Return sums of the one pass, or of a pass of their own: what is made of them takes less memory."""
        return whole or passed(asked, over)

    lag: Params | None = None
    fluctuation: Params | None = None
    if dividing is None:
        found = sums(OF_VELOCITY, OF_GRADIENTS)
        memory = _memory(point, found, found, optimizer, drawing)
    else:
        along = sums(OF_VELOCITY, WEIGHED)
        lag = _lag(point, along, dividing, optimizer.memory)
        memory = _memory(point, along, sums(OF_SPREAD), optimizer, drawing)
        found = sums(OF_GRADIENTS)
    squares_gradient = _in_place(found.along_gradients, lambda name, value: 2 * value)
    if dividing is not None and len(batches) > 1:
        fluctuation = {}
        for block in _blocks(params):
            fluctuation |= _fluctuation(point, sums(CUBES, FOURTHS, over=block), dividing, drawing)
    return MeanFlow(
        leading=point.velocity, memory=memory, lag=lag, fluctuation=fluctuation, squares_gradient=squares_gradient
    )


def _blocks(params: Params) -> list[Params]:
    """Split the parameters of a large model into two parts of about the same size; others stay one."""
    if not is_large(params):
        return [params]
    half, taken = sum(value.numel() for value in params.values()) / 2, 0
    first: Params = {}
    for name, value in params.items():
        if taken + value.numel() / 2 > half:
            break
        first[name] = value
        taken += value.numel()
    rest = {name: value for name, value in params.items() if name not in first}
    return [block for block in (first, rest) if block]


def _in_place(values: Params, change: Callable[[str, Tensor], Tensor]) -> Params:
    """Change tensors one after the other, so that no two copies of all are held; `values` is emptied."""
    return {name: change(name, values.pop(name)) for name in list(values)}


class Drawing:
    """What the drawing of the minibatches makes of the parts.

    Args:
        num_batches: m of an epoch, or k of a window.
        independent: whether each is a draw of its own.

    Raises:
        ValueError: fewer than two independent minibatches.
    """

    def __init__(self, num_batches: int, *, independent: bool) -> None:
        if independent:
            require_several(num_batches)
        self.num_batches = num_batches
        self.independent = independent

    def overlap(self, decay: float) -> float:
        """Compute τ_r; 0 for independent minibatches."""
        return 0.0 if self.independent else overlap(decay, self.num_batches)

    def coefficients(self, optimizer: OptimizerState) -> tuple[float, float]:
        """Return the coefficients of Hu and of the spread, (η_e/4)(1 + 2L) and (η_e/4)(1 − τ) at one rate.

        The spread is (1/m) Σ H_k P g_k − HPḡ. It is what minibatches add, or what frees Hu of the window's noise.
        """
        of_mean, of_spread = optimizer.own_coefficients(self.num_batches)
        return of_mean, -of_mean / (self.num_batches - 1) if self.independent else of_spread

    @property
    def of_population(self) -> float:
        """The factor that makes the window's variances those of the population."""
        return self.num_batches / (self.num_batches - 1) if self.independent else 1.0


def _memory(point: Point, sums: Sums, spread: Sums, optimizer: OptimizerState, drawing: Drawing) -> Params:
    """Compute M from the sums along u, and those of the spread or, where P = 1, along the gradients."""
    of_mean, of_spread = drawing.coefficients(optimizer)
    of_decay = optimizer.memory.effective_rate / 2 * point.decoupled_decay

    def value(name: str, along: Tensor) -> Tensor:
        # Where P = 1 the spread is the difference by algebra, and a product less.
        apart = spread.along_gradients[name] - along if point.scale is None else spread.along_spread.pop(name)
        product = point.scaled(name, of_mean * along + of_spread * apart)
        return 2 * product + of_decay * point.velocity[name]

    return _in_place(sums.along_velocity, value)


def _lag(point: Point, sums: Sums, dividing: SecondMoment, remembered: Memory) -> Params:
    """Compute V.

    With x = √s̄/(√s̄ + ε), φ' s̄ = −½ φ x.
    """
    rate = remembered.effective_rate * (dividing.decay / (1 - dividing.decay) + 0.5 + dividing.lag_after)

    def value(name: str, weighed: Tensor) -> Tensor:
        share = _share(point, name)
        weighed = point.relative(name, point.mean[name]) * weighed
        return -rate * share * point.scaled(name, weighed)

    return _in_place(sums.weighed, value)


def _fluctuation(point: Point, sums: Sums, dividing: SecondMoment, drawing: Drawing) -> Params:
    """Compute F.

    With x as in `_lag`, φ'' s̄² = φ (x/4 + x²/2).
    """
    assert point.root is not None
    rho, bare = dividing.decay, dividing.numerator_bare
    of_covariance = (1 - bare) * _shared(rho, dividing.numerator_decay, drawing)
    if bare:
        of_covariance += bare * _shared(rho, 0.0, drawing)
    of_variance = (1 - rho) / (2 * (1 + rho)) * (1 - drawing.overlap(rho))
    of_covariance, of_variance = drawing.of_population * of_covariance, drawing.of_population * of_variance
    roots = point.root

    def value(name: str, cubes: Tensor) -> Tensor:
        share, mean = _share(point, name), point.relative(name, point.mean[name])
        covariance = -share / 2 * (cubes - mean)
        variance = (share / 4 + share.square() / 2) * mean * (sums.fourths.pop(name) - 1)
        return point.scaled(name, roots[name] * (of_covariance * covariance + of_variance * variance))

    return _in_place(sums.cubes, value)


def _shared(rho: float, beta: float, drawing: Drawing) -> float:
    """Compute the covariance of numerator and v in units of Cov: how far both hold the same minibatches.

    Of a mean with decay β above one with decay ρ, Σ_n (1−β)βⁿ (1−ρ)ρⁿ, less what two different minibatches of an epoch
    make of each other's gradients.
    """
    tau_rho, tau_beta = drawing.overlap(rho), drawing.overlap(beta)
    return (1 - rho) * (1 - beta) / (1 - beta * rho) * (1 - (tau_rho + tau_beta) / 2)


def _share(point: Point, name: str) -> Tensor:
    """Compute one parameter's shares x = √s̄/(√s̄ + ε) = √s̄ P."""
    assert point.root is not None
    return point.scaled(name, point.root[name])
