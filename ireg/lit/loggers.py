"""Where the rows go: metrics.csv, TensorBoard, and whoever listens."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger

from ireg.runs.metrics import Row, Table


class MetricsFile(Logger):
    """`metrics.csv` as a logger of Lightning's, see `ireg.runs.metrics`.

    Args:
        path: the file.
        listener: called with epoch and row after each row is written.
        earlier: the rows of a run that resumes, by epoch; others that the file holds are dropped with the next row.
    """

    def __init__(
        self, path: Path, listener: Callable[[int, Row], None], earlier: Mapping[int, Row] | None = None
    ) -> None:
        super().__init__()
        self.path = path
        self.listener = listener
        self.table = Table(path, earlier or {})

    def log_metrics(self, metrics: Row, step: int | None = None) -> None:
        """Add the row of epoch `step`.

        Raises:
            ValueError: no epoch is given.
        """
        if step is None:
            raise ValueError("metrics.csv has a row an epoch: step must be the number of completed epochs, got None")
        self.table.write(step, metrics)
        self.listener(step, metrics)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: status.json holds the configuration."""

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.name

    @property
    def save_dir(self) -> str:
        """The run folder, where Lightning puts what its profilers write."""
        return str(self.path.parent)

    @property
    def version(self) -> str:
        """There is one version."""
        return ""


class TensorBoard(TensorBoardLogger):
    """TensorBoard event files: scalars by epoch, hyperparameters, overlaid charts.

    They stand in the run folder.

    The first row registers its tags as the metrics of the HPARAMS tab, which then shows their latest values.

    A run that resumes gets a new file that begins with its earlier rows and takes the place of its files before:
    whether these were cut off within a record, or have rows that the run has lost or will write again, is then no
    matter. A TensorBoard that has read the old files drops what it knows (`purge_step`).

    Args:
        folder: the run folder.
        hyperparameters: the columns of the HPARAMS tab.
        earlier: the rows of a run that resumes, by epoch.
        replaced: its event files before, which the new one takes the place of; those of others stay.
    """

    def __init__(
        self,
        folder: Path,
        hyperparameters: Mapping[str, Any],
        earlier: Mapping[int, Row] | None = None,
        replaced: Sequence[Path] = (),
    ) -> None:
        super().__init__(
            folder, name="", version="", default_hp_metric=False, flush_secs=10, purge_step=0 if earlier else None
        )
        self._unregistered: dict[str, Any] | None = dict(hyperparameters)
        if earlier:
            self._write_earlier(earlier)
            for path in replaced:
                path.unlink()

    def _write_earlier(self, rows: Mapping[int, Row]) -> None:
        """Write rows as if the run had never stopped.

        Their wall times are those of training.
        """
        first, *others = sorted(rows)
        self.log_metrics(rows[first], first)
        at = time.time() - sum(rows[epoch].get("time/epoch", 0.0) for epoch in others)
        for epoch in others:
            at += rows[epoch].get("time/epoch", 0.0)
            for tag, value in rows[epoch].items():
                self.experiment.add_scalar(tag, value, epoch, at)
        self.save()

    def log_metrics(self, metrics: Row, step: int | None = None) -> None:
        """Add the row of epoch `step`."""
        if self._unregistered is None:
            super().log_metrics(metrics, step)
            return
        hyperparameters, self._unregistered = self._unregistered, None
        self.log_hyperparams(hyperparameters, dict(metrics), step)  # logs the metrics, too
        self.experiment.add_custom_scalars(_CHARTS)

    def save(self) -> None:
        """Flush; hyperparameters need no file of their own beside `.hydra/`."""
        self.experiment.flush()


# Charts of TensorBoard's CUSTOM SCALARS tab: each lays several tags over one another.
_CHARTS = {
    "ireg": {
        "equation 2: whole and parts": ["Multiline", ["ireg/sgd", "ireg/full_batch", "ireg/minibatch_variance"]],
        "training and test error": ["Multiline", ["train/error", "test/error"]],
        "what became of the labels": ["Multiline", ["fit/memorized", "fit/recovered", "fit/clean_error"]],
    }
}
