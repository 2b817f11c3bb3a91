"""A model and its loss as a function of the weights, and whether that function is faithful."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ireg.check import Replay
from ireg.core.batches import copied
from ireg.core.functional import (
    ModuleLoss,
    StepLoss,
    copied_buffers,
    detached_parameters,
    evaluating,
    functional_loss,
    leaves_like,
    measuring,
    weights_kept,
)
from ireg.core.graph import Graph
from ireg.core.own_passes import OwnPasses, by_criterion, by_loss
from ireg.core.params import dense, same_values
from ireg.core.ranks import MeanOverRanks, ranks_of, require_all_ranks
from ireg.core.replay import difference, replayed_gradient
from ireg.core.sharded import is_sharded, settle
from ireg.core.streams import Streams, attributes_kept
from ireg.core.types import Batch, LossFn, Params
from ireg.core.witness import in_modes, set_aside
from ireg.core.wrappers import bare_module

Criterion = Callable[[Any, Any], Tensor]
"""`(outputs, targets) -> 0-d tensor`, the mean over the examples of a minibatch."""

ModelLoss = Callable[[Any, Any], Tensor]
"""`(model, batch) -> 0-d tensor`, the mean loss of a minibatch of any structure."""

MODES: Mapping[str, Callable[[nn.Module], AbstractContextManager[None]]] = {
    "as_trained": measuring,
    "two_draws": partial(measuring, dropout=True),
    "eval": evaluating,
}
"""How the model computes the loss; see `measure`."""


class MeasuredLoss:
    """A model and its loss as a function of the parameters; as a context, it leaves all as it was.

    Args:
        model: any module, wrapped or not.
        optimizer: of the module, without wrapper.
        criterion: of outputs and targets; give this or `loss`.
        loss: of the model and a minibatch.
        method: how gradients are computed: `backward` takes the model's own passes, and `auto` where it needs them.
        group: the ranks that train together; by default those of the model's wrapper.

    Raises:
        ValueError: see `ireg.core.wrappers.bare_module` and `loss_function`.

    Attributes:
        module: the model without wrappers.
        loss: as a function of the parameters.
        descended: what the steps descend, where that is the loss and an explicit penalty.
        streams: all that the module and the loss draw from.
        is_known: whether `look` has determined what kind of function it is.
        writes: whether a forward pass changes the weights that it is given.
        used: names of parameters that the loss of the minibatch that was looked at depends on.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        criterion: Criterion | None,
        loss: ModelLoss | None,
        method: str = "auto",
        group: Any = None,
    ) -> None:
        self.module = bare_module(model, sharded=True)
        self.given: Callable[..., Tensor] = criterion if loss is None else loss  # type: ignore[assignment]
        self._criterion = criterion
        self._model = model
        self.loss = loss_function(model, criterion, loss, method, group)
        self._method = method
        self.streams = Streams(self.module, self.given)
        self.optimizer = optimizer
        self._own: ModuleLoss | StepLoss | OwnPasses = (
            self.loss.loss if isinstance(self.loss, MeanOverRanks) else self.loss
        )
        self._group = ranks_of(model) if group is None else group
        self._modes: Mapping[str, bool] = {}
        self._stack = ExitStack()
        self._inference = False
        self.descended: LossFn | None = None
        self.used: frozenset[str] = frozenset()
        self.is_known = self.writes = False

    def __enter__(self) -> MeasuredLoss:
        self._inference = torch.is_inference_mode_enabled()
        if self._group is not None:
            require_all_ranks(self._group)
        settle(self.module)
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(self.streams.kept())
            stack.enter_context(attributes_kept(self.module, self.given))
            set_aside(self.module)
            stack.enter_context(in_modes(self.module, self._modes))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.__exit__(*error)  # type: ignore[arg-type]

    @contextmanager
    def in_modes(self, modes: Mapping[str, bool]) -> Iterator[None]:
        """Put submodules into modes within the block, and leave all as it was after it."""
        self._modes = modes
        with self:
            yield

    def outside_inference(self, batches: Sequence[Batch]) -> Sequence[Batch]:
        """Return minibatches that can be differentiated, as copies if inference mode is on."""
        # Tensors that are made in inference mode cannot enter a graph.
        return [copied(batch) for batch in batches] if self._inference else batches

    def mode(self, name: str) -> Callable[[nn.Module], AbstractContextManager[None]]:
        """Return how the module computes the loss, by the name of a mode."""
        if name == "as_trained" and (isinstance(self._own, StepLoss) or self._criterion is None):
            return partial(measuring, functional=True)
        return MODES[name]

    @property
    def replay(self) -> Replay:
        """The object that computes a step's gradient again."""
        return Replay(
            self.module,
            self.loss if self.descended is None else self.descended,
            self.optimizer,
            self.streams,
            wrapped=self._group is not None,
            compiled=(self._model, partial(self._of_model, self._model)) if hasattr(self._model, "_orig_mod") else None,
            called=self._model if isinstance(self._own, OwnPasses) else self.module,
        )

    def noise(self, batch: Batch, mode: str) -> float:
        """Return the difference of the loss between two seeds, as a share of it, where there should be none.

        It is 0 where nothing is drawn, and with `two_draws`, which is made for noise.
        """
        return self.replay.noise(batch, self.mode(mode)) if mode != "two_draws" else 0.0

    def look(self, batch: Batch) -> None:
        """Evaluate the loss on a minibatch to determine what kind of function it is.

        A criterion that reads the model's weights itself is made a loss of the whole model. A forward pass that writes
        to weights gets copies of them.

        Raises:
            ValueError: activations are computed again where the graph does not show it, and another method than `auto`
                is asked for; or the loss fails.
        """
        own = self._own
        if isinstance(own, OwnPasses):
            self._look_at_passes(own, batch)
            return
        with MODES["two_draws"](self.module):
            graph = self._evaluated(batch)
            if isinstance(own, ModuleLoss) and graph.leaves & {id(value) for value in self.module.parameters()}:
                criterion = own.criterion
                own = self._own = StepLoss(self.module, lambda model, pair: criterion(model(pair[0]), pair[1]))
                graph = self._evaluated(batch)
            own.fresh = self.writes
        if graph.recomputes:
            if self._method != "auto":
                raise ValueError(
                    f"{type(self.module).__name__} uses reentrant activation checkpointing, whose gradients do not "
                    "belong to given weights; use method='auto' or 'backward', or "
                    "torch.utils.checkpoint.checkpoint(…, use_reentrant=False)"
                )
            self._own = passes = self._of_passes()
            self._look_at_passes(passes, batch)
            return
        self.loss = own if self._group is None else MeanOverRanks(own, self._group)
        self.is_known = True

    def _of_passes(self) -> OwnPasses:
        loss = None if self._criterion is not None else self.given
        return own_passes(self._model, self._criterion, loss, self._group)

    def _look_at_passes(self, own: OwnPasses, batch: Batch) -> None:
        """Determine whether the model's own passes write to its weights, and whether they depend on any."""
        own.fresh = True
        before = [(value, value._version) for value in self.module.parameters()]
        with MODES["two_draws"](self.module), own.opened({}):
            _, _, gradients = own.passes(batch)
            own.fresh = self.writes = any(value._version != version for value, version in before)
        self.used, self.loss, self.is_known = frozenset(gradients), own, True

    def _evaluated(self, batch: Batch) -> Graph:
        """Return the loss's graph with copies of the weights; note which it uses, and whether it writes."""
        weights = leaves_like(self.module)
        with torch.enable_grad():
            graph = Graph(self._own(weights, batch))
        own = detached_parameters(self.module)
        self.used = frozenset(name for name, value in weights.items() if id(value) in graph.leaves)
        self.writes = any(not same_values(value, own[name]) for name, value in weights.items())
        return graph

    def require_own_gradient(self, batch: Batch, remedy: str = "") -> None:
        """Check that the gradient at given weights is that of the model's own passes.

        Args:
            batch: a minibatch.
            remedy: what else can be done where they differ.

        Raises:
            ValueError: they differ.
        """
        if isinstance(self._own, OwnPasses):
            return  # it is that of these passes
        if not self.used or not any(value.requires_grad for value in self.module.parameters()):
            return  # a loss that moves nothing is refused later, where the moving parameters are determined
        with self.streams.kept():
            state = self.streams.state()
            expected = self._own_gradient(batch)
            self.streams.restore(state)
            with MODES["two_draws"](self.module):
                weights = {name: value.detach().clone() for name, value in self.module.named_parameters()}
                off = difference(replayed_gradient(self._own, weights, batch), expected)
        if not off.is_small:
            raise ValueError(
                f"the gradient of the first minibatch at given weights differs by {off.relative:.2g} of its norm "
                f"from that of the model's own backward pass, most in {off.most}: the loss reads weights in another "
                f"way than through the model that it is given; read them there, or take method='backward'{remedy}"
            )

    def _own_gradient(self, batch: Batch) -> Params:
        """Compute a minibatch's gradient by the model's own passes."""
        own = {name: value for name, value in self.module.named_parameters() if value.requires_grad}
        with weights_kept(self.module), copied_buffers(self.module), torch.enable_grad():
            value = self._of_model(self.module, copied(batch))
            gradients = torch.autograd.grad(value, list(own.values()), allow_unused=True, materialize_grads=True)
        return {name: dense(gradient).detach() for name, gradient in zip(own, gradients, strict=True)}

    def _of_model(self, model: nn.Module, batch: Batch) -> Tensor:
        """Compute the loss of a minibatch as the user has given it."""
        if self._criterion is not None:
            return self._criterion(model(batch[0]), batch[1])
        return self.given(model, batch)


