"""Runs as Hydra's launchers start them.

A folder that cannot be written to is its run's failure, and harms no other.
"""

import functools
import inspect
import logging
import math
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

from hydra.core import utils
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from ireg.cli import explain
from ireg.config import Config, read
from ireg.errors import UserError
from ireg.runs.ownership import finished

log = logging.getLogger(__name__)

_hydras_own = utils.run_job


@functools.wraps(_hydras_own)
def run_job(*arguments: Any, **keywords: Any) -> JobReturn:
    """Do a run as Hydra does.

    Return the error, too, if its folder, log or `.hydra` cannot be written.

    Hydra makes these before the part whose errors it catches, so that one of them would end the whole sweep.
    A run that is finished needs none.

    Raises:
        OSError: the folder of a single run, which harms no other, cannot be written to.
    """
    try:
        return _hydras_own(*arguments, **keywords)
    except Exception as error:
        failure = _of_the_system(error)
        if failure is None:
            raise
        return _without_folder(inspect.signature(_hydras_own).bind(*arguments, **keywords).arguments["config"], failure)


def register() -> None:
    """Let Hydra's launchers call this `run_job`, wherever they have imported Hydra's own."""
    for module in [*sys.modules.values()]:
        if isinstance(module, ModuleType) and vars(module).get("run_job") is _hydras_own:
            module.run_job = run_job  # type: ignore[attr-defined]


def _of_the_system(error: BaseException | None) -> OSError | None:
    """Find the system's error under those around it.

    Logging's, for example, name no file.
    """
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__
    return error


def _without_folder(config: DictConfig, failure: Exception) -> JobReturn:
    """Return how a run ends whose folder cannot be written to.

    A finished run ends as it did before; any other fails.
    """
    overrides = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
    assert isinstance(overrides, list)
    ended = JobReturn(overrides)
    value = None
    try:
        value = objective_if_finished(Path(config.hydra.runtime.output_dir), read(config))
    except (UserError, OSError) as unreadable:
        failure = unreadable
    if value is not None:
        ended.status, ended.return_value = JobStatus.COMPLETED, value
        return ended
    if config.hydra.mode != RunMode.MULTIRUN:
        raise failure
    log.error("%s", explain(failure) or failure)  # noted nowhere, and the sweep's end names one failure only
    ended.status, ended.return_value = JobStatus.FAILED, failure
    return ended


def objective_if_finished(folder: Path, settings: Config) -> float | None:
    """Return the objective of a run that is finished.

    That it is finished is said, in a sweep in its log alone: the sweep has counted such runs. None where it is still to
    be done.

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

    It is infinity for a run that diverged.

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
