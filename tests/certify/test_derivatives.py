"""The guard of derivatives finds what is wrong, at the order where it is."""

import pytest
import torch
from torch import nn

from ireg.certify.derivatives import CLOSE, NETWORKS, derivative_errors, of_networks


class Wrong(torch.autograd.Function):
    """The cube, whose derivatives are right up to one order only; what comes after is cut."""

    @staticmethod
    def forward(ctx, values, orders):
        ctx.save_for_backward(values)
        ctx.orders = orders
        return values**3

    @staticmethod
    def backward(ctx, slopes):
        (values,) = ctx.saved_tensors
        if ctx.orders == 0:
            return slopes * 3.1 * values**2, None
        if ctx.orders == 1:
            return slopes * 3 * values.detach() ** 2, None
        return slopes * 3 * (2 * values.detach() * values - values.detach() ** 2), None


class Linear(nn.Module):
    def __init__(self, orders):
        super().__init__()
        self.orders, self.layer = orders, nn.Linear(196, 3)

    def forward(self, inputs):
        return Wrong.apply(self.layer(inputs.flatten(1)), self.orders)


@pytest.mark.parametrize("orders", [0, 1, 2])
def test_a_wrong_derivative_is_found_at_its_order(orders):
    (errors,) = of_networks({"wrong": lambda: Linear(orders)}).values()
    assert [error > 100 * CLOSE for error in errors].index(True) == orders


def test_ours_are_right():
    errors = of_networks()
    assert errors.keys() == NETWORKS.keys()
    assert max(max(found) for found in errors.values()) < CLOSE


def test_a_derivative_with_a_graph_that_the_step_has_no_part_in_is_zero():
    leaf = torch.tensor([2.0, 3.0], dtype=torch.float64, requires_grad=True)
    params = {"w": torch.ones(2, dtype=torch.float64)}
    for loss in (lambda w: leaf * w, lambda w: leaf * w * w):  # without a second, and a third one
        assert max(derivative_errors(lambda params, _, loss=loss: loss(params["w"]).sum(), params, None)) < CLOSE
    assert derivative_errors(lambda params, _: torch.tensor(1.0, dtype=torch.float64), params, None) == (0, 0, 0)


def test_single_precision_is_refused():
    with pytest.raises(ValueError, match="w is torch.float32; must be float64: differences need its digits"):
        derivative_errors(lambda params, batch: params["w"].sum(), {"w": torch.ones(1)}, None)


def test_a_constant_derivative_is_no_fault():
    errors = derivative_errors(lambda params, batch: params["w"].sum(), {"w": torch.ones(1, dtype=torch.float64)}, None)
    assert max(errors) < CLOSE
