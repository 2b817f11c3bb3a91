"""Where a run comes from: the command as it was typed, and the experiment with its question."""

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

COMMAND = "IREG_COMMAND"
"""The environment variable that hands the command to the processes of its runs, whichever launcher starts them."""


class Origin(NamedTuple):
    """Where a run comes from; None where that is not known.

    Attributes:
        command: as it was typed.
        experiment: the name of the chosen file in `conf/experiment`.
        question: what that file says in its first comment.
    """

    command: str | None = None
    experiment: str | None = None
    question: str | None = None


UNKNOWN = Origin()


def origin_of_this_job() -> Origin:
    """Find where the run of Hydra's present job comes from."""
    from hydra.core.hydra_config import HydraConfig  # here, as those who only read records need it not

    runtime = HydraConfig.get().runtime
    chosen = runtime.choices.get("experiment")
    name = chosen if isinstance(chosen, str) and chosen != "null" else None
    folders = [Path(source.path) for source in runtime.config_sources if source.schema == "file"]
    return Origin(os.environ.get(COMMAND), name, None if name is None else _question(name, folders))


def origin_of(status: Mapping[str, Any]) -> Origin:
    """Return the experiment and the question that a run's status has; not the command, which is a start's."""
    return Origin(None, status.get("experiment"), status.get("question"))


def _question(experiment: str, folders: Sequence[Path]) -> str | None:
    """Read the experiment's question from the first folder that has its file, which may be gone."""
    from ireg.config.comments import first_comment

    for folder in folders:
        with suppress(OSError, UnicodeDecodeError):
            return first_comment(folder / "experiment" / f"{experiment}.yaml") or None
    return None


@contextmanager
def noting_the_command(words: Sequence[str]) -> Iterator[None]:
    """Hand the command to all runs that the block does, in this process or in others.

    Args:
        words: of the command line.
    """
    before = os.environ.get(COMMAND)
    os.environ[COMMAND] = shlex.join(words)
    try:
        yield
    finally:
        if before is None:
            del os.environ[COMMAND]
        else:
            os.environ[COMMAND] = before
