"""Several optimizers that train one model together, seen as one.

A step is one of each: as of Muon for matrices and AdamW for the rest. To first order a joint step moves each block of
weights by its own P, rate and memory. What is quadratic in the gradient, with a diagonal P, is the sum over blocks.
"""

from __future__ import annotations

import weakref
from collections import Counter, OrderedDict
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

from torch.optim import Optimizer


class SeveralOptimizers(Optimizer):
    """One view of several optimizers, which hold different parameters of a model.

    Its groups and its state are theirs. Its hooks are called before the first of them steps, and once all have. An
    optimizer that steps again before the others have ends the step for all, and so does `end_step`.

    Args:
        parts: two or more optimizers.

    Raises:
        ValueError: two of them hold the same parameter.

    Example:
        >>> import torch
        >>> one, two = (torch.nn.Parameter(torch.ones(1)) for _ in range(2))
        >>> both = SeveralOptimizers([torch.optim.SGD([one], lr=0.1), torch.optim.Adam([two], lr=0.2)])
        >>> [group["lr"] for group in both.param_groups], both.names
        ([0.1, 0.2], ('SGD', 'Adam'))
    """

    def __init__(self, parts: Sequence[Optimizer]) -> None:
        self.parts = tuple(parts)
        self._optimizer_step_pre_hooks = OrderedDict()
        self._optimizer_step_post_hooks = OrderedDict()
        self._stepped: set[int] = set()
        times = Counter(id(value) for group in self.param_groups for value in group["params"])
        if shared := sum(count > 1 for count in times.values()):
            raise ValueError(f"{' and '.join(self.names)} hold {shared} parameters in common; give each to one of them")
        me = weakref.ref(self)
        for number, part in enumerate(self.parts):
            for handle in (
                part.register_step_pre_hook(partial(_call, me, "_before", number)),
                part.register_step_post_hook(partial(_call, me, "_after", number)),
            ):
                weakref.finalize(self, handle.remove)

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The groups of all, in their order."""
        return [group for part in self.parts for group in part.param_groups]

    @property
    def state(self) -> dict[Any, Any]:  # type: ignore[override]
        """The states of all parameters."""
        return {parameter: held for part in self.parts for parameter, held in part.state.items()}

    @property
    def names(self) -> tuple[str, ...]:
        """What the parts are called: by class, or by number where two have the same class."""
        classes = [type(part).__name__ for part in self.parts]
        return tuple(classes) if len(set(classes)) == len(classes) else tuple(map(str, range(len(classes))))

    @property
    def reason(self) -> str:
        """Why there is no rule."""
        return (
            f"{' and '.join(type(part).__name__ for part in self.parts)} step together, and no mean flow of a joint "
            "step is known"
        )

    def places(self) -> list[slice]:
        """Return where the groups of each are among the groups of all."""
        ends = [0]
        for part in self.parts:
            ends.append(ends[-1] + len(part.param_groups))
        return [slice(first, end) for first, end in pairwise(ends)]

    def end_step(self) -> None:
        """End a step that some have taken and others have not, as where these step less often."""
        if self._stepped:
            self._stepped = set()
            for hook in list(self._optimizer_step_post_hooks.values()):
                hook(self, (), {})

    def _before(self, number: int, optimizer: Optimizer, arguments: Any, keywords: Any) -> None:
        if number in self._stepped:
            self.end_step()
        if not self._stepped:
            for hook in list(self._optimizer_step_pre_hooks.values()):
                hook(self, arguments, keywords)

    def _after(self, number: int, *_: Any) -> None:
        self._stepped.add(number)
        if len(self._stepped) == len(self.parts):
            self.end_step()


def _call(view: weakref.ref[SeveralOptimizers], method: str, *arguments: Any) -> None:
    """Call a method of a view that is still alive: the optimizers hold it weakly."""
    living = view()
    if living is not None:
        getattr(living, method)(*arguments)
