"""Moments of the minibatch gradients, and the sums they are made of."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from ireg.core.moments.needs import Need
from ireg.core.norms import floor, square, weighted_square, weighted_sum
from ireg.core.params import dense, summable, wide_squared_norm
from ireg.core.types import Params
from ireg.core.wide import brought, wide

Observer = Callable[[int, Tensor], None]
"""Called with the position of a minibatch and the outputs of c minibatches from there on, (c, examples, …)."""


@dataclass(frozen=True, kw_only=True)
class GradientMoments:
    """Moments of the m minibatch gradients g_k = ∇Ĉ_k(ω).

    What was not asked for raises a `ValueError`.

    Where squares leave the range of the weights' type, ‖g_k‖² and what the methods return are in double precision, see
    `MomentSums`.

    Attributes:
        needs: what was computed.
        method: how.
        losses: Ĉ_k(ω), shape (m,).

    Example:
        >>> import ireg
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> _ = torch.nn.init.constant_(model.weight, 1.0)
        >>> batches = [(torch.tensor([[x]]), torch.zeros(1, 1)) for x in (1.0, 2.0)]  # g = 2x²: 2 and 8
        >>> moments = ireg.gradient_moments(model, batches, criterion=torch.nn.functional.mse_loss)
        >>> variance = moments.sq_norm_mean - moments.square_of_mean(None)  # (1/m) Σ ‖g_k − ḡ‖²
        >>> moments.losses, variance
        (tensor([1., 4.]), tensor(9.))
    """

    needs: Need
    method: str
    losses: Tensor
    _sq_norms: Tensor | None
    _mean: Params | None
    _square: Params | None
    _wide_square: Params | None = None
    _sq_norms_by: Params | None = None
    _outer: Params | None = None

    def of(self, names: Collection[str]) -> "GradientMoments":
        """Return the moments of the gradients by some of the parameters.

        Of ‖g_k‖² they have what was computed with `Need.BY_PARAMETER`.
        """

        def some(params: Params | None) -> Params | None:
            return None if params is None else {name: params[name] for name in names}

        by = some(self._sq_norms_by)
        return GradientMoments(
            needs=self.needs,
            method=self.method,
            losses=self.losses,
            _sq_norms=None if by is None else torch.stack(list(by.values())).sum(0),
            _mean=some(self._mean),
            _square=some(self._square),
            _wide_square=some(self._wide_square),
            _sq_norms_by=by,
            _outer=None if self._outer is None else {name: self._outer[name] for name in names if name in self._outer},
        )

    @property
    def num_batches(self) -> int:
        """The number m of minibatches."""
        return len(self.losses)

    @property
    def mean(self) -> Params:
        """ḡ = (1/m) Σ g_k = ∇C(ω), by parameter name."""
        return _computed(self._mean, Need.MEAN)

    @property
    def square(self) -> Params:
        """(1/m) Σ g_k ⊙ g_k, by parameter name."""
        return _computed(self._square, Need.SQUARE)

    @property
    def wide_square(self) -> Params:
        """The same as `square`, in double precision where squares leave the range of the weights' type."""
        return self.square if self._wide_square is None else self._wide_square

    @property
    def outer(self) -> Params:
        """(1/m) Σ g_k g_kᵀ over the shorter side of each matrix, by the matrices' names."""
        return _computed(self._outer, Need.OUTER)

    @property
    def sq_norms(self) -> Tensor:
        """‖g_k‖², shape (m,), in the order of the minibatches."""
        return _computed(self._sq_norms, Need.SQ_NORMS)

    @property
    def sq_norm_mean(self) -> Tensor:
        """(1/m) Σ ‖g_k‖², 0-d, in the type of `sq_norms`."""
        return self.sq_norms.mean()

    def mean_square(self, scale: Params | None) -> Tensor:
        """Compute (1/m) Σ ‖g_k‖²_P, 0-d, with ‖v‖²_P = vᵀPv.

        It needs `sq_norms` where P is the identity (None), and `square` else.
        """
        if scale is None:
            return self.sq_norm_mean
        squares = self.wide_square
        return weighted_sum(among(scale, squares), squares)

    def mean_square_of_product(self, factor: Params) -> Tensor:
        """Compute (1/m) Σ ‖f ⊙ g_k‖², 0-d; it needs `square`.

        It is the squared norm of f ⊙ √((1/m) Σ g_k ⊙ g_k), which single precision's range does not bound.
        """
        squares = self.wide_square
        factor = among(factor, squares)
        if squares is self._square:
            return wide_squared_norm({name: value * squares[name].sqrt() for name, value in factor.items()})
        return square({name: wide(value) * squares[name].sqrt() for name, value in factor.items()})

    def square_of_mean(self, scale: Params | None, shift: Callable[[Params], Params] | None = None) -> Tensor:
        """Compute ‖ḡ‖²_P, 0-d, or ‖ḡ + o‖²_P; it needs `mean`.

        Args:
            scale: P; None for the identity.
            shift: adds o to a gradient; None for o = 0.
        """
        mean = self.mean if shift is None else shift(self.mean)
        if scale is None:
            return square(mean)
        return weighted_square(among(scale, mean), mean)


