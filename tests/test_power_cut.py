"""A power cut leaves of each file what was flushed, and of each folder the names that were: nothing flushed is lost."""

import os
import shutil
from pathlib import Path

import pytest

from ireg.config.schema import REQUIRED
from ireg.runs.metrics import read_rows
from ireg.runs.status import read_status
from ireg.system import files
from tests.content import differences, run_content

ARGUMENTS = ("epochs=3", "optimizer=adam", "lr=1e-2", "data=digits", "data.train_size=100", "model.hidden=[8]")
DURABLE = ("status.json", "metrics.csv", "last.ckpt")


class PowerCut(BaseException):
    """Ends everything."""


class Disk:
    """What a disk holds of a folder, by the calls that flush.

    Files that were never flushed are empty there. Names are there once their folder was flushed, or at once.

    Args:
        folder: the folder.
        monkeypatch: replaces the calls.
        cut_at: number of the call, of `fsync` or `replace`, at whose end the power is cut; 0: never.
        names_at_once: whether a new name is on the disk with the rename, as on some file systems.
    """

    def __init__(self, folder, monkeypatch, cut_at=0, *, names_at_once=False):
        self.folder, self.cut_at, self.names_at_once = folder, cut_at, names_at_once
        self.contents, self.places, self.calls = {}, {}, []
        flush, replace = os.fsync, os.replace

        def fsync(handle):
            flush(handle)
            place = Path(os.readlink(f"/proc/self/fd/{handle}"))
            if place.is_dir():
                self.note_names(place)
            else:
                self.contents[place.stat().st_ino] = place.read_bytes()
            self.note(f"flush {place.name}")

        def replacing(source, target):
            replace(source, target)
            if self.names_at_once:
                self.note_names(Path(target).parent)
            self.note(f"rename {Path(target).name}")

        monkeypatch.setattr(os, "fsync", fsync)
        monkeypatch.setattr(os, "replace", replacing)

    def note(self, call):
        self.calls.append(call)
        if len(self.calls) == self.cut_at:
            raise PowerCut

    def note_names(self, place):
        self.places[place] = {path.name: path.stat().st_ino for path in place.iterdir() if path.is_file()}

    def after_the_cut(self):
        """Make the folder what the disk holds of it."""
        shutil.rmtree(self.folder)
        self.folder.mkdir()
        for place, names in self.places.items():
            place.mkdir(exist_ok=True)
            for name, inode in names.items():
                (place / name).write_bytes(self.contents.get(inode, b""))


def flushed_epochs(folder):
    """How many epochs the checkpoints and rows there have behind them."""
    import torch

    last = folder / "checkpoints" / "last.ckpt"
    previous = last.with_name("previous.ckpt")
    found = [path for path in (last, previous) if path.exists() and path.stat().st_size]
    return torch.load(found[0], weights_only=True)["epoch"] + 1 if found else 0


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    made = {}

    def get(small_run):
        if not made:
            folder = tmp_path_factory.mktemp("unbroken")
            with pytest.MonkeyPatch.context() as patch:
                disk = Disk(folder, patch)
                small_run(folder, *ARGUMENTS)
            made["content"], made["calls"] = run_content(folder), disk.calls
        return made["content"], made["calls"]

    return get


def cut(folder, small_run, monkeypatch, place, *, names_at_once):
    with monkeypatch.context() as patch:
        disk = Disk(folder, patch, place, names_at_once=names_at_once)
        with pytest.raises(PowerCut):
            small_run(folder, *ARGUMENTS)
    disk.after_the_cut()


def before_the_last_checkpoint(calls):
    return [number for number, call in enumerate(calls) if call == "rename last.ckpt"][-1]


@pytest.mark.parametrize("names_at_once", [False, True])
@pytest.mark.parametrize("share", [0.15, 0.5, 0.85])
def test_a_power_cut_loses_nothing_that_was_flushed(tmp_path, small_run, unbroken, monkeypatch, share, names_at_once):
    content, calls = unbroken(small_run)
    check(tmp_path / "run", small_run, content, monkeypatch, round(share * len(calls)), names_at_once)


@pytest.mark.slow
@pytest.mark.parametrize("names_at_once", [False, True])
def test_a_power_cut_at_any_flush_or_rename(tmp_path, small_run, unbroken, monkeypatch, names_at_once):
    content, calls = unbroken(small_run)
    for place in range(1, len(calls) + 1):
        check(tmp_path / f"run {place}", small_run, content, monkeypatch, place, names_at_once)


