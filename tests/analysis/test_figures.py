"""What the figures show is read back from their lines, bands, axes and legends."""

import numpy as np
import pytest
from matplotlib.colors import to_hex

from ireg.analysis import FIGURES, figures, load, looks, panels
from ireg.system.errors import UserError


def lines(figure, panel=0):
    """The curves of a panel by label; a label that stands twice (a mean and its diverged run) has two."""
    found = {}
    for line in figure.axes[panel].get_lines():
        found.setdefault(line.get_label(), []).append(line)
    return found


def the_line(figure, label, panel=0):
    (line,) = lines(figure, panel)[label]
    return line


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def points(line):
    return np.column_stack([line.get_xdata(), line.get_ydata()]).tolist()


def test_one_curve_a_setting_in_the_order_of_the_optimizers(make_run):
    make_run("x", {"train/error": [0.9, 0.1, 0.05]}, {"optimizer.name": "adam"})
    make_run("y", {"train/error": [0.9, 0.5]}, {"optimizer.name": "sgd"})  # unequal numbers of epochs are fine
    figure = figures.training_error(load(make_run("z", {"train/error": [0.9, 0.2]}, {"optimizer.name": "rmsprop"})))
    assert legend(figure) == ["sgd", "rmsprop", "adam"]
    assert points(the_line(figure, "adam")) == [[0, 0.9], [1, 0.1], [2, 0.05]]
    assert points(the_line(figure, "sgd")) == [[0, 0.9], [1, 0.5]]
    assert figure.axes[0].get_ylabel() == "training error (observed labels)"
    assert figure.axes[0].get_xlabel() == "epochs"


def test_seeds_become_a_mean_and_a_band(make_run):
    for seed, error in enumerate((0.25, 0.25, 1.0)):
        sweep = make_run(f"{seed}", {"test/error": [0.875, error / 2]}, {"seed": seed})
    figure = figures.test_error(load(sweep))
    assert legend(figure) == ["sgd (3 seeds)"]
    assert figure.legends[0].get_title().get_text() == "line: mean over seeds; band: smallest to largest"
    assert points(the_line(figure, "sgd (3 seeds)")) == [[0, 0.875], [1, 0.25]]
    (band,) = figure.axes[0].collections
    corners = {tuple(corner) for corner in band.get_paths()[0].vertices.tolist()}
    assert corners == {(0, 0.875), (1, 0.125), (1, 0.5)}


def test_the_legend_says_when_a_mean_goes_on_without_a_seed(make_run):
    make_run("0", {"test/error": [0.5, 0.25, 0.125]})
    sweep = make_run("1", {"test/error": [0.5, 0.75]}, {"seed": 1}, state="interrupted")
    figure = figures.test_error(load(sweep))
    assert points(the_line(figure, "sgd (2 seeds)")) == [[0, 0.5], [1, 0.5], [2, 0.125]]
    assert figure.legends[0].get_title().get_text().endswith("; after a run's last epoch, of the other seeds")


def test_a_single_seed_has_no_band_and_no_word_of_seeds(make_run):
    figure = figures.test_error(load(make_run("a", {"test/error": [0.9, 0.5]})))
    assert legend(figure) == ["sgd"]
    assert not figure.axes[0].collections
    assert figure.legends[0].get_title().get_text() == ""


def test_other_settings_are_named_and_drawn_in_another_style(make_run):
    for optimizer in ("sgd", "adam"):
        for size in (32, 128):
            config = {"optimizer.name": optimizer, "batch_size": size}
            sweep = make_run(f"{optimizer}-{size}", {"norm/l2": [1.0, 2.0]}, config)
    figure = figures.parameter_norm(load(sweep))
    assert legend(figure) == [
        "sgd, batch_size=32", "sgd, batch_size=128", "adam, batch_size=32", "adam, batch_size=128"
    ]  # fmt: skip
    styles = [the_line(figure, label).get_linestyle() for label in legend(figure)]
    assert styles[0] == styles[2] != styles[1] == styles[3]


