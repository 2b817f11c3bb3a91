"""The door from `torch.nn.Module` to functions of parameters."""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from ireg.core.batches import copied
from ireg.core.noise import without_noise
from ireg.core.params import same_values
from ireg.core.sharded import whole
from ireg.core.streams import attributes_kept
from ireg.core.types import Batch, LossFn, Params


class ModuleLoss:
    """The mean loss of a minibatch as a function of the parameters.

    It is called as `loss(params, (inputs, targets))` and returns a 0-d tensor.

    A parameter that `params` lacks has the module's own value, and no gradient.

    Args:
        module: called as `module(inputs)`; its parameters are not changed.
        criterion: `(outputs, targets) -> 0-d tensor`, the mean over the examples, as `nn.functional.cross_entropy`.

    Attributes:
        places: every place a parameter sits in, and its name in `named_parameters()`.
        fresh: whether each evaluation gets copies of the weights, for forward passes that write to them.
    """

    def __init__(
        self, module: nn.Module, criterion: Callable[[Tensor, Tensor], Tensor], *, fresh: bool = False
    ) -> None:
        self.module = module
        self.criterion = criterion
        self.fresh = fresh
        self.places = _places(module)

    def __call__(self, params: Params, batch: Batch) -> Tensor:
        """Return the mean loss of a minibatch, 0-d."""
        return self.with_outputs(params, batch)[0]

    def with_outputs(self, params: Params, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the mean loss of a minibatch, 0-d, and the outputs that it is the loss of."""
        inputs, targets = batch
        outputs = self.outputs(params, inputs)
        return self.criterion(outputs, targets), outputs

    def outputs(self, params: Params, inputs: Tensor) -> Tensor:
        """Return the module's outputs at given parameters."""
        weights = _weights(self.module, params, self.places, fresh=self.fresh)
        outputs: Tensor = functional_call(self.module, weights, (inputs,), tie_weights=False)
        return outputs


def functional_loss(module: nn.Module, criterion: Callable[[Tensor, Tensor], Tensor]) -> ModuleLoss:
    """Make the mean loss of a minibatch a pure function of the parameters.

    Args:
        module: called as `module(inputs)`; its parameters are not changed.
        criterion: `(outputs, targets) -> 0-d tensor`, the mean over the examples.

    Returns:
        A function `(params, (inputs, targets)) -> 0-d tensor`, in the mode that the module has when it is called. A
        parameter that `params` lacks has the module's own value, and no gradient.

    Example:
        >>> loss = functional_loss(nn.Linear(1, 1, bias=False), nn.functional.mse_loss)
        >>> loss({"weight": torch.tensor([[3.0]])}, (torch.ones(1, 1), torch.zeros(1, 1)))
        tensor(9.)
    """
    return ModuleLoss(module, criterion)


def gradient(loss: LossFn, params: Params, batch: Batch) -> Params:
    """Compute the gradient of one minibatch's loss, by name.

    A parameter that the loss does not use has gradient zero.

    Args:
        loss: pure function `(params, batch) -> 0-d mean loss`.
        params: where; neither they nor any `.grad` are changed.
        batch: the minibatch.

    Example:
        >>> gradient(lambda params, batch: (batch * params["w"] ** 2).sum(), {"w": torch.tensor(2.0)}, torch.ones(1))
        {'w': tensor(4.)}
    """
    weights = {name: value.detach().requires_grad_() for name, value in params.items()}
    with torch.enable_grad():
        value = loss(weights, batch)
    gradients = torch.autograd.grad(value, list(weights.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(weights, gradients, strict=True))


def require_gradients_elsewhere(loss: ModuleLoss, batch: Batch) -> None:
    """Check gradients at weights other than the module's own.

    Activation checkpointing computes activations once more in the backward pass. By then the module has its own weights
    again, so that gradients are right there only. Two gradients are compared: by `loss`, and by a copy of the module
    with such weights.

    Args:
        loss: of the module.
        batch: the minibatch whose gradients are compared.

    Raises:
        ValueError: they differ.
    """
    own = detached_parameters(loss.module)
    # Not by a factor alone, which would leave weights of 0 where they are.
    elsewhere = {name: value + 0.01 * (value.abs() + 0.01) for name, value in own.items()}
    copied_module = copy.deepcopy(loss.module)
    copied_module.load_state_dict(elsewhere, strict=False)
    own_loss = ModuleLoss(copied_module, loss.criterion)
    computed, expected = (
        torch.cat([part.flatten().double() for part in gradient(function, weights, batch).values()])
        for function, weights in ((loss, elsewhere), (own_loss, detached_parameters(copied_module)))
    )
    if not float((computed - expected).norm()) <= 1e-3 * float(expected.norm()):
        raise ValueError(
            f"{type(loss.module).__name__} has right gradients at its own weights only: it computes activations once "
            "more in the backward pass; switch activation checkpointing off"
        )


class StepLoss:
    """Any loss of a module and a minibatch, as a function of the parameters.

    It is called as `loss(params, batch)`. While the given function runs, the module's parameters are those of `params`.
    That holds wherever it reads them: in `module(…)`, by `module.parameters()`, or through another name of the same
    module. A parameter that `params` lacks has the module's own value, and no gradient. The function gets a copy of the
    minibatch, which it may change.

    Args:
        module: its parameters are not changed.
        loss: `(module, batch) -> 0-d tensor`, the mean loss of a minibatch of any structure.
        fresh: whether each evaluation gets copies of the weights, for forward passes that write to them.

    Example:
        >>> loss = StepLoss(nn.Linear(1, 1, bias=False), lambda module, batch: module(batch).square().mean())
        >>> loss({"weight": torch.tensor([[2.0]])}, torch.tensor([[3.0]]))
        tensor(36.)
    """

    def __init__(self, module: nn.Module, loss: Callable[[Any, Any], Tensor], *, fresh: bool = False) -> None:
        self.module = module
        self.loss = loss
        self.fresh = fresh
        self._step = _Step(module, loss)
        self._places = {f"module.{place}": name for place, name in _places(module).items()}

    def __call__(self, params: Params, batch: Batch) -> Tensor:
        """Return the mean loss of a minibatch, 0-d."""
        weights = _weights(self.module, params, self._places, fresh=self.fresh)
        value: Tensor = functional_call(self._step, weights, (copied(batch),), tie_weights=False)
        return value


class _Step(nn.Module):
    """A loss of a module and a minibatch as a module, whose parameters torch can swap."""

    def __init__(self, module: nn.Module, loss: Callable[[Any, Any], Tensor]) -> None:
        super().__init__()
        self.module = module
        self.loss = loss

    def forward(self, batch: Any) -> Tensor:
        return self.loss(self.module, batch)


def _weights(module: nn.Module, params: Params, places: Mapping[str, str], *, fresh: bool) -> dict[str, Tensor]:
    """Return the weights by place: those given, and the module's own elsewhere.

    What the parameters' own hooks do to a gradient is done to that of the given weights, too.
    """
    own = dict(module.named_parameters())
    weights = {name: params[name] if name in params else value.detach() for name, value in own.items()}
    if fresh:
        weights = {name: value.clone() for name, value in weights.items()}
    for name, parameter in own.items():
        if parameter._backward_hooks and weights[name].requires_grad:
            weights[name] = weights[name].view_as(weights[name])
            for hook in parameter._backward_hooks.values():
                weights[name].register_hook(hook)
    return {place: weights[name] for place, name in places.items()}


def changes_gradients(module: nn.Module) -> bool:
    """Say whether parameters have hooks, which may change their gradients."""
    return any(parameter._backward_hooks for parameter in module.parameters())


def leaves_like(module: nn.Module) -> Params:
    """Return copies of a module's parameters by name, as leaves of a graph where they can be."""
    copies = {name: value.clone() for name, value in detached_parameters(module).items()}
    for value in copies.values():
        value.requires_grad_(value.is_floating_point() or value.is_complex())
    return copies


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Let attention have second derivatives.

    torch's fused kernel of `scaled_dot_product_attention` has none on a CPU; its kernel of plain products has. Forward
    passes whose gradients are differentiated again belong in this block.
    """
    with sdpa_kernel(SDPBackend.MATH):
        yield


def loss_and_outputs(loss: LossFn, params: Params, batch: Batch) -> tuple[Tensor, Tensor | None]:
    """Compute the loss of a minibatch, 0-d, and its outputs; None where the loss has none."""
    return loss.with_outputs(params, batch) if isinstance(loss, ModuleLoss) else (loss(params, batch), None)


def _places(module: nn.Module) -> dict[str, str]:
    """Return every place that a parameter sits in, once, and its name in `named_parameters()`.

    A shared parameter sits in several places, and all must be filled. A shared *submodule* is one place with several
    names: torch's own handling of ties fills it once for each name and then fails to restore it, which would leave
    the module without its parameters.
    """
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    return {
        f"{prefix}.{attribute}" if prefix else attribute: names[id(parameter)]
        for prefix, owner in module.named_modules()
        for attribute, parameter in owner.named_parameters(recurse=False, remove_duplicate=False)
    }


def detached_parameters(module: nn.Module) -> Params:
    """Return the module's parameters by name, detached.

    They share memory with the module, but for sharded ones, which are put together. Tied weights come once.
    """
    return {name: whole(parameter.detach()) for name, parameter in module.named_parameters()}


def trained_parameters(module: nn.Module) -> Params:
    """Return the parameters that are trained, by name, as leaves of a graph."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def batch_statistics(module: nn.Module) -> list[nn.Module]:
    """List the layers that normalize by the minibatch's statistics, in the module's present mode.

    With them, outputs are other than in eval mode. Those of BatchNorm make each output a function of all examples.
    """
    return [
        layer
        for layer in module.modules()
        if isinstance(layer, _BatchNorm | _InstanceNorm) and (layer.training or layer.running_mean is None)
    ]


def couples_examples(module: nn.Module) -> bool:
    """Say whether in its present mode a module's outputs depend on other examples of the minibatch."""
    return any(isinstance(layer, _BatchNorm) for layer in batch_statistics(module))


@contextmanager
def measuring(module: nn.Module, *, dropout: bool = False, functional: bool | None = None) -> Iterator[None]:
    """Let `module` compute the loss that training descends, and change nothing.

    Every layer stays in its present mode: what a network computes in training mode alone is part of that loss. Known
    noise is off, see `ireg.core.noise`, or on with `dropout`. Layers that normalize by the minibatch's statistics keep
    their running statistics as they are. Buffers are copies. At the end all is as before, layers' attributes included.

    Args:
        module: the module.
        dropout: whether noise is on.
        functional: whether functions that draw noise are looked at, see `ireg.core.noise.without_noise`.
    """
    normalizing = batch_statistics(module)
    names = ("track_running_stats", "running_mean", "running_var")
    before = [(layer, {name: getattr(layer, name) for name in names}) for layer in normalizing]
    quiet = nullcontext() if dropout else without_noise(module, functional=functional)
    with attributes_kept(module), copied_buffers(module), quiet:
        try:
            for layer in normalizing:
                # Without running statistics a layer updates none, in place or otherwise; nor could `vmap`. In eval mode
                # one that has none takes the minibatch's as well.
                for name, value in zip(names, (False, None, None), strict=True):
                    setattr(layer, name, value)
            yield
        finally:
            for layer, values in before:
                for name, value in values.items():
                    setattr(layer, name, value)


@contextmanager
def weights_kept(module: nn.Module) -> Iterator[None]:
    """Give parameters their values back at the end of the block."""
    saved = {name: value.detach().clone() for name, value in module.named_parameters()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                if not same_values(parameter, saved[name]):
                    parameter.copy_(saved[name])


@contextmanager
def copied_buffers(module: nn.Module) -> Iterator[None]:
    """Replace all buffers by copies for the block, as a forward pass may change them in place."""
    buffers = [
        (layer, name, buffer)
        for layer in module.modules()
        for name, buffer in layer.named_buffers(recurse=False, remove_duplicate=False)
    ]
    copies = {id(buffer): buffer.clone() for _, _, buffer in buffers}
    for layer, name, buffer in buffers:
        setattr(layer, name, copies[id(buffer)])
    try:
        yield
    finally:
        for layer, name, buffer in buffers:
            setattr(layer, name, buffer)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put `module` into eval mode for the block.

    Every submodule has its own mode again at the end. Buffers are copies.
    """
    modes = {submodule: submodule.training for submodule in module.modules()}
    module.eval()
    try:
        with copied_buffers(module):
            yield
    finally:
        for submodule, mode in modes.items():
            submodule.training = mode
