"""Data sets that are read from gzipped files."""

import gzip
import hashlib

import pytest
import torch
import yaml

from ireg.data import digests
from ireg.data.packed import packed
from ireg.system.errors import UserError
from tests.conftest import ROOT
from tests.data.idx_files import CONTENT, MD5, NAMES, fill


def md5_in(name):
    return yaml.safe_load((ROOT / "conf" / "data" / f"{name}.yaml").read_text())["source"]["md5"]


@pytest.fixture
def folder(tmp_path):
    fill(tmp_path, "FashionMNIST", gz=NAMES)
    return tmp_path


def read(root, md5=MD5, train=True):
    return packed(dataset="FashionMNIST", root=root, md5=md5, train=train)


def test_fashion10k():
    for train in (True, False):
        images, labels = read(None, md5_in("fashion10k"), train)
        assert (images.shape, images.dtype, labels.dtype) == ((10_000, 28, 28), torch.uint8, torch.int64)
        assert labels.bincount(minlength=10).min() > 900
        assert 60 < float(images.float().mean()) < 80


def test_the_digits():
    counts = []
    for train in (True, False):
        images, labels = packed(dataset="Digits", root=None, md5=md5_in("digits"), train=train)
        counts.append(len(labels))
        assert images.shape == (len(labels), 8, 8)
        assert images.unique().tolist() == [(number * 255 + 8) // 16 for number in range(17)]
        assert labels.bincount(minlength=10).min() > len(labels) / 12
    assert counts == [1437, 360]


def test_the_numbers_are_those_of_the_file(folder):
    before = sorted(folder.rglob("*"))
    images, labels = read(folder)
    assert images.flatten().tolist() == list(CONTENT[NAMES[0]][16:])
    assert (images.shape, labels.tolist()) == ((6, 28, 28), list(CONTENT[NAMES[1]][8:]))
    assert read(folder, train=False)[1].tolist() == list(CONTENT[NAMES[3]][8:])
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda path: path.unlink(), "cannot be read .*: reinstall ireg, or set data.root"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), "is truncated or damaged"),
        (lambda path: path.write_bytes(gzip.compress(b"other")), "has md5 795f3202b17cb6bc3d4b771d8c6c9eaf, expected"),
    ],
)
def test_what_is_not_the_file_is_refused(folder, damage, match):
    damage(folder / "FashionMNIST" / "raw" / f"{NAMES[0]}.gz")
    with pytest.raises(UserError, match=match) as error:
        read(folder)
    assert "\n" not in str(error.value)


def test_a_forged_file_is_refused(folder, monkeypatch):
    """Of the right md5, and made to have it."""
    monkeypatch.setattr(digests, "SHA256", {MD5[NAMES[1]]: "0" * 64})
    found = hashlib.sha256(CONTENT[NAMES[1]]).hexdigest()
    with pytest.raises(UserError, match=f"the right md5 but sha256 {found}, expected 0{{64}}: reinstall ireg, or set"):
        read(folder)


def test_an_md5_is_needed_of_each(folder):
    with pytest.raises(UserError, match=f"md5 names {NAMES[2]}: give one for {NAMES[0]}, too"):
        read(folder, md5={NAMES[2]: MD5[NAMES[2]]})
