"""A text as blocks of characters: where it is split, and what is refused."""

import gzip
import hashlib

import pytest
import torch
import yaml

from ireg.data.packed import PACKAGED
from ireg.data.text import blocks_of, read_blocks, text
from ireg.system.errors import UserError
from tests.conftest import ROOT

SETTINGS = yaml.safe_load((ROOT / "conf" / "data" / "shakespeare.yaml").read_text())
CONTENT = gzip.decompress((PACKAGED / "Shakespeare" / "raw" / "plays.txt.gz").read_bytes()).decode()
ALPHABET = sorted(set(CONTENT))


def words(characters):
    return "".join(ALPHABET[number] for number in characters.flatten().tolist())


def plays(*, train, context=64):
    return text(dataset="Shakespeare", root=None, md5=SETTINGS["source"]["md5"], context=context, train=train)


def test_the_plays_are_those_of_the_file():
    assert hashlib.md5(CONTENT.encode()).hexdigest() == "ea646106b3843ac52472a48a97de2b57"
    assert (len(CONTENT), len(ALPHABET)) == (1_036_491, 76) == (SETTINGS["num_train"] + SETTINGS["num_test"], 76)
    assert CONTENT.startswith("HAMLET, PRINCE OF DENMARK")


@pytest.mark.parametrize(("train", "start", "length"), [(True, 0, 932_841), (False, 932_841, 103_650)])
def test_blocks_are_the_characters_of_their_split_and_those_that_follow(train, start, length):
    blocks, following = plays(train=train)
    count = (length - 1) // 64
    assert blocks.shape == following.shape == (count, 64)
    assert words(blocks) == CONTENT[start : start + 64 * count]
    assert words(following) == CONTENT[start + 1 : start + 64 * count + 1]
    assert start + 64 * count + 1 <= start + length  # no character of the other split


def packed(folder, content, name="plays.txt"):
    raw = folder / "Own" / "raw"
    raw.mkdir(parents=True)
    (raw / f"{name}.gz").write_bytes(gzip.compress(content))
    return {name: hashlib.md5(content).hexdigest()}


def read(folder, md5, context=2):
    return text(dataset="Own", root=folder, md5=md5, context=context, train=True)


def test_a_text_of_ones_own_is_read_in_unicode(tmp_path):
    md5 = packed(tmp_path, "äbcäbcäbcä".encode())
    blocks, following = read(tmp_path, md5)
    assert blocks.tolist() == [[2, 0], [1, 2], [0, 1], [2, 0]]  # of nine characters eight have one that follows
    assert following.tolist() == [[0, 1], [2, 0], [1, 2], [0, 1]]


def test_what_is_no_such_text_is_refused(tmp_path):
    md5 = packed(tmp_path, b"abcabcabca")
    with pytest.raises(UserError, match=r"plays.txt.gz has md5 .*, expected 0: reinstall ireg, or set data.root="):
        read(tmp_path, {"plays.txt": "0"})
    with pytest.raises(UserError, match=r"^data.context=9: must be below 9, the characters of a split$"):
        read(tmp_path, md5, context=9)
    with pytest.raises(UserError, match=r"other.txt.gz cannot be read .*: reinstall"):
        read(tmp_path, {"other.txt": "0"})
    path = tmp_path / "Own" / "raw" / "plays.txt.gz"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match="is truncated or damaged"):
        read(tmp_path, md5)


def test_other_encodings_are_refused(tmp_path):
    md5 = packed(tmp_path, "äbc".encode("latin-1"))
    with pytest.raises(UserError, match=r"plays.txt.gz holds no text in UTF-8 .*: save it as UTF-8"):
        read(tmp_path, md5)


def test_the_shortest_text_has_one_block():
    assert blocks_of(torch.arange(3), 2)[0].tolist() == [[0, 1]]
    with pytest.raises(UserError, match="data.context=2: must be below 2"):
        blocks_of(torch.arange(2), 2)


GOOD = torch.zeros(3, 2, dtype=torch.long)


@pytest.mark.parametrize(
    ("returned", "match"),
    [
        (GOOD, r"returned a Tensor; must be a pair \(blocks, characters that follow\)"),
        (
            (GOOD, GOOD[:2]),
            r"characters that follow are torch.int64 of shape \(2, 2\); must be int64 of shape \(3, 2\)",
        ),
        ((GOOD.float(), GOOD), r"blocks are torch.float32 of shape \(3, 2\); must be int64"),
        (([[0]], GOOD), "blocks are list; must be int64"),
        ((GOOD, GOOD + 5), r"characters from 5 to 5; must be in \[0, 5\), data.num_classes"),
        ((GOOD - 1, GOOD), r"characters from -1 to -1; must be in \[0, 5\)"),
    ],
)
def test_what_a_source_returns_is_checked(returned, match):
    with pytest.raises(UserError, match=match):
        read_blocks(lambda *, train: returned, "train", num_examples=3, context=2, num_classes=5)


def test_a_good_source_is_read():
    assert read_blocks(lambda *, train: (GOOD, GOOD), "test", num_examples=3, context=2, num_classes=5) == (GOOD, GOOD)
