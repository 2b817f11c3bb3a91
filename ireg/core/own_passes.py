"""A minibatch's loss and gradient by the model's own forward and backward passes.

`torch.func.functional_call` replaces weights for a forward pass. Sharded weights cannot be replaced. Nor is the
gradient right where activations are computed again with the module's own weights. Here the weights are written into the
module, `backward()` is called as in training, and `.grad` is read. So the reducer of DistributedDataParallel, the
shards of `fully_shard`, compiled graphs, checkpointed activations and hooks act as in a step. Then all is put back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ireg.core.batches import copied
from ireg.core.functional import ModuleLoss, StepLoss, copied_buffers
from ireg.core.graph import Graph
from ireg.core.params import dense, same_values
from ireg.core.ranks import mean_over
from ireg.core.sharded import held, mesh_of, part_of, settle, whole
from ireg.core.types import Batch, LossFn, Params

Passed = tuple[Tensor, Tensor | None, Params]
"""A minibatch's loss, 0-d, its outputs, if there are any, and its gradient by name."""


class OwnPasses:
    """The mean loss of a minibatch by the model's own passes, as a function of the parameters.

    It is called as `loss(params, batch)`, and can be differentiated once. Where the model has several ranks, loss and
    gradient are those of a step: the means over the ranks. All ranks must evaluate it together.

    Parameters, `.grad`, buffers and hooks are as before after each call: `.grad` is the same tensor with the same
    values, or None, and weights are restored from copies. Hooks that run once a gradient is there are set aside.

    Args:
        model: what training calls.
        module: the model without wrappers.
        evaluate: `(model, batch) -> (loss, outputs or None)`.
        group: the ranks; None for one. Gradients are averaged over them where the model does not do it.

    Example:
        >>> model = nn.Linear(1, 1, bias=False)
        >>> loss = OwnPasses(model, model, lambda model, batch: (model(batch).square().mean(), None))
        >>> weights = {"weight": torch.tensor([[2.0]], requires_grad=True)}
        >>> torch.autograd.grad(loss(weights, torch.tensor([[3.0]])), weights["weight"])  # of (3w)²
        (tensor([[36.]]),)
    """

    def __init__(
        self,
        model: nn.Module,
        module: nn.Module,
        evaluate: Evaluate,
        group: Any = None,
    ) -> None:
        self.model = model
        self.module = module
        self.fresh = False
        self._evaluate = evaluate
        self.group = group
        self._open = False

    def __call__(self, params: Params, batch: Batch) -> Tensor:
        """Return the mean loss of a minibatch, 0-d."""
        with self.opened(params):
            if not torch.is_grad_enabled() or not any(value.requires_grad for value in params.values()):
                return self.value(batch)
            value, _, gradients = self.passes(batch)
        used = {name: gradient for name, gradient in gradients.items() if name in params}
        passed: Tensor = _Passed.apply(value, list(used.values()), *(params[name] for name in used))
        return passed

    def value(self, batch: Batch) -> Tensor:
        """Return the mean loss of a minibatch, 0-d, without a graph; within `opened`."""
        with torch.no_grad():
            return self._over_ranks(self._evaluate(self.model, batch)[0])

    def passes(self, batch: Batch) -> Passed:
        """Return the loss of a minibatch, its outputs and its gradient; to be called within `opened`.

        A parameter that the loss does not use has no gradient.

        Raises:
            ValueError: the loss is no single number.
        """
        with torch.enable_grad():
            value, outputs = self._evaluate(self.model, batch)
            own = {id(parameter) for parameter in self.module.parameters()}
            foreign = [leaf for leaf in Graph(value).tensors if id(leaf) not in own]
            before = [(leaf, leaf.grad, None if leaf.grad is None else leaf.grad.clone()) for leaf in foreign]
            if value.requires_grad:
                value.backward()
        gradients = {}
        alone = self.group is not None and self._wrapper is None and mesh_of(self.module) is None
        for name, parameter in self.module.named_parameters():
            if alone and parameter.requires_grad:
                local = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                gradients[name] = self._over_ranks(dense(local).detach())
            elif parameter.grad is not None:
                gradient = whole(parameter.grad).detach()
                gradients[name] = gradient.clone() if self._shares_gradients else gradient
            parameter.grad = None
        for leaf, had, saved in before:
            _give_back(leaf, had, saved)
        return self._over_ranks(value.detach()), outputs, gradients

    @contextmanager
    def opened(self, params: Params) -> Iterator[None]:
        """Let the module have these weights within the block, and leave all as it was.

        Args:
            params: by name, whole; others stay as they are.
        """
        if self._open:
            raise RuntimeError("the weights of a module cannot be replaced twice at the same time")
        self._open = True
        try:
            settle(self.module)
            with ExitStack() as stack:
                stack.enter_context(_wrapper_kept(self._wrapper))
                stack.enter_context(_hooks_aside(self.module))
                stack.enter_context(_gradients_kept(self.module, copies=self._shares_gradients))
                stack.enter_context(copied_buffers(self.module))
                stack.enter_context(self._weights(params))
                yield
        finally:
            self._open = False

    @contextmanager
    def _weights(self, params: Params) -> Iterator[None]:
        """Write weights into the module, and the saved ones at the end."""
        saved = []
        with torch.no_grad():
            for name, parameter in self.module.named_parameters():
                own = held(parameter.detach())
                given = part_of(params[name].detach(), parameter) if name in params else own
                differs = given.data_ptr() != own.data_ptr() and not same_values(given, own)
                if differs or self.fresh:
                    saved.append((own, own.clone()))
                if differs:
                    own.copy_(given)
        try:
            yield
        finally:
            settle(self.module)
            with torch.no_grad():
                for own, before in saved:
                    own.copy_(before)

    @property
    def has_ranks(self) -> bool:
        """Whether a step's minibatch is that of several ranks."""
        return self.group is not None

    @property
    def _wrapper(self) -> DistributedDataParallel | None:
        model = getattr(self.model, "_orig_mod", self.model)
        return model if isinstance(model, DistributedDataParallel) else None

    @property
    def _shares_gradients(self) -> bool:
        """Whether `.grad` are views of the wrapper's buffers, which each backward pass overwrites."""
        return self._wrapper is not None and self._wrapper.gradient_as_bucket_view

    def _over_ranks(self, value: Tensor) -> Tensor:
        return value if self.group is None else mean_over(value, self.group)


