"""What `Monitor.plot` draws: panels, gaps, errors and scales."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.functional import mse_loss

import ireg
from ireg.rows_figure import rows_figure


def rows(**columns):
    return pd.DataFrame({"step": [1, 2, 3], **columns})


def test_a_panel_a_kind_and_a_line_a_tag():
    table = rows(**{
        "ireg/sgd": [1e-3, 1e-2, 1e-1], "ireg/sgd_se": 1e-4, "ireg/own": [1.0, np.nan, 3.0], "norm/l2": [5.0, 6.0, 7.0],
        "time/terms": 1.0, "check/replay": 0.0,
    })  # fmt: skip
    figure = rows_figure(table)
    terms, norms = figure.axes
    assert [axis.get_title() for axis in figure.axes] == ["ireg/ (loss)", "norm/l2 (weight)"]
    assert [axis.get_legend() is None for axis in figure.axes] == [False, True]
    assert [line.get_label() for line in terms.containers] == ["ireg/sgd", "ireg/own"]
    drawn = terms.containers[1].lines[0].get_ydata()
    np.testing.assert_array_equal(np.ma.filled(np.ma.asarray(drawn, dtype=float), np.nan), [1.0, np.nan, 3.0])
    assert (terms.get_yscale(), norms.get_yscale()) == ("log", "linear")
    assert terms.containers[0].has_yerr
    assert not norms.containers[0].has_yerr
    assert norms.get_xlabel() == "optimizer steps"


def test_tags_can_be_chosen_and_a_negative_value_keeps_the_axis_linear():
    figure = rows_figure(rows(**{"ireg/alignment": [-0.1, 0.001, 0.9], "norm/l2": 1.0}), ["ireg/alignment"])
    (axis,) = figure.axes
    assert axis.get_yscale() == "linear"
    assert axis.get_title() == "ireg/alignment"  # a number without unit


def test_rows_of_epochs_are_over_epochs():
    figure = rows_figure(pd.DataFrame({"epoch": [1, 2], "mine/number": [1.0, 2.0]}))
    assert figure.axes[0].get_xlabel() == "epoch"
    assert figure.axes[0].get_title() == "mine/number"


def test_what_cannot_be_drawn_is_said():
    with pytest.raises(ValueError, match="^nothing has been measured yet"):
        rows_figure(pd.DataFrame())
    with pytest.raises(ValueError, match="^norm/l3: not among the rows; there are norm/l2$"):
        rows_figure(rows(**{"norm/l2": 1.0}), ["norm/l3"])


def test_a_monitor_draws_its_rows():
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = ireg.Monitor(model, optimizer, criterion=mse_loss, terms=["ireg/sgd"])
    batch = torch.ones(2, 1), torch.zeros(2, 1)
    for _ in range(2):
        optimizer.zero_grad()
        mse_loss(model(batch[0]), batch[1]).backward()
        optimizer.step()
        monitor.update(batch)
        monitor.compute()
        monitor.reset()
    (axis,) = monitor.plot().axes
    assert axis.containers[0].lines[0].get_xdata().tolist() == [1, 2]
    assert monitor.plot(["ireg/sgd"]).axes
