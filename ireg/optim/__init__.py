"""Optimizers that torch does not have."""

from ireg.optim.switch import Switch

__all__ = ["Switch"]
