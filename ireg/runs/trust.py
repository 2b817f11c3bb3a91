"""Which code and addresses a stored configuration may name.

A run's folder may be anybody's. Its configuration is data: doing the run again calls what it names, so it may name only
what is listed here, or what the user's own command names.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ireg.catalogue import CATALOGUE
from ireg.runs.layout import STATUS
from ireg.system.errors import UserError

TARGET = "_target_"

_SOURCES = (
    "ireg.data.cifar.cifar10",
    "ireg.data.idx.idx",
    "ireg.data.packed.packed",
    "ireg.data.separable.separable",
    "ireg.data.text.text",
)
_MODELS = tuple(f"ireg.models.{name}" for name in ("CNN", "GPT", "MLP", "ResNet", "ViT"))
_OPTIMIZERS = (
    "ireg.optim.MuonAdamW",
    "ireg.optim.Switch",
    "pytorch_optimizer.Lion",
    "pytorch_optimizer.SignSGD",
    *(
        f"torch.optim.{name}"
        for name in (
            "ASGD",
            "Adadelta",
            "Adafactor",
            "Adagrad",
            "Adam",
            "AdamW",
            "Adamax",
            "Muon",
            "NAdam",
            "RAdam",
            "RMSprop",
            "Rprop",
            "SGD",
        )
    ),
)
_REGULARIZERS = tuple(
    f"ireg.regularizers.{name}"
    for name in ("ASAM", "FullBatch", "L2", "Micro", "Minibatch", "MomentumLike", "Norm", "SAM")
)
_TERMS = tuple(dict.fromkeys(of.target for of in CATALOGUE.values() if of.target))

PLACES: dict[str, tuple[str, ...]] = {
    r"data\.source": _SOURCES,
    r"model": _MODELS,
    r"optimizer(\.(from|to))?": _OPTIMIZERS,
    r"regularizer": _REGULARIZERS,
    r"terms\..+": _TERMS,
}
"""What may be named where."""


@dataclass(frozen=True)
class Trust:
    """What the user trusts of a stored configuration.

    Attributes:
        everything: all that it names, also its loggers' addresses and its `${…}`.
        targets: what it may name beside the package's own, as import paths.
    """

    everything: bool = False
    targets: frozenset[str] = frozenset()


NOTHING_MORE = Trust()
"""Trust in what the package itself lists."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options by which a user trusts a stored configuration."""
    parser.add_argument(
        "--allow",
        metavar="TARGET",
        action="append",
        default=[],
        help="a function or class of yours that a stored configuration may call, like my_network.MyNetwork; it is "
        "imported from the installed packages and PYTHONPATH",
    )
    parser.add_argument(
        "--trust",
        action="store_true",
        help="do whatever a stored configuration says: it may run any code, so that you should have read it",
    )


def trust_of(options: argparse.Namespace) -> Trust:
    """Return what the options of `add_options` trust."""
    return Trust(options.trust, frozenset(options.allow))


def as_arguments(trust: Trust) -> list[str]:
    """Return the command line's options that trust the same."""
    return [
        *(["--trust"] if trust.everything else []),
        *(part for target in sorted(trust.targets) for part in ("--allow", target)),
    ]


def require_trusted(folder: Path, config: Mapping[str, Any], trust: Trust = NOTHING_MORE) -> None:
    """Refuse a stored configuration that would run or reach what its user has not named.

    Refused are a `_target_` that is not in the list for its place, `${…}` (a stored configuration is resolved), a
    logger, which sends to an address, and a folder for data that is not there, which would be made.

    Args:
        folder: of the run.
        config: its stored configuration.
        trust: what is trusted beside the list.

    Raises:
        UserError: the configuration has one of these; the first is named.
    """
    if trust.everything:
        return
    for what, remedy in _untrusted(config, trust):
        raise UserError(
            f"{folder / STATUS}: {what}; nothing was run, as the folder may be anybody's. Read that file; {remedy}"
            "--trust does all that it says"
        )


def _untrusted(config: Mapping[str, Any], trust: Trust) -> Iterator[tuple[str, str]]:
    """Yield what is not trusted, and how it alone is allowed."""
    for key, value in leaves(config):
        if "${" in value or "${" in key:
            yield f"{key} refers to another value ({value})", ""
        if key.rpartition(".")[2] == TARGET and value not in trust.targets and not is_listed(key, value):
            yield f"{key.removesuffix('.' + TARGET)} would run {value}", f"--allow {value} allows that, "
    logger = config.get("logger")
    if isinstance(logger, Mapping) and logger.get("further"):
        yield "logger.further would send the rows to an address of its own", ""
    if (missing := _missing_data(config)) is not None:
        yield f"data.source would make the folder {missing}", "make that folder if you know it, or "


def is_listed(key: str, target: str) -> bool:
    """Say whether a configuration may name a target where it does, by the list alone.

    Args:
        key: the dotted key of the `_target_`.
        target: its value, an import path.
    """
    place = key.removesuffix(f".{TARGET}")
    return any(re.fullmatch(pattern, place) and target in allowed for pattern, allowed in PLACES.items())


def leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the leaves of a tree as texts by dotted key, those in lists too.

    Args:
        tree: mappings, lists and values.
        prefix: the key of the tree itself.
    """
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from leaves(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(tree, list | tuple):
        for number, value in enumerate(tree):
            yield from leaves(value, f"{prefix}[{number}]")
    else:
        yield prefix, str(tree)


def _missing_data(config: Mapping[str, Any]) -> Path | None:
    """Return the folder that reading the data would make; None where it is there, or none is needed."""
    source = config.get("data", {}).get("source", {})
    root = source.get("root") if isinstance(source, Mapping) and source.get(TARGET) in _SOURCES else None
    if root is None:
        return None
    folder = Path(str(root)).expanduser() / str(source.get("dataset", "cifar-10-batches-py"))
    return None if folder.is_dir() else folder