def test_labels_name_what_differs_and_nothing_else(make_run):
    tags = {"norm/l2": [1.0, 2.0]}
    make_run("a", tags, {"data.noise.rate": 0.0, "regularizer.name": "l2", "terms.every": 2})
    make_run("b", tags, {"data.noise.rate": 0.0, "optimizer.momentum": 0.5, "seed": 3})
    table = load(make_run("c", tags, {"optimizer.name": "adam", "optimizer.betas": [0.5, 0.9], "lr": 1e-3}))
    assert legend(figures.parameter_norm(table)) == [
        "sgd, lr=0.1, rate=0, regularizer=l2",
        "sgd, lr=0.1, rate=0, regularizer=none, momentum=0.5",
        "adam, lr=0.001, rate=0.3, regularizer=none",
    ]


def test_an_ambiguous_name_is_written_whole(make_run):
    tags = {"norm/l2": [1.0]}
    make_run("a", tags, {"data.noise.rate": 0.1, "model.rate": 0.5})
    make_run("b", tags, {"data.noise.rate": 0.1, "model.rate": 0.25})
    table = load(make_run("c", tags, {"model.rate": 0.5}))
    assert legend(figures.parameter_norm(table))[0] == "sgd, data.noise.rate=0.1, model.rate=0.25"


def test_colours_are_the_same_whatever_else_is_in_the_table(make_run):
    tags = {"norm/l2": [1.0]}
    alone = figures.parameter_norm(load(make_run("a", tags, {"optimizer.name": "mystery"})))
    make_run("b", tags)
    both = figures.parameter_norm(load(make_run("c", tags, {"optimizer.name": "another"})))
    assert the_line(alone, "mystery").get_color() == the_line(both, "mystery").get_color()
    assert to_hex(the_line(both, "sgd").get_color()).upper() == looks.COLOURS["sgd"]


def test_a_diverged_run_stops_at_its_last_finite_value(make_run):
    make_run("good", {"train/error": [0.9, 0.5, 0.4, 0.3]})
    tags = {"train/error": [0.9, 0.8, "nan", "inf"]}
    figure = figures.training_error(load(make_run("bad", tags, {"lr": 10.0}, state="diverged")))
    assert legend(figure) == ["sgd, lr=0.1", "sgd, lr=10 (diverged)"]
    line = the_line(figure, "sgd, lr=10 (diverged)")
    assert points(line) == [[0, 0.9], [1, 0.8]]
    assert (line.get_marker(), line.get_markevery()) == ("x", [-1])
    assert the_line(figure, "sgd, lr=0.1").get_marker() == "None"


def test_a_diverged_seed_stays_out_of_mean_and_band(make_run):
    make_run("0", {"train/error": [0.5, 0.25]}, {"seed": 0})
    make_run("1", {"train/error": [0.5, 0.75]}, {"seed": 1})
    figure = figures.training_error(load(make_run("2", {"train/error": [0.875, "nan"]}, {"seed": 2}, state="diverged")))
    assert legend(figure) == ["sgd (2 seeds; 1 more diverged ×)"]
    mean, diverged = lines(figure)["sgd (2 seeds; 1 more diverged ×)"]
    assert points(mean) == [[0, 0.5], [1, 0.5]]
    assert points(diverged) == [[0, 0.875]]
    assert diverged.get_marker() == "x"


def test_all_seeds_diverged(make_run):
    for seed in (0, 1):
        sweep = make_run(f"{seed}", {"train/error": [0.5, "nan"]}, {"seed": seed}, state="diverged")
    assert legend(figures.training_error(load(sweep))) == ["sgd (2 seeds, diverged)"]


def test_a_value_that_was_not_measured_is_bridged_and_a_nan_breaks_the_curve(make_run):
    figure = figures.parameter_norm(load(make_run("a", {"norm/l2": [1.0, "", 3.0, "nan", 5.0]})))
    epochs, norms = the_line(figure, "sgd").get_data()
    assert list(epochs) == [0, 2, 3, 4]
    assert np.isnan(norms[2])


