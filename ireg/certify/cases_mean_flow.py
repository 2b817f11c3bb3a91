"""Certificates of the mean flow, its second moment in motion, on full batches and with minibatches."""

from collections.abc import Callable
from typing import Any

from torch.optim import SGD, Adam, AdamW, NAdam, Optimizer, RMSprop

from ireg.certify import controls
from ireg.certify.cases_modified_loss import halving
from ireg.certify.certificate import CANCELLING, TWO_PARAMETERS, Certificate, Criterion
from ireg.certify.experiments import OfMeanFlow, Sample
from ireg.certify.flows import MeanFlowParts
from ireg.certify.optimizers import Recipe
from ireg.certify.problems import Problem, log_cosh, quadratics, quadratics_and_log_cosh

Controls = dict[str, Callable[[MeanFlowParts], MeanFlowParts]]
Parts = dict[str, tuple[float, float, float]]

CATTANEO = "Cattaneo et al. 2024"  # arXiv:2309.00079, with ε outside of the root
OURS = "docs/theory.md, section 7"

NO_M: Parts = {"M left out": (0.0, 1.0, 1.0)}
NO_V: Parts = {"V left out": (1.0, 0.0, 1.0)}
NO_F: Parts = {"F left out": (1.0, 1.0, 0.0)}
TWICE: Parts = {"η/2 for η/4": (2.0, 2.0, 1.0)}
F_TWICE: Parts = {"F twice": (1.0, 1.0, 2.0)}
SWAPPED: Controls = {"β and ρ swapped": controls.swapped}
LOOK_AHEAD: Controls = {"Adam's momentum": controls.without_look_ahead_parts}
EPS_INSIDE: Controls = {"ε inside the root": controls.eps_inside_of_mean_flow}

FADING = (0.1, 0.05, 0.025)
"""Values of 1 − ρ, with η = (1 − ρ)²/5: all of V and F is of first order in 1 − ρ then."""


_ONE_BATCH: Problem = log_cosh(seed=3)
_FOUR: Problem = quadratics(seed=3)
_FADING_FOUR: Problem = quadratics(seed=4)
_SIX: Problem = quadratics_and_log_cosh(seed=3)


def _full(
    name: str,
    setting: str,
    make: type[Optimizer],
    highest: float,
    wrong: Controls,
    source: str = CATTANEO,
    **arguments: Any,
) -> Certificate:
    experiment = OfMeanFlow(
        recipe=Recipe(make=make, arguments=lambda rate: {"lr": rate, **arguments}),
        problem=lambda rate: _ONE_BATCH, rates=halving(highest), parts=NO_M | NO_V | TWICE, controls=wrong, time=0.5,
        leading=("M", "V"),
    )  # fmt: skip
    return Certificate(
        optimizer=name, setting=f"full batch, {setting}", theory="u + M + V", source=source, experiment=experiment
    )


def _orders(name: str, setting: str, highest: float, wrong: Controls, **arguments: Any) -> Certificate:
    experiment = OfMeanFlow(
        recipe=Recipe(make=SGD, arguments=lambda rate: {"lr": rate, **arguments}),
        problem=lambda rate: _FOUR, rates=halving(highest), parts={"η/2 for η/4": (2.0, 1.0, 1.0)}, controls=wrong,
        leading=("M",),
    )  # fmt: skip
    return Certificate(
        optimizer=name, setting=f"all orders, m = 4{setting}", theory="u + M", source=OURS, experiment=experiment
    )


def _sampled(
    name: str, setting: str, make: type[Optimizer], arguments: Callable[[float], dict[str, Any]], parts: Parts,
    *, wrong: Controls | None = None, problem: Callable[[float], Problem] = lambda _: _FADING_FOUR, columns: int = 384,
    leading: tuple[str, ...] = ("V", "F"), criterion: Criterion = TWO_PARAMETERS,
) -> Certificate:  # fmt: skip
    experiment = OfMeanFlow(
        recipe=Recipe(make=make, arguments=lambda fading: {"lr": fading**2 / 5, **arguments(fading)}),
        problem=problem, rates=FADING, parts=parts, controls=wrong or {}, sample=Sample(columns=columns),
        abscissa="1 − ρ", free=False, leading=leading, criterion=criterion,
    )  # fmt: skip
    return Certificate(
        optimizer=name, setting=f"sampled orders, {setting}", theory="u + M + V + F", source=OURS, experiment=experiment
    )


