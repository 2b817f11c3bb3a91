"""What `train --help` says, and that it says all."""

import os
import subprocess
import sys

import pytest

from ireg.commands import help as keys
from ireg.commands import train
from tests.conftest import ROOT

CONF = ROOT / "conf"
GROUPED = ("optimizer.", "schedule.", "weight_average.", "regularizer.", "model.", "terms.", "logger.further")
"""Keys of which a group's choice decides."""


def test_every_key_has_a_meaning():
    hidden = (*keys.NOT_SHOWN, *GROUPED)
    known = {key for key in keys.defaults(CONF) if key in keys.KEYS or not key.startswith(hidden)}
    assert known == set(keys.KEYS)


def test_the_page_has_the_table():
    assert keys.markdown(CONF) in (ROOT / "docs" / "configuration.md").read_text()


@pytest.mark.parametrize("columns", [50, 80, 120])
def test_the_help_is_for_people(monkeypatch, capsys, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys, "argv", ["train.py", "--help"])
    assert train.main() == 0
    text = capsys.readouterr().out
    assert "python train.py -m optimizer=sgd,adam" in text
    assert "model.hidden=[256,256,256,256]" in text
    assert "Does Adam generalize worse than SGD?" in " ".join(text.split())
    for inner in ("_target_", "_partial_", "md5", "schema", "num_classes", "???"):
        assert inner not in text
    assert sum(len(line) > columns for line in text.splitlines()) <= 4  # commands are not folded


def test_the_help_names_the_command_it_was_asked_of(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/ireg", "train"])
    assert train.main(["-h"]) == 0
    assert capsys.readouterr().out.startswith("ireg train: ")


@pytest.mark.parametrize(
    ("value", "text"), [(None, "null"), (True, "true"), ([1, None], "[1,null]"), (0.001, "0.001"), ("cpu", "cpu")]
)
def test_values_are_written_as_they_are_given(value, text):
    assert keys.written(value) == text


def test_the_shell_completes_choices_and_keys():
    script = """
        eval "$(python train.py -sc install=bash)"
        for COMP_LINE in "python train.py optimizer=mom" "python train.py terms.num"; do
            export COMP_LINE COMP_POINT=${#COMP_LINE} COMP_CWORD=2
            hydra_bash_completion
            echo "${COMPREPLY[@]}"
        done
    """
    path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "BASH_ENV": ""}
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["optimizer=momentum", "terms.num_batches="], done.stderr


def test_a_name_as_wide_as_its_column_stands_beside_its_text():
    assert keys._columns({"lr": "rate", "a": "other"}, 80) == ["  lr  rate", "  a   other"]
    assert keys._columns({"longer": "rate", "a": "b"}, 8) == ["  longer", "        rate", "  a     b"]
