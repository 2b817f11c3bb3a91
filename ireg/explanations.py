"""What measured values mean, in sentences: only where a threshold has a source.

Each sentence names the number, the threshold and the source. It judges no training as good or bad.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ireg.catalogue import STANDARD_ERROR, VALID_EDGE, VALID_STRENGTH

SHOWN = 3
"""Tags that a sentence about many of them names."""

_MCCANDLISH = "McCandlish et al. 2018, arXiv:1812.06162, section 2.2"
_COHEN = "Cohen et al. 2021, arXiv:2103.00065; of adaptive optimizers Cohen et al. 2022, arXiv:2207.14484"


def explained(values: Mapping[str, float], batch_size: float | None = None) -> list[str]:
    """Return what values mean, a sentence each.

    Args:
        values: by tag, those of the whole network.
        batch_size: B, the examples in a minibatch; None where it is not known.

    Returns:
        The sentences, in this order: B against the noise scale, noise in a minibatch's gradient, the edge of stability,
        the expansion, sampling errors. Those whose values are missing, or not finite, are left out.

    Example:
        >>> (sentence,) = explained({"ireg/strength": 0.02})
        >>> sentence.partition(":")[0], sentence[-34:]
        ('ireg/strength is 0.02, below 0.3', 'order (docs/theory.md, section 7).')
    """
    known = {tag: value for tag, value in values.items() if abs(value) < float("inf")}  # neither does nan hold
    return [*_batch_size(known, batch_size), *_noise(known), *_edge(known), *_expansion(known), *_errors(known)]


def _batch_size(values: Mapping[str, float], batch_size: float | None) -> Iterator[str]:
    """Compare B with B_simple, by the progress of a step in the model of McCandlish et al."""
    scale = values.get("noise/scale")
    if scale is None or batch_size is None or not scale > 0:
        return
    progress = 1 / (1 + scale / batch_size)
    yield (
        f"noise/scale is {_number(values, 'noise/scale')} examples, and a minibatch has {shown(batch_size, 4)}, "
        f"{'fewer' if batch_size < scale else 'not fewer'}: a step makes {progress:.2g} of the progress of one without "
        "noise, by the model 1/(1 + B_simple/B); the threshold is B = B_simple, where it makes half "
        f"({_MCCANDLISH})."
    )


def _noise(values: Mapping[str, float]) -> Iterator[str]:
    """Say which part of a minibatch gradient's mean square is noise, by one of three values."""
    share, name = values.get("noise/share"), "noise/share"
    whole, variance = values.get("ireg/sgd"), values.get("ireg/minibatch_variance")
    if share is None and whole is not None and variance is not None and whole > 0:
        share, name = variance / whole, "ireg/minibatch_variance over ireg/sgd"
    if share is not None:
        above = share > 0.5
        yield (
            f"{name} is {share:.2g}, {'above' if above else 'not above'} 1/2: of a minibatch gradient's mean square "
            f"the {'larger' if above else 'smaller'} part is noise (the parts of Smith et al. 2021, arXiv:2101.12176)."
        )
        return
    ratio = values.get("noise/signal_to_noise")
    if ratio is not None:
        below = ratio < 1
        yield (
            f"noise/signal_to_noise is {_number(values, 'noise/signal_to_noise')}, {'below' if below else 'not below'} "
            f"1: a minibatch's gradient holds {'more' if below else 'no more'} noise than signal ({_MCCANDLISH})."
        )


def _edge(values: Mapping[str, float]) -> Iterator[str]:
    fraction = values.get("curvature/edge_fraction")
    if fraction is None:
        return
    if fraction > VALID_EDGE:
        yield (
            f"curvature/edge_fraction is {fraction:.3g}, above {VALID_EDGE:g}: SGD's full-batch steps oscillate and "
            f"grow there ({_COHEN}); of an adaptive optimizer it is no fraction of the edge any more, since its "
            "preconditioner follows within some steps (docs/theory.md, section 12)."
        )
        return
    below = fraction < 1
    yield (
        f"curvature/edge_fraction is {fraction:.3g}, {'below' if below else 'not below'} 1: along the steepest "
        f"direction full-batch steps of a fixed preconditioner {'settle' if below else 'oscillate and do not settle'} "
        f"({_COHEN})."
    )


def _expansion(values: Mapping[str, float]) -> Iterator[str]:
    strength = values.get("ireg/strength")
    if strength is not None:
        below = strength < VALID_STRENGTH
        yield (
            f"ireg/strength is {strength:.2g}, {'below' if below else 'not below'} {VALID_STRENGTH:g}: the expansion "
            f"of the mean flow {'holds to first order' if below else 'says nothing here'} (docs/theory.md, section 7)."
        )


def _errors(values: Mapping[str, float]) -> Iterator[str]:
    """Name the estimates that are smaller than their own standard error."""
    unknown = [tag for tag, value in values.items() if values.get(tag + STANDARD_ERROR, 0.0) > abs(value)]
    if unknown:
        shown = ", ".join(f"{tag} ({_number(values, tag)})" for tag in unknown[:SHOWN])
        rest = f" and {len(unknown) - SHOWN} others" if len(unknown) > SHOWN else ""
        yield (
            f"The standard error is larger than the value of {shown}{rest}: the threshold is 1 standard error, and "
            "such an estimate may as well be of a value of 0 (docs/theory.md, section 9)."
        )


def _number(values: Mapping[str, float], tag: str) -> str:
    error = values.get(tag + STANDARD_ERROR)
    return shown(values[tag], 3) + ("" if error is None else f" ± {shown(error, 2)}")


def shown(value: float, digits: int) -> str:
    """Write a number with so many digits, without an exponent where it is of common size.

    Example:
        >>> [shown(value, 2) for value in (103.2, 0.5, 1.234e-7)]
        ['100', '0.5', '1.2e-07']
    """
    return f"{float(f'{value:.{digits}g}'):g}"
