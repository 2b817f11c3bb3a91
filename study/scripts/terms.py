"""Write the table of docs/terms.md from the catalogue: `python -m study.scripts.terms`."""

from pathlib import Path

from ireg.catalogue import CATALOGUE
from ireg.system.files import write_text
from ireg.tables import markdown

PAGE = Path(__file__).parents[2] / "docs" / "terms.md"


HEAD = ("tag", "what", "formula", "unit", "source", "valid for")


def table() -> str:
    """Write the table of all tags."""
    rows = [
        (f"`{tag}`", of.title, of.formula, of.unit, of.source, of.validity or "all") for tag, of in CATALOGUE.items()
    ]
    return markdown(HEAD, rows, rule="---")


def main() -> None:
    """Replace the table; the text around it stays."""
    lines = PAGE.read_text(encoding="utf-8").splitlines(keepends=True)
    made = table()
    first = lines.index(made.splitlines(keepends=True)[0])
    after = next(number for number in range(first, len(lines)) if not lines[number].startswith("|"))
    write_text(PAGE, "".join([*lines[:first], made, *lines[after:]]))


if __name__ == "__main__":
    main()
