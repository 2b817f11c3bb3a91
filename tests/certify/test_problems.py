"""The closed forms against autograd."""

import numpy as np
import pytest
import torch

from ireg.certify.problems import log_cosh, quadratics, quadratics_and_log_cosh

PROBLEMS = {
    "log cosh": log_cosh(seed=1),
    "quadratics": quadratics(seed=1),
    "copies": quadratics(seed=1, num_batches=2, copies=2),
    "mixed": quadratics_and_log_cosh(seed=1, num_batches=3),
}


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
def test_gradients_and_hessians_are_those_of_the_loss(problem):
    point = problem.start + 0.3
    for k, batch in enumerate(problem.batches):

        def loss(weights, batch=batch):
            return problem.loss({"w": weights[:, None]}, batch)

        torch.testing.assert_close(
            torch.from_numpy(problem.gradients(point.numpy())[k]), torch.func.grad(loss)(point), atol=1e-13, rtol=0
        )
        torch.testing.assert_close(
            torch.from_numpy(problem.hessians(point.numpy())[k]), torch.func.hessian(loss)(point), atol=1e-13, rtol=0
        )


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
def test_each_column_has_the_gradient_of_its_minibatch(problem):
    generator = torch.Generator().manual_seed(0)
    columns = torch.randn(len(problem.start), 7, generator=generator, dtype=torch.float64)
    which = torch.randint(problem.num_batches, (7,), generator=generator)
    expected = np.stack([problem.gradients(column.numpy())[k] for column, k in zip(columns.T, which, strict=True)])
    found = problem.column_gradients(columns, which)
    torch.testing.assert_close(found, torch.from_numpy(expected).T, atol=1e-13, rtol=0)
