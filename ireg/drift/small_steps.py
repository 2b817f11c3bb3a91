"""The same optimizer with smaller steps, r in the time of one, its memory kept or shrinking.

**Memory kept**: it remembers for as long a time, r times as many steps. For a refinement r, per step:

| optimizer | becomes |
|---|---|
| SGD | η → η/r |
| momentum β (SGD's, RMSProp's; Nesterov too) | β → β^{1/r}, η → (η/r) s, buffer → buffer/s, s = (1−β^{1/r})/(1−β) |
| RMSProp's second moment | ρ → ρ^{1/r}; the mean itself stays |
| Adam, AdamW | η → η/r, β → β^{1/r}, ρ → ρ^{1/r}, step count → r times; the means stay |
| Adagrad | sum → r times, ε → ε√r, η → η/√r, step count → r times, its decay → 1/r of it |

The factor s keeps what moves the weights equal in time: torch's buffer b ← βb + (1−δ)g settles at (1−δ)g/(1−β), so the
rate η_e = η(1−δ)/(1−β) becomes η_e/r, and the buffer means the same velocity. Adam's bias correction 1 − ρ^t stays as
it was, since (ρ^{1/r})^{rt} = ρ^t. Adagrad's sum grows r times as fast, and η/(√v + ε) is left as it was. With r → ∞
what is left is the optimizer in continuous time, without steps and without minibatches; Nesterov's extra gradient, a
share 1 − β^{1/r} of its step, vanishes with the steps.

**Memory shrinking**: η → η/r and nothing else. β, ρ, the moments and the step count stay, so that the optimizer
remembers as many steps as before, which take r times less time. With r → ∞ steps, minibatches and memory are gone. m
and v then have their stationary values at the current weights, and what is left is the flow

    ω̇ = −E[m φ(v)],  φ(v) = 1/(√v + ε)  (u + F of docs/theory.md, section 7, as far as F is small),

E over the orders at fixed weights. v does not average more as r grows: its fluctuation over about 1/(1−ρ) minibatches
is the optimizer's own, at any r, and stays. The moments that it starts with are forgotten after as many steps as ever,
in a time that falls like 1/r. Adagrad's sum and AMSGrad's maximum never fade, so that neither has such a limit.
"""

from torch.optim import Optimizer

from ireg.core.optimizers import rule_of

MEMORIES = ("kept", "shrinking")
"""What small steps do to the memory."""


def refine(optimizer: Optimizer, refinement: int, memory: str = "kept") -> None:
    """Make r steps of the optimizer take the time of one, in place.

    r = 1 leaves the optimizer as it is to the last bit.

    Args:
        optimizer: whose steps.
        refinement: r.
        memory: one of `MEMORIES`.

    Raises:
        ValueError: an optimizer that no rule is known for, r below 1, another `memory`, or one that is to shrink and
            never fades.
    """
    if refinement < 1:
        raise ValueError(f"refinement={refinement}: must be at least 1")
    rule, groups = rule_of(type(optimizer)), optimizer.param_groups
    if memory not in MEMORIES:
        raise ValueError(f"memory={memory!r}: must be one of {', '.join(MEMORIES)}")
    if memory == "shrinking" and not all(rule.fades(group) for group in groups):
        raise ValueError(f"{type(optimizer).__name__}: its memory never fades, so that it cannot shrink")
    for group in groups:
        if memory == "shrinking":
            group["lr"] = group["lr"] / refinement
        else:
            states = [optimizer.state[weight] for weight in group["params"] if weight in optimizer.state]
            rule.refine(group, states, refinement)


def can_shrink(optimizer: Optimizer) -> bool:
    """Say whether the optimizer has a memory that shrinks with the steps.

    Plain SGD has none, and one that never fades does not shrink.
    """
    rule, groups = rule_of(type(optimizer)), optimizer.param_groups
    return any(rule.remembers(group) for group in groups) and all(rule.fades(group) for group in groups)
