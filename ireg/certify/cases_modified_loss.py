"""Certificates of the modified loss, for filters of the gradient under a fixed preconditioner."""

from collections.abc import Callable
from typing import Any

from torch.optim import SGD, Adagrad, Adam, AdamW, NAdam, Optimizer, RMSprop

from ireg.certify import controls
from ireg.certify.certificate import Certificate
from ireg.certify.experiments import OfModifiedLoss
from ireg.certify.flows import ModifiedLoss
from ireg.certify.optimizers import Recipe
from ireg.certify.problems import Problem, log_cosh, quadratics

Controls = dict[str, Callable[[ModifiedLoss], ModifiedLoss]]

# A fixed P is a change of variables, and adds nothing to who derived what. arXiv: 2009.11162, 2101.12176, 2302.00849.
BARRETT = "Barrett & Dherin 2021"
SMITH = "Smith et al. 2021"
MEMORY = "Ghosh et al. 2023"
OURS = "docs/theory.md, section 6"

LONG = 1 - 2**-53
"""ρ of a second moment that does not change: torch wants it below 1."""

SQUARES = (0.5, 2.0)
EPS = 0.1
DWARFING = 1e8
"""Adagrad's root of sums, in units of the other optimizers': so large that no gradient adds to it."""

TWICE: Controls = {"η/2 for η/4": controls.twice}
REMEMBERING: Controls = TWICE | {"L = 0": controls.no_lag}
DIVIDING: Controls = {"ε inside the root": controls.eps_inside}
MINIBATCHES: Controls = {"the mean part alone": controls.mean_part_alone} | TWICE
SPLIT: Controls = MINIBATCHES | {
    "L = 0": controls.no_lag,
    "τ = 0": controls.no_overlap,
    "one factor for both parts": controls.one_factor,
}
NESTEROV: Controls = {"momentum's L and T": controls.heavy_ball}
DECAYING: Controls = {"the other kind of decay": controls.decay_in_gradient}


def halving(highest: float, count: int = 4) -> tuple[float, ...]:
    """Return `count` rates from `highest` down, each half the one before."""
    return tuple(highest / 2**power for power in range(count))


def _case(
    problem: Problem, theory: str, source: str, name: str, setting: str, make: type[Optimizer], highest: float,
    wrong: Controls, *, unit: float = 1.0, held: dict[str, tuple[float, ...]] | None = None, **arguments: Any,
) -> Certificate:  # fmt: skip
    recipe = Recipe(make=make, arguments=lambda rate: {"lr": unit * rate, **arguments}, held=held or {})
    experiment = OfModifiedLoss(recipe=recipe, problem=problem, rates=halving(highest), controls=wrong, time=unit)
    return Certificate(optimizer=name, setting=setting, theory=theory, source=source, experiment=experiment)


def _full(*case: Any, source: str = MEMORY, **arguments: Any) -> Certificate:
    return _case(log_cosh(seed=3), "C + (η_e/4)(1+2L)‖ḡ‖²_P", source, *case, **arguments)


def _orders(*case: Any, source: str = OURS, **arguments: Any) -> Certificate:
    theory = "C + (η_e/4)[(1+2L)‖ḡ‖²_P + (1−τ)Var_P]"
    return _case(quadratics(seed=3), theory, source, *case, **arguments)


_ADAM: dict[str, Any] = {"betas": (0.9, LONG), "eps": EPS, "held": {"exp_avg_sq": SQUARES}}
_RMSPROP: dict[str, Any] = {"alpha": 1.0, "eps": EPS, "held": {"square_avg": SQUARES}}
_LARGEST = {"exp_avg_sq": SQUARES, "max_exp_avg_sq": (1.5, 2.5)}
_CENTRED = {"square_avg": SQUARES, "grad_avg": (0.4, -1.0)}
_SUMS = {"sum": tuple(DWARFING**2 * value for value in SQUARES)}

