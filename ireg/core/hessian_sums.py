"""Sums over minibatches that the mean flow needs, of Hessian products."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ireg.core.functional import twice_differentiable
from ireg.core.hessian import require_dense
from ireg.core.moments import GradientMoments
from ireg.core.optimizers import OptimizerState, SecondMoment, reciprocal_root
from ireg.core.params import add_scaled
from ireg.core.stack_pass import StackPass, stack_passes
from ireg.core.types import Batch, LossFn, Params
from ireg.core.wide import brought, wide


class Point:
    """What is known at ω before the pass: the mean gradient, P, u, and the root of s̄.

    Args:
        params: ω.
        moments: of the minibatch gradients at ω: mean and, for adaptive optimizers, square.
        dividing: how the optimizer divides by its second moment; None if it does not.
        optimizer: holds the weight decay.
        shift: gradient of what all minibatches' losses share, beside weight decay; None if there is nothing.
    """

    def __init__(
        self,
        params: Params,
        moments: GradientMoments,
        dividing: SecondMoment | None,
        optimizer: OptimizerState,
        shift: Params | None = None,
    ) -> None:
        self.shift = shift
        self.decay = optimizer.loss_decay
        self.decoupled_decay = optimizer.decoupled_decay
        self.params = params
        self.mean = self.decayed(moments.mean)
        self.root: Params | None = None
        self.inverse_root: Params | None = None
        self.scale: Params | None = None
        if dividing is not None:
            # Of g_k + λω: the square of the sum, from the moments of g_k alone.
            self.root = {
                name: self._root(name, value, moments.mean[name]) for name, value in moments.wide_square.items()
            }
            # 0 where the root is: such coordinates count for nothing, and 0 · ∞ cannot arise.
            self.inverse_root = {
                name: torch.where(root > 0, root, torch.inf).reciprocal_() for name, root in self.root.items()
            }
            self.scale = {name: reciprocal_root(root, dividing.eps) for name, root in self.root.items()}
        self.scaled_mean = {name: self.scaled(name, value) for name, value in self.mean.items()}
        self.velocity = add_scaled(self.scaled_mean, params, self.decoupled_decay)

    def scaled(self, name: str, value: Tensor) -> Tensor:
        """Multiply one parameter's value by P."""
        return value if self.scale is None else self.scale[name] * value

    def relative(self, name: str, value: Tensor) -> Tensor:
        """Divide one parameter's value by √s̄; 0 where that is 0.

        These numbers have scale 1, so that their powers neither vanish nor overflow.
        """
        assert self.inverse_root is not None
        return self.inverse_root[name] * value

    def decayed(self, gradient: Params) -> Params:
        """Add to a gradient what all minibatches share: the shift, and weight decay that is part of the loss."""
        if self.shift is not None:
            gradient = add_scaled(gradient, self.shift, 1.0)
        return add_scaled(gradient, self.params, self.decay)

    def _root(self, name: str, square: Tensor, mean: Tensor) -> Tensor:
        """Compute √s̄ of one parameter, whose square single precision need not hold."""
        # With a = what `decayed` adds, (1/m) Σ (g_k + a)² = (1/m) Σ g_k² + a (2ḡ + a), and 2ḡ + a = ḡ + (ḡ + a).
        added, means = self._added(name), mean + self.mean[name]
        if square.dtype == means.dtype:
            return (square + added * means).clamp_(min=0).sqrt_()
        return brought((square + wide(added) * wide(means)).clamp_(min=0).sqrt_(), means)

    def _added(self, name: str) -> Tensor:
        """Return what `decayed` adds to one parameter's gradient."""
        decay = self.decay * self.params[name]
        return decay if self.shift is None else decay + self.shift[name]