def require_one_loss(criterion: Criterion | None, loss: ModelLoss | None) -> None:
    """Check that one of `criterion` and `loss` is given.

    Raises:
        ValueError: both or none are.
    """
    if (criterion is None) == (loss is None):
        raise ValueError(
            f"{'neither' if loss is None else 'both'} of criterion and loss are given; give criterion(outputs, "
            "targets) for pairs of inputs and targets, or loss(model, batch) for any minibatch"
        )


def own_passes(model: nn.Module, criterion: Criterion | None, loss: ModelLoss | None, group: Any = None) -> OwnPasses:
    """Return the loss by the model's own forward and backward passes."""
    evaluate = by_criterion(criterion) if criterion is not None else by_loss(loss)  # type: ignore[arg-type]
    return OwnPasses(model, bare_module(model, sharded=True), evaluate, ranks_of(model) if group is None else group)


def loss_function(
    model: nn.Module, criterion: Criterion | None, loss: ModelLoss | None, method: str = "auto", group: Any = None
) -> ModuleLoss | StepLoss | MeanOverRanks | OwnPasses:
    """Return the loss as a function of the parameters, the mean over ranks where the model is distributed.

    It is by the model's own passes where `method` is `backward`, and where weights are sharded.

    Raises:
        ValueError: both or none of `criterion` and `loss` are given, or the model is refused.
    """
    require_one_loss(criterion, loss)
    module, group = bare_module(model, sharded=True), ranks_of(model) if group is None else group
    if method == "backward" or any(map(is_sharded, module.parameters())):
        return own_passes(model, criterion, loss, group)
    own = functional_loss(module, criterion) if criterion is not None else StepLoss(module, loss)  # type: ignore[arg-type]
    return own if group is None else MeanOverRanks(own, group)
