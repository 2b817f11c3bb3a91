"""Train and measure: `ireg train optimizer=rmsprop lr=1e-3`, also `python train.py`.

Sweep with -m; `--help` lists the keys.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import hydra
from omegaconf import DictConfig

from ireg.commands.help import help_text
from ireg.config.errors import explain, hydra_errors_raised, overrides_first, require_options
from ireg.runs.origin import noting_the_command
from ireg.sweeps.callback import exit_code, summary_at_the_end
from ireg.system.command import VERSION, endings_in_one_line, program

_PACKAGE = Path(__file__).parents[1]
CONF = next(path for path in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if path.is_dir())
"""The configuration: in the package where that is installed, beside it in a checkout."""


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def task(config: DictConfig) -> float:
    """Do one run.

    torch is imported only when the configuration is known to be right.
    """
    from ireg.experiment.run import run

    return run(config)


def _program() -> str:
    """Return how the command was called."""
    return "python train.py" if Path(sys.argv[0]).name == "train.py" else program("train")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code, or end with it."""
    with endings_in_one_line(explain, exit_code), summary_at_the_end(), hydra_errors_raised():
        given = list(sys.argv[1:] if arguments is None else arguments)
        if {"-h", "--help"} & set(given):
            print(help_text(CONF, _program()))
            return 0
        if "--version" in given:  # Hydra would name its own
            print(VERSION)
            return 0
        sys.argv[1:] = overrides_first(given)
        require_options(sys.argv[1:])
        with noting_the_command([*_program().split(), *given]):
            task()
    return 0
