"""What a user can get wrong, reported in one line."""

from collections.abc import Iterable
from difflib import get_close_matches
from unicodedata import category


class UserError(ValueError):
    """A user's error, in one line with the value, what is allowed, and what to do.

    Control characters in it are replaced by question marks: a value may be of somebody else's file, and whoever prints
    the line may print it on a terminal.
    """

    def __init__(self, line: str) -> None:
        super().__init__("".join("?" if category(character) == "Cc" else character for character in line))


def in_one_line(error: UserError | OSError) -> str:
    """Return the line that reports a user's error; raise any other again.

    Raises:
        OSError: it names no file, and is none of the user's.
    """
    if isinstance(error, UserError):
        return str(error)
    if error.filename is None:
        raise error
    return f"{error.filename}: {error.strerror}; choose another place, or repair this one"


def did_you_mean(word: str, known: Iterable[str], cutoff: float = 0.75) -> str:
    """Name what a word may stand for.

    Args:
        word: what was written.
        known: what it may stand for.
        cutoff: how like it must be, from 0 to 1 for the same.

    Returns:
        What follows the word in a line; empty where nothing is like it.

    Example:
        >>> did_you_mean("trian", ["train", "terms"])
        ', did you mean train?'
    """
    nearest = get_close_matches(word, list(known), n=1, cutoff=cutoff)
    return f", did you mean {nearest[0]}?" if nearest else ""
