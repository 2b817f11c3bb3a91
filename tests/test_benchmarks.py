"""The loop by hand must do what the project does, or its time compares nothing."""

import csv

import numpy as np
import pytest
import torch
from hydra.utils import instantiate

from benchmarks import loop
from benchmarks.case import Case
from benchmarks.sides import ORDINARY, SIDES, TERMS_OFF
from ireg.config.read import read
from ireg.core.random import named_generator
from ireg.experiment.build import make_data, make_model
from tests.conftest import SMALL


@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop", "adam"])
def test_the_loop_by_hand_gives_the_projects_values(tmp_path, small_run, composed, monkeypatch, optimizer):
    overrides = (f"optimizer={optimizer}", "lr=1e-2")
    small_run(tmp_path, *overrides)
    with (tmp_path / "metrics.csv").open() as file:
        expected = [{tag: float(value) for tag, value in row.items() if value} for row in csv.DictReader(file)][1:]
    settings = read(composed(*SMALL, *overrides))
    data = make_data(settings)
    torch.manual_seed(settings.seed)
    model = make_model(settings, data)
    epochs = iter(range(settings.epochs))
    ours = torch.randperm

    def same_order(num_examples):
        return ours(num_examples, generator=named_generator("order of examples", settings.seed, next(epochs)))

    monkeypatch.setattr(loop.torch, "randperm", same_order)
    arguments = {key: value for key, value in settings.optimizer.items() if key != "name"}
    times, rows = loop.epochs_by_hand(
        model,
        instantiate(arguments),
        (data.train_inputs, data.train_labels.observed, data.train_labels.clean),
        (data.test_inputs, data.test_labels.observed),
        batch_size=settings.batch_size,
        num_epochs=settings.epochs,
    )
    assert len(times) == len(rows) == len(expected) == 2
    for row, wanted in zip(rows, expected, strict=True):
        tags = {tag for tag in wanted if tag != "epoch" and not tag.startswith("time/")}
        assert set(row) == tags
        assert row == pytest.approx({tag: wanted[tag] for tag in tags}, rel=1e-4, abs=0)
        assert all(np.isfinite(value) for value in row.values())


@pytest.mark.parametrize("side", SIDES)
def test_every_side_of_the_comparison_runs(side):
    case = Case(optimizer="sgd", width=16, num_examples=200, extra=("data.test_size=100",))
    times = SIDES[side](case, 2)
    assert len(times) == 2
    for time in times:
        assert (
            0 < sum(part for part in (time.training, time.terms) if part is not None) <= time.whole or side == ORDINARY
        )
        assert (time.terms is not None) == (side not in (TERMS_OFF, ORDINARY))
