"""Why a term has no value at a measurement, in half a sentence.

A term returns None where its quantity does not exist. What makes each term do so stands here once more, as conditions
that give their reason. They are looked at for the terms that returned None, in the order in which the term does.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

from torch.optim import Optimizer

from ireg.core.moments.needs import adds_up, has_parts
from ireg.core.norms import norm
from ireg.core.optimizers import acting
from ireg.core.optimizers.sgd import SGDRule
from ireg.core.parts import tag_of_part
from ireg.core.several import SeveralOptimizers
from ireg.core.snapshot import Snapshot, Term
from ireg.terms import curvature, implicit, margin, noise, own, path, theory
from ireg.terms import norm as norms

Condition = Callable[[Snapshot, str], str | None]
"""`(snapshot, name of the optimizer) -> reason`; None where the condition does not hold."""

NOTHING_RETURNED = "its function returned None"
"""What is known of a function of one's own."""


def left_out(terms: Mapping[str, Term], snapshot: Snapshot, values: Collection[str], name: str) -> dict[str, str]:
    """Return why terms have no value, by tag; also those of parts, where the snapshot has parts.

    Args:
        terms: functions by tag, those that were evaluated.
        snapshot: at which.
        values: the tags that have a value.
        name: the optimizer's class.

    Example:
        >>> import ireg, torch
        >>> model = torch.nn.Linear(1, 1)
        >>> optimizer, loss = torch.optim.Adam(model.parameters()), torch.nn.functional.mse_loss
        >>> batches = [(torch.ones(1, 1), torch.zeros(1, 1))]
        >>> with ireg.snapshot(model, batches, optimizer=optimizer, criterion=loss) as snapshot:
        ...     left_out({"ireg/own": own.own, "norm/l2": norms.l2}, snapshot, {"norm/l2"}, "Adam")
        {'ireg/own': 'Adam has not stepped yet'}
    """
    reasons: dict[str, str] = {}
    for tag, term in terms.items():
        divided = has_parts(term)
        by_name = not divided and any(other.startswith(f"{tag}/") for other in values)  # as norm/layers
        if tag not in values and not by_name:
            reasons[tag] = reason(term, snapshot, name)
        for part, of_part in snapshot.by_part.items() if divided else ():
            if (below := tag_of_part(tag, part)) not in values:
                reasons[below] = reason(term, of_part, name)
    return reasons


def left_out_jointly(
    terms: Mapping[str, Term],
    snapshot: Snapshot,
    parts: Mapping[str, Snapshot],
    values: Collection[str],
    several: SeveralOptimizers,
) -> dict[str, str]:
    """Return why terms of several optimizers have no value, by tag.

    Args:
        terms: functions by tag.
        snapshot: of all weights.
        parts: of each optimizer's weights, by its name.
        values: the tags that have a value.
        several: the optimizers.
    """
    classes = dict(zip(several.names, map(class_of, several.parts), strict=True))
    reasons: dict[str, str] = {}
    for tag, term in terms.items():
        if not has_parts(term):
            reasons |= left_out({tag: term}, snapshot, values, class_of(several))
            continue
        for name, part in parts.items():
            reasons |= left_out({tag_of_part(tag, name): term}, part, values, classes[name])
        if tag not in values:
            lacking = [below for name in parts if (below := tag_of_part(tag, name)) in reasons]
            summed = adds_up(term) and lacking
            reasons[tag] = reasons[lacking[0]] if summed else reason(term, snapshot, class_of(several))
    return reasons


def class_of(optimizer: Optimizer) -> str:
    """Return the name of the class that takes the steps."""
    return type(acting(optimizer)).__name__


def reason(term: Term, snapshot: Snapshot, name: str) -> str:
    """Return why a term returned None.

    Args:
        term: one of `ireg.terms`, with its arguments, or a function of one's own.
        snapshot: at which it did.
        name: the optimizer's class.
    """
    function, arguments = (term.func, term.keywords) if isinstance(term, partial) else (term, {})
    conditions = _of_margins(**arguments) if function is margin.quantile else CONDITIONS.get(function, ())
    found = (condition(snapshot, name) for condition in conditions)
    return next(filter(None, found), NOTHING_RETURNED)


# Of the optimizer.


def _no_rule(snapshot: Snapshot, name: str) -> str | None:
    """Without a rule `OptimizerState.reason` says why; its advice is for terms that raise."""
    optimizer = snapshot.optimizer
    if optimizer.has_rule:
        return None
    said = optimizer.reason.partition("; ")[0]
    return f"no rule is known for {name}" if said == f"{name}: no rule is known for it" else said


def _not_stepped(snapshot: Snapshot, name: str) -> str | None:
    optimizer = snapshot.optimizer
    if optimizer.second_moment is None or snapshot.preconditioner is not None:
        return None
    waiting = [parameter for parameter, steps in optimizer.steps.items() if not steps]
    return f"{name} has not stepped {'' if len(waiting) == len(optimizer.steps) else f'{waiting[0]} '}yet"


