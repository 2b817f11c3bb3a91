"""Independent reference values: float64, plain loops over `.backward()`, nothing of ireg."""

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

Gradients = dict[str, Tensor]


def minibatch_gradients(
    module: nn.Module, criterion: Callable[[Tensor, Tensor], Tensor], batches: Sequence[tuple[Tensor, Tensor]]
) -> list[Gradients]:
    """The gradient of each minibatch's mean loss, by name."""
    gradients = []
    for inputs, targets in batches:
        twin = copy.deepcopy(module).double().eval()
        criterion(twin(inputs.double()), targets).backward()
        gradients.append(
            {
                name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
                for name, parameter in twin.named_parameters()
            }
        )
    return gradients


def squared_norm(gradient: Gradients) -> float:
    return sum(float((value * value).sum()) for value in gradient.values())


def mean(gradients: Sequence[Gradients]) -> Gradients:
    return {name: sum(gradient[name] for gradient in gradients) / len(gradients) for name in gradients[0]}


def mean_square(gradients: Sequence[Gradients]) -> Gradients:
    return {name: sum(gradient[name] ** 2 for gradient in gradients) / len(gradients) for name in gradients[0]}


# Each term from its definition, over the list of minibatch gradients.


def sgd(gradients: Sequence[Gradients], lr: float) -> float:
    return lr / (4 * len(gradients)) * sum(squared_norm(gradient) for gradient in gradients)


def full_batch(gradients: Sequence[Gradients], lr: float) -> float:
    return lr / 4 * squared_norm(mean(gradients))


def minibatch_variance(gradients: Sequence[Gradients], lr: float) -> float:
    centre = mean(gradients)
    deviations = [{name: gradient[name] - centre[name] for name in gradient} for gradient in gradients]
    return lr / (4 * len(gradients)) * sum(squared_norm(deviation) for deviation in deviations)


def rmsprop(gradients: Sequence[Gradients], lr: float, second: Gradients) -> float:
    weighted = [{name: second[name] * gradient[name] for name in gradient} for gradient in gradients]
    return lr / (4 * len(gradients)) * sum(squared_norm(gradient) for gradient in weighted)


def l2(params: Gradients) -> float:
    return squared_norm(params) ** 0.5


def distance(params: Gradients, initial: Gradients) -> float:
    return squared_norm({name: params[name] - initial[name] for name in params}) ** 0.5
