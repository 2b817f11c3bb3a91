"""Say beforehand how long a measurement takes."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import Optimizer

from ireg.core.moments import SMALLEST
from ireg.core.types import Batch
from ireg.measurement import measure
from ireg.options import require_minibatches


@dataclass(frozen=True)
class Cost:
    """How long a measurement takes.

    Attributes:
        seconds: of the whole.
        per_minibatch: seconds by which each minibatch makes it longer; 0 where all minibatches have been measured.

    Example:
        >>> cost = Cost(seconds=12.0, per_minibatch=0.07)
        >>> cost.seconds / (20 * 60)  # of 20 minutes of training
        0.01
    """

    seconds: float
    per_minibatch: float


def estimate_cost(
    model: nn.Module, batches: Sequence[Batch], *, optimizer: Optimizer | Sequence[Optimizer], **asked: Any
) -> Cost:
    """Estimate how long `ireg.measure` takes with these arguments.

    It measures over 3 minibatches twice, of which the first makes ready what later ones find, and over 6. Time is
    linear in the number of minibatches. Eigenvalues may take more products at other weights.

    Args:
        model: as `ireg.measure` takes it, and so is all else.
        batches: the minibatches of an epoch; few enough are measured themselves.
        optimizer: of the model.
        asked: the other arguments of `ireg.measure`.

    Returns:
        The seconds.

    Raises:
        ValueError: as `ireg.measure`.

    Example:
        >>> import torch
        >>> model = nn.Linear(1, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> batches = 100 * [(torch.ones(1, 1), torch.zeros(1, 1))]
        >>> cost = estimate_cost(model, batches, optimizer=optimizer, criterion=nn.functional.mse_loss)
        >>> cost.seconds < 60
        True
    """
    require_minibatches(batches, pairs=asked.get("criterion") is not None)
    sampled, rates = asked.get("num_batches"), asked.get("rates")

    def seconds(count: int) -> float:
        given = {**asked, "progress": False}
        if sampled is not None:
            given["num_batches"] = count
        elif rates is not None:
            given["rates"] = rates[:count]
        start = time.perf_counter()
        measure(model, batches if sampled is not None else batches[:count], optimizer=optimizer, **given)
        return time.perf_counter() - start

    total = len(batches) if sampled is None else min(sampled, len(batches))
    few, more = SMALLEST, 2 * SMALLEST
    seconds(min(few, total))
    if total <= more:
        return Cost(seconds(total), 0.0)
    first = seconds(few)
    slope = max(0.0, (seconds(more) - first) / (more - few))
    return Cost(first + slope * (total - few), slope)
