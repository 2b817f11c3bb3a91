"""Make an optimizer again: of the same class, with the settings of its parameter groups and no memory."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from ireg.core.ramp import Make, NoFlowError


def made_again(
    optimizer: Optimizer, groups: Sequence[Mapping[str, Any]], places: Sequence[int], rates: Mapping[int, float]
) -> Make:
    """Return what makes an optimizer of the same class and settings, of other parameters.

    It is made by its class, with the arguments that its groups or its attributes of the same names hold.

    Args:
        optimizer: any; neither it nor its state is touched.
        groups: what each of its groups says.
        places: for each parameter, the number of its group.
        rates: of each group.

    Returns:
        From the parameters to the optimizer. It raises a `NoFlowError` where the class cannot be made so.

    Example:
        >>> import torch
        >>> old = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1, momentum=0.9)
        >>> new = made_again(old, old.param_groups, [0], {0: 0.2})([nn.Parameter(torch.ones(2))])
        >>> type(new).__name__, new.param_groups[0]["momentum"], new.param_groups[0]["lr"]
        ('SGD', 0.9, 0.2)
    """
    cls: Any = type(optimizer)
    defaults = dict(optimizer.defaults)
    settings = {
        place: {**{key: groups[place][key] for key in defaults if key in groups[place]}, "lr": rates[place]}
        for place in sorted(set(places))
    }
    arguments = {
        name: defaults.get(name, getattr(optimizer, name, None))
        for name in list(inspect.signature(cls).parameters)[1:]
        if name in defaults or name in vars(optimizer)
    }

    def make(parameters: list[nn.Parameter]) -> Optimizer:
        held: dict[int, list[nn.Parameter]] = {place: [] for place in settings}
        for parameter, place in zip(parameters, places, strict=True):
            held[place].append(parameter)
        given = [{**settings[place], "params": values} for place, values in held.items()]
        try:
            made: Optimizer = cls(given, **arguments)
        except Exception as error:  # whatever a class of somebody's raises
            line = " ".join(str(error).split())
            raise NoFlowError(f"{cls.__name__} cannot be made again from its groups' settings: {line}") from error
        return made

    return make
