"""`constraints.txt`, and where `make install` takes it."""

import platform
import re
import subprocess
import sys
import tomllib

import pytest
from pip._vendor.packaging.requirements import Requirement

from tests import constraints
from tests.conftest import ROOT

TEXT = constraints.CONSTRAINTS.read_text(encoding="utf-8")
OURS = constraints.pinned(TEXT)


def test_every_pin_has_hashes_and_no_line_is_anything_else():
    for line in TEXT.splitlines():
        assert re.fullmatch(r"# .*|[\w.-]+==[\w.]+( ; [^#@]*)? \\|    --hash=sha256:[0-9a-f]{64}( \\)?", line), line
    blocks = constraints.blocks(TEXT)
    assert len(blocks) > 80
    assert all("--hash" in block for block in blocks.values())
    assert sum(block.count("\n") for block in blocks.values()) == len(TEXT.splitlines()) - 1


def test_the_pins_are_what_pyproject_asks_for():
    """After another minimum `make constraints` is due."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project = settings["project"]
    extras = project["optional-dependencies"]
    asked = [*settings["build-system"]["requires"], *project["dependencies"]]
    asked += [one for extra in ("slurm", "test") for one in extras[extra] if not one.startswith("ireg[")]
    assert len(asked) > 15
    for requirement in map(Requirement, asked):
        assert requirement.specifier.contains(OURS[requirement.name]), requirement


def test_a_package_is_cut_out_with_its_hashes():
    command = [sys.executable, "tests/constraints.py", "setuptools"]
    block = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert re.fullmatch(r"setuptools==[\d.]+ \\\n(    --hash=sha256:\w{64}( \\)?\n)+", block)


def test_versions_are_those_of_this_python():
    text = (
        "numpy==1.0 ; python_full_version < '3.0' \\\n    --hash=sha256:aa\n"
        "numpy==2.0 ; python_full_version >= '3.0' \\\n    --hash=sha256:bb\n"
        "other==3.0 ; sys_platform == 'nowhere' \\\n    --hash=sha256:cc\n"
    )
    assert constraints.pinned(text) == {"numpy": "2.0"}
    assert constraints.blocks(text)["numpy"].count("sha256") == 2


def installed(monkeypatch, versions):
    def version(name):
        if name not in versions:
            raise constraints.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(constraints, "version", version)
    return constraints.installed_misfit({"torch": "2.14.1", "torchvision": "0.29.1"})


def test_a_torch_that_was_chosen_stays(monkeypatch):
    assert installed(monkeypatch, {}) is None
    assert installed(monkeypatch, {"torch": "2.14.1", "torchvision": "0.29.1"}) is None
    found = installed(monkeypatch, {"torch": "2.14.1+cpu"})
    assert found == "torch 2.14.1+cpu is installed already, and the file has 2.14.1"
    assert "torchvision 0.25.0 is" in installed(monkeypatch, {"torch": "2.14.1", "torchvision": "0.25.0"})


@pytest.mark.parametrize(
    ("setting", "fits"),
    [
        ("global.cert='/etc/ssl/ca.crt'", True),
        ("global.index-url='https://pypi.org/simple'", True),
        (":env:.index-url='https://pypi.org/simple/'", True),
        ("global.index-url='https://user:secret@own.example/simple'", False),
        ("install.extra-index-url='file:///copy/simple'", True),
        ("install.extra-index-url='file:///copy/simple\\nhttps://own.example/cpu'", False),
        (":env:.extra-index-url='file:///copy/simple https://own.example/cpu'", False),
        (":env:.find-links='/wheels'", True),
        (":env:.find-links='https://own.example/wheels.html'", False),
        (":env:.no-index='1'", False),
        (":env:.no-index='false'", True),
    ],
)
def test_an_index_of_the_users_own_comes_first(setting, fits):
    found = constraints.settings_misfit(f"global.timeout='9'\n{setting}\n", OURS)
    if fits:
        assert found is None
    else:
        assert found == f"pip's setting {setting.partition('=')[0]} names another index"  # and never a password


@pytest.mark.parametrize(
    ("line", "fits"),
    [
        (f"torch<={OURS['torch']}", True),
        ("# torch<2", True),
        ("unknown-to-us==1", True),
        ("torch<2.1  # older", False),
        ("PyTorch_Lightning<2", False),
        ("-r other.txt", False),
    ],
)
def test_constraints_of_the_users_own_come_first(tmp_path, line, fits):
    own = tmp_path / "own.txt"
    own.write_text(f"\n{line}\n", encoding="utf-8")
    found = constraints.settings_misfit(f"global.constraint='{own}'", OURS)
    assert found == (None if fits else f"pip's setting global.constraint has {line.partition('#')[0].strip()}")


def test_constraints_that_are_elsewhere_are_left_to_pip(tmp_path):
    found = constraints.settings_misfit(f"global.constraint='{tmp_path / 'missing'}'", OURS)
    assert found == "pip's setting global.constraint has a file that is not read here"


@pytest.mark.parametrize(
    ("where", "replacement", "reason"),
    [
        (sys, ("platform", "darwin"), "it is for Linux on x86_64, and this is "),
        (platform, ("machine", lambda: "aarch64"), "it is for Linux on x86_64, and this is .* on aarch64"),
        (platform, ("libc_ver", lambda: ("glibc", "2.27")), r"it needs glibc 2\.28, and this is glibc 2\.27"),
        (platform, ("libc_ver", lambda: ("", "")), r"it needs glibc 2\.28, and this is another C library"),
        (sys, ("version_info", (3, 15, 0)), r"it is for Python 3\.11 to 3\.14, and this is "),
        (constraints.sysconfig, ("get_config_var", lambda name: 1), "it is for CPython with its global lock"),
    ],
)
def test_other_machines_take_what_pyproject_allows(monkeypatch, where, replacement, reason):
    here = {"platform": "linux"}, {"machine": lambda: "x86_64", "libc_ver": lambda: ("glibc", "2.36")}
    for module, values in zip((sys, platform), here, strict=True):
        for name, value in values.items():
            monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(constraints.sysconfig, "get_config_var", lambda name: None)
    monkeypatch.setattr(sys, "version_info", (3, 12, 1))
    assert constraints.platform_misfit() is None
    monkeypatch.setattr(where, *replacement)
    assert re.match(reason, constraints.platform_misfit())
