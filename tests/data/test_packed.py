"""Data sets that are read from gzipped files, and the script that made the embedded one."""

import gzip
import hashlib
from pathlib import Path

import pytest
import torch
import yaml

from ireg.assets import make_digits, make_fashion10k, subset
from ireg.data import digests
from ireg.data.packed import packed
from ireg.system.errors import UserError

CONF = Path(__file__).parents[2] / "conf" / "data"
MD5 = yaml.safe_load((CONF / "fashion10k.yaml").read_text())["source"]["md5"]
NAMES = tuple(MD5)


def content(shape, start):
    """An IDX file of bytes that count up."""
    numbers = (torch.arange(int(torch.tensor(shape).prod())) + start) % 256
    header = bytes([0, 0, 8, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape)
    return header + bytes(numbers.tolist())


SHAPES = [((5, 3, 2), 7), ((5,), 1), ((4, 3, 2), 9), ((4,), 2)]
CONTENT = {name: content(*shape) for name, shape in zip(NAMES, SHAPES, strict=True)}
MADE = {name: hashlib.md5(value).hexdigest() for name, value in CONTENT.items()}


@pytest.fixture
def folder(tmp_path):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name, value in CONTENT.items():
        (raw / f"{name}.gz").write_bytes(gzip.compress(value))
    return tmp_path


def read(root, md5=MADE, train=True):
    return packed(dataset="FashionMNIST", root=root, md5=md5, train=train)


def test_the_embedded_set():
    for train in (True, False):
        images, labels = packed(dataset="FashionMNIST", root=None, md5=MD5, train=train)
        assert (images.shape, images.dtype, labels.dtype) == ((10_000, 28, 28), torch.uint8, torch.int64)
        assert labels.bincount(minlength=10).min() > 900
        assert 60 < float(images.float().mean()) < 80


def test_the_numbers_are_those_of_the_file(folder):
    before = sorted(folder.rglob("*"))
    images, labels = read(folder)
    assert images.flatten().tolist() == list(CONTENT[NAMES[0]][16:])
    assert (images.shape, labels.tolist()) == ((5, 3, 2), [1, 2, 3, 4, 5])
    assert read(folder, train=False)[1].tolist() == [2, 3, 4, 5]
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
    monkeypatch.setattr(digests, "SHA256", {MADE[NAMES[1]]: "0" * 64})
    found = hashlib.sha256(CONTENT[NAMES[1]]).hexdigest()
    with pytest.raises(UserError, match=f"the right md5 but sha256 {found}, expected 0{{64}}: reinstall ireg, or set"):
        read(folder)
    with pytest.raises(UserError, match=f"{NAMES[1]} in .* has the right md5 but sha256 {found}, expected 0+: get"):
        subset.make(folder / "FashionMNIST" / "raw", folder / "out", MADE, packed=True)
    assert not (folder / "out").exists()


def test_an_md5_is_needed_of_each(folder):
    with pytest.raises(UserError, match="md5 names t10k-images-idx3-ubyte: give one for train-images-idx3-ubyte, too"):
        read(folder, md5={NAMES[2]: MADE[NAMES[2]]})


def test_the_script_makes_the_same_bytes_again(folder, monkeypatch, capsys):
    originals, out = folder / "FashionMNIST" / "raw", folder / "out"
    monkeypatch.setattr(make_fashion10k, "ORIGINAL_MD5", MADE)
    monkeypatch.setattr(make_fashion10k, "RAW", out)
    make_fashion10k.main([str(originals)])
    assert yaml.safe_load(capsys.readouterr().out) == MADE
    first = {path.name: path.read_bytes() for path in out.iterdir()}
    assert subset.make(originals, out, MADE, packed=True) == MADE
    assert {path.name: path.read_bytes() for path in out.iterdir()} == first
    monkeypatch.setattr(make_fashion10k, "ORIGINAL_MD5", MD5)
    with pytest.raises(SystemExit, match=f"{NAMES[0]} in .* has md5 .*, expected {MD5[NAMES[0]]}"):
        make_fashion10k.main([str(originals)])
    with pytest.raises(SystemExit, match="usage: .*make_fashion10k FOLDER"):
        make_fashion10k.main([])


def test_the_originals_are_those_of_the_full_set():
    full = yaml.safe_load((CONF / "fashion_mnist.yaml").read_text())["source"]["md5"]
    assert full == make_fashion10k.ORIGINAL_MD5


def test_the_digits():
    md5 = yaml.safe_load((CONF / "digits.yaml").read_text())["source"]["md5"]
    counts = []
    for train in (True, False):
        images, labels = packed(dataset="Digits", root=None, md5=md5, train=train)
        counts.append(len(labels))
        assert images.shape == (len(labels), 8, 8)
        assert images.unique().tolist() == [(number * 255 + 8) // 16 for number in range(17)]
        assert labels.bincount(minlength=10).min() > len(labels) / 12
    assert counts == [make_digits.NUM_TRAIN, 1797 - make_digits.NUM_TRAIN]


def test_the_script_of_the_digits(tmp_path, monkeypatch, capsys):
    lines = [",".join(str((pixel + row) % 17) for pixel in range(64)) + f",{row % 10}" for row in range(1440)]
    content = "\n".join(lines).encode()
    original = tmp_path / "digits.csv.gz"
    original.write_bytes(gzip.compress(content))
    monkeypatch.setattr(make_digits, "RAW", tmp_path / "Digits" / "raw")
    with pytest.raises(SystemExit, match="content of .* has md5 .*, expected .*: give scikit-learn's digits.csv.gz"):
        make_digits.main([str(original)])
    assert not (tmp_path / "Digits").exists()
    monkeypatch.setattr(make_digits, "ORIGINAL_MD5", hashlib.md5(content).hexdigest())
    with monkeypatch.context() as forged:
        forged.setattr(digests, "SHA256", {make_digits.ORIGINAL_MD5: "0" * 64})
        with pytest.raises(SystemExit, match="has the right md5 but sha256 .*, expected 0{64}: give scikit-learn's"):
            make_digits.main([str(original)])
    assert not (tmp_path / "Digits").exists()
    make_digits.main([str(original)])
    md5 = yaml.safe_load(capsys.readouterr().out)
    images, labels = packed(dataset="Digits", root=tmp_path, md5=md5, train=False)
    assert labels.tolist() == [7, 8, 9]  # of the lines from 1437 on
    assert images[0, 0, :3].tolist() == [(number * 255 + 8) // 16 for number in (1437 % 17, 1438 % 17, 1439 % 17)]
    original.write_bytes(b"no gzip")
    with pytest.raises(SystemExit, match="digits.csv.gz cannot be read"):
        make_digits.main([str(original)])
    with pytest.raises(SystemExit, match="usage: .*make_digits digits.csv.gz"):
        make_digits.main([])
