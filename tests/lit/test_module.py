import csv
import logging
import math

import lightning as L
import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from lightning.pytorch.core.hooks import DataHooks
from torch.testing import assert_close

from ireg.config.read import read
from ireg.core.moments import METHODS
from ireg.core.random import named_generator
from ireg.core.reservoir import sampled
from ireg.data.batches import subset
from ireg.lit.data import NoisyImages
from ireg.lit.module import Classifier
from ireg.models import MLP
from ireg.system.errors import UserError
from ireg.terms.named import TERMS
from tests import reference

OWN_TAGS = {"ireg/own", "ireg/own_full_batch", "ireg/own_variance"}
TERM_TAGS = {"ireg/sgd", "ireg/full_batch", "ireg/minibatch_variance", "norm/l2", "norm/distance"} | OWN_TAGS
TAGS = TERM_TAGS | {
    "train/loss",
    "train/error",
    "test/loss",
    "test/error",
    "fit/clean_error",
    "fit/memorized",
    "fit/recovered",
    "time/epoch",
    "time/terms",
}


def rows(folder):
    with (folder / "metrics.csv").open() as file:
        return [{tag: float(value) for tag, value in row.items() if value} for row in csv.DictReader(file)]


@pytest.mark.parametrize("optimizer", ["momentum", "nesterov"])
def test_own_is_the_theorems_coefficients_times_the_logged_parts(tmp_path, small_run, optimizer):
    small_run(tmp_path, f"optimizer={optimizer}", "lr=1e-2")
    beta, m = 0.9, 7  # minibatches of 32 in 200
    overlap = 2 / (m * (m - 1)) * sum((m - d) * beta**d for d in range(1, m))
    nesterov = optimizer == "nesterov"
    of_mean = (1 - beta + 2 * beta**2 if nesterov else 1 + beta) / (1 - beta) / (1 - beta)
    of_variance = (1 - overlap * (beta if nesterov else 1)) / (1 - beta)
    for row in rows(tmp_path):
        assert row["ireg/own_full_batch"] == pytest.approx(of_mean * row["ireg/full_batch"], rel=1e-5, abs=0)
        assert row["ireg/own_variance"] == pytest.approx(of_variance * row["ireg/minibatch_variance"], rel=1e-5, abs=0)
        assert row["ireg/own"] == pytest.approx(row["ireg/own_full_batch"] + row["ireg/own_variance"], rel=1e-5, abs=0)


@pytest.mark.parametrize(("optimizer", "parts"), [("sgd", 2), ("adam", 4)])
def test_the_mean_flow_is_measured_if_asked(tmp_path, small_run, optimizer, parts):
    small_run(tmp_path / "with", f"optimizer={optimizer}", "terms=theory")
    for row in rows(tmp_path / "with"):
        assert len([tag for tag in row if "strength" in tag]) == parts
        assert len([tag for tag in row if "alignment" in tag]) == parts
        if optimizer == "sgd":
            assert row["ireg/alignment"] == pytest.approx(1, abs=1e-6)
    small_run(tmp_path / "without", f"optimizer={optimizer}")
    for name, value in weights(tmp_path / "with").items():
        assert torch.equal(value, weights(tmp_path / "without")[name])


