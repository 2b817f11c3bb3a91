"""The plain derivatives that logged values are compared with."""

import torch

from ireg.certify import textbook


def test_a_gradient_has_its_graph_where_it_is_asked_for():
    point = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)

    def cube(value):
        return (value**3).sum()

    square = textbook.gradient(cube, point, create_graph=True).square().sum()  # Σ 9 x⁴
    (slope,) = torch.autograd.grad(square, point)
    torch.testing.assert_close(slope, 36 * point.detach() ** 3)
    assert not textbook.gradient(cube, point.detach()).requires_grad
