"""The command `ireg`, and the package as it is installed: whole, without the checkout."""

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import ireg
from ireg.__main__ import COMMANDS, main

ROOT = Path(__file__).parents[1]


def test_the_tools_are_listed_and_run(capsys):
    assert main([]) == main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"ireg {name}" in out for name in COMMANDS)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"ireg {ireg.__version__}\n"
    assert main(["trian"]) == 2
    assert capsys.readouterr().err == (
        "error: trian: no such command; choose one of train, analysis, browse, sweep, run, data, basins, drift, "
        "verify\n"
    )
    assert main(["analysis", "nowhere"]) == 2
    assert "nowhere is not a folder" in capsys.readouterr().err.replace("'", "")


def test_help_comes_before_torch():
    """With torch made impossible to import, every tool still answers."""
    code = (
        "import contextlib, sys; sys.modules['torch'] = None; from ireg.__main__ import COMMANDS, main\n"
        "for name in COMMANDS:\n    print('@@', name)\n    sys.argv = ['ireg', name, '--help']\n"
        "    with contextlib.suppress(SystemExit): main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    answers = dict(part.split("\n", 1) for part in done.stdout.split("@@ ")[1:])
    assert all("--" in answers[name] for name in COMMANDS)


def test_every_package_is_named():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in ROOT.glob("ireg/**/__init__.py")}
    assert sorted(settings["packages"]) == settings["packages"]
    assert set(settings["packages"]) == found | {"ireg.conf"}


def test_the_wheel_is_whole(tmp_path):
    copy = tmp_path / "checkout"
    names = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    listed = names.stdout.splitlines() or [str(path.relative_to(ROOT)) for path in ROOT.glob("[!.]*/**/*")]
    for name in listed:  # a build leaves files in its folder
        if name.startswith(("ireg/", "conf/", "pyproject.toml", "README.md", "LICENSE")) and (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    options = ["--quiet", "--no-deps", "--disable-pip-version-check", "-w", tmp_path]
    command = [sys.executable, "-m", "pip", "wheel", *options, copy]
    built = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if built.returncode and "setuptools" in built.stderr and "No matching distribution" in built.stderr:
        pytest.skip("the wheel is NOT TESTED: it needs setuptools from the package index")
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
        names = archive.namelist()
    for path in (ROOT / "conf").rglob("*.yaml"):
        assert f"ireg/conf/{path.relative_to(ROOT / 'conf').as_posix()}" in names
    assert {"ireg/py.typed", "ireg/assets/Digits/raw/t10k-labels-idx1-ubyte.gz"} <= set(names)
    assert not any(name.startswith(("tests", "conf")) for name in names)
    (tmp_path / "elsewhere").mkdir()
    done = subprocess.run(
        [sys.executable, "-P", "-m", "ireg", "train", "data=digits", "optimizer=sgd", "epochs=1", "model.hidden=[8]"],
        cwd=tmp_path / "elsewhere",
        env={"PYTHONPATH": str(tmp_path / "installed"), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "test/error" in done.stdout
    assert len(list((tmp_path / "elsewhere").glob("multirun/runs/*/metrics.csv"))) == 1
