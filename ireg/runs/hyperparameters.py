"""What was set for a run: the columns of TensorBoard's HPARAMS tab."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ireg.runs.status import flat

log = logging.getLogger(__name__)

_LEFT_OUT = ("name", "experiment", "threads", "data", "optimizer", "logger")
"""They leave the result as it is, or stand there already."""


def hyperparameters(folder: Path, status: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was set for a run, by key.

    First come optimizer, rate, batch size, seed, data and noise.

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
    pairs = [str(override).lstrip("+").split("=", 1) for override in _overrides(folder) if "=" in str(override)]
    left_out = {*chosen, *_LEFT_OUT}
    return chosen | {
        key: _number_or_text(value)
        for key, value in pairs
        if key not in left_out and not key.startswith(("hydra", "data.noise", "logger."))
    }


def _overrides(folder: Path) -> list[Any]:
    """Return what was set, or nothing where that cannot be read."""
    path = folder / ".hydra" / "overrides.yaml"
    if not path.exists():
        return []
    try:
        given: Any = OmegaConf.to_container(OmegaConf.load(path))
        if not isinstance(given, list):
            raise ValueError("no list")
    except (OSError, ValueError, yaml.YAMLError, OmegaConfBaseException) as error:
        why = " ".join(str(error).split())
        log.warning("%s: cannot be read (%s); what was set is not shown for this run", path, why)
        return []
    return given


def _number_or_text(value: str) -> float | str:
    try:
        return float(value)
    except ValueError:
        return value
