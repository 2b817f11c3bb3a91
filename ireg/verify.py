"""The command `python -m ireg.verify`, see `ireg.certify.command`."""

from ireg.certify.command import main
from ireg.command import run_as_process

if __name__ == "__main__":
    run_as_process(main)
