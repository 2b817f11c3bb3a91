"""The language of docstrings, docs and configuration in numbers: `python tests/language.py` prints them."""

import ast
import re
import statistics
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
NOT_PLAIN = re.compile(
    r"\b(told|tells|go(es|ing|ne)? on|went on|br(oken|oke) off|by itself|by themselves|amid|anew|be had|held against"
    r"|holds? against|mend(ed)?|of order|by way of|no way around)\b|\b(a|the|one|this|that|its|two) way\b",
    re.IGNORECASE,
)
FIRST_LINE = 100
"""Characters of a docstring's first line, at most: one whole sentence that is not cut in two to be short."""
SENTENCE = 20
"""Words of a page's median sentence, at most."""

SOURCES = sorted([*(ROOT / "ireg").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py"), ROOT / "train.py"])
PROSE = sorted([*ROOT.glob("*.md"), ROOT / "multirun" / "README.md", *(ROOT / "docs").rglob("*.md")])
PROSE = [path for path in PROSE if not path.read_text(encoding="utf-8").startswith("```{include}")]
SETTINGS = [*sorted((ROOT / "conf").rglob("*.yaml")), ROOT / "Makefile"]


def other_words() -> list[str]:
    """List the words that are not plain, each with its place."""
    return [
        f"{path.relative_to(ROOT)}:{number}: {match.group()}"
        for path in [*SOURCES, *PROSE, *SETTINGS]
        for number, text in _texts(path)
        for match in NOT_PLAIN.finditer(text)
    ]


def _texts(path: Path) -> Iterator[tuple[int, str]]:
    """The prose of a file by line: strings and comments of Python, all of a page."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        yield from enumerate(text.splitlines(), 1)
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
    yield from ((number, line.partition("# ")[2]) for number, line in enumerate(text.splitlines(), 1))


def first_lines(source: str) -> list[str]:
    """List the first lines of the docstrings of a Python file."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = [ast.get_docstring(node) for node in ast.walk(ast.parse(source)) if isinstance(node, documented)]
    return [docstring.splitlines()[0] for docstring in docstrings if docstring]


def sentences(page: str) -> list[str]:
    """List the sentences of a Markdown page, without code, tables, headings and pictures."""
    page = re.sub(r"```.*?```", "", page, flags=re.DOTALL)
    paragraphs = [""]
    for line in page.splitlines():
        text = line.strip()
        if not text or line.startswith("    ") or text.startswith(("|", "#", "![")):
            paragraphs.append("")
        elif item := re.match(r"(?:[-*]|\d+\.)\s+(.*)", text):
            paragraphs.append(item[1])
        else:
            paragraphs[-1] += f" {text}"
    found = [part for text in paragraphs for part in re.split(r"(?<=[.!?])\s+(?=[A-Z`*(\[])", text.strip())]
    return [sentence for sentence in found if len(sentence.split()) > 2]


def words(text: str) -> int:
    """Count what stands between spaces."""
    return len(text.split())


def main() -> None:
    """Print the longest first line, the words that are not plain, and each page's sentences."""
    longest = max((line for path in SOURCES for line in first_lines(path.read_text(encoding="utf-8"))), key=len)
    print(f"longest first line of a docstring: {len(longest)} characters: {longest}")
    print(f"words that are not plain: {', '.join(other_words()) or 'none'}")
    for path in PROSE:
        lengths = [words(sentence) for sentence in sentences(path.read_text(encoding="utf-8"))]
        print(f"{path.relative_to(ROOT)}: {len(lengths)} sentences, median {statistics.median(lengths):g} words, "
              f"longest {max(lengths)}")  # fmt: skip


if __name__ == "__main__":
    main()
