"""Gradient moments of stacks of Linear layers, without a backward pass for each minibatch.

With a_i the input and δ_i = ∂(Σ_k Ĉ_k)/∂z_i the sensitivity of a Linear layer z = W a + b at example i, the gradient
of minibatch k with respect to W is g_k = Σ_{i∈k} δ_i a_iᵀ and to b Σ_{i∈k} δ_i. One forward and one backward pass
over many minibatches at once give all a and δ, because no example's output depends on another's. Then

- *ghost*: ‖g_k‖² = Σ_{i,j∈k} (a_i·a_j) (δ_i·δ_j) for the weight: two products of the size of a minibatch, and no g_k is
  formed (the "ghost norm" of per-example gradients: Goodfellow 2015, arXiv:1510.01799; here of minibatches);
  Σ_k g_k is one large product over all examples;
- *layers*: g_k is formed layer by layer, as a product of the minibatch's δ and a; so Σ_k g_k ⊙ g_k is available, too.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ireg.core.batches import stacks
from ireg.core.functional import ModuleLoss, changes_gradients, detached_parameters
from ireg.core.moments.methods import method
from ireg.core.moments.needs import Need
from ireg.core.moments.sensitivities import Buffers, Layer, sensitivities
from ireg.core.moments.sums import MomentSums, add_up
from ireg.core.norms import floor
from ireg.core.types import Batch, LossFn

# Functions that treat numbers, or examples, independently of each other in eval mode.
_EXAMPLEWISE = (
    nn.Flatten,
    nn.Identity,
    nn.Dropout,
    nn.ReLU,
    nn.LeakyReLU,
    nn.ELU,
    nn.SELU,
    nn.GELU,
    nn.SiLU,
    nn.Sigmoid,
    nn.Tanh,
    nn.Softplus,
)

PASSES_TO = "passes_inputs_to"
"""Attribute of a module whose `forward` does no more than call a child: the child's name."""

EXAMPLES_AT_ONCE = 1024
"""Examples in one pass on a CPU: few enough for its caches."""
EXAMPLES_ON_ACCELERATOR = 2**15
"""The same on an accelerator, which is busy only with more."""
GRADIENT_MEMORY = 2**28
"""Bytes of one layer's minibatch gradients formed at once on an accelerator; a CPU is fastest with one at a time."""
OPERATIONS_PER_PASS = 16
"""Multiplications in the time of one number's way through memory; from measurements with 256-wide layers on a CPU."""


def serves(module: nn.Module, input_dimensions: int) -> bool:
    """Say whether `ghost` and `layers` serve a module.

    It must be a Sequential (of Sequentials) of Linear layers and of functions from a list. Each Linear layer is used
    once, shares no parameter, and gets inputs of shape (examples, features). The functions treat every example
    independently, without hooks, in-place work, or dropout in train mode.

    Args:
        module: the module.
        input_dimensions: number of dimensions of its inputs, that of the examples included.
    """
    return leaves_of(module, input_dimensions) is not None


def leaves_of(module: nn.Module, input_dimensions: int) -> list[tuple[str, nn.Module]] | None:
    """List layers and functions by name in the order of use; None if the module is not served.

    Args:
        module: as for `serves`.
        input_dimensions: number of dimensions of its inputs, that of the examples included.
    """
    leaves = _leaves(module)
    if (
        leaves is None
        or changes_gradients(module)
        or len(list(module.parameters())) < len(list(module.named_parameters(remove_duplicate=False)))
    ):
        return None
    for _, leaf in leaves:
        if isinstance(leaf, nn.Flatten):
            input_dimensions = 2
        elif isinstance(leaf, nn.Linear) and input_dimensions != 2:
            return None
    return leaves if any(isinstance(leaf, nn.Linear) for _, leaf in leaves) else None


def _leaves(module: nn.Module, prefix: str = "") -> list[tuple[str, nn.Module]] | None:
    """List layers and functions by name in the order of use; None if there is anything else."""
    if module._forward_hooks or module._forward_pre_hooks:
        return None
    child = module.__dict__.get(PASSES_TO)
    if isinstance(child, str):
        return _leaves(module.get_submodule(child), f"{prefix}{child}.")
    if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
        parts = [_leaves(child, f"{prefix}{name}.") for name, child in module._modules.items() if child is not None]
        return None if None in parts else [leaf for part in parts for leaf in part or []]
    # By exact type: a subclass may do anything in its forward.
    usable = type(module) is nn.Linear or type(module) in _EXAMPLEWISE
    mixing = isinstance(module, nn.Flatten) and (module.start_dim, module.end_dim) != (1, -1)
    random = isinstance(module, nn.Dropout) and module.training
    return None if not usable or mixing or random or getattr(module, "inplace", False) else [(prefix, module)]


def products_pay(module: nn.Module, examples: int, needs: Need) -> bool:
    """Say whether ghost norms are less work than forming the gradients.

    For B examples, and summed over layers: the products take B² (in + out) multiplications, forming g_k takes
    B · in · out. But the mean takes as many, unless g_k has been formed; then forming costs only some passes over
    in · out numbers.

    Args:
        module: a stack of Linear layers.
        examples: B, in a minibatch.
        needs: what is to be computed beside the norms.
    """
    sizes = [(leaf.in_features, leaf.out_features) for leaf in module.modules() if isinstance(leaf, nn.Linear)]
    products = sum(examples**2 * (inputs + outputs) for inputs, outputs in sizes)
    formed = sum(inputs * outputs for inputs, outputs in sizes)
    return products < formed * (OPERATIONS_PER_PASS if Need.MEAN in needs else examples)


