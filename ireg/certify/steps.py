"""What an optimizer holds and remembers, by torch's own steps: the judge of `ireg.core.optimizers`.

Nothing of the package is used here. A gradient of 1, long after the start, takes η a_n off the weight n steps later.
Steps without gradient empty the buffers. Second moments are computed again from the gradients of all steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adagrad, Optimizer, RMSprop

STEPS = 180
"""Steps after which nothing is left of a gradient: 0.8¹⁸⁰ is below rounding."""
PAST = 500
"""The same of a square: 0.9⁵⁰⁰."""
LATE = 2.0**67
"""A number of steps past all bias correction."""
_FROZEN = 1e100
"""An ε that dwarfs the second moment: P = 1/ε."""
_HELD = 1 - 2**-53
"""ρ of a second moment that does not change."""
_SLOTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "square_avg", "grad_avg", "momentum_buffer", "sum")
"""Of torch's states; each optimizer takes its own."""


@dataclass(frozen=True, kw_only=True)
class Filter:
    """How an optimizer weighs past gradients, measured on torch's own steps.

    Attributes:
        weights: η a_n, n = 0, 1, 2, ….
    """

    weights: Tensor

    @property
    def rate(self) -> float:
        """η_e = η Σ a_n."""
        return float(self.weights.sum())

    @property
    def shares(self) -> Tensor:
        """a_n / Σ a_n."""
        return self.weights / self.weights.sum()

    @property
    def lag(self) -> float:
        """L = Σ n a_n / Σ a_n."""
        return float(self.shares @ torch.arange(len(self.weights), dtype=torch.float64))

    def pair(self, rates: Sequence[float]) -> tuple[float, float]:
        """Return the coefficients of ‖ḡ‖² and of the variance for rates that change, the last of which stays.

        Gradient t moves the weights by c_t in the long run, and by what is taken of it before step s. With T = Σ c_t
        the mean's part is (1/2T) [T²/2 − Σ_t c_t (what is taken before t of the epoch's, less what is left of earlier
        ones)], and the variance's (1/2(m−1)T) Σ_t c_t (what is taken before t of the epoch's).

        Args:
            rates: of the m steps.
        """
        m, count = len(rates), len(self.weights)
        mean = sum(rates) / m
        factors = torch.tensor([*rates, *[rates[-1]] * count], dtype=torch.float64) / mean
        # By step, and by gradient: `count` of them are from before the epoch.
        ages = torch.arange(m + count)[:, None] - torch.arange(-count, m)
        weights = torch.where((ages >= 0) & (ages < count), self.weights[ages.clamp(0, count - 1)], 0.0)
        weights = weights * factors[:, None]
        moved, total = weights[:, count:].sum(0), float(weights[:, count:].sum())
        taken = torch.stack([weights[:step, count:].sum(0)[:step].sum() for step in range(m)])
        left = torch.stack([weights[step:, :count].sum() for step in range(m)])
        of_mean = (total**2 / 2 - float(moved @ (taken - left))) / (2 * total)
        return of_mean, float(moved @ taken) / (2 * max(m - 1, 1) * total)

    @property
    def alternating(self) -> float:
        """η Σ (−1)ⁿ a_n."""
        return float(self.weights[::2].sum() - self.weights[1::2].sum())

    def overlap(self, num_batches: int) -> float:
        """Compute τ = 2/(m(m−1)) Σ_{d=1}^{m−1} (m−d) T_d, T_d the share of what is at least d steps old.

        Args:
            num_batches: m, at least 2.
        """
        m = num_batches
        return sum((m - d) * 2 / (m * (m - 1)) * float(self.shares[d:].sum()) for d in range(1, m))


def fresh(
    optimizer: Optimizer, group: dict[str, Any], weight: Tensor, state: dict[str, Tensor], **changed: Any
) -> Optimizer:
    """Make another optimizer of the class, without weight decay, for one weight with its own state.

    Args:
        optimizer: of which class.
        group: the settings.
        weight: the one parameter.
        state: torch's state of it, by slot.
        changed: settings that differ from the group's.
    """
    made = type(optimizer)([{**group, "params": [weight], "weight_decay": 0.0, **changed}])  # type: ignore[call-arg]
    made.state[weight].update(state)
    return made


def nadams_decay(group: dict[str, Any], steps: int) -> dict[str, float]:
    """Return the `momentum_decay` with which NAdam has at the count `LATE` the μ of its next step.

    Args:
        group: the optimizer's settings.
        steps: how many it has taken.

    Returns:
        The setting by its name; nothing for another optimizer.
    """
    return {"momentum_decay": group["momentum_decay"] * (steps + 1) / LATE} if "momentum_decay" in group else {}


