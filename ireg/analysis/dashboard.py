"""A sweep in TensorBoard: means over seeds, bands, figures, and tables."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pandas as pd

from ireg.analysis.labels import label, short_names, varied_columns
from ireg.analysis.load import is_seed, one_run_a_seed, setting_columns
from ireg.analysis.overview import VALUES
from ireg.runs.find import run_folders
from ireg.runs.hyperparameters import hyperparameters
from ireg.runs.layout import METRICS
from ireg.runs.metrics import STEP, place_of
from ireg.runs.readable import read_records
from ireg.system.files import below

if TYPE_CHECKING:
    from tensorboard.compat.proto.summary_pb2 import Summary

    from ireg.events import Entry

FOLDER = "summary"
"""Where the event files stand in a sweep's folder; TensorBoard shows it as a run."""

PINNED = ("train/error", "test/error", "ireg/sgd", "norm/l2")
"""The quantities of the paper's four figures."""

BANDS = (*PINNED, "fit/memorized", "ireg/own")
"""What the CUSTOM SCALARS tab shows with mean, smallest and largest."""

_OWN = re.compile(r"events\.out\.tfevents\.\d+\.ireg")
"""The names of our event files there."""

_MEAN, _SMALLEST, _LARGEST = "mean", "smallest", "largest"


def link(folder: Path, port: int) -> str:
    """Return the address of the paper's four figures in TensorBoard.

    TensorBoard is to run on the sweep's folder. The figures are pinned and not smoothed, and an optimizer has one
    colour. Where settings have several seeds, their means are shown.
    """
    cards = json.dumps([{"plugin": "scalars", "tag": tag} for tag in PINNED], separators=(",", ":"))
    given = {"pinnedCards": cards, "smoothing": "0", "runColorGroup": f"regex:^(?:{FOLDER}/)?([a-z]+)"}
    if any(path.is_dir() for path in (folder / FOLDER).glob("*")):
        given["runFilter"] = f"^{FOLDER}/"
    return f"http://localhost:{port}/?" + "&".join(f"{key}={quote(value, safe=':,/')}" for key, value in given.items())


def write_dashboard(
    folder: Path, epochs: pd.DataFrame, texts: Mapping[str, str], figures: Mapping[str, bytes]
) -> list[Path]:
    """Write event files beside those of the runs; return their paths.

    One is of the sweep: the columns of the HPARAMS tab, figures and tables. One is of each setting with several seeds:
    the mean over them by epoch, and the smallest and the largest value. Earlier ones are replaced.

    Args:
        folder: of the sweep.
        epochs: of `load.load`.
        texts: Markdown by tag.
        figures: PNG by tag.

    Raises:
        UserError: a folder for them is a link.
        OSError: a file cannot be written.
    """
    from ireg.events import Entry, write_events

    # TensorBoard reads a folder's files in the order of their names: a later state needs a later name.
    measured = [path / METRICS for path in run_folders(folder) if (path / METRICS).exists()]
    if not measured:
        return []
    latest = max(path.stat().st_mtime_ns for path in measured)
    name = f"events.out.tfevents.{latest // 10**6}.ireg"
    settings = dict(_repeated(epochs))
    summaries = _of_sweep(folder, epochs, texts, figures, bool(settings))
    contents = {folder / FOLDER: [Entry(summary, 0, latest / 1e9) for summary in summaries]}
    contents |= {folder / FOLDER / setting: list(_means(rows)) for setting, rows in settings.items()}
    for place in contents:
        below(folder, *place.relative_to(folder).parts)
    _remove(folder / FOLDER, keep=set(contents), name=name)
    for place, entries in contents.items():
        place.mkdir(exist_ok=True)
        write_events(place / name, entries)
    return [place / name for place in contents]


