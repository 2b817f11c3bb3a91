"""A run that was broken off goes on, and ends as if it had not been."""

import functools
import json
import logging
import math
import os
import shutil

import pytest
import torch

from ireg.lit.checkpoints import AtomicCheckpointIO, LastCheckpoint
from ireg.lit.measurement import RunMeasurement
from ireg.lit.module import Classifier
from ireg.runs import checkpoints, metrics
from ireg.runs.status import read_status
from tests.content import run_content

ARGUMENTS = ("epochs=6", "optimizer=adam", "lr=1e-2")


class Broken(BaseException):
    """Stands for any end of a process that Python still gets to see."""


class Dropout(torch.nn.Sequential):
    def __init__(self, input_shape, num_classes, **_):
        super().__init__(
            torch.nn.Flatten(), torch.nn.Dropout(0.5), torch.nn.Linear(math.prod(input_shape), num_classes)
        )


def break_at(monkeypatch, target, name, call, *, after=False):
    """Replace a function by one that ends everything at its call of this number, before or after doing its work."""
    original, calls = getattr(target, name), [0]

    @functools.wraps(original)  # Lightning looks at the arguments' names
    def counting(*arguments, **options):
        calls[0] += 1
        if calls[0] == call and not after:
            raise Broken
        result = original(*arguments, **options)
        if calls[0] == call:
            raise Broken
        return result

    monkeypatch.setattr(target, name, counting)


