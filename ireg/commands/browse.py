"""`python -m ireg.browse FOLDER`: TensorBoard, and a link into it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ireg.runs.layout import EVENTS
from ireg.system.command import Parser, framed, module_as_command
from ireg.system.errors import UserError


@framed
def main(arguments: Sequence[str] | None = None) -> int:
    """Print the link, and replace this process by TensorBoard.

    Args:
        arguments: of the command line; None takes the process's own.

    Raises:
        UserError: there are no event files in the folder.
    """
    parser = Parser(
        "browse",
        description="Start TensorBoard on FOLDER and print the link that opens the paper's four figures in it: pinned, "
        "not smoothed, one colour an optimizer. Ctrl-C ends it.",
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="a sweep's folder, like multirun/NAME")
    parser.add_argument("--port", type=int, default=6006, help="where it listens on this machine (default: 6006)")
    given = parser.parse_args(arguments)
    if not any(given.folder.rglob(EVENTS)):
        what = "holds no event files" if given.folder.is_dir() else "is not a folder"
        raise UserError(f"{str(given.folder)!r} {what}; name a sweep's folder, like multirun/NAME")
    from ireg.analysis.dashboard import link

    print(link(given.folder, given.port), flush=True)
    command = [*module_as_command("tensorboard.main"), "--logdir", str(given.folder), "--port", str(given.port)]
    os.execv(command[0], command)