@pytest.mark.parametrize(
    ("values", "log"),
    [([1, 30], False), ([1, 31], True), ([0, 1e-9, 1e-9], False), ([0.0, 0.0], False), ([-5, 1, 31], True),
     ([1, np.inf, np.nan, 2], False), ([], False)],
)  # fmt: skip
def test_decades_make_a_logarithmic_axis(values, log):
    assert panels.spans_decades(np.array(values, dtype=float)) is log


def test_the_norms_axis_follows_the_rule(make_run):
    make_run("narrow/a", {"norm/l2": [19.0, 115.0]})
    sweep = make_run("wide/a", {"norm/l2": [0.0, 1.0, 40.0]})
    narrow, wide = (figures.parameter_norm(load(sweep / name)) for name in ("narrow", "wide"))
    assert narrow.axes[0].get_yscale() == "linear"
    assert wide.axes[0].get_yscale() == "log"
    assert np.isnan(the_line(wide, "sgd").get_ydata()[0])  # zero has no place on it
    assert list(the_line(wide, "sgd").get_ydata()[1:]) == [1.0, 40.0]


def test_shares_stay_on_a_linear_axis_that_shows_zero(make_run):
    figure = figures.training_error(load(make_run("a", {"train/error": [0.9, 0.001, 0.0]})))
    assert figure.axes[0].get_yscale() == "linear"
    bottom, top = figure.axes[0].get_ylim()
    assert -0.05 < bottom < 0  # a line at 0 is not hidden by the frame
    assert top > 0.9
    assert points(the_line(figure, "sgd"))[2] == [2, 0.0]


def test_implicit_regularization_has_eq_1_for_all_and_the_printed_terms(make_run):
    make_run("sgd", {"ireg/sgd": [1e-3, 2e-3], "ireg/rmsprop": ["", ""]})
    tags = {"ireg/sgd": [3e-3, 4e-3], "ireg/rmsprop": [0.0, 1e-11]}
    figure = figures.implicit_regularization(load(make_run("rmsprop", tags, {"optimizer.name": "rmsprop"})))
    left, right = figure.axes
    assert [axis.get_yscale() for axis in figure.axes] == ["log", "log"]
    assert left.get_ylim() != right.get_ylim()
    assert points(the_line(figure, "rmsprop", panel=0)) == [[0, 3e-3], [1, 4e-3]]
    epochs, printed = the_line(figure, "rmsprop", panel=1).get_data()
    assert list(epochs) == [0, 1]
    assert np.isnan(printed[0])  # exactly 0 before the first step
    assert printed[1] == 1e-11
    assert points(the_line(figure, "sgd", panel=1)) == [[0, 1e-3], [1, 2e-3]]
    assert left.get_title().startswith("Eq. 1 for every optimizer")
    assert "as printed" in right.get_title()
    assert r"rmsprop: $\frac{\eta}{4m}\Sigma_k\,\Vert s_t\odot" in right.get_title()
    assert right.get_title().endswith("sgd: Eq. 1")


def test_implicit_regularization_without_adaptive_optimizers_is_one_panel(make_run):
    assert len(figures.implicit_regularization(load(make_run("sgd", {"ireg/sgd": [1e-3]}))).axes) == 1


def test_memorization_has_a_panel_for_each_measured_tag(make_run):
    tags = {"fit/clean_error": [0.9, 0.1], "fit/memorized": [0.1, 0.7], "fit/recovered": [0.1, 0.2]}
    sweep = make_run("noisy/a", tags)
    # Without label noise there are no corrupted examples to measure.
    make_run("clean/a", tags | {"fit/memorized": ["", ""], "fit/recovered": ["", ""]}, {"data.noise.rate": 0.0})
    figure = figures.memorization(load(sweep / "noisy"))
    assert [points(the_line(figure, "sgd", panel))[1][1] for panel in range(3)] == [0.7, 0.2, 0.1]
    assert {axis.get_ylim()[1] >= 0.9 for axis in figure.axes} == {True}  # the largest value is in the last panel
    assert [axis.get_title() for axis in figures.memorization(load(sweep / "clean")).axes] == [
        "Uncorrupted examples:\nerror"
    ]
    both = figures.memorization(load(sweep))
    assert legend(both) == ["sgd, rate=0", "sgd, rate=0.3"]
    assert lines(both).keys() == {"sgd, rate=0.3"}


