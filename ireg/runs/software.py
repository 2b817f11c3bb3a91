"""Which software a run was done with."""

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ireg


def versions() -> dict[str, str]:
    """List the versions of Python and of the packages that a result may depend on."""
    others = {package: version(package) for package in ("torch", "lightning")}
    # The source's own, which need not be installed, beside a copy that is.
    return {"python": platform.python_version(), **others, "ireg": ireg.__version__}


def git() -> dict[str, Any] | None:
    """Return the source tree's commit, and whether it has changes; None outside a git checkout."""
    here = Path(__file__).resolve().parents[2]

    def call(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", here, *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        if Path(call("rev-parse", "--show-toplevel")) != here:
            return None  # some other project's checkout that the installed package happens to lie in
        changes = call("status", "--porcelain", "--untracked-files=no")
        return {"commit": call("rev-parse", "HEAD"), "dirty": bool(changes)}
    except (OSError, subprocess.CalledProcessError):
        return None