@method("ghost")
def add_by_ghost_norms(loss: LossFn, batches: Sequence[Batch], chunk_size: int | None, sums: MomentSums) -> None:
    """Add the moments of all minibatches to `sums` by ghost norms.

    No g_k is formed unless Σ g_k ⊙ g_k is needed, or sums are wide: then products of inputs, or of sensitivities, have
    left the range of their type, where g_k need not.
    """
    _add(loss, batches, chunk_size, sums, form=sums.wide or Need.SQUARE in sums.needs)


@method("layers")
def add_by_layers(loss: LossFn, batches: Sequence[Batch], chunk_size: int | None, sums: MomentSums) -> None:
    """Add the moments of all minibatches to `sums`, layer by layer."""
    _add(loss, batches, chunk_size, sums, form=True)


def _add(loss: LossFn, batches: Sequence[Batch], chunk_size: int | None, sums: MomentSums, *, form: bool) -> None:
    if not isinstance(loss, ModuleLoss):
        raise ValueError("ghost and layers need a loss made by functional_loss; choose auto, loop or vmap")
    leaves = leaves_of(loss.module, batches[0][0].ndim)
    if leaves is None:
        raise ValueError(
            f"{type(loss.module).__name__} is no stack of Linear layers and examplewise functions, which ghost and "
            "layers need; choose auto, loop or vmap"
        )
    params = {**detached_parameters(loss.module), **sums.params}
    on_cpu = next(iter(params.values())).device.type == "cpu"
    at_once = EXAMPLES_AT_ONCE if on_cpu else EXAMPLES_ON_ACCELERATOR
    buffers = Buffers()
    for inputs, targets in stacks(batches, chunk_size or max(1, at_once // len(batches[0][1]))):
        losses, outputs, layers = sensitivities(loss, leaves, params, inputs, targets, buffers)
        memory = 0 if on_cpu else GRADIENT_MEMORY
        norms = [part for layer in layers for part in _add_layer(layer, sums, memory if form else None)]
        sums.add_minibatches(losses, outputs, add_up(norms))


def _add_layer(layer: Layer, sums: MomentSums, memory: int | None) -> list[Tensor | None]:
    """Add one layer's gradients of c minibatches, and return their parts of ‖g_k‖².

    Returns:
        One part (c,) for the weight and one for the bias, of those that are among the parameters of `sums`: others are
        frozen. A part is None where it is not needed.
    """
    weight, bias = f"{layer.prefix}weight", f"{layer.prefix}bias"
    parts: list[Tensor | None] = []
    if weight in sums.params:
        parts.append(_add_weight(weight, layer.inputs, layer.sensitivities, sums, memory))
    if bias in sums.params:
        parts.append(sums.add_gradients(bias, layer.sensitivities.sum(1)))
    return parts


def _add_weight(
    name: str, inputs: Tensor, sensitivities: Tensor, sums: MomentSums, memory: int | None
) -> Tensor | None:
    """Add a weight's gradients of c minibatches, and return their part of ‖g_k‖².

    Up to `memory` bytes of gradients are formed at once, but at least one minibatch's; none with `memory=None`.

    Returns:
        The part, (c,); None where it is not needed.
    """
    if memory is not None:
        at_once = memory // (sums.params[name].numel() * inputs.element_size())
        return _form(name, inputs, sensitivities, sums, at_once)
    norms = None
    if Need.SQ_NORMS in sums.needs:
        # ‖Σ_i δ_i a_iᵀ‖² = Σ_ij (a_i·a_j) (δ_i·δ_j): the sum over both indices of two Gram matrices' product by entry.
        between_inputs = torch.bmm(inputs, inputs.mT)  # (c, examples, examples)
        between_sensitivities = torch.bmm(sensitivities, sensitivities.mT)
        sums.note_lost(_floor(between_inputs) + _floor(between_sensitivities), name)
        norms = sums.note_part(name, between_inputs.mul_(between_sensitivities).flatten(1).sum(1))
    if Need.MEAN in sums.needs:
        sums.mean[name].addmm_(sensitivities.flatten(0, 1).mT, inputs.flatten(0, 1))
    return norms


def _floor(products: Tensor) -> Tensor:
    """Return the ‖g_k‖², (c,), below which products that were too small for their type would show.

    Of B examples' products with each other (c, B, B), the largest is one with itself.
    """
    return products.diagonal(dim1=1, dim2=2).amax(1) * floor(products.dtype, products.shape[1])


def _form(name: str, inputs: Tensor, sensitivities: Tensor, sums: MomentSums, at_once: int) -> Tensor | None:
    """Form and add a weight's gradients, `at_once` at a time; return their ‖g_k‖², (c,), or None."""
    norms: list[Tensor | None]
    if at_once > 1:
        pairs = zip(sensitivities.split(at_once), inputs.split(at_once), strict=True)
        norms = [sums.add_gradients(name, torch.bmm(deltas.mT, values)) for deltas, values in pairs]
    else:  # in one buffer, which stays in a CPU's cache
        gradient = torch.empty_like(sums.params[name])
        pairs = zip(sensitivities.unbind(), inputs.unbind(), strict=True)
        norms = [sums.add_gradient(name, torch.mm(delta.mT, values, out=gradient)) for delta, values in pairs]
    return torch.hstack([part for part in norms if part is not None]) if Need.SQ_NORMS in sums.needs else None
