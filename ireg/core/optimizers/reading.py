"""Read an optimizer, its parameter groups and the rates of its steps."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ireg.core.optimizers.rule import RULES, Group, Rule, steps_of
from ireg.core.optimizers.state import OptimizerState
from ireg.core.optimizers.steepest import steepest_of
from ireg.core.optimizers.twin import twins
from ireg.core.params import as_reals, sum_type
from ireg.core.several import SeveralOptimizers
from ireg.core.sharded import whole
from ireg.core.wrappers import rate_of, require_rates

OWN_IN_A_GROUP = {"params", "lr", "initial_lr", "weight_decay", "foreach", "fused", "capturable", "differentiable"}
"""What parameter groups may have of their own."""


def view(
    optimizer: Optimizer,
    moving: Mapping[str, Tensor],
    rates: Sequence[Sequence[float]] | None = None,
    settings: Sequence[Sequence[Mapping[str, Any]]] | None = None,
) -> OptimizerState:
    """Read what an optimizer holds, its rates and its weight decays, without changing it.

    Parameter groups may differ in rate and weight decay. An optimizer whose class has no rule, or whose groups differ
    in more, is read without one.

    Args:
        optimizer: any of torch's.
        moving: the parameters that it steps, by name, as `ireg.core.moving.moving_parameters` finds them.
        rates: of each step of the epoch, the rate of each group; by default the present ones.
        settings: of each step of the epoch, what each group said, as momentum and weight decay; by default what it says
            now. Momentum is that of each step, all else that of the last one.

    Raises:
        ValueError: a parameter that it does not hold, an optimizer that maximizes, rates that are no finite numbers, or
            groups whose rates change by other factors within the epoch.
    """
    optimizer = acting(optimizer)
    groups = _groups(optimizer, moving)
    said = optimizer.param_groups
    if not settings or len(settings[-1]) != len(said):
        settings = None
    else:
        said = _at_step(said, settings[-1])
    if any(group.get("maximize", False) for group in said):
        raise ValueError("maximize=True: the terms are those of descent; minimize the negative loss instead")
    require_rates(optimizer)
    used = [[rate_of(group) for group in said]] if rates is None else rates
    by_group, steps = _rates(used, sorted(set(groups.values())))
    largest = max(by_group.values())
    decays = {name: float(said[group].get("weight_decay", 0.0)) for name, group in groups.items()}
    decay = max(decays.values())
    cls, reason = _rule_for(optimizer, [said[number] for number in sorted(set(groups.values()))])
    at_mean_rates = [{**one, "lr": by_group.get(place, one["lr"])} for place, one in enumerate(said)]
    fields: dict[str, Any] = {
        "lr": largest,
        "weight_decay": decay,
        "moving": tuple(moving),
        "shares": None
        if len(set(by_group.values())) == 1
        else {
            name: torch.full_like(
                real := as_reals(whole(moving[name].detach())), by_group[group] / largest, dtype=sum_type(real)
            )
            for name, group in groups.items()
        },
        "decays": None if len(set(decays.values())) == 1 else decays,
        "rates": steps,
        "make": None if isinstance(optimizer, SeveralOptimizers) else twins(optimizer, moving, at_mean_rates),
    }
    if cls is None:
        of_each = {name: {**said[number], "lr": by_group[number]} for name, number in groups.items()}
        steepest = steepest_of(optimizer, of_each, dict(moving))
        return OptimizerState(rule=None, reason=reason, steepest=steepest, **fields)
    # A copy of the look-up: `optimizer.state` is a defaultdict, and reading it would add entries.
    state = {
        name: {key: whole(value) for key, value in optimizer.state.get(parameter, {}).items()}
        for name, parameter in moving.items()
    }
    group = {**said[min(groups.values())], "lr": largest, "weight_decay": decay}
    taken = steps_of(state)
    fields["lr"] = cls.rate(group, taken)
    known = cls.read(group, taken)
    fields["rules"] = None if settings is None else _rules(cls, optimizer, settings, min(groups.values()), taken)
    held = vars(known.held(group, state, {name: whole(parameter.detach()) for name, parameter in moving.items()}))
    return OptimizerState(rule=known, decoupled=cls.decouples(group), steps=taken, **fields, **held)


def _at_step(groups: Sequence[Group], said: Sequence[Mapping[str, Any]]) -> list[Group]:
    """Return the parameter groups as they were at a step."""
    return [{**group, **then} for group, then in zip(groups, said, strict=True)]


def _rules(
    cls: type[Rule],
    optimizer: Optimizer,
    settings: Sequence[Sequence[Mapping[str, Any]]],
    group: int,
    taken: Mapping[str, int],
) -> tuple[Rule, ...] | None:
    """Return the rule of each step, read off one group.

    Returns:
        None where all steps have the same, or groups have joined.
    """
    groups = optimizer.param_groups
    if any(len(said) != len(groups) for said in settings):
        return None
    rules = tuple(cls.read(_at_step(groups, said)[group], taken) for said in settings)
    return None if all(rule == rules[0] for rule in rules) else rules


def acting(optimizer: Optimizer) -> Optimizer:
    """Return the optimizer that takes the steps, `acting` where one switches between several."""
    return getattr(optimizer, "acting", optimizer)


def _groups(optimizer: Optimizer, moving: Mapping[str, Tensor]) -> dict[str, int]:
    """Return the number of the group that holds each parameter, by name.

    Raises:
        ValueError: no group holds a parameter.
    """
    numbers = {id(held): number for number, group in enumerate(optimizer.param_groups) for held in group["params"]}
    others = [name for name, parameter in moving.items() if id(parameter) not in numbers]
    if others:
        raise ValueError(f"{type(optimizer).__name__} does not hold {', '.join(others)}: name what it moves only")
    return {name: numbers[id(parameter)] for name, parameter in moving.items()}


def _rates(used: Sequence[Sequence[float]], groups: Sequence[int]) -> tuple[dict[int, float], tuple[float, ...] | None]:
    """Return the rate of each group, and the rates of the steps where they differ.

    Returns:
        A group's rate is the mean over the steps, or the one rate that all of them had. The steps' rates are those of
        the group with the largest mean; None where all steps have the same.

    Raises:
        ValueError: a rate is no finite number of at least 0, or the groups' rates change by different factors.
    """
    first = {group: float(used[0][group]) for group in groups}
    given = sorted({float(step[group]) for step in used for group in groups})
    if not all(math.isfinite(rate) and rate >= 0 for rate in given):
        raise ValueError(f"learning rates {given}: must be finite numbers of at least 0")
    if all(float(step[group]) == first[group] for step in used for group in groups):
        return first, None
    means = {group: sum(float(step[group]) for step in used) / len(used) for group in groups}
    lead = max(means, key=lambda group: means[group])
    for step in used:
        for group in groups:
            # Products and no quotients, as a rate may be 0. Schedulers round, so equal factors agree to 1e-6 only.
            if not math.isclose(step[group] * means[lead], means[group] * step[lead], rel_tol=1e-6):
                raise ValueError(
                    "the rates of the parameter groups change by different factors within the epoch: no modified loss "
                    "is known for that; let one scheduler scale all groups alike"
                )
    return means, tuple(float(step[lead]) for step in used)


def _rule_for(optimizer: Optimizer, groups: Sequence[Group]) -> tuple[type[Rule] | None, str]:
    """Return the rule of an optimizer, or None and why there is none.

    A rule needs groups that do not differ in what it reads.
    """
    name = type(optimizer).__name__
    if type(optimizer) not in RULES:
        return None, getattr(optimizer, "reason", f"{name}: no rule is known for it")
    keys = set().union(*groups) - OWN_IN_A_GROUP
    differ = sorted(key for key in keys if any(group.get(key) != groups[0].get(key) for group in groups))
    if differ:
        return None, f"{name}: its parameter groups differ in {', '.join(differ)}, for which no modified loss is known"
    return RULES[type(optimizer)], ""