def remembered(optimizer: Optimizer, rate: float, steps: int) -> Filter:
    """Measure the filter of an optimizer whose P is held.

    Args:
        optimizer: of which class, with the first group's settings.
        rate: η.
        steps: how many it has taken.

    Returns:
        η a_n for n below `PAST`; 0 from `STEPS` on.
    """
    group = optimizer.param_groups[0]
    weight = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    state = {slot: torch.zeros(1, dtype=torch.float64) for slot in _SLOTS}
    # NAdam divides by 1 less the product of all μ, which long after the start is 0.
    state |= {"step": torch.tensor(LATE), "mu_product": torch.tensor(0.0)}
    scale = _FROZEN if "eps" in group else 1.0
    # With ε alone below the gradient, the rate ηε makes P = 1.
    changed: dict[str, Any] = {"lr": rate * scale} | nadams_decay(group, steps)
    if "eps" in group:
        changed["eps"] = _FROZEN
    if isinstance(optimizer, Adagrad):
        changed["lr_decay"] = 0.0
    made, places = fresh(optimizer, group, weight, state, **changed), [0.0]
    for step in range(STEPS):
        weight.grad = torch.full_like(weight, float(step == 0))
        made.step()
        places.append(float(weight.detach()))
    places += places[-1:] * (PAST - STEPS)
    return Filter(weights=-torch.tensor(places, dtype=torch.float64).diff())


def run_out(optimizer: Optimizer) -> Tensor:
    """Let torch's steps without gradient empty the buffers; return the weights then, as one vector.

    P is held as the last step had it, and weight decay is off. Without a buffer they stay.
    """
    ends = []
    for group in optimizer.param_groups:
        weight = torch.cat([parameter.detach().flatten() for parameter in group["params"]]).requires_grad_()
        kept = [optimizer.state.get(parameter, {}) for parameter in group["params"]]
        slots = [slot for slot in ("exp_avg", "momentum_buffer", "square_avg", "grad_avg") if slot in kept[0]]
        state = {slot: torch.cat([slots[slot].flatten() for slots in kept]) for slot in slots}
        changed: dict[str, Any] = {}
        if "betas" in group and kept[0]:
            steps, betas = int(kept[0]["step"]), group["betas"]
            slot = "max_exp_avg_sq" if group.get("amsgrad") else "exp_avg_sq"
            largest = torch.cat([slots[slot].flatten() for slots in kept])
            # v̂ of the last step, its bias corrected: at the count `LATE` torch does not correct it again.
            state |= {"exp_avg_sq": largest / (1 - betas[1] ** steps), "mu_product": torch.tensor(0.0)}
            changed = {"betas": (betas[0], _HELD)} | nadams_decay(group, steps)
            changed |= {"amsgrad": False} if "amsgrad" in group else {}
        if {"exp_avg", "momentum_buffer"} & set(state):
            made = fresh(optimizer, group, weight, state | {"step": torch.tensor(LATE)}, **changed)
            for _ in range(STEPS):
                weight.grad = torch.zeros_like(weight)
                made.step()
        ends.append(weight.detach())
    return torch.cat(ends)


def second_moments(
    optimizer: Optimizer, group: dict[str, Any], gradients: Sequence[Tensor]
) -> tuple[Tensor, Tensor] | None:
    """Compute s_t, the running mean of squares as it is, and v̂, whose root the last step took.

    Args:
        optimizer: of which class.
        group: its settings.
        gradients: of all steps, (p,) each, with L2 decay.

    Returns:
        Both, (p,) each; None for an optimizer without a second moment.
    """
    squares, steps = [value.square() for value in gradients], len(gradients)
    if isinstance(optimizer, Adagrad):
        total = torch.stack(squares).sum(0) + group["initial_accumulator_value"]
        return total / steps, total
    if isinstance(optimizer, RMSprop):
        second = _running(squares, group["alpha"])[-1]
        return second, second - _running(gradients, group["alpha"])[-1].square() if group["centered"] else second
    if "betas" in group:
        means = _running(squares, group["betas"][1])
        largest = torch.stack(means).amax(0) if group.get("amsgrad") else means[-1]
        return means[-1], largest / (1 - group["betas"][1] ** steps)
    return None


def _running(values: Sequence[Tensor], decay: float) -> list[Tensor]:
    means = [torch.zeros_like(values[0])]
    for value in values:
        means.append(decay * means[-1] + (1 - decay) * value)
    return means[1:]


@dataclass(frozen=True, kw_only=True)
class Division:
    """How an optimizer divides by a fading mean of squares.

    Attributes:
        decay: ρ.
        eps: ε.
        numerator: weights of past gradients in what is divided, of sum 1.
        after: mean age in steps that is added after the division.
    """

    decay: float
    eps: float
    numerator: Tensor
    after: float


def division(optimizer: Optimizer, memory: Filter) -> Division | None:
    """Return how an optimizer divides by a fading mean of squares.

    Args:
        optimizer: of which class, with the first group's settings.
        memory: its filter, see `remembered`.

    Returns:
        None for SGD, which does not divide, and for Adagrad, whose sum of squares does not fade.
    """
    group = optimizer.param_groups[0]
    bare = torch.zeros(PAST, dtype=torch.float64)
    bare[0] = 1.0
    if isinstance(optimizer, RMSprop):  # its momentum filters what is divided
        return Division(decay=group["alpha"], eps=group["eps"], numerator=bare, after=memory.lag)
    if "betas" in group:
        return Division(decay=group["betas"][1], eps=group["eps"], numerator=memory.shares, after=0.0)
    return None
