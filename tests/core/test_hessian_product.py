"""Weighted Hessian products by double backward against dense matrices."""

import torch
from torch import nn
from torch.nn.functional import mse_loss
from torch.testing import assert_close

from ireg.core.functional import detached_parameters, functional_loss
from ireg.core.hessian import hessian_product
from ireg.core.mean_flow import mean_flow
from ireg.core.moments import gradient_moments
from ireg.core.optimizers import view
from tests.cases import EXACT


def loss(params, batch):
    """Not quadratic in `a`, linear in `b`; `c` is not used."""
    return (batch @ params["a"]).sin().sum() + params["a"].prod() * params["b"].sum()


def test_products_are_those_of_the_weighted_sum_of_hessians():
    generator = torch.Generator().manual_seed(3)
    params = {name: torch.randn(3, generator=generator, dtype=torch.float64) for name in "abc"}
    batches = [torch.randn(5, 3, generator=generator, dtype=torch.float64) for _ in range(2)]
    direction = {name: torch.randn(3, generator=generator, dtype=torch.float64) for name in "abc"}

    def of_vector(vector):
        values = dict(zip("abc", vector.split(3), strict=True))
        return 0.25 * loss(values, batches[0]) + 2 * loss(values, batches[1])

    dense = torch.autograd.functional.hessian(of_vector, torch.cat(list(params.values())))
    found = hessian_product(loss, params, zip((0.25, 2.0), batches, strict=True), direction)
    assert_close(torch.cat(list(found.values())), dense @ torch.cat(list(direction.values())), **EXACT)
    assert torch.equal(found["c"], torch.zeros(3, dtype=torch.float64))
    assert not any(value.requires_grad for value in params.values())


def test_products_of_a_linear_loss_are_zero():
    params = {"a": torch.ones(2)}
    found = hessian_product(lambda params, batch: params["a"].sum(), params, [(1.0, None)], params)
    assert torch.equal(found["a"], torch.zeros(2))


class Attending(nn.Module):
    """torch's attention, whose fused kernel has no second derivative on a CPU."""

    def __init__(self):
        super().__init__()
        self.attention, self.last = nn.MultiheadAttention(6, 2, batch_first=True), nn.Linear(6, 2)

    def forward(self, inputs):
        return self.last(self.attention(inputs, inputs, inputs, need_weights=False)[0].mean(1))


def test_attention_has_second_derivatives():
    torch.manual_seed(0)
    module = Attending().double()
    params = detached_parameters(module)
    batches = [(torch.randn(3, 4, 6, dtype=torch.float64), torch.randn(3, 2, dtype=torch.float64)) for _ in range(2)]
    loss = functional_loss(module, mse_loss)
    direction = {name: torch.randn_like(value) for name, value in params.items()}

    def slope(step):
        shifted = {name: value + step * direction[name] for name, value in params.items()}
        return gradient_moments(loss, shifted, batches, method="loop").mean

    step = 1e-5
    above, below = slope(step), slope(-step)
    expected = {name: (above[name] - below[name]) / (2 * step) for name in params}
    found = hessian_product(loss, params, [(0.5, batch) for batch in batches], direction)
    assert_close(found, expected, rtol=1e-6, atol=1e-8)
    optimizer = view(torch.optim.SGD(module.parameters(), lr=0.1), dict(module.named_parameters()))
    flow = mean_flow(loss, params, batches[:1], optimizer, gradient_moments(loss, params, batches[:1]))
    along_gradient = hessian_product(loss, params, [(0.1 / 2, batches[0])], flow.leading)
    assert_close(flow.memory, along_gradient, **EXACT)
