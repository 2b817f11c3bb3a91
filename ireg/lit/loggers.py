"""Where the rows go: metrics.csv, TensorBoard, and whoever listens."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.plugins.scalar.metadata import create_summary_metadata
from torch.utils.tensorboard.summary import hparams

from ireg.catalogue import CATALOGUE
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

    Each scalar has a description: its formula, unit and source, see `ireg.catalogue`. The first row registers the
    metrics of the HPARAMS tab, which then shows their latest values.

    A run that resumes gets a new file that begins with its earlier rows and takes the place of its files before:
    whether these were cut off within a record, or have rows that the run has lost or will write again, is then no
    matter. A TensorBoard that has read the old files drops what it knows (`purge_step`).

    Args:
        folder: the run folder.
        hyperparameters: the columns of the HPARAMS tab.
        tags: the tags of its metrics; those of the first row by default.
        earlier: the rows of a run that resumes, by epoch.
        replaced: its event files before, which the new one takes the place of; those of others stay.
    """

    def __init__(
        self,
        folder: Path,
        hyperparameters: Mapping[str, Any],
        tags: Sequence[str] = (),
        earlier: Mapping[int, Row] | None = None,
        replaced: Sequence[Path] = (),
    ) -> None:
        super().__init__(
            folder, name="", version="", default_hp_metric=False, flush_secs=10, purge_step=0 if earlier else None
        )
        self._unregistered: dict[str, Any] | None = dict(hyperparameters)
        self._tags = list(tags)
        self._described: set[str] = set()
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
                self._add(tag, value, epoch, at)
        self.save()

    def log_metrics(self, metrics: Row, step: int | None = None) -> None:
        """Add the row of epoch `step`."""
        if self._unregistered is not None:
            hyperparameters, self._unregistered = self._unregistered, None
            self._register(hyperparameters, self._tags or list(metrics))
        for tag, value in metrics.items():
            self._add(tag, float(value), step)

    def _register(self, hyperparameters: Mapping[str, Any], tags: Sequence[str]) -> None:
        """Declare the columns of the HPARAMS tab, errors first, and the charts."""
        plain = {key: value if isinstance(value, int | float) else str(value) for key, value in hyperparameters.items()}
        ordered = dict.fromkeys([*(tag for tag in FIRST if tag in tags), *tags], 0.0)
        writer = self.experiment._get_file_writer()
        for summary in hparams(plain, ordered):
            writer.add_summary(summary)
        self.experiment.add_custom_scalars(_CHARTS)

    def _add(self, tag: str, value: float, step: int | None, at: float | None = None) -> None:
        """Add a scalar, the first time with its description."""
        description = "" if tag in self._described else _description(tag)
        self._described.add(tag)
        # In single precision: TensorBoard's fast loader shows no other.
        tensor = TensorProto(dtype="DT_FLOAT", tensor_shape=TensorShapeProto(), float_val=[value])
        metadata = create_summary_metadata(display_name="", description=description)
        summary = Summary(value=[Summary.Value(tag=tag, tensor=tensor, metadata=metadata)])
        self.experiment._get_file_writer().add_summary(summary, step, at)

    def save(self) -> None:
        """Flush; hyperparameters need no file of their own beside `.hydra/`."""
        self.experiment.flush()


FIRST = ("test/error", "train/error")
"""The first columns of the HPARAMS tab."""


def _description(tag: str) -> str:
    """Say in Markdown what a tag means."""
    quantity = CATALOGUE.get(tag.removesuffix("_se"))
    if quantity is None:
        return ""
    error = "standard error of: " if tag.endswith("_se") and tag not in CATALOGUE else ""
    parts = [f"{error}{quantity.title}", quantity.formula and f"`{quantity.formula}`", f"unit: {quantity.unit}"]
    parts += [quantity.source and f"source: {quantity.source}", f"valid for: {quantity.validity or 'all'}"]
    return "  \n".join(filter(None, parts))


# Charts of TensorBoard's CUSTOM SCALARS tab: each lays several tags over one another.
_CHARTS = {
    "ireg": {
        "equation 2: whole and parts": ["Multiline", ["ireg/sgd", "ireg/full_batch", "ireg/minibatch_variance"]],
        "training and test error": ["Multiline", ["train/error", "test/error"]],
        "what became of the labels": ["Multiline", ["fit/memorized", "fit/recovered", "fit/clean_error"]],
    }
}