FULL_BATCH = (
    _full("gd", "full batch", SGD, 2**-7, TWICE, source=BARRETT),
    _full("momentum", "full batch, β = 0.9", SGD, 2**-8 / 10, REMEMBERING, momentum=0.9),
    _full("momentum", "full batch, β = 0.9, dampening 0.5", SGD, 2**-8 / 5,
          REMEMBERING | {"no dampening": controls.no_dampening}, momentum=0.9, dampening=0.5),
    _full("momentum", "full batch, β = 0.9, L2 decay 0.5", SGD, 2**-9 / 10, REMEMBERING, momentum=0.9,
          weight_decay=0.5),
    _full("nesterov", "full batch, β = 0.9", SGD, 2**-8 / 10, REMEMBERING | NESTEROV, source=OURS, momentum=0.9,
          nesterov=True),
    _full("rmsprop", "full batch, P frozen", RMSprop, 2**-7, TWICE | DIVIDING, source=BARRETT, **_RMSPROP),
    _full("rmsprop", "full batch, P frozen, momentum 0.9", RMSprop, 2**-8 / 10, REMEMBERING | DIVIDING, momentum=0.9,
          **_RMSPROP),
    _full("rmsprop", "full batch, P frozen, centered", RMSprop, 2**-7,
          TWICE | DIVIDING | {"not centered": controls.uncorrected_squares}, source=BARRETT, centered=True,
          **(_RMSPROP | {"held": _CENTRED})),
    _full("adagrad", "full batch, P frozen", Adagrad, 2**-7, TWICE | DIVIDING, source=BARRETT, unit=DWARFING,
          eps=EPS * DWARFING, held=_SUMS),
    _full("adam", "full batch, P frozen, β = 0.9", Adam, 2**-8, REMEMBERING | DIVIDING, **_ADAM),
    _full("adam", "full batch, P frozen, β = 0.9, L2 decay 0.5", Adam, 2**-8, REMEMBERING | DIVIDING | DECAYING,
          weight_decay=0.5, **_ADAM),
    _full("adam", "full batch, P frozen, β = 0.9, AMSGrad", Adam, 2**-8,
          REMEMBERING | DIVIDING | {"v for its maximum": controls.uncorrected_squares}, amsgrad=True,
          **(_ADAM | {"held": _LARGEST})),
    _full("adamw", "full batch, P frozen, β = 0.9, decay 0.5", AdamW, 2**-8,
          REMEMBERING | DIVIDING | DECAYING | {"no slower clock": controls.same_clock}, source=OURS, weight_decay=0.5,
          **_ADAM),
    _full("nadam", "full batch, P frozen, β = 0.9", NAdam, 2**-8,
          REMEMBERING | DIVIDING | {"Adam's L": controls.without_look_ahead}, source=OURS, **_ADAM),
)  # fmt: skip

ALL_ORDERS = (
    _orders("sgd", "all orders, m = 4", SGD, 2**-10, MINIBATCHES, source=SMITH),
    _orders("momentum", "all orders, m = 4, β = 0.9", SGD, 2**-12 / 10, SPLIT, momentum=0.9),
    _orders("nesterov", "all orders, m = 4, β = 0.9", SGD, 2**-12 / 10, SPLIT | NESTEROV, momentum=0.9, nesterov=True),
    _orders("rmsprop", "all orders, m = 4, P frozen, momentum 0.9", RMSprop, 2**-12 / 10, SPLIT | DIVIDING,
            momentum=0.9, **_RMSPROP),
    _orders("adagrad", "all orders, m = 4, P frozen", Adagrad, 2**-10, MINIBATCHES | DIVIDING, unit=DWARFING,
            eps=EPS * DWARFING, held=_SUMS),
    _orders("adam", "all orders, m = 4, P frozen, β = 0.9", Adam, 2**-12, SPLIT | DIVIDING, **_ADAM),
    _orders("adamw", "all orders, m = 4, P frozen, β = 0.9, decay 0.5", AdamW, 2**-12, SPLIT | DIVIDING | DECAYING,
            weight_decay=0.5, **_ADAM),
    _orders("nadam", "all orders, m = 4, P frozen, β = 0.9, μ = 0.45", NAdam, 2**-12,
            SPLIT | {"Adam's L and T": controls.without_look_ahead}, momentum_decay=0.0, **_ADAM),
)  # fmt: skip
