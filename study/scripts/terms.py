"""Write the table of docs/terms.md from the catalogue: `python -m study.scripts.terms`."""

from pathlib import Path

from ireg.catalogue import markdown
from ireg.system.files import write_text

PAGE = Path(__file__).parents[2] / "docs" / "terms.md"


def main() -> None:
    """Replace the table; the text around it stays."""
    lines = PAGE.read_text(encoding="utf-8").splitlines(keepends=True)
    table = markdown()
    first = lines.index(table.splitlines(keepends=True)[0])
    after = next(number for number in range(first, len(lines)) if not lines[number].startswith("|"))
    write_text(PAGE, "".join([*lines[:first], table, *lines[after:]]))


if __name__ == "__main__":
    main()
