"""Another optimizer with the settings of a given one, of other parameters and without a past."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

OF_ITS_OWN = ("state", "param_groups", "step", "_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")
"""Attributes that a twin has of its own: schedulers set `step`, and hooks belong to the training."""


def twins(
    optimizer: Optimizer, moving: Mapping[str, Tensor], groups: Sequence[Mapping[str, Any]]
) -> Callable[[list[nn.Parameter]], Optimizer]:
    """Return what makes twins of an optimizer, of parameters in the order of `moving`.

    Args:
        optimizer: any; it is not changed.
        moving: of its parameters those that have a twin, by name.
        groups: what its parameter groups say, in their order.

    Returns:
        From a list of parameters to an optimizer. It raises a `ValueError` where the optimizer cannot be copied.

    Example:
        >>> import torch
        >>> weight, other = (nn.Parameter(torch.zeros(1)) for _ in range(2))
        >>> of = torch.optim.Adadelta([weight], lr=0.3)
        >>> twin = twins(of, {"weight": weight}, of.param_groups)([other])
        >>> twin.param_groups[0]["params"][0] is other, twin.param_groups[0]["lr"], len(twin.state)
        (True, 0.3, 0)
    """
    originals = list(moving.values())

    def make(parameters: list[nn.Parameter]) -> Optimizer:
        of = {id(original): twin for original, twin in zip(originals, parameters, strict=True)}
        twin: Optimizer = object.__new__(type(optimizer))
        memo: dict[int, Any] = {**of, id(optimizer): twin}
        try:
            for name, value in vars(optimizer).items():
                if name not in OF_ITS_OWN:
                    twin.__dict__[name] = deepcopy(value, memo)
            said = [{key: deepcopy(value, memo) for key, value in group.items() if key != "params"} for group in groups]
        except Exception as error:  # whatever a class of somebody's holds
            raise ValueError(f"{type(optimizer).__name__} cannot be copied: {str(error).splitlines()[0]}") from error
        twin.__dict__.update(state=defaultdict(dict), **{name: OrderedDict() for name in OF_ITS_OWN[3:]})
        held = [[of[id(value)] for value in group["params"] if id(value) in of] for group in optimizer.param_groups]
        twin.param_groups = [{**group, "params": mine} for group, mine in zip(said, held, strict=True) if mine]
        return twin

    return make