def _divides_by_nothing(snapshot: Snapshot, name: str) -> str | None:
    return f"{name} divides by no second moment" if snapshot.optimizer.second_moment is None else None


def _no_edge(snapshot: Snapshot, name: str) -> str | None:
    return _refused(lambda: snapshot.optimizer.edge)


def _never_fades(snapshot: Snapshot, name: str) -> str | None:
    return _refused(lambda: snapshot.optimizer.memory)


def _refused(read: Callable[[], Any]) -> str | None:
    """Return why something cannot be read; None where it can."""
    try:
        read()
    except ValueError as error:
        return str(error).partition("; ")[0]
    return None


def _not_heavy_ball(snapshot: Snapshot, name: str) -> str | None:
    rule = snapshot.optimizer.rule
    if not isinstance(rule, SGDRule):
        return f"it is known for SGD and heavy-ball momentum, not for {name}"
    kind = "Nesterov's momentum" if rule.nesterov else "dampening" if rule.dampening else ""
    return f"it is known for SGD and heavy-ball momentum, not for {kind}" if kind else None


def _not_uniform(snapshot: Snapshot, name: str) -> str | None:
    return None if snapshot.optimizer.uniform else "rates or decays differ between weights or steps"


def _no_last_step(snapshot: Snapshot, name: str) -> str | None:
    buffers = snapshot.optimizer.first_moment
    if buffers is None or snapshot.optimizer.last_step(snapshot.moving, snapshot.preconditioner) is not None:
        return None
    if any(bool(buffers[parameter].any()) for parameter in snapshot.moving):
        return f"a step of {name} holds more than its buffer, and the state does not have it"
    return f"the buffer of {name} is 0, as before its first step"


def _no_buffer(snapshot: Snapshot, name: str) -> str | None:
    return f"{name} keeps no buffer that holds its last step" if snapshot.optimizer.first_moment is None else None


def _decay_does_not_balance(snapshot: Snapshot, name: str) -> str | None:
    optimizer = snapshot.optimizer
    if not optimizer.weight_decay:
        return "there is no weight decay"
    if optimizer.loss_decay and optimizer.second_moment is not None:
        return f"{name} divides its L2 decay, so that a step shrinks no two weights by the same factor"
    if optimizer.decays is not None or optimizer.shares is not None:
        return "weights differ in rate or decay"
    return "the share that decay takes off the weights in a step is not between 0 and 1"


# Of the minibatches and the loss.


def _no_sizes(snapshot: Snapshot, name: str) -> str | None:
    sizes = snapshot.examples
    if sizes is None:
        return "a minibatch does not say how many examples it has"
    return "a minibatch has no examples" if 0 in sizes else None


def _one_minibatch(snapshot: Snapshot, name: str) -> str | None:
    return "there is one minibatch, and nothing varies" if snapshot.num_batches < 2 else None


def _independent(snapshot: Snapshot, name: str) -> str | None:
    return "independent minibatches add no such part" if snapshot.independent else None


def _penalty_shared(snapshot: Snapshot, name: str) -> str | None:
    return "a regularizer that all minibatches share is part of each step" if snapshot.shared is not None else None


def _not_positive(what: str, value: Callable[[Snapshot], Any]) -> Condition:
    """Return the condition that an estimate is not positive, 0-d or with jackknife values after it."""

    def condition(snapshot: Snapshot, name: str) -> str | None:
        estimate = value(snapshot)
        positive = estimate is None or float(estimate if estimate.ndim == 0 else estimate[0]) > 0
        return None if positive else f"the estimate of {what} is not positive"

    return condition


def _always(reason: str) -> Condition:
    """Return what is left where no other condition holds."""
    return lambda snapshot, name: reason


# Of the geometry of Lion and Muon.


def _steepest(condition: Condition) -> Condition:
    """Return a condition of optimizers that descend steepest in a norm, and of no others."""
    return lambda snapshot, name: None if snapshot.optimizer.steepest is None else condition(snapshot, name)


def _dividing(condition: Condition) -> Condition:
    """Return a condition of all other optimizers."""
    return lambda snapshot, name: condition(snapshot, name) if snapshot.optimizer.steepest is None else None


def _not_all_minibatches(snapshot: Snapshot, name: str) -> str | None:
    if not snapshot.is_estimated:
        return None
    return f"of {name} it takes all minibatches of an epoch, without drawn masks: a norm has no estimate from some"


def _penalized(snapshot: Snapshot, name: str) -> str | None:
    return f"of {name} it is not known with a regularizer" if snapshot.objective is not None else None


def _dual_norm(snapshot: Snapshot) -> Any:
    steepest = snapshot.optimizer.steepest
    return None if steepest is None else steepest.penalty(snapshot.moments.mean)


# Of the weights and the curvature.


def _zero_weights(snapshot: Snapshot, name: str) -> str | None:
    return None if float(norm(snapshot.moving)) else "all weights are 0"


