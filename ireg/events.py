"""TensorBoard's event files: scalars with descriptions, hyperparameters, charts, pictures, texts.

They are made from TensorBoard's own records; torch is not needed.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.plugins.custom_scalar.layout_pb2 import (
    Category,
    Chart,
    Layout,
    MarginChartContent,
    MultilineChartContent,
)
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams.metadata import PLUGIN_DATA_VERSION, PLUGIN_NAME
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo
from tensorboard.plugins.image.metadata import create_summary_metadata as image_metadata
from tensorboard.plugins.scalar.metadata import create_summary_metadata as scalar_metadata
from tensorboard.plugins.text.metadata import create_summary_metadata as text_metadata
from tensorboard.summary.writer.record_writer import RecordWriter

from ireg.catalogue import CATALOGUE, quantity
from ireg.system.files import write_bytes

FIRST = ("test/error", "train/error", "fit/clean_error", "fit/memorized", "fit/recovered")
"""The first columns of the HPARAMS tab.

All are shares: TensorBoard shows five at first, and among shares no diverged run flattens the others.
"""

CHARTS = {
    "equation 2: whole and parts": ("ireg/sgd", "ireg/full_batch", "ireg/minibatch_variance"),
    "training and test error": ("train/error", "test/error", "holdout/error"),
    "what became of the labels": ("fit/memorized", "fit/recovered", "fit/clean_error"),
}
"""What a single run's CUSTOM SCALARS tab lays over one another, by title."""

_MOST_VALUES = 20
"""Values of a hyperparameter that are listed one by one, evenly spaced in the parallel coordinates."""


class Entry(NamedTuple):
    """A summary, when it was, and after how many epochs."""

    summary: Summary
    step: int = 0
    seconds: float = 0.0


def scalar(tag: str, value: float, *, described: bool = True) -> Summary:
    """Make a scalar, with a description of its tag.

    It is in single precision: TensorBoard's fast loader shows no other.

    Args:
        tag: of the scalar.
        value: of it.
        described: whether it has the description, which the first scalar of a tag needs.
    """
    tensor = TensorProto(dtype="DT_FLOAT", tensor_shape=TensorShapeProto(), float_val=[value])
    metadata = scalar_metadata(display_name="", description=description(tag) if described else "")
    return Summary(value=[Summary.Value(tag=tag, tensor=tensor, metadata=metadata)])


def description(tag: str) -> str:
    """Describe in Markdown what a tag means; empty for tags of others."""
    value = tag if tag in CATALOGUE else tag.removesuffix("_se")  # `ireg/sgd_se`, or `ireg/sgd/0_se` of a layer
    meaning = quantity(value)
    if meaning is None:
        return ""
    error = "standard error of: " if value != tag else ""
    parts = [f"{error}{meaning.title}", meaning.formula and f"`{meaning.formula}`", f"unit: {meaning.unit}"]
    source = meaning.source.replace("[theory](theory.md)", "docs/theory.md")  # TensorBoard has no such page
    parts += [source and f"source: {source}", f"valid for: {meaning.validity or 'all'}"]
    return "  \n".join(filter(None, parts))


def picture(tag: str, png: bytes, text: str = "") -> Summary:
    """Make a picture of a PNG file's bytes.

    Args:
        tag: of the picture.
        png: the file's content.
        text: a description, in Markdown.
    """
    width, height = struct.unpack(">II", png[16:24])  # the header, which every PNG begins with
    return _strings(tag, [str(width).encode(), str(height).encode(), png], image_metadata("", text))


def text(tag: str, markdown: str) -> Summary:
    """Make a text in Markdown."""
    return _strings(tag, [markdown.encode()], text_metadata("", ""))


def session_start(hyperparameters: Mapping[str, Any]) -> Summary:
    """Declare a run of the HPARAMS tab: what was set."""
    start = SessionStartInfo()
    for key, value in hyperparameters.items():
        if isinstance(value, bool):
            start.hparams[key].bool_value = value
        elif isinstance(value, int | float):
            start.hparams[key].number_value = value
        else:
            start.hparams[key].string_value = str(value)
    return _hparams("_hparams_/session_start_info", HParamsPluginData(session_start_info=start))


