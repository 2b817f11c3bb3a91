"""Moments of the mean over dropout's masks, from two draws.

With a fresh mask in each step, the loss that is descended is C = E C over the masks, and SGD's term has ‖E g_k‖², not
E ‖g_k‖². For two independent draws g, g' of a minibatch's gradient, E ⟨g, g'⟩ = ‖E g‖²: no bias, in any norm. Each
value may be negative.

Source: docs/theory.md, section 10.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ireg.core.functional import gradient
from ireg.core.moments.needs import Need
from ireg.core.moments.sums import MomentSums, among
from ireg.core.norms import inner, is_ordinary, norm, widened
from ireg.core.params import dense, inner_product, sum_type, summable
from ireg.core.types import Batch, LossFn, Params
from ireg.core.wide import wide

TINY = 1e-15
"""Norm of gradients whose products may be lost in single precision."""


@dataclass(frozen=True, kw_only=True)
class DrawnMoments:
    """Estimates of the moments of the mean gradients over the masks, from two draws of each.

    Attributes:
        means: ḡ of each draw, by name.
        products: (1/m) Σ g_k ⊙ g'_k, by name.
        method: how they were computed.
    """

    means: tuple[Params, Params]
    products: Params
    method: str = "loop"

    def of(self, names: Collection[str]) -> "DrawnMoments":
        """Return the same of some of the parameters."""
        one, other = ({name: mean[name] for name in names} for mean in self.means)
        return DrawnMoments(
            means=(one, other), products={name: self.products[name] for name in names}, method=self.method
        )

    def mean_square(self, scale: Params | None) -> Tensor:
        """Estimate (1/m) Σ ‖E g_k‖²_P, 0-d; None is the identity."""
        if scale is None:
            return torch.stack([value.sum() for value in self.products.values()]).sum()
        scale = among(scale, self.products)
        if all(self.products[name].dtype == sum_type(value) for name, value in scale.items()):
            return inner_product(scale, self.products)
        return inner_product(widened(scale), widened(self.products))

    def mean_square_of_product(self, factor: Params) -> Tensor:
        """Estimate (1/m) Σ ‖f ⊙ E g_k‖², 0-d, in double precision."""
        squares = {name: wide(value).square() for name, value in among(factor, self.products).items()}
        return inner_product(squares, {name: wide(value) for name, value in self.products.items()})

    def square_of_mean(self, scale: Params | None, shift: Callable[[Params], Params] | None = None) -> Tensor:
        """Estimate ‖E ḡ + o‖²_P, 0-d.

        Args:
            scale: P; None for the identity.
            shift: adds o to a gradient; None for o = 0.
        """
        one, other = self.means if shift is None else (shift(mean) for mean in self.means)
        return inner(one if scale is None else {name: value * scale[name] for name, value in one.items()}, other)


def drawn_moments(
    loss: LossFn, params: Params, batches: Sequence[Batch], *, by_parameter: bool = False
) -> DrawnMoments:
    """Compute each minibatch's gradient twice, each time with masks of its own.

    The loss draws the masks. Where products leave the range of the weights' type, they are drawn once more, and summed
    in double precision.

    Args:
        loss: pure function of parameters and minibatch but for what it draws from torch's global random stream.
        params: where the gradients are taken.
        batches: the minibatches.
        by_parameter: whether the range must hold the products of each parameter, not only of all together.

    Returns:
        The moments; each value may be negative, except where both draws are the same.

    Example:
        >>> def loss(params, batch):  # without masks, so that both draws are the same
        ...     return (params["w"] * batch).sum()
        >>> moments = drawn_moments(loss, {"w": torch.tensor(1.0)}, [torch.tensor([2.0]), torch.tensor([4.0])])
        >>> moments.mean_square(None), moments.square_of_mean(None)  # (4 + 16)/2 and 3²
        (tensor(10.), tensor(9.))
    """
    moments = _drawn(loss, params, batches, in_double=False)
    apart = [moments.of([name]) for name in params] if by_parameter else []
    left_range = any(_have_left_range(part) for part in [moments, *apart])
    return _drawn(loss, params, batches, in_double=True) if left_range else moments


def _drawn(loss: LossFn, params: Params, batches: Sequence[Batch], *, in_double: bool) -> DrawnMoments:
    numbers = _widened if in_double else summable
    sums = [MomentSums(params=params, needs=Need.MEAN) for _ in range(2)]
    products = {name: torch.zeros_like(numbers(value)) for name, value in params.items()}
    for batch in batches:
        one, other = (gradient(loss, params, batch) for _ in range(2))
        for name in params:
            sums[0].add_gradient(name, one[name])
            sums[1].add_gradient(name, other[name])
            products[name].addcmul_(numbers(one[name]), numbers(other[name]))
    means = [{name: value / len(batches) for name, value in total.mean.items()} for total in sums]
    return DrawnMoments(
        means=(means[0], means[1]), products={name: value / len(batches) for name, value in products.items()}
    )


def _have_left_range(moments: DrawnMoments) -> bool:
    """Say whether products of draws are not finite, or so small that they may have been lost.

    Draws of masks that have nothing in common have products of 0, too: then the size of the draws decides.
    """
    size = torch.stack([value.abs().sum() for value in moments.products.values()]).sum()
    if float(size) == 0:
        return all(0 < float(norm(mean)) < TINY for mean in moments.means)
    return not is_ordinary(size, sum(value.numel() for value in moments.products.values()))


def _widened(value: Tensor) -> Tensor:
    return wide(dense(value))
