"""However a checkpoint is damaged: it is found out, and the one before takes its place."""

import errno
import os
import random
import shutil

import numpy as np
import pytest
import torch

from ireg.lit.module import Classifier
from ireg.runs import checkpoints
from ireg.runs.checkpoints import DamagedCheckpointError, Resumption, find_resumption, read_checkpoint
from ireg.runs.digest import digest
from ireg.system import reading
from tests.content import _plain

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"


class Broken(BaseException):
    pass


@pytest.fixture(scope="module")
def left(tmp_path_factory):
    """The folder of a run of Adam that was interrupted in its fourth epoch; it is made once."""
    made = []

    def get(small_run):
        if not made:
            folder = tmp_path_factory.mktemp("left")
            step, steps = Classifier.training_step, []

            def breaking(self, dataloader_iter):
                steps.append(1)
                if len(steps) == 24:  # 7 steps an epoch
                    raise Broken
                return step(self, dataloader_iter)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Classifier, "training_step", breaking)
                with pytest.raises(Broken):
                    small_run(folder, "epochs=6", "optimizer=adam", "lr=1e-2")
            made.append(folder)
        return made[0]

    return get


class Left:
    """A copy of that folder, and what resumes there."""

    def __init__(self, origin, folder):
        self.folder = folder
        (folder / "checkpoints").mkdir()
        shutil.copy(origin / "metrics.csv", folder)
        self.bytes = {name: (origin / "checkpoints" / name).read_bytes() for name in (LAST, PREVIOUS)}
        whole = read_checkpoint(origin / "checkpoints" / LAST)
        self.run, self.model = whole["ireg"]["run"], whole["state_dict"]
        self.written = _plain(without_digest(whole))
        self.restore()

    @property
    def last(self):
        return self.folder / "checkpoints" / LAST

    @property
    def previous(self):
        return self.folder / "checkpoints" / PREVIOUS

    def restore(self):
        shutil.rmtree(self.folder / "checkpoints")
        (self.folder / "checkpoints").mkdir()
        for name, content in self.bytes.items():
            (self.folder / "checkpoints" / name).write_bytes(content)

    def find(self):
        return find_resumption(self.folder, run=self.run, model=self.model)

    def resumes_with_the_same_state(self):
        """Whether it resumes from the last checkpoint as it was written, or from the one before; else it fails."""
        found = self.find()
        if found.checkpoint == self.last:
            assert _plain(without_digest(read_checkpoint(self.last))) == self.written
            return True
        assert (found.checkpoint, sorted(found.rows)) == (self.previous, [0, 1, 2])
        assert not self.last.exists()
        return False


@pytest.fixture
def whole(left, small_run, tmp_path):
    return Left(left(small_run), tmp_path)


def without_digest(content):
    return {**content, "ireg": {key: value for key, value in content["ireg"].items() if key != "digest"}}


def test_a_whole_checkpoint_is_used(whole):
    found = whole.find()
    assert (found.checkpoint, sorted(found.rows)) == (whole.last, [0, 1, 2, 3])


def cut(content, draw):
    return content[: draw.randrange(len(content))]


def flip(content, draw):
    at = draw.randrange(len(content))
    return content[:at] + bytes([content[at] ^ 1 << draw.randrange(8)]) + content[at + 1 :]


def blank(content, draw):
    """A block of zeros, as a file system leaves it after a loss of power."""
    at = draw.randrange(len(content))
    return content[:at] + bytes(len(content[at : at + 4096])) + content[at + 4096 :]


def repeat(content, draw):
    at, size = draw.randrange(len(content)), draw.randrange(1, 5000)
    return content[: at + size] + content[at:]


def leave_out(content, draw):
    at = draw.randrange(len(content))
    return content[:at] + content[at + draw.randrange(1, 5000) :]


@pytest.mark.parametrize("damage", [cut, flip, blank, repeat, leave_out])
def test_bytes_damaged_anywhere(whole, damage):
    draw = random.Random(damage.__name__)
    same = 0
    for _ in range(40):
        damaged = damage(whole.bytes[LAST], draw)
        whole.last.write_bytes(damaged)
        same += whole.resumes_with_the_same_state() and damaged != whole.bytes[LAST]
        whole.restore()
    # Where the format has padding and dates, a byte may be another. Most of the file is tensors.
    assert same <= {flip: 10, blank: 10}.get(damage, 2)


