"""Norms of a run's layers against the equilibrium of decay and steps, and the curvature at its end."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from ireg import measure
from ireg.config.read import Config
from ireg.core.snapshot import Snapshot
from ireg.experiment.run import rebuild
from ireg.lit.data import NoisyImages
from ireg.lit.module import Classifier
from ireg.optim.muon_adamw import hidden_matrices
from ireg.runs.checkpoints import read_checkpoint
from ireg.runs.layout import CHECKPOINTS, LAST
from ireg.runs.readable import read_record
from ireg.runs.trust import Trust

EQUILIBRIUM = "noise/equilibrium"
NORM = "norm/layer"

BATCHES = 2
"""Minibatches whose loss has its curvature measured."""

MUON_STEP = 0.2
"""Root mean square of a hidden weight's step over η, with singular values of 1 in the smaller dimension."""


def layer_norms(snapshot: Snapshot) -> dict[str, Tensor]:
    """Return the norm of each layer's weights and biases, a term of the runs."""
    return {layer: torch.tensor(norm) for layer, norm in norms(snapshot.params).items()}


def layers_of(folder: Path, rows: pd.DataFrame, momentum: float = 0.0) -> Iterator[dict[str, float | str]]:
    """Compare each layer's norm at the end with the one that its steps and its decay predict.

    A step adds q to ‖W‖², and decay multiplies it by (1 − w)². Steps are taken as independent, and across the weights
    (docs/theory.md, section 17). Of Lion and of Muon's matrices q is known, η² times the number of weights, and
    0.04 η² rows columns. Of others it is measured in each row, and linear between rows: `noise/equilibrium` is r in
    q = (1 − (1 − w)²) r² ‖W‖².

    Args:
        folder: of the run.
        rows: its rows, by rising step, with `norm/layer/…`.
        momentum: β of SGD, whose w is ηλ/(1 − β).

    Yields:
        A record a layer: its name, `start`, `end` and `predicted` norm, and `equilibrium`, the norm at which decay
        balances the steps at the last rate, over the norm at the end. What is not known is left out.
    """
    settings, _, classifier = rebuilt(folder)
    decay, name = float(settings.optimizer["weight_decay"]), str(settings.optimizer["name"])
    known = known_steps(name, classifier.model)
    steps, rates = rows["train/step"].to_numpy(float), rows["schedule/lr"].to_numpy(float)
    each = np.arange(1, steps[-1] + 1)
    rate = np.interp(each, steps, rates)
    for layer in norms(dict(classifier.model.named_parameters())):
        norm = rows[f"{NORM}/{layer}"].to_numpy(float)
        record: dict[str, float | str] = {"layer": layer, "start": norm[0], "end": norm[-1]}
        tag = f"{EQUILIBRIUM}/{layer}"
        squares = None
        if layer in known:
            squares = known[layer] * rate**2
        elif tag in rows:
            # Before the first step there is no second moment, and hardly a rate.
            ratio = rows[tag].fillna(0.0).to_numpy(float)
            squares = np.interp(each, steps, (1 - _shrunk(rates, decay, momentum)) * (ratio * norm) ** 2)
        if squares is not None:
            record |= predicted(norm[0], norm[-1], squares, _shrunk(rate, decay, momentum))
        yield record


def _shrunk(rates: np.ndarray, decay: float, momentum: float) -> np.ndarray:
    """Return (1 − w)² of each rate."""
    shrunk: np.ndarray = (1 - rates * decay / (1 - momentum)) ** 2
    return shrunk


def predicted(start: float, end: float, squares: np.ndarray, shrunk: np.ndarray) -> dict[str, float]:
    """Predict a norm after independent steps across it.

    Args:
        start: norm before the first step.
        end: measured norm after the last.
        squares: q of each step.
        shrunk: (1 − w)² of each step.

    Returns:
        `predicted`, the norm, and `equilibrium`, √(q/(1 − (1 − w)²)) of the last step over `end`.

    Example:
        >>> predicted(1.0, 2.0, np.array([3.0, 4.0]), np.array([1.0, 0.75]))
        {'predicted': 2.6457513110645907, 'equilibrium': 2.0}
    """
    square = start**2
    for added, factor in zip(squares, shrunk, strict=True):
        square = factor * square + added
    return {"predicted": math.sqrt(square), "equilibrium": math.sqrt(squares[-1] / (1 - shrunk[-1])) / end}


def known_steps(optimizer: str, model: nn.Module) -> dict[str, float]:
    """Return ‖ΔW‖²/η² of layers whose steps have a size of their own, without decay.

    Args:
        optimizer: its name; of others than Lion and Muon no layer's is known.
        model: whose layers.

    Example:
        >>> known_steps("lion", nn.Linear(3, 4))
        {'': 16.0}
    """
    sizes: dict[str, float] = {}
    hidden = hidden_matrices(model)
    for place, (name, value) in enumerate(model.named_parameters()):
        layer = name.rpartition(".")[0]
        if optimizer == "lion":
            sizes[layer] = sizes.get(layer, 0.0) + value.numel()
        elif optimizer == "muon_adamw" and place in hidden:
            sizes[layer] = MUON_STEP**2 * value.numel()
    return sizes


def norms(params: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the norm of each layer's weights and biases, by its name."""
    squares: dict[str, float] = {}
    for name, value in params.items():
        layer = name.rpartition(".")[0]
        squares[layer] = squares.get(layer, 0.0) + float(value.detach().double().square().sum())
    return {layer: math.sqrt(square) for layer, square in squares.items()}


def curvature_of(folder: Path) -> Mapping[str, float]:
    """Measure λ₁ and the fraction of the edge at the end of a run, of the loss of `BATCHES` minibatches."""
    settings, data, classifier = rebuilt(folder)
    checkpoint = read_checkpoint(folder / CHECKPOINTS / LAST)
    classifier.load_state_dict(checkpoint["state_dict"])
    optimizer = classifier.make_optimizer(classifier.model.parameters())
    optimizer.load_state_dict(checkpoint["optimizer_states"][0])
    drawn = torch.randperm(len(data.train_inputs), generator=torch.Generator().manual_seed(settings.seed))
    targets = data.train_labels.observed
    batches = [
        (data.train_inputs[part], targets[part])
        for part in drawn[: BATCHES * settings.batch_size].split(settings.batch_size)
    ]
    return measure(
        classifier.model,
        batches,
        optimizer=optimizer,
        terms=("lambda_max", "edge_fraction"),
        criterion=classifier.criterion,
        progress=False,
    )


def rebuilt(folder: Path) -> tuple[Config, NoisyImages, Classifier]:
    """Make a run's settings, data and network again.

    Raises:
        ValueError: there is no run.
    """
    record = read_record(folder)
    if record is None:
        raise ValueError(f"{folder}: no run there")
    return rebuild(folder, record["config"], Trust(targets=frozenset({f"{__name__}.{layer_norms.__name__}"})))
