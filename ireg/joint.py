"""Terms of several optimizers that step together: each one's, and their sums."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from ireg.core.moments.needs import Need, adds_up, has_parts, union_of_needs
from ireg.core.optimizers import view
from ireg.core.parts import parts_of
from ireg.core.several import SeveralOptimizers
from ireg.core.snapshot import Snapshot, Term
from ireg.options import Epoch

Evaluate = Callable[[Mapping[str, Term], Snapshot], dict[str, float]]


def of_each(
    snapshot: Snapshot,
    optimizer: SeveralOptimizers,
    epoch: Epoch,
    module: nn.Module,
    terms: Mapping[str, Term],
    by: str | None,
) -> dict[str, Snapshot]:
    """Return a snapshot of each optimizer's weights, by its name, all from one pass.

    Samples, drawn masks and independent minibatches of them take a pass each.

    Args:
        snapshot: of all weights.
        optimizer: all of them.
        epoch: what was trained on.
        module: whose parameters they are.
        terms: that are measured of each.
        by: into which parts each one's weights are divided; None for none.
    """
    named = dict(module.named_parameters())
    taken: dict[str, Snapshot] = {}
    for name, part, place in zip(optimizer.names, optimizer.parts, optimizer.places(), strict=True):
        own = {id(value) for group in part.param_groups for value in group["params"]}
        moving = {key: named[key] for key in snapshot.optimizer.moving if id(named[key]) in own}
        if not moving:
            continue
        rates = None if epoch.rates is None else [step[place] for step in epoch.rates]
        settings = None if epoch.settings is None else [step[place] for step in epoch.settings]
        seen = view(part, moving, rates, settings)
        needs = union_of_needs(terms.values(), seen, snapshot.sampling)
        parts = parts_of(by, moving, part, named)
        if parts is not None and needs:
            needs |= Need.BY_PARAMETER | Need.MEAN
        taken[name] = replace(snapshot, optimizer=seen, needs=needs, parts=parts)
    if snapshot.drawn or snapshot.has_errors:
        return taken
    needs = Need(0)
    for part_taken in taken.values():
        needs |= part_taken.needs
    if needs:
        if Need.SQ_NORMS in needs:
            needs |= Need.BY_PARAMETER | Need.MEAN
        moments = replace(snapshot, needs=snapshot.needs | needs).moments
        snapshot.__dict__["moments"] = moments
        for part_taken in taken.values():
            part_taken.__dict__["moments"] = moments.of(part_taken.moving)
    return taken


def summed(term: Term, parts: Mapping[str, Snapshot]) -> Term | None:
    """Return the sum of a term over the optimizers as a term; None where one has none.

    Args:
        term: quadratic in the gradient, so that blocks add up.
        parts: a snapshot of each optimizer's weights.
    """
    values = [term(part) for part in parts.values()]
    if any(not isinstance(value, Tensor) for value in values):
        return None

    def total(snapshot: Snapshot) -> Tensor:
        return torch.stack([value for value in values if isinstance(value, Tensor)]).sum(0)

    total.needs, total.estimable = lambda seen: Need.MEAN, True  # type: ignore[attr-defined]
    return total


def evaluate_jointly(
    terms: Mapping[str, Term],
    snapshot: Snapshot,
    parts: Mapping[str, Snapshot],
    evaluate: Evaluate,
    begins: Callable[[str], None],
) -> dict[str, float]:
    """Compute terms of all optimizers together, of each under `<tag>/<name>`, and of its parts under that.

    Args:
        terms: function by tag.
        snapshot: of all weights: for terms that are no sums.
        parts: of each optimizer's weights.
        evaluate: computes terms at a snapshot.
        begins: called with each tag before its term is computed.
    """
    values: dict[str, float] = {}
    for tag, term in terms.items():
        begins(tag)
        if not has_parts(term):
            values |= evaluate({tag: term}, snapshot)
            continue
        total = summed(term, parts) if adds_up(term) else term
        if total is not None:
            values |= evaluate({tag: total}, snapshot)
        for name, part in parts.items():
            values |= evaluate({f"{tag}/{name}": term}, part)
    return values