def leaves(tree, path=()):
    """The places of everything in nested mappings and lists, these themselves included."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from leaves(value, (*path, key))


def parent(tree, path):
    for key in path[:-1]:
        tree = tree[key]
    return tree


def removed(container, key):
    del container[key]


def of_another_kind(container, key):
    container[key] = "another"


def of_another_value(container, key):
    value = container[key]
    if isinstance(value, torch.Tensor) and value.numel():
        value.view(-1).view(torch.uint8)[-1] ^= 1
    else:
        container[key] = (1 - value) if isinstance(value, int | float) else None if value else [1]


def of_another_shape(container, key):
    value = container[key]
    container[key] = torch.zeros(*value.shape, 2) if isinstance(value, torch.Tensor) else (value, value)


def not_a_number(container, key):
    value = container[key]
    container[key] = (
        torch.full_like(value, float("nan")) if torch.is_tensor(value) and value.is_floating_point() else float("nan")
    )


@pytest.mark.parametrize("change", [removed, of_another_kind, of_another_value, of_another_shape, not_a_number])
def test_content_changed_anywhere(whole, change):
    places = [path for path in leaves(torch.load(whole.last, weights_only=True)) if path[-1] != "digest"]
    some = [("optimizer_states", 0, "state", 0, "step"), ("optimizer_states", 0, "state", 1, "exp_avg"), ("loops",),
            ("optimizer_states",), ("state_dict", "model.1.weight"), ("epoch",), ("ireg", "cpu")]  # fmt: skip
    assert set(some) <= set(places)
    for path in [*some, *random.Random(change.__name__).sample(places, 15)]:
        content = torch.load(whole.last, weights_only=True)
        change(parent(content, path), path[-1])
        torch.save(content, whole.last)
        assert not whole.resumes_with_the_same_state(), path
        whole.restore()


@pytest.mark.parametrize(
    "content", [[], {}, 1, "text", torch.zeros(3), {"ireg": 1}, {"ireg": {}}, {"ireg": {"run": 1}}]
)
def test_files_of_torch_with_something_else(whole, content):
    torch.save(content, whole.last)
    assert not whole.resumes_with_the_same_state()


def test_a_checkpoint_of_an_earlier_version_is_used(whole):
    content = without_digest(torch.load(whole.last, weights_only=True))
    del content["ireg"]["rows"]
    torch.save(content, whole.last)
    assert whole.find().checkpoint == whole.last


@pytest.mark.parametrize("epoch", [float("nan"), float("inf"), "three", None, 10**9, -5, -1])
def test_an_epoch_that_is_none_is_found_without_a_digest(whole, epoch):
    torch.save(without_digest(torch.load(whole.last, weights_only=True)) | {"epoch": epoch}, whole.last)
    assert not whole.resumes_with_the_same_state()


def text(path):
    path.write_text("not what it was")


def folder(path):
    path.unlink()
    (path / "inside").mkdir(parents=True)


def pipe(path):
    path.unlink()
    os.mkfifo(path)


def array(path):
    np.savez(path.with_suffix(".npz"), a=np.zeros(3))
    os.replace(path.with_suffix(".npz"), path)


def code(path):
    torch.save({"ireg": os.getcwd, "epoch": Classifier}, path)


@pytest.mark.parametrize("damage", [text, folder, pipe, array, code])
def test_something_else_of_that_name(whole, damage, caplog):
    damage(whole.last)
    assert not whole.resumes_with_the_same_state()
    assert "the run begins again" not in caplog.text
    whole.restore()
    damage(whole.previous)
    assert whole.find().checkpoint == whole.last
    whole.restore()
    damage(whole.last)
    damage(whole.previous)
    assert whole.find() == Resumption()
    assert "no checkpoint can be used; the run begins again" in caplog.text


def test_no_folder_can_stay_where_the_next_checkpoint_goes(whole):
    """Also where the last checkpoint is whole: it is renamed to the one before."""
    folder(whole.previous)
    assert whole.find().checkpoint == whole.last
    assert not whole.previous.exists()


def test_a_file_in_place_of_the_folder_is_set_aside(tmp_path, caplog):
    (tmp_path / "checkpoints").write_text("a file")
    assert find_resumption(tmp_path, run="a", model={}) == Resumption()
    assert (tmp_path / "checkpoints.unusable-1").read_text() == "a file"
    assert "is not a folder" in caplog.text


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE])
def test_a_checkpoint_that_cannot_be_opened_is_left_alone(whole, monkeypatch, number):
    looked = os.fstat

    def refusing(handle):
        if os.path.samestat(looked(handle), whole.last.stat()):
            raise OSError(number, os.strerror(number))  # as an error of reading, which names no file
        return looked(handle)

    monkeypatch.setattr(os, "fstat", refusing)
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        whole.find()
    assert caught.value.filename == str(whole.last)
    assert whole.last.read_text(errors="replace")


def test_too_little_memory_is_no_damage(whole, monkeypatch):
    monkeypatch.setattr(torch, "load", lambda *_, **__: (_ for _ in ()).throw(MemoryError))
    with pytest.raises(MemoryError):
        whole.find()
    assert whole.last.exists()


def test_an_error_without_a_text_is_named(whole, monkeypatch):
    monkeypatch.setattr(torch, "load", lambda *_, **__: (_ for _ in ()).throw(EOFError))
    with pytest.raises(DamagedCheckpointError, match=r"cannot be read \(EOFError\)"):
        read_checkpoint(whole.last)


# The rows.


def test_a_cell_changed_anywhere_is_found(whole):
    """Of the times, which differ with each repetition, the tags alone."""
    table = (whole.folder / "metrics.csv").read_text()
    header, *rows = [line.split(",") for line in table.splitlines()]
    for number in (1, 3):
        for column, tag in enumerate(header):
            cells = [list(row) for row in rows]
            cells[number][column] = "7" if cells[number][column] else "1.0"
            (whole.folder / "metrics.csv").write_text("\n".join(map(",".join, [header, *cells])) + "\n")
            found = whole.find()
            expected = whole.last if tag.startswith("time/") else whole.previous if number == 3 else None
            assert found.checkpoint == expected, (number, tag)
            whole.restore()
    for column, tag in enumerate(header):
        other = [*header[:column], f"{tag}x", *header[column + 1 :]]
        (whole.folder / "metrics.csv").write_text("\n".join(map(",".join, [other, *rows])) + "\n")
        assert whole.find() == Resumption(), tag
        whole.restore()


def test_rows_of_an_earlier_version_need_their_time(whole):
    content = torch.load(whole.last, weights_only=True)
    del content["ireg"]["rows"]
    torch.save(checkpoints.with_digest(content), whole.last)
    assert whole.find().checkpoint == whole.last
    table = (whole.folder / "metrics.csv").read_text()
    (whole.folder / "metrics.csv").write_text(table.replace("time/epoch", "time/epoxh"))
    assert whole.find() == Resumption()


# The digest.


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([[1], 2], [[1, 2]]),
        ([1], [True]),
        ([1], [1.0]),
        (["a", "b"], ["a;str 'b'"]),
        ({"a": 1, "b": 2}, {"a": 2, "b": 1}),
        (torch.zeros(2, 3), torch.zeros(3, 2)),
        (torch.zeros(1), torch.zeros(1, dtype=torch.int32)),
        (torch.zeros(1), -torch.zeros(1)),
        ([torch.zeros(1), torch.zeros(0)], [torch.zeros(0), torch.zeros(1)]),
    ],
)
def test_other_contents_have_other_digests(one, other):
    assert digest(one) != digest(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (torch.arange(6.0).view(2, 3).t(), torch.arange(6.0).view(2, 3).t().contiguous()),
        (torch.eye(2).to_sparse(), torch.eye(2)),
        (torch.nn.Parameter(torch.ones(2)), torch.ones(2)),
        (torch.tensor([1 + 2j]).conj(), torch.tensor([1 - 2j])),
    ],
)
def test_equal_values_have_equal_digests(one, other):
    assert digest(one) == digest(other)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.bfloat16, torch.float64, torch.complex64])
def test_tensors_of_any_type_have_a_digest(dtype):
    assert digest(torch.ones((), dtype=dtype)) != digest(torch.zeros((), dtype=dtype))


def test_a_checkpoint_of_some_megabytes_is_not_too_large(tmp_path):
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": {"w": torch.zeros(2**19)}}, path)
    assert path.stat().st_size > 2**21
    assert 2**36 == reading.LARGEST_CHECKPOINT
    assert len(reading.read_bytes(path, largest=reading.LARGEST_CHECKPOINT)) == path.stat().st_size
