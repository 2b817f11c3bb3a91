"""What is wrong with the record of a run."""

import math
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from ireg.system.errors import UserError

STATES = ("running", "failed", "interrupted", "diverged", "done")
"""The states of a run."""


MOST_LEVELS = 32
"""Levels of mappings and lists in a status: a configuration has five."""


class DamagedRecordError(UserError):
    """A file of one run is damaged, which harms no other run."""


def damage(status: Mapping[str, Any]) -> str:
    """Name the first value of a status that cannot be a run's.

    Returns:
        What is wrong with it, in words; empty where all are right. Keys that earlier versions did not write may be
        missing.
    """
    if _is_deeper(status, MOST_LEVELS):
        return f"it is nested in more than {MOST_LEVELS} levels"
    for key in ("state", "config"):
        if status[key] is None:
            return f"{key} is null"
    for key, check in _FIELDS.items():
        value = _value(status, key)
        if value is not None and not check(value):
            return f"{key} is {_short(value)}"
    return ""


def _value(tree: Any, key: str) -> Any:
    """Return the value of a dotted key; None where there is none."""
    for part in key.split("."):
        tree = tree.get(part) if isinstance(tree, Mapping) else None
    return tree


def _is_deeper(tree: Any, levels: int) -> bool:
    """Say whether a tree has more than so many levels, without recursion, which has a limit itself."""
    level = [tree]
    for _ in range(levels):
        level = [
            inner
            for node in level
            if isinstance(node, dict | list)
            for inner in (node.values() if isinstance(node, dict) else node)
        ]
    return any(isinstance(node, dict | list) for node in level)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_mapping(value: object) -> bool:
    return isinstance(value, Mapping)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and 0 <= value < 2**63


def _is_number(value: object) -> bool:
    """Accept a number, also as the text that a number which is not finite has in JSON."""
    try:
        return isinstance(value, str | int | float) and (math.isfinite(float(value)) or isinstance(value, str | float))
    except (ValueError, OverflowError):
        return False


def _is_finite(value: object) -> bool:
    try:
        return isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:  # an integer that no float equals
        return False


def _is_time(value: object) -> bool:
    try:
        datetime.fromisoformat(str(value))
    except ValueError:
        return False
    return True


def _are_values(value: object) -> bool:
    return isinstance(value, Mapping) and all(entry is None or _is_number(entry) for entry in value.values())


def _are_starts(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(start, Mapping)
        and isinstance(start.get("versions", {}), Mapping)
        and isinstance(start.get("directory", ""), str)
        and isinstance(start.get("command"), str | None)
        and isinstance(start.get("machine"), Mapping | None)
        for start in value
    )


_GROUPS = (
    "data",
    "data.noise",
    "data.source",
    "optimizer",
    "model",
    "terms",
    "trainer",
    "regularizer",
    "schedule",
    "weight_average",
)

_FIELDS: dict[str, Callable[[object], bool]] = {
    "state": lambda value: value in STATES,
    "config": _is_mapping,
    "epochs": _is_count,
    "epochs_done": _is_count,
    "epoch_seconds": _is_finite,
    "batch_size": _is_count,
    "final": _are_values,
    "error": _is_text,
    "starts": _are_starts,
    "started": _is_time,
    "ended": _is_time,
    "config_hash": _is_text,
    "versions": _is_mapping,
    "git": _is_mapping,
    **dict.fromkeys(("experiment", "question", "device", "accelerator"), _is_text),
    "parameters": _is_count,
    **dict.fromkeys((f"config.{group}" for group in _GROUPS), _is_mapping),
    **dict.fromkeys(("config.lr", "config.batch_size", "config.seed", "config.data.noise.rate"), _is_finite),
    "config.epochs": _is_count,
    "config.optimizer.name": _is_text,
    "config.data.name": _is_text,
}
