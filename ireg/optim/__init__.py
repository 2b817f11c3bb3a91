"""Optimizers of our own."""

from ireg.optim.switch import Switch

__all__ = ["Switch"]
