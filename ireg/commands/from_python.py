"""A sweep from Python: the same command, in a process of its own, whose runs come back as a table."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from ireg.system.command import EXIT_USER_ERROR, environment_of_children, module_as_command, run_as_process
from ireg.system.errors import UserError

if TYPE_CHECKING:
    import pandas as pd


def sweep(overrides: Sequence[str], *, folder: str | Path | None = None, quiet: bool = False) -> pd.DataFrame:
    """Do a sweep, and return its finished runs.

    It is `ireg train -m …`: the same configuration, run folders and files. Runs that are done already are not done
    again, so that the same call resumes a sweep. What the command prints comes as lines.

    Args:
        overrides: as on the command line, `["optimizer=sgd,adam", "seed=0,1,2", "experiment=…"]`.
        folder: of the sweep; by default `multirun/NAME` in the current folder, as the configuration has it.
        quiet: print nothing.

    Returns:
        A row a finished run of this call, with its configuration and the last value of every tag; `ireg.load` has all
        epochs, and `ireg.compare` compares settings.

    Raises:
        UserError: the command was refused, in its words.
        RuntimeError: no run has finished; the message has the command's last line.
        KeyboardInterrupt: after the command has ended; the same call resumes.

    Example:
        >>> import tempfile
        >>> small = ["epochs=1", "data=digits", "data.train_size=64", "data.test_size=64", "model.hidden=[8]"]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     runs = sweep(["optimizer=sgd,adam", *small], folder=folder, quiet=True)
        >>> runs["optimizer"].tolist()
        ['adam', 'sgd']
    """
    from ireg.analysis.load import runs

    if isinstance(overrides, str):
        raise UserError(f"{overrides!r}: must be a list of strings, as [{overrides!r}]")
    placed = [] if folder is None else [f"hydra.sweep.dir={_quoted(Path(folder).absolute())}"]
    with TemporaryDirectory() as temporary:
        note = Path(temporary, "asked.json")
        command = [*module_as_command("ireg.commands.from_python"), str(note), *overrides, *placed]
        code, last = _passed_on(command, quiet=quiet)
        if code == EXIT_USER_ERROR:
            raise UserError(last.removeprefix("error: "))
        if not note.exists():
            raise RuntimeError(f"the sweep has not begun: {last}")
        asked = json.loads(note.read_text(encoding="utf-8"))
    found = runs(asked["folder"])
    own = found["run"].isin(asked["runs"]) if asked["runs"] else found["run"].notna()
    finished = found[own & (found["state"] == "done")].reset_index(drop=True)
    if finished.empty:
        raise RuntimeError(f"no run of {asked['folder']} has finished: {last}")
    return finished


def _passed_on(command: Sequence[str], *, quiet: bool) -> tuple[int, str]:
    """Run a command, print its lines as they come, and return its exit code and its last line."""
    last = ""
    process = subprocess.Popen(
        command,
        env=environment_of_children(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            last = line.strip() or last
            if not quiet:
                print(line, end="", flush=True)
        return process.wait(), last
    except KeyboardInterrupt:  # which reaches a command in the same terminal, and in a notebook does not
        process.terminate()
        raise
    finally:
        process.wait()


def _quoted(path: Path) -> str:
    """Write a path as a value of an override."""
    text = str(path).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{text}'"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, and note which runs it was asked for in the file that the first argument names."""
    from ireg.commands.train import main as train
    from ireg.sweeps.callback import asked

    note, *overrides = sys.argv[1:] if arguments is None else arguments
    try:
        return train(["-m", *overrides])
    finally:
        for folder, names in asked.items():
            Path(note).write_text(json.dumps({"folder": str(folder), "runs": names}), encoding="utf-8")


if __name__ == "__main__":
    run_as_process(main)
