"""Tables and figures from run folders, without torch.

See `load`, `runs`, `summarize`, `best_rates`, `at_places`, `write`, `report`, `show`, `table`.
"""

from typing import TYPE_CHECKING, Any

# These two have the names of their modules, so the functions are bound here, once the modules are: a later import of
# a module no longer replaces them. Both modules import pandas and matplotlib only when they are called.
from ireg.analysis.load import load, runs
from ireg.analysis.write import report, show, table, write

if TYPE_CHECKING:
    from ireg.analysis.best import best_rates
    from ireg.analysis.figures import FIGURES
    from ireg.analysis.places import at_places
    from ireg.analysis.summary import summarize, summarize_settings

__all__ = [
    "FIGURES", "at_places", "best_rates", "load", "report", "runs", "show", "summarize", "summarize_settings", "table",
    "write",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import what needs pandas or matplotlib at its first use: `--help` and typos are answered at once."""
    if name == "FIGURES":
        from ireg.analysis import figures

        return figures.FIGURES
    if name == "best_rates":
        from ireg.analysis import best

        return best.best_rates
    if name == "at_places":
        from ireg.analysis import places

        return places.at_places
    if name in ("summarize", "summarize_settings"):
        from ireg.analysis import summary

        return getattr(summary, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
