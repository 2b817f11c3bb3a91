"""CIFAR-10's format, on small files that are made here."""

import hashlib
import io
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10

from ireg.data import cifar as module
from ireg.data import digests
from ireg.data.cifar import cifar10
from ireg.system.errors import UserError


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


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (Path.unlink, "lacks a file, or holds one with another md5 .*: delete the folder and run"),
        (lambda path: path.write_bytes(b"other"), "data_batch_2 has md5 .*, expected .*: delete the folder and run"),
    ],
)
def test_every_file_is_compared_each_time(tmp_path, made, damage, match):
    folder = write(tmp_path, made[0])
    cifar10(root=tmp_path, train=False)
    damage(folder / "data_batch_2")
    with pytest.raises(UserError, match=match):
        cifar10(root=tmp_path, train=False)


def packed(members):
    """A gzipped archive of (name, content) or of TarInfos."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                entry = tarfile.TarInfo(member[0])
                entry.size = len(member[1])
                archive.addfile(entry, io.BytesIO(member[1]))
    return packed.getvalue()


def whole(files):
    return [(f"{CIFAR10.base_folder}/{name}", content) for name, content in files.items()]


def linked(name, target, kind=tarfile.SYMTYPE):
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, target
    return entry


@pytest.fixture
def brings(monkeypatch):
    """Let a download bring an archive, whose md5 and sha256 are taken for CIFAR-10's."""

    def brings(archive):
        md5 = hashlib.md5(archive).hexdigest()

        def download(url, root, *, filename, md5):
            assert (url, md5) == (CIFAR10.url, CIFAR10.tgz_md5)
            Path(root, filename).write_bytes(archive)

        monkeypatch.setattr(CIFAR10, "tgz_md5", md5)
        monkeypatch.setattr(digests, "SHA256", {md5: hashlib.sha256(archive).hexdigest()})
        monkeypatch.setattr(module, "download_url", download)

    return brings


def test_a_download_comes_whole_or_not_at_all(tmp_path, made, monkeypatch, brings):
    files, pixels = made

    def broken(url, root, *, filename, md5):
        Path(root, filename).write_bytes(b"half")
        raise OSError("no network")

    monkeypatch.setattr(module, "download_url", broken)
    with pytest.raises(UserError, match="could not be downloaded: unpack cifar-10-python.tar.gz into .*no network"):
        cifar10(root=tmp_path / "data", train=True)
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["CIFAR10.lock"]
    brings(packed(whole(files)))
    assert torch.equal(cifar10(root=tmp_path / "data", train=False)[0], pixels[4:])
    assert {path.name for path in (tmp_path / "data").iterdir()} == {"CIFAR10.lock", CIFAR10.base_folder}
    monkeypatch.setattr(module, "download_url", broken)  # what is there is not brought again
    assert torch.equal(cifar10(root=tmp_path / "data", train=True)[0], pixels[:4])


class Trap:
    """A pickle that makes a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def everything(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


EVIL = [
    pytest.param(lambda outside: [("../../../evil", b"evil")], "outside the destination", id="parent"),
    pytest.param(lambda outside: [(f"{CIFAR10.base_folder}/../../../../evil", b"")], "outside the dest", id="inner"),
    pytest.param(lambda outside: [linked(f"{CIFAR10.base_folder}/x", str(outside))], "absolute path", id="link"),
    pytest.param(lambda outside: [linked("x", "../../..")], "outside the destination", id="relative link"),
    pytest.param(
        lambda outside: [linked("x", "../../../outside/mine", tarfile.LNKTYPE)], "outside the dest", id="hard link"
    ),
    pytest.param(lambda outside: [linked("x", "", tarfile.CHRTYPE)], "is a special file", id="device"),
]


@pytest.mark.parametrize(("evil", "reason"), EVIL)
def test_an_archive_writes_nothing_outside(tmp_path, made, brings, evil, reason):
    outside, data = tmp_path / "outside", tmp_path / "data"
    outside.mkdir()
    (outside / "mine").write_bytes(b"mine")
    brings(packed([*evil(outside), *whole(made[0])]))
    with pytest.raises(UserError, match=f"the downloaded cifar-10-python.tar.gz is not unpacked .*{reason}") as error:
        cifar10(root=data, train=True)
    assert "\n" not in str(error.value)
    assert everything(tmp_path) == {Path("outside/mine"): b"mine", Path("data/CIFAR10.lock"): b""}


def test_an_absolute_path_stays_inside(tmp_path, made, brings):
    """The filter makes it relative; what is not in CIFAR-10's own folder is left out."""
    brings(packed([(str(tmp_path / "evil"), b"evil"), *whole(made[0])]))
    cifar10(root=tmp_path / "data", train=True)
    assert {path.name for path in tmp_path.iterdir()} == {"data"}
    assert {path.name for path in (tmp_path / "data").iterdir()} == {"CIFAR10.lock", CIFAR10.base_folder}


