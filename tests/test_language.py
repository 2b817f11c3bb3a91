"""The language of docs, docstrings, configuration and messages: the field's plain words."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOT_PLAIN = re.compile(
    r"\b(told|tells|go(es|ing|ne)? on|went on|br(oken|oke) off|by itself|by themselves|amid|anew|be had|held against"
    r"|holds? against|mend(ed)?|of order|by way of|no way around)\b|\b(a|the|one|this|that|its|two) way\b",
    re.IGNORECASE,
)
FIRST_LINE = 100
"""Characters of a docstring's first line, at most: one whole sentence that is not cut in two to be short."""

PLACES = [path for room in ("ireg", "study", "benchmarks") for path in (ROOT / room).rglob("*.py")]
SOURCES = sorted([*PLACES, ROOT / "train.py"])
PROSE = sorted([*ROOT.glob("*.md"), ROOT / "multirun" / "README.md", *(ROOT / "docs").rglob("*.md")])
SETTINGS = [*sorted((ROOT / "conf").rglob("*.yaml")), ROOT / "Makefile"]


def other_words():
    """List the words that are not plain, each with its place."""
    return [
        f"{path.relative_to(ROOT)}:{number}: {match.group()}"
        for path in [*SOURCES, *PROSE, *SETTINGS]
        for number, text in _texts(path)
        for match in NOT_PLAIN.finditer(text)
    ]


def _texts(path):
    """The prose of a file by line: strings and comments of Python, all of a page."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        yield from enumerate(text.splitlines(), 1)
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
    yield from ((number, line.partition("# ")[2]) for number, line in enumerate(text.splitlines(), 1))


def first_lines(source):
    """List the first lines of the docstrings of a Python file."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = [ast.get_docstring(node) for node in ast.walk(ast.parse(source)) if isinstance(node, documented)]
    return [docstring.splitlines()[0] for docstring in docstrings if docstring]


def test_words_are_plain():
    assert len(SOURCES) > 100
    assert other_words() == []


@pytest.mark.parametrize("text", ["the run goes on", "It is TOLD.", "a number of order 1", "in this way"])
def test_other_words_are_seen(text):
    assert NOT_PLAIN.search(text)


def test_docstrings_begin_with_a_short_line():
    lines = [line for path in SOURCES for line in first_lines(path.read_text(encoding="utf-8"))]
    assert len(lines) > 700
    assert [line for line in lines if len(line) > FIRST_LINE] == []


def test_first_lines_are_those_of_modules_classes_and_functions():
    source = '"""Module."""\nclass A:\n    """Class.\n\n    More.\n    """\n    def f(self):\n        """Method."""\n'
    assert first_lines(source) == ["Module.", "Class.", "Method."]
