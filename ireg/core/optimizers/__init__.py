"""The update rules of optimizers, one file each: every file of this folder is imported."""

from importlib import import_module
from pkgutil import iter_modules

from ireg.core.optimizers.memory import Memory, MomentumBuffer, SecondMoment, overlap, reciprocal_root
from ireg.core.optimizers.reading import acting, view
from ireg.core.optimizers.rule import RULES, Held, Rule, register, rule_of, slot
from ireg.core.optimizers.state import OptimizerState

__all__ = [
    "RULES",
    "Held",
    "Memory",
    "MomentumBuffer",
    "OptimizerState",
    "Rule",
    "SecondMoment",
    "acting",
    "overlap",
    "reciprocal_root",
    "register",
    "rule_of",
    "slot",
    "view",
]


def load_rules() -> None:
    """Import each file of this folder, by which its rules are registered."""
    for module in iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")


load_rules()
