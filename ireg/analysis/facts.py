"""What was run, in a few lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from ireg.runs.metrics import STEP


def facts(summary: pd.DataFrame, statuses: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say how many runs there are, and of what.

    Args:
        summary: of `summary.summarize`.
        statuses: of the runs.
    """
    counts = summary["state"].value_counts()
    states = ", ".join(f"{count} {state}" for state, count in counts.items())
    count = len(summary)
    lines = [f"{count} run{'s' if count > 1 else ''}: {states}"]
    sets = [status["config"].get("data", {}) for status in statuses]
    if sets:
        lines.append("data: " + "; ".join(dict.fromkeys(f"{_examples(data)}, {_noise(data)}" for data in sets)))
    what, long = length(summary)
    lines.append(f"{what}: {long.min():g}" + (f" to {long.max():g}" if long.max() > long.min() else ""))
    for column in ("batch_size", "lr", "seed"):
        if column in summary:
            values = sorted(summary[column].dropna().unique().tolist())
            lines.append(f"{column.replace('_', ' ')}: {', '.join(f'{value:g}' for value in values)}")
    return lines


def length(summary: pd.DataFrame) -> tuple[str, pd.Series]:
    """Return what the length of the runs is counted in, `steps` or `epochs`, and how many each has.

    Args:
        summary: of `summary.summarize`.
    """
    if STEP in summary and bool(summary[STEP].notna().all()):
        return "steps", summary[STEP]
    return "epochs", summary["epochs"]


def _examples(data: Mapping[str, Any]) -> str:
    """Name a data set, and count its examples where these are images."""
    name = str(data.get("name", ""))
    train, test = data.get("train_size") or data.get("num_train"), data.get("test_size") or data.get("num_test")
    if train is None or test is None or data.get("context") is not None:
        return name
    held_out = data.get("holdout") or 0
    parts = [f"{train - held_out:,} training", *([f"{held_out:,} held-out"] if held_out else []), f"{test:,} test"]
    return f"{name} ({', '.join(parts)} examples)"


def _noise(data: Mapping[str, Any]) -> str:
    noise = data.get("noise", {})
    kind, rate = noise.get("kind", "none"), noise.get("rate", 0)
    if kind == "none" or not rate:
        return "no label noise"
    means = {"symmetric": "another class", "uniform": "any class", "pairflip": "the next class"}.get(kind, kind)
    return f"label noise: {100 * rate:g} % of the training labels redrawn as {means} (seed {noise.get('seed')})"
