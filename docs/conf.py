"""The site of these pages: `make docs`."""

import re
import shutil
import sys
from importlib.metadata import distribution
from pathlib import Path

from docutils import nodes
from sphinx.addnodes import desc_signature, literal_strong
from sphinx.application import Sphinx

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

project = "ireg"
author = copyright = "The ireg authors"
html_title = "ireg"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.doctest"]
exclude_patterns = ["_build", "data"]
html_theme = "furo"
# Pages are read on the site and in the repository alike: links between them have the repository's form.
myst_heading_anchors = 3
myst_enable_extensions = ["attrs_inline"]
# Formulas are fenced as `math`, which GitHub typesets, too. MathJax is a file of the site: no network is needed.
myst_fence_as_directive = ["math"]
_MATHJAX = "sphinx-mathjax-offline/static/mathjax/tex-svg.js"
html_static_path = ["_static", str(distribution("sphinx-mathjax-offline").locate_file(_MATHJAX))]
html_css_files = ["site.css"]
mathjax_path = "tex-svg.js"
# The notebook has no outputs in the repository. It is executed here, in some ten seconds; an error ends the build.
nb_execution_mode = "force"
nb_execution_timeout = 120
nb_execution_raise_on_error = True
autodoc_member_order = "bysource"
doctest_global_setup = """
import torch
from torch import nn
from ireg import *
from ireg.options import Options
from ireg.statistics import Interval, OverSeeds, holm, mean_interval, paired_difference, plus_minus
"""
autodoc_typehints = "description"
napoleon_use_ivar = True  # attributes as a list, like parameters
default_role = "code"  # of `names` in docstrings
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


# In sentences and tables symbols are written as g_k, Σ_{i∈k} and λ_max; on the site indices are low. An index is what
# stands in braces, one letter or number, also in H_kg_k, or a word after a symbol. Names of code have longer parts.
_SYMBOL = r"(?:(?<=[\u0300-\u036fα-ωΑ-Ω‖]_)|(?<=\b[A-Z]_))"
_INDEX = re.compile(
    rf"(?<=\S)_(\{{[^{{}}]+\}}|[0-9A-Za-zα-ω](?![0-9A-Za-z_])|[a-z](?=[a-z]_[a-z]\b)|{_SYMBOL}[A-Za-z]{{3,}}\b)"
)
_CODE = (nodes.FixedTextElement, nodes.literal, nodes.math, nodes.raw, desc_signature, literal_strong)


def _with_low_indices(app: Sphinx, page: nodes.document) -> None:
    for text in list(page.findall(nodes.Text)):
        around, above = text.parent, text.parent
        while above is not None and not isinstance(above, _CODE):
            above = above.parent
        if above is not None:
            continue
        pieces = _INDEX.split(text)  # by turns text and index
        low = [nodes.subscript("", piece.strip("{}")) if n % 2 else nodes.Text(piece) for n, piece in enumerate(pieces)]
        around.replace(text, low)


def setup(app: Sphinx) -> None:
    """Let the pages' links lead to the site's pages, and set indices low."""
    app.connect("doctree-read", _with_low_indices)
    app.connect("source-read", _with_links_of_the_site)
    app.connect("include-read", _of_an_included_page)
