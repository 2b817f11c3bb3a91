"""`ireg.data.idx` and the embedded subset: what is read is right, and what is wrong is refused by name. Offline."""

import gzip
import hashlib
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import yaml
from torchvision.datasets import KMNIST, MNIST

from ireg.data import digests, packed
from ireg.data import idx as module
from ireg.system.errors import UserError
from tests.conftest import ROOT
from tests.data.idx_files import CONTENT, MD5, NAMES, PACKED, SHAPES, fill, md5_of


def read(root: Path | None, **changes):
    return module.idx(**{"dataset": "MNIST", "root": root, "md5": MD5, "train": True} | changes)


def read_kmnist(root: Path):
    return read(root, dataset="KMNIST", md5=None)


@pytest.fixture
def kmnist(monkeypatch):
    """Let torchvision's own md5s be those of the small .gz files."""
    monkeypatch.setattr(KMNIST, "resources", [(f"{name}.gz", md5_of(PACKED[name])) for name in NAMES])


@pytest.fixture
def downloads(monkeypatch):
    """A download that brings the small .gz files, with md5s that torchvision takes for its own; their names."""
    calls = []

    def download(url, root, *, filename, md5):
        calls.append(filename)
        time.sleep(0.02)  # long enough that a second caller would begin too, were there no lock
        assert (url, md5) == (f"mirror/{filename}", md5_of(PACKED[filename.removesuffix(".gz")]))
        Path(root, filename).write_bytes(PACKED[filename.removesuffix(".gz")])

    monkeypatch.setattr(module, "download_url", download)
    for reader in (MNIST, KMNIST):
        monkeypatch.setattr(reader, "mirrors", ["mirror/"])
        monkeypatch.setattr(reader, "resources", [(f"{name}.gz", md5_of(PACKED[name])) for name in NAMES])
    return calls


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a test reached for the network")

    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", refuse)
    monkeypatch.setattr("torchvision.datasets.utils._get_redirect_url", refuse)


# What is right is read.


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("form", ["raw", "gz"])
def test_reads_the_split_and_its_types_and_writes_nothing(tmp_path, monkeypatch, train, form):
    monkeypatch.setattr(module, "held", lambda path: pytest.fail("took a lock, though nothing is to be written"))
    fill(tmp_path, "MNIST", **{form: NAMES})
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    images, labels = read(tmp_path, train=train)
    first, second = NAMES[:2] if train else NAMES[2:]
    assert (images.dtype, labels.dtype) == (torch.uint8, torch.int64)
    assert images.shape == SHAPES[NAMES.index(first)]
    assert images.numpy().tobytes() == CONTENT[first][16:]
    assert bytes(labels.tolist()) == CONTENT[second][8:]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_root_is_relative_to_the_working_directory_or_to_home(tmp_path, monkeypatch):
    fill(tmp_path / "data", "MNIST", raw=NAMES)
    monkeypatch.chdir(tmp_path)
    assert read("data")[1].shape == (6,)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read("~/data")[1].shape == (6,)
    (tmp_path / "data" / "MNIST" / "raw" / NAMES[0]).write_bytes(b"")
    with pytest.raises(UserError, match=f"^{re.escape(str(tmp_path))}/data/MNIST/raw/{NAMES[0]} has md5"):
        read("data")


@pytest.mark.parametrize("md5", [MD5, None])
def test_download_is_done_once_by_many(tmp_path, downloads, md5):
    root = tmp_path / "new" / "root"
    with ThreadPoolExecutor(4) as pool:
        results = [future.result() for future in [pool.submit(lambda: read(root, md5=md5)) for _ in range(4)]]
    assert downloads == [f"{name}.gz" for name in NAMES[:2]]  # of the split that is read
    assert all(torch.equal(images, results[0][0]) for images, _ in results)
    assert results[0][0].numpy().tobytes() == CONTENT[NAMES[0]][16:]
    assert {path.name for path in root.iterdir()} == {"MNIST", "MNIST.lock"}  # the scratch folder is gone
    assert sorted(path.name for path in (root / "MNIST" / "raw").iterdir()) == sorted(downloads)


def test_download_leaves_present_files_alone(tmp_path, downloads):
    present = fill(tmp_path, "MNIST", raw=NAMES[:1]) / NAMES[0]
    before = present.stat().st_mtime_ns
    read(tmp_path)
    assert downloads == [f"{NAMES[1]}.gz"]
    assert present.stat().st_mtime_ns == before


