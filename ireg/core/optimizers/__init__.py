"""The update rules of torch's optimizers, one file each.

A further rule is a file here with a class that `view.rule` registers, and an import below.
"""

from ireg.core.optimizers import adagrad, adam, nadam, rmsprop, sgd
from ireg.core.optimizers.memory import Memory, MomentumBuffer, SecondMoment, overlap, reciprocal_root
from ireg.core.optimizers.reading import WithoutRule, view
from ireg.core.optimizers.view import RULES, OptimizerView, acting, rule_of

__all__ = [
    "RULES",
    "Memory",
    "MomentumBuffer",
    "OptimizerView",
    "SecondMoment",
    "WithoutRule",
    "acting",
    "adagrad",
    "adam",
    "nadam",
    "overlap",
    "reciprocal_root",
    "rmsprop",
    "rule_of",
    "sgd",
    "view",
]
