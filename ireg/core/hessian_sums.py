"""Sums over minibatches that the mean flow needs, of Hessian products."""

from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor

from ireg.core.functional import twice_differentiable
from ireg.core.hessian import edges_of, require_dense
from ireg.core.large import computed
from ireg.core.moments import GradientMoments
from ireg.core.optimizers import OptimizerState, SecondMoment, reciprocal_root
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
        self.moments = moments
        self.mean = self._on_demand(lambda name: self._decayed(name, moments.mean[name]))
        self.root: Params | None = None
        self.inverse_root: Params | None = None
        self.scale: Params | None = None
        if dividing is not None:
            eps = dividing.eps
            # Of g_k + λω: the square of the sum, from the moments of g_k alone.
            self.root = root = self._on_demand(self._root)
            # 0 where the root is: such coordinates count for nothing, and 0 · ∞ cannot arise.
            self.inverse_root = self._on_demand(
                lambda name: torch.where((value := root[name]) > 0, value, torch.inf).reciprocal_()
            )
            self.scale = self._on_demand(lambda name: reciprocal_root(root[name], eps))
        self.scaled_mean = self._on_demand(lambda name: self.scaled(name, self.mean[name]))
        self.velocity = self.scaled_mean
        if self.decoupled_decay:
            self.velocity = self._on_demand(
                lambda name: torch.add(self.scaled_mean[name], params[name], alpha=self.decoupled_decay)
            )

    def _on_demand(self, compute: Callable[[str], Tensor]) -> Params:
        return computed(self.params, compute)

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
        """Add to a gradient what all minibatches share: the shift, and weight decay that is part of the loss.

        Args:
            gradient: by name; it is emptied, so that no two copies of it are held.
        """
        return {name: self._decayed(name, gradient.pop(name)) for name in list(gradient)}

    def _decayed(self, name: str, gradient: Tensor) -> Tensor:
        if self.shift is not None:
            gradient = torch.add(gradient, self.shift[name], alpha=1.0)
        return torch.add(gradient, self.params[name], alpha=self.decay) if self.decay else gradient

    def _root(self, name: str) -> Tensor:
        """Compute √s̄ of one parameter, whose square single precision need not hold."""
        # With a = what `decayed` adds, (1/m) Σ (g_k + a)² = (1/m) Σ g_k² + a (2ḡ + a), and 2ḡ + a = ḡ + (ḡ + a).
        square, mean = self.moments.wide_square[name], self.moments.mean[name]
        added, means = self._added(name), mean + self.mean[name]
        if square.dtype == means.dtype:
            return (square + added * means).clamp_(min=0).sqrt_()
        return brought((square + wide(added) * wide(means)).clamp_(min=0).sqrt_(), means)

    def _added(self, name: str) -> Tensor:
        """Return what `decayed` adds to one parameter's gradient."""
        decay = self.decay * self.params[name]
        return decay if self.shift is None else decay + self.shift[name]


OF_VELOCITY, OF_GRADIENTS, OF_SPREAD = "along_velocity", "along_gradients", "along_spread"
WEIGHED, CUBES, FOURTHS = "weighed", "cubes", "fourths"
SUMS = (OF_VELOCITY, OF_GRADIENTS, OF_SPREAD, WEIGHED, CUBES, FOURTHS)
"""The names of the sums, of which several passes may compute some each."""


class Sums:
    """Sums over the minibatches, and in the end means, by name, with z_k = g_k/√s̄.

    Attributes:
        along_velocity: (1/m) Σ H_k u.
        along_gradients: (1/m) Σ H_k g_k.
        along_spread: (1/m) Σ H_k P (g_k − ḡ).
        weighed: (1/m) Σ z_k ⊙ H_k u.
        cubes: (1/m) Σ z_k³.
        fourths: (1/m) Σ z_k⁴.

    Args:
        params: the names and shapes.
        asked: which of `SUMS` are computed; the others are empty.
    """

    def __init__(self, params: Params, asked: Collection[str] = SUMS) -> None:
        def zeros(name: str) -> Params:
            return {name: torch.zeros_like(value) for name, value in params.items()} if name in asked else {}

        self.along_velocity, self.along_gradients = zeros(OF_VELOCITY), zeros(OF_GRADIENTS)
        self.along_spread, self.weighed = zeros(OF_SPREAD), zeros(WEIGHED)
        self.cubes, self.fourths = zeros(CUBES), zeros(FOURTHS)

    @property
    def needs_products(self) -> bool:
        """Whether one of the sums is of Hessian products."""
        return any((self.along_velocity, self.along_gradients, self.along_spread, self.weighed))

    @property
    def needs_gradients(self) -> bool:
        """Whether one of the sums is of the minibatches' gradients."""
        return any((self.along_gradients, self.along_spread, self.weighed, self.cubes, self.fourths))

    def add_shared(self, point: Point, product: Callable[[Params], Params]) -> None:
        """Add the products with the Hessian of what all minibatches' losses share, to means.

        To H_k P (g_k − ḡ) it adds nothing in the mean.

        Args:
            point: where.
            product: of that Hessian with a direction.
        """
        along = product(point.velocity) if self.along_velocity or self.weighed else {}
        if self.along_velocity:
            _add(self.along_velocity, along)
        if self.along_gradients:
            _add(self.along_gradients, product(point.mean))
        if self.weighed:
            _add(self.weighed, {name: point.relative(name, point.mean[name]) * value for name, value in along.items()})

    def divide(self, num_batches: int) -> None:
        """Make means of the sums, in place."""
        for total in vars(self).values():
            for tensor in total.values():
                tensor.div_(num_batches)


