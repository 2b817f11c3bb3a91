"""What became of the training examples: fitted, memorized, recovered."""

import torch
from torch import Tensor

from ireg.data.labels import NoisyLabels
from ireg.objective import Criterion


class TrainingFit:
    """Predictions for the training examples at fixed weights, compared with their labels.

    An example may have several labels, as the characters after those of a block; shares and means are over all of them.

    Args:
        labels: observed, clean and corrupted, each (N, …).
        criterion: the loss.
    """

    def __init__(self, labels: NoisyLabels, criterion: Criterion) -> None:
        self.labels = labels
        self._criterion = criterion
        self._predicted = torch.full_like(labels.observed, -1)
        self._loss_sum = torch.zeros((), device=labels.observed.device)

    def add(self, indices: Tensor, logits: Tensor) -> None:
        """Add the logits of some examples, each of which must come once.

        Args:
            indices: of the examples, (n,).
            logits: of the examples, (n, …, C).
        """
        self._predicted[indices] = logits.argmax(-1)
        self._loss_sum += self._criterion(logits, self.labels.observed[indices], reduction="sum")

    def loss(self) -> float:
        """Return the mean loss on the observed labels of the examples seen."""
        return float(self._loss_sum) / int(self._seen.sum())

    def wrong(self) -> Tensor:
        """Return for each label, (N, …), whether its example was seen and it is not predicted."""
        return self._seen & (self._predicted != self.labels.observed)

    def error(self) -> float:
        """Return the share of the examples seen whose observed label is not predicted."""
        return int(self.wrong().sum()) / int(self._seen.sum())

    @property
    def _seen(self) -> Tensor:
        return self._predicted >= 0

    def shares(self) -> dict[str, float]:
        """Compute the `fit/` tags, shares of the examples seen.

        A share of no examples (no label corrupted, or all) is left out.
        """
        observed, clean, corrupted = self.labels
        shares = {
            "fit/clean_error": (self._predicted != clean, self._seen & ~corrupted),
            "fit/memorized": (self._predicted == observed, self._seen & corrupted),
            "fit/recovered": (self._predicted == clean, self._seen & corrupted),
        }
        # Divided in double precision: a share of 10,000 examples is then the number one expects.
        return {
            tag: int((those & among).sum()) / int(among.sum()) for tag, (those, among) in shares.items() if among.any()
        }