def test_every_figure_says_what_is_missing(make_run):
    table = load(make_run("a", {"train/loss": [1.0], "norm/l2": [""]}))
    for draw in FIGURES.values():
        with pytest.raises(UserError, match=r"no run has measured .*; it can be drawn once one has"):
            draw(table)


def test_many_curves_keep_the_legend_below_the_panel(make_run):
    for optimizer in looks.COLOURS:
        for lr in (0.1, 0.01):
            sweep = make_run(f"{optimizer}-{lr}", {"norm/l2": [1.0, 2.0]}, {"optimizer.name": optimizer, "lr": lr})
    few, figure = (figures.parameter_norm(load(folder)) for folder in (sweep / "sgd-0.1", sweep))
    few.draw_without_rendering()
    figure.draw_without_rendering()
    assert len(legend(figure)) == 2 * len(looks.COLOURS)
    box = figure.legends[0].get_window_extent()
    assert box.y1 < figure.axes[0].get_tightbbox().y0
    assert figure.axes[0].get_window_extent().height > 0.9 * few.axes[0].get_window_extent().height
    assert figure.bbox.x0 <= box.x0
    assert box.x1 <= figure.bbox.x1
    assert box.y0 >= 0


def test_the_papers_figures_bear_its_numbers(make_run):
    tags = ("train/error", "test/error", "ireg/sgd", "norm/l2")
    table = load(make_run("a", {tag: [0.5, 0.25] for tag in tags}))
    drawn = [
        FIGURES[name](table) for name in ("training_error", "test_error", "implicit_regularization", "parameter_norm")
    ]
    titles = [figure.get_suptitle() or figure.axes[0].get_title() for figure in drawn]
    assert [title.split(":")[0] for title in titles] == ["Figure 1", "Figure 2", "Figure 3", "Figure 4"]


EPOCHS, LOSS = ("epochs", "linear", False), ("training loss", "linear", True)  # which falls from left to right
NORM = r"$\Vert\omega\Vert_2$ of all parameters"
GROWTH = r"growth of $\Vert y\Vert^2$"
TERM, SHARE = ("implicit regularization term", "log"), ("share of these training examples", "linear")
STRENGTH, ALIGNMENT = ("strength: ‖part‖ / ‖u‖", "log"), ("alignment with ∇Q\n(above 0: pushes Q down)", "linear")
ERROR = ("learning rate", "log", False), ("error", "linear")
SHARPNESS = ("largest eigenvalue of H", "log"), ("fraction of the edge", "linear")
GROWN = (f"{GROWTH}\nalong the weights", "linear"), (f"{GROWTH}\nby diffusion", "linear"), ("diffusive share", "linear")
AXES = {
    "training_error": [(EPOCHS, ("training error (observed labels)", "linear"))],
    "test_error": [(EPOCHS, ("test error", "linear"))],
    "implicit_regularization": [(EPOCHS, TERM)] * 2,
    "parameter_norm": [(EPOCHS, (NORM, "linear"))],
    "memorization": [(EPOCHS, SHARE)] * 3,
    "own_regularization": [(EPOCHS, TERM)] * 3,
    "mean_flow": [(("", "linear", False), STRENGTH)] * 2 + [(EPOCHS, ALIGNMENT)] * 2,
    "equal_fit": [(LOSS, (name, "linear")) for name in ("test error", "ireg/own, its own regularizer", NORM)],
    "rates": [ERROR, ERROR],
    "sharpness": [(axis, name) for axis in (EPOCHS, LOSS) for name in SHARPNESS],
    "traces": [(axis, ("trace of H", "log")) for axis in (EPOCHS, LOSS)],
    "growth": [(axis, name) for axis in (EPOCHS, LOSS) for name in GROWN],
}
LINES = {"training_error": "paler: larger learning rate", "equal_fit": "a line is a run, a point an epoch",
         "rates": "a point is a run, a line the mean over seeds"}  # fmt: skip
"""What the legend says of the lines; of other figures as of the first."""


