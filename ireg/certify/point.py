"""A trained network with all that the formulas of `ireg.certify.formulas` take, densely."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import AdamW

from ireg.certify import steps, textbook
from ireg.certify.steps import Filter
from ireg.certify.textbook import Function
from ireg.certify.trainings import Trained, Training, train
from ireg.known_optimizers import WITH_RULE

KNOWN = {entry.load() for entry in WITH_RULE.values()}
"""Classes whose memory is known."""

Values = dict[str, float | None]
"""Numbers by tag; None for what must not exist."""


@dataclass(frozen=True)
class Point:
    """A trained network with all that the formulas take, densely.

    Weights are one vector of those that move.

    Attributes:
        training: how it was trained.
        trained: what that has left.
        settled: the weights once the buffers have run out, at the last epoch's steps.
    """

    training: Training
    trained: Trained
    settled: Sequence[Tensor]

    @property
    def count(self) -> int:
        """The number m of minibatches."""
        return len(self.trained.batches)

    @property
    def group(self) -> dict[str, Any]:
        """The first group's settings."""
        return self.trained.optimizer.param_groups[0]

    @cached_property
    def names(self) -> list[str]:
        """The names of the weights that move."""
        return [name for name, value in self.trained.module.named_parameters() if value.requires_grad]

    @cached_property
    def weights(self) -> Tensor:
        """ω, (p,)."""
        return self._joined(dict(self.trained.module.named_parameters()))

    @property
    def last_weights(self) -> Tensor:
        """ω before the last step, (p,)."""
        return self._joined(self.trained.weights[-1])

    @cached_property
    def losses(self) -> list[Function]:
        """Ĉ_k of each minibatch, as functions of ω."""
        return textbook.minibatch_losses(self.trained.module, self.names, self.trained.batches, cross_entropy)

    @cached_property
    def gradients(self) -> Tensor:
        """g_k, (m, p), by `.backward()`."""
        return textbook.backward_gradients(self.trained.module, self.names, self.trained.batches, cross_entropy)

    @cached_property
    def hessians(self) -> Tensor:
        """H_k, (m, p, p)."""
        return textbook.hessians(self.losses, self.weights)

    @cached_property
    def descended(self) -> tuple[Tensor, Tensor]:
        """Gradients (m, p) and Hessians (m, p, p) of what is descended: with penalty and L2 decay."""
        gradients, curvatures = self.gradients, self.hessians
        if self.training.penalty is not None:
            each, shared = self.training.penalty(self.losses)
            if each:
                gradients = gradients + torch.stack([textbook.gradient(part, self.weights) for part in each])
                curvatures = curvatures + textbook.hessians(each, self.weights)
            if shared is not None:
                gradients = gradients + textbook.gradient(shared, self.weights)
                curvatures = curvatures + textbook.hessians([shared], self.weights)
        return gradients + self.l2 * self.weights, curvatures + torch.diag(self.l2)

    @cached_property
    def step_rates(self) -> Tensor:
        """The rate of each weight at each step, (m, p)."""
        decay = self.group.get("lr_decay", 0.0)  # Adagrad's
        fallen = 1 / (1 + max(len(self.trained.gradients) - 1, 0) * decay)
        rows = [self._by_group([rate * fallen for rate in step]) for step in self.trained.rates]
        return torch.stack(rows)

    @cached_property
    def rate(self) -> float:
        """η: the largest mean rate of a group."""
        return float(self.step_rates.mean(0).max())

    @cached_property
    def shares(self) -> Tensor:
        """Each weight's rate over η, (p,)."""
        return self.step_rates.mean(0) / self.rate

    @property
    def changing(self) -> bool:
        """Whether the rates change within the epoch."""
        return bool((self.step_rates != self.step_rates[0]).any())

    @property
    def decoupled(self) -> bool:
        """Whether weight decay is no part of the gradient."""
        return isinstance(self.trained.optimizer, AdamW)

    @cached_property
    def decays(self) -> Tensor:
        """λ by weight, (p,)."""
        return self._by_group([group["weight_decay"] for group in self.trained.optimizer.param_groups])

    @cached_property
    def l2(self) -> Tensor:
        """λ of L2 decay by weight, (p,); 0 where weight decay is decoupled."""
        return torch.zeros_like(self.decays) if self.decoupled else self.decays

    @cached_property
    def memory(self) -> Filter | None:
        """The weights of past gradients; None without a rule."""
        optimizer = self.trained.optimizer
        if type(optimizer) not in KNOWN:
            return None
        return steps.remembered(optimizer, self.rate, len(self.trained.gradients))

    @property
    def pair(self) -> tuple[float, float]:
        """The coefficients of the own regularizer's two parts, for P in units of the shares."""
        memory = self.memory
        assert memory is not None
        if self.changing:
            largest = int(self.shares.argmax())
            return memory.pair(self.step_rates[:, largest].tolist())
        unlike = 1 - memory.overlap(self.count) if self.count > 1 else 1.0
        return memory.rate / 4 * (1 + 2 * memory.lag), memory.rate / 4 * unlike

    @cached_property
    def squares(self) -> tuple[Tensor, Tensor] | None:
        """s_t and v̂, (p,) each, from all gradients; None without a second moment or a step."""
        seen = [
            self._joined(gradients) + self.l2 * self._joined(weights)
            for gradients, weights in zip(self.trained.gradients, self.trained.weights, strict=True)
        ]
        if not seen:
            return None
        return steps.second_moments(self.trained.optimizer, self.group, seen)

    @property
    def adaptive(self) -> bool:
        """Whether the optimizer divides."""
        return "eps" in self.group and self.memory is not None

    @cached_property
    def scale(self) -> Tensor | None:
        """P with each group's share, (p,); None where the optimizer would divide and has not yet."""
        if not self.adaptive:
            return self.shares
        if self.squares is None:
            return None
        return self.shares / (self.squares[1].sqrt() + self.group["eps"])

    @cached_property
    def edge(self) -> float | None:
        """The edge h* = (2 − ηw)/(η Σ (−1)ⁿ a_n), w the decoupled decay.

        None without a rule, or where groups differ in decoupled decay.
        """
        if self.memory is None or (self.decoupled and len(set(self.decays.tolist())) > 1):
            return None
        return (2 - (self.rate * float(self.decays[0]) if self.decoupled else 0.0)) / self.memory.alternating

    def _joined(self, values: Mapping[str, Tensor]) -> Tensor:
        return torch.cat([values[name].detach().flatten() for name in self.names])

    def _by_group(self, numbers: Sequence[float]) -> Tensor:
        """Return a number of each group as a vector by weight, (p,)."""
        named = dict(self.trained.module.named_parameters())
        of = {
            id(value): number
            for group, number in zip(self.trained.optimizer.param_groups, numbers, strict=True)
            for value in group["params"]
        }
        filled = {name: torch.full_like(named[name], of[id(named[name])]) for name in self.names}
        return self._joined(filled)


def point(training: Training) -> Point:
    """Train, and gather what the formulas take."""
    trained, settled = train(training, steps.run_out)
    return Point(training, trained, settled)
