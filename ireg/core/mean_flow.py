"""The mean flow of an optimizer to first order: where its mean over the orders of the minibatches goes.

With g_k, H_k gradient and Hessian of minibatch k of m, ḡ and H their means, s̄ = (1/m) Σ g_k⊙g_k, P = φ(s̄) with
φ(v) = 1/(√v + ε) as torch has it (P = 1 for SGD), u = Pḡ, the mean over orders follows in time n η_e, past the
transient of the first steps,

    ω̇ = −(u + M + V + F).

- M, finite step and memory of gradients: (η_e/2) P [(1 + 2L) Hu + (1 − τ_β) ((1/m) Σ H_k P g_k − HPḡ)];
- V, lag of the second moment: η_e (ρ/(1−ρ) + ½) ḡ⊙φ'(s̄)⊙(∇s̄·u), ∇s̄·u = (2/m) Σ g_k⊙(H_k u);
- F, fluctuation of the second moment, which vanishes with 1 − ρ, not with η:
  (1−ρ)(1−β)/(1−βρ) φ'(s̄)⊙Cov (1 − (τ_ρ + τ_β)/2) + (1−ρ)/(2(1+ρ)) φ''(s̄)⊙ḡ⊙Var (1 − τ_ρ),
  Cov = (1/m) Σ g_k⊙q_k − ḡ⊙s̄, Var = (1/m) Σ q_k⊙q_k − s̄⊙s̄, q_k = g_k⊙g_k.

η_e, L, τ are those of `ireg.core.memory`; β of F is Adam's. RMSProp's momentum filters what is divided already: F has
β = 0, and V lags by L steps more. Weight decay belongs to the loss, and to g_k; decoupled, it is added to u, which no
gradient remembers: M then has (η_e/2) (P(1 + 2L) Hu + λu).

Derived and certified here (docs/theory.md, section 7); for full batches it is Cattaneo, Klusowski & Shigida 2024,
arXiv:2309.00079, with ε outside of the root. It holds while M + V + F is small against u.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ireg.core.memory import Memory, memory, overlap
from ireg.core.optimizer_view import OptimizerView
from ireg.core.sums import GradientMoments
from ireg.core.types import Batch, LossFn, Params


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
        """X = M + V + F."""
        parts = [part for part in (self.memory, self.lag, self.fluctuation) if part is not None]
        return {name: torch.stack([part[name] for part in parts]).sum(0) for name in self.memory}


@dataclass(frozen=True, kw_only=True)
class SecondMoment:
    """How an optimizer divides by the root of its running mean of squared gradients.

    Attributes:
        decay: ρ.
        eps: ε, outside of the root.
        numerator_decay: β of what is divided, 0 where the bare gradient is.
        lag_after: mean age in steps that a filter adds after the division.
    """

    decay: float
    eps: float
    numerator_decay: float
    lag_after: float


def second_moment(optimizer: OptimizerView) -> SecondMoment | None:
    """How the optimizer divides; None for SGD.

    Raises:
        ValueError: its second moment is no running mean (Adagrad, AMSGrad, centered RMSProp, ρ = 1).
    """
    if optimizer.eps is None:
        return None
    decay = optimizer.betas[1] if optimizer.betas is not None else optimizer.alpha
    if decay is None or optimizer.amsgrad or optimizer.centered or not 0.0 <= decay < 1.0:
        raise ValueError(
            f"{optimizer.kind}: its mean flow is known only where it divides by the root of a fading mean of squared "
            "gradients (rmsprop, adam, adamw; not amsgrad, not centered); leave out terms=theory"
        )
    if optimizer.betas is not None:
        return SecondMoment(decay=decay, eps=optimizer.eps, numerator_decay=optimizer.betas[0], lag_after=0.0)
    return SecondMoment(decay=decay, eps=optimizer.eps, numerator_decay=0.0, lag_after=memory(optimizer).lag)


def mean_flow(
    loss: LossFn, params: Params, batches: Sequence[Batch], optimizer: OptimizerView, moments: GradientMoments
) -> MeanFlow:
    """The mean flow at `params`: a pass over the minibatches, with double backward, on top of that of `moments`.

    Coordinates whose gradient is zero in every minibatch contribute 0 to V and F. Memory does not grow with the number
    of minibatches.

    Args:
        loss: pure function `(params, batch) -> 0-d mean loss`.
        params: where; neither they nor any `.grad` are changed.
        batches: the minibatches; sizes may differ.
        optimizer: its hyperparameters; of its state nothing is read.
        moments: of the gradients at `params` over `batches`: mean and, for adaptive optimizers, square.

    Raises:
        ValueError: an optimizer whose mean flow is not known.
    """
    remembered, dividing = memory(optimizer), second_moment(optimizer)
    point = _Point(params, moments, dividing, optimizer)
    sums = _second_pass(loss, params, batches, point)
    return MeanFlow(
        leading=point.velocity,
        memory=_memory(point, sums, remembered, len(batches)),
        lag=None if dividing is None else _lag(point, sums, dividing, remembered),
        fluctuation=_fluctuation(point, sums, dividing, len(batches)) if dividing and len(batches) > 1 else None,
        squares_gradient={name: 2 * value for name, value in sums.along_gradients.items()},
    )


class _Point:
    """What is known at ω before the second pass: mean gradient, P, u, and the root of s̄."""

    def __init__(
        self, params: Params, moments: GradientMoments, dividing: SecondMoment | None, optimizer: OptimizerView
    ) -> None:
        decay = optimizer.weight_decay
        self.decay = 0.0 if optimizer.decoupled else decay
        self.decoupled_decay = decay if optimizer.decoupled else 0.0
        self.params = params
        self.mean = self.decayed(moments.mean)
        self.root: Params | None = None
        self.inverse_root: Params | None = None
        self.scale: Params | None = None
        if dividing is not None:
            # Of g_k + λω: the square of the sum, from the moments of g_k alone.
            self.root = {
                name: (value + self.decay * params[name] * (moments.mean[name] + self.mean[name])).clamp_(min=0).sqrt_()
                for name, value in moments.square.items()
            }
            # 0 where the root is: such coordinates count for nothing, and 0 · ∞ cannot arise.
            self.inverse_root = {
                name: torch.where(root > 0, root, torch.inf).reciprocal_() for name, root in self.root.items()
            }
            self.scale = {name: 1 / (root + dividing.eps) for name, root in self.root.items()}
        self.scaled_mean = {name: self.scaled(name, value) for name, value in self.mean.items()}
        self.velocity = {
            name: value + self.decoupled_decay * params[name] if self.decoupled_decay else value
            for name, value in self.scaled_mean.items()
        }

    def scaled(self, name: str, value: Tensor) -> Tensor:
        """P times the value."""
        return value if self.scale is None else self.scale[name] * value

    def relative(self, name: str, value: Tensor) -> Tensor:
        """The value over √s̄, 0 where that is 0: numbers of order 1, whose powers neither vanish nor overflow."""
        assert self.inverse_root is not None
        return self.inverse_root[name] * value

    def decayed(self, gradient: Params) -> Params:
        """The gradient with weight decay, where the optimizer adds that to the gradient."""
        if self.decay == 0.0:
            return gradient
        return {name: torch.add(value, self.params[name], alpha=self.decay) for name, value in gradient.items()}


class _Sums:
    """Sums over the minibatches, and in the end means, by name; z_k = g_k/√s̄.

    Attributes:
        along_velocity: (1/m) Σ H_k u.
        along_gradients: (1/m) Σ H_k g_k.
        along_spread: (1/m) Σ H_k P (g_k − ḡ).
        weighed: (1/m) Σ z_k ⊙ H_k u.
        cubes: (1/m) Σ z_k³.
        fourths: (1/m) Σ z_k⁴.
    """

    def __init__(self, params: Params) -> None:
        def zeros() -> Params:
            return {name: torch.zeros_like(value) for name, value in params.items()}

        self.along_velocity, self.along_gradients, self.along_spread = zeros(), zeros(), zeros()
        self.weighed, self.cubes, self.fourths = zeros(), zeros(), zeros()

    def divide(self, num_batches: int) -> None:
        """Make means of the sums."""
        for total in vars(self).values():
            for tensor in total.values():
                tensor.div_(num_batches)


def _second_pass(loss: LossFn, params: Params, batches: Sequence[Batch], point: _Point) -> _Sums:
    """What needs every minibatch's gradient and Hessian at once, minibatch by minibatch."""
    sums = _Sums(params)
    for batch in batches:
        weights = {name: value.detach().requires_grad_() for name, value in params.items()}
        with torch.enable_grad():
            value = loss(weights, batch)
            slopes = torch.autograd.grad(
                value, list(weights.values()), create_graph=True, allow_unused=True, materialize_grads=True
            )
        gradient = point.decayed({name: slope.detach() for name, slope in zip(params, slopes, strict=True)})
        product = _HessianProduct(weights, slopes, point.decay)
        along_velocity = product(point.velocity)
        _add(sums.along_velocity, along_velocity)
        _add(sums.along_gradients, product(gradient))
        if point.scale is not None:
            means, scales = point.scaled_mean, point.scale
            _add(sums.along_spread, product({name: scales[name] * gradient[name] - means[name] for name in params}))
        if point.root is not None:
            for name in params:
                relative = point.relative(name, gradient[name])
                squares = relative.square()
                sums.weighed[name].addcmul_(relative, along_velocity[name])
                sums.cubes[name].addcmul_(squares, relative)
                sums.fourths[name].addcmul_(squares, squares)
    sums.divide(len(batches))
    if point.scale is None:  # the same by algebra, and a product less
        sums.along_spread = {name: value - sums.along_velocity[name] for name, value in sums.along_gradients.items()}
    return sums