def _adam(beta: float, eps: float = 0.3, **arguments: Any) -> Callable[[float], dict[str, Any]]:
    return lambda fading: {"betas": (beta, 1 - fading), "eps": eps, **arguments}


def _rmsprop(eps: float = 0.3, **arguments: Any) -> Callable[[float], dict[str, Any]]:
    return lambda fading: {"alpha": 1 - fading, "eps": eps, **arguments}


MEAN_FLOW = (
    _orders("sgd", "", 2**-8, {}),
    _orders("momentum", ", β = 0.9", 2**-10 / 10, {}, momentum=0.9),
    _orders("nesterov", ", β = 0.9", 2**-10 / 10, {"momentum's L and T": controls.heavy_ball_parts}, momentum=0.9,
            nesterov=True),
    _full("rmsprop", "ρ = 0.9, ε = 0.1", RMSprop, 2**-9, EPS_INSIDE, alpha=0.9, eps=0.1),
    _full("rmsprop", "ρ = 0.9, ε = 0.1, momentum 0.5", RMSprop, 2**-10, {}, source=OURS, alpha=0.9,
          eps=0.1, momentum=0.5),
    _full("adam", "(0.9, 0.95), ε = 0.3", Adam, 2**-10, SWAPPED | EPS_INSIDE, betas=(0.9, 0.95), eps=0.3),
    _full("adam", "(0.5, 0.9), ε = 0.1", Adam, 2**-9, SWAPPED | EPS_INSIDE, betas=(0.5, 0.9), eps=0.1),
    _full("adam", "(0.5, 0.9), ε = 0.1, L2 decay 0.5", Adam, 2**-9, SWAPPED, source=OURS, betas=(0.5, 0.9), eps=0.1,
          weight_decay=0.5),
    _full("adamw", "(0.5, 0.9), ε = 0.1, decay 0.5", AdamW, 2**-9, SWAPPED, source=OURS, betas=(0.5, 0.9), eps=0.1,
          weight_decay=0.5),
    _full("nadam", "(0.5, 0.9), ε = 0.1", NAdam, 2**-9, SWAPPED | LOOK_AHEAD, source=OURS, betas=(0.5, 0.9), eps=0.1),
    _sampled("rmsprop", "m = 4", RMSprop, _rmsprop(), NO_V | NO_F | F_TWICE,
             wrong={"ḡ² for s̄ in u": controls.squares_of_mean}),
    _sampled("rmsprop", "m = 4, momentum 0.5", RMSprop, _rmsprop(momentum=0.5), NO_V | NO_F | F_TWICE),
    _sampled("rmsprop", "m = 6, p = 3, with log cosh", RMSprop, _rmsprop(0.1), NO_V | NO_F | F_TWICE,
             problem=lambda fading: _SIX, columns=800),
    _sampled("rmsprop", "m = 0.8/(1 − ρ)", RMSprop, _rmsprop(), NO_V | NO_F | F_TWICE,
             problem=lambda fading: quadratics(seed=4, copies=round(0.2 / fading)), columns=384),
    _sampled("adam", "m = 4, β = 0.5", Adam, _adam(0.5), NO_V | NO_F | F_TWICE, wrong=SWAPPED),
    _sampled("adam", "m = 4, β = 0.9", Adam, _adam(0.9), NO_V | NO_F, problem=lambda fading: _FOUR,
             criterion=CANCELLING),
    _sampled("adam", "m = 4, 1 − β = 2(1 − ρ)", Adam,
             lambda fading: {"betas": (1 - 2 * fading, 1 - fading), "eps": 0.3}, NO_M | NO_V,
             leading=("M", "V", "F")),
    _sampled("adam", "m = 4, β = 0.5, L2 decay 0.5", Adam, _adam(0.5, weight_decay=0.5), NO_V | NO_F),
    _sampled("adamw", "m = 4, β = 0.5, decay 0.5", AdamW, _adam(0.5, weight_decay=0.5), NO_V | NO_F),
    _sampled("nadam", "m = 4, β = 0.9, μ = 0.45", NAdam, _adam(0.9, momentum_decay=0.0), NO_V | NO_F | F_TWICE,
             wrong=LOOK_AHEAD),
)  # fmt: skip
