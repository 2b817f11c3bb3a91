"""CIFAR-10's format, on small files that are made here."""

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10

from ireg.data.cifar import cifar10
from ireg.errors import UserError


def pickled(content):
    return pickle.dumps(content, protocol=2)


@pytest.fixture
def made(monkeypatch):
    """Two training files and a test file of two images each, with md5s that torchvision takes for its own."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 3 * 32 * 32), dtype=np.uint8)
    names = ["data_batch_1", "data_batch_2", "test_batch"]
    files = {
        name: pickled({"data": pixels[2 * number : 2 * number + 2], "labels": [number, 9 - number]})
        for number, name in enumerate(names)
    }
    files["batches.meta"] = pickled({"label_names": [str(number) for number in range(10)]})
    md5 = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(CIFAR10, "train_list", [[name, md5[name]] for name in names[:2]])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", md5["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": md5["batches.meta"]})
    return files, torch.from_numpy(pixels).reshape(6, 3, 32, 32)


def write(root, files):
    folder = root / CIFAR10.base_folder
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def test_images_have_their_channels_first(tmp_path, made):
    files, pixels = made
    write(tmp_path, files)
    images, labels = cifar10(root=tmp_path, train=True)
    assert (images.dtype, labels.dtype) == (torch.uint8, torch.int64)
    assert torch.equal(images, pixels[:4])
    assert labels.tolist() == [0, 9, 1, 8]
    assert cifar10(root=str(tmp_path), train=False)[1].tolist() == [2, 7]


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"other")])
def test_every_file_is_compared_each_time(tmp_path, made, damage):
    folder = write(tmp_path, made[0])
    cifar10(root=tmp_path, train=False)
    damage(folder / "data_batch_2")
    with pytest.raises(UserError, match="lacks a file, or holds one with another md5 .*: delete the folder and run"):
        cifar10(root=tmp_path, train=False)


def test_a_download_comes_whole_or_not_at_all(tmp_path, made, monkeypatch):
    files, pixels = made

    def broken(self):
        write(Path(self.root), {"test_batch": files["test_batch"]})
        raise OSError("no network")

    monkeypatch.setattr(CIFAR10, "download", broken)
    with pytest.raises(UserError, match="could not be downloaded: unpack cifar-10-python.tar.gz into .*no network"):
        cifar10(root=tmp_path / "data", train=True)
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["CIFAR10.lock"]
    monkeypatch.setattr(CIFAR10, "download", lambda self: write(Path(self.root), files))
    assert torch.equal(cifar10(root=tmp_path / "data", train=False)[0], pixels[4:])
    monkeypatch.setattr(CIFAR10, "download", broken)  # what is there is not brought again
    assert torch.equal(cifar10(root=tmp_path / "data", train=True)[0], pixels[:4])


def test_places_that_cannot_be_used(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file cannot be used .*: repair it or set another data.root"):
        cifar10(root=tmp_path / "file", train=True)
    with pytest.raises(UserError, match="data.root=null: CIFAR-10 does not come with the package; name a folder"):
        cifar10(root=None, train=True)


def test_file_systems_without_locks(tmp_path, monkeypatch):
    from ireg.locks import NoLocksError

    def refused(path):
        raise NoLocksError("this file system has no locks; use another folder")

    monkeypatch.setattr("ireg.data.cifar.held", refused)
    with pytest.raises(UserError, match="this file system has no locks; use another folder with data.root="):
        cifar10(root=tmp_path, train=True)
