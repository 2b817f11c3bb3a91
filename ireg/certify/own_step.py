"""Certify optimizers that are named by their import path."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.optim import Optimizer

from ireg.certify.any_optimizer import HALF, LATE, MODIFIED, PLAIN, Accuracy, MakeAt, accuracy
from ireg.certify.logged_tables import verdict
from ireg.core.ramp import Make
from ireg.system.assignments import as_text, settings_of
from ireg.system.errors import UserError


def class_at(path: str) -> type[Optimizer]:
    """Import an optimizer's class.

    Args:
        path: like `torch.optim.Adam`; modules of the working directory are found, too.

    Raises:
        UserError: there is no such class, or it is no optimizer.
    """
    module_name, _, name = path.rpartition(".")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        found = getattr(importlib.import_module(module_name), name)
    except ImportError as error:
        raise UserError(
            f"--optimizer {path}: {error}; install what it needs, or run in the folder of its module"
        ) from error
    except AttributeError:
        raise UserError(f"--optimizer {path}: {module_name} has no {name}; write package.module.Class") from None
    if not isinstance(found, type) or not issubclass(found, Optimizer):
        raise UserError(f"--optimizer {path}: is no class of torch.optim.Optimizer; choose one, like torch.optim.Adam")
    return found


def maker(path: str, settings: Mapping[str, Any]) -> MakeAt:
    """Return what makes an optimizer of a class at any rate.

    Raises:
        UserError: the class cannot be made so.
    """
    made: Any = class_at(path)  # whose arguments are its own

    def at(rate: float) -> Make:
        return lambda parameters: made(parameters, lr=rate, **settings)

    try:
        at(1e-3)([nn.Parameter(torch.ones(2, 2, dtype=torch.float64))])
    except Exception as error:  # whatever a class of somebody's raises
        reason = " ".join(str(error).split())
        raise UserError(f"--optimizer {path}: cannot be made with {as_text(settings)}: {reason}") from error
    return at


def certify_paths(paths: Sequence[str], given: Sequence[str], console: Console) -> bool:
    """Measure and print the order of accuracy of these classes; return whether all have order 2.

    Raises:
        UserError: a path or an argument of the class has a value that is not allowed.
    """
    settings = settings_of(given)
    makers = {path: maker(path, settings) for path in paths}
    found = [accuracy(made, path) for path, made in makers.items()]
    show_accuracy(found, console)
    return all(one.holds for one in found)


def show_accuracy(found: Sequence[Accuracy], console: Console) -> None:
    """Print the slopes, and a line for each optimizer without order 2."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="modified flow from own steps", title_justify="left")
    table.add_column("optimizer", overflow="fold")
    columns = ("memory", *(flow.replace(" ", "\n", 1) for flow in (PLAIN, MODIFIED, *LATE, HALF)), "verdict")
    for column in columns:
        table.add_column(column, justify="right")
    for one in found:
        slopes = [f"{one.slopes[flow]:.2f}" if flow in one.slopes else "–" for flow in (PLAIN, MODIFIED, *LATE, HALF)]
        memory = "–" if one.memory is None else f"{one.memory}"
        table.add_row(one.name, memory, *slopes, verdict(one.holds, ("order 2", "NO ORDER FOUND")))
    console.print(table)
    for one in found:
        if one.reason:
            console.print(f"{one.name}: {one.reason}")
        elif one.accepted:
            console.print(f"{one.name}: not rejected: {', '.join(one.accepted)}")
        elif not one.holds:
            console.print(f"{one.name}: the modified flow's slope is not near 2: what was measured is not its flow")
