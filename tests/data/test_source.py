import functools

import pytest
import torch

from ireg.data.source import read_split
from ireg.lit.data import NoisyImages
from ireg.system.errors import UserError

IMAGES = torch.zeros(6, 4, 4, dtype=torch.uint8)
LABELS = torch.arange(6) % 3
PAIR = r"must be a pair \(images, labels\)"


def read(returned):
    return read_split(lambda *, train: returned, "train", num_examples=6, num_classes=3)


@pytest.mark.parametrize(
    "images", [IMAGES, IMAGES.reshape(6, 1, 4, 4), torch.zeros(6, 3, 5, 4, dtype=torch.uint8), IMAGES - 1.5]
)
def test_what_the_contract_says_is_taken_as_it_is(images):
    taken = read([images, LABELS])
    assert taken[0] is images
    assert taken[1] is LABELS


@pytest.mark.parametrize(
    ("returned", "line"),
    [
        (None, f"returned None; {PAIR}"),
        ((IMAGES, LABELS, 1), f"returned tuple of 3; {PAIR}"),
        ({"images": IMAGES}, f"returned dict; {PAIR}"),
        (torch.utils.data.TensorDataset(IMAGES, LABELS), f"returned torch.utils.data.*TensorDataset; {PAIR}"),
        ((IMAGES.numpy(), LABELS), "images are numpy.ndarray; must be a tensor, as from torch.from_numpy"),
        ((IMAGES, LABELS.numpy()), "labels are numpy.ndarray; must be a tensor"),
        ((IMAGES, LABELS.tolist()), "labels are list of 6; must be a tensor, .* or torch.tensor"),
        ((IMAGES.double(), LABELS), "images are float64; must be uint8 from 0 to 255, or float32"),
        ((IMAGES / 0, LABELS), "96 numbers of the images are not finite; must be finite"),
        ((IMAGES, LABELS.int()), r"labels are int32; must be int64: labels.to\(torch.int64\)"),
        ((IMAGES, LABELS.to(torch.uint8)), "labels are uint8; must be int64"),
        ((IMAGES, LABELS.float()), "labels are float32; must be int64"),
        ((IMAGES.to("meta"), LABELS), r"images are on meta; must be on the CPU: images.cpu\(\)"),
        ((IMAGES, LABELS[:, None]), r"labels of shape \(6, 1\); must be \(N,\): labels.flatten\(\)"),
        ((IMAGES, torch.eye(6, 3).long()), r"labels of shape \(6, 3\); must be \(N,\): labels.argmax\(1\)"),
        ((IMAGES, LABELS[:5]), "6 images and 5 labels; must be as many"),
        ((IMAGES[0], LABELS), r"images of shape \(4, 4\); must be \(N, H, W\) or \(N, C, H, W\), none of them 0"),
        ((IMAGES[:0], LABELS[:0]), r"images of shape \(0, 4, 4\); must be"),
        ((IMAGES, LABELS + 1), r"labels from 1 to 3; must be in \[0, 3\)"),
        ((IMAGES, 2 * LABELS - 1), r"labels from -1 to 3; must be in \[0, 3\)"),
        ((IMAGES, LABELS - 1), r"labels from -1 to 1; must be in \[0, 3\)"),
    ],
)
def test_anything_else_is_one_line_with_what_came_and_what_is_expected(returned, line):
    with pytest.raises(UserError, match=rf"^data.source \(.*read.*\) with train=True: {line}") as error:
        read(returned)
    assert "\n" not in str(error.value)


def raising(*, train, kind):
    raise kind("no\nsuch file")


@pytest.mark.parametrize("kind", [RuntimeError, KeyError, FileNotFoundError])
def test_an_error_of_the_source_is_named_with_the_source(kind):
    with pytest.raises(UserError, match=rf"raising\) with train=False: raised {kind.__name__}: .*no.*such file"):
        read_split(functools.partial(raising, kind=kind), "test", num_examples=6, num_classes=3)


def test_a_source_that_was_called_already_is_refused():
    with pytest.raises(UserError, match="must be a function, got tuple of 2; beside _target_ add _partial_: true"):
        read_split((IMAGES, LABELS), "train", num_examples=6, num_classes=3)


def test_an_error_in_the_users_words_stays():
    with pytest.raises(UserError, match="^put the file there$"):
        read_split(lambda train: raising(train=train, kind=lambda _: UserError("put the file there")), "test",
                   num_examples=6, num_classes=3)  # fmt: skip


@pytest.mark.parametrize("test", [torch.zeros(6, 4, 5), torch.zeros(6, 2, 4, 4)])
def test_both_splits_have_images_of_one_shape(test):
    data = NoisyImages(
        lambda *, train: (IMAGES if train else test.to(torch.uint8), LABELS),
        **{"num_train": 6, "num_test": 6, "num_classes": 3, "batch_size": 2, "seed": 0},
        **{"noise_kind": "none", "noise_rate": 0.0, "noise_seed": 0},
    )
    with pytest.raises(UserError, match=r"data.source: images of shape \(1, 4, 4\) for training and .* for the test"):
        data.setup()
