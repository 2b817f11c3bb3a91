"""The pages on Lightning and transformers: what their scripts give is what stands there."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from study.scripts import trainings
from tests.conftest import ROOT

PAGES = {name: ROOT / "docs" / f"in_{name}.md" for name in trainings.OUTCOMES}


def committed(name):
    return pd.read_csv(trainings.DATA / f"in_{name}.csv")


@pytest.mark.parametrize("name", PAGES)
def test_the_page_has_committed_numbers(name):
    text = PAGES[name].read_text(encoding="utf-8")
    between = text.split(f"<!-- in_{name} -->\n")[1].split(f"<!-- /in_{name} -->")[0]
    assert between == trainings.table(committed(name))


@pytest.mark.filterwarnings("ignore")
def test_committed_rows_are_those_of_the_pages_script():
    """Of its first epoch, which has three rows and nine logged losses."""
    code = trainings.script(PAGES["lightning"])
    assert "max_epochs=5" in code
    rows = trainings.measured("lightning", code.replace("max_epochs=5", "max_epochs=1"))
    assert rows["step"].tolist() == list(range(5, 50, 5))
    expected = committed("lightning")[:9]
    assert rows["ireg/sgd"].notna().sum() == 3
    for column in trainings.COLUMNS:
        np.testing.assert_allclose(rows[column], expected[column], rtol=1e-2, atol=0)


def test_losses_of_the_trainers_log_are_beside_the_rows():
    measured = {column: [0.5] for column in trainings.COLUMNS if column != trainings.LOSS} | {"step": [20]}
    log = [{"step": 10, "loss": 3.0}, {"step": 20, "ireg/sgd": 0.5}, {"step": 20, "loss": 2.0}, {"train_loss": 2.5}]
    names = {
        "watched": SimpleNamespace(rows=pd.DataFrame(measured)),
        "trainer": SimpleNamespace(state=SimpleNamespace(log_history=log)),
    }
    rows, losses = trainings.of_transformers(names)
    assert losses.to_dict("list") == {"step": [10, 20], trainings.LOSS: [3.0, 2.0]}
    assert rows is names["watched"].rows


def test_a_page_without_a_script_is_refused(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Page\n\n```sh\nmake\n```\n")
    with pytest.raises(ValueError, match=r"page\.md has no Python block; it must have the script"):
        trainings.script(page)
    page.write_text("```python\nfirst = 1\n```\n\n```python\nsecond = 2\n```\n")
    assert trainings.script(page) == "first = 1\n"


def table_of(count):
    return pd.DataFrame(
        {"step": range(1, count + 1), trainings.LOSS: 1.0, "ireg/sgd": 1e-3, "ireg/sgd_se": 2e-4, "ireg/own": 0.5,
         "ireg/own_se": 0.25, "noise/scale": [*[12.0] * (count - 1), np.nan], "noise/scale_se": 3.0}
    )  # fmt: skip


@pytest.mark.parametrize(("count", "steps"), [(1, ["1"]), (3, ["1", "2", "3"]), (11, ["1", "3", "5", "7", "9", "11"])])
def test_the_table_has_the_first_and_the_last_row(count, steps):
    lines = [line.strip("| ").split(" | ") for line in trainings.table(table_of(count)).splitlines()[2:]]
    assert [line[0] for line in lines if line[0]] == steps
    rows = [line for line in lines if line[0]]
    assert rows[-1] == [steps[-1], "1.00", "1.0e-03 ± 2.0e-04", "0.5000 ± 0.2500", "–"]
    assert count == 1 or rows[0][-1] == "12.0 ± 3.0"


def test_the_figure_shows_what_was_measured():
    """A noise scale that is left out has no point, and no line goes over its row."""
    rows = table_of(11)
    rows.loc[4, "noise/scale"] = np.nan
    figure = trainings.draw(pd.concat([rows, pd.DataFrame({"step": [4.5], trainings.LOSS: 1.0})]), "sequences")
    loss, terms, noise = figure.axes
    assert loss.lines[0].get_ydata().tolist() == [1.0] * 12
    assert terms.containers[0].lines[0].get_ydata().tolist() == [1e-3] * 11
    assert terms.containers[1].lines[0].get_ydata().tolist() == [0.5] * 11
    seen = np.ma.filled(np.ma.asarray(noise.containers[0].lines[0].get_ydata(), dtype=float), np.nan)
    np.testing.assert_array_equal(seen, rows["noise/scale"])
    assert noise.get_title() == "noise scale, sequences"
    assert noise.get_ylim() == (10, 100)
