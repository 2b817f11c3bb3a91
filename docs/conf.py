"""The site of these pages: `make docs`."""

import shutil
import sys
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

project = "ireg"
author = "The ireg authors"
html_title = "ireg"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.doctest"]
exclude_patterns = ["_build", "data"]
html_theme = "furo"
# Pages are read on the site and in the repository alike: links between them have the repository's form.
myst_heading_anchors = 3
myst_enable_extensions = ["attrs_inline"]
# The notebook is executed by a test; here it stands as it was executed there.
nb_execution_mode = "off"
autodoc_member_order = "bysource"
doctest_global_setup = """
import torch
from torch import nn
from ireg import *
from ireg.options import Options
from ireg.statistics import Interval, OverSeeds, holm, mean_interval, paired_difference, plus_minus
"""
autodoc_typehints = "description"
suppress_warnings = ["myst.header"]

shutil.copy(ROOT / "examples" / "any_model.ipynb", Path(__file__).with_name("notebook.ipynb"))

# What stands beside the pages in the repository, and has a page of its own on the site.
_ELSEWHERE = {
    "../examples/any_model.ipynb": "notebook.ipynb",
    "../CONTRIBUTING.md": "contributing.md",
    "[README](../README.md)": "README",
    "[README](../README.md#install)": "README",
}


def _with_links_of_the_site(app: Sphinx, name: str, source: list[str]) -> None:
    for here, there in _ELSEWHERE.items():
        source[0] = source[0].replace(here, there)


def _of_an_included_page(app: Sphinx, path: Path, parent: str, content: list[str]) -> None:
    # CHANGELOG.md stands beside CONTRIBUTING.md; its other links begin with docs/, which the include takes off.
    content[0] = content[0].replace("](CONTRIBUTING.md", "](docs/contributing.md")


def setup(app: Sphinx) -> None:
    """Let the pages' links lead to the site's pages."""
    app.connect("source-read", _with_links_of_the_site)
    app.connect("include-read", _of_an_included_page)
