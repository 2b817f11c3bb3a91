"""Gradients at fixed weights, one minibatch after another."""

import torch

from ireg.core.frozen_gradients import FrozenGradients
from ireg.core.sharpness import _of_scale_one

BATCHES = [(torch.tensor([x]), torch.zeros(1)) for x in (1.0, 2.0)]


def test_a_weight_that_a_minibatch_leaves_out_has_no_gradient_there():
    def loss(params, batch):
        used = params["w"] * batch[0]
        return (used.square() + (params["sometimes"] * used if batch[0] > 1 else 0.0)).mean() / 2

    params = {"w": torch.tensor([3.0]), "sometimes": torch.tensor([1.0])}
    for stored in (2**20, 0):
        gradients = FrozenGradients(loss, params, BATCHES, stored=stored)
        assert gradients.are_stored == (stored > 0)
        assert gradients.of(0).tolist() == [3.0, 0.0]  # x²w
        assert gradients.of(1).tolist() == [13.0, 3.0]  # x²w + x s/2, and x w/2
        assert gradients.mean.tolist() == [8.0, 1.5]


def test_gradients_far_from_one_are_divided_by_powers_of_two_and_others_stay():
    ordinary = {"w": torch.tensor([[0.5, -3.0], [1e-5, 1e5]])}
    assert _of_scale_one(ordinary) is ordinary
    far = {"w": torch.tensor([[1e-20, 2e-20], [0.5, -3.0]]), "b": torch.tensor([[3e-20], [0.25]])}
    scaled = _of_scale_one(far)
    for row in range(2):
        largest = max(float(value[row].abs().max()) for value in scaled.values())
        assert 0.5 <= largest < 1
        ratios = {float(far[name][row][0] / scaled[name][row][0]) for name in far}
        assert len(ratios) == 1
        assert torch.frexp(torch.tensor(ratios.pop()))[0] == 0.5
