"""`ireg.data.idx` and the embedded subset: what is read is right, and what is wrong is refused by name. Offline."""

import gzip
import hashlib
import os
import re
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import yaml
from torchvision.datasets import KMNIST, MNIST

from ireg.assets import make_mnist10k, subset
from ireg.data import digests
from ireg.data import idx as module
from ireg.system.errors import UserError

NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
CONF = Path(__file__).parents[2] / "conf" / "data"
SIZES = {"train": 6, "t10k": 3}


def md5_of(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def fake_content(name: str) -> bytes:
    """A small IDX file, different for each name."""
    split, kind = name.split("-")[:2]
    shape = (SIZES[split], 28, 28) if kind == "images" else (SIZES[split],)
    values = torch.randint(0, 10, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(NAMES.index(name)))
    header = bytes([0, 0, 8, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape)
    return header + values.numpy().tobytes()


CONTENT = {name: fake_content(name) for name in NAMES}
PACKED = {name: gzip.compress(content, mtime=0) for name, content in CONTENT.items()}
MD5 = {name: md5_of(content) for name, content in CONTENT.items()}


def fill(root: Path, dataset: str, *, raw: tuple[str, ...] = (), gz: tuple[str, ...] = ()) -> Path:
    """Put the fake files there and return their folder."""
    folder = root / dataset / "raw"
    folder.mkdir(parents=True, exist_ok=True)
    for name in raw:
        (folder / name).write_bytes(CONTENT[name])
    for name in gz:
        (folder / f"{name}.gz").write_bytes(PACKED[name])
    return folder


def read(root: Path | None, **changes):
    return module.idx(**{"dataset": "MNIST", "root": root, "md5": MD5, "train": True} | changes)


def read_kmnist(root: Path):
    return read(root, dataset="KMNIST", md5=None)


@pytest.fixture
def kmnist(monkeypatch):
    """Let torchvision's own md5s be those of the fake .gz files."""
    monkeypatch.setattr(KMNIST, "resources", [(f"{name}.gz", md5_of(PACKED[name])) for name in NAMES])


@pytest.fixture
def downloads(monkeypatch):
    """A download that brings the fake .gz files, with md5s that torchvision takes for its own; their names."""
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


def in_threads(function, count: int = 4) -> list:
    with ThreadPoolExecutor(count) as pool:
        return [future.result() for future in [pool.submit(function) for _ in range(count)]]


# What is right is read.


@pytest.mark.parametrize(("train", "split"), [(True, "train"), (False, "t10k")])
@pytest.mark.parametrize("as_text", [True, False])
def test_reads_the_split_and_its_types(tmp_path, train, split, as_text):
    fill(tmp_path, "MNIST", raw=NAMES)
    images, labels = read(str(tmp_path) if as_text else tmp_path, train=train)
    assert (images.dtype, labels.dtype) == (torch.uint8, torch.int64)
    assert images.shape == (SIZES[split], 28, 28)
    assert labels.shape == (SIZES[split],)
    assert images.numpy().tobytes() == CONTENT[f"{split}-images-idx3-ubyte"][16:]
    assert bytes(labels.tolist()) == CONTENT[f"{split}-labels-idx1-ubyte"][8:]


def test_root_is_relative_to_the_working_directory_or_to_home(tmp_path, monkeypatch):
    fill(tmp_path / "data", "MNIST", raw=NAMES)
    monkeypatch.chdir(tmp_path)
    assert read("data")[1].shape == (6,)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read("~/data")[1].shape == (6,)
    (tmp_path / "data" / "MNIST" / "raw" / NAMES[0]).write_bytes(b"")
    with pytest.raises(UserError, match=f"^{re.escape(str(tmp_path))}/data/MNIST/raw/{NAMES[0]} has md5"):
        read("data")


def test_complete_root_is_only_read(tmp_path, monkeypatch):
    def refuse(*args):
        raise AssertionError("took a lock, though nothing is to be written")

    fill(tmp_path, "MNIST", raw=NAMES)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    monkeypatch.setattr(module, "held", refuse)
    read(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_gz_is_unpacked_once_by_many(tmp_path, monkeypatch):
    unpacked = []

    def slow(packed, original=gzip.decompress):
        unpacked.append(len(packed))
        time.sleep(0.02)
        return original(packed)

    monkeypatch.setattr(gzip, "decompress", slow)
    folder = fill(tmp_path, "MNIST", gz=NAMES)
    results = in_threads(lambda: read(tmp_path))
    assert len(unpacked) == 4
    assert all(torch.equal(images, results[0][0]) for images, _ in results)
    assert {path.name for path in folder.iterdir()} == {*NAMES, *(f"{name}.gz" for name in NAMES)}
    assert all((folder / name).read_bytes() == CONTENT[name] for name in NAMES)


def test_download_is_done_once_by_many(tmp_path, downloads):
    root = tmp_path / "new" / "root"
    results = in_threads(lambda: read(root))
    assert sorted(downloads) == sorted(f"{name}.gz" for name in NAMES)
    assert len(results) == 4
    assert {path.name for path in root.iterdir()} == {"MNIST", "MNIST.lock"}  # the scratch folder is gone
    assert all((root / "MNIST" / "raw" / name).read_bytes() == CONTENT[name] for name in NAMES)


def test_download_leaves_present_files_alone(tmp_path, downloads):
    present = fill(tmp_path, "MNIST", raw=NAMES[:1]) / NAMES[0]
    before = present.stat().st_mtime_ns
    read(tmp_path)
    assert downloads == [f"{name}.gz" for name in NAMES[1:]]
    assert present.stat().st_mtime_ns == before


def test_downloaded_file_is_verified(tmp_path, downloads):
    with pytest.raises(UserError, match=f"{NAMES[0]}.gz has md5 {MD5[NAMES[0]]}, expected 0+"):
        read(tmp_path, md5=MD5 | {NAMES[0]: "0" * 32})
    assert not (tmp_path / "MNIST" / "raw" / NAMES[0]).exists()


@pytest.mark.parametrize("raw", [NAMES, NAMES[:1], ()], ids=["raw", "some", "gz"])
def test_without_md5_the_gz_vouches(tmp_path, kmnist, raw):
    fill(tmp_path, "KMNIST", raw=raw, gz=NAMES)
    assert read_kmnist(tmp_path)[0].shape == (6, 28, 28)


def test_without_md5_a_download_brings_the_gz_first(tmp_path, kmnist, downloads, monkeypatch):
    moved = []

    def replace(source, target, original=os.replace):
        moved.append(Path(target).name)
        original(source, target)

    monkeypatch.setattr(os, "replace", replace)
    assert all(read_kmnist(tmp_path)[1].shape == (6,) for _ in range(2))
    assert moved == [name for raw in NAMES for name in (f"{raw}.gz", raw)]


# What is wrong is refused.


def test_unknown_dataset_is_refused(tmp_path):
    with pytest.raises(UserError, match="dataset='EMNIST' is unknown: choose one of FashionMNIST, KMNIST, MNIST"):
        read(tmp_path, dataset="EMNIST")


def test_md5_of_other_names_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"md5 names labels, .*give one for each of train-images"):
        read(tmp_path, md5={"labels": "0", "train-images-idx3-ubyte": "0"})


@pytest.mark.parametrize(("name", "train"), [(NAMES[0], True), (NAMES[1], True), (NAMES[2], False), (NAMES[3], False)])
def test_flipped_bit_is_found(tmp_path, name, train):
    path = fill(tmp_path, "MNIST", raw=NAMES) / name
    damaged = CONTENT[name][:-1] + bytes([CONTENT[name][-1] ^ 1])
    path.write_bytes(damaged)
    found = f"{re.escape(str(path))} has md5 {md5_of(damaged)}, expected {MD5[name]}: delete it and run again"
    with pytest.raises(UserError, match=found):
        read(tmp_path, train=train)


def test_truncated_gz_is_refused(tmp_path):
    path = fill(tmp_path, "MNIST", gz=NAMES) / f"{NAMES[1]}.gz"
    path.write_bytes(PACKED[NAMES[1]][:-9])
    with pytest.raises(UserError, match=f"{re.escape(str(path))} is truncated or damaged .*: delete it"):
        read(tmp_path)
    assert not path.with_suffix("").exists()


@pytest.mark.parametrize("junk", [b"no gzip at all", b"\x1f\x8b\x08\0\0\0\0\0\0\0\x07"], ids=["magic", "stream"])
def test_damaged_gz_is_refused(tmp_path, junk):
    (fill(tmp_path, "MNIST", gz=NAMES) / f"{NAMES[0]}.gz").write_bytes(junk)
    with pytest.raises(UserError, match=f"{NAMES[0]}.gz is truncated or damaged"):
        read(tmp_path)


def test_gz_of_something_else_is_refused(tmp_path):
    folder = fill(tmp_path, "MNIST", gz=NAMES)
    shutil.copy(folder / f"{NAMES[3]}.gz", folder / f"{NAMES[1]}.gz")
    with pytest.raises(UserError, match=f"the content of .*{NAMES[1]}.gz has md5 {MD5[NAMES[3]]}, expected"):
        read(tmp_path)
    assert not (folder / NAMES[1]).exists()


def test_without_md5_a_missing_gz_is_asked_for(tmp_path, kmnist):
    fill(tmp_path, "KMNIST", raw=NAMES, gz=NAMES[1:])
    with pytest.raises(UserError, match=f"{NAMES[0]} cannot be verified without .*{NAMES[0]}.gz: put the original"):
        read_kmnist(tmp_path)


def test_without_md5_a_flipped_bit_is_found(tmp_path, kmnist):
    path = fill(tmp_path, "KMNIST", raw=NAMES, gz=NAMES) / NAMES[1]
    path.write_bytes(CONTENT[NAMES[1]][:-1] + bytes([CONTENT[NAMES[1]][-1] ^ 1]))
    with pytest.raises(UserError, match=f"{NAMES[1]} is not the content of .*{NAMES[1]}.gz: delete it"):
        read_kmnist(tmp_path)


@pytest.mark.parametrize("raw", [NAMES, ()], ids=["raw", "gz"])
def test_without_md5_another_gz_is_refused(tmp_path, kmnist, raw):
    other = gzip.compress(CONTENT[NAMES[0]], mtime=1)
    (fill(tmp_path, "KMNIST", raw=raw, gz=NAMES) / f"{NAMES[0]}.gz").write_bytes(other)
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


def test_another_mirror_is_asked_in_turn(tmp_path, downloads, monkeypatch):
    def download(url, root, *, filename, md5, original=module.download_url):
        if not url.startswith("mirror/"):
            raise RuntimeError("File not found or corrupted.")
        original(url, root, filename=filename, md5=md5)

    monkeypatch.setattr(module, "download_url", download)
    monkeypatch.setattr(MNIST, "mirrors", ["first/", "mirror/", "never/"])
    assert read(tmp_path)[0].shape == (6, 28, 28)
    assert len(downloads) == 4


# A file of the right md5 that was made to have it.


def forged(monkeypatch, content):
    """Let another content be known for this md5."""
    monkeypatch.setattr(digests, "SHA256", {md5_of(content): "0" * 64})
    return f"has the right md5 but sha256 {hashlib.sha256(content).hexdigest()}, expected 0{{64}}: "


@pytest.mark.parametrize(("raw", "gz"), [(NAMES, ()), ((), NAMES)], ids=["raw", "gz"])
def test_a_forged_file_is_refused(tmp_path, monkeypatch, raw, gz):
    folder = fill(tmp_path, "MNIST", raw=raw, gz=gz)
    match = forged(monkeypatch, CONTENT[NAMES[1]])
    with pytest.raises(UserError, match=f"{NAMES[1]}(.gz)? {match}delete it and run again"):
        read(tmp_path)
    assert (folder / NAMES[1]).exists() == bool(raw)  # it is not unpacked


def test_a_forged_gz_is_not_unpacked(tmp_path, kmnist, monkeypatch):
    folder = fill(tmp_path, "KMNIST", gz=NAMES)
    match = forged(monkeypatch, PACKED[NAMES[0]])
    monkeypatch.setattr(gzip, "decompress", lambda packed: pytest.fail("unpacked before it was compared"))
    with pytest.raises(UserError, match=f"{NAMES[0]}.gz {match}delete it"):
        read_kmnist(tmp_path)
    assert not (folder / NAMES[0]).exists()


@pytest.mark.parametrize("md5", [MD5, None])
def test_a_forged_download_is_not_unpacked(tmp_path, downloads, monkeypatch, md5):
    match = forged(monkeypatch, PACKED[NAMES[0]])
    monkeypatch.setattr(gzip, "decompress", lambda packed: pytest.fail("unpacked before it was compared"))
    with pytest.raises(UserError, match=f"the downloaded {NAMES[0]}.gz {match}try again later"):
        read(tmp_path, md5=md5)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["MNIST", "MNIST.lock", "raw"]


def test_root_that_cannot_be_written_is_refused(tmp_path):
    # A file in the place of a folder: unlike a missing permission it stops the superuser too.
    (tmp_path / "root").write_text("")
    with pytest.raises(UserError, match=r"root cannot be used \(.*Errno.*\): repair it or set another data.root"):
        read(tmp_path / "root")


def test_interrupted_unpacking_leaves_no_half_file(tmp_path, monkeypatch):
    def half(path, content):
        with path.open("wb") as file:
            file.write(content[:5])
        raise OSError(28, "No space left on device")

    folder = fill(tmp_path, "MNIST", gz=NAMES)
    with monkeypatch.context() as full_disk:
        full_disk.setattr(Path, "write_bytes", half)
        with pytest.raises(UserError, match="No space left"):
            read(tmp_path)
    assert not (folder / NAMES[0]).exists()
    assert read(tmp_path)[0].shape == (6, 28, 28)


def test_legacy_file_is_not_read_unverified(tmp_path):
    processed = fill(tmp_path, "MNIST", raw=NAMES).with_name("processed")
    processed.mkdir()
    for name in ("training.pt", "test.pt"):
        torch.save((torch.zeros(1), torch.zeros(1)), processed / name)
    with pytest.raises(UserError, match=r"training\.pt would be read unverified .*: delete it"):
        read(tmp_path)


# The embedded subset and the configuration files.


@pytest.mark.parametrize(("train", "first"), [(True, [5, 0, 4, 1, 9]), (False, [7, 2, 1, 0, 4])])
def test_embedded_subset(train, first):
    config = yaml.safe_load((CONF / "mnist10k.yaml").read_text())
    images, labels = read(config["root"], md5=config["source"]["md5"], train=train)
    assert (images.dtype, labels.dtype) == (torch.uint8, torch.int64)
    assert len(images) == len(labels) == config["num_train" if train else "num_test"] == 10_000
    counts = labels.bincount(minlength=config["num_classes"])
    assert counts.sum() == 10_000
    assert len(counts) == 10
    assert counts.min() > 800
    assert labels[:5].tolist() == first
    scaled = images.double() / 255
    assert scaled.mean() == pytest.approx(config["mean"], abs=3e-3)
    assert scaled.std() == pytest.approx(config["std"], abs=3e-3)


def test_embedded_md5s_are_those_of_the_configuration():
    expected = yaml.safe_load((CONF / "mnist10k.yaml").read_text())["source"]["md5"]
    assert {name: md5_of((make_mnist10k.RAW / name).read_bytes()) for name in NAMES} == expected
    assert make_mnist10k.RAW == module.PACKAGED / "MNIST" / "raw"


@pytest.mark.parametrize(("dataset", "present"), [("MNIST", NAMES[1:]), ("FashionMNIST", ())])
def test_package_is_never_completed(tmp_path, monkeypatch, downloads, dataset, present):
    monkeypatch.setattr(module, "PACKAGED", tmp_path)
    fill(tmp_path, "MNIST", raw=NAMES[1:])
    missing = [name for name in NAMES if name not in present]
    with pytest.raises(UserError, match=f"{dataset}/raw lacks {', '.join(missing)}: reinstall ireg, or set data.root"):
        read(None, dataset=dataset)
    assert downloads == []
    assert not list(tmp_path.glob("*.lock"))


def test_damaged_package_is_to_be_reinstalled(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PACKAGED", tmp_path)
    (fill(tmp_path, "MNIST", raw=NAMES) / NAMES[0]).write_bytes(b"")
    with pytest.raises(UserError, match=f"{NAMES[0]} has md5 .*: reinstall ireg"):
        read(None)


@pytest.mark.parametrize(
    ("name", "dataset", "root", "num_train"),
    [
        ("mnist10k", "MNIST", None, 10_000),
        ("mnist", "MNIST", "data", 60_000),
        ("fashion_mnist", "FashionMNIST", "data", 60_000),
        ("kmnist", "KMNIST", "data", 60_000),
    ],
)
def test_configuration(name, dataset, root, num_train):
    config = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    source = config.pop("source")
    md5 = source.pop("md5")
    assert source == {
        "_target_": "ireg.data.idx.idx", "_partial_": True, "dataset": dataset, "root": "${data.root}",
    }  # fmt: skip
    assert dataset in module.DATASETS
    assert md5 is None if dataset == "KMNIST" else set(md5) == set(NAMES)
    assert config.pop("mean") < config.pop("std") < 0.4
    assert config == {"name": name, "root": root, "num_train": num_train, "num_test": 10_000, "num_classes": 10}


def test_configuration_of_full_mnist_has_the_originals_md5():
    assert yaml.safe_load((CONF / "mnist.yaml").read_text())["source"]["md5"] == make_mnist10k.ORIGINAL_MD5


# The script that made the subset.


@pytest.fixture
def originals(tmp_path, monkeypatch):
    """Fake originals, two raw and two gzipped, of which the script keeps four examples."""
    monkeypatch.setattr(make_mnist10k, "ORIGINAL_MD5", MD5)
    monkeypatch.setattr(subset, "NUM_EXAMPLES", 4)
    return fill(tmp_path, "originals", raw=NAMES[:2], gz=NAMES[2:])


def test_script_cuts_and_repeats_itself(tmp_path, originals):
    out = tmp_path / "MNIST" / "raw"
    first = subset.make(originals, out, MD5, packed=False)
    written = {path.name: path.read_bytes() for path in out.iterdir()}
    assert first == {name: md5_of(content) for name, content in written.items()}
    assert set(first) == set(NAMES)
    images, labels = read(tmp_path, md5=first)
    assert images.numpy().tobytes() == CONTENT[NAMES[0]][16 : 16 + 4 * 784]
    assert bytes(labels.tolist()) == CONTENT[NAMES[1]][8:12]
    assert written[NAMES[2]] == CONTENT[NAMES[2]]  # three examples: fewer than it may keep
    assert subset.make(originals, out, MD5, packed=False) == first
    assert {path.name: path.read_bytes() for path in out.iterdir()} == written


def test_script_prints_the_md5s(tmp_path, originals, monkeypatch, capsys):
    monkeypatch.setattr(make_mnist10k, "RAW", tmp_path / "out")
    make_mnist10k.main([str(originals)])
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed == {name: md5_of((tmp_path / "out" / name).read_bytes()) for name in NAMES}


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        (NAMES[0], b"other", f"{NAMES[0]} in .* has md5 {md5_of(b'other')}, expected {MD5[NAMES[0]]}"),
        (f"{NAMES[2]}.gz", PACKED[NAMES[2]][:-9], f"{NAMES[2]}.gz is truncated or damaged"),
        (f"{NAMES[3]}.gz", None, f"gives neither {NAMES[3]} nor {NAMES[3]}.gz"),
    ],
)
def test_script_refuses_wrong_originals(tmp_path, originals, monkeypatch, name, content, line):
    monkeypatch.setattr(make_mnist10k, "RAW", tmp_path / "out")
    (originals / name).unlink() if content is None else (originals / name).write_bytes(content)
    with pytest.raises(UserError, match=line):
        subset.make(originals, tmp_path / "out", MD5, packed=False)
    with pytest.raises(SystemExit, match=line):
        make_mnist10k.main([str(originals)])
    assert not (tmp_path / "out").exists()


def test_script_wants_one_folder():
    with pytest.raises(SystemExit, match=r"usage: .*make_mnist10k FOLDER"):
        make_mnist10k.main([])
