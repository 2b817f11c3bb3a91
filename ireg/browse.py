"""The command `python -m ireg.browse`, see `ireg.commands.browse`."""

from ireg.commands.browse import main
from ireg.system.command import run_as_process

if __name__ == "__main__":
    run_as_process(main)