def _no_matrix(snapshot: Snapshot, name: str) -> str | None:
    matrices = any(value.ndim > 1 and value.numel() for value in snapshot.params.values())
    return None if matrices else "the model has no weight matrix"


def _is_exact(tag: str) -> Condition:
    def condition(snapshot: Snapshot, name: str) -> str | None:
        return None if snapshot.diagonal is None else f"{tag} is exact here, and has no standard error"

    return condition


def _no_diagonal(snapshot: Snapshot, name: str) -> str | None:
    unknown = "the diagonal of the Hessian is not known exactly for this model and loss"
    return unknown if snapshot.diagonal is None else None


def _flat(snapshot: Snapshot, name: str) -> str | None:
    positive = float((snapshot.steepest_curvatures + snapshot.optimizer.loss_decay).mean()) > 0
    return None if positive else "the mean curvature along the steepest direction is not positive"


def _of_margins(*, among: str, normalized: bool, **_: Any) -> tuple[Condition, ...]:
    """Return the conditions of `ireg.terms.margin.quantile` with these arguments."""

    def no_classifier(snapshot: Snapshot, name: str) -> str | None:
        needed = "margins need criterion=…, outputs (examples, classes) and whole numbers as labels"
        return needed if snapshot.margins is None else None

    def labels_unknown(snapshot: Snapshot, name: str) -> str | None:
        unknown = "which labels are wrong is known in runs of train.py alone"
        return unknown if among != "all" and snapshot.corrupted is None else None

    def no_example(snapshot: Snapshot, name: str) -> str | None:
        corrupted = snapshot.corrupted
        if among == "all" or corrupted is None:
            return None
        chosen = corrupted if among == "corrupted" else ~corrupted
        return None if bool(chosen.any()) else f"no example has a {'wrong' if among == 'corrupted' else 'right'} label"

    return no_classifier, labels_unknown, no_example, *((_no_matrix,) if normalized else ())


def _alike(snapshot: Snapshot, name: str) -> str | None:
    flow = snapshot.mean_flow if snapshot.has_mean_flow else None
    if flow is None or flow.fluctuation is None or not theory.is_rounding(flow.fluctuation, flow.leading):
        return None
    return "F is within rounding: the minibatches are alike"


_OWN = (_no_rule, _not_stepped)
_FLUCTUATION = (_divides_by_nothing, _one_minibatch)
_EDGE = (_no_rule, _not_stepped, _no_edge)
_VARIES = (_no_sizes, _one_minibatch)
_SETTLED = (_no_rule, _never_fades)

CONDITIONS: Mapping[Any, tuple[Condition, ...]] = {
    implicit.rmsprop: (_no_rule, _divides_by_nothing),
    own.own: _OWN,
    own.own_full_batch: (_steepest(_not_all_minibatches), _steepest(_penalized), *_OWN),
    own.own_variance: (*_OWN, _independent),
    theory.strength: _FLUCTUATION,
    theory.alignment: (*_FLUCTUATION, _alike),
    theory.strength_exact: _FLUCTUATION,
    theory.alignment_exact: (*_FLUCTUATION, _always("the estimate of ‖F‖² is not positive, or within rounding")),
    norms.layers: (_no_matrix,),
    norms.product: (_no_matrix,),
    norms.spectral_product: (_no_matrix,),
    path.settled_radial: _SETTLED,
    path.settled_diffusive: _SETTLED,
    path.settled_whole: _SETTLED,
    curvature.preconditioned_sharpness: _OWN,
    curvature.edge_fraction: _EDGE,
    curvature.along_step: _EDGE,
    curvature.noise_edge: (_no_rule, _not_heavy_ball, _not_uniform, _never_fades, _flat),
    curvature.trace_se: (_is_exact("curvature/trace"),),
    curvature.adaptive_se: (_is_exact("curvature/adaptive"),),
    curvature.trace_root: (_no_diagonal,),
    noise.trace: _VARIES,
    noise.square: _VARIES,
    noise.scale: (*_VARIES, _not_positive("‖∇C‖²", noise.square)),
    noise.scale_own: (
        _dividing(_no_rule), _dividing(_not_stepped), *_VARIES, _steepest(_not_all_minibatches),
        _steepest(_not_positive("the gradient's norm", _dual_norm)),
        _dividing(_always("the estimate of ‖∇C‖²_P is not positive")),
    ),
    noise.signal_to_noise: (*_VARIES, _not_positive("tr Σ", noise.trace)),
    noise.share: (_not_positive("ireg/sgd", implicit.sgd),),
    noise.step_se: (_always("noise/step has no error: it is 0, or known exactly"),),
    noise.update_ratio: (*_OWN, _zero_weights, _no_last_step, _penalty_shared),
    noise.angle: (*_OWN, _zero_weights, _no_buffer, _no_last_step),
    noise.equilibrium: (*_OWN, _penalty_shared, _zero_weights, _decay_does_not_balance),
}  # fmt: skip
"""By a term's function, the conditions in which it returns None; those of margins are by their arguments."""
