"""One epoch of torch's SGD in every order, against logged values.

With the logged parts A and B, T = Σ η_t and D each weight's share of the rate, the mean over all orders ends, to third
order in the rates, at

    the end of the flow ω̇ = −D∇C(ω) over T, less T D∇(A + B),

C with all that is descended beside the loss. The gradients of A and B are central differences of logged values, weight
by weight: neither their formula nor their code is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import permutations
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torch.optim import SGD

from ireg.certify import textbook
from ireg.certify.certificate import Coefficient, fit, share
from ireg.certify.exchange import Order
from ireg.certify.flows import integrate
from ireg.certify.identity import network
from ireg.certify.textbook import Pair
from ireg.core.random import named_generator
from ireg.measurement import measure
from ireg.regularizers import Minibatch

RATES = (0.01, 0.005, 0.0025)
"""Mean rates of the faster group."""
COUNT = 4
DIFFERENCE = 1e-4
"""Half the distance of a central difference."""
PRECISION = 1e-11
ORDER = 3


def _plain() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 1), nn.Tanh(), nn.Linear(1, 1))


def _normalized() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 1, bias=False), nn.BatchNorm1d(1), nn.Tanh(), nn.Linear(1, 1))


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """An epoch of SGD, and how its terms are logged.

    Attributes:
        model: of the network, in training mode.
        shares: rates of the first layer and of the others, of which the larger is 1.
        decays: weight decay of both.
        schedule: factors of the steps' rates, of mean 1.
        penalty: λ of an explicit penalty (λ/4) ‖g_k‖².
        parts: the tags' names.
        factors: of both parts: 1, or wrong.
        logged: what is changed of all this where the terms are logged, so that they are wrong.
        mode: in which they are logged.
        controls: changes that make a wrong epoch of this one, by what is wrong.
    """

    model: Callable[[], nn.Module] = _plain
    shares: tuple[float, float] = (1.0, 1.0)
    decays: tuple[float, float] = (0.0, 0.0)
    schedule: tuple[float, ...] = (1.0,) * COUNT
    penalty: float = 0.0
    parts: tuple[str, str] = ("full_batch", "minibatch_variance")
    factors: tuple[float, float] = (1.0, 1.0)
    logged: Mapping[str, Any] = field(default_factory=dict)
    mode: str = "as_trained"
    controls: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def optimizer(self, module: nn.Module, rate: float) -> SGD:
        """Make torch's optimizer with a group for the first layer and one for the others.

        Args:
            module: whose parameters.
            rate: the mean rate of a group whose share is 1.
        """
        first, *others = module.children()
        weights = [list(first.parameters()), [value for other in others for value in other.parameters()]]
        groups = zip(weights, self.shares, self.decays, strict=True)
        return SGD(
            [{"params": held, "lr": rate * part, "weight_decay": decay} for held, part, decay in groups], lr=rate
        )


_OWN = ("own_full_batch", "own_variance")
_WRONG: dict[str, Any] = {
    "η/2 for η/4": {"factors": (2.0, 2.0)},
    "the mean part alone": {"factors": (1.0, 0.0)},
    "the variance alone": {"factors": (0.0, 1.0)},
}
_RISING = (0.4, 1.6, 0.8, 1.2)

EPOCHS: Mapping[str, Epoch] = {
    "equations 1 and 2": Epoch(controls=_WRONG),
    "rates that change": Epoch(
        schedule=_RISING, controls=_WRONG | {"the mean rate": {"logged": {"schedule": (1.0,) * COUNT}}}
    ),
    "groups with rates of their own": Epoch(
        shares=(0.3, 1.0), controls=_WRONG | {"the largest rate for all": {"logged": {"shares": (1.0, 1.0)}}}
    ),
    "groups, and rates that change": Epoch(
        shares=(1.0, 0.4), schedule=_RISING,
        controls=_WRONG | {"the mean rate": {"logged": {"schedule": (1.0,) * COUNT}}},
    ),
    "groups with decays of their own": Epoch(
        shares=(0.3, 1.0), decays=(2.0, 1.0), parts=_OWN,
        controls=_WRONG | {"decay left out": {"logged": {"decays": (0.0, 0.0)}}},
    ),
    "an explicit penalty": Epoch(
        penalty=0.5, parts=_OWN, controls=_WRONG | {"penalty left out": {"logged": {"penalty": 0.0}}}
    ),
    "BatchNorm": Epoch(model=_normalized, controls=_WRONG | {"eval mode": {"logged": {"mode": "eval"}}}),
}  # fmt: skip
"""By name."""


def batches(count: int = COUNT) -> list[Pair]:
    """Draw minibatches of six examples with two inputs and one target each, the same every time."""
    generator = named_generator("epochs")
    return [
        (
            torch.randn(6, 2, generator=generator, dtype=torch.float64),
            torch.randn(6, 1, generator=generator, dtype=torch.float64),
        )
        for _ in range(count)
    ]


@dataclass(frozen=True)
class EpochResult:
    """The order of the error, and the measured share of each part by the part's name."""

    order: Order
    coefficients: Mapping[str, Coefficient]

    @property
    def holds(self) -> bool:
        """Whether order and shares are right, and every control is rejected."""
        return self.order.holds and all(coefficient.holds for coefficient in self.coefficients.values())

    @property
    def accepted(self) -> tuple[str, ...]:
        """Controls that pass for the truth."""
        return self.order.accepted


