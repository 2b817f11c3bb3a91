"""Independent reference values: float64, plain loops over `.backward()`, nothing of ireg."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Gradients = dict[str, Tensor]


def minibatch_gradients(
    module: nn.Module,
    criterion: Callable[[Tensor, Tensor], Tensor],
    batches: Sequence[tuple[Tensor, Tensor]],
    training: bool = False,
) -> list[Gradients]:
    """The gradient of each minibatch's mean loss, by name, in training or in eval mode."""
    gradients = []
    for inputs, targets in batches:
        twin = copy.deepcopy(module).double().train(training)
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


@dataclass(frozen=True, kw_only=True)
class Rule:
    """An update rule in numbers: η_e, L, and the tail shares c rᵈ of its memory; for adaptive ones ρ, ε and β of F, and
    the steps by which V lags; weight decay added to the gradient, or decoupled from it."""

    rate: float
    lag: float = 0.0
    tail: tuple[float, float] = (1.0, 0.0)
    rho: float | None = None
    eps: float = 0.0
    beta: float = 0.0
    steps: float = 0.0
    decay: float = 0.0
    decoupled: float = 0.0


def overlap(decay: float, num_batches: int) -> float:
    """τ, by its closed form."""
    m, r = num_batches, decay
    return 0.0 if m == 1 else 2 / (m * (m - 1)) * r * (m * (1 - r) - (1 - r**m)) / (1 - r) ** 2


def own(gradients: Sequence[Gradients], rule: Rule, params: Gradients, scale: Gradients) -> tuple[float, float]:
    """The two parts of the optimizer's own regularizer, with P given."""
    m, centre = len(gradients), mean(gradients)
    descended = {
        name: centre[name] + rule.decay * params[name] + rule.decoupled * params[name] / scale[name] for name in centre
    }

    def norm(vector: Gradients) -> float:
        return sum(float((scale[name] * vector[name] ** 2).sum()) for name in vector)

    spread = sum(norm({name: gradient[name] - centre[name] for name in gradient}) for gradient in gradients) / m
    unlike = 1 - rule.tail[0] * overlap(rule.tail[1], m)
    return rule.rate / 4 * (1 + 2 * rule.lag) * norm(descended), rule.rate / 4 * unlike * spread


def flat(params: Gradients) -> Tensor:
    return torch.cat([value.detach().flatten() for value in params.values()])


def dense(
    module: nn.Module,
    criterion: Callable[[Tensor, Tensor], Tensor],
    batches: Sequence[tuple[Tensor, Tensor]],
    decay: float = 0.0,
    moving: Sequence[str] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Parameters, gradients (m, p) and Hessians (m, p, p) of the minibatches' losses with (decay/2) ‖ω‖² added; of all
    parameters, or of those with these names."""
    parameters = {name: value for name, value in module.named_parameters() if moving is None or name in moving}
    shapes = {name: value.shape for name, value in parameters.items()}
    point = flat(parameters)
    gradients, hessians = [], []
    for inputs, targets in batches:

        def value(vector: Tensor, inputs: Tensor = inputs, targets: Tensor = targets) -> Tensor:
            parts = vector.split([shape.numel() for shape in shapes.values()])
            params = {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
            outputs = torch.func.functional_call(module, params, (inputs,))
            return criterion(outputs, targets) + decay / 2 * vector.square().sum()

        gradients.append(torch.autograd.functional.jacobian(value, point))
        hessians.append(torch.autograd.functional.hessian(value, point))
    return point, torch.stack(gradients), torch.stack(hessians)


def mean_flow(point: Tensor, g: Tensor, hessians: Tensor, rule: Rule) -> dict[str, Tensor | None]:
    """u, M, V, F and ∇Q as docs/theory.md prints them; g and hessians with weight decay, if it is not decoupled."""
    m, centre, hessian = len(g), g.mean(0), hessians.mean(0)

    def along(vectors: Tensor) -> Tensor:
        return torch.stack([h @ vector for h, vector in zip(hessians, vectors, strict=True)])

    s = g.square().mean(0)
    p = torch.ones_like(s) if rule.rho is None else 1 / (s.sqrt() + rule.eps)
    u = p * centre + rule.decoupled * point
    tau = rule.tail[0] * overlap(rule.tail[1], m)
    pairs = along(p * g).mean(0) - hessian @ (p * centre)
    memory = rule.rate / 2 * (p * ((1 + 2 * rule.lag) * hessian @ u + (1 - tau) * pairs) + rule.decoupled * u)
    flow: dict[str, Tensor | None] = {"u": u, "M": memory, "V": None, "F": None, "∇Q": 2 * along(g).mean(0)}
    if rule.rho is None:
        return flow
    rho, beta, eps, root = rule.rho, rule.beta, rule.eps, s.sqrt()
    first = -0.5 / (root * (root + eps) ** 2)
    second = 0.25 * s**-1.5 * (root + eps) ** -2 + 0.5 / s * (root + eps) ** -3
    covariance, variance = (g**3).mean(0) - centre * s, (g**4).mean(0) - s**2
    tau_rho, tau_beta = overlap(rho, m), overlap(beta, m)
    of_covariance = (1 - rho) * (1 - beta) / (1 - beta * rho) * (1 - (tau_rho + tau_beta) / 2)
    of_variance = (1 - rho) / (2 * (1 + rho)) * (1 - tau_rho)
    flow["V"] = rule.rate * rule.steps * centre * first * 2 * (g * along(u.expand_as(g))).mean(0)
    flow["F"] = of_covariance * first * covariance + of_variance * second * centre * variance
    return flow


def strength(flow: dict[str, Tensor | None], part: Tensor) -> float:
    return float(part.norm() / flow["u"].norm())


def alignment(flow: dict[str, Tensor | None], part: Tensor) -> float:
    return float(part @ flow["∇Q"] / (part.norm() * flow["∇Q"].norm()))


def timeless(monitor):
    """Return a monitor's rows without what differs between equal trainings."""
    return monitor.rows.drop(columns="time/terms")
