"""TensorBoard's own readers find what is written."""

import base64

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from ireg.events import Entry, charts, description, experiment, picture, scalar, text, write_events

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAIAAAADCAIAAAA2iEnWAAAAEklEQVR4nGP4z8DAwMAAoqAUAB3yAgHLVXtYAAAAAElFTkSuQmCC"
)
"""Two pixels wide, three high."""


def read(path):
    return EventAccumulator(str(path), {"tensors": 0}).Reload()


def content(events, tag):
    (event,) = events.Tensors(tag)
    return list(event.tensor_proto.string_val)


def test_pictures_and_texts(tmp_path):
    path = tmp_path / "events.out.tfevents.1.x"
    write_events(path, [Entry(picture("a/b", PNG, "what"), 3, 4.0), Entry(text("c/d", "**é**"))])
    events = read(path)
    assert content(events, "a/b") == [b"2", b"3", PNG]
    assert (events.Tensors("a/b")[0].step, events.Tensors("a/b")[0].wall_time) == (3, 4.0)
    assert content(events, "c/d") == ["**é**".encode()]
    plugins = {tag: data.plugin_data.plugin_name for tag, data in events.summary_metadata.items()}
    assert plugins == {"a/b": "images", "c/d": "text"}
    assert events.summary_metadata["a/b"].summary_description == "what"


def test_scalars_are_single_precision_and_described_once(tmp_path):
    path = tmp_path / "events.out.tfevents.1.x"
    write_events(path, [Entry(scalar("ireg/sgd", 0.1)), Entry(scalar("ireg/sgd", 0.2, described=False), 1)])
    events = read(path)
    assert [event.tensor_proto.dtype for event in events.Tensors("ireg/sgd")] == [1, 1]
    assert [event.tensor_proto.float_val[0] for event in events.Tensors("ireg/sgd")] == pytest.approx([0.1, 0.2])
    assert events.summary_metadata["ireg/sgd"].summary_description == description("ireg/sgd")
    assert scalar("ireg/sgd", 1.0, described=False).value[0].metadata.summary_description == ""


def test_a_layers_term_and_its_standard_error_are_described_as_those_of_the_whole():
    for tag in ("ireg/sgd", "ireg/sgd_se"):
        assert description(tag.replace("sgd", "sgd/blocks.0")) == description(tag) != ""
    assert description("ireg/sgd/0_se").startswith("standard error of: ")
    assert description("curvature/trace_se") != description("curvature/trace")


def test_columns_list_few_values_and_bound_many():
    many = [float(number) for number in range(21)]
    summary = experiment(
        {"lr": [0.1, 0.01], "kind": ["b", "a"], "mixed": [1, "x"], "many": many}, ["x/y", "test/error"]
    )
    found = HParamsPluginData.FromString(summary.value[0].metadata.plugin_data.content).experiment
    columns = {info.name: info for info in found.hparam_infos}
    assert list(columns) == ["lr", "kind", "mixed", "many"]
    assert all(info.differs for info in columns.values())
    assert [value.number_value for value in columns["lr"].domain_discrete.values] == [0.01, 0.1]
    assert [value.string_value for value in columns["kind"].domain_discrete.values] == ["a", "b"]
    assert [value.string_value for value in columns["mixed"].domain_discrete.values] == ["1", "x"]
    assert (columns["many"].domain_interval.min_value, columns["many"].domain_interval.max_value) == (0, 20)
    assert [info.name.tag for info in found.metric_infos] == ["test/error", "x/y"]


def test_charts_of_lines_and_of_bands(tmp_path):
    path = tmp_path / "events.out.tfevents.1.x"
    write_events(path, [Entry(charts("all", {"one": ["a/b", "c/d"]}, {"two": ("m", "l", "u")}))])
    layout = Layout.FromString(content(read(path), "custom_scalars__config__")[0])
    (category,) = layout.category
    two, one = category.chart  # the last one is shown first
    assert list(one.multiline.tag) == ["^a/b$", "^c/d$"]
    assert [(series.value, series.lower, series.upper) for series in two.margin.series] == [("m", "l", "u")]
