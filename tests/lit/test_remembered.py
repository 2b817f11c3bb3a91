"""Which minibatches of a trainer's steps are copied."""

import torch

from ireg.lit.remembered import Remembered

SETTINGS = ({"lr": 0.1},)


def test_what_is_not_in_the_sample_is_copied_only_where_it_is_needed():
    remembered = Remembered(1, None)
    remembered.begin(0)
    copied = []
    for number in range(12):
        needed = number == 11
        remembered.add(torch.full((2,), float(number)), number, needed=needed)
        step = remembered.close_step(SETTINGS, 1)
        copied.append(step.batches[0][0] is not None)
    kept = [batch for batch, _ in remembered.window.sample.items[0].batches]
    assert copied[0]
    assert 1 < sum(copied) < 12  # a reservoir of one takes the n-th with a chance of 1/n
    assert copied[11]
    assert copied[int(kept[0][0])]


def test_nothing_is_copied_once_the_memory_is_full():
    remembered = Remembered(None, None)
    remembered.begin(0)
    remembered.add(torch.ones(2), 0, needed=False)
    assert remembered.bytes >= 8
    remembered.drop()
    remembered.add(torch.ones(2), 1, needed=True)
    assert remembered.close_step(SETTINGS, 1).batches[-1][0] is None
