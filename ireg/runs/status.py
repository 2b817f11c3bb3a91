"""`status.json`: what a run folder holds and how far it is."""

import hashlib
import json
import logging
import math
import os
import socket
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ireg.catalogue import FORMER, present
from ireg.runs.damage import DamagedRecordError, damage
from ireg.runs.layout import STATUS
from ireg.runs.lock import FolderInUseError, is_locked, locked
from ireg.runs.machine import machine
from ireg.runs.origin import UNKNOWN, Origin
from ireg.runs.software import git, versions
from ireg.system.errors import UserError
from ireg.system.files import write_text
from ireg.system.reading import read_text
from ireg.system.termination import Terminated

log = logging.getLogger(__name__)

FINISHED = ("done", "diverged")
"""States in which a run has nothing left to do."""

KILLED = "killed (its process ended without a word)"
"""The error of a run that was found to have ended without noting it."""

# What leaves the result as it is: where a run and its data lie, what it gives back, how it is watched over.
_NOT_IN_HASH = (
    ("name",),
    ("data", "root"),
    ("data", "source", "root"),
    ("checkpoint",),
    ("logger",),
    ("objective",),
    ("trainer", "detect_anomaly"),
    ("trainer", "profiler"),
)


def read_status(folder: Path) -> dict[str, Any] | None:
    """Read the status of a run folder.

    Returns:
        The status; None without a file, and where a file of that name is of something else.

    Raises:
        DamagedRecordError: the file is not valid JSON, or a value in it is none of a run's.
        OSError: it cannot be opened or read.
    """
    path = folder / STATUS
    try:
        status: dict[str, Any] = json.loads(read_text(path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise DamagedRecordError(f"{path}: not readable as JSON ({error}); {_AGAIN}") from error
    except RecursionError as error:
        raise DamagedRecordError(f"{path}: not readable as JSON (nested too deeply); {_AGAIN}") from error
    if not isinstance(status, dict) or not {"state", "config"} <= status.keys():
        return None
    if wrong := damage(status):
        raise DamagedRecordError(f"{path}: damaged ({wrong}); {_AGAIN}")
    config = _renamed(status["config"], _TARGETS, FORMER)
    config = {**config, **{key: value for key, value in _ADDED.items() if key not in config}}
    for group, added in _ADDED_TO.items():
        if isinstance(entries := config.get(group), dict):
            config[group] = {**added, **entries}
    final = {present(tag): value for tag, value in (status.get("final") or {}).items()}
    return {**_DEFAULTS, "epochs": config.get("epochs", 0), **status, "config": config, "final": final}


_DEFAULTS = {"epochs_done": 0, "epoch_seconds": None, "error": None, "ended": None}
"""Keys that a status has whatever its file holds, beside `state`, `config`, `epochs` and `final`."""


_AGAIN = (
    "if a run wrote it, delete this file alone, and the command that began the run resumes it; otherwise choose "
    "another folder"
)

_TERMS = {
    "ireg.terms.curvature.edge": "ireg.terms.curvature.edge_fraction",
    "ireg.terms.curvature.lambda_max_own": "ireg.terms.curvature.preconditioned_sharpness",
}
_TARGETS = {"ireg.datasets.idx": "ireg.data.idx.idx", **_TERMS}
"""What earlier versions called the targets of their configurations."""


_ADDED: dict[str, Any] = {
    "loss": "cross_entropy",
    "regularizer": {"name": "none"},
    "sampling": "epoch",
    "max_steps": None,
    "schedule": {"name": "constant", "warmup": 0, "final": 0.0},
    "weight_average": {"name": "none", "decay": 0.999},
}
"""Keys that earlier versions did not have, with what these did."""


_ADDED_TO: dict[str, dict[str, Any]] = {
    "terms": {"num_batches": None, "every_n_steps": None, "by": None},
    "data": {"holdout": None, "context": None},
}
"""The same in groups."""


_ABSENT_WHERE_NONE = (("data", "holdout"), ("data", "context"), ("terms", "every_n_steps"), ("terms", "by"))
"""Those of them that hashes leave out where they have this value."""


def _renamed(config: Mapping[str, Any], targets: Mapping[str, str], tags: Mapping[str, str]) -> dict[str, Any]:
    """Name what a configuration calls, and its terms, by other names."""
    found: dict[str, Any] = _texts(config, targets)
    groups = found.get("terms")
    for tag, other in tags.items():
        group, _, name = tag.partition("/")
        if isinstance(groups, dict) and isinstance(entries := groups.get(group), dict) and name in entries:
            groups[group] = {other.partition("/")[2] if key == name else key: entries[key] for key in entries}
    return found


def _texts(tree: Any, names: Mapping[str, str]) -> Any:
    if isinstance(tree, dict):
        return {key: _texts(value, names) for key, value in tree.items()}
    return names.get(tree, tree) if isinstance(tree, str) else tree


def _swapped(names: Mapping[str, str]) -> dict[str, str]:
    return {now: before for before, now in names.items()}


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """List the leaves of nested mappings by dotted key, in their order.

    Args:
        tree: the mappings.
        prefix: put before each key.

    Example:
        >>> flat({"lr": 0.1, "data": {"noise": {"rate": 0.3}}})
        {'lr': 0.1, 'data.noise.rate': 0.3}
    """
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return leaves


def config_hash(config: Mapping[str, Any]) -> str:
    """Hash all configuration values that change the result, as they are spelled: 16 hexadecimal digits."""
    return hashlib.blake2b(json.dumps(_relevant(config), sort_keys=True).encode(), digest_size=8).hexdigest()


def _relevant(config: Mapping[str, Any]) -> dict[str, Any]:
    # By the names that earlier versions hashed.
    relevant = _renamed(json.loads(json.dumps(config)), _swapped(_TERMS), _swapped(FORMER))
    for *parents, key in _NOT_IN_HASH:
        node = relevant
        for parent in parents:
            node = node.get(parent, {})
        node.pop(key, None)
    # Without what was added, so that the hashes of earlier versions are found again.
    for key, value in _ADDED.items():
        if relevant.get(key, ...) == value:
            del relevant[key]
    for group, key in _ABSENT_WHERE_NONE:
        if relevant.get(group, {}).get(key, True) is None:
            del relevant[group][key]
    # The default was false: runs of then are found again. One that was interrupted resumes with its own kernel, which
    # stands in its checkpoint.
    if relevant.get("trainer", {}).get("fused") == "auto":
        relevant["trainer"]["fused"] = False
    return relevant


def values(config: Mapping[str, Any]) -> dict[str, str]:
    """List the values that change the result by dotted key, each in one spelling, as JSON."""
    return {key: json.dumps(_one_spelling(value)) for key, value in flat(_relevant(config)).items()}


def _one_spelling(value: Any) -> Any:
    """Make an integer of a float that equals one: 1.0 is spelled 1; true is not."""
    if isinstance(value, list):
        return [_one_spelling(entry) for entry in value]
    if isinstance(value, dict):
        return {key: _one_spelling(value[key]) for key in sorted(value)}
    return int(value) if isinstance(value, float) and value.is_integer() else value


_ENDINGS = {KeyboardInterrupt: "interrupted (SIGINT)", Terminated: "terminated (SIGTERM)"}


class Status:
    """The status of one run, written to its folder at every change.

    Args:
        folder: the run folder.
        config: the resolved configuration.
        origin: where the run comes from.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], origin: Origin = UNKNOWN) -> None:
        self.path = folder / STATUS
        self.seconds = 0.0
        self.earlier = read_status(folder) or {}
        start = {
            "at": now(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "directory": os.getcwd(),
            "command": origin.command,
            "machine": machine(),
            "versions": versions(),
            "git": git(),
        }
        self.fields: dict[str, Any] = {
            "state": "running",
            "experiment": origin.experiment or self.earlier.get("experiment"),
            "question": origin.question or self.earlier.get("question"),
            "epochs": config["epochs"],
            "epochs_done": self.earlier.get("epochs_done", 0),
            "epoch_seconds": self.earlier.get("epoch_seconds"),
            "final": self.earlier.get("final", {}),
            "error": None,
            "started": self.earlier.get("started", start["at"]),
            "ended": None,
            "threads": config["threads"],
            "device": self.earlier.get("device"),
            "accelerator": self.earlier.get("accelerator"),
            "host": start["host"],
            "versions": start["versions"],
            "git": start["git"],
            "starts": [*self.earlier.get("starts", []), start],
            "config_hash": self._hash(config),
            "config": config,
        }
        self.update()

    def _hash(self, config: Mapping[str, Any]) -> str:
        """Keep the run's hash, which its checkpoints bear, where only the spelling has changed."""
        before = self.earlier.get("config")
        if before is not None and "config_hash" in self.earlier and values(before) == values(config):
            return str(self.earlier["config_hash"])
        return config_hash(config)

    def update(self, **fields: Any) -> None:
        """Set fields of the status, and write the file."""
        self.fields |= fields
        _write(self.path, self.fields)

    def begin(self, rows: Mapping[int, Mapping[str, float]], **fields: Any) -> None:
        """Note after which rows the run begins, and set further fields.

        Args:
            rows: by epoch; without any the run begins before training.
            fields: see `update`.
        """
        last = max(rows, default=0)
        self.fields["starts"][-1]["epoch"] = last
        self.seconds = sum(row["time/epoch"] for epoch, row in rows.items() if epoch not in (0, last))
        self.fields |= {"epochs_done": 0, "final": {}, "epoch_seconds": None, **fields}
        if rows:
            self.row(last, rows[last])
        else:
            self.update()

    def changed_software(self) -> list[tuple[str, Any, Any]]:
        """List what differs from the start before: its name, its version then, and now."""
        before, now_ = self.earlier.get("versions", {}), self.fields["versions"]
        changed = [(name, before.get(name), now_[name]) for name in now_ if before.get(name) != now_[name]]
        commits = [(of or {}).get("commit") for of in (self.earlier.get("git"), self.fields["git"])]
        return [*changed, *([("commit", *commits)] if commits[0] != commits[1] else [])]

    def row(self, epoch: int, row: Mapping[str, float]) -> None:
        """Note a completed epoch and its values; those that are not finite become text, as JSON knows none.

        Args:
            epoch: its number; 0 is before training.
            row: the values by tag.
        """
        values = {tag: value if math.isfinite(value) else str(value) for tag, value in row.items()}
        self.seconds += row["time/epoch"] if epoch else 0.0
        self.update(epochs_done=epoch, final=values, epoch_seconds=self.seconds / epoch if epoch else None)

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Note an error that ends the block, as `failed` or `interrupted`; the block itself notes a good end."""
        try:
            yield
        except BaseException as error:
            text = _ENDINGS.get(type(error)) or (
                str(error) if isinstance(error, UserError) else "".join(traceback.format_exception_only(error)).strip()
            )
            state = "failed" if isinstance(error, Exception) else "interrupted"
            # With its traceback to the run's log file; on the terminal the error appears by being raised.
            log.info("%s", state, exc_info=state == "failed")
            try:
                self.update(state=state, error=text, ended=now())
            except OSError as unwritable:  # as on a full disk, which may be the error itself
                log.error("%s: the run %s, which cannot be noted there (%s)", self.path, state, unwritable.strerror)
            raise

    def end(self, state: str) -> None:
        """Note a good end: `done` or `diverged`."""
        self.update(state=state, ended=now())


def note_killed(folder: Path) -> None:
    """Note that a `running` run was killed, if no process holds its folder."""
    try:
        if not _is_said_to_run(folder) or is_locked(folder):
            return
    except (DamagedRecordError, OSError):
        return  # which those who read it say
    try:
        with locked(folder, seconds=0):
            if _is_said_to_run(folder):
                fields = {"state": "interrupted", "error": KILLED, "ended": now()}
                _write(folder / STATUS, {**(read_status(folder) or {}), **fields})
    except FolderInUseError:
        pass  # it has begun again
    except (OSError, UserError) as unwritable:  # as in another user's folder, or where a lock is a link
        why = unwritable.strerror if isinstance(unwritable, OSError) else unwritable
        log.warning("%s: the run was killed, which cannot be noted there (%s)", folder, why)


def _is_said_to_run(folder: Path) -> bool:
    status = read_status(folder)
    return status is not None and status["state"] == "running"


def _write(path: Path, fields: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(fields, indent=1) + "\n", durable=True)


def now() -> str:
    """Return the present moment as statuses hold it: UTC, to the second, in ISO 8601.

    Such texts compare as times.
    """
    return datetime.now(UTC).isoformat(timespec="seconds")
