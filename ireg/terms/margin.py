"""How clearly training examples are classified as they are labelled.

The margin of an example with observed label y is f_y − max_{j≠y} f_j, f the network's outputs at the present weights.
It is positive where the label is predicted.

Scaling the weights of a homogeneous network scales its margins and changes no prediction. Normalized margins are
divided by Π‖W_l‖_F, see `ireg.terms.norm.product`.

Source: Bartlett, Foster & Telgarsky 2017, arXiv:1706.08498, for margins over products of norms; Lyu & Li 2020,
arXiv:1906.05890.
"""

from torch import Tensor

from ireg.core.snapshot import Snapshot
from ireg.core.wide import wide
from ireg.terms.norm import product

AMONG = ("all", "clean", "corrupted")


def quantile(snapshot: Snapshot, *, share: float, among: str, normalized: bool) -> Tensor | None:
    """Return a quantile of the margins of training examples.

    Args:
        snapshot: where.
        share: in [0, 1]; 0.5 is the median.
        among: `all` examples, those whose label is `clean`, or those whose label is `corrupted`.
        normalized: whether it is divided by Π‖W_l‖_F.

    Returns:
        The quantile, 0-d, in the unit of the outputs, over that of Π‖W_l‖_F if it is normalized. None for what is no
        classifier, where no example is meant, or where there are no norms to divide by.

    Raises:
        ValueError: another value of `among`.
    """
    if among not in AMONG:
        raise ValueError(f"among={among!r}: must be one of {', '.join(AMONG)}")
    margins, corrupted = snapshot.margins, snapshot.corrupted
    if margins is None:
        return None
    if among != "all":
        if corrupted is None:
            return None
        margins = margins[corrupted if among == "corrupted" else ~corrupted]
    if not len(margins):
        return None
    value = wide(margins).quantile(share)
    if not normalized:
        return value
    norms = product(snapshot)
    return None if norms is None else value / norms
