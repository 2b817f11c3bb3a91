"""The loggers of a run's rows: metrics.csv with its listener, and TensorBoard."""

import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from tensorboard.compat.proto.summary_pb2 import Summary

from ireg.events import CHARTS, charts, scalar, session_end, session_start
from ireg.runs.metrics import Row, Table, is_finite, place_of
from ireg.runs.ownership import event_files
from ireg.system.files import flush


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
        """Do nothing, as status.json holds the configuration."""

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
        """The empty version: there is one only."""
        return ""


class TensorBoard(TensorBoardLogger):
    """TensorBoard's event files in the run folder: scalars, hyperparameters, overlaid charts.

    Scalars are by epoch, or by step where the rows are by steps.

    Each scalar has a description: its formula, unit and source, see `ireg.catalogue`. TensorBoard finds the columns of
    its HPARAMS tab: what was set for the runs, where it differs between them, and all tags that they measured.

    A run that resumes gets a new file that begins with its earlier rows and takes the place of its files before:
    whether these were cut off within a record, or have rows that the run has lost or will write again, is then no
    matter. A TensorBoard that has read the old files drops what it knows (`purge_step`).

    Args:
        folder: the run folder.
        hyperparameters: the columns of the HPARAMS tab.
        with_charts: lay tags over one another in the CUSTOM SCALARS tab; in a sweep its report does that for all runs.
        earlier: the rows of a run that resumes, by epoch.
        replaced: its event files before, which the new one takes the place of; those of others stay.
    """

    def __init__(
        self,
        folder: Path,
        hyperparameters: Mapping[str, Any],
        with_charts: bool = True,
        earlier: Mapping[int, Row] | None = None,
        replaced: Sequence[Path] = (),
    ) -> None:
        super().__init__(
            folder, name="", version="", default_hp_metric=False, flush_secs=10, purge_step=0 if earlier else None
        )
        self._unregistered: dict[str, Any] | None = dict(hyperparameters)
        self._with_charts = with_charts
        self._succeeded = True
        self._described: set[str] = set()
        if earlier:
            self._write_earlier(earlier)
            for path in replaced:
                path.unlink()

    def _write_earlier(self, rows: Mapping[int, Row]) -> None:
        """Write earlier rows as if the run had never stopped, with the wall times of training."""
        first, *others = sorted(rows)
        self.log_metrics(rows[first], place_of(first, rows[first]))
        at = time.time() - sum(rows[epoch].get("time/epoch", 0.0) for epoch in others)
        for epoch in others:
            at += rows[epoch].get("time/epoch", 0.0)
            for tag, value in rows[epoch].items():
                self._add_scalar(tag, value, place_of(epoch, rows[epoch]), at)
        self.save()

    def log_metrics(self, metrics: Row, step: int | None = None) -> None:
        """Add the row of epoch `step`, or of the step of that number in rows by steps."""
        if self._unregistered is not None:
            self._add(session_start(self._unregistered))
            if self._with_charts:
                self._add(charts("ireg", CHARTS, {}))
            self._unregistered = None
        self._succeeded = is_finite(metrics)
        for tag, value in metrics.items():
            self._add_scalar(tag, float(value), step)

    def finalize(self, status: str) -> None:
        """Record how the run ended, as failed if it diverged, and close the file."""
        if self._unregistered is None and status == "success":
            self._add(session_end(succeeded=self._succeeded))
        super().finalize(status)
        for path in event_files(Path(self.log_dir), [{"host": socket.gethostname(), "pid": os.getpid()}]):
            flush(path)

    def _add_scalar(self, tag: str, value: float, step: int | None, at: float | None = None) -> None:
        """Add a scalar, the first time with its description."""
        self._add(scalar(tag, value, described=tag not in self._described), step, at)
        self._described.add(tag)

    def _add(self, summary: Summary, step: int | None = None, at: float | None = None) -> None:
        self.experiment._get_file_writer().add_summary(summary, step, at)

    def save(self) -> None:
        """Flush the event file; hyperparameters need no file of their own beside `.hydra/`."""
        self.experiment.flush()


def end(logger: Logger) -> None:
    """End the run of a logger of Weights & Biases; other loggers have no run that stays open."""
    # Else the next run of the process would count as a part of this one.
    if isinstance(logger, WandbLogger):
        logger.experiment.finish()
