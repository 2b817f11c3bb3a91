"""Locks where the file system has none, and looks at them; who holds a folder is tested in tests/sweeps."""

import errno
import fcntl
import io
import os
import re

import pytest
from rich.console import Console

from ireg.data import idx
from ireg.runs.lock import is_locked, locked
from ireg.runs.status import note_killed, read_status
from ireg.sweeps import __main__ as command
from ireg.sweeps.plan import add_to_plan
from ireg.system.errors import UserError
from tests.sweeps.test_main import make_run


@pytest.fixture(params=[errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, 524], ids=str)
def no_locks(request, monkeypatch):
    """A file system as NFS and Lustre may be mounted; 524 is Linux's own ENOTSUPP."""

    def refuse(file, kind):
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", refuse)
    return f"this file system has no locks ({os.strerror(request.param)})"


def test_a_file_system_without_locks_is_one_line_and_nothing_stays(tmp_path, no_locks):
    line = re.escape(f"{tmp_path}: {no_locks}") + r".*; have it mounted .*, or use another with hydra.run.dir=… \(under"
    with pytest.raises(UserError, match=line), locked(tmp_path):
        raise AssertionError("it must not be entered")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="no locks"):
        add_to_plan(tmp_path / "new" / "sweep", {"run": []})
    assert list(tmp_path.iterdir()) == []


def test_a_data_set_that_is_to_be_downloaded_says_so_too(tmp_path, no_locks, monkeypatch):
    monkeypatch.setattr(idx, "download_url", lambda *_, **__: pytest.fail("it must not begin"))
    with pytest.raises(UserError, match=re.escape(f"{tmp_path}: {no_locks}") + ".*or use another with data.root=…"):
        idx.idx(dataset="MNIST", root=tmp_path, md5=None, train=True)


def content(folder):
    return {path.name: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}


def test_looking_at_runs_needs_no_locks_and_writes_nothing(tmp_path, no_locks):
    """Whether it goes on cannot be seen: its status is believed."""
    folder = make_run(tmp_path / "a", "running")
    (folder / ".lock").touch()
    before = content(tmp_path)
    output = io.StringIO()
    assert is_locked(folder)
    assert command.show(tmp_path, once=True, console=Console(file=output)) == 0
    note_killed(folder)
    assert "1 running" in output.getvalue()
    assert read_status(folder)["state"] == "running"
    assert content(tmp_path) == before


def test_a_look_opens_nothing_for_writing(tmp_path, monkeypatch):
    make_run(tmp_path / "a", "running")
    with locked(tmp_path / "a"):
        pass
    original = os.open

    def reading_only(path, flags, *arguments, **options):
        assert not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        return original(path, flags, *arguments, **options)

    monkeypatch.setattr(os, "open", reading_only)
    assert not is_locked(tmp_path / "a")


def test_a_killed_run_in_anothers_folder_is_left_with_a_warning(tmp_path, caplog):
    folder = make_run(tmp_path / "a", "running")
    (folder / ".lock").mkdir()  # which cannot be opened for writing, not even by root
    note_killed(folder)
    assert f"{folder}: the run was killed, which cannot be noted there (Is a directory)" in caplog.text
    assert read_status(folder)["state"] == "running"