def break_off(folder, small_run, *arguments):
    """Begin a run that is broken off, and leave its status as a killed one's."""
    with pytest.raises(Broken):
        small_run(folder, *arguments)
    status = read_status(folder)
    assert status["state"] == "interrupted"
    (folder / "status.json").write_text(json.dumps(status | {"state": "running"}))


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The content of an unbroken run with further overrides; each is made once."""
    made = {}

    def get(small_run, *overrides):
        if overrides not in made:
            folder = tmp_path_factory.mktemp("unbroken")
            small_run(folder, *ARGUMENTS, *overrides)
            made[overrides] = run_content(folder)
        return made[overrides]

    return get


@pytest.mark.parametrize(
    ("target", "name", "call", "after", "goes_on_after"),
    [
        (Classifier, "training_step", 3, False, 0),  # in the first epoch
        (Classifier, "training_step", 17, False, 2),  # 7 steps an epoch: amid the third
        (RunMeasurement, "measure", 5, False, 3),
        (metrics, "write_text", 5, False, 3),  # metrics.csv: row 0 is the first call
        (metrics, "write_text", 5, True, 3),  # the row is there, the checkpoint is not
        (torch, "save", 3, False, 2),
        (torch, "save", 3, True, 2),
        (AtomicCheckpointIO, "save_checkpoint", 3, True, 3),
        (AtomicCheckpointIO, "save_checkpoint", 6, True, 6),  # all is done but the note of it
    ],
)
def test_a_run_broken_off_anywhere_ends_as_an_unbroken_one(
    tmp_path, small_run, unbroken, monkeypatch, target, name, call, after, goes_on_after
):
    expected = unbroken(small_run)
    with monkeypatch.context() as patch:
        break_at(patch, target, name, call, after=after)
        break_off(tmp_path, small_run, *ARGUMENTS)
    small_run(tmp_path, *ARGUMENTS)
    assert run_content(tmp_path) == expected
    assert [start["epoch"] for start in read_status(tmp_path)["starts"]] == [0, goes_on_after]


def test_a_run_that_began_with_another_kernel_resumes_with_it(tmp_path, small_run, unbroken, monkeypatch):
    """As runs did before trainer.fused=auto was the default: their checkpoints have the kernel, their hash is found."""
    with monkeypatch.context() as patch:
        break_at(patch, Classifier, "training_step", 17)
        break_off(tmp_path, small_run, *ARGUMENTS, "trainer.fused=false")
    small_run(tmp_path, *ARGUMENTS)
    for name in ("metrics.csv", "checkpoints/last.ckpt"):
        resumed, before, fused = (
            content[name]
            for content in (run_content(tmp_path), unbroken(small_run, "trainer.fused=false"), unbroken(small_run))
        )
        assert resumed == before != fused


@pytest.mark.parametrize(
    ("target", "name", "call", "after"),
    [(Classifier, "training_step", 14, False), (AtomicCheckpointIO, "save_checkpoint", 6, True)],
)
def test_what_is_known_of_held_out_examples_is_resumed(tmp_path, small_run, monkeypatch, target, name, call, after):
    """Amid the third epoch of five steps, and where all is done but the note of it."""
    arguments = (*ARGUMENTS, "data.holdout=50")
    small_run(tmp_path / "whole", *arguments)
    with monkeypatch.context() as patch:
        break_at(patch, target, name, call, after=after)
        break_off(tmp_path / "parts", small_run, *arguments)
    assert not (tmp_path / "parts" / "holdout.npz").exists()
    small_run(tmp_path / "parts", *arguments)
    whole, parts = ((tmp_path / name / "holdout.npz").read_bytes() for name in ("whole", "parts"))
    assert parts == whole
    assert sum(start["epoch"] for start in read_status(tmp_path / "parts")["starts"]) == (6 if after else 2)


@pytest.mark.parametrize("call", range(15, 21))
def test_a_run_broken_off_between_any_two_renames_ends_as_an_unbroken_one(
    tmp_path, small_run, unbroken, monkeypatch, call
):
    """An epoch renames its row, its status and the new checkpoint, and keeps the last one: all places are tried."""
    expected = unbroken(small_run)
    renamed = []

    def counting(function):
        def called(source, target):
            function(source, target)
            renamed.append(os.path.basename(target))
            if len(renamed) == call:
                raise Broken

        return called

    with monkeypatch.context() as patch:
        for name in ("replace", "link"):
            patch.setattr(os, name, counting(getattr(os, name)))
        break_off(tmp_path, small_run, *ARGUMENTS)
    assert {"metrics.csv", "status.json", "last.ckpt", "previous.ckpt"} <= set(renamed)
    small_run(tmp_path, *ARGUMENTS)
    assert run_content(tmp_path) == expected


def test_a_run_with_independent_minibatches_resumes_to_the_last_bit(tmp_path, small_run, unbroken, monkeypatch):
    expected = unbroken(small_run, "sampling=independent")
    with monkeypatch.context() as patch:
        break_at(patch, Classifier, "training_step", 24)
        break_off(tmp_path, small_run, *ARGUMENTS, "sampling=independent")
    small_run(tmp_path, *ARGUMENTS, "sampling=independent")
    assert run_content(tmp_path) == expected
    assert [start["epoch"] for start in read_status(tmp_path)["starts"]] == [0, 3]


@pytest.mark.parametrize("sampling", ["epoch", "independent"])
def test_a_run_by_steps_resumes_amid_a_pass_to_the_last_bit(tmp_path, small_run, unbroken, monkeypatch, sampling):
    """With rates that change, an average of the weights, and groups; rows of 3 steps, and 7 minibatches a pass."""
    further = (
        *("max_steps=18", "terms.every_n_steps=3", f"sampling={sampling}", "schedule=cosine", "schedule.warmup=5"),
        *("weight_average=ema", "optimizer=adamw", "+optimizer.decay_groups=true", "terms=[own,l2]"),
    )
    expected = unbroken(small_run, *further)
    with monkeypatch.context() as patch:
        break_at(patch, Classifier, "training_step", 12)
        break_off(tmp_path, small_run, *ARGUMENTS, *further)
    small_run(tmp_path, *ARGUMENTS, *further)
    assert run_content(tmp_path) == expected
    assert [start["epoch"] for start in read_status(tmp_path)["starts"]] == [0, 3]


def test_a_run_of_two_optimizers_resumes_to_the_last_bit(tmp_path, small_run, unbroken, monkeypatch):
    further = ("optimizer=muon_adamw", "schedule=cosine", "terms=[own_full_batch,l2]")
    expected = unbroken(small_run, *further)
    with monkeypatch.context() as patch:
        break_at(patch, Classifier, "training_step", 24)
        break_off(tmp_path, small_run, *ARGUMENTS, *further)
    small_run(tmp_path, *ARGUMENTS, *further)
    assert run_content(tmp_path) == expected
    assert "ireg/own_full_batch/Muon" in (tmp_path / "metrics.csv").read_text()
    assert [start["epoch"] for start in read_status(tmp_path)["starts"]] == [0, 3]


def test_a_run_resumes_where_a_value_is_spelled_otherwise(tmp_path, small_run, monkeypatch):
    with monkeypatch.context() as patch:
        break_at(patch, Classifier, "training_step", 24)
        break_off(tmp_path, small_run, *ARGUMENTS, "optimizer=rmsprop", "optimizer.momentum=0", "optimizer.alpha=0")
    small_run(tmp_path, *ARGUMENTS, "optimizer=rmsprop", "optimizer.momentum=0.0", "optimizer.alpha=0.0")
    assert [start["epoch"] for start in read_status(tmp_path)["starts"]] == [0, 3]


@pytest.mark.slow
def test_a_run_broken_off_again_and_again(tmp_path, small_run, unbroken, monkeypatch):
    expected = unbroken(small_run)
    for _ in range(6):
        with monkeypatch.context() as patch:
            break_at(patch, metrics, "write_text", 2)
            break_off(tmp_path, small_run, *ARGUMENTS)
    small_run(tmp_path, *ARGUMENTS)
    assert run_content(tmp_path) == expected
    assert len(read_status(tmp_path)["starts"]) == 7


def test_a_comparison_can_fail(tmp_path, small_run, unbroken):
    """Negative control of the tests above: another seed is another content, in all but labels and lock."""
    small_run(tmp_path, *ARGUMENTS, "seed=1")
    other, expected = run_content(tmp_path), unbroken(small_run)
    assert set(other) == set(expected)
    assert {name for name in other if other[name] != expected[name]} == set(expected) - {"labels.npz", ".lock"}


@pytest.mark.parametrize(("every", "epochs", "written"), [(1, 3, [1, 2, 3]), (3, 7, [3, 6, 7]), (9, 2, [2])])
def test_checkpoints_are_written_as_often_as_asked(tmp_path, small_run, monkeypatch, every, epochs, written):
    seen = []
    save = AtomicCheckpointIO.save_checkpoint

    def noting(self, checkpoint, path, storage_options=None):
        seen.append(checkpoint["epoch"] + 1)
        save(self, checkpoint, path, storage_options)

    monkeypatch.setattr(AtomicCheckpointIO, "save_checkpoint", noting)
    small_run(tmp_path, f"checkpoint.every={every}", f"epochs={epochs}")
    assert seen == written
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["last.ckpt"]


def test_a_run_with_few_checkpoints_goes_on_from_the_last(tmp_path, small_run, unbroken, monkeypatch):
    """Rows after it are dropped, and come again; how often checkpoints are written is no other configuration."""
    with monkeypatch.context() as patch:
        break_at(patch, RunMeasurement, "measure", 6)
        break_off(tmp_path, small_run, *ARGUMENTS, "checkpoint.every=3")
    assert read_status(tmp_path)["epochs_done"] == 4
    small_run(tmp_path, *ARGUMENTS)
    content = run_content(tmp_path)
    assert read_status(tmp_path)["starts"][-1]["epoch"] == 3
    assert content == unbroken(small_run)


def test_layers_that_draw_random_numbers_go_on_in_their_stream(tmp_path, small_run, unbroken, monkeypatch):
    overrides = (f"model._target_={__name__}.Dropout",)
    expected = unbroken(small_run, *overrides)
    with monkeypatch.context() as patch:
        break_at(patch, Classifier, "training_step", 17)
        break_off(tmp_path / "whole", small_run, *ARGUMENTS, *overrides)
    shutil.copytree(tmp_path / "whole", tmp_path / "control")
    small_run(tmp_path / "whole", *ARGUMENTS, *overrides)
    assert run_content(tmp_path / "whole") == expected
    monkeypatch.setattr(LastCheckpoint, "on_load_checkpoint", lambda *_: None)
    small_run(tmp_path / "control", *ARGUMENTS, *overrides)
    assert run_content(tmp_path / "control")["metrics.csv"] != expected["metrics.csv"]


def test_the_vector_that_a_measurement_leaves_goes_into_the_checkpoint(tmp_path, small_run, unbroken, monkeypatch):
    overrides = ("terms=lambda_max", "terms.every=2")
    expected = unbroken(small_run, *overrides)
    with monkeypatch.context() as patch:
        break_at(patch, Classifier, "training_step", 17)
        break_off(tmp_path / "whole", small_run, *ARGUMENTS, *overrides)
    shutil.copytree(tmp_path / "whole", tmp_path / "control")
    small_run(tmp_path / "whole", *ARGUMENTS, *overrides)
    assert run_content(tmp_path / "whole") == expected
    monkeypatch.setattr(Classifier, "on_load_checkpoint", lambda *_: None)
    small_run(tmp_path / "control", *ARGUMENTS, *overrides)
    assert run_content(tmp_path / "control")["metrics.csv"] != expected["metrics.csv"]


@pytest.mark.parametrize("state", ["done", "diverged"])
def test_a_run_killed_before_its_end_was_noted_only_notes_it(tmp_path, small_run, monkeypatch, state):
    arguments = (*ARGUMENTS, "lr=1e30" if state == "diverged" else "lr=1e-2")
    value = small_run(tmp_path, *arguments)
    before = run_content(tmp_path)
    status = read_status(tmp_path)
    assert status["state"] == state
    (tmp_path / "status.json").write_text(json.dumps(status | {"state": "running"}))
    monkeypatch.setattr(Classifier, "training_step", None)
    assert small_run(tmp_path, *arguments) == value
    assert run_content(tmp_path) == before


# What was left behind is damaged, or not this run's.


def of_another_network(path):
    """As after a change of the network's code: everything is right but the shapes."""
    content = torch.load(path, weights_only=True)
    content["state_dict"] = {f"{name}.x": value for name, value in content["state_dict"].items()}
    torch.save(checkpoints.with_digest(content), path)