def hessian_sums(
    loss: LossFn, params: Params, batches: Sequence[Batch], point: Point, asked: Collection[str] | None = None
) -> Sums:
    """Compute the sums that need every minibatch's gradient and Hessian at once.

    Stacks of Linear layers take several minibatches at once. All else takes one by one, with double backward.

    Args:
        loss: pure function `(params, batch) -> 0-d mean loss`.
        params: ω, by name. Sums of gradients alone may be of some parameters.
        batches: the m minibatches.
        point: what is known at ω.
        asked: which of `SUMS`; by default all that the optimizer's mean flow is made of.

    Returns:
        The means over the minibatches.

    Raises:
        ValueError: a parameter is sparse.
    """
    require_dense(params)
    sums = Sums(params, (SUMS if point.scale is not None else SUMS[:2]) if asked is None else asked)
    passes = stack_passes(loss, point.params, batches)
    if passes is None:
        for batch in batches:
            _add_minibatch(sums, loss, params, batch, point)
    else:
        for passed in passes:
            _add_stack(sums, passed, params, point)
    sums.divide(len(batches))
    return sums


def _add_stack(sums: Sums, passed: StackPass, params: Params, point: Point) -> None:
    """Add several minibatches of a stack of Linear layers."""
    gradients = point.decayed(passed.gradients(params)) if sums.needs_gradients else {}
    if sums.along_gradients:
        _add_products(sums.along_gradients, passed, gradients, point)
    if sums.weighed:
        _add_weighed(sums, passed, gradients, point)
    elif sums.along_velocity:
        _add_products(sums.along_velocity, passed, point.velocity, point)
    for name in sums.cubes:
        for gradient in gradients[name]:
            _add_powers(sums, name, gradient, point)
    if sums.along_spread:
        assert point.scale is not None
        for name, value in gradients.items():  # in place: they are not needed any more
            value.mul_(point.scale[name]).sub_(point.scaled_mean[name])
        _add_products(sums.along_spread, passed, gradients, point)


def _add_weighed(sums: Sums, passed: StackPass, gradients: Params, point: Point) -> None:
    """Add H_k u of each minibatch, and z_k ⊙ H_k u."""
    for name, products in passed.products(point.velocity):
        for gradient, product in zip(gradients[name], products, strict=True):
            product.add_(point.velocity[name], alpha=point.decay)
            if sums.along_velocity:
                sums.along_velocity[name] += product
            sums.weighed[name].addcmul_(point.relative(name, gradient), product)


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
        gradients = torch.autograd.grad(
            loss({**point.params, **weights}, batch),
            list(weights.values()),
            create_graph=sums.needs_products,
            allow_unused=True,
            materialize_grads=True,
        )
    product = HessianProduct(weights, gradients, point.decay)
    gradient = {}
    if sums.needs_gradients:
        gradient = point.decayed({name: part.detach() for name, part in zip(params, gradients, strict=True)})
    del gradients  # their graph is enough for the products
    if sums.along_velocity or sums.weighed:
        along = product(point.velocity)
        if sums.along_velocity:
            _add(sums.along_velocity, along)
        for name in sums.weighed:
            sums.weighed[name].addcmul_(point.relative(name, gradient[name]), along[name])
        del along
    for name in sums.cubes:
        _add_powers(sums, name, gradient[name], point)
    if sums.along_gradients:
        _add(sums.along_gradients, product(gradient))
    if sums.along_spread:
        scales, means = point.scale, point.scaled_mean
        assert scales is not None
        spread = {name: scales[name] * gradient.pop(name) - means[name] for name in params}
        _add(sums.along_spread, product(spread))


def _add_powers(sums: Sums, name: str, gradient: Tensor, point: Point) -> None:
    """Add z³ and z⁴ of one minibatch."""
    relative = point.relative(name, gradient)
    squares = relative.square()
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
        self.gradients = edges_of(weights, gradients)

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
        values = dict(zip(self.weights, products, strict=True))
        del products
        for name in values if self.decay else ():  # one after the other: no two copies of all are held
            values[name] = torch.add(values[name], vector[name], alpha=self.decay)
        return values


def _add(total: Params, values: Params) -> None:
    for name, value in values.items():
        total[name].add_(value)
