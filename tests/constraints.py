"""Say why `make install` cannot take constraints.txt here, in one line; say nothing where it can.

The file has the hashes of PyPI's files. A torch that is installed already, and an index of the user's own, come first.
With a name, like `python tests/constraints.py setuptools`, print what the file has of that package.
"""

import platform
import re
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pip._internal.models.index import PyPI
from pip._vendor.packaging.requirements import InvalidRequirement, Requirement

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
# The oldest and the newest Python that all the files exist for.
PYTHONS = ((3, 11), (3, 14))
# torch's wheels are built for it (manylinux_2_28).
GLIBC = (2, 28)
# What a user chooses by hardware, from an index of PyTorch's.
CHOSEN = ("torch", "torchvision")

# A setting of pip's -> whether its values name other files than PyPI's.
OWN = {
    "index-url": lambda values: [value.rstrip("/") for value in values] != [PyPI.simple_url],
    "extra-index-url": lambda values: any(re.match("(?!file:)[a-z+]+:", value) for value in values),
    "find-links": lambda values: any(re.match("(?!file:)[a-z+]+:", value) for value in values),
    "no-index": lambda values: values not in (["false"], ["0"], ["no"], ["off"]),
}


def blocks(text: str) -> dict[str, str]:
    """Each pinned package's lines, with its hashes, by its name."""
    found: dict[str, str] = {}
    for block in re.findall(r"^[\w.-]+==.*(?:\n .*)*", text, flags=re.MULTILINE):
        name = block.partition("==")[0]
        found[name] = found.get(name, "") + block + "\n"
    return found


def pinned(text: str) -> dict[str, str]:
    """The version of each package on this machine, by its name."""
    lines = (line.removesuffix("\\") for block in blocks(text).values() for line in block.splitlines())
    pins = [Requirement(line) for line in lines if not line.startswith(" ")]
    return {pin.name: str(pin.specifier)[2:] for pin in pins if pin.marker is None or pin.marker.evaluate()}


def platform_misfit() -> str | None:
    """Say what else than CPython on Linux this is."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        return f"it is for Linux on x86_64, and this is {platform.system()} on {platform.machine()}"
    libc, release = platform.libc_ver()
    if libc != "glibc" or tuple(int(part) for part in release.split(".")[:2]) < GLIBC:
        return f"it needs glibc {GLIBC[0]}.{GLIBC[1]}, and this is {libc or 'another C library'} {release}".rstrip()
    if sys.implementation.name != "cpython" or sysconfig.get_config_var("Py_GIL_DISABLED"):
        return "it is for CPython with its global lock"
    if not PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]:
        first, last = (".".join(map(str, python)) for python in PYTHONS)
        return f"it is for Python {first} to {last}, and this is {platform.python_version()}"
    return None


def installed_misfit(pins: Mapping[str, str]) -> str | None:
    """Say which torch is there already."""
    for name in CHOSEN:
        try:
            found = version(name)
        except PackageNotFoundError:
            continue
        if found != pins[name]:
            return f"{name} {found} is installed already, and the file has {pins[name]}"
    return None


def settings_misfit(settings: str, pins: Mapping[str, str]) -> str | None:
    """Say which of pip's settings choose other files; not its value, which may hold a password.

    Args:
        settings: what `pip config list` prints. A folder on this disk (file:…) is taken for a copy of PyPI's files.
        pins: the version of each package.
    """
    for line in settings.splitlines():
        key, _, value = line.partition("=")
        name, values = key.rpartition(".")[2], value.strip("'\"").replace(r"\n", " ").split()
        if name == "constraint" and (other := _contradiction(values, pins)):
            return f"pip's setting {key} has {other}"
        if name in OWN and OWN[name](values):
            return f"pip's setting {key} names another index"
    return None


def _contradiction(files: list[str], pins: Mapping[str, str]) -> str | None:
    """Return the first line of a user's constraints that no pin satisfies, or that is not plain."""
    try:
        lines = [line for file in files for line in Path(file).read_text(encoding="utf-8").splitlines()]
    except OSError:  # an address, or a file that is not there: pip says so
        return "a file that is not read here"
    for line in lines:
        if not (plain := line.partition("#")[0].strip()):
            continue
        try:
            wanted = Requirement(plain)
        except InvalidRequirement:
            return plain
        name = re.sub(r"[-_.]+", "-", wanted.name).lower()
        if name in pins and not wanted.specifier.contains(pins[name]):
            return plain
    return None


def main(arguments: list[str]) -> int:
    """Print the reason, or a package's lines."""
    text = CONSTRAINTS.read_text(encoding="utf-8")
    if arguments:
        print("".join(blocks(text)[name] for name in arguments), end="")
        return 0
    pins = pinned(text)
    settings = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "config", "list"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    reason = platform_misfit() or installed_misfit(pins) or settings_misfit(settings.stdout, pins)
    if reason is not None:
        print(reason)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
