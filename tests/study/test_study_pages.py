"""The study's pages: tables are those of the committed data, and the text has their numbers."""

import re

import pytest

from ireg.system.errors import UserError
from study.pages import MARK, read_cells, result_names, results_of, tables_of
from study.tables import GIVEN
from tests.conftest import ROOT


def test_the_pages_have_committed_numbers():
    folder = ROOT / "docs" / "study"
    for page in sorted(folder.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        for name, table in tables_of(text, folder / "data"):
            assert text.split(f"<!-- {name} -->\n")[1].split(f"<!-- /{name} -->")[0] == table, (page, name)


def test_the_files_of_results_are_those_of_the_committed_cells():
    folder = ROOT / "docs" / "study"
    texts = {page.name: page.read_text(encoding="utf-8") for page in sorted(folder.glob("*.md"))}
    made = {path.name: content for path, content in results_of("\n".join(texts.values()), folder / "data")}
    for page, text in texts.items():
        missing = [name for name in result_names(text) if f"](data/{'_'.join(name)}.csv)" not in text]
        assert missing == [], page
    written = {
        path.name: path.read_text(encoding="utf-8")
        for kind in ("comparisons", "measures")
        for path in (folder / "data").glob(f"{kind}_*.csv")
    }
    assert sorted(written) == sorted(made)
    assert [name for name, content in written.items() if made[name] != content] == []


def test_pages_say_what_their_intervals_are_of():
    for page in ("answers", "fashion", "networks"):
        text = (ROOT / "docs" / "study" / f"{page}.md").read_text(encoding="utf-8")
        assert GIVEN in text
    assert GIVEN in (ROOT / "docs" / "study" / "answers.md").read_text(encoding="utf-8").partition("## Rates")[0]


def test_the_answers_are_short_and_their_tables_folded():
    text = (ROOT / "docs" / "study" / "answers.md").read_text(encoding="utf-8")
    assert len(text.split()) <= 5_000
    folded = re.findall(
        r"^<details>\n<summary>[^\n]+</summary>\n\n(.*?)\n\n</details>$", text, re.DOTALL | re.MULTILINE
    )
    assert text.count("<details>") == text.count("</details>") == len(folded)
    tables = [table for table, _ in MARK.findall(text)]
    assert [table for table, _ in MARK.findall("\n".join(folded))] == [name for name in tables if name != "answers"]


@pytest.mark.parametrize(("files", "known"), [((), "none"), (("b", "a"), "a, b")])
def test_a_file_that_is_missing_is_named_with_those_there_are(tmp_path, files, known):
    for name in files:
        (tmp_path / f"{name}.csv").write_text("x\n1\n")
    with pytest.raises(UserError, match=rf"c.csv: no such file of the study; there are: {known}$"):
        read_cells(tmp_path, "+".join([*files, "c"]))
    for name in ("comparisons_a", "measures_a"):  # made from the others: no cells
        (tmp_path / f"{name}.csv").write_text("x\n1\n")
        with pytest.raises(UserError, match=rf"{name}.csv: no such file of the study; there are: {known}$"):
            read_cells(tmp_path, name)
    if files:
        assert read_cells(tmp_path, "a+b")["x"].tolist() == [1, 1]


NUMBER = r"([-−+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?)"
INTERVALS = (re.compile(rf"{NUMBER} ± {NUMBER}"), re.compile(rf"{NUMBER} \({NUMBER} to {NUMBER}\)"))
LINKED = {
    "../../README.md": ("answers.md", "fashion.md", "networks.md", "ties.md", "../annealed/results.md"),
    "answers.md": ("fashion.md", "networks.md", "ties.md", "../explicit.md"),
    "fashion.md": ("answers.md", "../explicit.md"),
    "networks.md": ("answers.md",),
}
"""Pages whose tables a page's text speaks of, beside its own."""


def intervals(text):
    """Intervals in a text: for each of its numbers the value, and half of its last digit."""
    return [
        tuple(
            (float(number), 0.5 * 10.0 ** (int(power or 0) - len(digits)))
            for number, digits, power in (
                (part, *re.search(r"^[-+]?\d+\.?(\d*)(?:e(.*))?$", part).groups())
                for part in (found.replace("−", "-") for found in match.groups())
            )
        )
        for pattern in INTERVALS
        for match in pattern.finditer(text)
    ]


def stands(said, tables):
    """Whether an interval is one of the tables', to its digits: also in percent, and with less taken for more."""
    for of_table in tables:
        for factor in (1, 100, -1, -100):
            # The half of an interval has no sign.
            factors = (factor,) * 3 if len(said) == 3 else (factor, abs(factor))
            if len(of_table) == len(said) and all(
                abs(value - by * other) <= half + abs(by) * other_half + 1e-12
                for (value, half), (other, other_half), by in zip(said, of_table, factors, strict=True)
            ):
                return True
    return False


@pytest.mark.parametrize("page", LINKED)
def test_intervals_in_the_text_stand_in_tables(page):
    """The tables are made from the data, and the text is written by hand."""
    folder = ROOT / "docs" / "study"
    lines = {name: (folder / name).read_text(encoding="utf-8").splitlines() for name in (page, *LINKED[page])}
    tables = [found for text in lines.values() for line in text if line.startswith("|") for found in intervals(line)]
    text = " ".join(line for line in lines[page] if not line.startswith("|"))
    assert len(intervals(text)) > 15
    assert [said for said in intervals(text) if not stands(said, tables)] == []


def test_an_interval_that_is_in_no_table_is_found():
    tables = intervals("| 5.32 ± 0.82 | -0.0556 ± 0.0088 | 0.577 (0.549 to 0.606) | 0.0124 ± 0.0012 |")
    for text in ("5.3 ± 0.8", "5.32 ± 0.82 points", "0.056 ± 0.009", "0.58 (0.55 to 0.61)", "1.2 ± 0.1 %"):
        assert stands(*intervals(text), tables), text
    for text in ("5.4 ± 0.8", "5.3 ± 0.9", "0.58 (0.56 to 0.61)", "0.58 (0.55 to 0.62)", "1.3 ± 0.1 %", "0.57 ± 0.09"):
        assert not stands(*intervals(text), tables), text
