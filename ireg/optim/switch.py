"""An optimizer that becomes SGD in the course of training.

When, and at which rate, can be set, or follows SWATS (Keskar & Socher 2017, arXiv:1712.07628). With p the whole
step of the first optimizer and g the gradient, over all parameters at once,

    γ = pᵀp / (−pᵀg),   λ ← ρλ + (1 − ρ)γ,   λ̂ = λ/(1 − ρᵏ)

after k steps. It switches where k > 1 and |λ̂ − γ| < ε, to SGD at the rate λ̂, with momentum β at (1 − β)λ̂. All of it is
computed in float64: ε = 1e-9 is below the spacing of float32.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ireg.core.optimizers import OptimizerState, view
from ireg.core.params import as_reals
from ireg.core.wide import wide
from ireg.known_optimizers import OPTIMIZERS

log = logging.getLogger(__name__)

FIRST: Mapping[str, tuple[type[Optimizer], dict[str, Any]]] = {
    name: (entry.load(), dict(entry.arguments)) for name, entry in OPTIMIZERS.items() if entry.first
}
"""Optimizers to switch from, with the arguments of conf/optimizer where torch's defaults are others."""

SECOND = tuple(name for name, entry in OPTIMIZERS.items() if entry.second)
"""Optimizers to switch to."""

EVENTS = ("epoch", "step", "loss")
RULES = ("swats", "equal_effective", "equal_edge")
"""How the second rate follows from the first phase."""

Measure = Callable[[Sequence[str]], Mapping[str, float]]
"""From tags of terms to their values at the present weights."""


