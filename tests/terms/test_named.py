"""The names of terms in Python are those of the configuration."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from ireg.terms.named import SETS, TERMS, chosen_terms

CONF = Path(__file__).parents[2] / "conf" / "terms"


def configured(path):
    """Target and arguments by tag of one file of conf/terms."""
    return {
        f"{group}/{name}": dict(entry)
        for group, entries in OmegaConf.load(path).items()
        if group != "defaults"
        for name, entry in entries.items()
        if name != "every"
    }


def test_every_file_has_its_name_here():
    entries = {tag: entry for path in CONF.glob("*.yaml") for tag, entry in configured(path).items()}
    assert set(TERMS) == set(entries)
    for tag, entry in entries.items():
        function, keywords = getattr(TERMS[tag], "func", TERMS[tag]), getattr(TERMS[tag], "keywords", {})
        assert entry.pop("_target_") == f"{function.__module__}.{function.__name__}"
        assert entry.pop("_partial_") is True
        assert {"part": "whole"} | entry == {"part": "whole"} | keywords


@pytest.mark.parametrize("name", SETS)
def test_the_sets_are_those_of_the_configuration(name):
    def tags(file):
        inner = [entry for entry in OmegaConf.load(CONF / f"{file}.yaml").get("defaults", []) if entry != "_self_"]
        return [*(tag for entry in inner for tag in tags(entry)), *configured(CONF / f"{file}.yaml")]

    assert list(SETS[name]) == tags(name)


def test_sets_tags_and_functions():
    def mine(snapshot):
        return None

    assert list(chosen_terms("norm/l2")) == ["norm/l2"]
    assert list(chosen_terms(["norm/l2", "default"]))[:2] == ["norm/l2", "ireg/sgd"]
    assert chosen_terms({"my/term": mine}) == {"my/term": mine}
