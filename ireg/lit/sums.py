"""Sums over an epoch of training as it runs, and the row that they make."""

from __future__ import annotations

import torch
from torch import Tensor


class EpochSums:
    """Running sums over the minibatches of an epoch.

    They stay tensors, so that no step waits for the device, and are read once an epoch.

    Args:
        device: of the losses.

    Attributes:
        minibatches: the indices of each minibatch's examples, in the order of the steps.

    Example:
        >>> sums = EpochSums(torch.device("cpu"))
        >>> sums.add(torch.tensor([0, 2]), torch.tensor(1.0), wrong=torch.tensor(1))
        >>> sums.add(torch.tensor([1]), torch.tensor(0.5), wrong=torch.tensor(0))
        >>> sums.row()["train/loss"]  # of two minibatches
        0.75
    """

    def __init__(self, device: torch.device) -> None:
        self.minibatches: list[Tensor] = []
        self._loss = torch.zeros((), device=device)
        self._wrong = torch.zeros((), device=device, dtype=torch.long)
        self._penalty = torch.zeros((), device=device)
        self._penalized = False
        self._labels = 0

    def add(
        self,
        indices: Tensor,
        loss: Tensor,
        *,
        wrong: Tensor,
        penalty: Tensor | None = None,
        labels: int | None = None,
    ) -> None:
        """Add a minibatch.

        Args:
            indices: of its examples, (n,).
            loss: Ĉ_k, 0-d.
            wrong: how many of its labels are not predicted, 0-d.
            penalty: R_k, 0-d; None where nothing but the loss is descended.
            labels: how many it has; None for one an example.
        """
        self._loss.add_(loss)
        self._wrong.add_(wrong)
        if penalty is not None:
            self._penalty.add_(penalty)
            self._penalized = True
        self.minibatches.append(indices)
        self._labels += len(indices) if labels is None else labels

    def row(self) -> dict[str, float]:
        """Return the means of loss and penalty over the minibatches, and of the error over the labels."""
        count = len(self.minibatches)
        row = {"train/loss": float(self._loss) / count, "train/error": int(self._wrong) / self._labels}
        if self._penalized:
            row["penalty/value"] = float(self._penalty) / count
        return row
