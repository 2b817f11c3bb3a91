"""What the files of the configuration say of themselves."""

from pathlib import Path


def first_comment(path: Path) -> str:
    r"""Read the first line of comment of a configuration file, without those that are Hydra's.

    Args:
        path: the file.

    Returns:
        The line without its mark; empty where there is none.

    Raises:
        OSError: the file cannot be read.
        UnicodeDecodeError: it is not UTF-8.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "fast.yaml")
        ...     _ = path.write_text("# @package _global_\n# Does a large rate help?\nlr: 1\n")
        ...     first_comment(path)
        'Does a large rate help?'
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    comments = (line.removeprefix("# ") for line in lines if line.startswith("# ") and not line.startswith("# @"))
    return next(comments, "")
