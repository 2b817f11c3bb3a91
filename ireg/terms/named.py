"""The terms by tag, and the sets of them with a name."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import partial

from ireg.core.snapshot import Term
from ireg.terms import curvature, implicit, margin, norm, own, path, theory

CURVATURE = (
    "lambda_max", "lambda_max_residual", "lambda_max_products", "lambda_max_own", "edge", "batch_sharpness", "gni",
    "gni_se", "noise_edge", "trace", "trace_se", "trace_root", "adaptive", "adaptive_se", "along_step",
)  # fmt: skip
"""The functions of `ireg.terms.curvature`."""

MARGINS: dict[str, Term] = {
    f"margin/{scaled}{examples}{name}": partial(
        margin.quantile, share=share, among=examples.rstrip("_") or "all", normalized=bool(scaled)
    )
    for scaled in ("", "normalized_")
    for examples in ("", "clean_", "corrupted_")
    for name, share in (("median", 0.5), ("low", 0.01))
}
PATH: dict[str, Term] = {
    "path/radial": path.radial,
    "path/diffusive": path.diffusive,
    "path/whole": path.whole,
    "path/settled_radial": path.settled_radial,
    "path/settled_diffusive": path.settled_diffusive,
    "path/settled_whole": path.settled_whole,
}
LAYERS: dict[str, Term] = {
    "norm/layers": norm.layers,
    "norm/product": norm.product,
    "norm/spectral_product": norm.spectral_product,
}

EXACT: dict[str, Term] = {
    "ireg/strength_fluctuation_exact": theory.strength_exact,
    "ireg/alignment_fluctuation_exact": theory.alignment_exact,
}
"""F without an expansion: not in the set of the mean flow, which takes less time."""

TERMS: dict[str, Term] = {
    "ireg/sgd": implicit.sgd,
    "ireg/full_batch": implicit.full_batch,
    "ireg/minibatch_variance": implicit.minibatch_variance,
    "ireg/rmsprop": implicit.rmsprop,
    "ireg/own": own.own,
    "ireg/own_full_batch": own.own_full_batch,
    "ireg/own_variance": own.own_variance,
    **{f"curvature/{name}": getattr(curvature, name) for name in CURVATURE},
    "norm/l2": norm.l2,
    "norm/distance": norm.distance,
    **LAYERS,
    **MARGINS,
    **PATH,
    "ireg/strength": partial(theory.strength, part="whole"),
    "ireg/strength_memory": partial(theory.strength, part="memory"),
    "ireg/strength_lag": partial(theory.strength, part="lag"),
    "ireg/strength_fluctuation": partial(theory.strength, part="fluctuation"),
    "ireg/alignment": partial(theory.alignment, part="whole"),
    "ireg/alignment_memory": partial(theory.alignment, part="memory"),
    "ireg/alignment_lag": partial(theory.alignment, part="lag"),
    "ireg/alignment_fluctuation": partial(theory.alignment, part="fluctuation"),
    **EXACT,
}

_DEFAULT = (
    "ireg/sgd", "ireg/full_batch", "ireg/minibatch_variance", "ireg/rmsprop", "ireg/own", "ireg/own_full_batch",
    "ireg/own_variance", "norm/l2", "norm/distance",
)  # fmt: skip

SETS: dict[str, tuple[str, ...]] = {
    "default": _DEFAULT,
    "theory": (
        *_DEFAULT, *(tag for tag in TERMS if tag.startswith(("ireg/strength", "ireg/alignment")) and tag not in EXACT),
    ),
    "fluctuation": (*_DEFAULT, "ireg/strength_fluctuation", "ireg/alignment_fluctuation", *EXACT),
    "curvature": (*_DEFAULT, *(f"curvature/{name}" for name in CURVATURE)),
    "margin": (*_DEFAULT, *MARGINS, *LAYERS),
    "path": (*_DEFAULT, *PATH),
    "study": (
        *_DEFAULT, *PATH, "margin/median", "margin/normalized_median", "margin/normalized_clean_median", "norm/product",
        "norm/spectral_product", "curvature/lambda_max", "curvature/edge", "curvature/batch_sharpness",
        "curvature/trace",
    ),
}  # fmt: skip
"""As in conf/terms: `theory` adds the mean flow, `fluctuation` its F with and without the expansion, `curvature` the
Hessian, `path` the growth of the norm."""

_WITH_GROUP = {**MARGINS, **PATH, **LAYERS}

NAMES: dict[str, str] = {tag.replace("/", "_") if tag in _WITH_GROUP else tag.partition("/")[2]: tag for tag in TERMS}
"""The tag by each term's name on the command line, which is that of its file in conf/terms."""

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
        unknown = [name for name in given if name not in SETS and name not in TERMS and name not in NAMES]
        if unknown:
            raise ValueError(
                f"terms: {unknown[0]!r} is unknown; choose a set ({', '.join(SETS)}) or a term, like "
                f"{_nearest(unknown[0])}"
            )
        chosen = {tag: TERMS[tag] for name in given for tag in SETS.get(name, (NAMES.get(name, name),))}
    if not chosen:
        raise ValueError("terms: none are given; name a tag, like ireg/sgd, or a set, like default")
    return chosen


def _nearest(name: str) -> str:
    """The tag whose last part is most like that of a name."""
    parts = {tag.rpartition("/")[2]: tag for tag in TERMS}
    (found,) = get_close_matches(name.rpartition("/")[2], parts, n=1, cutoff=0.0)
    return parts[found]