def test_the_axes_of_every_panel(make_run):
    tags = ("train/loss", "train/error", "test/error", "ireg/sgd", "ireg/rmsprop", "ireg/own", "norm/l2")
    tags += ("curvature/lambda_max", "curvature/edge_fraction", "curvature/trace", "path/settled_radial")
    tags += ("path/settled_diffusive", "fit/memorized", "fit/recovered", "fit/clean_error")
    tags += tuple(f"ireg/{what}{part}" for what in ("strength", "alignment") for part in ("", "_memory"))
    make_run("a", {tag: [0.5, 0.25] for tag in tags}, {"lr": 0.1})
    table = load(make_run("b", {tag: [0.5, 0.25] for tag in tags}, {"lr": 0.2}))
    for name, draw in FIGURES.items():
        figure = draw(table)
        found = [
            (
                (axis.get_xlabel(), axis.get_xscale(), bool(axis.xaxis_inverted())),
                (axis.get_ylabel(), axis.get_yscale()),
            )
            for axis in figure.axes
        ]
        assert found == AXES[name], name
        assert figure.legends[0].get_title().get_text() == LINES.get(name, LINES["training_error"])
        assert not any(axis.spines[side].get_visible() for axis in figure.axes for side in ("top", "right"))
    assert FIGURES["mean_flow"](table).get_suptitle().startswith("Dots: strength of the whole up to 0.3. ")
    assert [axis.get_ylim() for axis in FIGURES["growth"](table).axes[2::3]] == [(-0.02, 1.02)] * 2


def test_curves_that_coincide_are_all_seen(make_run):
    for name in ("sgd", "momentum", "adam"):
        sweep = make_run(name, {"test/error": [0.5, 0.25]}, {"optimizer.name": name})
    figure = figures.test_error(load(sweep))
    widths = [the_line(figure, name).get_linewidth() for name in ("sgd", "momentum", "adam")]
    assert widths == [2.4, 1.7, 1.0]  # later ones lie above


@pytest.mark.parametrize(
    ("values", "marked"),
    [
        ([0.5, 0.4, 0.3], []),  # every epoch: a line
        ([0.5, "", 0.3, "", 0.2], [0, 1, 2]),  # every second epoch
        ([0.5, "nan", 0.3, 0.2], [0]),  # a point without neighbours would vanish
        ([0.5], [0]),
    ],
)
def test_single_epochs_are_points(make_run, values, marked):
    line = the_line(figures.test_error(load(make_run("a", {"test/error": values}))), "sgd")
    assert line.get_markevery() == marked
    assert line.get_marker() == ("o" if marked else "None")


def test_of_many_rates_the_best_is_shown_and_the_others_are_faint(make_run):
    errors = {0.001: 0.5, 0.01: 0.2, 0.1: 0.3, 1.0: 0.9, 10.0: 0.95, 100.0: 0.96}
    for name, plus in (("sgd", 0.0), ("adam", 0.01)):
        for rate, error in errors.items():
            better = 0.01 if (name, rate) == ("adam", 0.1) else error + plus  # another rate is adam's best
            sweep = make_run(f"{name}-{rate}", {"test/error": [0.9, better]}, {"optimizer.name": name, "lr": rate})
    figure = figures.test_error(load(sweep))
    assert legend(figure) == ["sgd, lr=0.01", "adam, lr=0.1"]
    assert figure.legends[0].get_title().get_text() == "each optimizer's best rate; faint: its other rates"
    curves = figure.axes[0].get_lines()
    assert len(curves) == 12
    assert sorted(curve.get_alpha() or 1 for curve in curves) == [0.25] * 10 + [1, 1]
    few = load(sweep)[lambda table: table["lr"] <= 1.0]  # 8 settings: all are shown
    assert len(legend(figures.test_error(few))) == 8
    assert "paler: larger learning rate" in figures.test_error(few).legends[0].get_title().get_text()


def test_without_test_errors_none_of_many_is_faint(make_run):
    for number in range(12):
        sweep = make_run(f"{number}", {"train/error": [0.9, 0.1]}, {"lr": float(number + 1)})
    assert len(legend(figures.training_error(load(sweep)))) == 12
