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
SOURCES = [*(ROOT / "ireg").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py"), ROOT / "train.py"]
PAGES = [
    *ROOT.glob("*.md"), ROOT / "multirun" / "README.md", *(ROOT / "docs").glob("*.md"),
    *(ROOT / "conf").rglob("*.yaml"), ROOT / "Makefile",
]  # fmt: skip


def texts(path):
    """The prose of a file by line: strings and comments of Python, all of a page."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        yield from enumerate(text.splitlines(), 1)
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
    yield from ((number, line.partition("# ")[2]) for number, line in enumerate(text.splitlines(), 1))


def test_words_are_plain():
    assert len(SOURCES) > 100
    found = [
        f"{path.relative_to(ROOT)}:{number}: {match.group()}"
        for path in sorted([*SOURCES, *PAGES])
        for number, text in texts(path)
        for match in NOT_PLAIN.finditer(text)
    ]
    assert found == []


@pytest.mark.parametrize("text", ["the run goes on", "It is TOLD.", "a number of order 1", "in this way"])
def test_other_words_are_seen(text):
    assert NOT_PLAIN.search(text)
