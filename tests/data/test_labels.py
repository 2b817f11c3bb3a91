import pytest
import torch

from ireg.core.random import named_generator
from ireg.data.labels import NOISE_KINDS, corrupt

LABELS = torch.arange(1000) % 10


def make(kind="symmetric", rate=0.3, seed=0, labels=LABELS, num_classes=10):
    return corrupt(labels, rate=rate, num_classes=num_classes, kind=kind, generator=named_generator("noise", seed))


@pytest.mark.parametrize("rate", [0.0, 0.25, 0.3, 1.0])
@pytest.mark.parametrize("kind", ["symmetric", "pairflip"])
def test_the_share_of_wrong_labels_is_exact(kind, rate):
    noisy = make(kind, rate)
    assert int(noisy.corrupted.sum()) == round(rate * 1000)
    assert torch.equal(noisy.corrupted, noisy.observed != LABELS)
    assert torch.equal(noisy.clean, LABELS)
    assert 0 <= int(noisy.observed.min())
    assert int(noisy.observed.max()) < 10


def test_odd_counts_are_rounded():
    assert int(make(labels=LABELS[:15], rate=0.3).corrupted.sum()) == round(4.5)


def test_symmetric_draws_every_other_class():
    labels = torch.zeros(9000, dtype=torch.long)
    counts = make(rate=1.0, labels=labels).observed.bincount(minlength=10)
    assert counts[0] == 0
    # 9 classes of 1000 expected, standard deviation 30: 5 of them
    assert int(counts[1:].min()) > 850
    assert int(counts[1:].max()) < 1150


def test_uniform_may_draw_the_true_class_again():
    noisy = make("uniform", 1.0, labels=torch.zeros(10_000, dtype=torch.long))
    share = float(noisy.corrupted.double().mean())
    assert abs(share - 0.9) < 5 * (0.9 * 0.1 / 10_000) ** 0.5
    assert int(noisy.observed.bincount(minlength=10).min()) > 850


def test_pairflip_takes_the_next_class():
    noisy = make("pairflip", 1.0)
    assert torch.equal(noisy.observed, (LABELS + 1) % 10)


def test_none_changes_nothing():
    noisy = make("none", 0.9)
    assert torch.equal(noisy.observed, LABELS)
    assert not noisy.corrupted.any()


@pytest.mark.parametrize("kind", NOISE_KINDS)
def test_the_seed_decides_and_the_input_is_left_alone(kind):
    labels, state = LABELS.clone(), torch.get_rng_state()
    first, again, other = make(kind, labels=labels), make(kind, labels=labels), make(kind, seed=1, labels=labels)
    assert torch.equal(first.observed, again.observed)
    assert torch.equal(labels, LABELS)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.observed, other.observed) == (kind == "none")
    labels += 1  # what is returned is no view of it
    assert torch.equal(first.clean, LABELS)
    assert torch.equal(first.observed, again.observed)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"rate": 1.5}, r"rate=1.5: must be in \[0, 1\]"),
        ({"rate": -0.1}, r"rate=-0.1: must be in \[0, 1\]"),
        ({"num_classes": 1}, "num_classes=1: must be at least 2"),
        ({"kind": "salt"}, "kind='salt': unknown; choose one of symmetric, uniform, pairflip, none"),
        ({"num_classes": 9}, r"labels from 0 to 9: must be in \[0, 9\)"),
    ],
)
def test_errors(arguments, match):
    with pytest.raises(ValueError, match=match):
        make(**arguments)
