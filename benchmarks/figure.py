"""The figure: seconds of the terms' pass over the number of examples, the width and the batch size."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from benchmarks.growth import OPTIMIZERS, Point

LABELS = {
    "num_examples": "training examples N",
    "width": "width of the hidden layers",
    "batch_size": "examples in a minibatch",
}
NAMES = {"sgd": "SGD: norms and mean", "rmsprop": "RMSProp: second moments, too"}
MARKERS = {"sgd": "o", "rmsprop": "s"}


def draw(points: Mapping[str, Sequence[Point]], peaks: Mapping[int, float]) -> Figure:
    """Draw one panel an axis, both axes logarithmic.

    `peaks`, operations per second by threads, make the floor.
    """
    base = points["num_examples"][0].case
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    panels = figure.subplots(1, len(points), sharey=True)
    for axes, (axis, measured) in zip(panels, points.items(), strict=True):
        _panel(axes, axis, measured, peaks[base.threads])
    panels[0].set_ylabel("seconds of the terms' pass")
    panels[0].legend(fontsize="small")
    figure.suptitle(
        f"Cost of the terms; where not varied: N = {max(p.case.num_examples or 0 for p in points['num_examples']):,}, "
        f"width {base.width}, batch size {base.batch_size}",
        fontsize="medium",
    )
    return figure


def _panel(axes: Axes, axis: str, points: Sequence[Point], peak: float) -> None:
    for optimizer in OPTIMIZERS:
        mine = [point for point in points if point.case.optimizer == optimizer]
        values = [getattr(point.case, axis) for point in mine]
        axes.plot(values, [point.seconds for point in mine], marker=MARKERS[optimizer], label=NAMES[optimizer])
    axes.plot(values, [point.flops / peak for point in mine], "--", color="gray", label="floor: bare matrix products")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(values, [f"{value:,}" for value in values])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(LABELS[axis])
    axes.grid(alpha=0.3)
