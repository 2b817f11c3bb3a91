"""The names of terms in Python are those of the configuration."""

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

import ireg
from ireg.terms.named import NAMES, SETS, TERMS, chosen_terms

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


def test_a_term_has_the_name_of_the_command_line():
    files = {path.stem: list(configured(path)) for path in CONF.glob("*.yaml")}
    assert {name: tags[0] for name, tags in files.items() if name not in SETS} == NAMES
    assert set(files) == set(NAMES) | set(SETS)
    assert not set(NAMES) & set(SETS)
    for name, tag in NAMES.items():
        assert list(chosen_terms([name])) == list(chosen_terms(name)) == list(chosen_terms(tag)) == [tag]
    assert list(chosen_terms(["sgd", "ireg/sgd", "margin_median"])) == ["ireg/sgd", "margin/median"]


@pytest.mark.parametrize("name", ["median", "radial", "layers", "sgdd", "ireg", "", "norm_l2", "ireg_sgd"])
def test_what_is_no_name_there_is_none_here(name):
    with pytest.raises(ValueError, match=r"is unknown; choose a set \(default, .*, study\) or a term, like "):
        chosen_terms([name])


def test_a_term_by_its_short_name_is_measured():
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, 2.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = [(torch.ones(1, 1), torch.zeros(1, 1))]
    mse = torch.nn.functional.mse_loss
    assert ireg.measure(model, batches, optimizer=optimizer, criterion=mse, terms=["sgd"]) == {
        "ireg/sgd": pytest.approx(0.1 / 4 * 16, rel=1e-6)
    }


def test_sets_tags_and_functions():
    def mine(snapshot):
        return None

    assert list(chosen_terms("norm/l2")) == ["norm/l2"]
    assert list(chosen_terms(["norm/l2", "default"]))[:2] == ["norm/l2", "ireg/sgd"]
    assert chosen_terms({"my/term": mine}) == {"my/term": mine}
