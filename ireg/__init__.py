"""Measure the implicit regularization of stochastic optimizers."""

__version__ = "0.1.0"
