"""`python -m benchmarks.costs`: what curvature, mean flow and growth cost.

It writes docs/data/costs.csv in about 11 minutes. Each ratio is the median of pairs that are measured one after the
other. The tables of docs/curvature.md are made from that file; a test compares them.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.case import Case
from benchmarks.memory import in_fresh_process
from benchmarks.sides import by_project, prepared, quietly
from ireg.core.diagonal import exact_diagonal
from ireg.core.functional import detached_parameters, functional_loss
from ireg.core.hessian import MeanHessian
from ireg.core.sharpness import batch_sharpness
from ireg.models import CNN, MLP
from ireg.system.command import framed, run_as_process
from ireg.system.files import replacing
from ireg.tables import markdown
from study.scripts.published import DATA, published

CSV = DATA / "costs.csv"
PAIRS = 7
EPOCHS = 4
"""Of a run in a pair; the first is not counted."""
EXAMPLES = (2500, 5000, 10_000)
"""Whose minibatches the memory is measured over."""
NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "mlp": (lambda: MLP(input_shape=(1, 28, 28), num_classes=10, hidden=[256] * 4), 2560),
    "cnn": (lambda: CNN(input_shape=(1, 28, 28), num_classes=10), 640),
    "cnn without normalization": (lambda: CNN(input_shape=(1, 28, 28), num_classes=10, groups=0), 640),
}
"""Each with the number of examples that a pass goes over."""
Row = dict[str, str | float]


def passes() -> Iterator[Row]:
    """Yield what passes over the minibatches take, in passes of plain gradients over the same ones of 64."""
    _, data = prepared(Case(optimizer="sgd"))
    for name, (make, examples) in NETWORKS.items():
        module = make()
        inputs, labels = data.train_inputs[:examples], data.train_labels.observed[:examples]
        batches = list(zip(inputs.split(64), labels.split(64), strict=True))
        for what, call in _calls(module, batches).items():
            unit = "a pass of plain gradients"
            yield {"what": what, "of": name, "unit": unit, **paired(call, lambda: _gradients(module, batches))}  # noqa: B023


def _calls(module: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> dict[str, Callable[[], object]]:
    loss, params = functional_loss(module, cross_entropy), detached_parameters(module)
    direction = {name: torch.randn_like(value) for name, value in params.items()}
    hessian = MeanHessian(loss, params, batches)
    calls: dict[str, Callable[[], object]] = {
        "product with H": lambda: hessian(direction),
        "batch sharpness": lambda: batch_sharpness(loss, params, batches),
    }
    if exact_diagonal(loss, params, batches[:1]) is not None:
        calls["exact diagonal of H"] = lambda: exact_diagonal(loss, params, batches)
    return calls


def _gradients(module: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> None:
    for inputs, labels in batches:
        module.zero_grad()
        cross_entropy(module(inputs), labels).backward()


def paired(call: Callable[[], object], other: Callable[[], object], *, pairs: int = PAIRS) -> Row:
    """Return how many times as long a call takes as another."""
    call()
    other()
    ratios = []
    for _ in range(pairs):
        one, two = (_seconds(either) for either in (call, other))
        ratios.append(one / two)
    return _spread(ratios)


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _spread(ratios: Sequence[float]) -> Row:
    low, median, high = statistics.quantiles(ratios, n=4)
    return {"ratio": median, "low": low, "high": high}


def runs() -> Iterator[Row]:
    """Yield what runs take more than with the default terms."""
    for optimizer in ("sgd", "momentum", "rmsprop", "adam"):
        case = Case(optimizer=optimizer)
        flows, growths = [], []
        for _ in range(PAIRS):
            plain, theory, path = (
                by_project(case, EPOCHS, extra)[1:] for extra in ([], ["terms=theory"], ["terms=path"])
            )
            terms = statistics.median(epoch.terms or 0.0 for epoch in plain)
            flows.append(statistics.median(epoch.terms or 0.0 for epoch in theory) / terms)
            whole = statistics.median(epoch.whole for epoch in plain)
            growths.append(statistics.median(epoch.whole for epoch in path) / whole - 1)
        yield {"what": "terms=theory", "of": optimizer, "unit": "the default terms", **_spread(flows)}
        yield {"what": "growth of the norm", "of": optimizer, "unit": "an epoch", **_spread(growths)}


def memory() -> Iterator[Row]:
    """Yield the peak memory of tensors in MiB over so many minibatches."""
    for term in ("lambda_max", "batch_sharpness", "trace_root", "strength", "path_settled_diffusive"):
        for examples in EXAMPLES:
            case = Case(optimizer="momentum", num_examples=examples, extra=(f"terms=[{term}]",))
            memory_of_pass = in_fresh_process(case)
            mebibytes = memory_of_pass.tensors / 2**20
            yield {
                "what": term,
                "of": f"{memory_of_pass.num_batches} minibatches",
                "unit": "MiB",
                "ratio": mebibytes,
                "low": mebibytes,
                "high": mebibytes,
            }


def table(rows: pd.DataFrame) -> str:
    """Write the table of docs/curvature.md."""
    lines = []
    for row in rows[rows["unit"] != "MiB"].to_dict("records"):
        digits = 2 if row["ratio"] < 10 else 0
        spread = " to ".join(f"{row[end]:.{digits}f}" for end in ("low", "high"))
        lines.append([row["what"], row["of"], f"{row['ratio']:.{digits}f} ({spread})", row["unit"]])
    return markdown(["what", "of", "takes", "times"], lines)


def memory_table(rows: pd.DataFrame) -> str:
    """Write the table of memory of docs/curvature.md."""
    sizes = rows[rows["unit"] == "MiB"]
    counts = list(dict.fromkeys(sizes["of"]))
    lines = [
        [f"`{name}`", *(f"{of_term[of_term['of'] == count]['ratio'].iloc[0]:.0f} MiB" for count in counts)]
        for name, of_term in sizes.groupby("what", sort=False)
    ]
    return markdown(["term", *counts], lines)


@framed
def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write file and page, and print the tables."""
    argparse.ArgumentParser(prog="python -m benchmarks.costs", description="Write docs/data/costs.csv.").parse_args(
        arguments
    )
    quietly()
    torch.set_num_threads(1)
    rows = pd.DataFrame([*passes(), *memory(), *runs()])
    with replacing(CSV) as temporary:
        rows.to_csv(temporary, index=False, float_format="%.4g")
    rows = pd.read_csv(CSV)
    print(published("costs", table(rows), "docs/curvature.md"))
    print(published("memory", memory_table(rows), "docs/curvature.md"))
    return 0


if __name__ == "__main__":
    run_as_process(main)