def _remove(folder: Path, keep: set[Path], name: str) -> None:
    """Remove what an earlier report wrote, and folders that are empty by that."""
    for place in [path for path in (folder, *folder.glob("*")) if path.is_dir() and not path.is_symlink()]:
        written = [path for path in place.iterdir() if _OWN.fullmatch(path.name) and not path.is_dir()]
        for path in written:
            if place not in keep or path.name != name:
                path.unlink()
        if written and place not in keep and not any(place.iterdir()):
            place.rmdir()


def _repeated(epochs: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield folder name and rows of each setting with several seeds, without diverged runs."""
    columns, names = setting_columns(epochs), short_names(varied_columns(epochs))
    taken: set[str] = set()
    for key, rows in epochs[epochs["state"] != "diverged"].groupby(columns, dropna=False):
        of_seeds = one_run_a_seed(rows)
        if of_seeds["run"].nunique() < 2:
            continue
        name = label(dict(zip(columns, key, strict=True)), names, " ").replace("/", "-").strip(".")
        while name in taken:
            name += "'"
        taken.add(name)
        yield name, of_seeds


def _means(rows: pd.DataFrame) -> Iterator[Entry]:
    """Yield mean, smallest and largest value over the runs, by epoch or step."""
    from ireg.events import Entry, scalar

    tags = [column for column in rows if "/" in column and rows[column].notna().any()]
    # Of the epochs that all runs have: a mean over others would jump where a run ends.
    last = int(rows.groupby("run")["epoch"].max().min())
    grouped = rows[rows["epoch"] <= last].groupby("epoch")[tags]
    means, smallest, largest = grouped.mean(), grouped.min(), grouped.max()
    seconds = means["time/epoch"].cumsum() if "time/epoch" in tags else pd.Series(0.0, index=means.index)
    by_steps = STEP in tags and bool(means[STEP].notna().all())
    for tag in tags:
        of_tag = means[tag].dropna()
        for number, (epoch, mean) in enumerate(of_tag.items()):
            at = float(seconds[epoch])
            step = place_of(int(epoch), {STEP: means[STEP][epoch]} if by_steps else {})
            yield Entry(scalar(tag, float(mean), described=number == 0), step, at)
            if tag in BANDS:
                for which, values in ((_MEAN, means), (_SMALLEST, smallest), (_LARGEST, largest)):
                    yield Entry(scalar(_band(tag, which), float(values[tag][epoch])), step, at)


def _band(tag: str, which: str) -> str:
    return f"seeds/{tag}/{which}"


def _of_sweep(
    folder: Path,
    epochs: pd.DataFrame,
    texts: Mapping[str, str],
    figures: Mapping[str, bytes],
    with_bands: bool,
) -> Iterator[Summary]:
    from ireg.events import CHARTS, charts, experiment, picture, text

    tags = [column for column in epochs if "/" in column and epochs[column].notna().any()]
    if differing := _differing(folder):
        yield experiment(differing, tags)
    if with_bands:
        bands = {
            VALUES[tag]: (_band(tag, _MEAN), _band(tag, _SMALLEST), _band(tag, _LARGEST))
            for tag in BANDS
            if tag in tags
        }
        yield charts("mean, smallest and largest over the seeds", {}, bands)
    else:
        yield charts("ireg", CHARTS, {})
    yield from (text(tag, markdown) for tag, markdown in texts.items())
    yield from (picture(tag, png) for tag, png in figures.items())


def _differing(folder: Path) -> dict[str, list[Any]]:
    """List what differs between the runs: values by key, seeds last."""
    statuses = read_records(run_folders(folder)).statuses
    runs = [hyperparameters(path, status) for path, status in statuses.items()]
    keys = dict.fromkeys(key for of_run in runs for key in of_run)
    values = {key: list(dict.fromkeys(of_run[key] for of_run in runs if key in of_run)) for key in keys}
    differing = [key for key in keys if len(values[key]) > 1 or any(key not in of_run for of_run in runs)]
    return {key: values[key] for key in sorted(differing, key=is_seed)}
