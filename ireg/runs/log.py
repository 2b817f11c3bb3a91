"""The log file of a run."""

import logging
import os
from io import TextIOWrapper
from pathlib import Path

from ireg.system.files import open_regular


class RunLog(logging.FileHandler):
    """A handler that appends to a regular file, and to none that a link leads to.

    Raises:
        UserError: the file is a link, or no regular file.
    """

    def _open(self) -> TextIOWrapper:
        handle = open_regular(Path(self.baseFilename), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        return open(handle, "a", encoding=self.encoding, errors=self.errors)
