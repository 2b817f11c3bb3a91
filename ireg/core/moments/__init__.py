"""Moments of the minibatch gradients, and the methods that compute them."""

from ireg.core.moments.compute import choose_method, gradient_moments, sampled_gradients
from ireg.core.moments.draws import DrawnMoments, drawn_moments
from ireg.core.moments.independent import IndependentMoments
from ireg.core.moments.kinds import NotServedError, kind
from ireg.core.moments.methods import METHODS
from ireg.core.moments.sample import SMALLEST, STANDARD_ERROR, SampledGradients, standard_error
from ireg.core.moments.streamed import Foreseen
from ireg.core.moments.sums import GradientMoments, Observer

__all__ = [
    "METHODS",
    "SMALLEST",
    "STANDARD_ERROR",
    "DrawnMoments",
    "Foreseen",
    "GradientMoments",
    "IndependentMoments",
    "NotServedError",
    "Observer",
    "SampledGradients",
    "choose_method",
    "drawn_moments",
    "gradient_moments",
    "kind",
    "sampled_gradients",
    "standard_error",
]
