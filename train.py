"""Train and measure: `python train.py optimizer=rmsprop lr=1e-3`.

Sweep with -m; `--help` lists the keys.
"""

from ireg.command import EXIT_USER_ERROR
from ireg.terminal import as_command
from ireg.train import main

if __name__ == "__main__":
    with as_command(exit_code=EXIT_USER_ERROR):
        main()
