"""What was set for a run: the columns of TensorBoard's HPARAMS tab."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from ireg.runs.status import flat
from ireg.system.errors import UserError
from ireg.system.reading import LARGEST_LIST, read_text

log = logging.getLogger(__name__)

_LEFT_OUT = ("name", "experiment", "threads", "data", "optimizer", "logger")
"""They leave the result as it is, or stand there already."""


def hyperparameters(folder: Path, status: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was set for a run by key: first optimizer, rate, batch size, seed, data and noise.

    Args:
        folder: the run's; Hydra keeps there what was set.
        status: its status, with the configuration.
    """
    config = flat(status["config"])
    kind, rate = config.get("data.noise.kind", "none"), config.get("data.noise.rate", 0)
    chosen = {
        "optimizer": config.get("optimizer.name"),
        "lr": config.get("lr"),
        "batch_size": status.get("batch_size") or config.get("batch_size"),
        "seed": config.get("seed"),
        "data": config.get("data.name"),
        "noise": "none" if kind == "none" or rate == 0 else f"{kind} {_number_or_text(str(rate)):g}",
    }
    pairs = [override.lstrip("+").split("=", 1) for override in _readable_overrides(folder) if "=" in override]
    left_out = {*chosen, *_LEFT_OUT}
    return chosen | {
        key: _number_or_text(value)
        for key, value in pairs
        if key not in left_out and not key.startswith(("hydra", "data.noise", "logger."))
    }


def overrides(folder: Path) -> list[str]:
    """Read what was set for a run on the command line.

    Args:
        folder: the run's; Hydra keeps there what was set.

    Returns:
        The settings as they were typed; none where Hydra has kept nothing.

    Raises:
        UserError: the file cannot be read, or is no list of texts.
    """
    path = folder / ".hydra" / "overrides.yaml"
    try:
        return list(_texts(read_text(path, largest=LARGEST_LIST)))
    except FileNotFoundError:
        return []
    except (OSError, ValueError, yaml.YAMLError) as error:
        why = " ".join(str(error).split())
        raise UserError(f"{path}: cannot be read ({why}); what was set is not shown for this run") from error


def _readable_overrides(folder: Path) -> list[str]:
    """Return what was set on the command line; an empty list, and a warning, where that cannot be read."""
    try:
        return overrides(folder)
    except UserError as error:
        log.warning("%s", error)
        return []


def _texts(document: str) -> Iterator[str]:
    """Yield the texts of a YAML document that is a list of texts.

    No objects are made of the document, in which a few bytes may stand for more than a memory holds.

    Raises:
        ValueError: it is something else.
    """
    kinds = (yaml.ScalarEvent, yaml.SequenceEndEvent, yaml.DocumentEndEvent, yaml.StreamEndEvent)
    begin = (yaml.StreamStartEvent, yaml.DocumentStartEvent, yaml.SequenceStartEvent)
    for number, event in enumerate(yaml.parse(document, Loader=yaml.SafeLoader)):
        if not isinstance(event, begin[number] if number < len(begin) else kinds):
            raise ValueError("not a list of texts")
        if isinstance(event, yaml.ScalarEvent):
            yield event.value


def _number_or_text(value: str) -> float | str:
    try:
        return float(value)
    except ValueError:
        return value
