"""Train and measure: `python train.py optimizer=rmsprop lr=1e-3`.

Sweep with -m; `--help` lists the keys.
"""

import sys

import hydra
from omegaconf import DictConfig

from ireg.cli import explain, hydra_errors_raised, overrides_first
from ireg.command import EXIT_USER_ERROR, endings_in_one_line
from ireg.composition import check_config_name
from ireg.sweep.callback import exit_code, summary_at_the_end
from ireg.terminal import as_command


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(config: DictConfig) -> float:
    """Do one run.

    torch is imported only when the configuration has been found to be right.
    """
    from ireg.run import run

    return run(config)


if __name__ == "__main__":
    with (
        as_command(exit_code=EXIT_USER_ERROR),
        endings_in_one_line(explain, exit_code),
        summary_at_the_end(),
        hydra_errors_raised(),
    ):
        check_config_name(sys.argv[1:])
        sys.argv[1:] = overrides_first(sys.argv[1:])
        main()
