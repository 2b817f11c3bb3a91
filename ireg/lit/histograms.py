"""Distributions of parameters and of minibatch gradients' norms in TensorBoard."""

from pathlib import Path

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from ireg.core.moments.needs import Need
from ireg.core.snapshot import Snapshot

FOLDER = "histograms"
"""Where they stand in a run's folder, apart from the rows: a run that resumes writes its rows again."""


class Histograms:
    """A writer of distributions at each measured epoch.

    These are `weights/<name>` of each parameter, and `gradients/norm` of ‖g_k‖ over the epoch's minibatches, where the
    terms need them all. Values that are not finite are left out.

    Args:
        folder: the run's.
        first: the first epoch that will come; what an earlier start wrote from there on is dropped.
        steps: of an epoch, where rows are by steps; None counts epochs.
    """

    def __init__(self, folder: Path, first: int, steps: int | None = None) -> None:
        self._steps = 1 if steps is None else steps
        self._writer = SummaryWriter(str(folder / FOLDER), purge_step=first * self._steps)

    def __call__(self, epoch: int, snapshot: Snapshot) -> None:
        """Write the distributions of a snapshot."""
        epoch *= self._steps
        for name, values in snapshot.params.items():
            self._add(f"weights/{name}", values, epoch)
        if Need.SQ_NORMS in snapshot.needs and not snapshot.is_sample:
            self._add("gradients/norm", snapshot.moments.sq_norms.sqrt(), epoch)
        self._writer.flush()

    def _add(self, tag: str, values: Tensor, epoch: int) -> None:
        finite = values[values.isfinite()]
        if finite.numel():
            self._writer.add_histogram(tag, finite, epoch)
