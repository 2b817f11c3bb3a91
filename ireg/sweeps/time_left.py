"""How long a sweep still takes."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from statistics import fmean
from typing import Any

_START = 2.0
"""Seconds of a run beside its epochs, until a run that has ended says more."""


def time_left(statuses: Sequence[Mapping[str, Any]], *, waiting: Sequence[str] = (), at_once: int = 1) -> str:
    """Estimate the time left from the seconds of an epoch so far.

    A run that waits takes as long an epoch as those of its optimizer; where none has begun, as the slowest of the
    others. Beside its epochs it takes what runs that have ended took, from reading the data to the last checkpoint.

    Args:
        statuses: of the runs that are at work or have ended.
        waiting: the optimizers of the runs that have not begun.
        at_once: number of runs at work side by side.
    """
    paces: dict[str, list[float]] = {}
    for status in statuses:
        if status["epoch_seconds"]:
            paces.setdefault(_optimizer(status), []).append(status["epoch_seconds"])
    if not paces:
        return "time left: unknown yet"
    pace = {optimizer: fmean(seconds) for optimizer, seconds in paces.items()}
    slowest = max(pace.values())
    beside = [seconds for status in statuses if (seconds := _beside_epochs(status)) is not None]
    start = fmean(beside) if beside else _START
    running = [status for status in statuses if status["state"] == "running"]
    left = [
        (status["epochs"] - status["epochs_done"]) * (status["epoch_seconds"] or pace.get(_optimizer(status), slowest))
        for status in running
    ]
    epochs = max(status["epochs"] for status in statuses)
    to_come = sum(start + epochs * pace.get(optimizer, slowest) for optimizer in waiting)
    # Runs side by side end with the slowest; what waits is shared out among as many as work at once.
    return f"time left: {duration(max([*left, (sum(left) + to_come) / at_once]))}"


def _optimizer(status: Mapping[str, Any]) -> str:
    return str(status["config"].get("optimizer", {}).get("name", ""))


def _beside_epochs(status: Mapping[str, Any]) -> float | None:
    """Return the seconds that a run took beside its epochs; None if it was interrupted, or has not ended."""
    if (
        status["state"] == "running"
        or not (status.get("started") and status.get("ended"))
        or len(status.get("starts", [])) != 1
    ):
        return None
    took = (datetime.fromisoformat(status["ended"]) - datetime.fromisoformat(status["started"])).total_seconds()
    # The two are of different clocks, and one that was set back would make it negative.
    return max(0.0, took - status["epochs_done"] * (status["epoch_seconds"] or 0.0))


def duration(seconds: float) -> str:
    """Write hours, minutes and seconds, as a clock shows them."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