def of_another_run(path):
    content = torch.load(path, weights_only=True)
    content["ireg"]["run"] = "0" * 16
    torch.save(checkpoints.with_digest(content), path)


def cut_to_5000_bytes(path):
    path.write_bytes(path.read_bytes()[:5000])


def a_folder(path):
    path.unlink()
    path.mkdir()


def of_anything_else(path):
    torch.save({"weights": torch.zeros(3)}, path)


def with_code(path):
    """A pickle that would call a function: loading must not."""
    torch.save({"ireg": os.getcwd, "epoch": Classifier}, path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_to_5000_bytes, "cannot be read"),
        (a_folder, "is not a file"),
        (with_code, "cannot be read"),
        (of_another_network, "is of another network"),
        (of_another_run, "is of a run with another configuration"),
        (of_anything_else, "is not a checkpoint of a run"),
    ],
)
@pytest.mark.parametrize(("names", "epoch"), [(["last.ckpt"], 2), (["last.ckpt", "previous.ckpt"], 0)])
def test_a_checkpoint_that_cannot_be_used_is_set_aside(
    tmp_path, small_run, unbroken, monkeypatch, caplog, damage, message, names, epoch
):
    with monkeypatch.context() as patch:
        break_at(patch, Classifier, "training_step", 24)  # in the fourth epoch
        break_off(tmp_path, small_run, *ARGUMENTS)
    for name in names:
        damage(tmp_path / "checkpoints" / name)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        small_run(tmp_path, *ARGUMENTS)
    warnings = [record.getMessage() for record in caplog.records if "unusable" in record.getMessage()]
    assert len(warnings) == len(names)
    assert all(message in warning and "\n" not in warning for warning in warnings)
    assert ("no checkpoint can be used; the run begins again" in caplog.text) == (epoch == 0)
    assert read_status(tmp_path)["starts"][-1]["epoch"] == epoch
    for name in names:
        aside = tmp_path / "checkpoints" / f"{name}.unusable-1"
        aside.rmdir() if aside.is_dir() else aside.unlink()
    assert run_content(tmp_path) == unbroken(small_run)


