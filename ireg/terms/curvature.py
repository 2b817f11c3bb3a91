"""How sharp the loss is, and how near the edge of stability.

H is the Hessian of C = (1/m) Σ Ĉ_k by what the optimizer moves, P its preconditioner, λ its L2 decay, h* its edge
(`OptimizerState.edge`). All terms of one measurement share their passes.

Lanczos' method computes `lambda_max` and `preconditioned_sharpness`, to a residual of 1 % and with 60 products at most.
Above 16 MiB of weights conjugate gradients do, with four vectors and 240 products at most.
Each measurement starts from the last one's eigenvector. An eigenvalue lies within the residual of the value.

`trace`, `trace_root` and `adaptive` are exact for networks that are affine in each single weight, like stacks of linear
layers, convolutions and ReLU without normalization, see docs/theory.md, section 12.
Elsewhere `trace` and `adaptive` are estimated with random signs, and have a standard error;
`trace_root`, of which no estimate is without bias, does not exist.
"""

import torch
from torch import Tensor

from ireg.core.moments.needs import NOTHING, Need, needs
from ireg.core.norms import in_range, is_ordinary, widened
from ireg.core.optimizers.sgd import SGDRule
from ireg.core.sharpness import along_step as curvature_along
from ireg.core.snapshot import Snapshot
from ireg.core.wide import wide


@needs(NOTHING)
def lambda_max(snapshot: Snapshot) -> Tensor:
    """Return the largest algebraic eigenvalue of H.

    Source: Cohen et al. 2021, arXiv:2103.00065, who call it sharpness.
    """
    return _number(snapshot.steepest.value)


@needs(NOTHING)
def lambda_max_residual(snapshot: Snapshot) -> Tensor:
    """Return the residual ‖Hv − θv‖ of `lambda_max`, in the unit of the eigenvalue θ."""
    return _number(snapshot.steepest.residual)


@needs(NOTHING)
def lambda_max_products(snapshot: Snapshot) -> Tensor:
    """Return the number of Hessian products that `lambda_max` took."""
    return _number(float(snapshot.steepest.products))


@needs(NOTHING)
def preconditioned_sharpness(snapshot: Snapshot) -> Tensor | None:
    """Return the largest algebraic eigenvalue of P^½ (H + λ) P^½.

    P is as the optimizer's last step had it. None before the first step of an adaptive optimizer, and without a rule.

    Source: Cohen et al. 2022, arXiv:2207.14484.
    """
    pair = snapshot.steepest_own
    return None if pair is None else _number(pair.value)


@needs(NOTHING)
def edge_fraction(snapshot: Snapshot) -> Tensor | None:
    """Return the fraction of the edge of stability, λ₁(P^½ (H + λ) P^½)/h*.

    At 1 a full-batch step of fixed P begins to oscillate along the steepest direction, whatever the optimizer.

    Source: docs/theory.md, section 12.
    """
    pair, limit = snapshot.steepest_own, _edge(snapshot)
    return None if pair is None or limit is None else _number(pair.value / limit)


@needs(NOTHING)
def batch_sharpness(snapshot: Snapshot) -> Tensor:
    """Return the mean curvature along minibatch gradients, (1/m) Σ_k g_kᵀ H_k g_k/‖g_k‖².

    The mean is over all minibatches, each with its own Hessian H_k. For SGD it settles at 2/η.

    Source: Andreyev & Beneventano 2024, arXiv:2412.20553.
    """
    return snapshot.batch_sharpness


@needs(Need.MEAN)
def gni(snapshot: Snapshot) -> Tensor:
    """Estimate the gradient-noise interaction (1/m) Σ_k g_kᵀ H g_k/‖ḡ‖² with random signs.

    Source: Andreyev & Beneventano 2024, arXiv:2412.20553.
    """
    return snapshot.gradient_noise_interaction.value


@needs(Need.MEAN)
def gni_se(snapshot: Snapshot) -> Tensor:
    """Return the standard error of `gni` over the random signs."""
    return snapshot.gradient_noise_interaction.error


@needs(NOTHING)
def trace(snapshot: Snapshot) -> Tensor:
    """Return the trace of H, exact where the diagonal is known, and otherwise estimated.

    Source: Hutchinson 1990 for the estimate.
    """
    diagonal = snapshot.diagonal
    return snapshot.probed_trace.value if diagonal is None else _total(diagonal)


@needs(NOTHING)
def trace_se(snapshot: Snapshot) -> Tensor | None:
    """Return the standard error of `trace`; None where that is exact."""
    return snapshot.probed_trace.error if snapshot.diagonal is None else None


@needs(NOTHING)
def trace_root(snapshot: Snapshot) -> Tensor | None:
    """Return Σ_i √H_ii; None where the diagonal is not known exactly.

    Near minimizers with label noise Adam lowers it, as SGD lowers the trace (arXiv:2511.02773).
    """
    diagonal = snapshot.diagonal
    return None if diagonal is None else _total({name: value.sqrt() for name, value in diagonal.items()})


