"""Whose the files of a run's folder are: a run replaces and removes only what runs of `ireg` wrote."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from ireg.config import Config

_EVENTS = "events.out.tfevents.*"
_WRITTEN = ("metrics.csv", "labels.npz", "checkpoints/*.ckpt", _EVENTS)
"""What a run writes once it has a status."""


def files_of_others(folder: Path) -> list[str]:
    """List the files of a folder without a run's status whose names a run needs.

    What a run leaves that ends before it has a status is not listed: empty files, and Hydra's `.hydra` and log.
    """
    hydra = [".hydra/config.yaml", ".hydra/hydra.yaml", ".hydra/overrides.yaml", "train.log"]
    others = [] if _is_configuration(folder / hydra[0]) else hydra
    found = [path.relative_to(folder).as_posix() for pattern in _WRITTEN for path in sorted(folder.glob(pattern))]
    return [*found, *(name for name in (*others, ".lock") if _has_content(folder / name))]


def _has_content(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def _is_configuration(path: Path) -> bool:
    """Whether this is a file of Hydra's with the keys of a run's configuration."""
    if not path.is_file():
        return False
    keys = {line.partition(":")[0] for line in path.read_text(encoding="utf-8", errors="replace").splitlines()}
    return {field.name for field in fields(Config) if field.default == MISSING} <= keys


def event_files(folder: Path, starts: Iterable[Mapping[str, Any]]) -> list[Path]:
    """List the event files that these starts of a run wrote: the names bear host and process."""
    writers = "|".join(re.escape(f"{start['host']}.{start['pid']}") for start in starts)
    own = re.compile(rf"events\.out\.tfevents\.\d+\.({writers})\.\d+")
    return [path for path in sorted(folder.glob(_EVENTS)) if own.fullmatch(path.name)]
