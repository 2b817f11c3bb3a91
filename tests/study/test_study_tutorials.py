"""The tutorials: what their code prints is what stands there, and pages are read and written as they should be."""

import re

import matplotlib.image
import pandas as pd
import pytest

import ireg
from ireg.analysis.compare import END, EQUAL_FIT, LOWEST, placed_runs
from ireg.analysis.equal_fit import NAMES
from ireg.statistics import OverSeeds
from study.scripts import tutorials
from study.scripts.tutorials import Block, blocks, with_outputs

NUMBER = re.compile(r"(?<![\w.])[-−]?\d+(?:\.\d+)?(?:e[-+]?\d+)?(?![\w])")
SHARE = 0.02
"""By how much of itself a number may differ between machines, beside one unit of its last shown digit."""

PAGES = {name: tutorials.page_of(name).read_text(encoding="utf-8") for name in tutorials.PICTURES}


def is_same(shown, printed, share=SHARE):
    """Whether two texts have the same words, and numbers that are the same to the digits shown."""
    if NUMBER.sub("#", shown).split() != NUMBER.sub("#", printed).split():
        return False
    pairs = zip(NUMBER.findall(shown), NUMBER.findall(printed), strict=True)
    return all(abs(float(a) - float(b)) <= share * abs(float(a)) + unit(a) for a, b in pairs)


def unit(number):
    """One unit of the last digit that is shown."""
    digits, _, exponent = number.partition("e")
    return 10.0 ** (int(exponent or 0) - len(digits.partition(".")[2])) * 1.001 if "." in digits else 0.0


def read(number):
    return number.replace("\N{MINUS SIGN}", "-")


def check(chosen, share=SHARE):
    """Run blocks, and compare what each prints with what the page shows."""
    with tutorials.empty_folder() as folder:
        for block, printed in zip(chosen, tutorials.run(chosen), strict=True):
            assert is_same(read(block.output), read(printed), share), f"{block.output}\n{printed}"
        return [path.name for path in folder.iterdir() if path.name != "__pycache__"]


@pytest.mark.parametrize("name", PAGES)
def test_outputs_and_picture_are_there(name):
    found = blocks(PAGES[name])
    shown = [block.output for block in found]
    assert sum(map(bool, shown)) >= 2
    assert all(block.span is None or block.output.strip() for block in found)
    assert with_outputs(PAGES[name], shown) == PAGES[name]
    assert f"](figures/tutorial_{name}.png)" in PAGES[name]
    assert f"`python -m study.scripts.tutorials {name}`" in PAGES[name]
    picture = matplotlib.image.imread(tutorials.DATA.parent / "figures" / f"tutorial_{name}.png")
    assert picture.shape[0] > 200
    assert picture[..., :3].std() > 0.02  # something is drawn


@pytest.mark.filterwarnings("ignore")
def test_the_batch_size_is_measured_as_shown():
    """Single noise scales are ratios of small numbers: another machine's rounding moves them by some percent."""
    files = check(blocks(PAGES["batch_size"]), share=0.1)
    assert files == ["noise_scale.png"]


@pytest.mark.filterwarnings("ignore")
def test_an_optimizer_of_ones_own_has_the_flow_that_is_shown():
    """Without the trainings of the certificates, and of the monitor, which the slow test does."""
    chosen = [
        block for block in blocks(PAGES["own_optimizer"]) if block.kind == "python" and "Monitor(" not in block.code
    ]
    assert len(chosen) == 3
    assert check(chosen) == ["my_optimizer.py"]


def committed():
    return pd.read_csv(tutorials.DATA / "tutorial_comparison.csv")


def test_the_comparison_is_that_of_the_committed_runs(monkeypatch):
    """The page's own code compares them; the trainings are done by the slow test."""
    monkeypatch.setitem(vars(ireg), "load", {"multirun/fair": committed()}.__getitem__)
    chosen = [block for block in blocks(PAGES["comparison"]) if block.kind == "python" and "sweep(" not in block.code]
    assert len(chosen) == 2
    chosen[0] = chosen[0]._replace(code="import ireg\n" + chosen[0].code)
    assert check(chosen, share=0.0) == []


