"""Pages that hold tables between marks."""

from __future__ import annotations

from pathlib import Path

from ireg.system.files import write_text


def between_marks(page: Path, name: str, text: str) -> None:
    """Put a text between its marks on a page.

    Args:
        page: a file.
        name: of the marks, `<!-- NAME -->` and `<!-- /NAME -->`.
        text: what stands between them.

    Raises:
        ValueError: the page has no such marks.
    """
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    before = page.read_text(encoding="utf-8")
    if begin not in before or end not in before:
        raise ValueError(f"{page} has no marks {begin.strip()} and {end}")
    write_text(page, before.split(begin)[0] + begin + text + end + before.split(end)[1])