def test_without_md5_the_gz_is_read(tmp_path, kmnist):
    folder = fill(tmp_path, "KMNIST", raw=NAMES, gz=NAMES)
    (folder / NAMES[0]).write_bytes(b"unpacked by others, which cannot be verified")
    assert read_kmnist(tmp_path)[0].numpy().tobytes() == CONTENT[NAMES[0]][16:]


def test_another_mirror_is_asked_in_turn(tmp_path, downloads, monkeypatch):
    def download(url, root, *, filename, md5, original=module.download_url):
        if not url.startswith("mirror/"):
            raise RuntimeError("File not found or corrupted.")
        original(url, root, filename=filename, md5=md5)

    monkeypatch.setattr(module, "download_url", download)
    monkeypatch.setattr(MNIST, "mirrors", ["first/", "mirror/", "never/"])
    assert read(tmp_path)[0].shape == (6, 28, 28)
    assert len(downloads) == 2


# What is wrong is refused.


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"dataset": "EMNIST"}, "dataset='EMNIST' .*FashionMNIST, KMNIST, MNIST"),
        ({"md5": {"labels": "0", NAMES[0]: "0"}}, f"md5 names labels, .*{NAMES[0]}"),
        ({"download": False}, f"MNIST/raw lacks {NAMES[0]}, {NAMES[1]}; ireg data fetch"),
    ],
)
def test_wrong_arguments_are_refused(tmp_path, changes, line):
    with pytest.raises(UserError, match=line):
        read(tmp_path, **changes)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", ["raw", "gz"])
def test_flipped_bit_is_found(tmp_path, name, form):
    damaged = CONTENT[name][:-1] + bytes([CONTENT[name][-1] ^ 1])
    path = fill(tmp_path, "MNIST", **{form: NAMES}) / (name if form == "raw" else f"{name}.gz")
    path.write_bytes(damaged if form == "raw" else gzip.compress(damaged))
    found = f"{re.escape(str(path))} has md5 {md5_of(damaged)}, expected {MD5[name]}: delete it and run again"
    with pytest.raises(UserError, match=found):
        read(tmp_path, train=name.startswith("train"))


@pytest.mark.parametrize(
    "junk",
    [PACKED[NAMES[0]][:-9], b"no gzip", b"\x1f\x8b\x08\0\0\0\0\0\0\0\x07"],
    ids=["cut", "magic", "stream"],
)
def test_damaged_gz_is_refused(tmp_path, junk):
    path = fill(tmp_path, "MNIST", gz=NAMES) / f"{NAMES[0]}.gz"
    path.write_bytes(junk)
    with pytest.raises(UserError, match=f"{re.escape(str(path))} is truncated or damaged .*: delete it"):
        read(tmp_path)


def test_without_md5_another_gz_is_refused(tmp_path, kmnist):
    other = gzip.compress(CONTENT[NAMES[0]], mtime=1)
    (fill(tmp_path, "KMNIST", gz=NAMES) / f"{NAMES[0]}.gz").write_bytes(other)
    with pytest.raises(UserError, match=f"{NAMES[0]}.gz has md5 {md5_of(other)}, expected {md5_of(PACKED[NAMES[0]])}"):
        read_kmnist(tmp_path)


@pytest.mark.parametrize("error", [RuntimeError("Error downloading x:\nTried y"), URLError("no\nnet"), OSError("full")])
@pytest.mark.parametrize(("dataset", "form"), [("MNIST", "gzipped or not"), ("KMNIST", "gzipped")])
def test_failed_download_says_what_to_put_where(tmp_path, monkeypatch, error, dataset, form):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(module, "download_url", fail)
    reason = re.escape(" ".join(str(error).split()))
    files = ", ".join(f"{name}.gz" for name in NAMES)
    where = re.escape(str(tmp_path / dataset / "raw"))
    line = rf"{dataset} could not .*: put {files} \({form}\) into {where}, or use data=mnist10k.*\(reason: {reason}\)$"
    with pytest.raises(UserError, match=line) as caught:
        read(tmp_path, dataset=dataset, md5=MD5 if dataset == "MNIST" else None)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.glob("*download*")] == []