def certify_epoch(epoch: Epoch) -> EpochResult:
    """Compare the mean over all orders with the predicted end."""
    errors: dict[str, list[float]] = {name: [] for name in ("", "no term", *epoch.controls)}
    rests: list[np.ndarray] = []
    effects: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for rate in RATES:
        mean, plain = mean_over_orders(epoch, rate), flow_end(epoch, rate)
        moved = {name: displacements(replace(epoch, **wrong), rate) for name, wrong in epoch.controls.items()}
        moved |= {"": displacements(epoch, rate), "no term": [np.zeros_like(mean)] * 2}
        for name, parts in moved.items():
            errors[name].append(float(np.linalg.norm(mean - plain - sum(parts))))
        rests.append(mean - plain - sum(moved[""]))
        for effect, part in zip(effects, moved[""], strict=True):
            effect.append(part)
    slopes = {name: fit(RATES, values, [0.0] * len(RATES)).slope for name, values in errors.items()}
    exact = [0.0] * len(RATES)
    shares = {name: share(RATES, rests, effect, exact) for name, effect in zip(epoch.parts, effects, strict=True)}
    return EpochResult(Order(order=ORDER, slope=slopes.pop(""), controls=slopes), shares)


def mean_over_orders(epoch: Epoch, rate: float) -> np.ndarray:
    """Take the epoch's steps in every order.

    Args:
        epoch: what is trained.
        rate: the mean rate of a group whose share is 1.

    Returns:
        The mean of the weights at the end, (p,).
    """
    ends = []
    for order in permutations(batches()):
        module = network(epoch.model)
        optimizer = epoch.optimizer(module, rate)
        for (inputs, targets), factor in zip(order, epoch.schedule, strict=True):
            for group, part in zip(optimizer.param_groups, epoch.shares, strict=True):
                group["lr"] = rate * part * factor
            optimizer.zero_grad()
            loss = mse_loss(module(inputs), targets)
            if epoch.penalty:
                gradients = torch.autograd.grad(loss, list(module.parameters()), create_graph=True)
                loss = loss + epoch.penalty / 4 * sum(gradient.square().sum() for gradient in gradients)
            loss.backward()
            optimizer.step()
        ends.append(parameters_to_vector(module.parameters()).detach())
    return torch.stack(ends).mean(0).numpy()


