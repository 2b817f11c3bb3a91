"""The decay of a fading mean of squared gradients."""


def fading_mean(kind: str, decay: float | None) -> float:
    """Return ρ, if the second moment is a fading mean.

    Args:
        kind: the rule's name.
        decay: ρ; None where the second moment is something else.

    Raises:
        ValueError: the second moment is no fading mean.
    """
    if decay is None or not 0.0 <= decay < 1.0:
        raise ValueError(
            f"{kind}: its mean flow is known only where it divides by the root of a fading mean of squared "
            "gradients (rmsprop, adam, adamw, nadam; not amsgrad, not centered)"
        )
    return decay
