"""What TensorBoard shows of a sweep."""

import json
import os
from urllib.parse import parse_qs, urlparse

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from ireg.analysis import write
from ireg.analysis.dashboard import link


@pytest.fixture
def sweep(make_run):
    for optimizer in ("sgd", "adam"):
        for seed in (0, 1, 2):
            tags = {"test/error": [0.9, 0.3 + 0.1 * seed], "norm/l2": [1.0, 2.0 + seed], "time/epoch": [1.0, 2.0]}
            config = {"optimizer.name": optimizer, "lr": 0.1, "seed": seed}
            make_run(f"{optimizer}-{seed}", tags, config)
    return make_run(
        "adam-bad", {"test/error": [0.9, 0.8]}, {"optimizer.name": "adam", "lr": 0.1, "seed": 3}, state="diverged"
    )


def read(folder):
    return EventAccumulator(str(folder), {"tensors": 0}).Reload()


def values(events, tag):
    return [(event.step, round(event.tensor_proto.float_val[0], 6)) for event in events.Tensors(tag)]


def test_each_setting_has_its_mean_and_band(sweep):
    paths = [path for path in write(sweep) if path.suffix == ".ireg"]
    assert [path.parent.relative_to(sweep).as_posix() for path in paths] == ["summary", "summary/adam", "summary/sgd"]
    events = read(sweep / "summary" / "adam")
    assert values(events, "test/error") == [(0, 0.9), (1, 0.4)]  # without the run that diverged
    assert values(events, "seeds/test/error/smallest") == [(0, 0.9), (1, 0.3)]
    assert values(events, "seeds/test/error/largest") == [(0, 0.9), (1, 0.5)]
    assert values(events, "seeds/norm/l2/mean") == [(0, 1.0), (1, 3.0)]
    assert [event.wall_time for event in events.Tensors("test/error")] == [1.0, 3.0]
    assert "test error" in events.summary_metadata["test/error"].summary_description


def test_the_sweep_has_columns_charts_figures_and_tables(sweep):
    write(sweep)
    events = read(sweep / "summary")
    data = events.summary_metadata["_hparams_/experiment"].plugin_data.content
    found = HParamsPluginData.FromString(data).experiment
    assert [info.name for info in found.hparam_infos] == ["optimizer", "seed"]
    assert [info.name.tag for info in found.metric_infos] == ["test/error", "norm/l2", "time/epoch"]
    layout = Layout.FromString(events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    assert [chart.title for chart in layout.category[0].chart] == ["norm", "test error"]
    (series,) = layout.category[0].chart[1].margin.series
    assert series.lower == "seeds/test/error/smallest"
    texts = {
        tag: events.Tensors(tag)[0].tensor_proto.string_val[0].decode()
        for tag in events.Tags()["tensors"]
        if tag.startswith("sweep/")
    }
    assert "7 runs: 6 done, 1 diverged" in texts["sweep/what was run"]
    assert texts["sweep/settings"].startswith("| setting | seeds | test error |")
    assert "- best: " in texts["sweep/best"]
    assert {tag for tag in events.Tags()["tensors"] if tag.startswith("figures/")} >= {"figures/1 test_error"}


def test_a_later_report_takes_the_place_of_an_earlier_one(sweep, make_run):
    write(sweep)
    theirs = sweep / "summary" / "notes.txt"
    theirs.touch()
    before = {path.relative_to(sweep) for path in sweep.rglob("*.ireg")}
    write(sweep)
    assert {path.relative_to(sweep) for path in sweep.rglob("*.ireg")} == before  # nothing new, the same files
    for seed in (0, 1):
        make_run(f"more-{seed}", {"test/error": [0.9, 0.1]}, {"optimizer.name": "sgd", "lr": 1.0, "seed": seed})
        later = 2 + max(path.stat().st_mtime for path in sweep.rglob("metrics.csv"))
        os.utime(sweep / f"more-{seed}" / "metrics.csv", (later, later))
    write(sweep)
    after = {path.relative_to(sweep) for path in sweep.rglob("*.ireg")}
    assert not before & after
    assert {path.parent.name for path in after} == {"summary", "adam lr=0.1", "sgd lr=0.1", "sgd lr=1"}
    assert not (sweep / "summary" / "adam").exists()
    assert theirs.exists()


def test_one_seed_has_no_means(make_run):
    for optimizer in ("sgd", "adam"):
        sweep = make_run(f"a/{optimizer}", {"ireg/sgd": [1.0, 2.0]}, {"optimizer.name": optimizer})
    write(sweep)
    assert [path.parent.name for path in sweep.rglob("*.ireg")] == ["summary"]
    layout = Layout.FromString(
        read(sweep / "summary").Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    )
    assert [chart.WhichOneof("content") for chart in layout.category[0].chart] == ["multiline"] * 3
    assert "runFilter" not in link(sweep, 6006)


def test_a_single_run_has_its_own_events_only(make_run):
    make_run("one", {"test/error": [0.9, 0.1]}, {})
    run = make_run("two", {"test/error": [0.9, 0.1]}, {}) / "two"
    write(run)
    assert not (run / "summary").exists()


def test_names_that_are_no_folder_names(make_run):
    for place in ("/a", "-a"):
        for seed in (0, 1):
            sweep = make_run(f"{place[0] == '/'}{seed}", {"x/y": [1.0]}, {"data.root": place, "seed": seed})
    write(sweep)
    assert sorted(path.parent.name for path in sweep.glob("summary/*/*")) == ["sgd root=-a", "sgd root=-a'"]


def test_the_link_pins_the_papers_figures(sweep):
    write(sweep)
    address = urlparse(link(sweep, 6007))
    assert address.netloc == "localhost:6007"
    given = {key: value for key, (value,) in parse_qs(address.query).items()}
    assert [card["tag"] for card in json.loads(given["pinnedCards"])] == [
        "train/error", "test/error", "ireg/sgd", "norm/l2",
    ]  # fmt: skip
    assert given["smoothing"] == "0"
    assert given["runFilter"] == "^summary/"
    assert given["runColorGroup"] == "regex:^(?:summary/)?([a-z]+)"
