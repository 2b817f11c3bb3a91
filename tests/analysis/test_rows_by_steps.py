"""Runs by steps have the steps on the axes of figures, in the report's words, and in TensorBoard."""

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ireg.analysis import figures, write
from ireg.analysis.load import load
from ireg.analysis.mean_flow import mean_flow
from ireg.analysis.summary import _cell

ROWS = {"train/step": [0, 100, 200], "test/error": [0.9, 0.5, 0.4], "train/error": [0.9, 0.6, 0.5]}


def steps_of(figure):
    return [(axis.get_xlabel(), [list(line.get_xdata()) for line in axis.lines]) for axis in figure.axes]


def test_curves_run_along_the_steps(make_run):
    make_run("a", ROWS)
    shorter = {tag: values[:2] for tag, values in ROWS.items()}
    sweep = make_run("b", shorter, {"optimizer.name": "adam"})
    ((label, lines),) = steps_of(figures.test_error(load(sweep)))
    assert (label, lines) == ("steps", [[0, 100, 200], [0, 100]])


def test_rows_of_other_lengths_lie_where_their_steps_are(make_run):
    make_run("a", ROWS)
    sweep = make_run("b", ROWS | {"train/step": [0, 50, 100]}, {"optimizer.name": "adam"})
    ((_, lines),) = steps_of(figures.test_error(load(sweep)))
    assert lines == [[0, 100, 200], [0, 50, 100]]


def test_beside_a_run_by_epochs_rows_are_counted(make_run):
    make_run("a", ROWS)
    sweep = make_run("b", {"test/error": [0.9, 0.3, 0.2]}, {"optimizer.name": "adam"})
    ((label, lines),) = steps_of(figures.test_error(load(sweep)))
    assert (label, lines) == ("epochs", [[0, 1, 2], [0, 1, 2]])


def test_marks_lie_on_their_curves(make_run):
    flow = {"ireg/strength": [0.1, 0.1, 0.9], "ireg/alignment": [0.5, 0.4, 0.3], "train/loss": [2, 1, 0.5]}
    figure = mean_flow(load(make_run("a", ROWS | flow)))
    marks = [list(line.get_xdata()) for axis in figure.axes for line in axis.lines if line.get_linestyle() == "None"]
    assert [0, 100] in marks
    assert {label for label, _ in steps_of(figure)} <= {"steps", "", "training loss"}


def test_the_report_counts_steps(make_run):
    for seed in (0, 1):
        for name in ("sgd", "adam"):
            config = {"seed": seed, "optimizer.name": name}
            sweep = make_run(f"{name}-{seed}", ROWS | {"time/epoch": [1, 1, 1]}, config)
    write(sweep)
    text = (sweep / "report.html").read_text()
    assert "steps: 200" in text
    assert "epochs: " not in text
    events = EventAccumulator(str(sweep / "summary" / "sgd"), {"tensors": 0}).Reload()
    for tag in ("test/error", "seeds/test/error/mean"):
        assert [event.step for event in events.Tensors(tag)] == [0, 100, 200]


def test_errors_of_averages_are_shares():
    assert _cell("test/error_ema", 0.25) == "25.00 %"
    assert _cell("test/loss_ema", 0.25) == "0.25"
