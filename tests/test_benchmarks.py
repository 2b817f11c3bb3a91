"""The loop by hand must do what the project does, or its time compares nothing."""

import csv
import re

import numpy as np
import pytest
import torch
from hydra.utils import instantiate

from benchmarks import loop, page
from benchmarks.case import Case
from benchmarks.sides import BY_HAND, ORDINARY, PROJECT, SIDES, TERMS_OFF, THEORY
from benchmarks.tables import MISSING, Grid
from benchmarks.times import EpochTime, Result
from ireg.config.read import read
from ireg.core.random import named_generator
from ireg.experiment.build import make_data, make_model
from tests.conftest import ROOT, SMALL


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


def grids(text):
    """The tables of a page, as they stand there."""
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    lines = [[line.strip("|").split("|") for line in table.splitlines()] for table in tables]
    return [
        Grid("", [cell.strip() for cell in head], [[cell.strip() for cell in row] for row in rows])
        for head, _, *rows in lines
    ]


def spans(text):
    """What the text gives as lowest and highest of its tables' columns."""
    return re.findall(r"\d[\d.]* to \d[\d.]*", re.sub(r"<details>.*?</details>", "", text, flags=re.DOTALL))


COLUMNS = (
    (0, "project / by hand"), (0, "project / terms off"), (0, "ordinary / project"), (0, "project / floor"),
    (1, "terms / training"), (1, "training / by hand"), (1, "terms / by hand"),
    (2, "theory / default"), (2, "epoch with theory / project"),
    (3, "minibatches m"), (3, "tensors, MB"), (3, "resident, MB"),
)  # fmt: skip


def test_the_page_says_what_its_tables_have():
    text = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    found = grids(text)
    assert spans(text) == [found[number].span(column) for number, column in COLUMNS]


def test_a_page_is_written_with_its_tables_folded(tmp_path):
    def result(optimizer, project, by_hand):
        turns = {PROJECT: project, BY_HAND: by_hand, TERMS_OFF: 1.0, ORDINARY: 6.0, THEORY: 8.0}
        times = {side: [[EpochTime(whole, whole / 2, whole / 4)]] for side, whole in turns.items()}
        return Result(Case(optimizer=optimizer), (10_000, 10_000), 10**9, times)

    results = [result("sgd", 2.0, 4.0), result("adam", 3.0, 2.0)]
    (path,) = page.write(page.Findings(results=results, peaks={1: 4e9}, command="make bench"), tmp_path / "page.md")
    text = path.read_text(encoding="utf-8")
    assert spans(text)[:4] == ["0.50 to 1.50", "2.00 to 3.00", "2.0 to 3.0", "4.0 to 6.0"]
    assert text.count("<details>") == text.count("</details>") == len(grids(text)) == 3
    assert grids(re.sub(r"<details>.*?</details>", "", text, flags=re.DOTALL)) == []


def test_a_span_is_of_numbers():
    grid = Grid("", ["name", "ratio", "none"], [["a", "10.0", MISSING], ["b", "9.5", MISSING], ["c", MISSING, MISSING]])
    assert (grid.span("ratio"), grid.span("none")) == ("9.5 to 10.0", MISSING)
    with pytest.raises(ValueError, match="not in"):
        grid.span("other")
