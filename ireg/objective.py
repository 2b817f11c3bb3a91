"""What is minimized: a criterion, and an explicit penalty."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ireg.core.functional import measuring
from ireg.core.repeated import Repeated, with_gradient
from ireg.core.types import Batch, LossFn, Params, Shared
from ireg.regularizers import Regularizer, SharedPart

Criterion = Callable[..., Tensor]
"""The loss of a minibatch of outputs (n, C) and labels (n,): their mean, or as `reduction` says, `sum` or `none`."""


def squared_error(outputs: Tensor, labels: Tensor, *, reduction: Literal["mean", "sum", "none"] = "mean") -> Tensor:
    """Compute the squared error of outputs against the labels as unit vectors.

    It is ½ Σ_c (f_c − [c = y])² of an example, as in Cohen et al. 2021, arXiv:2103.00065.

    Args:
        outputs: f, (n, C).
        labels: y, (n,).
        reduction: `mean` over the examples, their `sum`, or `none`: the values (n,).

    Raises:
        ValueError: another reduction.

    Example:
        >>> squared_error(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 0]))  # (0 + ½ (1 + 4))/2
        tensor(1.2500)
    """
    meant = labels[..., None] == torch.arange(outputs.shape[-1], device=outputs.device)
    values = (outputs - meant.to(outputs)).square().sum(-1) / 2
    if reduction == "none":
        return values
    if reduction == "sum":
        return values.sum()
    if reduction == "mean":
        return values.mean()
    raise ValueError(f"reduction={reduction!r}: must be one of mean, sum, none")


squared_error.hessian_by_outputs = "identity"  # type: ignore[attr-defined]  # see `ireg.core.diagonal`

CRITERIA: Mapping[str, Criterion] = {"cross_entropy": cross_entropy, "squared_error": squared_error}
"""By the value of the key `loss`."""


def sequence_cross_entropy(
    outputs: Tensor, labels: Tensor, *, reduction: Literal["mean", "sum", "none"] = "mean"
) -> Tensor:
    """Compute the cross-entropy of outputs at each position of a sequence, in nats.

    Args:
        outputs: logits f, (n, positions, C).
        labels: y, (n, positions).
        reduction: `mean` over all positions, their `sum`, or `none`: the values (n · positions,).

    Example:
        >>> sequence_cross_entropy(torch.zeros(2, 3, 4), torch.zeros(2, 3, dtype=torch.long))  # log 4
        tensor(1.3863)
    """
    return cross_entropy(outputs.flatten(0, 1), labels.flatten(), reduction=reduction)


SEQUENCE_CRITERIA: Mapping[str, Criterion] = {**CRITERIA, "cross_entropy": sequence_cross_entropy}
"""The same for outputs and labels of several positions an example."""


class Evaluated(NamedTuple):
    """A minibatch's objective, to be differentiated.

    Attributes:
        total: 0-d with a graph: its gradient by the parameters is what is descended.
        loss: Ĉ_k, detached.
        penalty: R_k, detached.
        outputs: of the network, where the loss has such.
    """

    total: Tensor
    loss: Tensor
    penalty: Tensor
    outputs: Tensor | None


class Objective:
    """The loss with an explicit penalty, C + R, for training and measuring alike.

    Args:
        loss: pure function `(params, batch) -> 0-d mean loss`.
        regularizer: R.
        batches: of the epoch; penalties of the full batch and of momentum need them. They may be replaced.

    Example:
        >>> from ireg.regularizers import L2
        >>> objective = Objective(lambda params, batch: (params["w"] * batch).sum(), L2(strength=0.5))
        >>> weight = torch.tensor([2.0], requires_grad=True)
        >>> evaluated = objective.evaluate({"w": weight}, torch.tensor([3.0]))
        >>> evaluated.total.backward()
        >>> float(evaluated.loss), float(evaluated.penalty), weight.grad  # 3ω, ω²/4, 3 + ω/2
        (6.0, 1.0, tensor([4.]))
    """

    def __init__(self, loss: LossFn, regularizer: Regularizer, batches: Sequence[Batch] = ()) -> None:
        self.loss = loss
        self.regularizer = regularizer
        self.batches = batches

    @property
    def of_minibatches(self) -> bool:
        """Whether the penalty has a part of each minibatch."""
        return self.regularizer.of_minibatches

    def evaluate(self, params: Params, batch: Batch) -> Evaluated:
        """Evaluate a minibatch's objective, for a step of training.

        Args:
            params: leaves that require gradients.
            batch: the minibatch.

        Returns:
            The objective with a graph, and its parts without.
        """
        value, outputs, total, penalty = self._of_minibatch(self.regularizer, params, batch)
        for part in self._shared():
            # Its gradient is handed over: a graph of all minibatches would take the memory of an epoch.
            with torch.no_grad(), self._measuring():
                held = {name: param.detach() for name, param in params.items()}
                shared, gradient = part.value_and_gradient(held)
            total = total + with_gradient(shared, gradient, params)
            penalty = penalty + shared
        return Evaluated(total, value.detach(), penalty, outputs)

    def __call__(self, params: Params, batch: Batch) -> Tensor:
        """Compute the objective of a minibatch, 0-d, without the part that all minibatches share."""
        return self._of_minibatch(self.regularizer, params, batch)[2]

    def smooth(self, params: Params, batch: Batch) -> Tensor:
        """Compute the objective of a minibatch by double backward, so that it has second derivatives.

        Raises:
            ValueError: what is descended is the gradient of no function.
        """
        if not self.regularizer.is_gradient:
            raise ValueError(
                f"the mean flow of {type(self.regularizer).__name__} is not known: its steps are the gradient of no "
                "function; leave the terms of the mean flow out"
            )
        return self._of_minibatch(replace(self.regularizer, method="exact"), params, batch)[2]

    def penalty(self, params: Params, batches: Sequence[Batch] | None = None) -> Tensor:
        """Compute R over the minibatches, 0-d.

        Args:
            params: where.
            batches: by default those of the epoch.
        """
        batches = self.batches if batches is None else batches
        leaves = {name: value.detach().requires_grad_() for name, value in params.items()}
        own = torch.stack([self._of_minibatch(self.regularizer, leaves, batch)[3] for batch in batches]).mean()
        return own + sum((part.value_and_gradient(params)[0] for part in self._shared()), torch.zeros_like(own))

    def shared(self, params: Params) -> Shared | None:
        """Return the part that all minibatches share, at these parameters; None if there is none."""
        parts = self._shared()
        if not parts:
            return None
        gradients = [part.value_and_gradient(params)[1] for part in parts]
        return Shared(_sum(gradients), lambda direction: _sum([part.product(params, direction) for part in parts]))

    def _of_minibatch(
        self, regularizer: Regularizer, params: Params, batch: Batch
    ) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
        """Return loss, outputs, objective and penalty of a minibatch."""
        repeated = Repeated(self.loss, batch)
        value, outputs = repeated.first(params)
        with torch.enable_grad():
            total, penalty = regularizer.penalized(repeated, params, value, len(self.batches))
        return value, outputs, total, penalty

    def _shared(self) -> list[SharedPart]:
        return self.regularizer.shared(self.loss, self.batches)

    def _measuring(self) -> AbstractContextManager[Any]:
        module = getattr(self.loss, "module", None)
        return nullcontext() if module is None else measuring(module)


def _sum(parts: list[Params]) -> Params:
    return {name: torch.stack([part[name] for part in parts]).sum(0) for name in parts[0]}
