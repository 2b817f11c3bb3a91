"""`write` and `python -m ireg.analysis`: files, output, exit codes, and what is imported."""

import ast
import csv
import errno
import re
import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest

from ireg.analysis import FIGURES, show, write
from ireg.analysis.__main__ import main
from ireg.system.command import called
from tests.conftest import read_only

ROOT = Path(__file__).parents[2]
TAGS = {"train/error": [0.9, 0.5], "test/error": [0.9, 0.25], "norm/l2": [1.0, 2.0]}


def python(*arguments):
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_write_names_every_file_it_wrote(make_run, capsys):
    make_run("a-0", TAGS)
    sweep = make_run("a-1", TAGS, {"seed": 1})
    names = [f"figures/{name}.{suffix}" for name in ("training_error", "test_error", "parameter_norm")
             for suffix in ("png", "pdf")]  # fmt: skip
    tables = ("summary.csv", "summary_settings.csv")
    *written, first, second, report = write(str(sweep))
    assert [*written, report] == [sweep / name for name in (*tables, *names, "report.html")]
    events = [path.relative_to(sweep).as_posix() for path in (first, second)]
    assert [event.rpartition("/")[0] for event in events] == ["summary", "summary/sgd"]
    files = {path.relative_to(sweep).as_posix() for path in sweep.rglob("*") if path.is_file()}
    assert files == {*tables, *names, *events, "report.html"} | {
        f"a-{seed}/{name}" for seed in (0, 1) for name in ("status.json", "metrics.csv")
    }
    out = capsys.readouterr().out
    assert "figure implicit_regularization is left out: no run has measured ireg/sgd" in out
    assert "figure memorization is left out" in out
    assert (sweep / "figures/test_error.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_runs_make_the_same_files(make_run):
    sweep = make_run("a", {"norm/l2": [1.0, 2.0]})
    first, second = ({path: path.read_bytes() for path in write(sweep)} for _ in range(2))
    assert first == second
    # The two may have been written within one second.
    assert b"CreationDate" not in first[sweep / "figures/parameter_norm.pdf"]


@pytest.mark.parametrize("name", ["summary.csv", "report.html", "figures/test_error.pdf"])
def test_files_of_others_are_not_replaced(make_run, capsys, name):
    sweep = make_run("a", TAGS)
    (sweep / name).parent.mkdir(exist_ok=True)
    (sweep / name).write_text("name,score\n")
    assert main([str(sweep)]) == 2
    assert f"ireg did not write {name} there, and would replace" in capsys.readouterr().err
    assert [path.name for path in sweep.rglob("*") if path.is_file() and path.parent.name != "a"] == [Path(name).name]
    assert (sweep / name).read_text() == "name,score\n"


def test_the_users_settings_of_matplotlib_change_no_byte(make_run, capsys):
    sweep = make_run("a", TAGS)
    figures = [path for path in write(sweep) if path.suffix in (".png", ".pdf")]
    expected = [path.read_bytes() for path in figures]
    settings = {
        "text.usetex": True, "font.size": 20, "font.family": "serif", "savefig.bbox": "tight", "figure.dpi": 50,
        "axes.facecolor": "red", "pdf.compression": 0, "axes.formatter.use_locale": True,
    }  # fmt: skip
    with matplotlib.rc_context(settings):
        write(sweep)
        assert matplotlib.rcParams["font.size"] == 20
    assert [path.read_bytes() for path in figures] == expected
    assert capsys.readouterr().err == ""
    assert len(figures) == 6


def test_a_figure_that_fails_costs_neither_tables_nor_the_other_figures(make_run, capsys, monkeypatch):
    def fails(table):
        raise RuntimeError("latex could\nnot be found")

    monkeypatch.setitem(FIGURES, "test_error", fails)
    sweep = make_run("a", TAGS)
    assert main([str(sweep)]) == 0
    out, err = capsys.readouterr()
    assert err == "figure test_error cannot be drawn: RuntimeError: latex could not be found\n"
    assert "25.00 %" in out
    assert {path.stem for path in (sweep / "figures").iterdir()} == {"training_error", "parameter_norm"}


def test_who_may_only_look_gets_the_tables(make_run, capsys):
    sweep = make_run("a", TAGS)
    with read_only(sweep):
        assert main(["."]) == 0
    out, err = capsys.readouterr()
    assert "25.00 %" in out
    assert "written" not in out
    assert re.fullmatch(r"not written: .*: Permission denied; for files, copy the runs to a folder of yours\n", err)
    assert [path.name for path in sweep.iterdir()] == ["a"]


def test_a_full_disk_is_one_line_below_the_tables(make_run, capsys, monkeypatch):
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(Path, "write_bytes", lambda *_: (_ for _ in ()).throw(full))
    sweep = make_run("a", TAGS)
    assert main([str(sweep)]) == 2
    out, err = capsys.readouterr()
    assert "25.00 %" in out
    assert f"written: {sweep / 'summary.csv'}\n" in out
    assert err == (
        f"error: {sweep / 'figures' / 'training_error.png'}: No space left on device; "
        "choose another place, or repair this one\n"
    )


def test_write_of_a_sweep_without_metrics_is_the_summary(make_run):
    sweep = make_run("a", None, state="failed", error="no data")
    assert write(sweep) == [sweep / "summary.csv", sweep / "report.html"]
    assert "no data" in (sweep / "summary.csv").read_text()


def test_the_command_prints_tables_and_files_in_a_pipe(make_run):
    make_run("a-name-that-is-long-enough-to-need-more-than-eighty-columns,lr=0.1", TAGS)
    sweep = make_run(
        "failed", None, {"lr": 0.5}, state="failed", error="data.root='x' does not exist; " + "put it " * 20
    )
    done = python("-m", "ireg.analysis", str(sweep), "--full")
    assert done.returncode == 0
    assert done.stderr.startswith("1 of 2 runs failed:\n  failed: data.root='x' does not exist; put it")
    assert done.stderr.endswith(f"(see {sweep / 'failed' / 'train.log'})\n")
    assert "…" not in done.stdout
    (row,) = [line for line in done.stdout.splitlines() if "eighty-columns,lr=0.1" in line and "25.00 %" in line]
    assert row.split()[1:] == ["done", "1/2", "0.1", "50.00", "%", "25.00", "%", "25.00", "%", "@", "1"]
    assert "put it " * 19 in done.stdout
    assert f"written: {sweep / 'summary.csv'}, summary_best.csv, 3 figures in {sweep / 'figures'}" in done.stdout


def test_user_errors_are_one_line_and_exit_code_2(tmp_path):
    done = python("-m", "ireg.analysis", str(tmp_path / "nowhere"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert "nowhere' is not a folder" in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_criterion_of_the_best_rate_can_be_chosen(make_run, capsys):
    make_run("slow", TAGS, {"lr": 0.01})
    sweep = make_run("fast", {"train/error": [0.9, 0.25], "test/error": [0.9, 0.5], "norm/l2": [1.0, 2.0]}, {"lr": 1.0})
    chosen = {}
    for tag in ("train/error", "test/error"):
        assert main([str(sweep), "--criterion", tag]) == 0
        assert f"note: {tag} chose these rates" in capsys.readouterr().out
        with (sweep / "summary_best.csv").open(newline="") as file:
            (row,) = csv.DictReader(file)
        chosen[row["criterion"]] = float(row["lr"])
    assert chosen == {"train/error": 1.0, "test/error": 0.01}
    assert main([str(sweep), "--criterion", "test/errors"]) == 2
    wrong = capsys.readouterr()
    assert wrong.out == ""
    assert wrong.err == (
        "error: criterion='test/errors': no run has measured it; choose one of train/error, test/error, norm/l2\n"
    )
    assert main([str(sweep / "slow"), "--criterion", "norm/l2"]) == 0
    assert "no optimizer has two learning rates: norm/l2 has nothing to choose from" in capsys.readouterr().out


def test_usage_is_how_it_was_called():
    done = python("-m", "ireg.analysis", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: python -m ireg.analysis [-h]")


def test_importing_the_analysis_is_cheap_and_needs_no_torch():
    code = """
import sys
import ireg.analysis
assert not {"pandas", "matplotlib", "rich"} & set(sys.modules)
from ireg.analysis import FIGURES, best_rates, load, runs, summarize, summarize_settings, write
import ireg.analysis.load, ireg.analysis.write
assert callable(ireg.analysis.load) and callable(ireg.analysis.write)
print(sorted({"torch", "lightning", "hydra", "omegaconf", "matplotlib.pyplot"} & set(sys.modules)))
print(sorted(name for name in sys.modules if name.startswith("ireg.") and not name.startswith("ireg.analysis")))
"""
    done = python("-c", code)
    assert done.stderr == ""
    heavy, own = done.stdout.splitlines()
    assert heavy == "[]"
    assert {name.split(".")[1] for name in ast.literal_eval(own)} == {
        "catalogue", "known_optimizers", "runs", "statistics", "system",
    }  # fmt: skip


def test_an_unknown_name_is_an_attribute_error():
    import ireg.analysis

    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ireg.analysis.nothing


def test_a_commands_own_runs_are_shown_and_others_counted(make_run, capsys):
    """The best of the folder is another command's."""
    for name, error in (("a", 0.4), ("b", 0.3), ("c", 0.1)):
        folder = make_run(name, {"test/error": [0.9, error]}, {"lr": error})
    show(folder, own=["a", "b"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("2 runs (2 done)")
    assert any(line.startswith("best: sgd lr=0.3, ") for line in lines)
    assert f"and 1 other run in this folder: {called('analysis', folder)} shows all" in lines
    for own in (None, ["of no run here"]):
        show(folder, own=own)
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].endswith("3 runs (3 done)")
        assert any(line.startswith("best: sgd lr=0.1, ") for line in lines)
        assert not any("other run" in line for line in lines)


def test_what_a_sweep_shows_at_its_end_is_short(make_run, capsys):
    for name, error in (("a", 0.4), ("b", 0.3)):
        folder = make_run(name, {"test/error": [0.9, error]}, {"lr": error})
    texts = []
    for options in ({}, {"full": False}, {"full": True}):
        show(folder, **options)
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]