class Sums:
    """Sums over the minibatches, and in the end means, by name, with z_k = g_k/√s̄.

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

    def add_shared(self, point: Point, product: Callable[[Params], Params]) -> None:
        """Add the products with the Hessian of what all minibatches' losses share, to means.

        To H_k P (g_k − ḡ) it adds nothing in the mean.

        Args:
            point: where.
            product: of that Hessian with a direction.
        """
        along = product(point.velocity)
        _add(self.along_velocity, along)
        _add(self.along_gradients, product(point.mean))
        if point.inverse_root is not None:
            _add(self.weighed, {name: point.relative(name, point.mean[name]) * value for name, value in along.items()})

    def divide(self, num_batches: int) -> None:
        """Make means of the sums, in place."""
        for total in vars(self).values():
            for tensor in total.values():
                tensor.div_(num_batches)


def hessian_sums(loss: LossFn, params: Params, batches: Sequence[Batch], point: Point) -> Sums:
    """Compute the sums that need every minibatch's gradient and Hessian at once.

    Stacks of Linear layers take several minibatches at once. All else takes one by one, with double backward.

    Args:
        loss: pure function `(params, batch) -> 0-d mean loss`.
        params: ω, by name.
        batches: the m minibatches.
        point: what is known at ω.

    Returns:
        The means over the minibatches.

    Raises:
        ValueError: a parameter is sparse.
    """
    require_dense(params)
    sums = Sums(params)
    passes = stack_passes(loss, params, batches)
    if passes is None:
        for batch in batches:
            _add_minibatch(sums, loss, params, batch, point)
    else:
        for passed in passes:
            _add_stack(sums, passed, point)
    sums.divide(len(batches))
    if point.scale is None:  # the same by algebra, and a product less
        sums.along_spread = {name: value - sums.along_velocity[name] for name, value in sums.along_gradients.items()}
    return sums


def _add_stack(sums: Sums, passed: StackPass, point: Point) -> None:
    """Add several minibatches of a stack of Linear layers."""
    gradients = point.decayed(passed.gradients(point.params))
    _add_products(sums.along_gradients, passed, gradients, point)
    if point.scale is None:
        _add_products(sums.along_velocity, passed, point.velocity, point)
        return
    for name, products in passed.products(point.velocity):
        for gradient, product in zip(gradients[name], products, strict=True):
            product.add_(point.velocity[name], alpha=point.decay)
            sums.along_velocity[name] += product
            _add_powers(sums, name, gradient, product, point)
    for name, value in gradients.items():  # in place: they are not needed any more
        value.mul_(point.scale[name]).sub_(point.scaled_mean[name])
    _add_products(sums.along_spread, passed, gradients, point)


def _add_products(total: Params, passed: StackPass, direction: Params, point: Point) -> None:
    """Add Σ_k (H_k + λ) v_k to the totals, in place."""
    passed.add_products(direction, total)
    if point.decay:
        for name, value in direction.items():
            every = value.sum(0) if value.ndim > total[name].ndim else passed.size[0] * value
            total[name].add_(every, alpha=point.decay)


def _add_minibatch(sums: Sums, loss: LossFn, params: Params, batch: Batch, point: Point) -> None:
    """Add one minibatch of any loss, by double backward."""
    weights = {name: value.detach().requires_grad_() for name, value in params.items()}
    with torch.enable_grad(), twice_differentiable():
        value = loss(weights, batch)
        gradients = torch.autograd.grad(
            value, list(weights.values()), create_graph=True, allow_unused=True, materialize_grads=True
        )
    gradient = point.decayed({name: part.detach() for name, part in zip(params, gradients, strict=True)})
    product = HessianProduct(weights, gradients, point.decay)
    along_velocity = product(point.velocity)
    _add(sums.along_velocity, along_velocity)
    _add(sums.along_gradients, product(gradient))
    if point.scale is None:
        return
    means, scales = point.scaled_mean, point.scale
    _add(sums.along_spread, product({name: scales[name] * gradient[name] - means[name] for name in params}))
    for name in params:
        _add_powers(sums, name, gradient[name], along_velocity[name], point)


def _add_powers(sums: Sums, name: str, gradient: Tensor, along_velocity: Tensor, point: Point) -> None:
    """Add z ⊙ H_k u, z³ and z⁴ of one minibatch."""
    relative = point.relative(name, gradient)
    squares = relative.square()
    sums.weighed[name].addcmul_(relative, along_velocity)
    sums.cubes[name].addcmul_(squares, relative)
    sums.fourths[name].addcmul_(squares, squares)


class HessianProduct:
    """Products of one minibatch's Hessian with vectors by double backward, weight decay included.

    Args:
        weights: by name, leaves of the graph.
        gradients: by the same parameters in the same order, with their graph.
        decay: λ, what is added to the Hessian's diagonal.
    """

    def __init__(self, weights: Params, gradients: Sequence[Tensor], decay: float) -> None:
        self.weights = weights
        self.decay = decay
        # The gradient of a parameter that enters linearly, or not at all, is constant and has no graph.
        self.gradients = {name: part for name, part in zip(weights, gradients, strict=True) if part.requires_grad}

    def __call__(self, vector: Params) -> Params:
        """Compute (H_k + λ) v, by name."""
        if self.gradients:
            with twice_differentiable():  # of activations that are computed again, too
                products = torch.autograd.grad(
                    list(self.gradients.values()),
                    list(self.weights.values()),
                    [vector[name] for name in self.gradients],
                    retain_graph=True,
                    allow_unused=True,
                    materialize_grads=True,
                )
        else:
            products = tuple(torch.zeros_like(weight) for weight in self.weights.values())
        return add_scaled(dict(zip(self.weights, products, strict=True)), vector, self.decay)


def _add(total: Params, values: Params) -> None:
    for name, value in values.items():
        total[name].add_(value)
