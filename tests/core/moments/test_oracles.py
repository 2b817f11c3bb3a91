"""Agreement with other people's code for the same quantities: BackPACK and curvlinops, in float64.

Both know examples, not minibatches: their moments are ours where each minibatch is one example. For larger minibatches
g_k is put together from BackPACK's gradients of single examples, or is a row of curvlinops' Jacobian (forward mode).
"""

import copy
import warnings

import pytest
import torch
from backpack import backpack, extend
from backpack.extensions import BatchGrad, BatchL2Grad, SumGradSquared
from torch import nn
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from ireg.core.functional import detached_parameters, functional_loss
from ireg.core.moments import METHODS, gradient_moments
from ireg.core.moments.needs import Need
from tests.cases import EXACT, Problem, problems

# Dependencies of curvlinops still use torch.jit.script, when imported and when first called.
with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
    from curvlinops import EFLinearOperator, JacobianLinearOperator
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")

GENERAL = ("loop", "vmap")  # serve any model; other methods may be for certain architectures and refuse the rest


def wide_mlp():
    """Layers so wide against the minibatches that sums over pairs of examples may replace sums over weights."""
    generator = torch.Generator().manual_seed(7)
    module = nn.Sequential(nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 3)).double()
    for parameter in module.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / 4)
    batches = [
        (
            torch.randn(size, 12, generator=generator, dtype=torch.float64),
            torch.randint(0, 3, (size,), generator=generator),
        )
        for size in (4, 4, 4, 3)
    ]
    return Problem("wide mlp, ragged last batch", module, cross_entropy, batches)


def cases():
    """Each problem with cross-entropy and layers that BackPACK knows, with each way to compute its moments."""
    for problem in [*problems(), wide_mlp()]:
        if problem.criterion is cross_entropy and isinstance(problem.module, nn.Sequential):
            convolves = any(isinstance(layer, nn.Conv2d) for layer in problem.module)
            for method in GENERAL if convolves else METHODS:
                yield pytest.param(problem, {"method": method}, id=f"{problem.name}-{method}")
                # Without the squares a method may go another way.
                lean = {"method": method, "needs": Need.SQ_NORMS | Need.MEAN}
                yield pytest.param(problem, lean, id=f"{problem.name}-{method}, no squares")


every_case = pytest.mark.parametrize(("problem", "way"), list(cases()))


def examples(problem):
    """All examples of all minibatches, as one and as minibatches of one."""
    inputs, targets = (torch.cat(parts) for parts in zip(*problem.batches, strict=True))
    return inputs, targets, list(zip(inputs.split(1), targets.split(1), strict=True))


def moments(problem, way, batches):
    loss = functional_loss(problem.module, problem.criterion)
    return gradient_moments(loss, detached_parameters(problem.module), batches, **way)


def assert_moments(problem, way, batches, **expected):
    """Compare with moments as vectors, the parameters in the order of the module."""
    actual = moments(problem, way, batches)
    if "needs" in way:
        del expected["square"]
    for name, value in expected.items():
        found = getattr(actual, name)
        assert_close(flat(found.values()) if isinstance(found, dict) else found, value, **EXACT)


def flat(values):
    return torch.cat([value.flatten() for value in values])


def with_backpack(problem, *extensions, reduction):
    """The parameters of a copy of the module after one backward pass over all examples."""
    module = extend(copy.deepcopy(problem.module))
    criterion = extend(nn.CrossEntropyLoss(reduction=reduction))
    inputs, targets, _ = examples(problem)
    with backpack(*extensions):
        # That the inputs need gradients changes nothing but a warning of torch's about BackPACK's hooks.
        criterion(module(inputs.requires_grad_()), targets).backward()
    return list(module.parameters())


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@every_case
def test_minibatches_of_one_agree_with_backpack(problem, way, reduction):
    *_, singles = examples(problem)
    num_examples = len(singles)
    # Of a mean BackPACK gives the squares of g_i/N, of a sum those of g_i; it adds them up and never divides by N.
    scale = num_examples if reduction == "mean" else 1
    theirs = with_backpack(problem, SumGradSquared(), BatchL2Grad(), reduction=reduction)
    assert_moments(
        problem,
        way,
        singles,
        mean=scale * flat(parameter.grad for parameter in theirs) / num_examples,
        square=scale**2 * flat(parameter.sum_grad_squared for parameter in theirs) / num_examples,
        sq_norms=scale**2 * sum(parameter.batch_l2 for parameter in theirs),
    )