def test_a_forged_archive_is_not_unpacked(tmp_path, made, brings, monkeypatch):
    archive = packed(whole(made[0]))
    brings(archive)
    monkeypatch.setattr(digests, "SHA256", {CIFAR10.tgz_md5: "0" * 64})
    monkeypatch.setattr(tarfile, "open", lambda *args: pytest.fail("opened before it was compared"))
    found = hashlib.sha256(archive).hexdigest()
    with pytest.raises(UserError, match=f"the downloaded .*gz has the right md5 but sha256 {found}, expected 0+: try"):
        cifar10(root=tmp_path, train=True)
    assert [path.name for path in tmp_path.iterdir()] == ["CIFAR10.lock"]


@pytest.mark.parametrize("name", ["data_batch_1", "test_batch", "batches.meta"])
@pytest.mark.parametrize("downloaded", [True, False])
def test_a_forged_batch_is_not_unpickled(tmp_path, made, brings, monkeypatch, name, downloaded):
    trap = tmp_path / "unpickled"
    files = made[0] | {name: pickled(Trap(trap))}
    if downloaded:
        brings(packed(whole(files)))
    else:
        write(tmp_path / "data", files)
    with pytest.raises(UserError, match=f"{name} has md5 .*, expected .*: delete the folder and run again"):
        cifar10(root=tmp_path / "data", train=True)
    # Of the right md5, too: what torchvision would unpickle.
    md5 = hashlib.md5(files[name]).hexdigest()
    for kind in ("train_list", "test_list"):
        entries = [[entry, md5 if entry == name else old] for entry, old in getattr(CIFAR10, kind)]
        monkeypatch.setattr(CIFAR10, kind, entries)
    if name == "batches.meta":
        monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": md5})
    monkeypatch.setattr(digests, "SHA256", digests.SHA256 | {md5: "0" * 64})
    with pytest.raises(UserError, match=f"{name} has the right md5 but sha256 .*, expected 0+: delete the folder"):
        cifar10(root=tmp_path / "data", train=True)
    assert not trap.exists()
    assert (tmp_path / "data" / CIFAR10.base_folder).exists() != downloaded
    # The control: with the table empty it is unpickled.
    monkeypatch.setattr(digests, "SHA256", {})
    with pytest.raises((UserError, TypeError, AttributeError)):
        cifar10(root=tmp_path / "data", train=name != "test_batch")
    assert trap.exists()


@pytest.mark.parametrize(
    ("archive", "match"),
    [
        (packed([("else", b"")]), "holds no cifar-10-batches-py: try again later"),
        (b"no archive", "is not unpacked .*: try again later"),
        (packed([("cifar-10-batches-py/test_batch", bytes(range(256)) * 99)])[:-40], "is not unpacked .*: try again"),
        (
            packed([("cifar-10-batches-py/test_batch", bytes(range(256)) * 99)])[:99] + bytes(99),
            "is not unpacked .*: try",
        ),
    ],
    ids=["of something else", "none", "torn", "torn within"],
)
def test_an_archive_of_something_else_is_refused(tmp_path, made, brings, archive, match):
    brings(archive)
    with pytest.raises(UserError, match=f"the downloaded cifar-10-python.tar.gz {match}") as error:
        cifar10(root=tmp_path, train=True)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["CIFAR10.lock"]


def test_a_python_without_the_filter_unpacks_nothing(tmp_path, made, brings, monkeypatch):
    brings(packed(whole(made[0])))
    monkeypatch.delattr(tarfile, "data_filter")
    with pytest.raises(UserError, match="cifar-10-python.tar.gz is not unpacked by a Python before 3.11.4; use a"):
        cifar10(root=tmp_path, train=True)
    assert [path.name for path in tmp_path.iterdir()] == ["CIFAR10.lock"]


def test_places_that_cannot_be_used(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file cannot be used .*: repair it or set another data.root"):
        cifar10(root=tmp_path / "file", train=True)
    with pytest.raises(UserError, match="data.root=null: CIFAR-10 does not come with the package; name a folder"):
        cifar10(root=None, train=True)


def test_file_systems_without_locks(tmp_path, monkeypatch):
    from ireg.system.locks import NoLocksError

    def refused(path):
        raise NoLocksError("this file system has no locks; use another folder")

    monkeypatch.setattr("ireg.data.cifar.held", refused)
    with pytest.raises(UserError, match="this file system has no locks; use another folder with data.root="):
        cifar10(root=tmp_path, train=True)
