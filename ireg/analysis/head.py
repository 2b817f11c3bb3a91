"""What stands at the head of a report: what was asked and done, by which command, when and on what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from ireg.analysis.facts import facts
from ireg.runs.hyperparameters import overrides
from ireg.system.errors import UserError

_NOT_SAID = ("_target_", "_partial_")
_DEVICES = {"cpu": "the CPU"}


def questions(statuses: Iterable[Mapping[str, Any]]) -> list[str]:
    """List what the experiments of the runs ask, each once; runs of earlier versions do not say it."""
    return _distinct(status.get("question") for status in statuses)


def head(summary: pd.DataFrame, statuses: Mapping[Path, Mapping[str, Any]]) -> list[tuple[str, str]]:
    """List what was run, and how: pairs of a name and what is to be said of it.

    What no run has recorded is left out.

    Args:
        summary: of `summary.summarize`.
        statuses: of the runs, by folder.
    """
    records = list(statuses.values())
    what = [(name, text) for name, _, text in (fact.partition(": ") for fact in facts(summary, records))]
    place = next((number for number, (name, _) in enumerate(what) if name == "data"), len(what))
    what.insert(place, ("network", "; ".join(_distinct(map(_network, records)))))
    how = [
        *_commands(statuses),
        ("date", _date(records)),
        ("duration", _duration(records)),
        ("machine", "; ".join(_distinct(part for status in records for part in _machines(status)))),
        ("software", "; ".join([*_versions(records), *_commits(records)])),
    ]
    return [(name, text) for name, text in [*what, *how] if text]


def _distinct(texts: Iterable[str | None]) -> list[str]:
    """List each text once, in order, and nothing that is empty."""
    return list(dict.fromkeys(text for text in texts if text))


def _starts(records: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """List the starts of all runs, the first in time first."""
    return sorted((start for status in records for start in status.get("starts", [])), key=lambda s: str(s.get("at")))


def _network(status: Mapping[str, Any]) -> str:
    """Name a run's network, its arguments, and how many weights it has."""
    model = status["config"].get("model") or {}
    arguments = [f"{key} {_value(value)}" for key, value in model.items() if key not in _NOT_SAID]
    kind = str(model.get("_target_", "")).rpartition(".")[2]
    count = status.get("parameters")
    weights = None if count is None else f"{count:,} weights"
    return ", ".join(filter(None, [kind, *arguments, weights]))


def _value(value: Any) -> str:
    if isinstance(value, list):
        same = len(value) > 1 and len({str(part) for part in value}) == 1
        return f"{len(value)} × {_value(value[0])}" if same else "–".join(map(_value, value))
    return str(value)


def _commands(statuses: Mapping[Path, Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return the commands as they were typed; where none is recorded, what was set by them."""
    typed = _distinct(start.get("command") for start in _starts(statuses.values()))
    if typed:
        return [("command" if len(typed) == 1 else "commands", "\n".join(typed))]
    values: dict[str, list[str]] = {}
    for folder in statuses:
        with suppress(UserError):  # which those say who list the settings of each run
            for key, _, value in (override.partition("=") for override in overrides(folder)):
                values.setdefault(key, []).append(value)
    return [("set", " ".join(f"{key}={','.join(_distinct(of_key))}" for key, of_key in values.items()))]


def _times(records: Iterable[Mapping[str, Any]], key: str) -> list[datetime]:
    times = [datetime.fromisoformat(status[key]) for status in records if status.get(key)]
    return [time if time.tzinfo else time.replace(tzinfo=UTC) for time in times]


def _date(records: Sequence[Mapping[str, Any]]) -> str:
    """Say when the first run began, and when the last one ended."""
    begun, ended = _times(records, "started"), _times(records, "ended")
    if not begun:
        return ""
    first = f"{min(begun):%Y-%m-%d %H:%M}"
    if not ended:
        return f"{first} UTC"
    same_day = min(begun).date() == max(ended).date()
    return f"{first} to {max(ended):{'%H:%M' if same_day else '%Y-%m-%d %H:%M'}} UTC"


def _duration(records: Sequence[Mapping[str, Any]]) -> str:
    """Say how long it took from the first start to the last end, and how long all epochs took."""
    begun, ended = _times(records, "started"), _times(records, "ended")
    spent = sum((status.get("epoch_seconds") or 0.0) * (status.get("epochs_done") or 0) for status in records)
    whole = (max(ended) - min(begun)).total_seconds() if begun and ended else 0.0
    parts = [f"{_lasting(whole)} from the first start to the last end"] if whole > 0 else []
    parts += [f"{_lasting(spent)} for the epochs of all runs"] if spent > 0 else []
    return ", ".join(parts)


def _lasting(seconds: float) -> str:
    """Write a duration with two or three digits."""
    if seconds < 120:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _machines(status: Mapping[str, Any]) -> Iterable[str]:
    """Say which machines a run was done on, by their kind, and what on it trained."""
    device = status.get("accelerator") or _DEVICES.get(str(status.get("device")), status.get("device"))
    trained = [f"trained on {device}"] if device else []
    if threads := status.get("threads"):
        trained.append(f"{threads} thread{'s' if threads > 1 else ''} a run")
    machines = [start["machine"] for start in status.get("starts", []) if start.get("machine")]
    for machine in machines or [{}]:
        cores = machine.get("cores")
        parts = [machine.get("processor"), f"{cores} core{'s' if cores != 1 else ''}" if cores else None, *trained]
        yield ", ".join(filter(None, parts))


def _versions(records: Iterable[Mapping[str, Any]]) -> list[str]:
    used: dict[str, set[str]] = {}
    for start in _starts(records):
        for name, version in start.get("versions", {}).items():
            used.setdefault(name, set()).add(str(version))
    return [f"{name} {', '.join(sorted(of_name))}" for name, of_name in sorted(used.items())]


def _commits(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """Name the commits of the source, and say of each whether it was changed."""
    trees = [start["git"] for start in _starts(records) if start.get("git")]
    return _distinct(
        f"commit {tree['commit'][:10]}{' and changes' if tree.get('dirty') else ''}"
        for tree in trees
        if isinstance(tree.get("commit"), str)
    )
