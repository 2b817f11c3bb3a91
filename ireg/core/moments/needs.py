"""What a term asks of the moments: all that its module imports."""

from collections.abc import Callable, Iterable
from enum import Flag, auto
from functools import partial
from typing import Any, TypeVar

from ireg.core.drawing import EPOCH
from ireg.core.optimizers import OptimizerState


class Need(Flag):
    """What can be asked of a pass over the minibatches; each costs time, the mean square most.

    Example:
        >>> asked = Need.MEAN | Need.SQ_NORMS
        >>> Need.MEAN in asked, Need.SQUARE in asked
        (True, False)
    """

    SQ_NORMS = auto()
    """‖g_k‖² of each minibatch."""
    MEAN = auto()
    """ḡ = (1/m) Σ g_k."""
    SQUARE = auto()
    """(1/m) Σ g_k ⊙ g_k: every g_k must be formed."""
    STEPS = auto()
    """Beside it, ‖P g_k‖² of a sample's minibatches, P of the optimizer."""
    OUTER = auto()
    """Beside it, (1/m) Σ g_k g_kᵀ of each matrix, over its shorter side."""
    BY_PARAMETER = auto()
    """Beside ‖g_k‖² the part of each parameter, and no square lost of any; it takes the mean, too."""


NOTHING = Need(0)
EVERYTHING = Need.SQ_NORMS | Need.MEAN | Need.SQUARE

Function = TypeVar("Function", bound=Callable[..., Any])


def needs(
    need: Need | Callable[[OptimizerState], Need], *, estimable: bool = False, additive: bool = True
) -> Callable[[Function], Function]:
    """Mark a term with what it uses of the moments, so that no pass computes less or more.

    Args:
        need: what the term uses, or a function that says so for an optimizer and raises a `ValueError` for one that
            the term is not made for.
        estimable: whether the term can be estimated, from some of the minibatches or from draws of dropout's masks: it
            uses the gradients by `Snapshot.gradients` alone, and its result is linear in what their methods return.
        additive: whether such a term of all weights is the sum of those of the layers; a ratio is not.

    Returns:
        A decorator, which returns the term itself. A term without it may use nothing of the moments.

    Example:
        >>> import ireg, torch
        >>> @ireg.needs(ireg.Need.SQ_NORMS)
        ... def largest_gradient(snapshot):
        ...     return snapshot.moments.sq_norms.max().sqrt()  # max ‖g_k‖
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> _ = torch.nn.init.constant_(model.weight, 1.0)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> batches = [(torch.tensor([[x]]), torch.zeros(1, 1)) for x in (1.0, 2.0)]  # g = 2x²: 2 and 8
        >>> loss, terms = torch.nn.functional.mse_loss, {"mine/largest": largest_gradient}
        >>> ireg.measure(model, batches, optimizer=optimizer, criterion=loss, terms=terms)
        {'mine/largest': 8.0}
    """

    def mark(function: Function) -> Function:
        function.needs = need if callable(need) else lambda view: need  # type: ignore[attr-defined]
        function.estimable = estimable  # type: ignore[attr-defined]
        function.additive = additive  # type: ignore[attr-defined]
        return function

    return mark


def along_path(function: Function) -> Function:
    """Mark a term that uses the steps of the epoch, `Snapshot.path`."""
    function.along_path = True  # type: ignore[attr-defined]
    return function


def needs_path(function: Callable[..., Any]) -> bool:
    """Say whether a term uses the steps of the epoch."""
    return getattr(_inner(function), "along_path", False)


def union_of_needs(functions: Iterable[Callable[..., Any]], view: OptimizerState, sampling: str = EPOCH) -> Need:
    """Return what functions use of the moments together.

    With independent minibatches an estimate of ‖∇C‖² also takes the mean square.

    Args:
        functions: marked by `needs`, or a `functools.partial` of such; unmarked ones use nothing.
        view: of the optimizer.
        sampling: how training draws the minibatches, `epoch` or `independent`.

    Raises:
        ValueError: a function is not made for this optimizer.
    """
    total = NOTHING
    for function in functions:
        inner = _inner(function)
        need = inner.needs(view) if hasattr(inner, "needs") else NOTHING
        if sampling != EPOCH and Need.MEAN in need and inner.estimable:
            need |= Need.SQ_NORMS if view.shares is None else Need.SQUARE
        total |= need
    return total


def needs_exact_moments(function: Callable[..., Any]) -> bool:
    """Say whether a term has no estimate."""
    inner = _inner(function)
    return hasattr(inner, "needs") and not inner.estimable


def has_parts(function: Callable[..., Any]) -> bool:
    """Say whether a term is also one of each layer: it uses the gradients by `Snapshot.gradients` alone."""
    return bool(getattr(_inner(function), "estimable", False))


def adds_up(function: Callable[..., Any]) -> bool:
    """Say whether a term of all weights is the sum of those of parts of them."""
    return has_parts(function) and bool(getattr(_inner(function), "additive", True))


def _inner(function: Callable[..., Any]) -> Any:
    return function.func if isinstance(function, partial) else function
