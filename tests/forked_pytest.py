"""pytest as a command, started by fork from a process that has imported what is slow: a start takes no seconds.

Its arguments are the modules to import. Reads one JSON object a line from standard input: `arguments`, `output` (the
file for standard output and error), `seconds` (after which the tests are ended). Prints pytest's exit code, or null.
"""

import contextlib
import importlib
import json
import os
import signal
import sys
import time

import pytest


def be_pytest(order):
    """Become the tests; does not return."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    output = os.open(order["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    code = 1
    try:
        code = int(pytest.main(order["arguments"]))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def waited_for(child, seconds):
    """The child's exit code, or None if it takes longer; no process of its session is left."""
    end = time.monotonic() + seconds
    code = None
    while code is None and time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
        else:
            time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    if code is None:
        os.waitpid(child, 0)
    return code


if __name__ == "__main__":
    for name in sys.argv[1:]:
        importlib.import_module(name)
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            be_pytest(order)
        print(json.dumps(waited_for(child, order["seconds"])), flush=True)