def session_end(*, succeeded: bool) -> Summary:
    """Declare in the HPARAMS tab how a run ended."""
    status = api_pb2.STATUS_SUCCESS if succeeded else api_pb2.STATUS_FAILURE
    return _hparams("_hparams_/session_end_info", HParamsPluginData(session_end_info=SessionEndInfo(status=status)))


def experiment(values: Mapping[str, Sequence[Any]], tags: Iterable[str]) -> Summary:
    """Declare the columns of the HPARAMS tab: what differs between runs, and the metrics.

    Args:
        values: the distinct values of what differs, by key.
        tags: of the metrics, which are sorted with the shares first.
    """
    columns = api_pb2.Experiment()
    for key, distinct in values.items():
        numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in distinct)
        info = api_pb2.HParamInfo(
            name=key, differs=True, type=api_pb2.DATA_TYPE_FLOAT64 if numbers else api_pb2.DATA_TYPE_STRING
        )
        if numbers and len(distinct) > _MOST_VALUES:
            info.domain_interval.min_value, info.domain_interval.max_value = min(distinct), max(distinct)
        else:
            info.domain_discrete.extend(sorted(distinct) if numbers else sorted(map(str, distinct)))
        columns.hparam_infos.append(info)
    for tag in sorted(dict.fromkeys(tags), key=lambda tag: FIRST.index(tag) if tag in FIRST else len(FIRST)):
        columns.metric_infos.add(name=api_pb2.MetricName(tag=tag), description=description(tag))
    return _hparams("_hparams_/experiment", HParamsPluginData(experiment=columns))


def charts(category: str, lines: Mapping[str, Sequence[str]], margins: Mapping[str, tuple[str, str, str]]) -> Summary:
    """Lay out the CUSTOM SCALARS tab.

    Args:
        category: the heading.
        lines: the tags of each chart that lays several over one another, by title.
        margins: the tags of value, lower and upper bound of each chart with a band, by title.
    """
    laid_out = [
        Chart(title=title, multiline=MultilineChartContent(tag=[f"^{tag}$" for tag in tags]))
        for title, tags in lines.items()
    ]
    for title, (value, lower, upper) in margins.items():
        series = MarginChartContent.Series(value=value, lower=lower, upper=upper)
        laid_out.append(Chart(title=title, margin=MarginChartContent(series=[series])))
    layout = Layout(category=[Category(title=category, chart=laid_out[::-1])])  # TensorBoard shows the last one first
    metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="custom_scalars"))
    return _strings("custom_scalars__config__", [layout.SerializeToString()], metadata)


def write_events(path: Path, entries: Iterable[Entry]) -> None:
    """Write a whole event file at once.

    A TensorBoard that has read an earlier file of the folder drops what it knows.

    Args:
        path: the file, replaced atomically.
        entries: in the order of their times.
    """
    stream = io.BytesIO()
    writer = RecordWriter(stream)
    writer.write(Event(file_version="brain.Event:2").SerializeToString())
    writer.write(Event(session_log=SessionLog(status=SessionLog.START), step=0).SerializeToString())
    for summary, step, seconds in entries:
        writer.write(Event(summary=summary, step=step, wall_time=seconds).SerializeToString())
    write_bytes(path, stream.getvalue())


def _strings(tag: str, values: Sequence[bytes], metadata: SummaryMetadata) -> Summary:
    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=len(values))])
    tensor = TensorProto(dtype="DT_STRING", tensor_shape=shape, string_val=values)
    return Summary(value=[Summary.Value(tag=tag, tensor=tensor, metadata=metadata)])


def _hparams(tag: str, data: HParamsPluginData) -> Summary:
    data.version = PLUGIN_DATA_VERSION
    content = SummaryMetadata.PluginData(plugin_name=PLUGIN_NAME, content=data.SerializeToString())
    return Summary(value=[Summary.Value(tag=tag, metadata=SummaryMetadata(plugin_data=content))])
