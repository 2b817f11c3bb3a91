"""`python -m study.scripts.tutorials batch_size`: run a tutorial, and write what it prints and draws.

A page docs/tutorial_NAME.md has blocks of Python and of commands, run in their order in one empty folder. A block of
`text` that follows one directly is what that one prints. This writes these blocks again, and the page's picture.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

import ireg
from ireg.__main__ import main as command
from ireg.system.command import framed, run_as_process
from ireg.system.files import replacing, write_bytes
from study.scripts.published import DATA

PICTURES: Mapping[str, str] = {
    "batch_size": "noise_scale.png",
    "own_optimizer": "flow.png",
    "comparison": "multirun/fair/figures/equal_fit.png",
}
"""The file that a tutorial's code draws, and the page shows as figures/tutorial_NAME.png."""

RUNS: Mapping[str, str] = {"comparison": "multirun/fair"}
"""The folder of a tutorial's runs, whose table is docs/data/tutorial_NAME.csv."""

COLUMNS = ["run", "state", "optimizer", "lr", "batch_size", "seed", "epoch", "train/loss", "test/error"]
"""What that table has: all that runs are compared by."""

_BLOCK = re.compile(r"^```(python|sh|text)\n(.*?)^```$\n?", re.DOTALL | re.MULTILINE)
_MODULE = re.compile(r"# (\w+)\.py\n")


class Block(NamedTuple):
    """A block of a tutorial, and where what it prints stands on the page.

    Attributes:
        kind: `python` or `sh`.
        code: what it says.
        output: what it printed, as the page has it; empty where nothing follows.
        span: of the output in the page's text; None where nothing follows.
    """

    kind: str
    code: str
    output: str
    span: tuple[int, int] | None


def page_of(name: str) -> Path:
    """Return the path of a tutorial."""
    return DATA.parent / f"tutorial_{name}.md"


def blocks(text: str) -> list[Block]:
    """List the blocks of a page, each with its output.

    Raises:
        ValueError: a block of `text` does not follow a block of code directly.
    """
    found: list[Block] = []
    end = 0
    for match in _BLOCK.finditer(text):
        kind, content = match.groups()
        if kind != "text":
            found.append(Block(kind, content, "", None))
        elif not found or found[-1].span is not None or text[end : match.start()].strip():
            head = content.partition("\n")[0]
            raise ValueError(f"a block of text follows no code: {head!r}; it must be an output")
        else:
            found[-1] = found[-1]._replace(output=content, span=match.span(2))
        end = match.end()
    return found


def run(code: Sequence[Block]) -> list[str]:
    """Run blocks in their order in the current folder, and return what each prints on standard output.

    Blocks of Python share their names. One whose first line names a file, as `# my_optimizer.py`, becomes that module
    of the folder. A command is called in this process.

    Raises:
        ValueError: a command is none of `ireg`.
    """
    names: dict[str, Any] = {"__name__": "__main__"}
    return [_printed(block, names) for block in code]


def _printed(block: Block, names: dict[str, Any]) -> str:
    printed = StringIO()
    with contextlib.redirect_stdout(printed):
        if block.kind == "sh":
            for line in block.code.splitlines():
                command(words(line))
        elif (module := _MODULE.match(block.code)) is not None:
            Path(f"{module.group(1)}.py").write_text(block.code, encoding="utf-8")
        else:
            exec(compile(block.code, "tutorial", "exec"), names)
    return "".join(f"{line.rstrip()}\n" for line in printed.getvalue().strip("\n").splitlines())


def words(line: str) -> list[str]:
    """Return the words of a command after `ireg`, or after `python -m ireg.`.

    Raises:
        ValueError: it is another command.

    Example:
        >>> words("python -m ireg.verify --optimizer my.Own"), words("ireg analysis multirun/fair")
        (['verify', '--optimizer', 'my.Own'], ['analysis', 'multirun/fair'])
    """
    given = shlex.split(line, comments=True)
    if given[:1] == ["ireg"]:
        return given[1:]
    if given[:2] == ["python", "-m"] and given[2].startswith("ireg."):
        return [given[2].removeprefix("ireg."), *given[3:]]
    raise ValueError(f"{line!r}: is no command of ireg; a tutorial runs these alone")


@contextlib.contextmanager
def empty_folder() -> Iterator[Path]:
    """Work in a temporary folder whose modules can be imported, and forget them afterwards."""
    known, path = set(sys.modules), list(sys.path)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        sys.path.insert(0, folder)
        importlib.invalidate_caches()
        try:
            yield Path(folder)
        finally:
            sys.path[:] = path
            for name in set(sys.modules) - known:
                if str(getattr(sys.modules[name], "__file__", None)).startswith(folder):
                    del sys.modules[name]


def with_outputs(text: str, printed: Sequence[str]) -> str:
    """Put what blocks have printed on a page, each below its block.

    Raises:
        ValueError: a block has printed something and has no place for it, or has a place and has printed nothing.
    """
    for block, output in reversed(list(zip(blocks(text), printed, strict=True))):
        if (block.span is None) == bool(output):
            head = block.code.partition("\n")[0]
            raise ValueError(f"the block that begins with {head!r}: a block of text follows if it prints, only then")
        if block.span is not None:
            text = text[: block.span[0]] + output + text[block.span[1] :]
    return text


@framed
def main(arguments: Sequence[str] | None = None) -> int:
    """Run a tutorial's code, and write its outputs, its picture and the table of its runs."""
    parser = argparse.ArgumentParser(prog="python -m study.scripts.tutorials", description=main.__doc__)
    parser.add_argument("name", choices=PICTURES, help="of the page docs/tutorial_NAME.md")
    name = parser.parse_args(arguments).name
    page = page_of(name)
    text = page.read_text(encoding="utf-8")
    with empty_folder() as folder:
        printed = run(blocks(text))
        picture = (folder / PICTURES[name]).read_bytes()
        runs = ireg.load(RUNS[name])[COLUMNS] if name in RUNS else None
    write_bytes(page, with_outputs(text, printed).encode())
    write_bytes(DATA.parent / "figures" / f"tutorial_{name}.png", picture)
    if runs is not None:
        write_table(runs, DATA / f"tutorial_{name}.csv")
    print("\n".join(filter(None, printed)))
    return 0


def write_table(runs: pd.DataFrame, path: Path) -> None:
    """Write runs with seven digits: all that is shown of them has fewer."""
    with replacing(path) as temporary:
        runs.to_csv(temporary, index=False, float_format="%.7g")


if __name__ == "__main__":
    run_as_process(main)