def flow_end(epoch: Epoch, rate: float) -> np.ndarray:
    """Integrate ω̇ = −D∇C over T, C with decay and penalty.

    Args:
        epoch: what is trained.
        rate: the mean rate of a group whose share is 1; T is its sum over the steps.

    Returns:
        The end of the flow, (p,).
    """
    module = network(epoch.model)
    names = [name for name, _ in module.named_parameters()]
    losses = textbook.minibatch_losses(module, names, batches(), mse_loss)
    by_weight, decays = (_by_weight(epoch, module, numbers) for numbers in (epoch.shares, epoch.decays))

    def objective(vector: Tensor) -> Tensor:
        value = torch.stack([loss(vector) for loss in losses]).mean() + (decays * vector.square()).sum() / 2
        if epoch.penalty:
            squares = [textbook.gradient(loss, vector, create_graph=True).square().sum() for loss in losses]
            value = value + epoch.penalty / 4 * torch.stack(squares).mean()
        return value

    def velocity(point: np.ndarray) -> np.ndarray:
        result: np.ndarray = -(by_weight * textbook.gradient(objective, torch.from_numpy(point))).numpy()
        return result

    start = parameters_to_vector(module.parameters()).detach().numpy()
    return integrate(velocity, start, rate * sum(epoch.schedule), PRECISION)


def displacements(epoch: Epoch, rate: float) -> list[np.ndarray]:
    """Compute −T D∇A and −T D∇B by central differences of what is logged.

    Args:
        epoch: what is trained and logged, with the factors of both parts.
        rate: the mean rate of a group whose share is 1.

    Returns:
        Two vectors, (p,) each.
    """
    module = network(epoch.model)
    start = parameters_to_vector(module.parameters()).detach()
    scale = rate * sum(epoch.schedule) * _by_weight(epoch, module, epoch.shares)
    rows = []
    for direction in torch.eye(len(start), dtype=torch.float64):
        above, below = (logged(epoch, start + sign * DIFFERENCE * direction, rate) for sign in (1, -1))
        rows.append([(more - less) / (2 * DIFFERENCE) for more, less in zip(above, below, strict=True)])
    gradients = torch.tensor(rows, dtype=torch.float64).T
    return [(-factor * scale * row).numpy() for factor, row in zip(epoch.factors, gradients, strict=True)]


def logged(epoch: Epoch, point: Tensor, rate: float) -> list[float]:
    """Return both parts at a point, as `ireg.measure` returns them.

    Args:
        epoch: what is trained, before what is changed where its terms are logged.
        point: the weights, (p,).
        rate: the mean rate of a group whose share is 1.
    """
    epoch = replace(epoch, **epoch.logged)
    module = network(epoch.model)
    with torch.no_grad():
        vector_to_parameters(point, module.parameters())
    rates = [[rate * part * factor for part in epoch.shares] for factor in epoch.schedule]
    tags = [f"ireg/{part}" for part in epoch.parts]
    row = measure(
        module, batches(), optimizer=epoch.optimizer(module, rate), criterion=mse_loss, terms=tags, rates=rates,
        regularizer=Minibatch(strength=epoch.penalty) if epoch.penalty else None, mode=epoch.mode,
    )  # fmt: skip
    return [row[tag] for tag in tags]


def _by_weight(epoch: Epoch, module: nn.Module, numbers: tuple[float, float]) -> Tensor:
    """Return a number of each group as a vector by weight, (p,)."""
    first, *others = (list(child.parameters()) for child in module.children())
    sizes = sum(value.numel() for value in first), sum(value.numel() for other in others for value in other)
    return torch.cat(
        [torch.full((size,), number, dtype=torch.float64) for size, number in zip(sizes, numbers, strict=True)]
    )


def all_epochs(chosen: Mapping[str, Epoch] = EPOCHS) -> dict[str, EpochResult]:
    """Compute each epoch's certificate, by its name."""
    return {name: certify_epoch(epoch) for name, epoch in chosen.items()}
