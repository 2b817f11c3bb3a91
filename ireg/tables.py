"""Tables in Markdown, and Markdown as plain text."""

from __future__ import annotations

import re
from collections.abc import Sequence


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]], *, rule: str = " --- ", others: str = "") -> str:
    """Write a table, with a line break at its end.

    Args:
        head: a cell a column.
        rows: as many cells each.
        rule: what stands below the first head.
        others: what stands below the other heads, like " ---: " for numbers on the right; by default as `rule`.

    Raises:
        ValueError: a row has more or fewer cells than the head.

    Example:
        >>> print(markdown(["a", "b"], [["1", "2"]]), end="")
        | a | b |
        | --- | --- |
        | 1 | 2 |
    """
    for row in rows:
        if len(row) != len(head):
            raise ValueError(f"{len(row)} cells: the head has {len(head)}")
    rules = "|".join([rule, *[others or rule] * (len(head) - 1)])
    return "\n".join([_line(head), f"|{rules}|", *map(_line, rows)]) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def links_written_out(text: str) -> str:
    """Write the links of a Markdown text out, those to pages of `docs/` as files.

    Example:
        >>> links_written_out("[theory](theory.md), section 6; [2025](https://arxiv.org/abs/2506.04805)")
        'docs/theory.md, section 6; 2025 (https://arxiv.org/abs/2506.04805)'
    """

    def written(link: re.Match[str]) -> str:
        name, address = link.groups()
        return f"{name} ({address})" if address.startswith("http") else f"docs/{address}"

    return re.sub(r"\[([^]]*)\]\(([^)]*)\)", written, text)
