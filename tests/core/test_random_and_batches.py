from collections import OrderedDict

import torch

from ireg.core.batches import IndexedBatches, copied, size_of
from ireg.core.random import named_generator, named_seed


def test_streams_are_fixed_and_apart():
    assert named_seed("order", 0, 1) == named_seed("order", 0, 1)
    seeds = {
        named_seed(purpose, *key) for purpose in ("order", "noise") for key in ((0, 1), (1, 0), (0, 0), (0,), (1,))
    }
    assert len(seeds) == 10
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert named_seed("a", 12) != named_seed("a", 1, 2)


def test_the_global_stream_is_not_touched():
    state = torch.get_rng_state()
    torch.randn(3, generator=named_generator("x", 0))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_seed_keeps_its_stream():
    # A change here changes every result of the package: it must be meant.
    assert named_seed("order of examples", 0, 0) == 6133774264837417838


def test_indexed_batches_gather_what_the_indices_say():
    inputs, targets = torch.arange(10.0)[:, None], torch.arange(10) * 10
    batches = IndexedBatches(inputs, targets, [torch.tensor([3, 1]), torch.tensor([9])])
    assert len(batches) == 2
    assert [(x.flatten().tolist(), y.tolist()) for x, y in batches] == [([3.0, 1.0], [30, 10]), ([9.0], [90])]
    (only,) = batches[1:]
    assert only[1].tolist() == [90]


def test_a_copied_minibatch_is_apart():
    inputs = torch.zeros(3, requires_grad=True)
    nested = copied((inputs, {"labels": [torch.ones(2)]}))
    with torch.no_grad():
        inputs += 1
    assert nested[0].requires_grad
    assert nested[0].tolist() == [0.0] * 3
    assert nested[1]["labels"][0].tolist() == [1.0] * 2


def test_of_a_view_in_a_dictionary_the_view_alone_is_copied_and_no_history():
    weight = torch.ones(2, requires_grad=True)
    batch = copied({"view": torch.arange(1000)[:2], "deep": OrderedDict(twice=2 * weight)})
    assert batch["view"].tolist() == [0, 1]
    assert batch["view"].untyped_storage().nbytes() == 16
    assert type(batch["deep"]) is OrderedDict
    assert batch["deep"]["twice"].requires_grad
    assert batch["deep"]["twice"].grad_fn is None


def test_the_bytes_of_a_minibatch():
    tensor = torch.zeros(3, 2)
    pair = (tensor, torch.zeros(3, dtype=torch.long))
    assert [size_of(value) for value in (tensor, pair, [pair, tensor], {"x": pair, "name": "one"}, "text")] == [
        24, 48, 72, 48, 0,
    ]  # fmt: skip
