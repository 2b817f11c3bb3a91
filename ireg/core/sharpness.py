"""How curved C is: at most, along gradients, and on average.

H is the Hessian of C = (1/m) Σ Ĉ_k by the parameters that the optimizer moves, g_k and H_k gradient and Hessian of
minibatch k. Weight decay is not part of C; where it belongs to a quantity, the function says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ireg.core.ascent import largest_by_ascent
from ireg.core.differenced_hessian import DifferencedHessian
from ireg.core.functional import twice_differentiable
from ireg.core.hessian import MeanHessian
from ireg.core.hessian_sums import HessianProduct
from ireg.core.lanczos import Eigenpair, largest_eigenpair
from ireg.core.large import computed, is_large
from ireg.core.norms import inner, square
from ireg.core.params import by_name
from ireg.core.stack_pass import stack_passes
from ireg.core.types import Batch, LossFn, Params
from ireg.core.wide import brought, wide

TOLERANCE = 1e-2
"""Residual of the largest eigenvalue at which Lanczos' method ends, as a share of it.

The eigenvalue's own error is of second order in that, where it has a gap to the next one.
"""
PRODUCTS = 60
"""Products at most."""
PATIENCE = 4
"""Of a large model so many times as many: each costs no memory, and conjugate gradients may take more."""
PROBES = 8
"""Random vectors of an estimate."""
_FRESH = 0.1
"""Share of a random vector in a warm start: another direction may have become the steepest."""


def steepest(
    hessian: MeanHessian | DifferencedHessian,
    generator: torch.Generator,
    *,
    scale: Params | None = None,
    decay: float | Mapping[str, float] = 0.0,
    before: Tensor | None = None,
    tolerance: float = TOLERANCE,
    products: int | None = None,
) -> Eigenpair:
    """Find the largest algebraic eigenvalue of P^½ (H + λ) P^½.

    Lanczos' method finds it, which keeps each vector. Of a large model, see `ireg.core.large`, it is found by conjugate
    gradients, which keep four.

    Args:
        hessian: H.
        generator: of the first vector.
        scale: P, by name; None for the identity.
        decay: λ of L2 weight decay, one number or one a parameter.
        before: the eigenvector of an earlier measurement, to start from.
        tolerance: residual at which it ends, as a share of the eigenvalue.
        products: at most; by default `PRODUCTS`, and `PATIENCE` times as many of a large model.

    Returns:
        The eigenpair; its value is nan where H is not finite, as at the weights of a run that has diverged.

    Example:
        >>> def loss(params, batch):
        ...     return (batch * params["w"] ** 2).sum() / 2
        >>> hessian = MeanHessian(loss, {"w": torch.ones(2)}, [torch.tensor([1.0, 3.0])])
        >>> round(steepest(hessian, torch.Generator().manual_seed(0)).value, 4)
        3.0
    """
    start = _first_vector(hessian.params, generator, before)
    shift = dict.fromkeys(hessian.params, decay) if isinstance(decay, float) else decay
    if is_large(hessian.params):
        most = PATIENCE * PRODUCTS if products is None else products
        return _by_ascent(hessian, start, scale, shift, tolerance, most)
    roots = None if scale is None else {name: value.sqrt() for name, value in scale.items()}

    def product(vector: Tensor) -> Tensor:
        parts = by_name(vector, hessian.params)
        if roots is not None:
            parts = {name: roots[name] * value for name, value in parts.items()}
        image = hessian(parts)
        _add_decay(image, parts, shift)
        if roots is not None:
            image = {name: roots[name] * value for name, value in image.items()}
        return torch.cat([image[name].flatten() for name in hessian.params])

    return largest_eigenpair(product, start, tolerance=tolerance, products=PRODUCTS if products is None else products)


def _first_vector(params: Params, generator: torch.Generator, before: Tensor | None) -> Tensor:
    """Draw a vector (p,) to start from, near an eigenvector from before."""
    one = next(iter(params.values()))
    start = torch.randn(sum(value.numel() for value in params.values()), generator=generator, dtype=torch.float32)
    start = brought(start, one)
    start /= start.norm()
    if before is not None and before.shape == start.shape:
        start.mul_(_FRESH).add_(brought(before, start))
    return start


def _add_decay(image: Params, vector: Params, decay: Mapping[str, float]) -> None:
    """Add λ v to H v, in place."""
    for name, value in vector.items():
        if decay[name]:
            image[name].add_(value, alpha=decay[name])


def _by_ascent(
    hessian: MeanHessian | DifferencedHessian,
    start: Tensor,
    scale: Params | None,
    decay: Mapping[str, float],
    tolerance: float,
    products: int,
) -> Eigenpair:
    def product(vector: Tensor, image: Tensor) -> None:
        parts, total = (by_name(either, hessian.params) for either in (vector, image.zero_()))
        hessian(parts, total)
        _add_decay(total, parts, decay)

    diagonal = None if scale is None else computed(hessian.params, scale.__getitem__).values()
    return largest_by_ascent(product, start, tolerance=tolerance, products=products, scale=diagonal)


@dataclass(frozen=True)
class Estimate:
    """A mean over random vectors, and its standard error.

    Attributes:
        value: the mean, 0-d.
        error: its standard error, 0-d.
    """

    value: Tensor
    error: Tensor


def estimate(samples: Sequence[Tensor]) -> Estimate:
    """Return mean and standard error of independent samples, each 0-d."""
    values = torch.stack(list(samples))
    return Estimate(values.mean(), values.std() / len(values) ** 0.5)


def batch_sharpness(loss: LossFn, params: Params, batches: Sequence[Batch]) -> Tensor:
    """Compute (1/m) Σ_k g_kᵀ H_k g_k / ‖g_k‖² over all minibatches, 0-d.

    A minibatch whose gradient is 0 counts as 0. The number is in double precision.

    Args:
        loss: pure function `(params, batch) -> 0-d mean loss`.
        params: where, and by which parameters; neither they nor any `.grad` are changed.
        batches: the minibatches.

    Source: Andreyev & Beneventano 2024, arXiv:2412.20553; SGD settles where it is 2/η.
    """
    total = wide(next(iter(params.values())).new_zeros(()))
    passes = stack_passes(loss, params, batches)
    if passes is not None:
        for passed in passes:
            # Of scale 1, so that H_k g_k stays in the range of its type; a power of two changes no digit.
            gradients = _of_scale_one(passed.gradients(params))
            squares = _by_minibatch((value, value) for value in gradients.values())
            products = _by_minibatch((gradients[name], value) for name, value in passed.products(gradients))
            total += (products / squares.where(squares > 0, torch.inf)).sum()
        return total / len(batches)
    for batch in batches:
        leaves = {name: value.detach().requires_grad_() for name, value in params.items()}
        with torch.enable_grad(), twice_differentiable():
            with_graph = torch.autograd.grad(
                loss(leaves, batch), list(leaves.values()), create_graph=True, allow_unused=True, materialize_grads=True
            )
        stacked = {name: part.detach()[None] for name, part in zip(leaves, with_graph, strict=True)}
        gradient = {name: value[0] for name, value in _of_scale_one(stacked).items()}
        length = sum(float(wide(value).square().sum()) for value in gradient.values())
        if length:
            product = HessianProduct(leaves, with_graph, decay=0.0)(gradient)
            total += sum((wide(value) * wide(product[name])).sum() for name, value in gradient.items()) / length
    return total / len(batches)


def _of_scale_one(gradients: Params) -> Params:
    """Divide each minibatch's gradient, (c, *shape), by a power of two near its largest entry.

    Ordinary ones, of size 10⁻⁶ to 10⁶, stay as they are.
    """
    largest = torch.stack(
        [value.abs().reshape(len(value), -1).amax(1) for value in gradients.values() if value.numel()]
    ).amax(0)
    exponents = torch.frexp(largest).exponent
    if not bool((exponents.abs() > 20).any()):
        return gradients
    # Within what single precision holds, reciprocals included.
    scales = torch.ldexp(torch.ones_like(largest), exponents.clamp(-120, 120))
    return {name: value / scales.view(-1, *[1] * (value.ndim - 1)) for name, value in gradients.items()}


def _by_minibatch(pairs: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """Compute inner products (c,) of tensors (c, …), summed over the pairs."""
    return torch.stack([(wide(one) * wide(other)).flatten(1).sum(1) for one, other in pairs]).sum(0)


def gradient_noise_interaction(
    hessian: MeanHessian | DifferencedHessian, mean: Params, generator: torch.Generator, probes: int = PROBES
) -> Estimate:
    """Estimate (1/m) Σ_k g_kᵀ H g_k / ‖ḡ‖², with H of C.

    With independent signs ε_k, v = (1/√m) Σ ε_k g_k has E[vᵀHv] = (1/m) Σ g_kᵀHg_k.

    Args:
        hessian: H.
        mean: ḡ.
        generator: of the signs.
        probes: how many vectors v.

    Returns:
        The mean over the probes, and its standard error.
    """
    count = len(hessian.batches)
    samples = []
    for _ in range(probes):
        signs = 2 * torch.randint(2, (count,), generator=generator) - 1
        samples.append(hessian.along(hessian.gradient(signs / count**0.5)))
    product, whole = estimate(samples), square(mean)
    return Estimate(product.value / whole, product.error / whole)


def probed_trace(
    hessian: MeanHessian | DifferencedHessian, generator: torch.Generator, weights: Params | None = None
) -> Estimate:
    """Estimate Σ_i c_i² H_ii, which is the trace for c = 1, by Hutchinson's method.

    For independent signs v, E[(c⊙v)ᵀ H (c⊙v)] = Σ c_i² H_ii; for c = 1 its variance is 2 (‖H‖_F² − Σ H_ii²).

    Args:
        hessian: H.
        generator: of the signs.
        weights: c, by name; None for 1.

    Returns:
        The mean over `PROBES` vectors, and its standard error.

    Source: Hutchinson 1990, "A stochastic estimator of the trace of the influence matrix".
    """
    samples = []
    for _ in range(PROBES):
        probe = {}
        for name, value in hessian.params.items():
            # The same numbers as of integers, which would take twice the memory of the weights.
            drawn = torch.randint(2, value.shape, generator=generator, dtype=torch.int8).mul_(2).sub_(1)
            probe[name] = drawn.to(value) if weights is None else drawn.to(value).mul_(weights[name])
        samples.append(hessian.along(probe))
    return estimate(samples)


def along_step(hessian: MeanHessian | DifferencedHessian, step: Params, gradient: Params) -> Tensor:
    """Compute the curvature along a step, uᵀHu/(ḡᵀu), 0-d.

    Args:
        hessian: H.
        step: u, by name.
        gradient: ḡ, by name.
    """
    return hessian.along(step) / inner(gradient, step)


def minibatch_curvatures(loss: LossFn, params: Params, batches: Sequence[Batch], direction: Params) -> Tensor:
    """Compute vᵀH_kv of each minibatch, (m,), the second derivative of Ĉ_k(ω + tv) by t.

    Args:
        loss: pure function `(params, batch) -> 0-d mean loss`.
        params: ω.
        batches: the minibatches.
        direction: v, by name.
    """
    passes = stack_passes(loss, params, batches)
    if passes is not None:
        return torch.cat(
            [
                _by_minibatch((direction[name][None], value) for name, value in passed.products(direction))
                for passed in passes
            ]
        )
    curvatures = []
    for batch in batches:
        one = next(iter(params.values()))
        step = torch.zeros((), dtype=one.dtype, device=one.device, requires_grad=True)
        with torch.enable_grad(), twice_differentiable():
            value = loss({name: start + step * direction[name] for name, start in params.items()}, batch)
            (derivative,) = torch.autograd.grad(value, step, create_graph=True)
            curvature = torch.zeros_like(step)
            if derivative.requires_grad:
                (curvature,) = torch.autograd.grad(derivative, step, materialize_grads=True)
        curvatures.append(wide(curvature.detach()))
    return torch.stack(curvatures)