Value = TypeVar("Value")


def _computed(value: Value | None, need: Need) -> Value:
    if value is None:
        raise ValueError(
            f"{need.name} was not computed: ask for it by needs=Need.{need.name}, a term by @needs(Need.{need.name})"
        )
    return value


@dataclass(kw_only=True)
class MomentSums:
    """Running sums over the minibatches, of what is needed only.

    The methods that compute gradients add to them.

    Sums are in the type of the weights, see `sum_type`. Where squares have left its range, `has_left_range` says so.
    Then all is to be added once more, to wide sums.

    Attributes:
        wide: whether sums are in double precision.
    """

    params: Params
    needs: Need
    observer: Observer | None = None
    wide: bool = False
    mean: Params = field(init=False)
    square: Params = field(init=False)
    outer: Params = field(init=False)
    sq_norms: list[Tensor] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)
    num_batches: int = 0
    _floors: list[Tensor] = field(default_factory=list)
    _lost: Tensor | None = None
    _by_parameter: dict[str, list[Tensor]] = field(default_factory=dict)
    _lost_by: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.mean = self._zeros() if Need.MEAN in self.needs else {}
        self.square = self._zeros() if Need.SQUARE in self.needs else {}
        self.outer = {}
        if Need.OUTER in self.needs:
            matrices = {name: value for name, value in self.params.items() if value.ndim == 2}
            self.outer = {
                name: self._numbers(outer(torch.zeros_like(dense(one))[None])) for name, one in matrices.items()
            }

    def add_minibatches(self, losses: Tensor, outputs: Tensor | None, sq_norms: Tensor | None) -> None:
        """Add the losses, outputs and ‖g_k‖² of c minibatches.

        Args:
            losses: (c,).
            outputs: (c, examples, …); None where the loss has none.
            sq_norms: ‖g_k‖², (c,); None where they are not needed.

        Raises:
            ValueError: there are no outputs, and an observer waits for them.
        """
        if self.observer is not None:
            if outputs is None:
                raise ValueError("the loss gives no outputs to observe: make it with functional_loss")
            self.observer(self.num_batches, outputs.detach())
        self.losses.append(losses.detach())
        self.num_batches += len(losses)
        if sq_norms is not None:
            self.sq_norms.append(sq_norms)
            self._floors.append(torch.zeros_like(sq_norms) if self._lost is None else self._lost)
        self._lost = None

    def note_lost(self, floor: Tensor, name: str) -> None:
        """Note what rounding may have taken from ‖g_k‖² of the next c minibatches.

        Args:
            floor: (c,), the value below which that shows, beside the one for gradients that are added.
            name: of the parameter whose part of ‖g_k‖² it is.
        """
        self._lost = floor if self._lost is None else self._lost + floor
        if Need.BY_PARAMETER in self.needs:
            self._lost_by[name] = floor.sum() + self._lost_by.get(name, 0.0)

    def has_left_range(self) -> bool:
        """Say whether a sum is not finite, or so small that squares may have been lost.

        It is False where a weight is nan, which wider sums do not change. The device is waited for once.
        """
        if self.wide:
            return False
        count = sum(value.numel() for value in self.params.values())
        left = []
        if self.mean:
            left.append(~_total(self.mean).isfinite())
        if self.square:
            total = _total(self.square)
            left.append(~total.isfinite() | (total < floor(total.dtype, count)))
        if self.sq_norms:
            norms, lost = torch.cat(self.sq_norms), torch.cat(self._floors)
            left += [~norms.sum().isfinite(), (norms < lost + floor(norms.dtype, count)).any()]
        left += self._lost_parts()
        if not left or not bool(torch.stack(left).any()):
            return False
        return not any(bool(dense(value).isnan().any()) for value in self.params.values())

    def _lost_parts(self) -> list[Tensor]:
        """Say of each parameter whether its squares may have been lost.

        A parameter whose mean gradient is 0 in all entries has lost nothing: the loss does not depend on it.

        Returns:
            0-d tensors; none where `Need.BY_PARAMETER` is not asked for.
        """
        if Need.BY_PARAMETER not in self.needs:
            return []
        lost = []
        for name, mean in self.mean.items():
            least = floor(mean.dtype, mean.numel())
            moves = mean.any()
            if self.square:
                lost.append(moves & (self.square[name].sum() < least))
            if name in self._by_parameter:
                norms = torch.cat(self._by_parameter[name])
                lost.append(moves & (norms.sum() < least * len(norms) + self._lost_by.get(name, 0.0)))
        return lost

    def add_gradient(self, name: str, gradient: Tensor) -> Tensor | None:
        """Add one parameter's gradient, and return its part of ‖g_k‖².

        The tensor is not kept: it may be a buffer that the next gradient overwrites.

        Returns:
            The part, 0-d; None where it is not needed.
        """
        gradient = self._numbers(gradient)
        if Need.MEAN in self.needs:
            self.mean[name].add_(gradient)
        if Need.SQUARE in self.needs:
            self.square[name].addcmul_(gradient, gradient)
        if name in self.outer:
            self.outer[name].add_(outer(gradient[None]))
        if Need.SQ_NORMS not in self.needs:
            return None
        flat = gradient.flatten()
        return self.note_part(name, torch.dot(flat, flat))

    def add_gradients(self, name: str, gradients: Tensor) -> Tensor | None:
        """Add one parameter's gradients of c minibatches, and return their part of ‖g_k‖².

        Args:
            name: of the parameter.
            gradients: (c, *shape).

        Returns:
            The part, (c,); None where it is not needed.
        """
        gradients = self._numbers(gradients)
        if Need.MEAN in self.needs:
            self.mean[name].add_(gradients.sum(0))
        squares = gradients.square() if self.needs & (Need.SQUARE | Need.SQ_NORMS) else None
        if squares is not None and Need.SQUARE in self.needs:
            self.square[name].add_(squares.sum(0))
        if name in self.outer:
            self.outer[name].add_(outer(gradients))
        if squares is None or Need.SQ_NORMS not in self.needs:
            return None
        return self.note_part(name, flat(squares).sum(1))

    def note_part(self, name: str, part: Tensor) -> Tensor:
        """Note one parameter's part of the next ‖g_k‖², 0-d or (c,), where it is needed; return it."""
        if Need.BY_PARAMETER in self.needs:
            self._by_parameter.setdefault(name, []).append(part.reshape(-1))
        return part

    def moments(self, method: str) -> GradientMoments:
        """Divide the sums by the number of minibatches, in place, and return them as moments."""
        for total in (*self.mean.values(), *self.square.values(), *self.outer.values()):
            total.div_(self.num_batches)
        mean, square = (
            {name: self._narrowed(name, value) for name, value in sums.items()} for sums in (self.mean, self.square)
        )
        return GradientMoments(
            needs=self.needs,
            method=method,
            losses=torch.cat(self.losses),
            _sq_norms=torch.cat(self.sq_norms) if Need.SQ_NORMS in self.needs else None,
            _mean=mean if Need.MEAN in self.needs else None,
            _square=square if Need.SQUARE in self.needs else None,
            _wide_square=self.square if self.wide and Need.SQUARE in self.needs else None,
            _sq_norms_by={name: torch.cat(parts) for name, parts in self._by_parameter.items()} or None,
            _outer=self.outer if Need.OUTER in self.needs else None,
        )

    def _numbers(self, value: Tensor) -> Tensor:
        """Return numbers in the type of the sums."""
        return wide(dense(value)) if self.wide else summable(value)

    def _zeros(self) -> Params:
        return {name: self._numbers(torch.zeros_like(dense(value))) for name, value in self.params.items()}

    def _narrowed(self, name: str, total: Tensor) -> Tensor:
        """Return a sum in the type and on the device of a parameter's sums."""
        return brought(total, summable(self.params[name])) if self.wide else total


def among(scale: Params, vector: Params) -> Params:
    """Return what a diagonal has for the names of a vector, which may be some of its own."""
    return scale if len(scale) == len(vector) else {name: scale[name] for name in vector}


def _total(sums: Params) -> Tensor:
    return torch.stack([value.sum() for value in sums.values()]).sum()


def add_up(parts: Sequence[Tensor | None]) -> Tensor | None:
    """Add up the parts of ‖g_k‖² by parameter; None where they are not needed."""
    present = [part for part in parts if part is not None]
    return torch.stack(present).sum(0) if present else None


def outer(matrices: Tensor) -> Tensor:
    """Sum g gᵀ over c matrices, or gᵀg where they are higher than wide: (r, r), r the shorter side."""
    short = matrices if matrices.shape[1] <= matrices.shape[2] else matrices.mT
    rows = short.transpose(0, 1).flatten(1)
    return rows @ rows.mT


def flat(rows: Tensor) -> Tensor:
    """Flatten each of c tensors; a number becomes one entry."""
    return rows.reshape(len(rows), -1)
