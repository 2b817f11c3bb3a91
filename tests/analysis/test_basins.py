"""The figure of the barriers between forks."""

from ireg.analysis.basins import curves


def pair(first, second, first_order, second_order, level, *kinds):
    names = ("train/loss", "test/loss", "train/error", "test/error")
    curve = {name: [level, level + number, level] for number, name in enumerate(names)}
    return {
        "first": first, "second": second, "first_order": first_order, "second_order": second_order,
        **{kind: {"curve": curve} for kind in kinds},
    }  # fmt: skip


def drawn(axis):
    return {line.get_label(): (line.get_linestyle(), line.get_ydata().tolist()) for line in axis.get_lines()}


def test_means_over_pairs_of_different_orders():
    both = ("as_is", "matched")
    one = [
        pair("sgd", "sgd", 0, 1, 1.0, *both),
        pair("adam", "sgd", 0, 1, 2.0, *both),
        pair("adam", "sgd", 0, 0, 50.0, *both),  # of one order
    ]
    figure = curves([{"pairs": one}, {"pairs": [pair("sgd", "sgd", 0, 1, 3.0, "as_is"),
                                                pair("adam", "sgd", 1, 0, 4.0, "as_is")]}])  # fmt: skip
    names = ["training loss", "training error", "test loss", "test error"]
    kinds = ["as they are", "hidden units matched"]
    assert [axis.get_title() for axis in figure.axes] == [f"{name}, {kind}" for kind in kinds for name in names]
    assert [axis.get_xlabel() for axis in figure.axes] == 4 * [""] + 4 * ["α"]
    for row, level in ((figure.axes[:4], 1.0), (figure.axes[4:], 0.0)):  # the second run has no matched pairs
        for axis, top in zip(row, (0, 2, 1, 3), strict=True):
            assert drawn(axis) == {
                "adam and sgd": ("-", [2 + level, 2 + level + top, 2 + level]),
                "sgd, another order": ("--", [1 + level, 1 + level + top, 1 + level]),
            }
            assert axis.get_lines()[0].get_xdata().tolist() == [0, 0.5, 1]
            assert not axis.spines["top"].get_visible()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["adam and sgd", "sgd, another order"]


def test_a_kind_that_no_pair_has_is_left_out():
    assert len(curves([{"pairs": [pair("sgd", "sgd", 0, 1, 1.0, "as_is")]}]).axes) == 4
