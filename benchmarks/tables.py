"""The tables: once made, printed with rich and written in Markdown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table

from benchmarks.case import Case
from benchmarks.memory import Memory
from benchmarks.sides import BY_HAND, ORDINARY, PROJECT, TERMS_OFF, THEORY
from benchmarks.times import Measure, Result, quotient
from ireg.tables import markdown

MISSING = "–"


@dataclass(frozen=True)
class Grid:
    """A table: the first column is text, the others are numbers."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def rich(self) -> Table:
        """Make the table for the terminal."""
        table = Table(title=self.title)
        for number, column in enumerate(self.columns):
            table.add_column(column, justify="right" if number else "left")
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        """Write the table for a page."""
        return markdown(self.columns, self.rows, others=" ---: ").removesuffix("\n")

    def folded(self, summary: str, about: str) -> str:
        """Write the table for a page, behind a line that opens it.

        Args:
            summary: the line.
            about: what stands below the table, such as what its columns are.
        """
        return f"<details>\n<summary>{summary}</summary>\n\n{self.markdown()}\n\n{about.strip()}\n\n</details>"

    def span(self, column: str) -> str:
        """Write the lowest and the highest number of a column, such as 0.80 to 1.07; a dash for none.

        Raises:
            ValueError: the table has no such column.
        """
        place = self.columns.index(column)
        cells = sorted((row[place] for row in self.rows if row[place] != MISSING), key=float)
        return f"{cells[0]} to {cells[-1]}" if cells else MISSING


def epochs(results: Sequence[Result], peaks: Mapping[int, float]) -> Grid:
    """Tabulate seconds of an epoch by side, and their ratios.

    `peaks` are operations per second, by number of threads.
    """
    sides = (PROJECT, TERMS_OFF, BY_HAND, ORDINARY)
    columns = [*_CASE, *sides, "floor", "project / by hand", "lowest to highest"]
    columns += ["project / terms off", "ordinary / project", "project / floor"]
    project: Measure = (PROJECT, "whole")
    by_hand: Measure = (BY_HAND, "whole")
    rows = []
    for result in results:
        floor = 2 * _floor(result, peaks)
        spread = result.ratios(project, by_hand)
        rows.append(
            [
                *_case(result.case),
                *(_seconds(result.median(side)) for side in sides),
                _seconds(floor),
                ratio_text(result.ratio(project, by_hand)),
                f"{min(spread):.2f} to {max(spread):.2f}",
                ratio_text(result.ratio(project, (TERMS_OFF, "whole"))),
                ratio_text(result.ratio((ORDINARY, "whole"), project), digits=1),
                ratio_text(quotient(result.median(PROJECT), floor), digits=1),
            ]
        )
    return Grid("An epoch: median seconds and ratios", columns, rows)


def passes(results: Sequence[Result], peaks: Mapping[int, float]) -> Grid:
    """Tabulate the training pass and the terms' pass, beside each other and those of the loop by hand."""
    columns = [*_CASE, "training", "terms", "terms / training", "training by hand", "terms by hand"]
    columns += ["training / by hand", "terms / by hand", "floor of a pass"]
    training: Measure = (PROJECT, "training")
    terms: Measure = (PROJECT, "terms")
    training_by_hand: Measure = (BY_HAND, "training")
    terms_by_hand: Measure = (BY_HAND, "terms")
    rows = [
        [
            *_case(result.case),
            _seconds(result.median(*training)),
            _seconds(result.median(*terms)),
            ratio_text(result.ratio(terms, training)),
            _seconds(result.median(*training_by_hand)),
            _seconds(result.median(*terms_by_hand)),
            ratio_text(result.ratio(training, training_by_hand)),
            ratio_text(result.ratio(terms, terms_by_hand)),
            _seconds(_floor(result, peaks)),
        ]
        for result in results
    ]
    return Grid("The two passes of an epoch: median seconds and ratios", columns, rows)


def theory(results: Sequence[Result]) -> Grid:
    """Tabulate what `terms=theory` costs, where it was measured."""
    columns = [*_CASE, "default terms", "terms=theory", "theory / default", "epoch with theory / project"]
    rows = [
        [
            *_case(result.case),
            _seconds(result.median(PROJECT, "terms")),
            _seconds(result.median(THEORY, "terms")),
            ratio_text(result.ratio((THEORY, "terms"), (PROJECT, "terms")), digits=1),
            ratio_text(result.ratio((THEORY, "whole"), (PROJECT, "whole")), digits=1),
        ]
        for result in results
        if THEORY in result.turns
    ]
    return Grid("terms=theory: median seconds and ratios", columns, rows)


def memory(peaks: Sequence[tuple[Case, Memory]]) -> Grid:
    """Tabulate peak memory of the terms' pass by number of minibatches."""
    columns = ["optimizer", "training examples", "minibatches m", "tensors, MB", "resident, MB"]
    rows = [
        [
            case.optimizer,
            f"{case.num_examples:,}",
            str(peak.num_batches),
            f"{peak.tensors / 1e6:.1f}",
            MISSING if peak.resident is None else f"{peak.resident / 1e6:.1f}",
        ]
        for case, peak in peaks
    ]
    return Grid("Peak memory of the terms' pass above what was in use before it", columns, rows)


_CASE = ("optimizer", "width", "batch", "threads")


def _case(case: Case) -> list[str]:
    return [case.optimizer, str(case.width), str(case.batch_size), str(case.threads)]


def _floor(result: Result, peaks: Mapping[int, float]) -> float:
    """Return seconds of one pass's matrix products at the machine's best rate."""
    return result.flops / peaks[result.case.threads]


def _seconds(value: float | None) -> str:
    return MISSING if value is None else f"{value:.3f}"


def ratio_text(value: float | None, digits: int = 2) -> str:
    return MISSING if value is None else f"{value:.{digits}f}"
