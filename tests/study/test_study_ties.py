"""Tied rates: read from runs, separated by a bootstrap over held-out examples, and compared with SGD's."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ireg.runs.layout import HELD_OUT
from ireg.system.errors import UserError
from study import ties
from study.__main__ import main
from study.pages import drawing
from study.tables import TABLES
from study.tied_pairs import over_pairs, over_ties
from study.ties import separations, tied_rates, wrong_of

EXAMPLES = 2000
HELD = ("data.holdout=100", "lr=0.1", "model.hidden=[8]")


def rows_of(optimizer, lr, masks, place="holdout"):
    """Rows as `wrong_of` gives them, of boolean masks by seed."""
    return [
        [optimizer, lr, seed, place, 5, len(mask), np.packbits(mask).tobytes().hex()] for seed, mask in enumerate(masks)
    ]


def frame(*rows):
    return pd.DataFrame([row for some in rows for row in some], columns=ties.COLUMNS)


def changed(mask, count, generator, *, to):
    """A mask with so many further examples wrong, or right."""
    mask = mask.copy()
    mask[generator.choice(np.flatnonzero(mask != to), count, replace=False)] = to
    return mask


def test_the_interval_is_that_of_the_paired_differences():
    generator = np.random.default_rng(5)
    base = generator.random((3, EXAMPLES)) < 0.3
    other = [changed(changed(mask, 70, generator, to=True), 50, generator, to=False) for mask in base]
    found = separations(frame(rows_of("adam", 0.1, base), rows_of("adam", 1.0, other)), "holdout")
    best, second = found.to_dict("records")
    assert (best["lr"], best["difference"], best["low"], best["high"], best["tied"]) == (0.1, 0.0, 0.0, 0.0, True)
    assert best["error"] == pytest.approx(base.mean(), rel=1e-12)
    assert second["difference"] == pytest.approx(20 / EXAMPLES, rel=1e-12)
    # The normal approximation of the same: the standard error of a mean of paired differences.
    by_example = np.mean([one.astype(float) - two for one, two in zip(other, base, strict=True)], axis=0)
    half = 1.96 * by_example.std() / math.sqrt(EXAMPLES)
    assert second["low"] == pytest.approx(0.01 - half, abs=0.03 * half)
    assert second["high"] == pytest.approx(0.01 + half, abs=0.03 * half)
    assert not second["tied"]


def test_examples_are_drawn_in_pairs():
    """One point more is separated where the same examples are wrong, and not where others are."""
    generator = np.random.default_rng(6)
    base = generator.random((1, EXAMPLES)) < 0.3
    alike = [changed(base[0], 20, generator, to=True)]
    others = [generator.permutation(alike[0])]
    for masks, tied in ((alike, [0.1]), (others, [0.1, 1.0])):
        found = separations(frame(rows_of("sgd", 0.1, base), rows_of("sgd", 1.0, masks)), "holdout")
        assert tied_rates(found, "sgd") == tied


def test_the_smaller_of_equal_rates_is_the_best():
    mask = np.arange(EXAMPLES) % 3 == 0
    found = separations(frame(rows_of("sgd", 1.0, [mask]), rows_of("sgd", 0.1, [mask])), "holdout")
    assert found["tied"].all()
    assert found["difference"].eq(0).all()
    assert found["lr"].tolist() == [0.1, 1.0]


def test_a_place_that_is_not_recorded_is_refused():
    with pytest.raises(ValueError, match="choice='test': choose one of holdout, end"):
        separations(frame(), "test")


def test_a_run_records_which_held_out_examples_are_wrong(small_run, tmp_path):
    small_run(tmp_path / "run", *HELD, "epochs=4", "seed=3")
    metrics = pd.read_csv(tmp_path / "run" / "metrics.csv")
    with np.load(tmp_path / "run" / HELD_OUT) as arrays:
        assert arrays["epoch"].tolist() == [0, 1, 2, 3, 4]
        assert arrays["wrong"].shape == (5, 100)
        np.testing.assert_allclose(arrays["wrong"].mean(1), metrics["holdout/error"], rtol=1e-12)
        wrong = arrays["wrong"]
    found = wrong_of(tmp_path)
    assert found["place"].tolist() == ["end", "holdout"]
    best = int(metrics["holdout/error"][1:].argmin()) + 1
    assert found["at"].tolist() == [4, best]
    for row, epoch in ((0, 4), (1, best)):
        bits = np.unpackbits(np.frombuffer(bytes.fromhex(found["wrong"].iloc[row]), dtype=np.uint8))[:100]
        np.testing.assert_array_equal(bits, wrong[epoch])
    assert (found["optimizer"].iloc[0], found["lr"].iloc[0], found["seed"].iloc[0]) == ("sgd", 0.1, 3)


def test_a_run_without_held_out_examples_records_none(small_run, tmp_path):
    small_run(tmp_path / "run", "epochs=1")
    assert not (tmp_path / "run" / HELD_OUT).exists()
    with pytest.raises(UserError, match=r"holdout.npz: not there; a run with data.holdout=… writes it at its end"):
        wrong_of(tmp_path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", None])
def test_a_damaged_record_is_named(small_run, tmp_path, content):
    small_run(tmp_path / "run", *HELD, "epochs=1")
    path = tmp_path / "run" / HELD_OUT
    if content is None:
        np.savez(path, epoch=[0, 1])
    else:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"holdout.npz: damaged \(.*\); delete the run's folder, and do the run again"):
        wrong_of(tmp_path)


def test_a_record_cannot_run_anything(small_run, tmp_path):
    class Running:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    small_run(tmp_path / "run", *HELD, "epochs=1")
    np.savez(tmp_path / "run" / HELD_OUT, epoch=[0, 1], wrong=np.array([Running(), 1], dtype=object))
    with pytest.raises(UserError, match=r"damaged \(Object arrays cannot be loaded"):
        wrong_of(tmp_path)
    assert not (tmp_path / "ran").exists()


def tuned(errors, seeds=(0, 1, 2)):
    """Cells of tuning runs with known test errors, epochs and norms by optimizer and rate, and a mask for each."""
    cells, masks = [], []
    generator = np.random.default_rng(7)
    base = generator.random(EXAMPLES) < 0.3
    for (optimizer, lr), (error, worse) in errors.items():
        mask = changed(base, worse, generator, to=True) if worse else base
        masks += rows_of(optimizer, lr, [mask] * len(seeds)) + rows_of(optimizer, lr, [mask] * len(seeds), "end")
        for seed in seeds:
            noise = 0.001 * (seed - 1)
            cells += [
                {"optimizer": optimizer, "lr": lr, "seed": seed, "place": place, "at": 10 / lr, "norm/l2": 20 * lr,
                 "fit/memorized": memorized, "test/error": error + noise * (optimizer != "sgd")}
                for place, memorized in (("holdout", 0.05), ("loss 1.2", 0.05), ("loss 1", 0.15))
            ]  # fmt: skip
    return pd.DataFrame(cells), frame(masks)


ERRORS = {("sgd", 0.1): (0.10, 0), ("sgd", 1.0): (0.14, 0), ("sgd", 10.0): (0.5, 300), ("adam", 0.2): (0.11, 0),
          ("adam", 0.4): (0.12, 0)}  # fmt: skip


def test_a_comparison_over_tied_rates_spans_all_their_pairs():
    cells, wrong = tuned(ERRORS)
    found = {(one.quantity, one.place): one for one in over_pairs(cells, wrong)}
    half = 4.302652729911275 * 0.001 / math.sqrt(3)  # Student's quantile for two degrees of freedom
    for place in ("holdout", "loss 1.2", "loss 1", "memorized 10 %"):
        over = found["test error, points", place]
        means = {pair: interval.mean for pair, interval in over.intervals.items()}
        # SGD's rate of 10 is not tied.
        assert means == pytest.approx({(0.2, 0.1): 0.01, (0.2, 1.0): -0.03, (0.4, 0.1): 0.02, (0.4, 1.0): -0.02})
        assert over.pairs == 4
        assert over.whole == pytest.approx((-0.005, -0.03 - half, 0.02 + half), rel=1e-9)
    assert found["epochs, ratio", "loss 1"].intervals[0.2, 1.0].mean == pytest.approx(math.log(5))
    assert found["‖ω‖, ratio", "loss 1"].intervals[0.4, 0.1].mean == pytest.approx(math.log(4))
    assert found["test error, points", "loss 0.4"].intervals == {}


def test_the_tables_of_ties():
    cells, wrong = tuned(ERRORS)
    text = over_ties(pd.concat([cells, wrong]))
    assert "| adam | test error, points | holdout | 4 of 4 | -3.00 | 2.00 | -3.25 to 2.25 |" in text
    assert "| adam | ‖ω‖, ratio | loss 1 | 4 of 4 | 0.2 | 4 | 0.2 to 4 |" in text
    assert "| adam | test error, points | loss 0.4 | 0 of 4 | – | – | – |" in text
    text = TABLES["ties"](wrong)
    share = f"{100 * wrong_share(wrong, 'sgd', 0.1):.2f} %"
    assert f"| sgd | 0.1 | **{share}** | – | **{share}** | – |" in text
    assert "| sgd | 10 | 44." in text or "| sgd | 10 | 45." in text


@pytest.mark.parametrize("name", ["ties", "over_ties"])
def test_a_table_of_ties_needs_their_file(name):
    with pytest.raises(UserError, match="is in no file of this table; name one like study_ties_mnist10k_held_out"):
        TABLES[name](tuned(ERRORS)[0])


def wrong_share(wrong, optimizer, lr):
    row = wrong[(wrong["optimizer"] == optimizer) & (wrong["lr"] == lr)].iloc[0]
    return np.unpackbits(np.frombuffer(bytes.fromhex(row["wrong"]), dtype=np.uint8))[:EXAMPLES].mean()


def test_ties_are_recorded_beside_the_cells(small_run, tmp_path, capsys):
    sweep, pages = tmp_path / "study_ties_x", tmp_path / "pages"
    for optimizer in ("sgd", "adam"):
        small_run(sweep / optimizer, *HELD, f"optimizer={optimizer}", "epochs=2")
    pages.mkdir()
    (pages / "page.md").write_text(
        "<!-- ties of study_ties_x_held_out -->\n<!-- /ties of study_ties_x_held_out -->\n", encoding="utf-8"
    )
    assert main(["--ties", str(sweep), "--into", str(pages)]) == 0
    assert [path.name for path in sorted((pages / "data").iterdir())] == [
        "study_ties_x.csv",
        "study_ties_x_held_out.csv",
    ]
    assert (pages / "page.md").read_text(encoding="utf-8").count("| 0.1 | **") == 2
    capsys.readouterr()
    assert main(["--finals", "study_ties_x", "--choice", "end", "--experiment", "study_end", "--into", str(pages)]) == 0
    assert capsys.readouterr().out == (
        "experiment=study_end optimizer=adam lr=0.1\nexperiment=study_end optimizer=sgd lr=0.1\n"
    )


def test_repeated_runs_stand_beside_other_seeds():
    first = [("sgd", 0.1, seed, 0.2 + 0.01 * seed) for seed in (0, 1, 2)] + [("adam", 0.001, 0, 0.3)]
    again = [("sgd", 0.1, seed, 0.2 + 0.01 * seed + 0.002 * (seed - 1)) for seed in (0, 1, 2)]
    names = ["optimizer", "lr", "seed", "test/error"]
    cells = pd.concat([pd.DataFrame(rows, columns=names).assign(place="holdout") for rows in (first, again)])
    # Differences of -0.2, 0 and 0.2 points; seeds have a standard deviation of one point.
    assert f"| holdout | 3 | 0.00 | 0.20 | {math.sqrt(2):.2f} |" in TABLES["reruns"](cells)
    alone = TABLES["reruns"](cells[(cells["optimizer"] == "sgd")].drop_duplicates(["seed", "test/error"]).iloc[:1])
    assert alone.count("\n") == 2


def test_ends_are_compared_with_each_rate_of_sgd():
    rows = [
        {"optimizer": optimizer, "lr": lr, "seed": seed, "place": "end", "state": "done", "train/loss": 1.3,
         "holdout/error": 0.33, "test/error": error + 0.001 * seed, "fit/memorized": 0.02}
        for (optimizer, lr), error in {("sgd", 0.01): 0.11, ("sgd", 0.018): 0.09, ("adam", 1e-4): 0.08}.items()
        for seed in (0, 1, 2)
    ]  # fmt: skip
    half = 4.302652729911275 * 0.1 / math.sqrt(3)
    text, start = TABLES["at_the_end"](pd.DataFrame(rows)), "3 | 1.30 ± 0.00 | 33.00 ± 0.00"
    assert f"| adam | 0.0001 | {start} | 8.10 ± {half:.2f} | 2.0 ± 0.0 | -3.00 ± 0.00 | -1.00 ± 0.00 |" in text
    assert f"| sgd | 0.018 | {start} | 9.10 ± {half:.2f} | 2.0 ± 0.0 |  |  |" in text


def test_thin_lines_of_a_picture_are_of_tied_rates(tmp_path):
    cells, wrong = tuned({**ERRORS, ("rmsprop", 0.3): (0.1, 0)})
    final = cells[cells["lr"].isin([0.1, 0.2, 0.3])].assign(state="done", run="r", batch_size=64)
    cells.assign(state="done", **{"holdout/error": 0.3}).to_csv(tmp_path / "study_tuning_a.csv", index=False)
    final.to_csv(tmp_path / "study_final_a.csv", index=False)
    counts = []
    for records in (None, wrong):
        if records is not None:
            records.to_csv(tmp_path / "study_ties_a_held_out.csv", index=False)
        counts.append(len(drawing("crossing", "a", tmp_path)().axes[0].lines))
    # By error all three rates of SGD are near; one of them is not tied, which three rates are compared with.
    assert counts[0] - counts[1] == 3
