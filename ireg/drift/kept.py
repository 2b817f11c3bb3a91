"""Results that are kept, and not measured again with the same options."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ireg.system.errors import UserError
from ireg.system.files import is_writable
from ireg.system.reading import LARGEST_TABLE, NotReadError, read_text


def kept_or_measured(
    output: Path,
    file: str,
    options: Mapping[str, Any],
    measure: Callable[[], dict[str, Any]],
    *,
    require_own_files: Callable[[Path], None],
    write: Callable[[Sequence[Mapping[str, Any]], Path], list[Path]],
    text: Callable[[Sequence[Any]], str],
) -> dict[str, Any]:
    """Return the result that the folder has, or measure and write it.

    Args:
        output: the folder.
        file: the JSON file of the result in it, which has its options.
        options: what the result depends on.
        measure: makes the result.
        require_own_files: refuses a folder with files of the same names that no measurement wrote.
        write: writes the files of results.
        text: makes the text of results; a kept one of which it can make none is damaged.

    Raises:
        UserError: the folder cannot be written, or holds others' files, or what is kept is damaged.
    """
    known = _known(output / file)
    if known is not None and known["options"] == options:
        try:
            text([known])
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            problem = f"damaged ({type(error).__name__}: {error})"
            raise UserError(f"{output / file}: {problem}; delete the folder, and measure again") from error
        print(f"{output}: measured already, kept as it is; to measure again, delete the folder", file=sys.stderr)
        return known
    if not is_writable(output):  # said before the work
        raise UserError(f"{output}: cannot be written; choose another place with --output DIR")
    require_own_files(output)
    result = measure()
    for path in write([result], output):
        print(f"wrote {path}", file=sys.stderr)
    return result


def _known(path: Path) -> dict[str, Any] | None:
    try:
        known = json.loads(read_text(path, largest=LARGEST_TABLE))
    except (FileNotFoundError, NotReadError, ValueError, RecursionError):  # then it is measured, and replaced
        return None
    return known if isinstance(known, dict) and "options" in known else None
