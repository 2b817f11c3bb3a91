"""`ireg data`."""

import shutil
import sys

import pytest

from ireg.commands.data import main
from ireg.data import packed
from tests.conftest import ROOT


def test_all_data_sets_are_listed(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = sorted(path.stem for path in (ROOT / "conf" / "data").glob("*.yaml"))
    assert [line.split()[0] for line in lines] == ["data", *names]
    assert "in the package" in next(line for line in lines if line.startswith("mnist10k"))
    assert "in data/" in next(line for line in lines if line.startswith("cifar10"))
    assert "made by a program" in next(line for line in lines if line.startswith("separable"))


def test_one_is_shown(capsys):
    assert main(["show", "digits"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (
        "digits: 1437 training examples and 360 test examples of 8 × 8, 10 classes; files verified, in the package"
    )
    counts = [list(map(int, line.split())) for line in lines[2:12]]
    assert [row[0] for row in counts] == list(range(10))
    assert (sum(row[1] for row in counts), sum(row[2] for row in counts)) == (1437, 360)
    assert lines[12].startswith("training inputs: from 0 to 1, mean 0.30")


def test_what_is_made_has_no_files(capsys):
    assert main(["verify", "separable"]) == 0
    assert capsys.readouterr().out.endswith("2 classes; made by a program\n")
    assert main(["verify", "separable", "--root", "x"]) == 2
    assert "--root=x: separable is made by a program and has no files" in capsys.readouterr().err


def test_verifying_finds_damage_and_downloads_nothing(tmp_path, capsys):
    shutil.copytree(packed.PACKAGED / "Digits", tmp_path / "Digits")
    assert main(["verify", "digits", "--root", str(tmp_path)]) == 0
    assert f"files verified, in {tmp_path}" in capsys.readouterr().out
    damaged = tmp_path / "Digits" / "raw" / "t10k-labels-idx1-ubyte.gz"
    damaged.write_bytes(damaged.read_bytes()[:-9])
    assert main(["verify", "digits", "--root", str(tmp_path)]) == 2
    assert "is truncated or damaged" in capsys.readouterr().err
    for name, missing in (("mnist", "MNIST/raw lacks train-images"), ("cifar10", "cifar-10-batches-py is not there")):
        assert main(["verify", name, "--root", str(tmp_path)]) == 2
        message = capsys.readouterr().err
        assert missing in message
        assert "ireg data fetch brings" in message
    assert [path.name for path in tmp_path.iterdir()] == ["Digits"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("verify cifar10 --root gone", "--root=gone: is not there; name the folder that holds the files"),
        ("show mnist --root gone/too", "--root=gone/too: is not there; name the folder that holds the files"),
        ("fetch mnist --root file/below", "--root=file/below: is not there and cannot be made; choose another place"),
        ("fetch mnist --root file", "--root=file: is no folder; choose another place"),
        ("fetch mnist --root", "--root: expected one argument; "),
    ],
)
def test_a_place_that_cannot_be_is_refused_before_torch_is_imported(arguments, line, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "ireg.data.source", None)
    assert main(arguments.split()) == 2
    assert capsys.readouterr().err.startswith(f"error: {line}")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_unknown_one_is_refused(capsys):
    assert main(["show", "mnist100k"]) == 2
    assert "mnist100k: no such data set; choose one of cifar10, digits" in capsys.readouterr().err


def test_fetching_takes_what_lies_there_packed(tmp_path, capsys):
    source, raw = packed.PACKAGED / "MNIST" / "raw", tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for path in source.iterdir():
        shutil.copy(path, raw)
    assert main(["fetch", "mnist10k", "--root", str(tmp_path)]) == 0
    assert "10000 training examples" in capsys.readouterr().out
