"""What a forward pass keeps for its backward pass."""

import gc
import weakref

import pytest
import torch

from ireg.core.moments.memory import Kept, kept_for_backward


@pytest.mark.parametrize("function", [torch.softmax, lambda values, _: values.relu(), lambda values, _: values.rsqrt()])
def test_measuring_a_forward_pass_leaves_nothing_behind(function):
    """Their backward needs the output, whose own graph must not hold it."""
    seen = []

    def loss(params, batch):
        output = function((batch[0] @ params["weight"]).exp(), 1)
        seen.append(weakref.ref(output))
        return output.sum()

    generator = torch.Generator().manual_seed(0)
    params = {"weight": torch.randn(3, 4, generator=generator)}
    batch = (torch.randn(5, 3, generator=generator), torch.zeros(5))
    kept = kept_for_backward(loss, params, batch)
    gc.collect()
    assert [reference() for reference in seen] == [None]
    # The examples, 15 numbers, the exponential and the output, 20 each, of four bytes.
    assert kept == (3, 4 * (15 + 20 + 20))


def test_the_mean_of_no_tensors_is_zero():
    assert Kept(0, 0).mean == 0
    assert Kept(3, 12).mean == 4
