"""`python -m benchmarks.penalties`: what a step with an explicit penalty costs.

It writes docs/data/penalties.csv in about 3 minutes. Each ratio is the median of pairs of steps, with the penalty and
without, that are measured one after the other. The table of docs/explicit.md is made from that file; a test compares
them.
"""

import argparse
from collections.abc import Callable, Sequence

import pandas as pd
import torch
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from benchmarks.costs import paired
from benchmarks.sides import quietly
from ireg.core.functional import functional_loss
from ireg.models import MLP
from ireg.objective import Objective
from ireg.regularizers import ASAM, L2, METHODS, SAM, FullBatch, Micro, Minibatch, MomentumLike, Norm, Regularizer
from ireg.statistics import Interval
from ireg.system.command import framed, run_as_process
from ireg.system.files import replacing
from ireg.tables import markdown
from study.scripts.published import DATA, published

CSV = DATA / "penalties.csv"
BATCH, MINIBATCHES = 64, 40
PAIRS = 200
FEW = 9
"""Pairs where a step passes over all minibatches."""

PENALTIES: dict[str, Callable[..., Regularizer]] = {
    "minibatch": Minibatch,
    "norm": Norm,
    "micro": lambda **how: Micro(size=16, **how),
    "full": FullBatch,
    "momentum": MomentumLike,
}
OTHERS: dict[str, Callable[..., Regularizer]] = {"l2": L2, "sam": SAM, "asam": ASAM}


def ratios() -> pd.DataFrame:
    """Return the cost of a step of each penalty, in steps without."""
    torch.manual_seed(0)
    module = MLP(input_shape=(1, 28, 28), num_classes=10, hidden=[256] * 4)
    batches = [(torch.randn(BATCH, 1, 28, 28), torch.randint(0, 10, (BATCH,))) for _ in range(MINIBATCHES)]
    optimizer, loss = SGD(module.parameters(), lr=1e-4, foreach=True), functional_loss(module, cross_entropy)
    leaves = dict(module.named_parameters())

    def plain() -> None:
        optimizer.zero_grad()
        cross_entropy(module(batches[0][0]), batches[0][1]).backward()
        optimizer.step()

    records = []
    made = [(name, method, make(strength=0.1, method=method)) for name, make in PENALTIES.items() for method in METHODS]
    made += [(name, "", make(strength=0.1)) for name, make in OTHERS.items()]
    for name, method, regularizer in made:
        objective = Objective(loss, regularizer, batches)

        def penalized(objective: Objective = objective) -> None:
            optimizer.zero_grad()
            objective.evaluate(leaves, batches[0]).total.backward()
            optimizer.step()

        of_all = name in ("full", "momentum")
        ratio = paired(penalized, plain, pairs=FEW if of_all else PAIRS)
        records.append({"penalty": name, "method": method, **ratio})
    return pd.DataFrame(records)


def table(costs: pd.DataFrame) -> str:
    """Write the table of docs/explicit.md."""
    lines = []
    for penalty, rows in costs.groupby("penalty", sort=False):
        by_method = {row["method"]: _written(row) for _, row in rows.fillna("").iterrows()}
        alone = by_method.get("")
        lines.append([f"`{penalty}`", alone or by_method["exact"], "" if alone else by_method["differences"]])
    return markdown(["penalty", "exact", "differences"], lines)


def _written(row: pd.Series) -> str:
    return Interval(row["ratio"], row["low"], row["high"]).with_ends()


@framed
def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write file and page, and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.penalties", description="Write docs/data/penalties.csv."
    )
    parser.parse_args(arguments)
    quietly()
    torch.set_num_threads(1)
    with replacing(CSV) as temporary:
        ratios().to_csv(temporary, index=False, float_format="%.4g")
    print(published("penalties", table(pd.read_csv(CSV)), "docs/explicit.md"))
    return 0


if __name__ == "__main__":
    run_as_process(main)
