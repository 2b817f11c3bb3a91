"""Gradient moments by hooks, for modules of known kinds of layers.

One forward and one backward pass over several minibatches at once give all inputs a and sensitivities δ of these
layers, by hooks, whatever the module does between them: residual sums, attention, branches. From them each layer's
minibatch gradients follow by its kind, see `ireg.core.moments.kinds`. A layer that is used several times, or a
parameter that sits in several layers, gets the sum.

Whether that is right for a module cannot be read off it: a forward pass may use a parameter without its layer, or mix
examples. So the first minibatch of each pass is also computed alone, by the loop, and must have the same gradient.

Source: Rochette, Manoel & Tramel 2019, arXiv:1912.06015, for the gradients of examples.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ireg.core.batches import stacks
from ireg.core.functional import ModuleLoss, couples_examples, gradient
from ireg.core.moments.kinds import NotServedError, kind_of
from ireg.core.moments.memory import Kept, bytes_of, kept_for_backward
from ireg.core.moments.methods import method
from ireg.core.moments.sums import MomentSums, add_up
from ireg.core.norms import norm, norm_of
from ireg.core.types import Batch, LossFn, Params

TENSOR = 2**19
"""Bytes of a tensor between two layers, on the mean, that are fastest on a CPU: more leaves its caches."""
AT_LEAST = 8
"""Minibatches in one pass from which on hooks are faster than the loop on a CPU; measured, see docs/networks.md."""
GRADIENT_MEMORY = 2**28
"""Bytes of minibatch gradients that are formed at once on a CPU, at most."""
MEMORY_ON_ACCELERATOR = 2**31
"""Bytes of a pass on an accelerator, which is busy only with many examples."""

_KEPT: WeakKeyDictionary[LossFn, dict[torch.Size, Kept]] = WeakKeyDictionary()
"""What a backward pass needs in memory, by the shape of the inputs, of losses that were seen."""

SAME = {torch.float64: 1e-8, torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 3e-2}
"""By how much of its norm the check's gradient may be off."""

Layers = dict[nn.Module, dict[str, str]]
"""For each layer the names of its parameters, by attribute."""


class Use(NamedTuple):
    """One call of a layer; `version` counts in-place changes of its outputs."""

    layer: nn.Module
    inputs: Tensor
    outputs: Tensor
    version: int


def layers_of(loss: LossFn, names: Collection[str]) -> Layers:
    """Find the layers of the parameters with these names.

    Args:
        loss: made by `functional_loss`.
        names: of the parameters whose gradients are needed.

    Returns:
        For each layer, the names of its parameters by attribute.

    Raises:
        NotServedError: the loss is none of a module and a criterion, its outputs depend on other examples, or a
            parameter is in a layer of no known kind.
    """
    if not isinstance(loss, ModuleLoss):
        raise NotServedError("hooks need a loss made by functional_loss; choose auto, loop or vmap")
    if couples_examples(loss.module):
        raise NotServedError(f"{type(loss.module).__name__} has BatchNorm, which mixes examples; choose auto or loop")
    layers: Layers = {}
    for place, name in loss.places.items():
        if name not in names:
            continue
        path, _, attribute = place.rpartition(".")
        layer = loss.module.get_submodule(path)
        if layer._forward_pre_hooks:  # as of weight_norm, spectral_norm and prune
            raise NotServedError(
                f"{name} is in a {type(layer).__name__} with hooks, which may compute its weights; choose auto or loop"
            )
        if kind_of(layer) is None:
            raise NotServedError(
                f"{name} is in a {type(layer).__name__}, no kind of layer with a fast way; choose auto or loop, or "
                "register one by ireg.kind"
            )
        layers.setdefault(layer, {})[attribute] = name
    return layers


@method("hooks")
def add_by_hooks(loss: LossFn, batches: Sequence[Batch], chunk_size: int | None, sums: MomentSums) -> None:
    """Add the moments of all minibatches to `sums`, several at a time.

    Raises:
        NotServedError: the module is not served; nothing has been added then.
    """
    layers = layers_of(loss, sums.params)
    assert isinstance(loss, ModuleLoss)
    expected = gradient(loss, sums.params, batches[0])  # alone, as the loop has it
    checked = False
    for inputs, targets in stacks(batches, chunk_size or max(1, minibatches_at_once(loss, sums.params, batches[0]))):
        try:
            losses, outputs, gradients = _gradients(loss, layers, sums.params, inputs, targets)
        except RuntimeError as error:  # of a forward pass that hooks do not serve, as one that works in place
            if checked:
                raise
            raise NotServedError(
                f"{type(loss.module).__name__} by hooks: {str(error).splitlines()[0]}; choose auto or loop"
            ) from error
        if not checked:
            _require_same({name: value[0] for name, value in gradients.items()}, expected)
            checked = True
        norms = [sums.add_gradients(name, gradients[name]) for name in sums.params]
        sums.add_minibatches(losses, outputs, add_up(norms))


