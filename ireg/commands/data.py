"""`ireg data`: list, show, verify and fetch the data sets."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ireg.commands.train import CONF
from ireg.config.surroundings import require_place
from ireg.system.command import Parser, framed, run_as_process
from ireg.system.errors import UserError
from ireg.system.terminal import make_console

if TYPE_CHECKING:
    from torch import Tensor

_SPLITS = {"train": "training", "test": "test"}


@framed
def main(arguments: Sequence[str] | None = None) -> int:
    """List the data sets, or show, verify or fetch one; return the exit code.

    Args:
        arguments: of the command line; None takes the process's own.

    Raises:
        UserError: there is no such data set, or it is missing, damaged, or cannot be downloaded.
    """
    parser = Parser(
        "data",
        description="Without arguments, list the data sets that data=… may name. Files are compared with their md5 "
        "and sha256 before every reading, by these commands as by runs.",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, text in (
        ("show", "what is in a data set: sizes, scale, and examples by class"),
        ("verify", "read a data set that is there, compare its files with their md5 and sha256, and download nothing"),
        ("fetch", "download what is missing of a data set, and verify it"),
    ):
        one = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        one.add_argument("data", metavar="DATA", help="its name, as data=… takes it")
        one.add_argument("--root", metavar="FOLDER", help="where its files are, as data.root=… takes it")
    given = parser.parse_args(arguments)
    if given.command is None:
        _list()
        return 0
    settings = _settings(given.data, given.root)
    if given.root is not None:  # before torch is imported
        require_place("--root", given.root)
        if given.command != "fetch" and not Path(given.root).expanduser().exists():
            raise UserError(f"--root={given.root}: is not there; name the folder that holds the files")
    splits = {split: _read(settings, split, download=given.command == "fetch") for split in _SPLITS}
    sizes = " and ".join(f"{len(labels)} {_SPLITS[split]} examples" for split, (_, labels) in splits.items())
    shape = " × ".join(map(str, splits["train"][0].shape[1:]))
    print(f"{given.data}: {sizes} of {shape}, {settings['num_classes']} classes; {_verified(settings)}")
    if given.command == "show":
        _show(splits, int(settings["num_classes"]))
    return 0


def _list() -> None:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for heading in ("data", "where", "what"):
        table.add_column(heading, no_wrap=heading != "what")
    for path in sorted((CONF / "data").glob("*.yaml")):
        root = _load(path.stem).get("root", "made")
        where = "made by a program" if root == "made" else "in the package" if root is None else f"in {root}/"
        table.add_row(path.stem, where, path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# "))
    make_console().print(table)


def _load(name: str) -> Any:
    from omegaconf import OmegaConf

    path = CONF / "data" / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(other.stem for other in (CONF / "data").glob("*.yaml")))
        raise UserError(f"{name}: no such data set; choose one of {known}")
    return OmegaConf.load(path)


def _settings(name: str, root: str | None) -> dict[str, Any]:
    from omegaconf import OmegaConf

    loaded = _load(name)
    if root is not None:
        if "root" not in loaded:
            raise UserError(f"--root={root}: {name} is made by a program and has no files; leave it out")
        loaded.root = root
    tree: Any = OmegaConf.to_container(OmegaConf.create({"data": loaded}), resolve=True)
    settings: dict[str, Any] = tree["data"]
    return settings


def _read(settings: dict[str, Any], split: str, *, download: bool) -> tuple[Tensor, Tensor]:
    from functools import partial

    from hydra.utils import instantiate

    from ireg.config.schema import examples_in
    from ireg.data.source import read_split
    from ireg.data.text import read_blocks

    source: Callable[..., Any] = instantiate(settings["source"], _convert_="all")
    if "download" in inspect.signature(source).parameters:
        source = partial(source, download=download)
    context, classes = settings.get("context"), settings["num_classes"]
    count = examples_in(settings[f"num_{split}"], context)
    if context is not None:
        return read_blocks(source, split, num_examples=count, context=context, num_classes=classes)
    return read_split(source, split, num_examples=count, num_classes=classes)


def _verified(settings: dict[str, Any]) -> str:
    if "root" not in settings:
        return "made by a program"
    root = settings["root"]
    return "files verified, in the package" if root is None else f"files verified, in {Path(root).absolute()}"


def _show(splits: dict[str, tuple[Tensor, Tensor]], num_classes: int) -> None:
    from rich.table import Table

    from ireg.data.source import as_numbers

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("class")
    for split in splits:
        table.add_column(_SPLITS[split], justify="right")
    counts = {split: labels.flatten().bincount(minlength=num_classes).tolist() for split, (_, labels) in splits.items()}
    for number in range(num_classes):
        table.add_row(str(number), *(str(of_split[number]) for of_split in counts.values()))
    console = make_console()
    console.print(table)
    for split, (images, labels) in splits.items():
        if labels.ndim > 1:
            continue  # characters, which are classes themselves
        numbers = as_numbers(images)
        console.print(
            f"{_SPLITS[split]} inputs: from {numbers.min():.4g} to {numbers.max():.4g}, mean {numbers.mean():.4f}, "
            f"standard deviation {numbers.std():.4f}"
        )


if __name__ == "__main__":
    run_as_process(main)