class _HessianProduct:
    """Products of one minibatch's Hessian, weight decay included, with vectors, by double backward."""

    def __init__(self, weights: Params, slopes: Sequence[Tensor], decay: float) -> None:
        self.weights = weights
        self.decay = decay
        # The gradient of a parameter that enters linearly, or not at all, is constant and has no graph.
        self.slopes = {name: slope for name, slope in zip(weights, slopes, strict=True) if slope.requires_grad}

    def __call__(self, vector: Params) -> Params:
        if self.slopes:
            products = torch.autograd.grad(
                list(self.slopes.values()),
                list(self.weights.values()),
                [vector[name] for name in self.slopes],
                retain_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )
        else:
            products = tuple(torch.zeros_like(weight) for weight in self.weights.values())
        named = dict(zip(self.weights, products, strict=True))
        if self.decay == 0.0:
            return named
        return {name: torch.add(product, vector[name], alpha=self.decay) for name, product in named.items()}


def _add(total: Params, values: Params) -> None:
    for name, value in values.items():
        total[name].add_(value)


def _memory(point: _Point, sums: _Sums, remembered: Memory, num_batches: int) -> Params:
    """M."""
    unlike = 1 - remembered.overlap(num_batches)
    result = {}
    for name, along in sums.along_velocity.items():
        bent = point.scaled(name, (1 + 2 * remembered.lag) * along + unlike * sums.along_spread[name])
        result[name] = remembered.effective_rate / 2 * (bent + point.decoupled_decay * point.velocity[name])
    return result


