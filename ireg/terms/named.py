"""The terms by tag, and the sets of them with a name."""

from collections.abc import Mapping, Sequence
from functools import partial

from ireg.core.snapshot import Term
from ireg.terms import implicit, norm, own, theory

TERMS: dict[str, Term] = {
    "ireg/sgd": implicit.sgd,
    "ireg/full_batch": implicit.full_batch,
    "ireg/minibatch_variance": implicit.minibatch_variance,
    "ireg/rmsprop": implicit.rmsprop,
    "ireg/own": own.own,
    "ireg/own_full_batch": own.own_full_batch,
    "ireg/own_variance": own.own_variance,
    "norm/l2": norm.l2,
    "norm/distance": norm.distance,
    "ireg/strength": partial(theory.strength, part="whole"),
    "ireg/strength_memory": partial(theory.strength, part="memory"),
    "ireg/strength_lag": partial(theory.strength, part="lag"),
    "ireg/strength_fluctuation": partial(theory.strength, part="fluctuation"),
    "ireg/alignment": partial(theory.alignment, part="whole"),
    "ireg/alignment_memory": partial(theory.alignment, part="memory"),
    "ireg/alignment_lag": partial(theory.alignment, part="lag"),
    "ireg/alignment_fluctuation": partial(theory.alignment, part="fluctuation"),
}

SETS: dict[str, tuple[str, ...]] = {"default": tuple(TERMS)[:9], "theory": tuple(TERMS)}
"""As in conf/terms: `theory` adds the mean flow, a second pass with double backward."""

Chosen = str | Sequence[str] | Mapping[str, Term]
"""A set's name, tags, or functions of one's own by tag."""


def chosen_terms(terms: Chosen) -> dict[str, Term]:
    """Return functions by tag.

    Args:
        terms: `"default"`, `"theory"`, a tag or a list of tags, or functions `Snapshot -> 0-d tensor` by tag.

    Raises:
        ValueError: a name that is neither a set's nor a tag, or no term at all.

    Example:
        >>> list(chosen_terms(["ireg/sgd", "norm/l2"]))
        ['ireg/sgd', 'norm/l2']
    """
    if isinstance(terms, Mapping):
        chosen = dict(terms)
    else:
        given = [terms] if isinstance(terms, str) else list(terms)
        unknown = [name for name in given if name not in SETS and name not in TERMS]
        if unknown:
            raise ValueError(f"terms: {unknown[0]!r} is unknown; choose among {', '.join([*SETS, *TERMS])}")
        chosen = {tag: TERMS[tag] for name in given for tag in SETS.get(name, (name,))}
    if not chosen:
        raise ValueError("terms: none are given; name a tag, like ireg/sgd, or a set, like default")
    return chosen
