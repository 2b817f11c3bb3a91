"""`ireg browse`; TensorBoard itself is tested in tests/browser."""

import os
import sys

import pytest

from ireg.analysis.dashboard import link
from ireg.commands.browse import main


def test_it_prints_the_link_and_becomes_tensorboard(tmp_path, monkeypatch, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "events.out.tfevents.1").touch()
    became = []
    monkeypatch.setattr(os, "execv", lambda program, arguments: became.append((program, arguments)))
    main([str(tmp_path), "--port", "7001"])
    assert capsys.readouterr().out == f"{link(tmp_path, 7001)}\n"
    assert became == [
        (sys.executable, [sys.executable, "-P", "-m", "tensorboard.main", "--logdir", str(tmp_path), "--port", "7001"])
    ]


@pytest.mark.parametrize(("folder", "message"), [("empty", "holds no event files"), ("nowhere", "is not a folder")])
def test_a_folder_without_events_is_refused(tmp_path, capsys, folder, message):
    (tmp_path / "empty").mkdir()
    assert main([str(tmp_path / folder)]) == 2
    assert capsys.readouterr().err == (
        f"error: {str(tmp_path / folder)!r} {message}; name a sweep's folder, like multirun/NAME\n"
    )
