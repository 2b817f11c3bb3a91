"""The scripts that made the embedded data."""

import gzip
import hashlib

import pytest
import yaml

from ireg.assets import make_digits, subset
from ireg.data import digests, packed
from ireg.data.idx import idx
from ireg.system.errors import UserError
from tests.conftest import ROOT
from tests.data.idx_files import CONTENT, MD5, NAMES, PACKED, fill, md5_of


@pytest.fixture
def originals(tmp_path, monkeypatch):
    """Small originals, two raw and two gzipped, of which the script keeps four examples."""
    monkeypatch.setattr(subset, "ORIGINAL_MD5", {"MNIST": MD5, "FashionMNIST": MD5})
    monkeypatch.setattr(subset, "NUM_EXAMPLES", 4)
    monkeypatch.setattr(packed, "PACKAGED", tmp_path / "assets")
    return fill(tmp_path, "originals", raw=NAMES[:2], gz=NAMES[2:])


@pytest.mark.parametrize("dataset", ["MNIST", "FashionMNIST"])
def test_the_script_cuts_and_repeats_itself(tmp_path, originals, capsys, dataset):
    out = tmp_path / "assets" / dataset / "raw"
    subset.main([dataset, str(originals)])
    md5 = yaml.safe_load(capsys.readouterr().out)
    written = {path.name: path.read_bytes() for path in out.iterdir()}
    assert all(name.endswith(".gz") == (dataset != "MNIST") for name in written)
    images, labels = idx(dataset=dataset, root=None, md5=md5, train=True)
    assert images.numpy().tobytes() == CONTENT[NAMES[0]][16 : 16 + 4 * 784]
    assert bytes(labels.tolist()) == CONTENT[NAMES[1]][8:12]
    assert md5[NAMES[2]] == MD5[NAMES[2]]  # three examples: fewer than it may keep
    subset.main([dataset, str(originals)])
    assert {path.name: path.read_bytes() for path in out.iterdir()} == written


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        (NAMES[0], b"other", f"{NAMES[0]} in .* has md5 {md5_of(b'other')}, expected {MD5[NAMES[0]]}"),
        (f"{NAMES[2]}.gz", PACKED[NAMES[2]][:-9], f"{NAMES[2]}.gz is truncated or damaged"),
        (f"{NAMES[3]}.gz", None, f"gives neither {NAMES[3]} nor {NAMES[3]}.gz"),
    ],
)
def test_the_script_refuses_wrong_originals(tmp_path, originals, name, content, line):
    (originals / name).unlink() if content is None else (originals / name).write_bytes(content)
    with pytest.raises(SystemExit, match=line):
        subset.main(["MNIST", str(originals)])
    assert not (tmp_path / "assets").exists()


def test_the_script_refuses_a_forged_original(tmp_path, originals, monkeypatch):
    monkeypatch.setattr(digests, "SHA256", {MD5[NAMES[1]]: "0" * 64})
    with pytest.raises(UserError, match=f"{NAMES[1]} in .* has the right md5 but sha256 .*, expected 0{{64}}: get"):
        subset.make(originals, tmp_path / "assets", MD5, packed=True)
    assert not (tmp_path / "assets").exists()


@pytest.mark.parametrize("arguments", [[], ["MNIST"], ["Digits", "folder"]])
def test_the_script_wants_a_data_set_and_a_folder(arguments):
    with pytest.raises(SystemExit, match=r"usage: .*subset MNIST\|FashionMNIST FOLDER"):
        subset.main(arguments)


@pytest.mark.parametrize(("dataset", "name"), [("MNIST", "mnist"), ("FashionMNIST", "fashion_mnist")])
def test_the_originals_are_those_of_the_full_set(dataset, name):
    config = yaml.safe_load((ROOT / "conf" / "data" / f"{name}.yaml").read_text())
    assert config["source"]["md5"] == subset.ORIGINAL_MD5[dataset]


def test_the_script_of_the_digits(tmp_path, monkeypatch, capsys):
    lines = [",".join(str((pixel + row) % 17) for pixel in range(64)) + f",{row % 10}" for row in range(1440)]
    content = "\n".join(lines).encode()
    original = tmp_path / "digits.csv.gz"
    original.write_bytes(gzip.compress(content))
    monkeypatch.setattr(make_digits, "RAW", tmp_path / "Digits" / "raw")
    with pytest.raises(SystemExit, match="content of .* has md5 .*, expected .*: give scikit-learn's digits.csv.gz"):
        make_digits.main([str(original)])
    monkeypatch.setattr(make_digits, "ORIGINAL_MD5", hashlib.md5(content).hexdigest())
    with monkeypatch.context() as forged:
        forged.setattr(digests, "SHA256", {make_digits.ORIGINAL_MD5: "0" * 64})
        with pytest.raises(SystemExit, match="has the right md5 but sha256 .*, expected 0{64}: give scikit-learn's"):
            make_digits.main([str(original)])
    assert not (tmp_path / "Digits").exists()
    make_digits.main([str(original)])
    md5 = yaml.safe_load(capsys.readouterr().out)
    images, labels = packed.packed(dataset="Digits", root=tmp_path, md5=md5, train=False)
    assert labels.tolist() == [7, 8, 9]  # of the lines from 1437 on
    assert images[0, 0, :3].tolist() == [(number * 255 + 8) // 16 for number in (1437 % 17, 1438 % 17, 1439 % 17)]
    original.write_bytes(b"no gzip")
    with pytest.raises(SystemExit, match="digits.csv.gz is truncated or damaged"):
        make_digits.main([str(original)])
    with pytest.raises(SystemExit, match="digits.csv.gz: cannot be read|cannot be read"):
        make_digits.main([str(tmp_path / "nowhere")])
    with pytest.raises(SystemExit, match="usage: .*make_digits digits.csv.gz"):
        make_digits.main([])
