"""The table of optimizers that more than one place must know of, as plain data.

Figures, the switch, a run's choice of kernel, the check of a configuration, and the certificates read it. It imports
no torch. An optimizer without an entry trains and is measured all the same, see CONTRIBUTING.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pkgutil import resolve_name
from typing import Any, NamedTuple


class EdgeSetting(NamedTuple):
    """A setting at which the edge of stability is certified.

    Attributes:
        arguments: of the class; as `weight_decay` ηλ, the share of a weight that a step takes off.
        wrong: edges that must be rejected, in units of 1/η, by what is wrong with them.
    """

    arguments: Mapping[str, Any]
    wrong: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class KnownOptimizer:
    """One optimizer, by its name in conf/optimizer.

    Attributes:
        target: import path of its class; of pytorch-optimizer, which is an extra, that of the package.
        colour: in all figures.
        arguments: those of conf/optimizer where torch's defaults are others.
        rule: the file in `ireg/core/optimizers` with its rule; None without one.
        divides: whether it divides by a root of second moments.
        first: whether `optimizer=switch` and `ireg basins` can begin with it.
        second: whether `optimizer=switch` can switch to it.
        rounded_otherwise: whether its kernel for many tensors rounds otherwise than a loop over the parameters.
        matrices_alone: whether its class refuses weights that are no matrices.
        example: arguments with which the growth of the norm is certified; None where another entry is the same rule.
        edges: where its edge of stability is certified, by what is added to the name.
    """

    target: str
    colour: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    rule: str | None = None
    divides: bool = False
    first: bool = False
    second: bool = False
    rounded_otherwise: bool = False
    matrices_alone: bool = False
    example: Mapping[str, Any] | None = None
    edges: Mapping[str, EdgeSetting] = field(default_factory=dict)

    def load(self) -> Any:
        """Import the optimizer's class and return it."""
        return resolve_name(self.target)


_PLAIN = {"2/η": 2.0}
_MOMENTUM = {"momentum": 0.9}

# In the order of legends. Okabe and Ito's palette, which the colour-blind can distinguish; wine stands for its yellow,
# which is too light for lines.
OPTIMIZERS: Mapping[str, KnownOptimizer] = {
    "sgd": KnownOptimizer(
        target="torch.optim.SGD", colour="#0072B2", rule="sgd", first=True, second=True,
        example={"weight_decay": 0.1},
        edges={
            "": EdgeSetting({}, {"1/η": 1.0}),
            ", weight decay": EdgeSetting({"weight_decay": 0.5}, {"decay left out": 2.0}),
        },
    ),
    "momentum": KnownOptimizer(
        target="torch.optim.SGD", colour="#56B4E9", arguments=_MOMENTUM, rule="sgd", first=True, second=True,
        example={"momentum": 0.9, "dampening": 0.5},
        edges={
            "": EdgeSetting(_MOMENTUM, _PLAIN),
            ", dampened": EdgeSetting({"momentum": 0.9, "dampening": 0.5}, {**_PLAIN, "dampening left out": 3.8}),
        },
    ),
    "nesterov": KnownOptimizer(
        target="torch.optim.SGD", colour="#009E73", arguments={**_MOMENTUM, "nesterov": True}, rule="sgd", first=True,
        second=True, example={"momentum": 0.9, "nesterov": True},
        edges={"": EdgeSetting({"momentum": 0.9, "nesterov": True}, {**_PLAIN, "momentum's": 3.8})},
    ),
    "gd": KnownOptimizer(target="torch.optim.SGD", colour="#000000", rule="sgd"),
    "rmsprop": KnownOptimizer(
        target="torch.optim.RMSprop", colour="#D55E00", rule="rmsprop", divides=True, first=True,
        example={"momentum": 0.5, "eps": 1e-3},
        edges={"": EdgeSetting({}, {"1/η": 1.0}), ", momentum": EdgeSetting(_MOMENTUM, _PLAIN)},
    ),
    "adagrad": KnownOptimizer(
        target="torch.optim.Adagrad", colour="#E69F00", rule="adagrad", divides=True, first=True, example={},
        edges={"": EdgeSetting({}, {"1/η": 1.0})},
    ),
    "adam": KnownOptimizer(
        target="torch.optim.Adam", colour="#882255", rule="adam", divides=True, first=True, example={"eps": 1e-3},
        edges={"": EdgeSetting({}, _PLAIN)},
    ),
    "adamw": KnownOptimizer(
        target="torch.optim.AdamW", colour="#CC79A7", rule="adam", divides=True, first=True,
        example={"weight_decay": 0.3, "eps": 1e-3},
        edges={"": EdgeSetting({"weight_decay": 0.5}, {**_PLAIN, "decay left out": 38.0})},
    ),
    "nadam": KnownOptimizer(
        target="torch.optim.NAdam", colour="#661100", rule="nadam", divides=True, first=True, rounded_otherwise=True,
        example={"eps": 1e-3}, edges={"": EdgeSetting({"momentum_decay": 0.0}, {**_PLAIN, "adam's": 38.0})},
    ),
    "adafactor": KnownOptimizer(
        target="torch.optim.Adafactor", colour="#117733", divides=True, rounded_otherwise=True
    ),
    "muon": KnownOptimizer(target="torch.optim.Muon", colour="#7B61A8", matrices_alone=True),
    "muon_adamw": KnownOptimizer(target="ireg.optim.MuonAdamW", colour="#3B4CC0"),
    "lion": KnownOptimizer(target="pytorch_optimizer.Lion", colour="#6B7A00"),
    "signum": KnownOptimizer(target="pytorch_optimizer.SignSGD", colour="#C51B7D"),
    "switch": KnownOptimizer(target="ireg.optim.Switch", colour="#8B6F47"),
}  # fmt: skip
"""By name."""

WITH_RULE = {name: entry for name, entry in OPTIMIZERS.items() if entry.rule is not None}
"""Those whose memory is known."""
