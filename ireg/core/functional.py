"""The door from `torch.nn.Module` to functions of parameters."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.func import functional_call

from ireg.core.types import Batch, LossFn, Params


def functional_loss(module: nn.Module, criterion: Callable[[Tensor, Tensor], Tensor]) -> LossFn:
    """Turn a module and a criterion into `(params, (inputs, targets)) -> mean loss`.

    Args:
        module: called as `module(inputs)`; its own parameters are not used and not changed.
        criterion: `(outputs, targets) -> 0-d tensor`, the mean over the examples, as `nn.functional.cross_entropy`.
    """

    # Looking for shared weights takes a tenth of a small model's pass, so it is done only where there are some.
    shared = len(list(module.named_parameters(remove_duplicate=False))) > len(list(module.named_parameters()))

    def loss(params: Params, batch: Batch) -> Tensor:
        inputs, targets = batch
        return criterion(functional_call(module, params, (inputs,), tie_weights=shared), targets)

    return loss


def detached_parameters(module: nn.Module) -> Params:
    """The module's parameters by name, detached: they share memory with the module, shared weights come once."""
    return {name: parameter.detach() for name, parameter in module.named_parameters()}


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put `module` and its submodules into eval mode, and every one of them back into its own mode at the end."""
    modes = {submodule: submodule.training for submodule in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for submodule, mode in modes.items():
            submodule.training = mode
