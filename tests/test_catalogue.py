"""One table says what a tag is: functions, names, the configuration, docs/terms.md and figures are read off it."""

from functools import partial

import pytest
import torch
from hydra.utils import instantiate

import ireg
from ireg.catalogue import CATALOGUE, FORMER, FORMER_NAMES, INTERVALS, NAMES, SETS, VALID_STRENGTH, nearest
from ireg.config.read import read
from ireg.config.schema import ALWAYS_MEASURED, AVERAGE, HOLDOUT, PENALTY, SWITCH, active_terms, term_intervals
from ireg.runs.metrics import SCHEDULE, STEP
from ireg.runs.status import config_hash
from ireg.terms.named import TERMS, chosen_terms
from study.scripts.terms import table
from tests.conftest import ROOT

MARKS = {"check/replay", "check/noise", "check/share", "ireg/clipped"}
"""What the doors add about a measurement; see tests/test_guard.py and tests/lit/test_callback.py."""


def test_every_tag_has_an_entry_and_every_entry_a_tag():
    tags = {*TERMS, *ALWAYS_MEASURED, *HOLDOUT, *AVERAGE, PENALTY, *SWITCH, STEP, SCHEDULE, "time/terms", *MARKS}
    assert set(CATALOGUE) == tags
    assert all(CATALOGUE[tag].formula for tag in TERMS)


def test_the_page_says_the_same():
    lines = (ROOT / "docs" / "terms.md").read_text(encoding="utf-8").splitlines(keepends=True)
    rows = [line for line in lines if line.startswith(tuple(f"| `{tag}` |" for tag in CATALOGUE))]
    assert rows == table().splitlines(keepends=True)[2:]


def test_titles_are_of_one_meaning():
    assert len({quantity.title for quantity in CATALOGUE.values()}) == len(CATALOGUE)


def test_the_theory_has_the_same_limit():
    theory = (ROOT / "docs" / "theory.md").read_text(encoding="utf-8")
    assert f"While the strength is small. From about {VALID_STRENGTH:g} on" in theory


def test_each_term_is_composed_as_its_entry_says(composed):
    """In one configuration, of functions that are where the entries say."""
    active = active_terms(read(composed(f"terms=[{','.join(NAMES)}]")).terms)
    assert set(active) == set(TERMS)
    for tag, function in active.items():
        of = CATALOGUE[tag]
        assert dict(function) == {"_target_": of.target, "_partial_": True, **of.arguments}
        made, term = instantiate(function), TERMS[tag]
        assert f"{made.func.__module__}.{made.func.__name__}" == of.target
        assert (made.func, made.keywords) == (getattr(term, "func", term), getattr(term, "keywords", {}))
        assert isinstance(term, partial) == bool(of.arguments)


HASHES = {
    "default": "b2475e61077e7a96",
    "theory": "b10d2d7d48ec8206",
    "fluctuation": "969117d6876eac4c",
    "mean_step": "72a75741714eb1a7",
    "curvature": "1c880049779b4526",
    "margin": "0e6ce68853a32ee3",
    "noise": "4878089e33d8bde1",
    "path": "0943f93e2fbf025c",
    "study": "6e239dce6a3dcd6a",
}
"""Of what the first versions composed."""


@pytest.mark.parametrize("name", SETS)
def test_a_set_is_composed_of_its_terms_and_hashed_as_ever(composed, name):
    terms = read(composed(f"terms={name}")).terms
    assert set(active_terms(terms)) == set(SETS[name]) >= set(SETS["default"])
    assert term_intervals(terms) == INTERVALS.get(name, {})
    assert config_hash({"terms": terms}) == HASHES[name]
    assert config_hash({"terms": terms | {"every": 7}}) != HASHES[name]


def test_a_term_has_a_name_on_the_command_line_and_in_python():
    assert len(NAMES) == len(TERMS)
    assert not set(NAMES) & {*SETS, *FORMER_NAMES}
    assert {CATALOGUE[tag].sets for tag in TERMS if not {*CATALOGUE[tag].sets} <= {*SETS}} == set()
    for name, tag in NAMES.items():
        assert list(chosen_terms([name])) == list(chosen_terms(name)) == list(chosen_terms(tag)) == [tag]
    assert list(chosen_terms(["sgd", "ireg/sgd", "margin_median"])) == ["ireg/sgd", "margin/median"]
    assert list(chosen_terms(["norm/l2", "default"]))[:2] == ["norm/l2", "ireg/sgd"]


def test_names_of_earlier_versions_are_understood(composed):
    assert set(FORMER) & set(CATALOGUE) == set()
    now = ["curvature/edge_fraction", "curvature/preconditioned_sharpness"]
    assert list(chosen_terms(["edge", "lambda_max_own"])) == list(chosen_terms([*FORMER])) == now
    assert chosen_terms("edge") == {now[0]: ireg.terms.curvature.edge_fraction}
    assert list(active_terms(read(composed("terms=[edge,lambda_max_own]")).terms)) == now
    entry = {"_target_": "ireg.terms.curvature.edge", "_partial_": True}  # in a file of the user's
    assert active_terms({"curvature": {"edge": entry}}) == {now[0]: entry}
    assert instantiate(entry).func is ireg.terms.curvature.edge_fraction


@pytest.mark.parametrize("name", ["median", "radial", "layers", "sgdd", "ireg", "", "norm_l2", "train/loss"])
def test_what_is_no_name_is_refused(name):
    with pytest.raises(ValueError, match=r"is unknown; choose a set \(default, .*, study\) or a term, like "):
        chosen_terms([name])


def test_the_nearest_is_so_as_a_whole_or_in_its_last_part():
    assert nearest("train/los", CATALOGUE) == "train/loss"
    assert nearest("sgdd", TERMS) == nearest("ireg/sdg", TERMS) == "ireg/sgd"


def test_functions_of_ones_own_stay_as_they_are():
    def mine(snapshot):
        return None

    assert chosen_terms({"my/term": mine}) == {"my/term": mine}
    with pytest.raises(ValueError, match="none are given"):
        chosen_terms([])


def test_a_term_by_its_short_name_is_measured():
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, 2.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = [(torch.ones(1, 1), torch.zeros(1, 1))]
    mse = torch.nn.functional.mse_loss
    assert ireg.measure(model, batches, optimizer=optimizer, criterion=mse, terms=["sgd"]) == {
        "ireg/sgd": pytest.approx(0.1 / 4 * 16, rel=1e-6)
    }
