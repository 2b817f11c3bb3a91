from itertools import combinations

import numpy as np
import pytest
import torch

from ireg.data.batches import Batches, IndependentBatches, ShuffledBatches, subset
from ireg.lit.data import NoisyImages
from ireg.system.errors import UserError

IMAGES = torch.arange(30 * 4 * 4).remainder(256).to(torch.uint8).reshape(30, 4, 4)
LABELS = torch.arange(30) % 10


def source(*, train):
    return (IMAGES, LABELS) if train else (IMAGES[:20], LABELS[:20])


def make(**arguments):
    defaults = {
        "num_train": 30,
        "num_test": 20,
        "num_classes": 10,
        "batch_size": 8,
        "seed": 0,
        "noise_kind": "symmetric",
        "noise_rate": 0.3,
        "noise_seed": 0,
    }
    data = NoisyImages(source, **(defaults | arguments))
    data.setup()
    return data


def test_pixels_lie_between_0_and_1_in_one_float_tensor():
    data = make()
    assert data.train_inputs.shape == (30, 1, 4, 4)
    assert data.train_inputs.dtype == torch.float32
    torch.testing.assert_close(data.train_inputs[:, 0] * 255, IMAGES.float())


def test_standardize():
    data = make(standardize=True, mean=0.5, std=0.25)
    torch.testing.assert_close(data.test_inputs[:, 0], (IMAGES[:20] / 255 - 0.5) / 0.25)


def colour(**arguments):
    data = NoisyImages(
        lambda *, train: (IMAGES.reshape(10, 3, 4, 4), LABELS[:10]),
        **{name: 10 for name in ("num_train", "num_test", "num_classes")},
        batch_size=2,
        seed=0,
        noise_kind="none",
        noise_rate=0.0,
        noise_seed=0,
        **arguments,
    )
    data.setup()
    return data


def test_channels_are_kept():
    assert colour().train_inputs.shape == (10, 3, 4, 4)
    assert (colour().input_shape, make().input_shape) == ((3, 4, 4), (1, 4, 4))


def test_channels_may_have_their_own_mean_and_deviation():
    means, deviations = [0.5, 0.25, 0.0], [0.25, 0.5, 1.0]
    found = colour(standardize=True, mean=means, std=deviations).train_inputs
    pixels = IMAGES.reshape(10, 3, 4, 4) / 255
    for channel, (mean, deviation) in enumerate(zip(means, deviations, strict=True)):
        torch.testing.assert_close(found[:, channel], (pixels[:, channel] - mean) / deviation)
    alike = colour(standardize=True, mean=[0.5] * 3, std=[0.25] * 3).train_inputs
    assert torch.equal(alike, colour(standardize=True, mean=0.5, std=0.25).train_inputs)


@pytest.mark.parametrize("key", ["mean", "std"])
def test_numbers_that_are_not_one_a_channel_are_refused(key):
    with pytest.raises(UserError, match=rf"data.{key}=\[1.0, 2.0\]: 2 numbers for images of 3 channels; give one, or"):
        colour(standardize=True, **{key: [1.0, 2.0]})


def test_setup_is_idempotent_and_a_function_of_the_arguments():
    data, twin = make(), make()
    observed = data.train_labels.observed.clone()
    data.setup()
    data.setup("fit")
    assert torch.equal(data.train_labels.observed, observed)
    assert torch.equal(twin.train_labels.observed, observed)
    assert int(data.train_labels.corrupted.sum()) == 9
    assert torch.equal(data.train_labels.clean, LABELS)


def test_noise_and_order_have_seeds_of_their_own():
    data, order, noise = make(), make(seed=1), make(noise_seed=1)
    assert torch.equal(data.train_labels.observed, order.train_labels.observed)
    assert not torch.equal(data.train_labels.observed, noise.train_labels.observed)
    assert _order(data) != _order(order)
    assert _order(data) == _order(noise)


def _order(data):
    return [index for indices in data.train_dataloader().indices(0) for index in indices.tolist()]


def test_test_labels_are_clean_unless_asked_otherwise():
    assert not make().test_labels.corrupted.any()
    noisy = make(test_noise_rate=0.5)
    assert int(noisy.test_labels.corrupted.sum()) == 10
    # its own stream: not the first labels of the training noise again
    assert not torch.equal(noisy.test_labels.corrupted, make(noise_rate=0.5).train_labels.corrupted[:20])


def test_a_subset_is_seeded_sorted_and_keeps_images_with_labels():
    data, twin, other = make(train_size=12), make(train_size=12), make(train_size=12, subset_seed=1)
    assert torch.equal(data.train_indices, twin.train_indices)
    assert not torch.equal(data.train_indices, other.train_indices)
    assert torch.equal(data.train_indices, data.train_indices.unique())
    assert torch.equal(data.train_labels.clean, LABELS[data.train_indices])
    torch.testing.assert_close(data.train_inputs[:, 0] * 255, IMAGES[data.train_indices].float())
    assert len(make(test_size=5).test_inputs) == 5


