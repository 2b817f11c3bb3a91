"""One place says what a tag means: README, the comments of conf/terms and figures follow it."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from ireg.catalogue import CATALOGUE, markdown
from ireg.config import ALWAYS_MEASURED

ROOT = Path(__file__).parents[1]
TERMS = {
    f"{group}/{name}": path
    for path in sorted((ROOT / "conf" / "terms").glob("*.yaml"))
    for group, functions in OmegaConf.load(path).items()
    if group != "defaults" and OmegaConf.is_config(functions)
    for name in functions
}


def test_every_tag_has_an_entry_and_every_entry_a_tag():
    times = {"time/epoch", "time/terms"}
    assert set(CATALOGUE) == {*TERMS, *ALWAYS_MEASURED, *times}


@pytest.mark.parametrize("tag", TERMS)
def test_the_configuration_says_the_same(tag):
    assert CATALOGUE[tag].formula
    first = TERMS[tag].read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith(f"# {tag}: {CATALOGUE[tag].formula}")


def test_the_readme_says_the_same():
    assert markdown() in (ROOT / "README.md").read_text(encoding="utf-8")
