"""Runs are found wherever links lead, once each."""

import pytest

from ireg.analysis import load
from ireg.runs.find import STATUS, find_runs, run_folders
from ireg.sweeps.progress import ProgressDisplay
from ireg.sweeps.table import look

TAGS = {"train/error": [0.9, 0.5]}


@pytest.fixture
def sweep(make_run, tmp_path):
    """Two runs, of which one was moved to another disk; links that lead round, nowhere, and to a run that is there."""
    for name in ("0", "1", "deep/er/2"):
        sweep = make_run(name, TAGS)
    (sweep / "1").rename(tmp_path / "disk")
    (sweep / "1").symlink_to(tmp_path / "disk")
    (sweep / "0" / "round").symlink_to(sweep)
    (sweep / "itself").symlink_to(sweep / "itself")
    (sweep / "nowhere").symlink_to(tmp_path / "nowhere")
    (sweep / "A-latest").symlink_to(sweep / "0")
    return sweep


def test_runs_are_found_through_links_once_each(sweep):
    names = ["0", "1", "deep/er/2"]
    assert run_folders(sweep) == [sweep / name for name in names]
    assert run_folders(sweep / "1") == [sweep / "1"]
    assert list(load(sweep)["run"].unique()) == names
    assert sorted(run.name for run in look(sweep)) == names
    assert ProgressDisplay(sweep).folders == [sweep / name for name in names]
    assert find_runs([sweep / "1", sweep, sweep / "0"]) == [sweep / name for name in ("1", "0", "deep/er/2")]


def test_a_link_to_a_folder_above_is_not_followed(sweep, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / STATUS).touch()
    expected = run_folders(sweep)
    (sweep / "above").symlink_to(tmp_path)
    assert run_folders(sweep) == expected
    assert len(run_folders(tmp_path)) > len(expected)


def test_what_is_no_folder_holds_no_runs(tmp_path):
    (tmp_path / STATUS).mkdir()
    (tmp_path / "file").touch()
    assert run_folders(tmp_path) == run_folders(tmp_path / "file") == run_folders(tmp_path / "nowhere") == []