def test_held_out_examples_keep_their_noise_and_are_not_trained_on():
    whole, data, twin, other = make(), make(holdout=10), make(holdout=10), make(holdout=10, subset_seed=1)
    assert (len(data.train_inputs), len(data.holdout_inputs)) == (20, 10)
    both = torch.cat([data.train_indices, data.holdout_indices])
    assert torch.equal(both.sort().values, torch.arange(30))
    for split in ("train", "holdout"):
        indices = getattr(data, f"{split}_indices")
        torch.testing.assert_close(getattr(data, f"{split}_inputs"), whole.train_inputs[indices])
        for found, of_all in zip(getattr(data, f"{split}_labels"), whole.train_labels, strict=True):
            assert torch.equal(found, of_all[indices])
    assert torch.equal(data.holdout_indices, twin.holdout_indices)
    assert not torch.equal(data.holdout_indices, other.holdout_indices)
    assert sorted(_order(data)) == list(range(20))
    assert len(whole.holdout_inputs) == 0


def test_another_number_of_examples_is_refused():
    with pytest.raises(UserError, match="data.num_test=19: the source holds 20 test examples"):
        make(num_test=19)


def test_minibatches_cover_every_example_once_and_differ_by_epoch():
    loader = make().train_dataloader()
    assert isinstance(loader, ShuffledBatches)
    assert len(loader) == 4
    unset = torch.cat([indices for _, _, indices in loader]).tolist()
    epochs = []
    for epoch in (0, 1, 0):
        loader.sampler.set_epoch(epoch)
        batches = list(loader)
        assert [len(indices) for _, _, indices in batches] == [8, 8, 8, 6]
        order = torch.cat([indices for _, _, indices in batches])
        assert torch.equal(order.sort().values, torch.arange(30))
        for inputs, labels, indices in batches:
            assert torch.equal(inputs, loader.inputs[indices])
            assert torch.equal(labels, loader.labels[indices])
        epochs.append(order.tolist())
    assert epochs[0] == epochs[2] != epochs[1]
    assert unset == epochs[0]
    assert [torch.cat(loader.indices(epoch)).tolist() for epoch in (0, 1)] == epochs[:2]


def test_independent_minibatches_are_random_subsets_by_seed_and_epoch():
    loader = make(sampling="independent").train_dataloader()
    assert isinstance(loader, IndependentBatches)
    epochs = []
    for epoch in (0, 1, 0):
        loader.sampler.set_epoch(epoch)
        batches = list(loader)
        assert [len(indices) for _, _, indices in batches] == [8, 8, 8, 8] == [8] * len(loader)
        for inputs, labels, indices in batches:
            assert len(indices.unique()) == 8
            assert torch.equal(inputs, loader.inputs[indices])
            assert torch.equal(labels, loader.labels[indices])
        epochs.append(torch.cat([indices for _, _, indices in batches]).tolist())
    assert epochs[0] == epochs[2] != epochs[1]
    other = make(sampling="independent", seed=1).train_dataloader()
    assert torch.cat(list(other.indices(0))).tolist() != epochs[0]
    # Some examples come several times in an epoch, and some not at all.
    assert len(set(epochs[0])) < 30


def test_every_subset_has_the_same_chance():
    stream = torch.Generator().manual_seed(0)
    for size in (2, 4):  # drawn one by one, and by an order
        draws = 4000
        counts = dict.fromkeys(combinations(range(6), size), 0)
        for _ in range(draws):
            counts[tuple(sorted(subset(6, size, stream).tolist()))] += 1
        expected = draws / len(counts)
        assert sum((count - expected) ** 2 / expected for count in counts.values()) < 36.1  # 14 degrees: 0.1 %


def test_minibatches_are_independent_of_each_other():
    """Two of an epoch share as many examples as chance has it: 8 · 8/30 on the mean; those of an order none."""
    loader = make(sampling="independent").train_dataloader()
    shared = [
        len(set(first.tolist()) & set(second.tolist()))
        for epoch in range(200)
        for first, second in combinations(loader.indices(epoch), 2)
    ]
    assert np.mean(shared) == pytest.approx(64 / 30, abs=0.1)


def test_an_unknown_sampling_is_refused():
    with pytest.raises(ValueError, match="sampling='iid': must be one of epoch, independent"):
        make(sampling="iid")


def test_looking_at_an_epoch_moves_no_random_stream():
    loader = make().train_dataloader()
    state = torch.get_rng_state()
    np_state = np.random.get_state()[1].copy()
    list(loader)
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == np_state).all()


def test_no_batch_size_means_the_full_batch():
    assert [len(indices) for _, _, indices in make(batch_size=None).train_dataloader()] == [30]


def test_evaluation_takes_the_examples_in_order():
    data = make(eval_batch_size=16)
    test, train = data.val_dataloader(), data.train_batches()
    assert [type(loader) for loader in (test, train)] == [Batches, Batches]
    assert [len(labels) for _, labels, _ in test] == [16, 4]
    assert torch.equal(torch.cat([indices for _, _, indices in train]), torch.arange(30))
    assert torch.equal(torch.cat([labels for _, labels, _ in train]), data.train_labels.observed)
    assert (len(test), len(train)) == (2, 2)
