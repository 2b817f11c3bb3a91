"""Names of run folders."""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ireg.runs.layout import STATUS
from ireg.system.errors import UserError

MAX_LENGTH = 120
"""Characters of a name; file systems allow 255 bytes."""

# They choose the folder that holds the run's, so they need not be said again in its name; the logger changes nothing.
_IMPLIED = ("name", "experiment", "optimizer", "logger")


# What people compare comes first; the repetition, and what is mostly the same for all runs of a folder, come last.
_FIRST = ("lr", "batch_size")
_LAST = ("seed", "epochs", "threads", "terms", "trainer", "checkpoint", "objective")


def run_name(optimizer: str, overrides: Sequence[str]) -> str:
    """Return the folder name of a run: the optimizer, then what else was set, in a fixed order.

    The order is learning rate, batch size, the other keys by name, seed, and last epochs, threads and what concerns the
    measuring. The order on the command line does not matter.

    Numbers have one spelling (`1e-3` is 0.001), other characters than letters, digits and `._=,+-` are replaced, and
    long names are cut; whatever that loses is kept apart by a hash at the end.

    Example:
        >>> run_name("sgd", ["epochs=5", "seed=1", "batch_size=16", "lr=1e-2", "optimizer=sgd", "name=first"])
        'sgd_lr=0.01_batch_size=16_seed=1_epochs=5'
    """
    return _folder_name([optimizer, *sorted(_parts(overrides), key=_rank)])


def optimizer_of(name: str) -> str:
    """Return the optimizer that a run's name begins with."""
    return name.partition("_")[0]


def folder_of(sweep: Path, optimizer: str, overrides: Sequence[str], as_texts: Sequence[str] = ()) -> str:
    """Return the name of the folder of a run in a sweep.

    Earlier versions put all keys in the order of the alphabet, and took a value that refers to others, like
    `lr='${ireg_of_optimizer:…}'`, with its quotes. A run with such a folder is resumed there.

    Args:
        sweep: the sweep's folder.
        optimizer: its name.
        overrides: what was set, as key=value.
        as_texts: the same as earlier versions had it, where that differs.
    """
    name = run_name(optimizer, overrides)
    if (sweep / name).exists():
        return name
    earlier = [_folder_name([optimizer, *sorted(_parts(given))]) for given in (overrides, as_texts)]
    for other in (earlier[0], run_name(optimizer, as_texts), earlier[1]) if as_texts else earlier[:1]:
        if (sweep / other / STATUS).exists():
            return other
    return name


def _parts(overrides: Iterable[str]) -> list[str]:
    parts = []
    for override in overrides:
        key, _, value = override.lstrip("+").partition("=")
        if key not in _IMPLIED and not key.startswith("logger."):
            parts.append(f"{key}={_canonical(value)}")
    return parts


def _rank(part: str) -> tuple[int, str]:
    """Return where a part stands in the name."""
    key = part.partition("=")[0]
    group = key.partition(".")[0]
    if key in _FIRST:
        return _FIRST.index(key) - len(_FIRST), part
    return (_LAST.index(group) + 1 if group in _LAST else 0), part


def _folder_name(parts: Sequence[str]) -> str:
    full = "_".join(parts)
    safe = re.sub(r"[^\w.=,+-]+", "-", re.sub(r"[\[\]\s]", "", full), flags=re.ASCII)
    if safe == re.sub(r"[\[\]\s]", "", full) and len(safe) <= MAX_LENGTH:
        return safe
    digest = hashlib.blake2b(full.encode(), digest_size=4).hexdigest()
    return f"{safe[: MAX_LENGTH - len(digest) - 1]}-{digest}"


def _canonical(value: str) -> str:
    """Write a number in its one spelling, and other text as it is."""
    try:
        number = float(value)
    except ValueError:
        return value
    return value if re.fullmatch(r"[+-]?\d+", value) else f"{number:.12g}"


def of_optimizer(values: Mapping[str, Any], optimizer: str) -> Any:
    """Return the value that is given for an optimizer, like the rate that is tuned for it.

    Raises:
        UserError: there is none.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"ireg_of_optimizer:{values}: must be values by optimizer, like {{sgd:0.1,adam:1e-3}}")
    if optimizer not in values:
        known = ", ".join(map(str, values))
        raise UserError(f"optimizer={optimizer}: there is a rate for {known} alone; give lr=…, too")
    return values[optimizer]


def quotient(number: int, divisor: int) -> int:
    """Divide, and leave out the remainder: so several seeds share one draw of the data.

    Raises:
        UserError: one of them is no integer, or the divisor is not positive.

    Example:
        >>> [quotient(seed, 2) for seed in (10, 11, 12)]
        [5, 5, 6]
    """
    if not all(type(value) is int for value in (number, divisor)) or divisor < 1:
        raise UserError(f"ireg_quotient:{number},{divisor}: must be two integers, the second positive")
    return number // divisor


def _folder_in(sweep: str, optimizer: str, overrides: ListConfig, *, _root_: DictConfig) -> str:
    """Return the name of the folder of the run that a configuration describes."""
    texts, valued = [], []
    as_written = OmegaConf.to_container(overrides, resolve=False)
    assert isinstance(as_written, list)
    for place, written in enumerate(as_written):
        texts.append(str(written))
        if "${" in texts[-1]:
            with suppress(OmegaConfBaseException):  # a reference by dots, which in this list leads elsewhere
                texts[-1] = str(overrides[place])
        valued.append(_with_value(str(written), texts[-1], _root_))
    return folder_of(Path(sweep), optimizer, valued, texts if texts != valued else ())


def _with_value(written: str, text: str, config: DictConfig) -> str:
    """Return key=value of an override whose value refers to others, with the value that the key has."""
    key, _, value = written.partition("=")
    if "${" not in value:
        return text
    found = OmegaConf.select(config, key.lstrip("+"))
    if OmegaConf.is_dict(found):
        return text
    return f"{key}={OmegaConf.to_container(found, resolve=True) if OmegaConf.is_list(found) else found}"


def register() -> None:
    """Make the functions above known to the configuration, as `${ireg_run_name:…}` and so on."""
    OmegaConf.register_new_resolver("ireg_run_name", _folder_in, replace=True)
    OmegaConf.register_new_resolver("ireg_of_optimizer", of_optimizer, replace=True)
    OmegaConf.register_new_resolver("ireg_quotient", quotient, replace=True)
