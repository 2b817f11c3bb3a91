"""The command `python -m ireg.run`, see `ireg.experiment.run`."""

from ireg.experiment.run import main
from ireg.system.command import run_as_process

if __name__ == "__main__":
    run_as_process(main)
