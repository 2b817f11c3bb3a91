"""The table of sha256, and what is compared with it."""

import gzip
import hashlib
import io
import re

import pytest
import yaml
from torchvision.datasets import CIFAR10, KMNIST, MNIST, FashionMNIST

from ireg.assets import make_digits
from ireg.data import digests
from ireg.data.packed import PACKAGED
from ireg.system.errors import UserError
from tests.conftest import ROOT


def test_the_packages_own_files_are_listed_as_they_are():
    paths = [path for path in PACKAGED.glob("*/raw/*") if path.is_file()]
    contents = [gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes() for path in paths]
    assert len(contents) == 13
    for content in contents:
        assert digests.SHA256[hashlib.md5(content).hexdigest()] == hashlib.sha256(content).hexdigest()


def test_every_file_that_is_read_or_downloaded_is_listed():
    named = [md5 for reader in (MNIST, FashionMNIST, KMNIST) for _, md5 in reader.resources]
    named += [CIFAR10.tgz_md5, CIFAR10.meta["md5"], make_digits.ORIGINAL_MD5]
    named += [md5 for _, md5 in CIFAR10.train_list + CIFAR10.test_list]
    for path in (ROOT / "conf" / "data").glob("*.yaml"):
        named += (yaml.safe_load(path.read_text(encoding="utf-8"))["source"].get("md5") or {}).values()
    assert set(named) == set(digests.SHA256)
    assert all(re.fullmatch("[0-9a-f]{64}", sha256) for sha256 in digests.SHA256.values())
    assert len(set(digests.SHA256.values())) == len(digests.SHA256) == 38


def test_both_digests_are_of_the_whole_file(monkeypatch):
    monkeypatch.setattr(digests, "CHUNK", 3)
    # NIST's and RFC 1321's own examples.
    assert digests.digests(io.BytesIO(b"abc")) == (
        "900150983cd24fb0d6963f7d28e17f72",
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    )
    alphabet = bytes(range(ord("a"), ord("z") + 1))
    assert digests.digests(io.BytesIO(alphabet))[0] == "c3fcd3d76192e4007dfb496cca67e13b"


@pytest.mark.parametrize("as_file", [True, False])
def test_what_is_refused(tmp_path, monkeypatch, as_file):
    content = b"abc"
    if as_file:
        content = tmp_path / "file"
        content.write_bytes(b"abc")
    md5, sha256 = digests.digests(io.BytesIO(b"abc"))
    digests.require("it", content, md5, "do that")  # not listed: the md5 alone
    with pytest.raises(UserError, match=f"^it has md5 {md5}, expected 1: do that$"):
        digests.require("it", content, "1", "do that")
    monkeypatch.setattr(digests, "SHA256", {md5: sha256})
    digests.require("it", content, md5, "do that")
    monkeypatch.setattr(digests, "SHA256", {md5: sha256[:-1] + "0"})
    with pytest.raises(UserError, match=f"^it has the right md5 but sha256 {sha256}, expected {sha256[:-1]}0: do"):
        digests.require("it", content, md5, "do that")