def pays(loss: LossFn, params: Params, batch: Batch) -> bool:
    """Say whether hooks are faster than the loop: on a CPU where minibatches are small, elsewhere always.

    Args:
        loss: of a minibatch.
        params: their device decides by what.
        batch: one minibatch, which stands for all.
    """
    if next(iter(params.values())).device.type != "cpu":
        return True
    # The first needs no forward pass.
    return _by_gradients(params) >= AT_LEAST and minibatches_at_once(loss, params, batch) >= AT_LEAST


def _by_gradients(params: Params) -> int:
    """Return how many minibatches' gradients are formed at once on a CPU, at most."""
    return GRADIENT_MEMORY // max(1, bytes_of(params))


def minibatches_at_once(loss: LossFn, params: Params, batch: Batch) -> int:
    """Return how many minibatches are fastest in one pass; 0 where one is already too large.

    Args:
        loss: of a minibatch.
        params: their device decides by what.
        batch: one minibatch, which stands for all.
    """
    of_loss = _KEPT.setdefault(loss, {})
    shape = batch[0].shape
    if shape not in of_loss:
        of_loss[shape] = kept_for_backward(loss, params, batch)
    kept = of_loss[shape]
    if next(iter(params.values())).device.type == "cpu":
        return min(int(TENSOR / max(1.0, kept.mean)), _by_gradients(params))
    return MEMORY_ON_ACCELERATOR // max(1, kept.size + bytes_of(params))


def _require_same(batched: Params, expected: Params) -> None:
    """Compare a minibatch's gradient with that of the loop.

    Raises:
        NotServedError: they differ.
    """
    whole = float(norm(expected))
    for name, value in expected.items():
        off, size = norm_of(batched[name] - value), norm_of(value)
        tolerance = SAME[value.dtype]
        if not float(off) <= tolerance * (float(size) + tolerance * whole):
            raise NotServedError(
                f"the gradient of {name} is another by hooks than alone (off by {float(off):.2g} of "
                f"{float(size):.2g}): it is used outside of its layer, or examples of different minibatches are mixed; "
                "choose auto or loop"
            )


def _gradients(
    loss: ModuleLoss, layers: Layers, params: Params, inputs: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor, Params]:
    """Compute losses (c,), outputs (c, examples, …) and gradients (c, *shape) of c minibatches."""
    count, examples = inputs.shape[:2]
    with torch.enable_grad(), _recorded(loss.module, layers) as uses:
        outputs = loss.outputs(params, inputs.flatten(0, 1))
        if any(use.outputs._version != use.version for use in uses):
            raise NotServedError("a layer's outputs are changed in place; choose auto or loop")
        if len(outputs) != count * examples:
            raise NotServedError(
                f"outputs of shape {tuple(outputs.shape)} for {count * examples} examples; choose loop"
            )
        outputs = outputs.unflatten(0, (count, examples))
        losses = torch.stack([loss.criterion(*batch) for batch in zip(outputs, targets, strict=True)])
        sensitivities = torch.autograd.grad(
            losses.sum(), [use.outputs for use in uses], allow_unused=True, materialize_grads=True
        )
    gradients: Params = {}
    with torch.no_grad():
        for use, sensitivity in zip(uses, sensitivities, strict=True):
            split = [_split(values, count) for values in (use.inputs, sensitivity)]
            kind = kind_of(use.layer)
            assert kind is not None  # see `layers_of`
            by_attribute = kind(use.layer, *split)
            for attribute, name in layers[use.layer].items():
                gradients[name] = (
                    by_attribute[attribute] if name not in gradients else gradients[name] + by_attribute[attribute]
                )
    zeros = {name: value.new_zeros(count, *value.shape) for name, value in params.items() if name not in gradients}
    return losses.detach(), outputs.detach(), gradients | zeros


def _split(values: Tensor, count: int) -> Tensor:
    """Separate the minibatches, where examples may have become more rows."""
    if len(values) % count:
        raise NotServedError(f"a layer's tensor of shape {tuple(values.shape)} for {count} minibatches; choose loop")
    return values.unflatten(0, (count, -1))


@contextmanager
def _recorded(module: nn.Module, layers: Layers) -> Iterator[list[Use]]:
    """Record all calls of the layers in the block.

    Each output is made to require a gradient. Layers that would work in place do not: what they overwrite is recorded.
    """
    uses: list[Use] = []

    def hook(layer: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor:
        if len(arguments) != 1:
            raise NotServedError(f"{type(layer).__name__} is called with {len(arguments)} arguments by position, not 1")
        output = output if output.requires_grad else output.detach().requires_grad_()
        uses.append(Use(layer, arguments[0].detach(), output, output._version))
        return output

    handles = [layer.register_forward_hook(hook) for layer in layers]
    in_place: list[Any] = [layer for layer in module.modules() if getattr(layer, "inplace", False) is True]
    try:
        for function in in_place:
            function.inplace = False
        yield uses
    finally:
        for handle in handles:
            handle.remove()
        for function in in_place:
            function.inplace = True
