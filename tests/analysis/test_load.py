"""Run folders are read as they are: columns, states, and the difference between nan and not measured."""

import math
import sys

import pytest

from ireg.analysis.load import is_seed, load, runs, setting_columns
from ireg.system.errors import UserError

ONE = {"train/error": [0.9, 0.5, 0.25]}


def test_one_row_per_run_and_epoch(make_run):
    make_run("a", {"train/error": [0.9, 0.5], "norm/l2": [1.0, 2.0]})
    sweep = make_run("b", {"train/error": [0.8, 0.4], "norm/l2": [3.0, 4.0]}, {"optimizer.name": "adam", "lr": 0.01})
    table = load(sweep)
    assert list(table.columns) == [
        "run", "state", "optimizer", "lr", "batch_size", "seed", "epoch", "nonfinite", "train/error", "norm/l2"
    ]  # fmt: skip
    assert table.values.tolist() == [
        ["a", "done", "sgd", 0.1, 64, 0, 0, "", 0.9, 1.0],
        ["a", "done", "sgd", 0.1, 64, 0, 1, "", 0.5, 2.0],
        ["b", "done", "adam", 0.01, 64, 0, 0, "", 0.8, 3.0],
        ["b", "done", "adam", 0.01, 64, 0, 1, "", 0.4, 4.0],
    ]
    assert table["epoch"].dtype == int
    assert table["batch_size"].dtype == int


def test_configuration_that_differs_becomes_columns(make_run):
    make_run("a", ONE)
    config = {"data.noise.rate": 0.1, "model.hidden": [4], "optimizer.momentum": 0.9, "name": "other"}
    table = load(make_run("b", ONE, config)).set_index("run")
    config_columns = table.columns[: table.columns.get_loc("epoch")]
    assert set(config_columns) == {
        "state", "optimizer", "lr", "batch_size", "seed", "data.noise.rate", "model.hidden", "optimizer.momentum"
    }  # fmt: skip
    assert table.loc["a", "model.hidden"].iloc[0] == "[8,8]"
    assert table.loc["b", "model.hidden"].iloc[0] == "[4]"
    assert table.loc["b", "optimizer.momentum"].iloc[0] == 0.9
    assert table.loc["a", "optimizer.momentum"].isna().all()


def test_true_and_one_are_different_values(make_run):
    make_run("a", ONE, {"optimizer.nesterov": True})
    assert "optimizer.nesterov" in load(make_run("b", ONE, {"optimizer.nesterov": 1}))


def test_nan_is_not_the_same_as_not_measured(make_run):
    tags = {"train/loss": [2.0, "inf", "nan"], "ireg/sgd": [1e-3, "", "-inf"], "ireg/rmsprop": ["", "", ""]}
    table = load(make_run("a", tags, state="diverged"))
    assert table["nonfinite"].tolist() == ["", "train/loss", "train/loss ireg/sgd"]
    assert table["train/loss"].tolist()[:2] == [2.0, math.inf]
    assert table["ireg/sgd"].isna().tolist() == [False, True, False]
    assert table["ireg/rmsprop"].isna().all()


def test_runs_are_found_at_any_depth_in_natural_order(make_run):
    for name in ("lr=0.01/run10", "lr=0.01/run2", "lr=1e-3/run2"):
        sweep = make_run(name, ONE)
    assert runs(sweep)["run"].tolist() == ["lr=1e-3/run2", "lr=0.01/run2", "lr=0.01/run10"]


def test_a_single_run_has_its_folders_name(make_run, monkeypatch):
    sweep = make_run("only", ONE)
    assert load(sweep / "only")["run"].unique().tolist() == ["only"]
    monkeypatch.chdir(sweep / "only")
    assert load(".")["run"].unique().tolist() == ["only"]


def test_a_run_without_metrics_is_in_runs_only(make_run):
    make_run("good", ONE, final={"train/error": 0.25})
    sweep = make_run("bad", None, state="failed", error="data.root='x' does not exist")
    assert load(sweep)["run"].unique().tolist() == ["good"]
    table = runs(sweep).set_index("run")
    assert table.loc["bad", ["state", "epochs_done", "error"]].tolist() == ["failed", 0, "data.root='x' does not exist"]
    assert math.isnan(table.loc["bad", "train/error"])
    assert table.loc["good", ["state", "epochs_done", "epochs", "train/error"]].tolist() == ["done", 2, 2, 0.25]


def test_a_sweep_without_any_metrics_is_an_empty_table(make_run):
    table = load(make_run("bad", None, state="failed"))
    assert len(table) == 0
    assert {"run", "optimizer", "epoch"} <= set(table.columns)


def test_finals_come_from_the_status_and_else_from_the_last_measured_row(make_run):
    tags = {"train/error": [0.9, 0.5, 0.25], "ireg/sgd": [3.0, 2.0, ""], "train/loss": [1.0, "nan", ""]}
    table = runs(make_run("a", tags, final={"train/error": 0.2, "norm/l2": "inf"}, state="interrupted")).iloc[0]
    assert table["train/error"] == 0.2
    assert table["ireg/sgd"] == 2.0
    assert math.isnan(table["train/loss"])
    assert table["norm/l2"] == math.inf
    assert set(table["nonfinite"].split()) == {"train/loss", "norm/l2"}