def checkpoint(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def weights(folder):
    return checkpoint(folder)["state_dict"]


def test_a_row_an_epoch_with_every_tag(tmp_path, small_run):
    small_run(tmp_path, "optimizer=sgd")
    table = rows(tmp_path)
    assert [row["epoch"] for row in table] == [0, 1, 2]
    assert all(set(row) == TAGS | {"epoch"} for row in table)
    assert table[0]["norm/distance"] == 0 < table[1]["norm/distance"] < table[2]["norm/distance"]
    for row in table:
        assert row["ireg/sgd"] == pytest.approx(
            row["ireg/full_batch"] + row["ireg/minibatch_variance"], rel=1e-6, abs=0
        )
        assert 0 < row["time/terms"] < row["time/epoch"]


@pytest.mark.parametrize(("optimizer", "adaptive"), [("momentum", False), ("rmsprop", True), ("adam", True)])
def test_the_adaptive_term_is_logged_for_adaptive_optimizers(tmp_path, small_run, optimizer, adaptive):
    small_run(tmp_path, f"optimizer={optimizer}")
    table = rows(tmp_path)
    assert all(("ireg/rmsprop" in row) == adaptive for row in table)
    if adaptive:
        assert table[0]["ireg/rmsprop"] == 0 < table[1]["ireg/rmsprop"]


def test_values_of_a_run_against_an_independent_computation(tmp_path, small_run, composed):
    """The last row from the checkpoint's weights, the labels on disk and the order of the batches, in float64."""
    small_run(tmp_path, "optimizer=rmsprop", "lr=1e-2", "epochs=3", "data.train_size=90")
    row = rows(tmp_path)[-1]
    labels = np.load(tmp_path / "labels.npz")
    model = MLP(input_shape=(784,), num_classes=10, hidden=[16]).double()
    state = checkpoint(tmp_path)
    model.load_state_dict({name.removeprefix("model."): value for name, value in state["state_dict"].items()})
    images, clean = instantiate(read(composed()).data.source)(train=True)
    assert (clean[labels["indices"]].numpy() == labels["clean"]).all()
    inputs = images[labels["indices"]].double()[:, None] / 255
    observed, truth = torch.tensor(labels["observed"]), torch.tensor(labels["clean"])
    corrupted = torch.tensor(labels["corrupted"])
    assert int(corrupted.sum()) == 27

    order = torch.randperm(90, generator=named_generator("order of examples", 0, 2)).split(32)
    batches = [(inputs[part], observed[part]) for part in order]
    assert [len(part) for part in order] == [32, 32, 26]
    gradients = reference.minibatch_gradients(model, torch.nn.functional.cross_entropy, batches)
    slots = state["optimizer_states"][0]["state"]
    second = {name: slots[k]["square_avg"].double() for k, name in enumerate(gradients[0])}
    expected = {
        "ireg/sgd": reference.sgd(gradients, 1e-2),
        "ireg/full_batch": reference.full_batch(gradients, 1e-2),
        "ireg/minibatch_variance": reference.minibatch_variance(gradients, 1e-2),
        "ireg/rmsprop": reference.rmsprop(gradients, 1e-2, second),
        "norm/l2": reference.l2({name: value.detach() for name, value in model.named_parameters()}),
    }
    predicted = model(inputs).argmax(1)
    expected |= {
        "fit/clean_error": float((predicted != truth)[~corrupted].double().mean()),
        "fit/memorized": float((predicted == observed)[corrupted].double().mean()),
        "fit/recovered": float((predicted == truth)[corrupted].double().mean()),
    }
    for tag, value in expected.items():
        assert row[tag] == pytest.approx(value, rel=2e-5, abs=1e-12), tag


@pytest.mark.parametrize("terms", [[], ["terms.num_batches=4"]], ids=["all", "a sample"])
def test_independent_minibatches_against_an_independent_computation(tmp_path, small_run, composed, terms):
    """The last row from the checkpoint's weights and the draws of the last epoch, in float64."""
    small_run(tmp_path, "sampling=independent", "lr=0.1", "optimizer=momentum", *terms)
    row, labels = rows(tmp_path)[-1], np.load(tmp_path / "labels.npz")
    model = MLP(input_shape=(784,), num_classes=10, hidden=[16]).double()
    model.load_state_dict({name.removeprefix("model."): value for name, value in weights(tmp_path).items()})
    images = instantiate(read(composed()).data.source)(train=True)[0]
    inputs, observed = images[labels["indices"]].double()[:, None] / 255, torch.tensor(labels["observed"])
    generator = named_generator("independent minibatches", 0, 1)
    draws = [subset(200, 32, generator) for _ in range(7)]
    if terms:
        draws = sampled(draws, 4, named_generator("minibatches", 0, 2))
        assert row["ireg/full_batch_se"] > 0
    batches = [(inputs[part], observed[part]) for part in draws]
    gradients = reference.minibatch_gradients(model, torch.nn.functional.cross_entropy, batches)
    count, centre = len(batches), reference.squared_norm(reference.mean(gradients))
    variance = (np.mean([reference.squared_norm(g) for g in gradients]) - centre) * count / (count - 1)
    assert row["ireg/full_batch"] == pytest.approx(0.025 * (centre - variance / count), rel=2e-4, abs=0)
    assert row["ireg/minibatch_variance"] == pytest.approx(0.025 * variance, rel=2e-4, abs=0)
    assert row["ireg/own"] == row["ireg/own_full_batch"] == pytest.approx(190 * row["ireg/full_batch"], rel=1e-4)
    assert "ireg/own_variance" not in row
    # Every training example once, though the epoch has not seen all of them.
    assert len(torch.cat(draws).unique()) < 200
    wrong = (model(inputs).argmax(1) != torch.tensor(labels["clean"]))[~torch.tensor(labels["corrupted"])]
    assert row["fit/clean_error"] == pytest.approx(float(wrong.double().mean()), abs=1e-9)


def test_a_penalty_of_the_epoch_has_no_independent_minibatches(tmp_path, small_run):
    with pytest.raises(
        UserError, match="sampling='independent': FullBatch is a penalty of all minibatches of an epoch"
    ):
        small_run(tmp_path, "sampling=independent", "regularizer=full", "regularizer.strength=0.1")


def test_held_out_examples_are_evaluated_with_the_labels_that_they_bear(tmp_path, small_run, composed):
    """From the checkpoint's weights and the labels on disk; the files say which examples they are."""
    small_run(tmp_path, "data.train_size=120", "data.holdout=40", "objective=holdout/error", "lr=0.1")
    row, labels = rows(tmp_path)[-1], np.load(tmp_path / "labels.npz")
    assert len(labels["observed"]) == 80
    assert not set(labels["indices"]) & set(labels["holdout_indices"])
    assert sum(len(labels[name]) - (labels[name] == labels[name.replace("observed", "clean")]).sum()
               for name in ("observed", "holdout_observed")) == 36  # fmt: skip
    model = MLP(input_shape=(784,), num_classes=10, hidden=[16])
    state = checkpoint(tmp_path)["state_dict"]
    model.load_state_dict({name.removeprefix("model."): value for name, value in state.items()})
    images = instantiate(read(composed()).data.source)(train=True)[0][labels["holdout_indices"]]
    outputs, observed = model(images.float()[:, None] / 255), torch.tensor(labels["holdout_observed"])
    assert row["holdout/error"] == pytest.approx(float((outputs.argmax(1) != observed).double().mean()))
    assert row["holdout/loss"] == pytest.approx(float(torch.nn.functional.cross_entropy(outputs, observed)), rel=1e-5)


def test_rows_0_and_1_against_a_replay_of_the_training(tmp_path, small_run, composed):
    """Losses, errors and the first rows' terms, from a plain loop with the same seed and the same order."""
    small_run(tmp_path, "epochs=1", "lr=0.1", "data.train_size=90", "data.eval_batch_size=64")
    first, second = rows(tmp_path)
    labels = np.load(tmp_path / "labels.npz")
    source = instantiate(read(composed()).data.source)
    inputs = source(train=True)[0][labels["indices"]].float()[:, None] / 255
    test_inputs = source(train=False)[0][labels["test_indices"]].float()[:, None] / 255
    observed, test_labels = torch.tensor(labels["observed"]), torch.tensor(labels["test_observed"])
    order = torch.randperm(90, generator=named_generator("order of examples", 0, 0)).split(32)
    torch.manual_seed(0)
    model = MLP(input_shape=(784,), num_classes=10, hidden=[16])
    criterion = torch.nn.functional.cross_entropy

    def evaluated(inputs, labels):
        with torch.no_grad():
            logits = model(inputs)
            return float(criterion(logits, labels)), float((logits.argmax(1) != labels).double().mean())

    def terms():
        batches = [(inputs[part], observed[part]) for part in order]
        gradients = reference.minibatch_gradients(model, criterion, batches)
        return {"ireg/sgd": reference.sgd(gradients, 0.1), "ireg/full_batch": reference.full_batch(gradients, 0.1)}

    expected_first = dict(zip(("train/loss", "train/error"), evaluated(inputs, observed), strict=True)) | terms()
    expected_first |= dict(zip(("test/loss", "test/error"), evaluated(test_inputs, test_labels), strict=True))
    losses, wrong = [], 0
    for part in order:
        logits = model(inputs[part])
        loss = criterion(logits, observed[part])
        losses.append(float(loss.detach()))
        wrong += int((logits.argmax(1) != observed[part]).sum())
        slopes = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for parameter, slope in zip(model.parameters(), slopes, strict=True):
                parameter -= 0.1 * slope
    # The loss is the mean over minibatches, the last of which is smaller; the error is the mean over examples.
    expected_second = {"train/loss": sum(losses) / 3, "train/error": wrong / 90} | terms()
    expected_second |= dict(zip(("test/loss", "test/error"), evaluated(test_inputs, test_labels), strict=True))
    for row, expected in ((first, expected_first), (second, expected_second)):
        assert {tag: row[tag] for tag in expected} == pytest.approx(expected, rel=1e-5, abs=0)


class WithDropout(MLP):
    """Dropout after each layer; its outputs differ from pass to pass unless it is in eval mode."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.append(torch.nn.Dropout(0.5))


class Normalized(torch.nn.Sequential):
    """A network with BatchNorm."""

    def __init__(self, *, input_shape, num_classes, hidden):
        (width,) = hidden
        super().__init__(
            torch.nn.Flatten(),
            torch.nn.Linear(math.prod(input_shape), width),
            torch.nn.BatchNorm1d(width),
            torch.nn.ReLU(),
            torch.nn.Linear(width, num_classes),
        )


@pytest.mark.parametrize(("network", "coupled"), [(WithDropout, False), (Normalized, True)])
def test_terms_are_of_the_loss_that_is_descended_and_the_fit_is_evaluated(tmp_path, small_run, network, coupled):
    small_run(tmp_path, f"model._target_={__name__}.{network.__name__}", "epochs=1", "lr=0.1")
    row, labels = rows(tmp_path)[1], np.load(tmp_path / "labels.npz")
    model = network(input_shape=(1, 28, 28), num_classes=10, hidden=[16])
    state = weights(tmp_path)
    model.load_state_dict({name.removeprefix("model."): value for name, value in state.items()})
    from ireg.data.idx import MNIST, PACKAGED

    images = MNIST(PACKAGED, train=True).data[labels["indices"]].float()[:, None] / 255
    observed, corrupted = torch.tensor(labels["observed"]), torch.tensor(labels["corrupted"])
    order = torch.randperm(200, generator=named_generator("order of examples", 0, 0)).split(32)
    batches = [(images[part], observed[part]) for part in order]
    values = {
        training: reference.sgd(
            reference.minibatch_gradients(model, torch.nn.functional.cross_entropy, batches, training), 0.1
        )
        for training in (False, True)
    }
    assert row["ireg/sgd"] == pytest.approx(values[coupled], rel=1e-4, abs=0)
    assert abs(values[not coupled] / values[coupled] - 1) > 0.01  # the other mode is another loss
    memorized = (model.eval()(images).argmax(1) == observed)[corrupted].double().mean()
    assert row["fit/memorized"] == pytest.approx(float(memorized))


def test_no_step_looks_for_the_device_of_its_batch(tmp_path, small_run, monkeypatch):
    moved = []
    move = DataHooks.transfer_batch_to_device
    monkeypatch.setattr(DataHooks, "transfer_batch_to_device", lambda *args: moved.append(args) or move(*args))
    small_run(tmp_path)
    assert len(moved) == 3  # the one batch of test examples in each row, none of the 14 of training


def test_the_running_hook_is_known_and_attributes_are_registered():
    module = Classifier(MLP(input_shape=(2,), num_classes=2, hidden=[]), torch.optim.SGD, {})
    module._current_fx_name = "training_step"
    module.another = torch.nn.Linear(1, 1)
    assert module._current_fx_name == "training_step"
    assert "another" in dict(module.named_children())


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_measuring_does_not_change_the_training(tmp_path, small_run, optimizer):
    small_run(tmp_path / "all", f"optimizer={optimizer}", "lr=1e-2")
    small_run(tmp_path / "none", f"optimizer={optimizer}", "lr=1e-2", "terms=[]")
    small_run(tmp_path / "other", f"optimizer={optimizer}", "lr=1e-2", "seed=1")
    with_terms, without, other = (weights(tmp_path / name) for name in ("all", "none", "other"))
    assert set(rows(tmp_path / "none")[1]) == TAGS - TERM_TAGS - {"time/terms"} | {"epoch"}
    assert all(torch.equal(value, without[name]) for name, value in with_terms.items())
    assert not all(torch.equal(value, other[name]) for name, value in with_terms.items())


def test_a_run_is_repeated_bit_for_bit_in_one_process(tmp_path, small_run):
    for name, optimizer in (("first", "sgd"), ("between", "adam"), ("second", "sgd")):
        small_run(tmp_path / name, f"optimizer={optimizer}")
    first, second = weights(tmp_path / "first"), weights(tmp_path / "second")
    assert all(torch.equal(value, second[name]) for name, value in first.items())

    def without_times(table):
        return [{tag: value for tag, value in row.items() if not tag.startswith("time/")} for row in table]

    assert without_times(rows(tmp_path / "first")) == without_times(rows(tmp_path / "second"))


def test_terms_every_n_epochs_and_after_the_last(tmp_path, small_run):
    small_run(tmp_path, "epochs=5", "terms.every=2")
    measured = [row["epoch"] for row in rows(tmp_path) if "ireg/sgd" in row]
    assert measured == [0, 2, 4, 5]
    assert all("test/error" in row for row in rows(tmp_path))
    assert [row["epoch"] for row in rows(tmp_path) if "time/terms" in row] == measured


def test_methods_agree_in_a_run(tmp_path, small_run):
    tags = TERM_TAGS | {"ireg/rmsprop", "fit/memorized", "fit/recovered", "fit/clean_error"}
    tables = {}
    for method in ("auto", *METHODS):
        small_run(tmp_path / method, "optimizer=rmsprop", f"terms.method={method}")
        tables[method] = rows(tmp_path / method)
    for method in METHODS:
        for one, other in zip(tables["auto"], tables[method], strict=True):
            shared = tags & one.keys()  # own terms begin with the first step
            assert shared | OWN_TAGS == tags
            assert {tag: one[tag] for tag in shared} == pytest.approx(
                {tag: other[tag] for tag in shared}, rel=1e-4, abs=0
            )


def test_the_fit_is_the_same_from_the_terms_pass_and_by_itself(tmp_path, small_run):
    """Norms alone need no pass over the minibatches: the training examples are then evaluated by themselves."""
    tables = {}
    for name, terms in (("with", "[sgd,l2]"), ("norms", "[l2]"), ("without", "[]")):
        small_run(tmp_path / name, f"terms={terms}", "optimizer=adam", "lr=1e-2")
        tables[name] = [
            {tag: value for tag, value in row.items() if tag.startswith(("train/", "test/", "fit/"))}
            for row in rows(tmp_path / name)
        ]
    assert set(tables["with"][0]) == TAGS - TERM_TAGS - {"time/epoch", "time/terms"}
    for name in ("norms", "without"):
        for one, other in zip(tables["with"], tables[name], strict=True):
            assert one == pytest.approx(other, rel=1e-5, abs=0)


def test_terms_from_some_of_the_minibatches(tmp_path, small_run):
    tables = {}
    for name, value in (("some", "3"), ("all", "null"), ("more", "1000")):
        small_run(tmp_path / name, "optimizer=rmsprop", "batch_size=10", f"terms.num_batches={value}")
        tables[name] = rows(tmp_path / name)
    for some, every, more in zip(tables["some"], tables["all"], tables["more"], strict=True):
        for tag, value in every.items():
            if tag.startswith("ireg/"):
                if (
                    tag != "ireg/rmsprop" and tag not in OWN_TAGS
                ):  # a minibatch can be all of these: P is huge somewhere
                    assert some[tag] == pytest.approx(value, abs=6 * some[f"{tag}_se"]), tag
                assert (more[tag], more[f"{tag}_se"]) == (value, 0.0)
            elif not tag.startswith("time/"):
                assert some[tag] == pytest.approx(value, rel=1e-5, abs=0), tag  # the training, and the fit
    assert tables["some"][1]["ireg/sgd_se"] > 0
    assert "norm/l2_se" not in tables["some"][1]


def test_a_term_that_needs_all_minibatches_is_refused_before_the_run(tmp_path, small_run):
    with pytest.raises(UserError, match="ireg/strength has no estimate from drawn minibatches"):
        small_run(tmp_path, "terms=theory", "terms.num_batches=3")


def test_double_precision_gives_the_same_values_to_single_precision(tmp_path, small_run):
    small_run(tmp_path / "single")
    small_run(tmp_path / "double", "trainer.precision=64-true")
    assert weights(tmp_path / "double")["model.1.weight"].dtype == torch.float64
    for single, double in zip(rows(tmp_path / "single"), rows(tmp_path / "double"), strict=True):
        for tag in ("train/loss", "ireg/sgd", "ireg/minibatch_variance", "norm/l2"):
            assert single[tag] == pytest.approx(double[tag], rel=1e-4, abs=0)
        assert single["ireg/sgd"] != double["ireg/sgd"]


def test_gd_takes_the_full_batch_and_has_no_variance(tmp_path, small_run):
    small_run(tmp_path, "optimizer=gd", "batch_size=32")
    for row in rows(tmp_path):
        assert row["ireg/minibatch_variance"] == 0
        assert row["ireg/sgd"] == row["ireg/full_batch"] > 0
    assert checkpoint(tmp_path)["global_step"] == 2


@pytest.mark.parametrize(
    ("overrides", "missing"),
    [
        (["data.noise.kind=none"], {"fit/memorized", "fit/recovered"}),
        (["data.noise.rate=1"], {"fit/clean_error"}),
    ],
)
def test_shares_of_nothing_are_not_logged(tmp_path, small_run, overrides, missing):
    small_run(tmp_path, *overrides)
    assert all(TAGS - set(row) == missing for row in rows(tmp_path))


def test_a_run_that_diverges_keeps_its_curves(tmp_path, small_run):
    assert small_run(tmp_path, "lr=1e30", "epochs=5") == float("inf")
    table = rows(tmp_path)
    assert len(table) == 2  # before training, and the epoch in which it happened
    assert np.isfinite(table[0]["train/loss"])
    assert not np.isfinite(table[1]["train/loss"])
    assert (tmp_path / "checkpoints" / "last.ckpt").exists()


def plain_trainer():
    return L.Trainer(
        max_epochs=2,
        num_sanity_val_steps=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
    )


def small_images(num=8, batch_size=3):
    """Blank images with right labels."""

    def source(*, train):
        return torch.zeros(num, 2, 2, dtype=torch.uint8), torch.arange(num) % 2

    return NoisyImages(
        source,
        num_train=num,
        num_test=num,
        num_classes=2,
        batch_size=batch_size,
        seed=0,
        noise_kind="none",
        noise_rate=0.0,
        noise_seed=0,
    )


def test_each_seed_and_each_epoch_draws_minibatches_of_its_own():
    """By their positions in the epoch, in one order of the examples for all; drawn again, they are the same."""
    terms = {"ireg/sgd": TERMS["ireg/sgd"]}
    drawn = {}
    for repetition in range(2):
        for seed in range(2):
            network = MLP(input_shape=(4,), num_classes=2, hidden=[])
            module = Classifier(network, lambda p: torch.optim.SGD(p, lr=0.1), terms, num_batches=5, seed=seed)

            def watch(epoch, snapshot, module=module, key=(repetition, seed)):
                order = torch.cat(module.minibatches or module.trainer.train_dataloader.indices(0)).tolist()
                drawn[*key, epoch] = [order.index(int(indices)) for indices in snapshot.batches.indices]

            module.measurement.watchers.append(watch)
            plain_trainer().fit(module, datamodule=small_images(30, batch_size=1))
    assert [len(set(positions)) for positions in drawn.values()] == [5] * 12  # two seeds, epochs 0 to 2, twice
    first, again = (
        [drawn[repetition, seed, epoch] for seed in range(2) for epoch in range(3)] for repetition in (0, 1)
    )
    assert first == again
    assert len(set(map(tuple, first))) == 6


def test_the_pass_over_the_minibatches_is_reported_once(tmp_path, small_run, caplog):
    with caplog.at_level(logging.INFO, "ireg.lit.measurement"):
        small_run(tmp_path)
    said = [record.getMessage() for record in caplog.records if "minibatch gradients" in record.getMessage()]
    assert len(said) == 1
    assert said[0].endswith(" by layers")


def test_without_ireg_around_it():
    """The module and the data module with a trainer of the user's own."""
    data = small_images()
    module = Classifier(MLP(input_shape=(4,), num_classes=2, hidden=[]), lambda p: torch.optim.SGD(p, lr=0.1), {})
    trainer = plain_trainer()
    trainer.fit(module, datamodule=data)
    assert [len(indices) for indices in module.minibatches] == [3, 3, 2]
    assert torch.equal(torch.cat(module.minibatches).sort().values, torch.arange(8))
    assert_close(trainer.callback_metrics["test/error"], torch.tensor(0.5))
    with pytest.raises(TypeError, match="needs a NoisyImages as the trainer's datamodule, got NoneType"):
        plain_trainer().fit(module, train_dataloaders=data.train_dataloader(), val_dataloaders=data.val_dataloader())
