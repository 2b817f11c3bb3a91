"""`python -m benchmarks.epoch`: seconds of an epoch of the project and of the loop written by hand, side by side.

Both run in this process in turns of a few epochs, so that whatever else the machine does hits both; the ratio is that
of the medians. The project's epoch is the whole one: training, evaluation, terms, log files and checkpoint.
"""

import argparse
import csv
import logging
import statistics
import sys
import tempfile
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import OmegaConf, open_dict
from rich.console import Console
from rich.table import Table

from benchmarks.loop import epochs_by_hand
from ireg import run as project
from ireg.config import read
from ireg.sweep import callback as _registers_schema_and_resolvers  # noqa: F401

CONF = Path(__file__).parents[1] / "conf"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--optimizers", nargs="+", default=["sgd", "rmsprop", "adam"])
    parser.add_argument("--turns", type=int, default=5, help="turns of each side (default 5)")
    parser.add_argument("--epochs", type=int, default=4, help="epochs in a turn; the first is not counted (default 4)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("overrides", nargs="*", help="configuration, like batch_size=16")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    table = Table(title=f"seconds of an epoch (median), threads={arguments.threads} {' '.join(arguments.overrides)}")
    for column in ("optimizer", "project", "loop by hand", "ratio", "ratios of the turns"):
        table.add_column(column, justify="left" if column == "optimizer" else "right")
    for optimizer in arguments.optimizers:
        overrides = [f"optimizer={optimizer}", f"epochs={arguments.epochs}", f"threads={arguments.threads}"]
        ours, theirs, ratios = [], [], []
        for turn in range(arguments.turns):
            print(f"{optimizer}: turn {turn + 1} of {arguments.turns}", file=sys.stderr)
            by_project, by_hand = _turn([*overrides, *arguments.overrides])
            ours += by_project
            theirs += by_hand
            ratios.append(statistics.median(by_project) / statistics.median(by_hand))
        medians = statistics.median(ours), statistics.median(theirs)
        table.add_row(
            optimizer,
            *(f"{median:.3f}" for median in medians),
            f"{medians[0] / medians[1]:.2f}",
            f"{min(ratios):.2f} to {max(ratios):.2f}",
        )
    Console(width=120).print(table)


def _turn(overrides: list[str]) -> tuple[list[float], list[float]]:
    """Seconds of each epoch but the first, by the project and by hand, for one configuration."""
    with initialize_config_dir(str(CONF), version_base="1.3"), tempfile.TemporaryDirectory() as folder:
        config = compose("config", overrides, return_hydra_config=True)
        with open_dict(config):
            config.hydra.runtime.output_dir = folder
        HydraConfig.instance().set_config(config)
        settings = read(config)
        with open_dict(config):
            del config["hydra"]
        project.run(OmegaConf.create(OmegaConf.to_container(config, resolve=True)))
        with (Path(folder) / "metrics.csv").open() as file:
            by_project = [float(row["time/epoch"]) for row in csv.DictReader(file)][2:]
    data = project._data(settings)
    data.setup()
    arguments = {key: value for key, value in settings.optimizer.items() if key not in ("name", "full_batch")}
    by_hand, _ = epochs_by_hand(
        project._model(settings, data),
        instantiate(arguments),
        (data.train_inputs, data.train_labels.observed, data.train_labels.clean),
        (data.test_inputs, data.test_labels.observed),
        batch_size=data.batch_size or len(data.train_inputs),
        num_epochs=settings.epochs,
    )
    return by_project, by_hand[1:]


if __name__ == "__main__":
    torch.set_num_interop_threads(1)
    main()
