"""`python -m study.scripts.optimizers`: what some hundred optimizers regularize.

Each class of torch and of pytorch-optimizer is certified at two settings against the flow of its own steps, as
`python -m ireg.verify --optimizer` does. It appends to docs/data/optimizers.csv, passes over what stands there, and
writes the table of docs/optimizers.md. No verdict is made by hand. All take some 20 minutes. It needs the extra
`optimizers`.
"""

import argparse
import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch.optim import Optimizer

from ireg.certify.any_optimizer import HALF, LATE, MODIFIED, PLAIN, Accuracy, MakeAt, accuracy, network
from ireg.certify.own_step import class_at, maker
from ireg.core.mean_flow import mean_flow
from ireg.core.moments import gradient_moments
from ireg.core.norms import norm
from ireg.core.optimizers import view
from ireg.core.optimizers.rule import RULES
from ireg.core.ramp import Line, Make, respond
from ireg.system.command import framed, run_as_process
from ireg.system.errors import UserError
from ireg.system.files import replacing
from ireg.tables import markdown
from study.scripts.published import DATA, published

CSV = DATA / "optimizers.csv"
SHORT, LONG = "short memory", "longer memory, decay"
MOMENTA = {SHORT: 0.5, LONG: 0.9}
BETAS: Mapping[int, Mapping[str, tuple[float, ...]]] = {
    2: {SHORT: (0.6, 0.8), LONG: (0.9, 0.95)},
    3: {SHORT: (0.5, 0.6, 0.8), LONG: (0.9, 0.8, 0.95)},
}
"""Of two numbers, of the gradient and of its square, and of three."""
DECAY = 0.1
FAST = {"torch.optim.NAdam": {"momentum_decay": 10.0}}
"""NAdam's momentum rises to its end within 20,000 steps, and with this in some ten."""
MOST = 2**11
"""Steps in which a memory has to fade: the longest that is set here does so in 512."""


def classes() -> Iterator[str]:
    """Yield the import paths of all classes."""
    for name in torch.optim.__all__ if hasattr(torch.optim, "__all__") else dir(torch.optim):
        found = getattr(torch.optim, name)
        if isinstance(found, type) and issubclass(found, Optimizer) and found is not Optimizer:
            yield f"torch.optim.{name}"
    try:
        others = import_module("pytorch_optimizer")
    except ImportError as error:
        raise UserError(f"{error}; install it by pip install -e '.[optimizers]'") from error
    for name in sorted({others.load_optimizer(key).__name__ for key in others.get_supported_optimizers()}):
        found = getattr(others, name, None)
        if (
            isinstance(found, type)
            and issubclass(found, Optimizer)
            and found.__module__.startswith("pytorch_optimizer")
        ):
            yield f"pytorch_optimizer.{name}"


def settings(path: str, kind: str) -> dict[str, Any]:
    """Return the arguments of a class, read off its signature."""
    known = inspect.signature(class_at(path).__init__).parameters
    given: dict[str, Any] = {}
    if "betas" in known:
        default: Any = known["betas"].default
        given["betas"] = BETAS[len(default)][kind] if len(default) in BETAS else default
    for key in ("momentum", "beta", "alpha", "rho"):
        default = known[key].default if key in known else None
        if isinstance(default, float | int) and not isinstance(default, bool) and 0 <= default < 1:
            given[key] = MOMENTA[kind]
    if kind == LONG and "weight_decay" in known:
        given["weight_decay"] = DECAY
    return given | FAST.get(path, {})


def of_rule(make: Make, path: str) -> float:
    """Return by how much of itself an own rule's correction differs; nan where there is no rule."""
    if class_at(path) not in RULES:
        return math.nan
    problem = network()
    start, gradient = problem.start, problem.gradient(problem.start)
    found = respond(make, start, gradient, lambda direction: problem.product(start, direction))
    line = Line(make, start, gradient, found.leading, problem.product(start, found.leading))
    driven, _, _ = line.driven(found.steps)
    driven.put(start)
    seen = view(driven.optimizer, driven.parameters)
    batches = [(problem.inputs, problem.targets)]
    try:
        flow = mean_flow(problem.loss, start, batches, seen, gradient_moments(problem.loss, start, batches))
    except ValueError:
        return math.nan
    correction = {key: seen.memory.effective_rate * value for key, value in flow.correction.items()}
    off = {key: value - found.correction[key] for key, value in correction.items()}
    return float(norm(off) / norm(found.correction))


def row_of(path: str, kind: str) -> dict[str, Any]:
    """Measure one class at one setting."""
    given = settings(path, kind)
    row: dict[str, Any] = {"optimizer": path, "setting": ", ".join(f"{key}={value}" for key, value in given.items())}
    row["kind"] = kind
    try:
        made: MakeAt = maker(path, given)
    except UserError as error:
        return row | {"reason": str(error).partition(": ")[2]}
    found: Accuracy = accuracy(made, path, MOST)
    row |= {"order_2": found.holds, "memory": found.memory, "reason": found.reason}
    row |= {f"slope {flow}": found.slopes.get(flow, math.nan) for flow in (PLAIN, MODIFIED, *LATE, HALF)}
    row |= {f"share {part}": value for part, value in found.shares.items()}
    if found.rates:
        row |= {"rate": found.rates[0], "rule": of_rule(made(found.rates[0]), path)}
    return row


def table(found: pd.DataFrame) -> str:
    """Write the table of docs/optimizers.md."""
    lines = []
    for _, row in found.iterrows():
        number = {key: "–" if pd.isna(row[key]) else f"{row[key]:.2f}" for key in found if key.startswith("s")
                  and key != "setting"}  # fmt: skip
        rule = "" if pd.isna(row["rule"]) else f"{row['rule']:.0e}"
        lines.append(
            [
                f"`{row['optimizer']}`", str(row["setting"]) if not pd.isna(row["setting"]) else "",
                "–" if pd.isna(row["memory"]) else f"{row['memory']:.0f}",
                *(number[f"slope {flow}"] for flow in (PLAIN, MODIFIED, *LATE, HALF)),
                *(number[f"share {part}"] for part in ("memory", "bend", "weights")),
                rule, "**order 2**" if row["order_2"] is True or row["order_2"] == "True" else "no order found",
            ]
        )  # fmt: skip
    head = [
        "optimizer",
        "arguments",
        "steps",
        PLAIN,
        MODIFIED,
        *LATE,
        HALF,
        "memory",
        "bend",
        "weights",
        "rule",
        "verdict",
    ]
    return markdown(head, lines)


def _sorted(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Sort torch's classes before others, by name."""
    return pd.DataFrame(
        sorted(rows, key=lambda row: (row["optimizer"][0] != "t", row["optimizer"].lower(), row["kind"] != SHORT))
    )


@framed
def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is not in the file yet, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m study.scripts.optimizers", description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="CLASS", help="import paths (default: all)")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    known = pd.read_csv(CSV) if Path(CSV).exists() else pd.DataFrame(columns=["optimizer", "kind"])
    rows: list[Mapping[str, Any]] = known.to_dict("records")
    done = {(row["optimizer"], row["kind"]) for row in rows}
    for path in given.only or classes():
        for kind in (SHORT, LONG):
            if (path, kind) in done:
                continue
            rows.append(row_of(path, kind))
            with replacing(CSV) as temporary:
                _sorted(rows).to_csv(temporary, index=False, float_format="%.4g")
    print(published("optimizers", table(pd.read_csv(CSV)), "docs/optimizers.md"))
    return 0


if __name__ == "__main__":
    run_as_process(main)
