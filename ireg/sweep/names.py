"""Names of run folders."""

import hashlib
import re
from collections.abc import Sequence

from omegaconf import OmegaConf

MAX_LENGTH = 120
"""Characters of a name; file systems allow 255 bytes."""

# They choose the folder that holds the run's, so they need not be said again in its name.
_IMPLIED = ("name", "experiment", "optimizer")


def run_name(optimizer: str, overrides: Sequence[str]) -> str:
    """Return the folder name of a run.

    It is the optimizer, then what else was set, sorted, so that the order does not matter.

    Numbers have one spelling (`1e-3` is 0.001), other characters than letters, digits and `._=,+-` are replaced, and
    long names are cut; whatever that loses is kept apart by a hash at the end.

    Example:
        >>> run_name("sgd", ["lr=1e-2", "batch_size=16", "optimizer=sgd", "name=first"])
        'sgd_batch_size=16_lr=0.01'
    """
    parts = []
    for override in overrides:
        key, _, value = override.lstrip("+").partition("=")
        if key not in _IMPLIED:
            parts.append(f"{key}={_canonical(value)}")
    full = "_".join([optimizer, *sorted(parts)])
    safe = re.sub(r"[^\w.=,+-]+", "-", re.sub(r"[\[\]\s]", "", full), flags=re.ASCII)
    if safe == re.sub(r"[\[\]\s]", "", full) and len(safe) <= MAX_LENGTH:
        return safe
    digest = hashlib.blake2b(full.encode(), digest_size=4).hexdigest()
    return f"{safe[: MAX_LENGTH - len(digest) - 1]}-{digest}"


def _canonical(value: str) -> str:
    """One spelling of a number; other text as it is."""
    try:
        number = float(value)
    except ValueError:
        return value
    return value if re.fullmatch(r"[+-]?\d+", value) else f"{number:.12g}"


def register() -> None:
    """Make `run_name` known to the configuration as `${ireg_run_name:…}`."""
    OmegaConf.register_new_resolver(
        "ireg_run_name", lambda optimizer, overrides: run_name(optimizer, list(overrides)), replace=True
    )
