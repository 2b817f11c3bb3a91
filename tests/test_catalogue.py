"""One place says what a tag means: docs/terms.md, the comments of conf/terms and figures follow it."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from ireg.catalogue import CATALOGUE, VALID_STRENGTH, markdown
from ireg.config.schema import ALWAYS_MEASURED, HOLDOUT, PENALTY, SWITCH

ROOT = Path(__file__).parents[1]
TERMS = {
    f"{group}/{name}": path
    for path in sorted((ROOT / "conf" / "terms").glob("*.yaml"))
    for group, functions in OmegaConf.load(path).items()
    if group != "defaults" and OmegaConf.is_config(functions)
    for name in functions
    if name != "every"
}
MARKS = {"check/replay", "check/noise", "check/share", "ireg/clipped"}
"""What the doors add about a measurement; see tests/test_guard.py and tests/lit/test_callback.py."""


def test_every_tag_has_an_entry_and_every_entry_a_tag():
    assert set(CATALOGUE) == {*TERMS, *ALWAYS_MEASURED, *HOLDOUT, PENALTY, *SWITCH, "time/terms", *MARKS}


@pytest.mark.parametrize("tag", TERMS)
def test_the_configuration_says_the_same(tag):
    assert CATALOGUE[tag].formula
    first = TERMS[tag].read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith(f"# {tag}: {CATALOGUE[tag].formula}")


def test_the_page_says_the_same():
    lines = (ROOT / "docs" / "terms.md").read_text(encoding="utf-8").splitlines(keepends=True)
    rows = [line for line in lines if line.startswith(tuple(f"| `{tag}` |" for tag in CATALOGUE))]
    assert rows == markdown().splitlines(keepends=True)[2:]


def test_titles_are_of_one_meaning():
    assert len({quantity.title for quantity in CATALOGUE.values()}) == len(CATALOGUE)


def test_the_theory_has_the_same_limit():
    theory = (ROOT / "docs" / "theory.md").read_text(encoding="utf-8")
    assert f"While the strength is small. From about {VALID_STRENGTH:g} on" in theory