def test_other_errors_of_a_download_pass_through(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "download_url", lambda *args, **kwargs: {}["a bug"])
    with pytest.raises(KeyError):
        read(tmp_path)


def forged(monkeypatch, content):
    """Let another content be known for this md5."""
    monkeypatch.setattr(digests, "SHA256", {md5_of(content): "0" * 64})
    return f"has the right md5 but sha256 {hashlib.sha256(content).hexdigest()}, expected 0{{64}}: "


@pytest.mark.parametrize("form", ["raw", "gz"])
def test_a_forged_file_is_refused(tmp_path, monkeypatch, form):
    fill(tmp_path, "MNIST", **{form: NAMES})
    match = forged(monkeypatch, CONTENT[NAMES[1]])
    with pytest.raises(UserError, match=f"{NAMES[1]}(.gz)? {match}delete it and run again"):
        read(tmp_path)


def test_a_forged_gz_is_not_unpacked(tmp_path, kmnist, monkeypatch):
    fill(tmp_path, "KMNIST", gz=NAMES)
    match = forged(monkeypatch, PACKED[NAMES[0]])
    monkeypatch.setattr(gzip, "decompress", lambda content: pytest.fail("unpacked before it was compared"))
    with pytest.raises(UserError, match=f"{NAMES[0]}.gz {match}delete it"):
        read_kmnist(tmp_path)


@pytest.mark.parametrize("md5", [MD5, None])
def test_a_forged_download_does_not_come_to_its_place(tmp_path, downloads, monkeypatch, md5):
    match = forged(monkeypatch, PACKED[NAMES[0]])
    with pytest.raises(UserError, match=f"the downloaded {NAMES[0]}.gz {match}try again later"):
        read(tmp_path, md5=md5)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["MNIST", "MNIST.lock", "raw"]


def test_an_interrupted_download_leaves_nothing(tmp_path, monkeypatch):
    def half(url, root, *, filename, md5):
        Path(root, filename).write_bytes(PACKED[NAMES[0]][:5])
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "download_url", half)
    with pytest.raises(KeyboardInterrupt):
        read(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["MNIST", "MNIST.lock", "raw"]


def test_root_that_cannot_be_written_is_refused(tmp_path):
    # A file in the place of a folder: unlike a missing permission it stops the superuser too.
    (tmp_path / "root").write_text("")
    with pytest.raises(UserError, match=r"root cannot be used \(.*Errno.*\): repair it or set another data.root"):
        read(tmp_path / "root")


# The embedded subset.


@pytest.mark.parametrize(("train", "first"), [(True, [5, 0, 4, 1, 9]), (False, [7, 2, 1, 0, 4])])
def test_embedded_subset(train, first):
    config = yaml.safe_load((ROOT / "conf" / "data" / "mnist10k.yaml").read_text())
    images, labels = read(None, md5=config["source"]["md5"], train=train)
    assert images.shape == (10_000, 28, 28)
    assert labels.bincount(minlength=10).min() > 800
    assert labels[:5].tolist() == first
    scaled = images.double() / 255
    assert scaled.mean() == pytest.approx(config["mean"], abs=3e-3)
    assert scaled.std() == pytest.approx(config["std"], abs=3e-3)


@pytest.mark.parametrize(("dataset", "present"), [("MNIST", NAMES[1:]), ("FashionMNIST", ())])
def test_the_package_is_never_completed(tmp_path, monkeypatch, downloads, dataset, present):
    monkeypatch.setattr(packed, "PACKAGED", tmp_path)
    fill(tmp_path, "MNIST", raw=NAMES[1:])
    missing = [name for name in NAMES[:2] if name not in present]
    with pytest.raises(UserError, match=f"{dataset}/raw lacks {', '.join(missing)}: reinstall ireg, or set data.root"):
        read(None, dataset=dataset)
    assert downloads == []
    assert not list(tmp_path.glob("*.lock"))


def test_a_damaged_package_is_to_be_reinstalled(tmp_path, monkeypatch):
    for place in (packed, module):
        monkeypatch.setattr(place, "PACKAGED", tmp_path)
    (fill(tmp_path, "MNIST", raw=NAMES) / NAMES[0]).write_bytes(b"")
    with pytest.raises(UserError, match=f"{NAMES[0]} has md5 .*: reinstall ireg"):
        read(None)
