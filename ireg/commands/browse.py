"""`ireg browse FOLDER`: TensorBoard, and a link into it."""

from __future__ import annotations

import argparse
import http.client
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ireg.runs.layout import EVENTS
from ireg.system.command import EXIT_FAILED, Parser, framed, module_as_command
from ireg.system.errors import UserError

PORT = 6006
"""Where TensorBoard listens by default."""

PORTS = 100
"""So many are tried from there on."""

ANSWER_SECONDS = 60.0
"""For TensorBoard's first answer; then it is said that there is none."""

POLL_SECONDS = 0.1
"""Between two looks at whether it answers."""


@framed
def main(arguments: Sequence[str] | None = None) -> int:
    """Start TensorBoard, print the link once it answers, and stay until it ends; return the exit code.

    Args:
        arguments: of the command line; None takes the process's own.

    Raises:
        UserError: there are no event files in the folder, the port is taken, or TensorBoard does not start.
    """
    parser = Parser(
        "browse",
        description="Start TensorBoard on FOLDER and print the link that opens the paper's four figures in it: pinned, "
        "not smoothed, one colour an optimizer. Ctrl-C ends it.",
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="a sweep's folder, like multirun/NAME")
    parser.add_argument(
        "--port", type=_port, metavar="N", help=f"where it listens on this machine (default: {PORT}, or the next free)"
    )
    given = parser.parse_args(arguments)
    if not any(given.folder.rglob(EVENTS)):
        what = "holds no event files" if given.folder.is_dir() else "is not a folder"
        raise UserError(f"{str(given.folder)!r} {what}; name a sweep's folder, like multirun/NAME")
    if given.port is not None and not _is_free(given.port):
        raise UserError(f"--port {given.port}: taken by another process; choose another, or leave --port out")
    port = _first_free() if given.port is None else given.port
    print(f"starting TensorBoard on port {port}; Ctrl-C ends it", file=sys.stderr, flush=True)
    command = [*module_as_command("tensorboard.main"), "--logdir", str(given.folder), "--port", str(port)]
    process = subprocess.Popen(command)
    try:
        return _accompany(process, given.folder, port)
    except KeyboardInterrupt:  # which ends it as it should, and the terminal sends to both
        return 0
    finally:
        process.terminate()  # which a process that has ended does not mind
        process.wait()


def _accompany(process: subprocess.Popen[bytes], folder: Path, port: int) -> int:
    """Print the link once TensorBoard answers, and return the exit code when it ends."""
    from ireg.analysis.dashboard import link

    latest = time.monotonic() + ANSWER_SECONDS
    while not (answers := _answers(port)) and process.poll() is None and time.monotonic() < latest:
        time.sleep(POLL_SECONDS)
    if process.poll() is not None and not answers:
        raise UserError(f"TensorBoard ended with exit code {process.returncode}; its own lines above say why")
    if not answers:
        print(f"TensorBoard has not answered for {ANSWER_SECONDS:.0f} seconds; once it does:", file=sys.stderr)
    print(link(folder, port), flush=True)
    return EXIT_FAILED if process.wait() else 0


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) < 2**16:
        raise argparse.ArgumentTypeError(f"{text}: must be an integer from 1 to 65535")
    return int(text)


def _first_free() -> int:
    """Return the first port that is free.

    Raises:
        UserError: all of those that are tried are taken.
    """
    for port in range(PORT, PORT + PORTS):
        if _is_free(port):
            return port
    raise UserError(f"ports {PORT} to {PORT + PORTS - 1} are all taken; choose another with --port N")


def _is_free(port: int) -> bool:
    """Say whether nothing listens on a port of this machine, and this process may."""
    try:
        with socket.create_connection(("localhost", port), timeout=1):
            return False
    except OSError:
        pass
    try:
        with socket.create_server(("localhost", port)):
            return True
    except OSError:
        return False


def _answers(port: int) -> bool:
    """Say whether TensorBoard answers."""
    connection = http.client.HTTPConnection("localhost", port, timeout=5)
    try:
        connection.request("GET", "/data/environment")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
