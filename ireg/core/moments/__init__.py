"""Moments of the minibatch gradients, and the methods that compute them."""

from ireg.core.moments.compute import choose_method, gradient_moments
from ireg.core.moments.methods import METHODS
from ireg.core.moments.sums import GradientMoments, Observer

__all__ = ["METHODS", "GradientMoments", "Observer", "choose_method", "gradient_moments"]
