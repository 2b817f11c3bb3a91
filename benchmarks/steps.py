"""`python -m benchmarks.steps`: what rows by steps cost, as shares of the training that they are of.

Decoders of 0.8 and of 16.8 million weights are trained by AdamW in a loop of one's own, with
`ireg.Monitor(every_n_steps=100, num_batches=8)` and the default terms. An effect of some percent drowns in the noise of
trainings that are compared. So the time within the monitor and within what the optimizer calls at each step is added
up, and divided by the time of the rest. The terms of `noise` are measured beside the default ones and without them, in
pairs. It writes docs/data/steps.csv and the table of docs/your_model.md, in about 8 minutes.
"""

import argparse
import statistics
import time
from collections.abc import Sequence

import pandas as pd
import torch
from torch.nn.functional import cross_entropy

import ireg
from benchmarks.guard import Clock
from ireg.models import GPT
from ireg.system.command import framed, run_as_process
from ireg.system.files import replacing
from ireg.tables import markdown
from study.scripts.published import DATA, published

CSV = DATA / "steps.csv"
CONTEXT, EXAMPLES = 64, 8
NETWORKS = {
    "gpt": {"num_classes": 76},
    "gpt, wide": {"num_classes": 4096, "width": 512, "heads": 8},
}
EVERY, KEPT, WINDOWS, PAIRS = 100, 8, 3, 5
Row = dict[str, str | float]


def minibatch() -> tuple[torch.Tensor, torch.Tensor]:
    """Draw blocks of tokens and what follows each."""
    tokens = torch.randint(76, (EXAMPLES, CONTEXT + 1))
    return tokens[:, :-1], tokens[:, 1:]


def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Compute the mean loss over all tokens."""
    return cross_entropy(outputs.flatten(0, 1), targets.flatten())


def measured(name: str) -> Row:
    """Train a network for some windows, and return the seconds of each part of a step and of a row."""
    torch.manual_seed(0)
    model = GPT(input_shape=(CONTEXT,), **NETWORKS[name])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    monitor = ireg.Monitor(
        model, optimizer, criterion=loss, every_n_steps=EVERY, num_batches=KEPT, sampling="independent", progress=False
    )
    steps, noted, rows, replays = [], [], [], []
    with Clock() as clock:
        for step in range(WINDOWS * EVERY):
            batch = minibatch()
            before = dict(clock.seconds)
            start = time.perf_counter()
            optimizer.zero_grad()
            loss(model(batch[0]), batch[1]).backward()
            optimizer.step()
            end = time.perf_counter()
            within = sum(clock.seconds.values()) - sum(before.values())
            steps.append(end - start - within)
            row = monitor.update(batch)
            spent = time.perf_counter() - end
            if row is not None:
                rows.append(spent)
            elif step % EVERY == 0:
                replays.append(spent + within)
            else:
                noted.append(spent + within)
    found: Row = {"network": name, "weights": sum(value.numel() for value in model.parameters())}
    parts = {"step": steps, "row": rows, "replay": replays, "noting": noted}
    found |= {part: statistics.median(seconds) for part, seconds in parts.items()}
    return found | {"noise": of_noise(model, optimizer)}


def of_noise(model: GPT, optimizer: torch.optim.Optimizer) -> float:
    """Return the seconds by which the terms of `noise` make a row longer, the median of pairs."""
    batches = [minibatch() for _ in range(KEPT)]
    further = []
    for pair in range(PAIRS):
        seconds = {}
        for terms in (["default"], ["default", "noise"])[:: 1 if pair % 2 else -1]:
            start = time.perf_counter()
            ireg.measure(
                model, batches, optimizer=optimizer, criterion=loss, terms=terms, num_batches=KEPT,
                sampling="independent", progress=False,
            )  # fmt: skip
            seconds[len(terms)] = time.perf_counter() - start
        further.append(seconds[2] - seconds[1])
    return statistics.median(further)


def overhead(row: pd.Series, every: int) -> float:
    """Return the share of the training's time that rows every so many steps take."""
    return float((row["row"] + row["replay"] + every * row["noting"]) / (every * row["step"]))


def table(found: pd.DataFrame) -> str:
    """Write the table of docs/your_model.md."""
    lines = [
        [
            f"{row['weights'] / 1e6:.1f} million",
            *(f"{1e3 * row[part]:.3g}" for part in ("step", "row", "replay", "noting")),
            *(f"{overhead(row, every):.1%}" for every in (100, 500)),
            f"{row['noise'] / (EVERY * row['step']):.2%}",
        ]
        for _, row in found.iterrows()
    ]
    times = ["step", "row", "replay", "noting a step"]
    return markdown(["weights", *times, "every 100 steps", "every 500 steps", "noise, every 100"], lines)


@framed
def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write file and page, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.steps", description="Write docs/data/steps.csv.")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS), help="default: all")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    found = pd.DataFrame([measured(name) for name in given.networks])
    with replacing(CSV) as temporary:
        found.to_csv(temporary, index=False, float_format="%.4g")
    print(published("steps", table(pd.read_csv(CSV)), "docs/your_model.md"))
    return 0


if __name__ == "__main__":
    run_as_process(main)
