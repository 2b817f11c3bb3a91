"""What was set for a run: the columns of TensorBoard's HPARAMS tab."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

_LEFT_OUT = ("name", "experiment", "threads", "data", "optimizer", "logger")
"""They leave the result as it is, or stand there already."""


def hyperparameters(folder: Path, status: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was set for a run, by key.

    First come optimizer, rate, batch size, seed, data and noise.

    Args:
        folder: the run's; Hydra keeps there what was set.
        status: its status, with the configuration.
    """
    config = status["config"]
    noise = config["data"]["noise"]
    chosen = {
        "optimizer": config["optimizer"]["name"],
        "lr": config["lr"],
        "batch_size": status.get("batch_size") or config["batch_size"],
        "seed": config["seed"],
        "data": config["data"]["name"],
        "noise": "none" if noise["kind"] == "none" or noise["rate"] == 0 else f"{noise['kind']} {noise['rate']:g}",
    }
    path = folder / ".hydra" / "overrides.yaml"
    given: Any = OmegaConf.to_container(OmegaConf.load(path)) if path.exists() else []
    pairs = [str(override).lstrip("+").split("=", 1) for override in given if "=" in str(override)]
    left_out = {*chosen, *_LEFT_OUT}
    return chosen | {
        key: _number_or_text(value)
        for key, value in pairs
        if key not in left_out and not key.startswith(("hydra", "data.noise", "logger."))
    }


def _number_or_text(value: str) -> float | str:
    try:
        return float(value)
    except ValueError:
        return value
