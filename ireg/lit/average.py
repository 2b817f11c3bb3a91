"""An average of the weights, evaluated beside them."""

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchmetrics import MeanMetric

from ireg.objective import Criterion


class AverageOfWeights(nn.Module):
    """The exponential moving average of a network's weights, and its means over the test examples.

    After the first step the average ω̄ is the weights, and after each later one ω̄ ← β ω̄ + (1 − β) ω. Buffers are the
    network's present ones. The average is part of the state, so that a run that resumes has it to the last bit. The
    network itself is left as it is.

    Args:
        model: the network; before training the average is its weights.
        decay: β.
        criterion: the loss.

    Source: Polyak & Juditsky 1992 (averages of weights); `torch.optim.swa_utils.AveragedModel`.
    """

    def __init__(self, model: nn.Module, decay: float, criterion: Criterion) -> None:
        super().__init__()
        self.averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))
        self._criterion = criterion
        # A loss that is not finite must be seen, not left out of the mean.
        self.loss = MeanMetric(nan_strategy="disable")
        self.error = MeanMetric(nan_strategy="disable")

    def step(self, model: nn.Module) -> None:
        """Add the weights after a step."""
        self.averaged.update_parameters(model)

    def reset(self) -> None:
        """Reset the means."""
        self.loss.reset()
        self.error.reset()

    def add(self, inputs: Tensor, labels: Tensor) -> None:
        """Add a batch of test examples."""
        logits = self.averaged(inputs)
        self.loss.update(self._criterion(logits, labels, reduction="none"))
        self.error.update((logits.argmax(-1) != labels).float())

    def means(self) -> dict[str, MeanMetric]:
        """Return the means by tag."""
        return {"test/loss_ema": self.loss, "test/error_ema": self.error}
