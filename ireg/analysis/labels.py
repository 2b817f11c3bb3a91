"""How settings are called, and their order, the same in tables and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ireg.analysis.load import setting_columns
from ireg.analysis.looks import COLOURS
from ireg.analysis.summary import plain


def varied_columns(table: pd.DataFrame) -> list[str]:
    """List what settings differ in, the optimizer's name left out."""
    return [column for column in setting_columns(table)[1:] if len(table[column].drop_duplicates()) > 1]


def short_names(columns: Sequence[str]) -> dict[str, str]:
    """Shorten keys: `data.noise.rate` -> `rate`, `data.name` -> `data`.

    Where that is ambiguous, the whole name stays.
    """
    short = {}
    for column in columns:
        *above, last = column.split(".")
        short[column] = above[-1] if above and last in ("name", "_target_") else last
    return {column: name if list(short.values()).count(name) == 1 else column for column, name in short.items()}


def label(values: Mapping[str, Any], names: Mapping[str, str], separator: str = ", ") -> str:
    """Name a setting by its optimizer and what differs.

    Args:
        values: the setting's, by column.
        names: the short names of the columns that differ.
        separator: between the parts.
    """
    parts = [f"{name}={plain(values[column])}" for column, name in names.items() if plain(values[column])]
    return separator.join([plain(values["optimizer"]), *parts])


def order(column: str, value: Any) -> tuple[int, float, str]:
    """Sort optimizers as everywhere, numbers by size, and then words."""
    if column == "optimizer":
        return list(COLOURS).index(value) if value in COLOURS else len(COLOURS), 0.0, plain(value)
    number = isinstance(value, (int, float, np.number)) and not pd.isna(value)
    return (0, float(value), "") if number else (1, 0.0, plain(value))
