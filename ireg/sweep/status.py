"""`status.json`: what a run folder holds and how far it is."""

import hashlib
import json
import math
import platform
import socket
import subprocess
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ireg.analysis.load import flat
from ireg.errors import UserError
from ireg.files import write_text

FILE_NAME = "status.json"
FINISHED = ("done", "diverged")
"""States in which a run has nothing left to do."""

# Where a run lies and where its data are does not change its result.
_NOT_IN_HASH = (("name",), ("data", "root"), ("data", "source", "root"))


def read_status(folder: Path) -> dict[str, Any] | None:
    """The status of a run folder, or None where there is none.

    Raises:
        UserError: the file is not valid JSON.
    """
    path = folder / FILE_NAME
    try:
        status: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError(f"{path}: not readable as JSON ({error}); delete the run folder to run it again") from error
    return status


def config_hash(config: Mapping[str, Any]) -> str:
    """Hash of all configuration values that change the result."""
    relevant = json.loads(json.dumps(config))
    for *parents, key in _NOT_IN_HASH:
        node = relevant
        for parent in parents:
            node = node.get(parent, {})
        node.pop(key, None)
    return hashlib.blake2b(json.dumps(relevant, sort_keys=True).encode(), digest_size=8).hexdigest()


def finished(folder: Path, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The status of a folder in which this very run is finished; None where it is still to be done.

    Raises:
        UserError: the folder belongs to a run of another configuration.
    """
    status = read_status(folder)
    if status is None:
        return None
    if status["config_hash"] != config_hash(config):
        raise UserError(
            f"{folder} holds a run of another configuration ({_difference(status['config'], config)}); "
            "choose another folder with name=… or delete this one"
        )
    return status if status["state"] in FINISHED else None


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """The keys whose values differ, as `key: old there, new here`."""
    before, after = flat(old), flat(new)
    keys = [key for key in sorted({*before, *after}) if before.get(key) != after.get(key) and key != "name"]
    return "; ".join(f"{key}: {before.get(key)} there, {after.get(key)} here" for key in keys[:3])


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the run folder for this process; the lock goes with the process, however it ends.

    Raises:
        UserError: another process holds it.
    """
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(
            f"{folder} is in use by another process; wait for it, or choose another folder with name=…"
        ) from error
    try:
        yield
    finally:
        lock.release()


class Status:
    """The status of one run, written to its folder at every change.

    Args:
        folder: the run folder.
        config: the resolved configuration.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        self.path = folder / FILE_NAME
        self.seconds = 0.0
        self.fields: dict[str, Any] = {
            "state": "running",
            "epochs": config["epochs"],
            "epochs_done": 0,
            "epoch_seconds": None,
            "final": {},
            "error": None,
            "started": now(),
            "ended": None,
            "threads": config["threads"],
            "host": socket.gethostname(),
            "versions": {"python": platform.python_version()}
            | {package: version(package) for package in ("torch", "lightning", "ireg")},
            "git": _git(),
            "config_hash": config_hash(config),
            "config": config,
        }
        self.update()

    def update(self, **fields: Any) -> None:
        """Set fields and write the file."""
        self.fields |= fields
        write_text(self.path, json.dumps(self.fields, indent=1) + "\n")

    def row(self, epoch: int, row: Mapping[str, float]) -> None:
        """Note a completed epoch and its values; values that are not finite become text, as JSON knows none."""
        values = {tag: value if math.isfinite(value) else str(value) for tag, value in row.items()}
        self.seconds += row["time/epoch"] if epoch else 0.0
        self.update(epochs_done=epoch, final=values, epoch_seconds=self.seconds / epoch if epoch else None)

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Note an error that ends the block, as `failed` or `interrupted`; a good end is the block's to note."""
        try:
            yield
        except BaseException as error:
            text = "".join(traceback.format_exception_only(error)).strip()
            state = "failed" if isinstance(error, Exception) else "interrupted"
            self.update(state=state, error=text, ended=now())
            raise

    def end(self, state: str) -> None:
        """Note a good end: `done` or `diverged`."""
        self.update(state=state, ended=now())


def now() -> str:
    """The present moment, as statuses hold it: UTC, to the second, in ISO 8601, so that texts compare as times."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _git() -> dict[str, Any] | None:
    """Commit of the source tree and whether it has changes; None outside a git checkout."""
    here = Path(__file__).resolve().parents[2]

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", here, *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != here:
            return None  # some other project's checkout that the installed package happens to lie in
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.CalledProcessError):
        return None
