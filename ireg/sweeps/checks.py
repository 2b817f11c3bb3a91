"""What is checked of all runs of a command before the first one starts: their values and folders."""

import os
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from ireg.config.arguments import require_arguments
from ireg.config.read import read
from ireg.config.schema import Config
from ireg.config.surroundings import require_device, require_surroundings
from ireg.runs.damage import DamagedRecordError
from ireg.runs.ownership import FilesOfOthersError, finished
from ireg.sweeps.plan import read_plan
from ireg.system.errors import UserError


def checked_folder(config: DictConfig) -> Path:
    """Check a single run; return its folder.

    Raises:
        UserError: a value is out of range or cannot be resolved, a list was given for a group of which one is chosen,
            an argument is not taken, the folder belongs to another run, or a device or a library is not here.
    """
    with _known_to_resolvers(config):
        settings = read(config)
        folder = Path(config.hydra.run.dir).absolute()
        _check(config, settings, folder, without=("launcher", "sweep", "sweeper"))
    return folder


def checked_folders(config: DictConfig, sweep: Path) -> dict[Path, list[str]]:
    """Compose and check all runs of a sweep; return their folders, each with what is set for it.

    Raises:
        UserError: as `checked_folder`, the sweep has no run, or two runs have the same folder or one elsewhere.
    """
    _resolve(config, ("launcher", "sweeper"))
    _check_sizes(config)
    _check_slurm(config)
    loader = GlobalHydra.instance().config_loader()
    folders: dict[Path, list[str]] = {}
    asked = _asked_before(sweep)
    for overrides in _jobs(config):
        job = loader.load_sweep_config(config, overrides)
        with open_dict(job):
            job.hydra.job.num, job.hydra.job.id = len(folders), str(len(folders))
        with _known_to_resolvers(job):
            settings = read(job)
            folder = _place(job, sweep)
            begun = folder.relative_to(sweep).as_posix() in asked
            with suppress(DamagedRecordError, *([FilesOfOthersError] if begun else [])):  # which fails its own run
                _check(job, settings, folder, without=("run",))
        if folder in folders:
            raise UserError(f"{folder}: two runs of the sweep would share it{_why(job, overrides, folders[folder])}")
        folders[folder] = overrides
    return folders


def _asked_before(sweep: Path) -> dict[str, list[str]]:
    """Return the runs that were asked for before.

    Returns:
        What was set for each by its folder's name; empty where the list is damaged, which is said where it is written.
    """
    with suppress(DamagedRecordError):
        return read_plan(sweep)
    return {}


def _check(config: DictConfig, settings: Config, folder: Path, *, without: Collection[str]) -> None:
    for group in ("data", "model", "optimizer", "trainer"):
        if group not in config.hydra.runtime.choices:  # as where a list was given, whose files Hydra then merges
            raise UserError(f"{group}: choose one, not a list; to sweep over several, use -m {group}=a,b")
    with read_write(config.hydra.runtime), open_dict(config.hydra.runtime):
        config.hydra.runtime.output_dir = str(folder)  # as it is when the run begins
    _resolve(config, [str(key) for key in config.hydra if key not in (*without, "overrides")])
    with suppress(OSError):  # a folder that cannot be read fails its own run
        if finished(folder, asdict(settings)) is not None:
            return
    require_surroundings(settings)
    require_arguments(settings)
    if _is_done_here(config):
        require_device(settings)


def _is_done_here(config: DictConfig) -> bool:
    """Say whether this machine will do the runs, and not a node of a cluster."""
    if config.hydra.mode != RunMode.MULTIRUN:
        return True
    return str(config.hydra.launcher.get("_target_")).rpartition(".")[2] in ("BasicLauncher", "JoblibLauncher")


def _check_slurm(config: DictConfig) -> None:
    """Refuse Slurm's launcher where there is no Slurm, by the program that Submitit looks for."""
    if str(config.hydra.launcher.get("_target_", "")).endswith("SlurmLauncher") and shutil.which("srun") is None:
        raise UserError(
            "hydra/launcher=slurm: no srun here, so this machine is not of a Slurm cluster; start from one that is, "
            "or use hydra/launcher=joblib"
        )


