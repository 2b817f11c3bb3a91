"""Train and measure: `python train.py optimizer=rmsprop lr=1e-3`.

Sweep with -m; `--help` lists the keys.
"""

from ireg.system.command import EXIT_USER_ERROR, endings_in_one_line
from ireg.system.terminal import as_command

if __name__ == "__main__":
    with as_command(exit_code=EXIT_USER_ERROR), endings_in_one_line():
        from ireg.commands.train import main  # here, so that Ctrl-C during the imports ends in one line, too

        main()
