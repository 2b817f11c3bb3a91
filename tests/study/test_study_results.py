"""The study's results as files: what is written, when, and what their names are kept from."""

import pandas as pd
import pytest

from study.__main__ import main
from study.pages import result_names, write_pages
from tests.study.planted import finals


def test_results_are_named_by_the_tables_of_a_page():
    marks = ("answers of a+b", "claims of b", "fit of study_final_c", "measures of d", "ratios of b")
    text = "".join(f"<!-- {name} -->\n<!-- /{name} -->\n" for name in marks)
    assert result_names(text) == [("comparisons", "a"), ("comparisons", "b"), ("measures", "d")]
    assert result_names("no marks") == []


def test_results_are_written_beside_the_cells(tmp_path):
    (tmp_path / "data").mkdir()
    cells = finals({"sgd": 0.0, "adam": 0.05}, seeds=3, reached=(1.0,))
    for part, lr in (("final", 0.1), ("tuning", 0.2)):
        cells.assign(lr=lr).to_csv(tmp_path / "data" / f"study_{part}_a.csv", index=False)
    (tmp_path / "page.md").write_text("<!-- ratios of a -->\n<!-- /ratios of a -->\n")
    (tmp_path / "two.md").write_text(
        "".join(f"<!-- {one} of a -->\n<!-- /{one} of a -->\n" for one in ("claims", "measures"))
    )
    written = [path.name for path in write_pages(tmp_path)]
    assert written == ["page.md", "two.md", "comparisons_a.csv", "measures_a.csv"]
    comparisons = pd.read_csv(tmp_path / "data" / "comparisons_a.csv")
    errors = comparisons[comparisons["question"] == 1].set_index("comparator")
    assert errors.loc["end", ["optimizer", "pairs", "verdict"]].tolist() == ["adam", 3, "worse"]
    assert errors.loc["end", "low"] < 0.05 < errors.loc["end", "high"]
    assert set(comparisons["quantity"]) == {"test error", "ln epochs to a training loss of 1", "ln ‖ω‖"}
    measures = pd.read_csv(tmp_path / "data" / "measures_a.csv")
    assert set(measures["measure"]) == {"at", "planted", "random"}  # all others are the same in each run
    assert set(measures["settings"]) == {4}
    before = {path: path.read_bytes() for path in (tmp_path / "data").iterdir()}
    assert [path.name for path in write_pages(tmp_path)] == written
    assert {path: path.read_bytes() for path in (tmp_path / "data").iterdir()} == before


@pytest.mark.parametrize("name", ["comparisons_x", "measures_x"])
def test_runs_are_not_recorded_under_a_name_of_results(tmp_path, make_run, capsys, name):
    tags = {"train/loss": [2.3, 1.0, 0.5], "test/error": [0.9, 0.2, 0.2], "time/epoch": [1.0] * 3}
    sweep = make_run("sgd_seed=0", tags, {"seed": 0})
    folder = sweep.rename(tmp_path / name)
    assert main([str(folder), "--into", str(tmp_path / "pages")]) == 2
    error = capsys.readouterr().err
    assert (
        f"{folder}: files of results begin with comparisons_ or measures_, and these are runs; rename the folder"
        in error
    )
    assert not (tmp_path / "pages").exists()
    renamed = folder.rename(tmp_path / f"runs_{name}")
    assert main([str(renamed), "--into", str(tmp_path / "pages")]) == 0
    assert (tmp_path / "pages" / "data" / f"runs_{name}.csv").exists()
