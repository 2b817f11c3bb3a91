"""The functions of the terms by tag, as `ireg.catalogue` names their places."""

from collections.abc import Mapping, Sequence
from functools import partial
from pkgutil import resolve_name

from ireg.catalogue import CATALOGUE, NAMES, SETS, Quantity, tags_of
from ireg.core.snapshot import Term

__all__ = ["NAMES", "SETS", "TERMS", "Chosen", "chosen_terms"]


def _function(of: Quantity) -> Term:
    function: Term = resolve_name(of.target)
    return partial(function, **of.arguments) if of.arguments else function


TERMS: dict[str, Term] = {tag: _function(of) for tag, of in CATALOGUE.items() if of.target}
"""All terms, in the order of the table."""

Chosen = str | Sequence[str] | Mapping[str, Term]
"""A set's name, tags, or functions of one's own by tag."""


def chosen_terms(terms: Chosen) -> dict[str, Term]:
    """Return functions by tag.

    Args:
        terms: `"default"`, `"theory"`, a term or a list of terms, each by its tag (`"ireg/sgd"`) or by its name on the
            command line (`"sgd"`), or functions `Snapshot -> 0-d tensor` by tag.

    Raises:
        ValueError: a name that is neither a set's nor a term's, or no term at all.

    Example:
        >>> list(chosen_terms(["sgd", "norm/l2"]))
        ['ireg/sgd', 'norm/l2']
    """
    if isinstance(terms, Mapping):
        chosen = dict(terms)
    else:
        given = [terms] if isinstance(terms, str) else list(terms)
        chosen = {tag: TERMS[tag] for name in given for tag in tags_of(name)}
    if not chosen:
        raise ValueError("terms: none are given; name a tag, like ireg/sgd, or a set, like default")
    return chosen
