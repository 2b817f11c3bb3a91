"""The command `ireg`, also `python -m ireg`: lists and runs the tools."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from ireg.system.command import VERSION, framed, run_as_process
from ireg.system.errors import UserError, did_you_mean

COMMANDS = {
    "train": ("ireg.commands.train", "train a network and measure its terms; a sweep with -m"),
    "analysis": ("ireg.analysis.__main__", "table, files and figures of a sweep"),
    "browse": ("ireg.commands.browse", "TensorBoard, and the link to the paper's figures in it"),
    "sweep": ("ireg.sweeps.__main__", "how a sweep's runs stand; do failed ones again"),
    "run": ("ireg.experiment.run", "do the run of a folder again"),
    "data": ("ireg.commands.data", "list, show, verify and fetch the data sets"),
    "terms": ("ireg.commands.terms", "list what is measured, or show what a tag means"),
    "basins": ("ireg.basins.__main__", "measure the barriers between forks of training"),
    "drift": ("ireg.drift.__main__", "measure the mean drift of runs over an epoch"),
    "verify": ("ireg.verify", "certify the theory on this machine"),
}
"""Module with a `main(arguments)`, and what it does."""


@framed
def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the tools; return its exit code.

    Raises:
        UserError: there is no such tool.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help"):
        print(_help())
        return 0
    if given[0] == "--version":
        print(VERSION)
        return 0
    if given[0] not in COMMANDS:
        like = did_you_mean(given[0], [*COMMANDS, "--help", "--version"], cutoff=0.6)
        raise UserError(f"{given[0]}: no such command{like}; choose one of {', '.join(COMMANDS)}")
    module = import_module(COMMANDS[given[0]][0])
    return int(module.main(given[1:]))


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  ireg {name.ljust(width)}  {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        [
            "ireg: measure the implicit regularization of optimizers",
            "",
            *lines,
            "",
            "ireg COMMAND --help says more; ireg --version names the version.",
        ]
    )


def script() -> None:
    """Run as the console script."""
    run_as_process(main)


if __name__ == "__main__":
    script()
