"""The frame of an instrument: what it measures of runs, the files it writes, and its command line.

An instrument trains again from a run's checkpoint. What it has measured is plain data, as its JSON file holds it; its
table, its figure and its text are made of that.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ireg.analysis.looks import drawn
from ireg.runs.find import find_runs
from ireg.runs.trust import add_options, trust_of
from ireg.system.errors import UserError, in_one_line
from ireg.system.files import below, is_writable, require_own, write_bytes, write_table, write_text
from ireg.system.reading import LARGEST_TABLE, NotReadError, read_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ireg.drift.from_run import Start
    from ireg.statistics import Estimate

Result = Mapping[str, Any]
"""What is measured of a run, as JSON holds it; `options` are what it depends on."""


@dataclass(frozen=True, kw_only=True)
class Instrument:
    """What is measured of runs, and how it is written.

    Attributes:
        name: of its files NAME.json, NAME.csv and, where there is a figure, NAME.png.
        folder: below a run's folder, where they are written without `--output`.
        header: of the table.
        options: from a run and the command line to what the numbers depend on, as JSON holds it.
        study: measures a run by these options, `processes` at once.
        rows: of a result in the table, a number each.
        text: of results, for a terminal.
        figure: draws results. It imports matplotlib itself, so that a failure harms nothing else.
        known_by: what the header of a table of any version begins with; the present header by default.
        pooled: whether the text is of all runs together. Then several runs have files of all even without `--output`,
            and below `--output` each run has a folder, one run too.
        indent: of the JSON file.
        needs_rule: whether runs are refused whose optimizer has no rule.
    """

    name: str
    folder: str
    header: Sequence[str]
    options: Callable[[Start, argparse.Namespace], dict[str, Any]]
    study: Callable[..., dict[str, Any]]
    rows: Callable[[Result], Iterator[list[Any]]]
    text: Callable[[Sequence[Result]], str]
    figure: Callable[[Sequence[Result]], Figure] | None = None
    known_by: Sequence[str] = ()
    pooled: bool = False
    indent: int | None = 1
    needs_rule: bool = True

    @property
    def files(self) -> tuple[str, ...]:
        """Name the files: data, table, and the picture where there is one."""
        return tuple(f"{self.name}.{ending}" for ending in ("json", "csv", *(["png"] if self.figure else [])))

    def require_own_files(self, folder: Path) -> None:
        """Refuse a folder with files of these names that no measurement wrote.

        Raises:
            UserError: there are such files.
        """
        require_own(folder, self.files[1], ",".join(self.known_by or self.header), self.files)

    def write(self, results: Sequence[Result], folder: Path) -> list[Path]:
        """Write the files of these runs into a folder; return their paths."""
        data, table, *pictures = (folder / name for name in self.files)
        write_table(table, self.header, (row for result in results for row in self.rows(result)))
        contents = {} if self.figure is None else drawn(self.name, partial(self.figure, results), ".png")
        for picture, content in zip(pictures, contents.values(), strict=False):  # none where the figure fails
            write_bytes(picture, content)
        # The last: where it is, the others are, and the run is not measured again.
        write_text(data, json.dumps(results[0] if len(results) == 1 else results, indent=self.indent) + "\n")
        return [data, table, *(pictures if contents else [])]

    def measure(self, given: argparse.Namespace) -> None:
        """Measure the runs of a command line, write the files, and print the text.

        Args:
            given: of `add_run_options`, with a `seed`, and what `options` reads.

        Raises:
            UserError: a run that cannot be measured; of several runs those are passed over.
        """
        folders = find_runs(given.runs)
        shared = given.output
        if shared is None and self.pooled and len(folders) > 1:
            shared = Path(self.folder)
        if shared is not None:
            self.require_own_files(shared)
        results = []
        for folder in folders:
            try:
                results.append(self._of_run(folder, shared, given, alone=len(folders) == 1))
            except (UserError, OSError) as error:
                if len(folders) == 1:
                    raise
                print(f"passed over: {in_one_line(error)}", file=sys.stderr)
        if not results:
            raise UserError("none of the runs can be measured")
        paths = self.write(results, shared) if shared is not None and (self.pooled or len(results) > 1) else []
        print(self.text(results))
        for path in paths:
            print(f"wrote {path}")

    def _of_run(self, folder: Path, shared: Path | None, given: argparse.Namespace, *, alone: bool) -> Result:
        """Return what is measured of a run, or was already with the same options."""
        from ireg.drift.from_run import load

        if shared is None:
            output = below(folder, self.folder)
        else:
            output = shared if alone and not self.pooled else shared / folder.name
        start = load(folder, seed=given.seed, trust=trust_of(given), needs_rule=self.needs_rule)
        chosen = self.options(start, given)
        known = self._kept(output, chosen)
        if known is not None:
            return known
        if not is_writable(output):  # said before the work
            raise UserError(f"{output}: cannot be written; choose another place with --output DIR")
        if shared is not None or self.pooled:
            self.require_own_files(output)
        result = self.study(start, chosen, processes=given.processes)
        for path in self.write([result], output):
            print(f"wrote {path}", file=sys.stderr)
        return result

    def _kept(self, output: Path, options: Mapping[str, Any]) -> Result | None:
        """Return the result with these options that a folder has; None where it has none.

        Raises:
            UserError: no text can be made of it, so that it is damaged.
        """
        path = output / self.files[0]
        known = _read(path)
        if known is None or known["options"] != options:
            return None
        try:
            self.text([known])
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            problem = f"damaged ({type(error).__name__}: {error})"
            raise UserError(f"{path}: {problem}; delete the folder, and measure again") from error
        print(f"{output}: measured already, kept as it is; to measure again, delete the folder", file=sys.stderr)
        return known


def _read(path: Path) -> dict[str, Any] | None:
    try:
        known = json.loads(read_text(path, largest=LARGEST_TABLE))
    except (FileNotFoundError, NotReadError, ValueError, RecursionError):  # then it is measured, and replaced
        return None
    return known if isinstance(known, dict) and "options" in known else None


def as_json(estimates: Mapping[str, Estimate]) -> dict[str, list[float | None]]:
    """Write estimates as pairs of value and standard error, None where JSON knows no number."""
    return {
        name: [number if math.isfinite(number) else None for number in estimate] for name, estimate in estimates.items()
    }


def add_run_options(parser: argparse.ArgumentParser, *, output: str, at_once: str) -> None:
    """Add what every instrument's command line has: runs, `--output`, `--processes`, and whom to trust.

    Args:
        parser: of the instrument's command.
        output: the rest of what the help of `--output` says.
        at_once: what is done in parallel, in the plural.
    """
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="a run's folder, or a sweep's: all its runs")
    parser.add_argument("--output", type=Path, metavar="DIR", help=f"where to write {output}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser.add_argument(
        "--processes", type=int, default=cores, metavar="N", help=f"how many {at_once} at once (default: {cores})"
    )
    add_options(parser)