@needs(NOTHING)
def adaptive(snapshot: Snapshot) -> Tensor:
    """Return the average-case adaptive sharpness to second order, ½ Σ_i ω_i² H_ii.

    It is the mean rise of C under weights ω_i (1 + ε_i), ε_i independent with variance 1.

    Source: Andriushchenko et al. 2023, arXiv:2302.07011, with ρ = 1.
    """
    diagonal = snapshot.diagonal
    if diagonal is None:
        return snapshot.probed_adaptive.value / 2
    weights = snapshot.moving
    total = _total({name: weights[name].square() * value for name, value in diagonal.items()})
    one = next(iter(weights.values()))
    # Where ω² H loses digits in the type of the weights, it is computed once more in double precision.
    if not is_ordinary(total.to(one.dtype), sum(value.numel() for value in weights.values())):
        diagonal, weights = widened(diagonal), widened(weights)
        total = _total({name: weights[name].square() * value for name, value in diagonal.items()})
    return total / 2


@needs(NOTHING)
def adaptive_se(snapshot: Snapshot) -> Tensor | None:
    """Return the standard error of `adaptive`; None where that is exact."""
    return snapshot.probed_adaptive.error / 2 if snapshot.diagonal is None else None


@needs(Need.MEAN)
def along_step(snapshot: Snapshot) -> Tensor | None:
    """Return the curvature along the leading step over the edge, uᵀ(H + λ)u/(ḡᵀu) / h*.

    Here u = Pḡ, and ḡ includes L2 decay. A spike of Adam begins where it passes 1 while the second moment lags.
    None without an edge, and before the first step of an adaptive optimizer.

    Source: arXiv:2506.04805.
    """
    limit = _edge(snapshot)
    if limit is None or _unscaled(snapshot):
        return None
    optimizer, scale = snapshot.optimizer, snapshot.preconditioner
    gradient = snapshot.moments.mean
    decay = optimizer.l2_decay
    if decay is not None:
        gradient = {
            name: torch.add(value, snapshot.moving[name], alpha=decay[name]) for name, value in gradient.items()
        }
    step = gradient if scale is None else {name: scale[name] * value for name, value in gradient.items()}
    step, gradient = in_range(step, gradient)
    curvature = curvature_along(snapshot.hessian, step, gradient)
    if decay is not None:
        # `curvature_along` has H alone. L2 decay λ is part of the loss and adds λ to each of its eigenvalues: uᵀλu.
        own = sum(decay[name] * value.square().sum() for name, value in step.items())
        curvature = curvature + own / sum((gradient[name] * value).sum() for name, value in step.items())
    return curvature / limit


@needs(NOTHING)
def noise_edge(snapshot: Snapshot) -> Tensor | None:
    """Return the fraction of the edge of stability in mean square, along the steepest direction.

    With the minibatches' curvatures h_k along it, their mean h and variance σ², it is

        (η/2) [(σ²/h)/(1 − β) + h/(1 + β)].

    At 1 the mean square of a single weight with independent curvatures begins to grow: its mean feels 1/(1 + β), its
    variance 1/(1 − β). In many dimensions it is a diagnostic, and no theorem. Known for SGD and heavy-ball momentum;
    None for others, and where h is not positive.

    Source: docs/theory.md, section 12.
    """
    optimizer, rule = snapshot.optimizer, snapshot.optimizer.rule
    if not isinstance(rule, SGDRule) or rule.nesterov or rule.dampening or not optimizer.uniform:
        return None
    if not 0 <= rule.momentum < 1:
        return None
    # L2 decay adds λ to the curvature of each minibatch alike: to their mean, and nothing to their variance.
    curvatures = snapshot.steepest_curvatures + optimizer.loss_decay
    mean, beta = curvatures.mean(), rule.momentum
    if float(mean) <= 0:
        return None
    variance = curvatures.var(correction=0)
    return optimizer.lr / 2 * (variance / mean / (1 - beta) + mean / (1 + beta))


edge, lambda_max_own = edge_fraction, preconditioned_sharpness
"""Their names in earlier versions, which configurations of that time hold."""


def _number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def _edge(snapshot: Snapshot) -> float | None:
    try:
        return snapshot.optimizer.edge if snapshot.optimizer.has_rule else None
    except ValueError:  # a memory that does not fade, or groups without a common edge
        return None


def _unscaled(snapshot: Snapshot) -> bool:
    """Return whether the optimizer divides, but has not taken a step yet."""
    return snapshot.optimizer.second_moment is not None and snapshot.preconditioner is None


def _total(values: dict[str, Tensor]) -> Tensor:
    return torch.stack([wide(value).sum() for value in values.values()]).sum()
