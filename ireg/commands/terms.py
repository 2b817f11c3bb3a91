"""`ireg terms`: list what is measured, or show one tag's entry of the catalogue."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from ireg.catalogue import CATALOGUE, FORMER_NAMES, NAMES, SET_TITLES, SETS, Quantity, name_of, nearest, present
from ireg.system.command import Parser, framed, run_as_process
from ireg.system.errors import UserError
from ireg.system.terminal import make_console
from ireg.tables import links_written_out

if TYPE_CHECKING:
    from rich.table import Table


@framed
def main(arguments: Sequence[str] | None = None) -> int:
    """List the terms and their sets, or show a tag.

    Raises:
        UserError: there is no such tag, term or set.
    """
    parser = Parser(
        "terms",
        description="Without TAG, list the terms that terms=… may name, and the sets of them.",
    )
    parser.add_argument(
        "tag", metavar="TAG", nargs="?", help="a tag like ireg/sgd, a term's name like sgd, or a set like theory"
    )
    given: str | None = parser.parse_args(arguments).tag
    console = make_console()
    if given is None:
        console.print(_terms(NAMES.values()))
        console.print()
        console.print(_columns(("set", "what it adds to the default terms"), SET_TITLES))
    elif given in SETS:
        console.print(f"terms={given}: {SET_TITLES[given]}\n")
        console.print(_terms(SETS[given]))
    else:
        console.print(_entry(_tag(given)))
    return 0


def _tag(given: str) -> str:
    tag = present({**NAMES, **FORMER_NAMES}.get(given, given))
    if tag not in CATALOGUE:
        raise UserError(f"{given}: no such tag; the nearest is {nearest(given, CATALOGUE)}; ireg terms lists the terms")
    return tag


def _terms(tags: Iterable[str]) -> Table:
    return _columns(
        ("tag", "what it is, and its name on the command line"),
        {tag: f"{CATALOGUE[tag].title}\nterms={name_of(tag)}, in {_sets(CATALOGUE[tag])}" for tag in tags},
    )


def _sets(of: Quantity) -> str:
    if "default" in of.sets:
        return "every set"
    return f"{'sets' if len(of.sets) > 1 else 'set'} {', '.join(of.sets)}" if of.sets else "no set"


def _entry(tag: str) -> Table:
    of = CATALOGUE[tag]
    lines = {
        "tag": tag,
        "what": of.title,
        "formula": of.formula,
        "unit": of.unit,
        "source": links_written_out(of.source),
        "valid for": links_written_out(of.validity) or "all",
    }
    if of.target:
        name = name_of(tag)
        lines |= {
            "sets": _sets(of).removeprefix("sets ").removeprefix("set "),
            "function": of.target + "".join(f", {key}={value}" for key, value in of.arguments.items()),
            "command line": f'python train.py "terms=[default,{name}]"',
            "Python": f'terms=["{tag}"] of ireg.measure, ireg.Monitor and ireg.ImplicitRegularizationMonitor',
        }
    else:
        lines["measured"] = "without a term"
    return _columns(None, {name: text for name, text in lines.items() if text})


def _columns(headings: tuple[str, str] | None, lines: Mapping[str, str]) -> Table:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=headings is not None)
    for number, heading in enumerate(headings or ("", "")):
        table.add_column(heading, no_wrap=number == 0, overflow="fold")
    for name, text in lines.items():
        table.add_row(name, text)
    return table


if __name__ == "__main__":
    run_as_process(main)
