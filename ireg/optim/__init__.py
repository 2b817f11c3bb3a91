"""Optimizers that torch does not have, and how rates and decays are given to any."""

from ireg.optim.decay_groups import in_decay_groups
from ireg.optim.schedule import Schedule
from ireg.optim.switch import Switch

__all__ = ["Schedule", "Switch", "in_decay_groups"]
