"""Certify optimizers that are named by their import path."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from rich import box
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.optim import Optimizer

from ireg.certify.any_optimizer import HALF, LATE, MODIFIED, PLAIN, Accuracy, MakeAt, accuracy
from ireg.certify.logged_tables import verdict
from ireg.core.ramp import Make
from ireg.system.errors import UserError

_WITHOUT_DOT = re.compile(r"[-+]?\d+[eE][-+]?\d+")


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


def settings_of(given: Sequence[str]) -> dict[str, Any]:
    """Read arguments of an optimizer, as `betas=[0.6,0.8]`.

    Raises:
        UserError: one has no value or cannot be read, or is the rate, which is chosen here.
    """
    settings = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise UserError(f"--set {text}: must be NAME=VALUE, like betas=[0.6,0.8]")
        if name == "lr":
            raise UserError(f"--set {text}: the rates are chosen by what the optimizer remembers; leave lr out")
        try:
            # YAML takes 1e-8, which has no dot, for a text.
            settings[name] = float(value) if _WITHOUT_DOT.fullmatch(value) else yaml.safe_load(value)
        except yaml.YAMLError:
            raise UserError(f"--set {text}: {value!r} cannot be read; write it like betas=[0.6,0.8]") from None
    return settings


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
        text = ", ".join(f"{name}={value}" for name, value in settings.items()) or "lr alone"
        raise UserError(f"--optimizer {path}: cannot be made with {text}: {' '.join(str(error).split())}") from error
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