Evaluate = Callable[[Any, Batch], tuple[Tensor, Tensor | None]]
"""`(model, batch) -> (mean loss, outputs or None)`."""


def by_criterion(criterion: Callable[[Any, Any], Tensor]) -> Evaluate:
    """Evaluate a model on pairs by a criterion of outputs and targets."""

    def evaluate(model: Any, batch: Batch) -> tuple[Tensor, Tensor | None]:
        outputs = model(batch[0])
        return criterion(outputs, batch[1]), outputs if isinstance(outputs, Tensor) else None

    return evaluate


def by_loss(loss: Callable[[Any, Any], Tensor]) -> Evaluate:
    """Evaluate a model on any minibatch by a loss, which gets a copy that it may change."""
    return lambda model, batch: (loss(model, copied(batch)), None)


def passes_of(loss: LossFn) -> OwnPasses:
    """Return a module's loss by its own passes.

    Raises:
        ValueError: the loss is a function of parameters alone, and no module is known.
    """
    if isinstance(loss, OwnPasses):
        return loss
    if not isinstance(loss, ModuleLoss | StepLoss):
        raise ValueError(
            f"method='backward' needs the model, and the loss is a {type(loss).__name__}; give the model to "
            "ireg.measure or ireg.gradient_moments"
        )
    evaluate = by_criterion(loss.criterion) if isinstance(loss, ModuleLoss) else by_loss(loss.loss)
    passes = OwnPasses(loss.module, loss.module, evaluate)
    passes.fresh = loss.fresh
    return passes


class _Passed(torch.autograd.Function):
    """A loss whose gradient is known already."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: list[Tensor], *leaves: Tensor) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # a graph of the gradient is asked for
            raise ValueError(
                "the model's own passes (method='backward') give no second derivatives; leave theory and penalties of "
                "the gradient out, or take another method, for a model that is not sharded"
            )
        return (None, None, *(gradient * outer for gradient in ctx.gradients))


def _give_back(leaf: Tensor, gradient: Tensor | None, saved: Tensor | None) -> None:
    """Give a tensor the `.grad` it had, with the values it had."""
    leaf.grad = gradient
    if gradient is not None and saved is not None and not same_values(held(gradient), held(saved)):
        with torch.no_grad():
            held(gradient).copy_(held(saved))


@contextmanager
def _gradients_kept(module: nn.Module, *, copies: bool) -> Iterator[None]:
    """Leave parameters without `.grad` within the block.

    Args:
        module: of the parameters.
        copies: whether something else may write to the tensors meanwhile.
    """
    before = [
        (value, value.grad, value.grad.clone() if copies and value.grad is not None else None)
        for value in module.parameters()
    ]
    try:
        for value, _, _ in before:
            value.grad = None
        yield
    finally:
        for value, gradient, saved in before:
            _give_back(value, gradient, saved)


@contextmanager
def _hooks_aside(module: nn.Module) -> Iterator[None]:
    """Set aside hooks that run once a gradient is there, as of optimizers that step in the backward pass."""
    hooks = [getattr(value, "_post_accumulate_grad_hooks", None) for value in module.parameters()]
    before = [(held_hooks, dict(held_hooks)) for held_hooks in hooks if held_hooks]
    try:
        for held_hooks, _ in before:
            held_hooks.clear()
        yield
    finally:
        for held_hooks, kept in before:
            held_hooks.clear()
            held_hooks.update(kept)


@contextmanager
def _wrapper_kept(wrapper: DistributedDataParallel | None) -> Iterator[None]:
    """Keep what forward passes change in a wrapper, and let it send no buffers."""
    if wrapper is None:
        yield
        return
    names = ("broadcast_buffers", "require_forward_param_sync", "require_backward_grad_sync")
    before = {name: getattr(wrapper, name) for name in names}
    try:
        wrapper.broadcast_buffers, wrapper.require_backward_grad_sync = False, True
        yield
    finally:
        for name, value in before.items():
            setattr(wrapper, name, value)