def test_the_printed_end_is_that_of_the_committed_runs():
    (screen,) = (block.output for block in blocks(PAGES["comparison"]) if block.kind == "sh")
    runs = committed()
    assert runs.groupby(["optimizer", "lr"])["run"].nunique().to_dict() == {("adam", 0.003): 3, ("sgd", 0.1): 3}
    places = [placed_runs(runs, at, "test/error") for at in (EQUAL_FIT, LOWEST, END)]
    expected = []
    for place, rows in pd.concat(places).groupby("place", sort=False):
        errors = [OverSeeds(tuple(rows.loc[rows["optimizer"] == name, "test/error"])) for name in ("adam", "sgd")]
        values = [value.text(".1f", scale=100, unit=" %") for value in errors]
        expected.append(" ".join([NAMES.get(place, f"training {place}"), *values]))
    lines = [" ".join(line.split()) for line in screen.splitlines()]
    assert [line for line in lines if line in expected] == expected
    assert len(expected) == 4


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["own_optimizer", "comparison"])
def test_the_whole_tutorial_prints_what_is_shown(name):
    check(blocks(PAGES[name]), share=0.1)


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("a 1.20 b", "a  1.21 b", True),
        ("a 1.20 b", "a 1.25 b", False),
        ("a 1.20 b", "a 1.20 c", False),
        ("100 ± 2.5e-04", "101 ± 2.5e-04", True),
        ("3 seeds", "4 seeds", False),
        ("1.2e-04", "1.4e-04", False),
        ("p = 0.02", "p = -0.02", False),
    ],
)
def test_numbers_are_compared_to_the_digits_shown(shown, printed, same):
    assert is_same(shown, printed) is same


PAGE = "# Page\n\n```python\nprint(1)\n```\n\n```text\nold\n```\n\n```sh\nireg analysis x\n```\n\nEnd.\n"


def test_a_page_is_written_with_what_is_printed():
    first, second = blocks(PAGE)
    assert first[:3] == ("python", "print(1)\n", "old\n")
    assert second == Block("sh", "ireg analysis x\n", "", None)
    assert with_outputs(PAGE, ["1\n", ""]) == PAGE.replace("old", "1")


def test_a_block_that_prints_has_a_place():
    with pytest.raises(ValueError, match="^the block that begins with 'ireg analysis x': a block of text follows"):
        with_outputs(PAGE, ["1\n", "table\n"])
    with pytest.raises(ValueError, match=r"^the block that begins with 'print\(1\)'"):
        with_outputs(PAGE, ["", ""])
    for before in ("", "```python\nprint(1)\n```\n\nWords.\n\n", PAGE.partition("```sh")[0]):
        with pytest.raises(ValueError, match="^a block of text follows no code: 'late'; it must be an output$"):
            blocks(f"{before}```text\nlate\n```\n")


def test_modules_of_a_page_are_forgotten():
    code = [
        Block("python", "# written_here.py\nvalue = 3\n", "", None),
        Block("python", "import written_here\nprint(written_here.value)\n", "3\n", None),
    ]
    assert check(code) == ["written_here.py"]
    with pytest.raises(ModuleNotFoundError):
        check([code[1]])


@pytest.mark.parametrize("line", ["rm -r x", "python train.py", "python -m pytest"])
def test_only_commands_of_ireg_are_run(line):
    with pytest.raises(ValueError, match="is no command of ireg; a tutorial runs these alone$"):
        tutorials.words(line)


def test_a_table_of_runs_has_seven_digits(tmp_path):
    tutorials.write_table(pd.DataFrame({"test/error": [1 / 3]}), tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text() == "test/error\n0.3333333\n"
