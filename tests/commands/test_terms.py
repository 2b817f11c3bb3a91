"""`ireg terms`: the table of the terms, and the entry of a tag."""

import pytest

from ireg.__main__ import main as ireg_main
from ireg.catalogue import CATALOGUE, NAMES, SETS
from ireg.commands.terms import main


def shown(capsys, *arguments):
    assert main(list(arguments)) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("columns", [80, 120])
def test_all_terms_and_sets_are_listed(capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    assert ireg_main(["terms"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= columns
    words = out.split()
    assert all(tag in words and f"terms={name}," in words for name, tag in NAMES.items())
    assert set(SETS) <= set(words)
    assert "train/loss" not in words


def test_a_set_lists_its_terms(capsys):
    words = shown(capsys, "fluctuation").split()
    assert {word for word in words if word in CATALOGUE} == set(SETS["fluctuation"])


def test_an_entry_says_all(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    lines = {line.split("  ")[0]: line for line in shown(capsys, "ireg/sgd").splitlines()}
    assert list(lines) == [
        "tag", "what", "formula", "unit", "source", "valid for", "sets", "function", "command line", "Python",
    ]  # fmt: skip
    assert "η/(4m) Σ_k ‖g_k‖²" in lines["formula"]
    assert "Smith et al. 2021 (https://arxiv.org/abs/2101.12176); Singh, equation 1" in lines["source"]
    assert 'python train.py "terms=[default,sgd]"' in lines["command line"]
    assert lines["valid for"].rstrip().endswith(CATALOGUE["ireg/sgd"].validity)
    (everywhere,) = [line for line in shown(capsys, "norm/l2").splitlines() if line.startswith("valid for")]
    assert everywhere.split() == ["valid", "for", "all"]
    assert "every set" in lines["sets"]
    low = shown(capsys, "margin_low")
    assert "ireg.terms.margin.quantile, share=0.01, among=all, normalized=False" in low
    assert shown(capsys, "margin/low") == low
    assert "docs/theory.md, section 12" in shown(capsys, "edge_fraction")


def test_what_is_no_term_is_shown_too_and_old_names_are_known(capsys):
    assert "without a term" in shown(capsys, "train/loss")
    assert shown(capsys, "curvature/edge") == shown(capsys, "edge") == shown(capsys, "curvature/edge_fraction")


@pytest.mark.parametrize("tag", CATALOGUE)
def test_every_entry_fits_a_narrow_terminal(capsys, tag):
    assert max(map(len, shown(capsys, tag).splitlines())) <= 80


@pytest.mark.parametrize(
    ("given", "nearest"), [("ireg/sdg", "ireg/sgd"), ("train/los", "train/loss"), ("trase", "curvature/trace")]
)
def test_another_tag_is_one_line_with_the_nearest(capsys, given, nearest):
    assert main([given]) == 2
    assert f"error: {given}: no such tag; the nearest is {nearest}; ireg terms lists" in capsys.readouterr().err
