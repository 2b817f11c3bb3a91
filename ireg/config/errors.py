"""From exceptions to one line on the terminal."""

import dataclasses
import os
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import NoReturn

from hydra._internal.utils import get_args_parser
from hydra.errors import CompactHydraException, HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from ireg.config.read import no_such_key, unresolved
from ireg.config.schema import GROUPS, Config
from ireg.config.surroundings import installing
from ireg.system.command import WANTS_TRACEBACK, plainly
from ireg.system.errors import UserError, did_you_mean

_EXTRAS = {"hydra/sweeper": ("optuna", "tune")}
"""By group, a choice that an extra of ours brings, and the extra."""

_ADVICE = {
    "Multiple values for": "; on the command line, leave + out",
    "Config group override must be": "; write a name that python train.py --help lists, or terms=[] for no term",
    "argument of type": ": a choice must be a name that python train.py --help lists",
}
"""By how Hydra's text begins, what to do."""

# What the launchers raise when a run is lost, by name: they need not be installed.
_LOST = {
    "TerminatedWorkerError": "a worker process was killed, for want of memory perhaps, and joblib ended the others, "
    "too; the same command resumes all of them, with hydra.launcher.n_jobs=1 one at a time",
    "UncompletedJobError": "a run's job ended without a word: killed, or out of memory; its log is in .submitit in the "
    "sweep's folder. Other jobs continue, see python -m ireg sweep status; once they have ended, the same command "
    "resumes what was lost",
}


@contextmanager
def hydra_errors_raised() -> Iterator[None]:
    """Let Hydra raise its errors, to report them in one line."""
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        if not WANTS_TRACEBACK:
            del os.environ["HYDRA_FULL_ERROR"]


def overrides_first(arguments: Sequence[str]) -> list[str]:
    """Put overrides before options, as Hydra's parser takes no `epochs=1 -m seed=0,1`.

    Raises:
        UserError: an option would unpickle a file, or takes a part of the configuration for the whole.
    """
    for word, following in pairwise([*arguments, ""]):
        option, _, value = word.partition("=")
        if option.startswith("--e") and "--experimental-rerun".startswith(option):
            raise UserError(
                f"{word}: not supported, such a file can run any code; ireg run FOLDER does the run of a folder again"
            )
        group, _, choice = (value or following).rpartition("/")
        if option in ("-cn", "--config-name") and group in GROUPS:
            raise UserError(
                f"-cn {group}/{choice}: a part of the configuration is not the whole; write {group}={choice}"
            )
    # A word without = that follows an option is that option's value, as in -cn NAME.
    overrides = [
        word
        for before, word in pairwise(["", *arguments])
        if not word.startswith("-") and (not before.startswith("-") or "=" in word or word.startswith("~"))
    ]
    options = list(arguments)
    for override in overrides:
        options.remove(override)
    return [*overrides, *options]


def require_options(arguments: Sequence[str]) -> None:
    """Check the options, for which Hydra's parser would print its usage in many lines.

    Args:
        arguments: as `overrides_first` returns them.

    Raises:
        UserError: there is no such option, or one has a wrong value.
    """

    def refuse(message: str) -> NoReturn:
        if not message.startswith("unrecognized arguments: "):
            raise UserError(f"{message}; python train.py --hydra-help says more")
        word = message.split()[2]
        key = word.lstrip("-").partition("=")[0]
        if key in GROUPS or key in _keys():
            raise UserError(f"{word}: no such option; keys have no dashes, write {key}=…")
        like = did_you_mean(word, parser._option_string_actions)
        raise UserError(f"{word}: no such option{like}; python train.py --help lists the keys")

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    parser.parse_args(arguments)


def explain(error: Exception) -> str | None:
    """Return the one line for a user's error; None for another."""
    if line := _missing_choice(error):
        return line
    if isinstance(error, OverrideParseException):
        key, _, value = str(error.override).partition("=")
        if value.startswith("${") and not {"'", '"'} & set(value):  # as ${ireg_of_optimizer:{sgd:1},${optimizer.name}}
            return (
                f"{key}={value}: cannot be read; what refers to others needs two pairs of quotes, '{key}=\"{value}\"'"
            )
        return (
            f"{error.override}: cannot be read; write key=value, and quote what the shell or Hydra would read otherwise"
        )
    if type(error).__name__ in _LOST:
        return _LOST[type(error).__name__]
    if not isinstance(error, CompactHydraException):
        return _by_its_kind(error)
    cause = error.__cause__
    if isinstance(cause, ConfigKeyError | ConfigAttributeError):
        key = str(cause.full_key or cause.key)
        return no_such_key(key, did_you_mean(key, _keys()))
    if str(error).startswith("Ambiguous value for argument"):
        override = str(error).splitlines()[0].split("'")[1]
        return f"{override}: several values; add -m to sweep over them (a value that is a list is written key=[a,b])"
    if cause is None:
        return _hydras_own(error)
    # Hydra's text says what was overridden, the cause's first line why that fails; the rest is about internals.
    lines = [str(error).splitlines()[0], *str(cause).splitlines()[:1]]
    return ": ".join(line.strip() for line in lines).removeprefix("Error merging override ")


def _by_its_kind(error: Exception) -> str | None:
    if line := plainly(error):
        return line
    if isinstance(error, OmegaConfBaseException):  # in Hydra's own settings, which are read as they are needed
        return unresolved(error)
    if isinstance(error, HydraException):
        return _hydras_own(error)
    # A choice that is no name, and a file that is no YAML, raise errors of other kinds in these libraries' own code.
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    if frames and str(frames[-1].f_globals.get("__name__")).startswith(("hydra.", "yaml.")):
        return _hydras_own(error)
    return None


def _hydras_own(error: Exception) -> str:
    """Return Hydra's text in one line, with what it leaves out."""
    text = " ".join(str(error).split())
    return text + next((advice for beginning, advice in _ADVICE.items() if text.startswith(beginning)), "")


def _missing_choice(error: Exception) -> str | None:
    """Return the line for a missing file; None where the user did not choose the file."""
    if not isinstance(error, MissingConfigException):
        return None
    group, _, choice = (error.missing_cfg_file or "").rpartition("/")
    if (group, choice) == ("hydra/launcher", "submitit_slurm"):  # which hydra/launcher=slurm builds upon
        return f"hydra/launcher=slurm: the launcher for Slurm is not installed; {installing('slurm')}"
    if not group:
        return (
            f"-cn {error.missing_cfg_file}: no such file in conf; leave -cn out, and choose parts, like experiment=demo"
        )
    if not error.options:
        return f"{group}={choice}: no such choice; python train.py --help lists them"
    known = ", ".join(error.options)
    if group in _EXTRAS:
        missing, extra = _EXTRAS[group]
        known += f"; for {missing}, {installing(extra)}"
    return f"{group}={choice}: no such choice{did_you_mean(choice, error.options)}; choose one of {known}"


def _keys(kind: type = Config, prefix: str = "") -> list[str]:
    """List all keys of the schema, dotted."""
    keys = []
    for field in dataclasses.fields(kind):
        keys.append(f"{prefix}{field.name}")
        if isinstance(field.type, type) and dataclasses.is_dataclass(field.type):
            keys += _keys(field.type, f"{prefix}{field.name}.")
    return keys
