"""Optimizers that torch does not have, and how rates and decays are given to any."""

from ireg.optim.decay_groups import in_decay_groups
from ireg.optim.muon_adamw import MuonAdamW, hidden_matrices
from ireg.optim.schedule import Schedule
from ireg.optim.switch import Switch

__all__ = ["MuonAdamW", "Schedule", "Switch", "hidden_matrices", "in_decay_groups"]
