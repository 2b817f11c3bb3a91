"""Train and measure: `python train.py optimizer=rmsprop lr=1e-3`; sweep with -m; `--help` lists the keys."""

import sys

import hydra
from omegaconf import DictConfig

from ireg.cli import end_with_one_line, hydra_errors_raised, overrides_first
from ireg.composition import check_config_name
from ireg.sweep.callback import summary_at_the_end
from ireg.terminal import as_command
from ireg.termination import sigterm_raises


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(config: DictConfig) -> float:
    """One run; torch is imported only when the configuration has been found to be right."""
    from ireg.run import run

    return run(config)


if __name__ == "__main__":
    with as_command(), end_with_one_line(), sigterm_raises(), summary_at_the_end(), hydra_errors_raised():
        check_config_name(sys.argv[1:])
        sys.argv[1:] = overrides_first(sys.argv[1:])
        main()