def _resolve(config: DictConfig, keys: Collection[str]) -> None:
    """Resolve some of Hydra's own settings, an error in which would later end a command that has begun."""
    for key in keys:
        value = config.hydra[key]
        if OmegaConf.is_config(value):
            OmegaConf.to_container(value, resolve=True)


def _check_sizes(config: DictConfig) -> None:
    size = config.hydra.sweeper.get("max_batch_size")
    if size is not None and size < 1:
        raise UserError(f"hydra.sweeper.max_batch_size={size}: must be an integer of at least 1, or null")
    if config.hydra.launcher.get("n_jobs") == 0:
        raise UserError("hydra.launcher.n_jobs=0: must be an integer of at least 1, or -1 for all processors")


@contextmanager
def _known_to_resolvers(config: DictConfig) -> Iterator[None]:
    """Let `${hydra:…}` mean this configuration, as it does when its run begins."""
    hydra = HydraConfig.instance()
    before = hydra.cfg
    hydra.set_config(config)
    try:
        yield
    finally:
        hydra.cfg = before


def _place(job: DictConfig, sweep: Path) -> Path:
    """Return the folder of a run within that of the sweep, which all commands see as one."""
    own, subdir = str(job.hydra.sweep.dir), os.path.normpath(job.hydra.sweep.subdir)
    if Path(own).absolute() != sweep:
        swept = any(override.startswith("experiment=") for override in job.hydra.overrides.task)
        raise UserError(
            f"hydra.sweep.dir={own}: must be one folder for all runs, as {sweep}; "
            + (_EXPERIMENT if swept else "sweep over what hydra.sweep.subdir holds, not hydra.sweep.dir or name")
        )
    if os.path.isabs(subdir) or subdir.split(os.sep)[0] == os.pardir:
        raise UserError(
            f"hydra.sweep.subdir={subdir}: must lie within the sweep's folder; choose that one with hydra.sweep.dir=…"
        )
    return sweep / subdir


_EXPERIMENT = (
    "give one experiment a command, as it is a sweep with a folder of its own, or compare single runs of them with "
    "hydra.sweep.dir=multirun/NAME hydra.sweep.subdir='${hydra.runtime.choices.experiment}'"
)

_REMEDIES = {
    "experiment": f"; {_EXPERIMENT}",
    "optimizer": "; give each file in conf/optimizer a name of its own",
}
"""By what differs between two runs with one folder, what to do."""


def _why(job: DictConfig, one: Sequence[str], other: Sequence[str]) -> str:
    """Say what two runs with one folder are set to, and what to do."""
    differing = [override for override in (*other, *one) if (override in one) != (override in other)]
    keys = {override.partition("=")[0] for override in differing}
    if not differing:
        return ": the same values are given twice; leave one of them out"
    if any(override.startswith("hydra.sweep.subdir=") for override in job.hydra.overrides.hydra):
        remedy = "; hydra.sweep.subdir must hold what differs: add it there, or leave hydra.sweep.subdir out"
    else:
        remedy = _REMEDIES.get(min(keys), "; they have equal values, leave one of them out")
    return f" ({', '.join(differing)}){remedy}"


def _jobs(config: DictConfig) -> list[list[str]]:
    """Return the overrides of each run; none for a sweeper that chooses them during the sweep.

    Hydra's basic sweeper does not.

    Raises:
        UserError: there is none at all.
    """
    sweeper = get_class(config.hydra.sweeper._target_)
    if not hasattr(sweeper, "split_arguments"):
        return []
    arguments = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    # As they were written: what they refer to may differ between the runs.
    written = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
    assert isinstance(written, list)
    arguments += written
    parsed = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader()).parse_overrides(arguments)
    (jobs,) = sweeper.split_arguments(parsed, max_batch_size=None)
    if not jobs:
        raise UserError("; ".join(_no_value(override) for override in parsed if _is_empty(override)))
    return [list(job) for job in jobs]


def _is_empty(override: Override) -> bool:
    return override.is_sweep_override() and not any(True for _ in override.sweep_string_iterator())


def _no_value(override: Override) -> str:
    known = GlobalHydra.instance().config_loader().get_group_options(override.key_or_group)
    what = f"choose from {', '.join(known)}" if known else f"give it one at least, as in {override.key_or_group}=1,2"
    return f"{override.input_line}: no value, so that the sweep has no run; {what}"