def _lag(point: _Point, sums: _Sums, dividing: SecondMoment, remembered: Memory) -> Params:
    """V. With x = √s̄/(√s̄ + ε), φ' s̄ = −½ φ x."""
    rate = remembered.effective_rate * (dividing.decay / (1 - dividing.decay) + 0.5 + dividing.lag_after)
    result = {}
    for name, share in _shares(point).items():
        weighed = point.relative(name, point.mean[name]) * sums.weighed[name]
        result[name] = -rate * share * point.scaled(name, weighed)
    return result


def _fluctuation(point: _Point, sums: _Sums, dividing: SecondMoment, num_batches: int) -> Params:
    """F. With x as in `_lag`, φ'' s̄² = φ (x/4 + x²/2)."""
    assert point.root is not None
    rho, beta = dividing.decay, dividing.numerator_decay
    tau_rho, tau_beta = overlap(rho, num_batches), overlap(beta, num_batches)
    of_covariance = (1 - rho) * (1 - beta) / (1 - beta * rho) * (1 - (tau_rho + tau_beta) / 2)
    of_variance = (1 - rho) / (2 * (1 + rho)) * (1 - tau_rho)
    result = {}
    for name, share in _shares(point).items():
        mean = point.relative(name, point.mean[name])
        covariance = -share / 2 * (sums.cubes[name] - mean)
        variance = (share / 4 + share.square() / 2) * mean * (sums.fourths[name] - 1)
        result[name] = point.scaled(name, point.root[name] * (of_covariance * covariance + of_variance * variance))
    return result


def _shares(point: _Point) -> Params:
    """The shares x = √s̄/(√s̄ + ε) = √s̄ P."""
    assert point.root is not None
    return {name: point.scaled(name, root) for name, root in point.root.items()}
