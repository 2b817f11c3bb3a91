"""What a measurement returns: numbers by tag, which print as a table and say why a tag is missing."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape

from ireg.catalogue import CATALOGUE, FORMER, FORMER_NAMES, NAMES, STANDARD_ERROR, Quantity, entry, nearest, quantity
from ireg.explanations import SHOWN, explained, shown
from ireg.system.terminal import as_shown, printable
from ireg.tables import links_written_out

WIDTH = 80
"""Columns that a printed measurement takes, on a terminal and in a pipe."""

LONGEST = 28, 24
"""Columns of a printed tag and of a value, at most; what is longer has a line of its own."""

NO_BREAK = "\N{NO-BREAK SPACE}"

_OTHERS = {"step": "optimizer steps so far", "epoch": "epochs so far"}
"""What stands in rows of a monitor and is no tag."""


class NotMeasuredError(KeyError):
    """A tag without a value, and why it has none, in one line."""

    def __str__(self) -> str:
        return str(self.args[0])


class Measurement(dict[str, float]):
    """The values of a measurement: a dictionary that prints as a table and says why a tag is missing.

    Comparing, copying, pickling and `|` are a dictionary's, and so is `repr`. `print` and a notebook show a table: each
    value with its standard error, what it is, and for what it is valid. `values[tag]` of a tag that has no value raises
    a `KeyError` of one line, which says why: as that the optimizer has not stepped yet, or that the term was not among
    the measured ones. `values.get(tag)` returns None, as a dictionary does.

    Args:
        values: by tag.
        reasons: why terms that were asked for have no value, by tag.
        terms: what was asked for: a set's name, or tags.
        by: `layer` or `group`, where terms were also measured of parts.
        batch_size: the examples in a minibatch, their harmonic mean; None where `noise/scale` was not measured.

    Attributes:
        reasons: as given.
        terms: as given.
        by: as given.
        batch_size: as given.

    Raises:
        KeyError: by `[tag]`, for a tag without a value.

    Example:
        >>> reasons = {"ireg/own": "Adam has not stepped yet"}
        >>> values = Measurement({"norm/l2": 2.0, "norm/l2_se": 0.125}, reasons=reasons)
        >>> values == {"norm/l2": 2.0, "norm/l2_se": 0.125}
        True
        >>> print(values)
        tag      value ± error  what it is
        norm/l2  2 ± 0.12       norm of all parameters, frozen ones included
        <BLANKLINE>
        left out
        ireg/own: Adam has not stepped yet
        >>> values["ireg/own"]
        Traceback (most recent call last):
        ireg.measured.NotMeasuredError: ireg/own: Adam has not stepped yet
    """

    def __init__(
        self,
        values: Mapping[str, float] | Iterable[tuple[str, float]] = (),
        *,
        reasons: Mapping[str, str] | None = None,
        terms: str | Sequence[str] = (),
        by: str | None = None,
        batch_size: float | None = None,
    ) -> None:
        super().__init__(values)
        self.reasons = dict(reasons or {})
        self.terms = terms
        self.by = by
        self.batch_size = batch_size

    def with_values(self, values: Mapping[str, float]) -> Measurement:
        """Return other values of the same measurement."""
        return Measurement(values, reasons=self.reasons, terms=self.terms, by=self.by, batch_size=self.batch_size)

    def explain(self) -> list[str]:
        """Return what the values mean, a sentence each, where a threshold has a source.

        The sentences are about: the batch size against the noise scale; which part of a minibatch's gradient is noise;
        the fraction of the edge of stability; whether the expansion of the mean flow holds; estimates smaller than
        their standard errors. Each names the number, the threshold and the source.

        Returns:
            The sentences; none for values that no threshold is about.

        Example:
            >>> Measurement({"norm/l2": 2.0}).explain()
            []
            >>> (sentence,) = Measurement({"curvature/edge_fraction": 0.25}).explain()
            >>> sentence.partition(":")[0]
            'curvature/edge_fraction is 0.25, below 1'
        """
        return explained(self, self.batch_size)

    def __missing__(self, tag: str) -> float:
        """Refuse a tag without a value, and say why.

        Raises:
            NotMeasuredError: always.
        """
        asked = _in_one_line(tag if isinstance(tag, str) else repr(tag))
        raise NotMeasuredError(f"{asked}: {_in_one_line(self._why_missing(tag))}")

    def _why_missing(self, tag: str) -> str:
        """Return why a tag has no value, from what is known of the measurement, or else of the tag."""
        if not isinstance(tag, str):
            return "no such term; a tag is a text, like ireg/sgd"
        of = tag.removesuffix(STANDARD_ERROR)
        for wanted in (tag, of):
            if wanted in self.reasons:
                return self.reasons[wanted]
        if tag in FORMER or tag in NAMES or tag in FORMER_NAMES:
            return f"the tag is {FORMER.get(tag) or {**NAMES, **FORMER_NAMES}[tag]}"
        if of != tag and of in self:
            return f"no standard error of {of} was estimated; terms of gradients have one with num_batches"
        parts = [other for other in self if other.startswith(f"{tag}/")]
        if parts:
            return f"its parts have values, as {parts[0]}"
        return self._why_not_a_part(tag) or self._why_not_a_term(tag, of)

    def _why_not_a_part(self, tag: str) -> str:
        """Return why a part of what was measured has no value; nothing for what is no part of it."""
        whole = tag
        while (whole := whole.rpartition("/")[0]).count("/"):
            if whole in self.reasons:
                return self.reasons[whole]
            parts = [other for other in self if other.startswith(f"{whole}/")]
            if parts:
                return f"no such part; the nearest is {nearest(tag, parts)}"
            if whole in self:
                parted = "by='layer' or by='group' measures the parts of terms of gradients"
                return f"{whole} has no parts{'' if self.by else f' here; {parted}'}"
        return ""

    def _why_not_a_term(self, tag: str, of: str) -> str:
        meant = next((known for known in (entry(tag), entry(of)) if known in CATALOGUE), None)
        if meant is None:
            known = [*self, *NAMES.values()]
            return f"no such term; the nearest is {nearest(tag, known)}"
        if not CATALOGUE[meant].target:
            return f"no term, but what is written for: {_validity(CATALOGUE[meant]) or 'runs of train.py'}"
        asked, first = "", "…"
        if isinstance(self.terms, str):
            asked, first = f" (terms={self.terms!r})", repr(self.terms)
        elif self.terms:
            more = ", …" if len(self.terms) > SHOWN else ""
            asked = f" (terms=[{', '.join(map(repr, self.terms[:SHOWN]))}{more}])"
        return f"not among the measured terms{asked}; ask for it by terms=[{first}, {meant!r}]"

    def __str__(self) -> str:
        """Write the values as a table of 80 columns; validity and what is left out stand below."""
        notes: dict[str, int] = {}
        rows = []
        for tag, value, title, validity in self._rows():
            note = f"{NO_BREAK}[{notes.setdefault(validity, len(notes) + 1)}]" if validity else ""
            rows.append((tag, value, title + note))
        blocks = [_table((*self._head, "what it is"), rows)]
        for head, texts in (
            ("valid for", (f"[{number}] {text}" for text, number in notes.items())),
            ("left out", (f"{', '.join(tags)}: {reason}" for reason, tags in self._left_out().items())),
        ):
            lines = [line for text in texts for line in _folded(text, WIDTH)]
            blocks += [[head, *lines]] if lines else []
        return "\n\n".join("\n".join(block) for block in blocks)

    def _repr_html_(self) -> str:
        """Write the values as an HTML table, for notebooks."""
        rows = [_html_row("th", (*self._head, "what it is", "valid for"))]
        rows += [_html_row("td", row) for row in self._rows()]
        rows += [_html_row("td", (", ".join(tags), "left out", why, "")) for why, tags in self._left_out().items()]
        return f"<table>\n{''.join(rows)}</table>"

    @property
    def _head(self) -> tuple[str, str]:
        return "tag", "value ± error" if any(map(self._is_error, self)) else "value"

    def _left_out(self) -> dict[str, list[str]]:
        """Return tags by the reason why they have no value; a part is not named beside its whole."""
        tags: dict[str, list[str]] = {}
        for tag, reason in self.reasons.items():
            if self.reasons.get(entry(tag)) != reason or entry(tag) == tag:
                tags.setdefault(reason, []).append(tag)
        return tags

    def _is_error(self, tag: str) -> bool:
        """Say whether a tag is the standard error of another one here."""
        return tag.endswith(STANDARD_ERROR) and tag.removesuffix(STANDARD_ERROR) in self

    def _rows(self) -> Iterator[tuple[str, str, str, str]]:
        """Yield tag, value ± standard error, title and validity; parts are described by their whole."""
        for tag, value in self.items():
            if self._is_error(tag):
                continue
            error = self.get(tag + STANDARD_ERROR)
            number = (str(value) if isinstance(value, int) else shown(value, 4)) + (
                "" if error is None else f" ± {shown(error, 2)}"
            )
            of = quantity(tag)
            if of is None or (tag not in CATALOGUE and entry(tag) in self):
                yield tag, number, _OTHERS.get(tag, ""), ""
            else:
                yield tag, number, of.title, _validity(of)


def _validity(of: Quantity) -> str:
    return links_written_out(of.validity).replace("`", "")


def _in_one_line(text: str) -> str:
    """Return a text that a terminal shows in one line, whoever has named what is in it."""
    return re.sub(r"\s+", " ", printable(text), flags=re.ASCII).strip()


def _folded(text: str, width: int, indent: str = "    ") -> list[str]:
    """Fold a text to lines, not at spaces that do not break."""
    lines = textwrap.wrap(as_shown(_in_one_line(text)), width, subsequent_indent=indent, break_on_hyphens=False)
    return [line.replace(NO_BREAK, " ") for line in lines] or [""]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Write columns side by side, the last one folded; what is too long for another has its own line."""
    cut = [[as_shown(_in_one_line(cell)) for cell in row] for row in (head, *rows)]
    widths = [
        max(len(row[number]) for row in cut if len(row[number]) <= longest or row is cut[0])
        for number, longest in enumerate(LONGEST)
    ]
    left = sum(widths) + 2 * len(widths)
    lines: list[str] = []
    for *cells, text in cut:
        line = ""
        for number, (cell, width) in enumerate(zip(cells, widths, strict=True)):
            line += cell
            if len(cell) > width:
                lines += textwrap.wrap(line, WIDTH, break_on_hyphens=False)
                line = " " * (sum(widths[: number + 1]) + 2 * number)
            line = line.ljust(sum(widths[: number + 1]) + 2 * (number + 1))
        first, *others = _folded(text, WIDTH - left, "")
        lines += [f"{line}{first}".rstrip(), *(f"{'':{left}}{other}" for other in others)]
    return lines


def _html_row(kind: str, cells: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{kind}>{escape(_in_one_line(cell))}</{kind}>' for cell in cells)}</tr>\n"
