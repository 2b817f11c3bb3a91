"""Settings at equal training loss: what is compared, what is shown, and where nothing is."""

import pytest
import scipy.stats

import ireg
from ireg.analysis import load, runs, summarize
from ireg.analysis.compare import ALL_PAIRS
from ireg.analysis.equal_fit import cells, equal_fit, print_equal_fit, sentences
from ireg.system.errors import UserError

LOSSES = [2.0, 1.0, 0.5, 0.25, 0.125, 0.0625]


def trained(make_run, name, seed, error, config=None, losses=LOSSES):
    """A run whose test error is the same at all places, and its lowest one half of it."""
    errors = [0.9, *[error] * (len(losses) - 1)]
    tags = {"train/loss": losses, "test/error": errors, "time/epoch": 1.0}
    tags["time/epoch"] = [1.0] * len(losses)
    return make_run(f"{name}-{seed}", tags, {"optimizer.name": name, "seed": seed, **(config or {})})


@pytest.fixture
def sweep(make_run):
    """Adam has two points more than SGD, whose seeds differ by a tenth of a point; the third has not begun."""
    for seed in range(3):
        trained(make_run, "sgd", seed, 0.10 + 0.001 * seed)
        trained(make_run, "adam", seed, 0.12 + 0.001 * seed + 0.0001 * (seed == 1))
        folder = trained(make_run, "rmsprop", seed, 0.9, losses=[2.0, 1.999, 1.999, 1.999, 1.999, 1.999])
    return folder


def of(folder):
    return equal_fit(load(folder), summarize(runs(folder), load(folder)))


def test_values_and_differences_at_each_place(sweep):
    fit = of(sweep)
    assert fit.settings == ["adam", "sgd"]
    assert list(fit.values) == ["loss 1.5", "loss 0.5", "loss 0.1", "test", "end"]
    head, lines = cells(fit)
    assert head == ["test error at", "adam", "sgd"]
    half = 100 * scipy.stats.t.ppf(0.975, 2) * 0.001 / 3**0.5
    assert lines[-1] == ["the end", f"12.1 ± {half:.1f} %", f"10.1 ± {half:.1f} %"]
    assert [line[0] for line in lines[:4]] == [
        "training loss 1.5", "training loss 0.5", "training loss 0.1", "lowest test error"
    ]  # fmt: skip
    found = ireg.compare(sweep, at="end")
    row = found[(found["setting"] == "sgd") & (found["less"] == "adam")].iloc[0]
    assert (row["value"], row["other"], row["seeds"]) == (pytest.approx(0.101), pytest.approx(0.1210333, rel=1e-5), 3)
    differences = [-0.02, -0.0201, -0.02]
    expected = scipy.stats.ttest_1samp(differences, 0.0)
    assert row["p"] == pytest.approx(expected.pvalue, rel=1e-6)
    assert (row["low"], row["high"]) == pytest.approx(expected.confidence_interval(0.95), rel=1e-6)
    assert (found["p_holm"] >= found["p"]).all()
    last = sentences(fit)[-1]
    assert last.startswith("at the end: sgd 2.0 points below adam (p = ")


def test_the_table_is_printed(sweep, capsys):
    print_equal_fit(of(sweep))
    out = capsys.readouterr().out.splitlines()
    assert out[1].split() == ["test", "error", "at", "adam", "sgd"]
    assert len(out) == 2 + 5 + len(sentences(of(sweep)))


def test_equal_fit_is_where_all_pass(make_run):
    for seed in range(2):
        trained(make_run, "sgd", seed, 0.1 + 0.01 * seed)
        folder = trained(make_run, "adam", seed, 0.2 - 0.01 * seed, losses=[2.0, 1.0, 0.9, 0.9, 0.9, 0.9])
    found = ireg.compare(load(folder), at="equal_fit")
    assert found["place"].tolist() == ["loss 1.5", "loss 1"]
    assert ireg.compare(folder, at="equal_fit", losses=[1.2])["place"].tolist() == ["loss 1.2"]
    assert ireg.compare(folder, at="lowest")["place"].tolist() == ["test"]
    smallest = min(pair.adjusted for _, pair in of(folder).compared)
    assert sentences(of(folder)) == [f"no difference is shown there: the smallest p is {smallest:.2g}"]


def test_where_a_run_passes_a_loss_is_no_setting(make_run):
    """Each seed passes a loss at another epoch, and has its lowest error at another one."""
    for seed in range(3):
        factor = 1 - 0.1 * seed
        losses = [2.0, *(factor * loss for loss in LOSSES[1:])]
        trained(make_run, "sgd", seed, 0.10 + 0.001 * seed, losses=losses)
        folder = trained(make_run, "adam", seed, 0.12 - 0.001 * seed, losses=losses)
    found = ireg.compare(folder, at="equal_fit", losses=[0.5])
    assert found[["place", "setting", "less", "seeds"]].values.tolist() == [["loss 0.5", "sgd", "adam", 3]]
    assert found["difference"].item() == pytest.approx(0.101 - 0.119, rel=1e-9)
    assert len(of(folder).compared) == 5


def test_where_there_is_nothing_to_compare(make_run):
    folder = trained(make_run, "sgd", 0, 0.1)
    assert of(folder) is None  # one setting
    folder = trained(make_run, "adam", 0, 0.2)
    assert sentences(of(folder)) == ["one seed has no test: seed=0,1,2 gives intervals and p-values"]
    with pytest.raises(
        UserError, match="^at='end': no two settings have two seeds in common there; run each with seed="
    ):
        ireg.compare(folder)
    with pytest.raises(UserError, match="^at='best': no such place; choose one of equal_fit, end, lowest$"):
        ireg.compare(folder, at="best")
    with pytest.raises(UserError, match="^tag='test/eror': no run has it"):
        ireg.compare(folder, tag="test/eror")
    trained(make_run, "rmsprop", 0, 0.2, {"data.name": "other"})
    assert of(folder) is None  # other data


def test_there_is_no_table_of_many_settings(make_run):
    for number in range(ALL_PAIRS + 1):
        folder = trained(make_run, f"o{number}", 0, 0.1)
    assert of(folder) is None