@every_case
def test_minibatches_agree_with_gradients_of_examples_from_backpack(problem, way):
    theirs = with_backpack(problem, BatchGrad(), reduction="sum")
    single = torch.cat([parameter.grad_batch.flatten(1) for parameter in theirs], dim=1)  # (N, p): the ∇C_i
    sizes = [len(inputs) for inputs, _ in problem.batches]
    rows = torch.stack([part.mean(0) for part in single.split(sizes)])  # (m, p): the g_k
    norms = rows.square().sum(1)
    assert_moments(problem, way, problem.batches, mean=rows.mean(0), square=rows.square().mean(0), sq_norms=norms)
    if max(sizes) > 1:
        # BackPACK's own moments, of single examples, are others: averaging makes the squares smaller.
        assert norms.mean() < 0.9 * single.square().sum(1).mean()


def fisher_of(problem):
    """(1/N) Σ g_i g_iᵀ by curvlinops, and ∇C with it: each minibatch of B examples has the weight B/N in them."""
    return EFLinearOperator(
        problem.module,
        nn.CrossEntropyLoss(),
        list(problem.module.parameters()),
        problem.batches,
        check_deterministic=False,  # the check draws from the global random stream
    )


@every_case
def test_minibatches_of_one_agree_with_the_empirical_fisher_of_curvlinops(problem, way):
    *_, singles = examples(problem)
    fisher = fisher_of(problem)
    dense = fisher @ torch.eye(fisher.shape[1], dtype=torch.float64)
    gradient, _ = fisher.gradient_and_loss()
    assert_moments(problem, way, singles, mean=flat(gradient), square=dense.diag(), sq_norm_mean=dense.trace())


@every_case
def test_the_mean_weighs_minibatches_alike_where_curvlinops_weighs_examples(problem, way):
    actual = flat(moments(problem, way, problem.batches).mean.values())
    gradient = flat(fisher_of(problem).gradient_and_loss()[0])
    if len({len(inputs) for inputs, _ in problem.batches}) == 1:
        assert_close(actual, gradient, **EXACT)
    else:
        assert (actual - gradient).norm() > 0.01 * gradient.norm()


class MinibatchLoss(nn.Module):
    """One minibatch, its targets in a last column, to its mean loss, shape (1, 1).

    To curvlinops a minibatch is thus one example with one output, and the Jacobian's rows are the g_k. They come from
    forward-mode differentiation: no backward pass has a part in them.
    """

    def __init__(self, problem):
        super().__init__()
        self.module = problem.module
        self.shape = problem.batches[0][0].shape[1:]

    def forward(self, packed):
        inputs, targets = packed[:, :-1].unflatten(1, self.shape), packed[:, -1].long()
        return cross_entropy(self.module(inputs), targets)[None, None]


@every_case
def test_minibatches_agree_with_the_jacobian_of_their_losses_from_curvlinops(problem, way):
    losses = MinibatchLoss(problem)
    data = [(torch.cat([inputs.flatten(1), targets[:, None]], dim=1), targets) for inputs, targets in problem.batches]
    jacobian = JacobianLinearOperator(
        losses, list(losses.parameters()), data, check_deterministic=False, num_data=len(data)
    )
    rows = jacobian @ torch.eye(jacobian.shape[1], dtype=torch.float64)  # (m, p)
    assert rows.shape == (len(data), sum(parameter.numel() for parameter in losses.parameters()))
    assert_moments(
        problem,
        way,
        problem.batches,
        mean=rows.mean(0),
        square=rows.square().mean(0),
        sq_norms=rows.square().sum(1),
    )
