"""`train.py` as a command, started by fork from a process that has imported everything: a start takes no seconds.

Reads one JSON object a line from standard input: `arguments`, `cwd`, `outputs` (where standard output and error go),
and `killed_at`, the number of the file write amid which the command kills itself with SIGKILL (0 for none). Prints the
process id, then how it ended.
"""

import importlib
import json
import os
import pathlib
import runpy
import signal
import sys

# What a sweep imports as it goes on.
for name in (
    "torch",
    "lightning.pytorch",
    "matplotlib.pyplot",
    "ireg.analysis.figures",
    "ireg.experiment.build",
    "ireg.experiment.run",
):
    importlib.import_module(name)

TRAIN = str(pathlib.Path(__file__).parents[1] / "train.py")


def kill_amid_write(number):
    """Let this process kill itself when half of its so-many-th file is written."""
    writes = [0]

    def amid(original):
        def write(self, data, *arguments, **options):
            writes[0] += 1
            if writes[0] == number:
                original(self, data[: len(data) // 2], *arguments, **options)
                os.kill(os.getpid(), signal.SIGKILL)
            return original(self, data, *arguments, **options)

        return write

    pathlib.Path.write_bytes = amid(pathlib.Path.write_bytes)
    pathlib.Path.write_text = amid(pathlib.Path.write_text)


def be_the_command(order):
    """Become the command; does not return."""
    os.setsid()
    os.chdir(order["cwd"])
    # A job in a shell's background starts with SIGINT ignored, and so would the command of a test in one.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for descriptor, path in zip((1, 2), order["outputs"], strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    sys.argv = [TRAIN, *order["arguments"]]
    if order["killed_at"]:
        kill_amid_write(order["killed_at"])
    code = 0
    try:
        runpy.run_path(TRAIN, run_name="__main__")
    except SystemExit as ending:
        if isinstance(ending.code, str):  # as Python does with a message
            print(ending.code, file=sys.stderr)
        code = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    print("ready", flush=True)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            be_the_command(json.loads(line))
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