def check(folder, small_run, content, monkeypatch, place, names_at_once):
    cut(folder, small_run, monkeypatch, place, names_at_once=names_at_once)
    flushed = flushed_epochs(folder)
    empty = [path.name for path in folder.rglob("*") if path.is_file() and not path.stat().st_size]
    assert not set(empty) & {*DURABLE, "previous.ckpt"}
    small_run(folder, *ARGUMENTS)
    assert differences(run_content(folder), content) == []
    status = read_status(folder)
    assert status["starts"][-1].get("epoch", 0) >= flushed


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b""), lambda path: os.truncate(path, 100)])
@pytest.mark.parametrize("name", ["metrics.csv", "checkpoints/last.ckpt", "labels.npz"])
def test_a_file_that_is_empty_or_torn_after_all(tmp_path, small_run, unbroken, monkeypatch, name, damage):
    content, calls = unbroken(small_run)
    folder = tmp_path / "run"
    cut(folder, small_run, monkeypatch, before_the_last_checkpoint(calls) + 1, names_at_once=True)
    damage(folder / name)
    small_run(folder, *ARGUMENTS)
    kept = {path.relative_to(folder).as_posix() for path in folder.rglob("*.unusable-*")}
    found = {key: value for key, value in run_content(folder).items() if key not in kept}
    assert differences(found, content) == []


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b""), lambda path: os.truncate(path, 100)])
def test_a_status_that_is_empty_is_deleted_alone(tmp_path, small_run, unbroken, monkeypatch, damage):
    content, calls = unbroken(small_run)
    folder = tmp_path / "run"
    cut(folder, small_run, monkeypatch, before_the_last_checkpoint(calls), names_at_once=True)
    damage(folder / "status.json")
    with pytest.raises(ValueError, match=r"delete this file alone, and the command that began the run resumes it"):
        small_run(folder, *ARGUMENTS)
    (folder / "status.json").unlink()
    before = flushed_epochs(folder)
    assert before == 2
    small_run(folder, *ARGUMENTS)
    assert read_status(folder)["starts"][-1]["epoch"] == before
    assert differences(run_content(folder), content) == []


def test_rows_without_checkpoint_and_status_are_kept(tmp_path, small_run, unbroken, monkeypatch, caplog):
    _, calls = unbroken(small_run)
    folder = tmp_path / "run"
    cut(folder, small_run, monkeypatch, before_the_last_checkpoint(calls), names_at_once=True)
    rows = read_rows(folder / "metrics.csv")
    shutil.rmtree(folder / "checkpoints")
    (folder / "status.json").unlink()
    (folder / ".hydra").mkdir()
    with pytest.raises(ValueError, match="has no status of a run, and holds files"):
        small_run(folder, *ARGUMENTS)
    (folder / ".hydra" / "config.yaml").write_text("".join(f"{key}: 1\n" for key in REQUIRED))
    small_run(folder, *ARGUMENTS)
    assert read_rows(folder / "metrics.csv.unusable-1").keys() == rows.keys()
    assert "they are kept as metrics.csv.unusable-1" in caplog.text
    assert read_rows(folder / "metrics.csv").keys() == {0, 1, 2, 3}


def test_each_replaced_file_is_flushed_before_and_its_folder_after(small_run, unbroken):
    _, calls = unbroken(small_run)
    for name in DURABLE:
        stem, suffix = name.split(".")
        places = [number for number, call in enumerate(calls) if call == f"rename {name}"]
        assert len(places) >= 3
        for place in places:
            before = [call for call in calls[max(place - 2, 0) : place] if not call.startswith("rename")]
            assert before[-1].startswith(f"flush .{stem}.tmp-")
            assert before[-1].endswith(suffix)
            assert calls[place + 1].startswith("flush ")
            assert "." not in calls[place + 1]  # the folder


def test_without_flushing_a_power_cut_loses_it(tmp_path, small_run, unbroken, monkeypatch):
    """The check can fail."""
    content, calls = unbroken(small_run)
    renames = [call for call in calls if call.startswith("rename")]

    def careless(path, *, durable=False, before=None):
        return files_replacing(path, durable=False, before=before)

    files_replacing = files.replacing
    with monkeypatch.context() as patch:
        patch.setattr("ireg.system.files.replacing", careless)
        patch.setattr("ireg.lit.checkpoints.replacing", careless)
        with pytest.raises(AssertionError):
            check(tmp_path / "run", small_run, content, monkeypatch, len(renames) - 3, True)
