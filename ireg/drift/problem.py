"""The moment of training that is studied: a network, its data and its optimizer."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ireg.core.batches import IndexedBatches
from ireg.core.functional import ModuleLoss, couples_examples, functional_loss, measuring, require_gradients_elsewhere
from ireg.core.moving import moving_parameters
from ireg.core.optimizers import OptimizerState, rule_of, view
from ireg.core.random import named_generator
from ireg.core.types import Batch, Params
from ireg.objective import Objective
from ireg.regularizers import Regularizer


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A moment of training from which epochs can be started.

    It can be used many times, and is never changed.

    Attributes:
        module: the network with the weights of that moment.
        criterion: `(outputs, targets) -> 0-d tensor`, the mean over the examples.
        inputs: all training inputs, examples along the first dimension.
        targets: their targets.
        batch_size: examples in a minibatch; the last of an epoch may be smaller.
        make_optimizer: makes the optimizer of parameters.
        optimizer_state: its `state_dict()` of that moment.
        seed: of the orders.
        regularizer: an explicit penalty that the steps descend beside the loss; None for the bare loss.
    """

    module: nn.Module
    criterion: Callable[[Tensor, Tensor], Tensor]
    inputs: Tensor
    targets: Tensor
    batch_size: int
    make_optimizer: Callable[[Iterable[nn.Parameter]], Optimizer]
    optimizer_state: dict[str, Any]
    seed: int
    regularizer: Regularizer | None = None

    def begin(self) -> tuple[nn.Module, Optimizer]:
        """Return a copy of the network, and its optimizer with the state of that moment."""
        module = copy.deepcopy(self.module)
        optimizer = self.make_optimizer(module.parameters())
        optimizer.load_state_dict(copy.deepcopy(self.optimizer_state))
        return module, optimizer

    @cached_property
    def optimizer(self) -> OptimizerState:
        """Return the optimizer in the words of its update rule, and with the parameters that it moves.

        Raises:
            ValueError: see `ireg.core.optimizers.view`, `ireg.core.moving.moving_parameters` and
                `ireg.core.functional.require_gradients_elsewhere`.
        """
        module, optimizer = self.begin()
        rule_of(type(optimizer))
        loss, named = functional_loss(module, self.criterion), dict(module.named_parameters())
        with measuring(module):
            seen = view(optimizer, moving_parameters(optimizer, named, loss, self.partition("what moves")))
            require_gradients_elsewhere(loss, self.partition("what moves")[0])
            return seen

    @property
    def num_batches(self) -> int:
        """The number m of minibatches in an epoch."""
        return -(-len(self.targets) // self.batch_size)

    @cached_property
    def weights(self) -> Tensor:
        """The weights of that moment, see `vector`."""
        return self.vector(self.module)

    @cached_property
    def loss(self) -> ModuleLoss:
        """The mean loss of a minibatch as a function of the parameters."""
        return functional_loss(self.module, self.criterion)

    def objective(self, module: nn.Module, batches: Sequence[Batch]) -> Objective | None:
        """Return what a copy of the network descends over an epoch.

        Returns:
            The objective; None for the bare loss.
        """
        if self.regularizer is None:
            return None
        return Objective(functional_loss(module, self.criterion), self.regularizer, batches)

    def moving(self, module: nn.Module) -> dict[str, nn.Parameter]:
        """Return the moving parameters of a copy of the network, by name."""
        parameters = dict(module.named_parameters())
        return {name: parameters[name] for name in self.optimizer.moving}

    def vector(self, module: nn.Module) -> Tensor:
        """Return a copy's moving weights as one vector, (p,), detached and in double precision."""
        return flattened(self.moving(module)).detach()

    def params(self, weights: Tensor) -> Params:
        """Return a vector of weights by name, in the network's own precision."""
        moving = self.moving(self.module)
        parts = weights.split([parameter.numel() for parameter in moving.values()])
        return {
            name: part.view_as(parameter).to(parameter.dtype)
            for (name, parameter), part in zip(moving.items(), parts, strict=True)
        }

    @property
    def has_loss_of_examples(self) -> bool:
        """Say whether C is a mean over examples.

        With BatchNorm it is a mean over the minibatches of a partition only.
        """
        return not couples_examples(self.module)

    def batches(self, indices: Sequence[Tensor]) -> IndexedBatches:
        """Return the minibatches of these examples."""
        return IndexedBatches(self.inputs, self.targets, indices)

    def partition(self, purpose: str, *numbers: int) -> IndexedBatches:
        """Draw the minibatches of a random epoch, from a stream of its own."""
        generator = named_generator(f"drift: {purpose}", self.seed, *numbers)
        return self.batches(torch.randperm(len(self.targets), generator=generator).split(self.batch_size))

    def measuring(self) -> Any:
        """Let the network compute the loss that is descended, see `ireg.core.functional.measuring`."""
        return measuring(self.module)


def in_double(problem: Problem) -> Problem:
    """Return the same problem in double precision.

    In single precision the last digits lose what a short path does to a gradient.
    """
    return replace(problem, module=copy.deepcopy(problem.module).double(), inputs=problem.inputs.double())


def flattened(params: Mapping[str, Tensor]) -> Tensor:
    """Join tensors by name to one vector, (p,), in double precision."""
    return torch.cat([value.flatten() for value in params.values()]).double()
