"""F at rate 0 of steepest descent: its second order in the noise, against all orders.

The weights stand still, and gradients ḡ + sδ_k of three minibatches pass through the filter and the map of a step. The
mean over all orders of three epochs and of a fourth, whose steps count, differs from T(ḡ) by

    F = ½ κ (1/m) Σ_k D²T(ḡ)[sδ_k, sδ_k] + O(s³),

κ what the filter leaves of the covariance, (1−β)/(1+β) (1 − τ_β) of a running mean. Without τ, with twice it, or
without F the error is O(s²). The maps are those of `ireg.certify.steepest`, with a memory that three epochs outlive.

Derived and certified here (docs/theory.md, section 19).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import permutations, product

import torch
from torch import Tensor

from ireg.certify.any_optimizer import network
from ireg.certify.certificate import fit
from ireg.certify.exchange import Order
from ireg.certify.steepest import NORMS, Norm
from ireg.core.frozen_gradients import FrozenGradients
from ireg.core.norms import norm
from ireg.core.optimizers.steepest import Steepest
from ireg.core.params import add_scaled, by_name
from ireg.core.steepest_noise import expanded_noise
from ireg.core.types import Params

MINIBATCHES, PAST = 3, 3
"""How many there are, and the epochs before the one that counts."""
DECAY = 0.2
"""Of the filters: nine steps leave 5e-7 of it."""
NOISE = tuple(0.005 / 2**number for number in range(4))
"""s: the noise of a minibatch as a share of the gradient's norm."""
AS = 3
"""The order of the error."""


def _shortened(of: Norm) -> Norm:
    """Return the same optimizer with a memory that fades within the epochs."""
    mixed, _ = of.betas
    return replace(of, betas=(mixed and 0.7, DECAY))


def certify_fluctuation(name: str) -> Order:
    """Certify the second order of F for one optimizer of the family.

    Args:
        name: of `ireg.certify.steepest.NORMS`.
    """
    of, problem = _shortened(NORMS[name]), network()
    mean = problem.gradient(problem.start)
    generator = torch.Generator().manual_seed(1)
    drawn = torch.randn(MINIBATCHES, sum(value.numel() for value in mean.values()), generator=generator).double()
    drawn = (drawn - drawn.mean(0)) / drawn.norm(dim=1).mean() * norm(mean)
    newest, older = of.filter.first
    apart = newest**2 + older**2 / (1 - DECAY**2)
    wrong = {"without τ": apart / of.filter.noise(MINIBATCHES), "twice": 2.0, "without F": 0.0}
    errors: dict[str, list[float]] = {key: [] for key in ("", *wrong)}
    for size in NOISE:
        rows = [add_scaled(mean, by_name(row, mean), size) for row in drawn]
        found, expanded = _over_all_orders(of, rows), _expanded(of, rows)
        for key, values in errors.items():
            values.append(float((found - wrong.get(key, 1.0) * expanded).norm()))
    slopes = {key: fit(NOISE, values, [0.0] * len(NOISE)).slope for key, values in errors.items()}
    return Order(order=AS, slope=slopes.pop(""), controls=slopes)


def _expanded(of: Norm, rows: list[Params]) -> Tensor:
    """Return F of second order, as the product has it, (p,)."""
    still = {name: torch.zeros_like(value) for name, value in rows[0].items()}
    gradients = FrozenGradients(
        lambda weights, row: torch.stack([(weights[name] * row[name]).sum() for name in row]).sum(), still, rows
    )
    taken = Steepest(
        norm=torch.sum, step_map=of.step_map, filter=of.filter, rates=dict.fromkeys(still, 1.0), smooth=True
    )
    found = expanded_noise(gradients, taken, still)
    assert found is not None
    return found[1]


def _over_all_orders(of: Norm, rows: list[Params]) -> Tensor:
    """Return the mean step over all orders less the step of the mean gradient, (p,)."""
    epochs = product(permutations(range(len(rows))), repeat=PAST + 1)
    orders = torch.tensor([sum(each, ()) for each in epochs])
    (mixed, kept), step_map = of.betas, torch.vmap(of.step_map)
    differences = []
    for name in rows[0]:
        gradients = torch.stack([row[name] for row in rows])
        mean = gradients.mean(0)
        held, total = mean.expand(len(orders), *mean.shape).clone(), torch.zeros_like(mean)
        for step, numbers in enumerate(orders.T):
            taken = gradients[numbers]
            before = held
            held = kept * held + (1 - kept) * taken
            if step < orders.shape[1] - len(rows):
                continue
            # c: the mean that is kept, or it and the newest gradient mixed, before or after it has been kept
            filtered = (
                held if of.ahead and not of.nesterov else (1 - mixed) * taken + mixed * (held if of.ahead else before)
            )
            total += step_map(filtered).mean(0)
        differences.append((total / len(rows) - of.step_map(mean)).flatten())
    return torch.cat(differences)


def all_fluctuations() -> Mapping[str, Order]:
    """Certify all of the family but the linear one, by name."""
    return {name: certify_fluctuation(name) for name in NORMS if name != "momentum"}
