"""Read off a loader how its minibatches are drawn."""

import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from ireg.core.drawing import require_sampling, sampling_of
from ireg.data.batches import IndependentBatches, ShuffledBatches

DATA = TensorDataset(torch.arange(12.0)[:, None])


class Stream(IterableDataset):
    def __iter__(self):
        return iter([1.0, 2.0])


class Backwards(Sampler):
    def __iter__(self):
        return iter(range(11, -1, -1))

    def __len__(self):
        return 12


class Said(Backwards):
    sampling = "independent"


class Batches(BatchSampler):
    """May do anything with its sampler."""


EPOCH = {
    "in order": {"batch_size": 4},
    "shuffled": {"batch_size": 4, "shuffle": True},
    "sequential": {"batch_size": 4, "sampler": SequentialSampler(DATA)},
    "without replacement": {"batch_size": 4, "sampler": RandomSampler(DATA)},
    "two passes": {"batch_size": 4, "sampler": RandomSampler(DATA, num_samples=24)},
    "a subset": {"batch_size": 4, "sampler": SubsetRandomSampler([1, 3, 5, 7, 9])},
    "a rank's part": {"batch_size": 4, "sampler": DistributedSampler(DATA, num_replicas=2, rank=0)},
    "batches of an order": {"batch_sampler": BatchSampler(RandomSampler(DATA), 4, drop_last=True)},
    "batches by index": {"sampler": BatchSampler(RandomSampler(DATA), 4, False), "batch_size": None},
}
INDEPENDENT = {
    "with replacement": {"batch_size": 4, "sampler": RandomSampler(DATA, replacement=True)},
    "more than there are": {"batch_size": 4, "sampler": RandomSampler(DATA, replacement=True, num_samples=50)},
    "weighted": {"batch_size": 4, "sampler": WeightedRandomSampler([1.0] * 12, 12)},
    "batches of draws": {"batch_sampler": BatchSampler(RandomSampler(DATA, replacement=True), 4, False)},
    "by its own word": {"batch_size": 4, "sampler": Said()},
}
UNKNOWN = {
    "a sampler of one's own": {"batch_size": 4, "sampler": Backwards()},
    "a batch sampler of one's own": {"batch_sampler": Batches(RandomSampler(DATA), 4, False)},
    "weighted without replacement": {
        "batch_size": 4,
        "sampler": WeightedRandomSampler([1.0] * 12, 6, replacement=False),
    },
    "half a pass": {"batch_size": 4, "sampler": RandomSampler(DATA, num_samples=6)},
    "a pass and a half": {"batch_size": 4, "sampler": RandomSampler(DATA, num_samples=18)},
}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        *((case, "epoch") for case in EPOCH.values()),
        *((case, "independent") for case in INDEPENDENT.values()),
        *((case, None) for case in UNKNOWN.values()),
    ],
    ids=[*EPOCH, *INDEPENDENT, *UNKNOWN],
)
def test_a_loader(arguments, expected):
    loader = DataLoader(DATA, **arguments)
    assert sampling_of(loader) == expected
    assert len(list(loader)) > 1  # it is a loader that works


def test_what_is_no_loader_of_a_data_set():
    assert sampling_of(DataLoader(Stream())) is None
    assert sampling_of(iter([1])) is None
    assert sampling_of([torch.ones(1), torch.ones(1)]) == "epoch"
    assert sampling_of((torch.ones(1),)) == "epoch"
    inputs, labels = torch.ones(4, 1), torch.zeros(4, dtype=torch.long)
    assert sampling_of(ShuffledBatches(inputs, labels, batch_size=2, seed=0)) == "epoch"
    assert sampling_of(IndependentBatches(inputs, labels, batch_size=2, seed=0)) == "independent"


def test_the_answer_is_what_the_loader_does():
    """Of an epoch's examples none comes twice, of independent draws some do."""
    for arguments in (EPOCH["shuffled"], EPOCH["a subset"], INDEPENDENT["with replacement"], INDEPENDENT["weighted"]):
        torch.manual_seed(0)
        loader = DataLoader(DATA, **arguments)
        seen = torch.cat([inputs for (inputs,) in loader]).flatten().tolist()
        assert (len(set(seen)) == len(seen)) == (sampling_of(loader) == "epoch")


def test_an_unknown_sampling_is_refused():
    require_sampling("epoch")
    with pytest.raises(ValueError, match="sampling='iid': must be one of epoch, independent"):
        require_sampling("iid")
