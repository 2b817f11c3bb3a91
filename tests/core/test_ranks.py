"""Parts of the loss of several ranks, without processes; tests/test_ranks.py has several."""

import torch
from torch import distributed
from torch.testing import assert_close

from ireg.core.ranks import _Mean


def test_what_is_averaged_stays_as_it_is(monkeypatch):
    """A module may keep the loss that it has returned."""
    monkeypatch.setattr(distributed, "all_reduce", lambda tensor, group: tensor.mul_(6.0))  # the sum over the ranks
    monkeypatch.setattr(distributed, "get_world_size", lambda group: 3)
    weight = torch.tensor(2.0, requires_grad=True)
    loss = weight.square()
    mean = _Mean.apply(loss, None)
    assert (float(mean), float(loss)) == (8.0, 4.0)
    assert_close(torch.autograd.grad(mean, weight), (torch.tensor(4.0),))