def test_what_is_set_aside_replaces_nothing(tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for text in ("first", "second"):
        (folder / "last.ckpt").write_text(text)
        assert checkpoints.find_resumption(tmp_path, run="a", model={}) == checkpoints.Resumption()
    assert (folder / "last.ckpt.unusable-1").read_text() == "first"
    assert (folder / "last.ckpt.unusable-2").read_text() == "second"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda path: path.write_text("epoch,train/loss\n0,1.0\n"),
            "has 3 epochs behind it, whose rows are not all in",
        ),
        (lambda path: path.write_text("epoch,train/loss\n0\n"), "metrics.csv is damaged"),
        (lambda path: path.write_text("what?\n1\n"), "metrics.csv is damaged"),
        (lambda path: path.write_text('epoch,train/loss\n0,"1.0\n'), "metrics.csv is damaged"),
        (lambda path: path.write_bytes(b"epoch,train/loss\n0,\xff\n"), "metrics.csv is damaged"),
        (lambda path: path.unlink(), "has 3 epochs behind it, whose rows are not all in"),
    ],
)
def test_rows_that_are_lost_are_made_again(tmp_path, small_run, unbroken, monkeypatch, caplog, damage, message):
    with monkeypatch.context() as patch:
        break_at(patch, Classifier, "training_step", 24)
        break_off(tmp_path, small_run, *ARGUMENTS)
    damage(tmp_path / "metrics.csv")
    small_run(tmp_path, *ARGUMENTS)
    assert message in caplog.text
    for path in (tmp_path / "checkpoints").glob("*.unusable-*"):
        path.unlink()
    assert run_content(tmp_path) == unbroken(small_run)