class Switch(Optimizer):
    """An optimizer that takes steps of one optimizer, and later of SGD.

    After each epoch `end_epoch` is to be called: it switches at an epoch or at a loss. The optimizer at work is
    `acting`; terms, hooks and schedulers see its groups and its state. The second is torch's own SGD, without history.

    Args:
        params: parameters, or groups of them.
        first: a name of `FIRST`.
        second: a name of `SECOND`.
        first_lr: rate of the first phase.
        at: `epoch:N` or `step:N`, after so many; `loss:C`, after the first epoch whose training loss is at most C;
            `swats`.
        lr: rate of the second phase: a number; `swats`, (1 − β)λ̂; `equal_effective`, which keeps the speed η_e, for
            adaptive methods η_e ḡᵀPḡ/‖ḡ‖², at which the loss falls as fast; `equal_edge`, which keeps the fraction of
            the edge of stability.
        tolerance: ε.
        relative: whether ε is relative to |λ̂|.
        average: ρ.
        first_arguments: further arguments of the first.
        second_arguments: of the second.
        foreach: torch's kernel for many tensors at once, for both.
        measure: of terms, for `equal_edge`, and for `equal_effective` from an adaptive method: `ireg.measure` over an
            epoch's minibatches.

    Raises:
        ValueError: a name, an event or a rule that is unknown, or a number out of its range.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        >>> optimizer = Switch([weight], first="adam", second="sgd", first_lr=0.1, at="step:1", lr=0.5)
        >>> for _ in range(2):
        ...     weight.grad = torch.tensor([1.0, 1.0])
        ...     optimizer.step()
        >>> type(optimizer.acting).__name__, [round(value, 4) for value in weight.tolist()]
        ('SGD', [0.4, -2.6])
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        first: str,
        second: str = "sgd",
        first_lr: float,
        at: str,
        lr: float | str,
        tolerance: float = 1e-9,
        relative: bool = False,
        average: float = 0.999,
        first_arguments: Mapping[str, Any] | None = None,
        second_arguments: Mapping[str, Any] | None = None,
        foreach: bool | None = None,
        measure: Measure | None = None,
    ) -> None:
        _require(first in FIRST, f"from={first}: must be one of {', '.join(FIRST)}")
        _require(second in SECOND, f"to={second}: must be one of {', '.join(SECOND)}")
        _require(tolerance > 0, f"tolerance={tolerance}: must be above 0")
        _require(0 <= average < 1, f"average={average}: must be in [0, 1)")
        self.event, self.limit = _event(at)
        self.rule = _rule(lr)
        _require(
            self.rule != "swats" or self.event == "swats", f"lr=swats: needs at=swats, which estimates it; at={at}"
        )
        self.tolerance, self.relative, self.average = tolerance, relative, average
        self.measure = measure
        self.switched_after: int | None = None
        self._steps, self._sum = 0, 0.0
        self._gamma: float | None = None
        self._second, self._second_arguments = second, dict(second_arguments or {})
        self._foreach = foreach
        cls, arguments = FIRST[first]
        if foreach is not None and not OPTIMIZERS[first].rounded_otherwise:
            arguments = {**arguments, "foreach": foreach}
        self._acting: Optimizer | None = None
        super().__init__(params, {"lr": first_lr})
        self._acting = cls(self.param_groups, **{**arguments, **(first_arguments or {}), "lr": first_lr})

    @property
    def acting(self) -> Optimizer:
        """The optimizer that takes the steps."""
        assert self._acting is not None
        return self._acting

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The parameter groups of the optimizer at work."""
        return self._groups if self._acting is None else self._acting.param_groups

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        self._groups = groups

    @property
    def state(self) -> Any:
        """The state of the optimizer at work."""
        return self._states if self._acting is None else self._acting.state

    @state.setter
    def state(self, state: Any) -> None:
        self._states = state

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take a step, and switch after it if that is due."""
        if self.switched_after is not None:
            return self.acting.step(closure)
        if self.event != "swats":
            loss = self.acting.step(closure)
        else:
            loss = None
            if closure is not None:
                with torch.enable_grad():
                    loss = closure()
            before = [weight.detach().clone() for weight in self._moving()]
            self.acting.step()
            self._estimate(before)
        self._steps += 1
        if (self.event == "step" and self._steps >= self.limit) or self._agrees():
            self._switch()
        return loss

    def end_epoch(self, epoch: int, loss: float) -> None:
        """Switch after this epoch, if that is due.

        Args:
            epoch: number of completed epochs.
            loss: training loss of the epoch.
        """
        if self.switched_after is not None:
            return
        if (self.event == "epoch" and epoch >= self.limit) or (self.event == "loss" and loss <= self.limit):
            self._switch()

    def numbers(self) -> dict[str, float]:
        """Return the phase and the learning rate by tag, and γ and λ̂ of SWATS."""
        numbers = {
            "switch/phase": 1.0 if self.switched_after is None else 2.0,
            "switch/lr": float(self.param_groups[0]["lr"]),
        }
        if self._gamma is not None:
            numbers |= {"switch/gamma": self._gamma, "switch/estimate": self.estimate}
        return numbers

    @property
    def estimate(self) -> float:
        """The estimate λ̂ of the second rate; 0 before the first step."""
        return self._sum / (1 - self.average**self._steps) if self._steps else 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the optimizer at work, and that of the switch."""
        switch = {
            "steps": self._steps,
            "sum": self._sum,
            "gamma": self._gamma,
            "switched_after": self.switched_after,
        }
        return {**self.acting.state_dict(), "switch": switch}

    @torch._disable_dynamo
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the optimizer at work and the switch from a saved state.

        Raises:
            ValueError: the state is of another optimizer.
        """
        _require("switch" in state_dict, "the state is of an optimizer that does not switch")
        switch = state_dict["switch"]
        self._steps, self._sum, self._gamma = switch["steps"], switch["sum"], switch["gamma"]
        if switch["switched_after"] is not None and self.switched_after is None:
            self._acting = self._made(state_dict["param_groups"][0]["lr"])
        self.switched_after = switch["switched_after"]
        self.acting.load_state_dict({key: value for key, value in state_dict.items() if key != "switch"})

    def _moving(self) -> list[Tensor]:
        return [weight for group in self.param_groups for weight in group["params"] if weight.grad is not None]

    def _estimate(self, before: Sequence[Tensor]) -> None:
        """Add γ of the step that has been taken to the average of SWATS.

        Args:
            before: the weights before the step.
        """
        square = along = 0.0
        for weight, old in zip(self._moving(), before, strict=True):
            step = as_reals(wide(weight.detach()) - wide(old)).flatten()
            assert weight.grad is not None
            square += float(step @ step)
            along += float(step @ as_reals(wide(weight.grad)).flatten())
        self._gamma = square / -along if along else 0.0
        self._sum = self.average * self._sum + (1 - self.average) * self._gamma

    def _agrees(self) -> bool:
        """Return whether λ̂ is γ, to the tolerance, and can be a learning rate."""
        # After one step λ̂ is γ by definition, whatever the optimizer: λ = (1 − ρ)γ and λ̂ = λ/(1 − ρ).
        if self.event != "swats" or self._steps < 2 or self._gamma is None:
            return False
        estimate = self.estimate
        return estimate > 0 and abs(estimate - self._gamma) < self.tolerance * (estimate if self.relative else 1.0)

    def _switch(self) -> None:
        rate = self._rate()
        self._acting, self.switched_after = self._made(rate), self._steps
        log.info("switched after %d steps to %s at the rate %.6g", self._steps, self._second, rate)

    def _made(self, rate: float) -> Optimizer:
        cls, arguments = FIRST[self._second]
        groups = [{"params": group["params"]} for group in self.param_groups]
        kernel = {} if self._foreach is None else {"foreach": self._foreach}
        return cls(groups, **{**kernel, **arguments, **self._second_arguments, "lr": rate})

    def _rate(self) -> float:
        """Return the learning rate of the second phase.

        Raises:
            ValueError: the rate needs terms, and nothing measures them; or it is no finite number above 0.
        """
        if not isinstance(self.rule, str):
            return self.rule
        second = self._view(self._made(1.0))
        if self.rule == "swats":
            rate = (1 - float(self._made(1.0).param_groups[0]["momentum"])) * self.estimate
        elif self.rule == "equal_effective":
            rate = self._effective_rate() / second.memory.effective_rate
        elif self.rule == "equal_edge":
            terms = self._measured("curvature/edge_fraction", "curvature/lambda_max")
            rate = terms["curvature/edge_fraction"] * second.edge / terms["curvature/lambda_max"]
        else:
            raise ValueError(f"lr={self.rule}: must be a number or one of {', '.join(RULES)}")
        _require(0 < rate < float("inf"), f"lr={self.rule}: comes to {rate:.3g}, which is no rate; give a number")
        return rate

    def _effective_rate(self) -> float:
        """Return η_e of the first phase, times ḡᵀPḡ/‖ḡ‖² where it has a preconditioner P."""
        first = self._view(self.acting)
        rate, lag = first.memory.effective_rate, first.memory.lag
        if first.second_moment is None:
            return rate
        # The terms are (η_e/4)(1 + 2L) ‖ḡ‖²_P and (η/4) ‖ḡ‖²: their ratio times η/(1 + 2L) is η_e ḡᵀPḡ/‖ḡ‖².
        terms = self._measured("ireg/own_full_batch", "ireg/full_batch")
        return terms["ireg/own_full_batch"] / terms["ireg/full_batch"] * first.lr / (1 + 2 * lag)

    def _measured(self, *tags: str) -> Mapping[str, float]:
        if self.measure is None:
            raise ValueError(f"lr={self.rule}: needs {', '.join(tags)}; give Switch(measure=…), like ireg.measure")
        return self.measure(tags)

    @staticmethod
    def _view(optimizer: Optimizer) -> OptimizerState:
        weights = (weight for group in optimizer.param_groups for weight in group["params"])
        return view(optimizer, {str(number): weight for number, weight in enumerate(weights)})


def _event(at: str) -> tuple[str, float]:
    """Return the event that is waited for, and its number; 0 for `swats`."""
    kind, _, number = str(at).partition(":")
    if kind == "swats" and not number:
        return kind, 0.0
    try:
        limit = float(number)
    except ValueError:
        limit = -1.0
    whole = kind == "loss" or (limit >= 1 and limit.is_integer())
    _require(
        kind in EVENTS and limit > 0 and whole, f"at={at}: must be epoch:N, step:N, loss:C or swats, like epoch:10"
    )
    return kind, limit


def _rule(lr: float | str) -> float | str:
    if isinstance(lr, str):
        _require(lr in RULES, f"lr={lr}: must be a number or one of {', '.join(RULES)}")
        return lr
    _require(0 < lr < float("inf"), f"lr={lr}: must be a finite number > 0")
    return float(lr)


def _require(holds: bool, text: str) -> None:
    if not holds:
        raise ValueError(text)