@pytest.mark.parametrize(("state", "epochs"), [("running", [0, 1]), ("interrupted", [0, 1, 2])])
def test_a_half_written_line_of_a_running_run_is_left_out(make_run, state, epochs):
    sweep = make_run("a", {"train/error": [0.9, 0.5]}, state=state)
    with (sweep / "a" / "metrics.csv").open("a") as file:
        file.write("2,0.2")
    assert load(sweep)["epoch"].tolist() == epochs


@pytest.mark.parametrize("text", ["", "epoch,train/error\n"])
def test_metrics_without_rows_are_no_metrics(make_run, text):
    sweep = make_run("a", ONE, state="failed")
    (sweep / "a" / "metrics.csv").write_text(text)
    assert len(load(sweep)) == 0


@pytest.mark.parametrize(
    ("text", "there"),
    [("", "no rows"), ("epoch,train/er", "no rows"), ("epoch,train/error\n0,1\n", "rows up to epoch 0")],
)
def test_metrics_of_a_done_run_that_were_cut_off_are_refused(make_run, text, there):
    sweep = make_run("a", {"train/error": [1.0, 0.5]})
    (sweep / "a" / "metrics.csv").write_text(text)
    with pytest.raises(UserError, match=rf"a/metrics\.csv has {there}, and its run ended after epoch 1; delete"):
        load(sweep)


def test_no_runs_is_the_users_error(tmp_path):
    with pytest.raises(UserError, match="holds no runs"):
        load(tmp_path)
    with pytest.raises(UserError, match=r"nowhere' is not a folder; name the folder"):
        runs(tmp_path / "nowhere")


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"state": "done"}'])
def test_a_broken_status_names_the_file(make_run, text):
    sweep = make_run("a", ONE)
    (sweep / "a" / "status.json").write_text(text)
    with pytest.raises(UserError, match=r"a/status\.json(: not readable as JSON| is not a run's status)"):
        load(sweep)


@pytest.mark.parametrize(
    "text", ["epoch,train/error\n0,abc\n", "train/error\n0.5\n", "epoch,a/b\n0,1\n1,2,3,4\n", "epoch,a/b\n0,1,2\n"]
)
def test_broken_metrics_name_the_file(make_run, text):
    sweep = make_run("a", ONE)
    (sweep / "a" / "metrics.csv").write_text(text)
    with pytest.raises(UserError, match=r"a/metrics\.csv is not a table of numbers by epoch \(.*run it again$"):
        load(sweep)


def test_settings_are_told_apart_by_as_few_columns_as_possible(make_run):
    # Momentum tells two settings of SGD apart; betas come with Adam, optimizer.lr with lr; the rest only observes.
    make_run("a", ONE, {"optimizer.momentum": 0.0, "optimizer.lr": 0.1, "seed": 1, "data.noise.seed": 1})
    make_run("b", ONE, {"optimizer.momentum": 0.9, "optimizer.lr": 0.1, "data.subset_seed": 3})
    sweep = make_run("c", ONE, {"optimizer.name": "adam", "optimizer.betas": [0.9, 0.99], "lr": 1, "optimizer.lr": 1,
                                "terms.every": 5})  # fmt: skip
    for table in (load(sweep), runs(sweep)):
        assert setting_columns(table) == ["optimizer", "lr", "batch_size", "optimizer.momentum"]


@pytest.mark.parametrize("column", ["seed", "data.noise.seed", "data.subset_seed"])
def test_seeds_are_seeds(column):
    assert is_seed(column)
    assert not is_seed(column + "s")
    assert not is_seed("aseed")


def test_what_differs_in_another_group_counts_though_the_optimizer_tells_it(make_run):
    # Two data sets and two optimizers: the data set is named, its size and path are not.
    mnist = {"data.name": "mnist", "data.train_size": 5000, "data.root": "x"}
    make_run("a", ONE, mnist)
    sweep = make_run("b", ONE, {"optimizer.name": "adam"})
    assert setting_columns(load(sweep)) == ["optimizer", "lr", "batch_size", "data.name"]


def test_paths_and_copies_that_say_nothing_new_are_left_out(make_run):
    tags = {"test/error": [0.9, 0.5]}
    for name, path, rate in (("sgd", "torch.optim.SGD", 0.1), ("adam", "torch.optim.Adam", 0.01)):
        config = {"optimizer.name": name, "optimizer._target_": path, "lr": rate, "optimizer.lr": rate}
        sweep = make_run(name, tags, config)
    assert not {"optimizer._target_", "optimizer.lr"} & set(load(sweep).columns)


def test_a_path_in_which_alone_runs_differ_stays(make_run):
    tags = {"test/error": [0.9, 0.5]}
    for name in ("a", "b"):
        sweep = make_run(name, tags, {"model._target_": f"mine.{name}"})
    assert load(sweep)["model._target_"].unique().tolist() == ["mine.a", "mine.b"]


def test_a_run_that_is_removed_while_it_is_read_is_left_out(make_run, monkeypatch):
    make_run("kept", ONE)
    folder = make_run("removed", ONE)
    module = sys.modules["ireg.analysis.load"]  # whose name in the package is the function's
    original = module.read_record
    monkeypatch.setattr(module, "read_record", lambda path: None if path.name == "removed" else original(path))
    assert runs(folder)["run"].tolist() == ["kept"]
