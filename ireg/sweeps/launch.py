"""Runs as Hydra's launchers start them.

A folder that cannot be written to fails its own run alone, and an error is printed once.
"""

import functools
import inspect
import logging
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from hydra.core import utils
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from ireg.config.errors import explain
from ireg.config.read import read
from ireg.runs.finished import objective_if_finished
from ireg.system.errors import UserError

log = logging.getLogger(__name__)

_hydras_own = utils.run_job


class Ended(JobReturn):
    """How a run has ended; a user's error is raised without Hydra's line before ours."""

    @property
    def return_value(self) -> Any:
        """What the run returned.

        Raises:
            Exception: what it raised.
        """
        if self.status == JobStatus.FAILED and explain(self._return_value) is not None:
            raise self._return_value
        return JobReturn.return_value.fget(self)  # type: ignore[attr-defined]

    @return_value.setter
    def return_value(self, value: Any) -> None:
        self._return_value = value


@functools.wraps(_hydras_own)
def run_job(*arguments: Any, **keywords: Any) -> JobReturn:
    """Do a run as Hydra does, and return the error, too, if its folder, log or `.hydra` cannot be written.

    Hydra makes these before the part whose errors it catches, so that one of them would end the whole sweep. A run that
    is finished needs none.

    Raises:
        OSError: the folder of a single run, which harms no other, cannot be written to.
    """
    try:
        return Ended(**vars(_hydras_own(*arguments, **keywords)))
    except Exception as error:
        failure = _of_the_system(error)
        if failure is None:
            raise
        return _without_folder(inspect.signature(_hydras_own).bind(*arguments, **keywords).arguments["config"], failure)


def register() -> None:
    """Let Hydra's launchers call this `run_job`, wherever they have imported Hydra's own.

    No callback of Hydra's stands where these errors arise: they come before `on_job_start`, and each launcher calls
    `run_job` by the name that it has imported.
    """
    for module in [*sys.modules.values()]:
        if isinstance(module, ModuleType) and vars(module).get("run_job") is _hydras_own:
            module.run_job = run_job  # type: ignore[attr-defined]


def _of_the_system(error: BaseException | None) -> OSError | None:
    """Find the system's error under those around it, of which logging's, for example, name no file."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__
    return error


def _without_folder(config: DictConfig, failure: Exception) -> JobReturn:
    """Return how a run ends whose folder cannot be written to: a finished one as before, any other fails."""
    overrides = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
    assert isinstance(overrides, list)
    ended = Ended(overrides)
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