@pytest.mark.parametrize("cut", [0, 7, 400])
def test_events_that_were_cut_off_or_doubled_are_whole_in_the_end(tmp_path, small_run, unbroken, monkeypatch, cut):
    with monkeypatch.context() as patch:
        break_at(patch, Classifier, "training_step", 24)
        break_off(tmp_path, small_run, *ARGUMENTS)
    (events,) = tmp_path.glob("events.out.tfevents.*")
    events.write_bytes(events.read_bytes()[: events.stat().st_size - cut])
    shutil.copy(events, events.with_suffix(".99"))  # as a start leaves it that was killed before it removed the other
    small_run(tmp_path, *ARGUMENTS)
    assert run_content(tmp_path)["events"] == unbroken(small_run)["events"]
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 1


def test_other_software_is_told(tmp_path, small_run, monkeypatch, caplog):
    with monkeypatch.context() as patch:
        break_at(patch, Classifier, "training_step", 17)
        patch.setattr("ireg.runs.status.versions", lambda: {"torch": "0.1", "python": "2.7"})
        patch.setattr("ireg.runs.status.git", lambda: {"commit": "abc", "dirty": False})
        break_off(tmp_path, small_run, *ARGUMENTS)
    monkeypatch.setattr("ireg.runs.status.versions", lambda: {"torch": "0.2", "python": "2.7"})
    monkeypatch.setattr("ireg.runs.status.git", lambda: None)
    small_run(tmp_path, *ARGUMENTS)
    found = [record.getMessage() for record in caplog.records if "resumes with" in record.getMessage()]
    assert [line.partition(": ")[2] for line in found] == [
        "begun with torch 0.1, resumes with 0.2: the last bits may differ",
        "begun with commit abc, resumes with None: the last bits may differ",
    ]
