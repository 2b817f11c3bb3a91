"""The result of a run that is finished."""

import logging
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from ireg.config.schema import Config
from ireg.runs.ownership import finished
from ireg.system.errors import UserError

log = logging.getLogger(__name__)


def objective_if_finished(folder: Path, settings: Config) -> float | None:
    """Return the objective of a run that is finished, and report that it is.

    The report goes, in a sweep, to its log alone: the sweep has counted such runs.

    Args:
        folder: the run's.
        settings: the run's, which the folder's must equal.

    Returns:
        The objective; None where the run is still to be done.

    Raises:
        UserError: the folder belongs to another run, or the objective has no value for the run's optimizer.
    """
    status = finished(folder, asdict(settings))
    if status is None:
        return None
    in_sweep = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
    level = logging.INFO if in_sweep else logging.WARNING
    log.log(level, "%s: %s already, kept as it is; to run it again, delete the folder", folder, status["state"])
    return objective(settings, status["state"], status["final"])


def objective(settings: Config, state: str, final: Mapping[str, Any]) -> float:
    """Return the final value of the settings' objective.

    Args:
        settings: the run's; `objective` is the tag.
        state: the run's, `done` or `diverged`.
        final: the last row, by tag.

    Returns:
        The value; infinity for a run that diverged.

    Raises:
        UserError: there is none, as of a term that does not exist for the optimizer.
    """
    if state != "done":
        return math.inf
    if settings.objective not in final:
        raise UserError(
            f"objective={settings.objective}: the run is done and has no such value; it has {', '.join(final)}"
        )
    return float(final[settings.objective])
