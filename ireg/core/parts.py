"""Parts of a network, of which terms are measured: its layers, or the optimizer's parameter groups."""

from collections.abc import Iterable, Mapping

from torch import Tensor
from torch.optim import Optimizer

from ireg.core.moments import STANDARD_ERROR

LAYER, GROUP = "layer", "group"
PARTS = (LAYER, GROUP)

PARAMETRIZED = ".parametrizations."
"""What torch puts between a layer and the tensors from which it computes a weight."""

Parts = dict[str, tuple[str, ...]]
"""Names of parameters, by the part that holds them."""


def require_parts(by: str | None) -> None:
    """Check that parts are one of `PARTS`, or None.

    Raises:
        ValueError: they are not.
    """
    if by is not None and by not in PARTS:
        raise ValueError(f"by={by!r}: must be one of {', '.join(PARTS)}, or None for the whole network alone")


def tag_of_part(tag: str, part: str) -> str:
    """Return the tag of a term of one part.

    Example:
        >>> tag_of_part("noise/scale", "encoder.0")
        'noise/scale/encoder.0'
    """
    return f"{tag}/{part}"


def parts_of(by: str | None, moving: Iterable[str], optimizer: Optimizer, named: Mapping[str, Tensor]) -> Parts | None:
    """Divide the parameters that move into parts.

    A layer is the module that holds the parameter itself, or what it is computed from; its name is the module's. A
    parameter of the model itself is a part of its own. A parameter that several layers share belongs to the one under
    whose name it is known. A group is one of the optimizer's parameter groups; its name is its number.

    Args:
        by: `layer` or `group`; None for no parts.
        moving: names of the parameters that move.
        optimizer: which holds them.
        named: all parameters by name.

    Raises:
        ValueError: `by` is unknown, or the tag of a layer is that of another one's standard error.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.ReLU(), torch.nn.Linear(1, 1))
        >>> optimizer, named = torch.optim.SGD(model.parameters(), lr=0.1), dict(model.named_parameters())
        >>> parts_of("layer", named, optimizer, named)
        {'0': ('0.weight', '0.bias'), '2': ('2.weight', '2.bias')}
    """
    require_parts(by)
    if by is None:
        return None
    numbers = {id(one): str(number) for number, group in enumerate(optimizer.param_groups) for one in group["params"]}
    parts: Parts = {}
    for name in moving:
        part = _layer_of(name) if by == LAYER else numbers[id(named[name])]
        parts[part] = (*parts.get(part, ()), name)
    for part in parts:
        if part + STANDARD_ERROR in parts:
            raise ValueError(
                f"by={by!r}: layer {part + STANDARD_ERROR!r} has the tags of the standard errors of layer {part!r}; "
                f"rename one of them, or choose by={GROUP!r}"
            )
    return parts


def _layer_of(name: str) -> str:
    layer, parametrized, weight = f".{name}".partition(PARAMETRIZED)
    if parametrized:
        return layer[1:] or weight.partition(".")[0]
    return name.rpartition(".")[0] or name
