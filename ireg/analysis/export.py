"""Tables for other programs: any as CSV, that of the settings as Markdown and as LaTeX."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import pandas as pd

from ireg.analysis.overview import VALUES, Row, best_of, value_text
from ireg.system.files import as_cell
from ireg.tables import markdown

_LATEX = {"%": r"\%", "_": r"\_", "&": r"\&", "#": r"\#", "$": r"\$", "±": r"$\pm$", "{": r"\{", "}": r"\}"}


def shown_columns(rows: Sequence[Row], criterion: str) -> list[str]:
    """List the columns of a table without seconds, so that it is the same however long the runs took."""
    shown = [column for column in dict.fromkeys([criterion, *VALUES]) if column != "seconds"]
    return [column for column in shown if column in rows[0].values]


def to_csv(table: pd.DataFrame) -> str:
    r"""Write a table as CSV, with every digit of a float.

    A name that is not UTF-8 is written by Python's escapes.

    Example:
        >>> import pandas as pd
        >>> to_csv(pd.DataFrame({"run": ["a"], "test/error": [0.1]}))
        'run,test/error\na,0.1\n'
    """
    text: str = table.map(as_cell).rename(columns=as_cell).to_csv(index=False, lineterminator="\n")
    return text.encode(errors="backslashreplace").decode()


def to_markdown(rows: Sequence[Row], criterion: str) -> str:
    """Write the settings as a Markdown table, the best in bold.

    Example:
        >>> from ireg.statistics import OverSeeds
        >>> import pandas as pd
        >>> row = Row("sgd", "sgd", pd.DataFrame({"state": ["done"]}), {"test/error": OverSeeds((0.1, 0.12))})
        >>> print(to_markdown([row], "test/error"))
        | setting | seeds | test error |
        |---|---|---|
        | sgd | 1 | 10.00, 12.00 % |
    """
    head, body = _cells(
        rows, criterion, lambda cell: f"**{cell}**" if cell else "", lambda cell: cell.replace("|", r"\|")
    )
    return markdown(head, body, rule="---").removesuffix("\n")


def to_latex(rows: Sequence[Row], criterion: str) -> str:
    r"""Write the settings as a LaTeX table for the package booktabs, the best in bold.

    Example:
        >>> from ireg.statistics import OverSeeds
        >>> import pandas as pd
        >>> row = Row("sgd", "sgd", pd.DataFrame({"state": ["done"]}), {"test/error": OverSeeds((0.1, 0.12))})
        >>> print(to_latex([row], "test/error"))
        \begin{tabular}{lrr}
        \toprule
        setting & seeds & test error \\
        \midrule
        sgd & 1 & 10.00, 12.00 \% \\
        \bottomrule
        \end{tabular}
    """
    head, body = _cells(rows, criterion, lambda cell: rf"\textbf{{{cell}}}" if cell else "", _latex)
    lines = [" & ".join(line) + r" \\" for line in [head, *body]]
    begin = rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}"
    return "\n".join([begin, r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule", r"\end{tabular}"])


FORMATS: dict[str, Callable[[Sequence[Row], str], str]] = {"markdown": to_markdown, "latex": to_latex}
"""What writes a table, by the format's name."""


def _cells(
    rows: Sequence[Row], criterion: str, bold: Callable[[str], str], escaped: Callable[[str], str]
) -> tuple[list[str], list[list[str]]]:
    columns = shown_columns(rows, criterion)
    head = ["setting", "seeds", *(VALUES.get(column, column) for column in columns)]
    body = []
    best = best_of(rows, criterion)
    for row in rows:
        cells = [row.name, row.seeds, *(value_text(column, row.values[column]) for column in columns)]
        cells = [escaped(cell) for cell in cells]
        body.append([bold(cell) for cell in cells] if row is best else cells)
    return [escaped(name) for name in head], body


def _latex(cell: str) -> str:
    text = re.sub("[%_&#${}±]", lambda sign: _LATEX[sign[0]], cell)
    return re.sub(r"(\d(?:\.\d+)?)e([+-])0?(\d+)", lambda n: rf"${n[1]}\cdot10^{{{n[2].strip('+')}{n[3]}}}$", text)
