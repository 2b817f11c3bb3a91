"""Which models the layerwise ways serve, and that `auto` falls back for all others."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from ireg.core.functional import detached_parameters, functional_loss
from ireg.core.moments import choose_method, gradient_moments, linear
from ireg.core.moments.needs import EVERYTHING, Need
from ireg.models import MLP
from tests import reference
from tests.cases import EXACT, problems


class Doubling(nn.Sequential):
    def forward(self, inputs):
        return 2 * super().forward(inputs)


class OddLinear(nn.Linear):
    def forward(self, inputs):
        return super().forward(inputs) - inputs.mean(0, keepdim=True).mean()


def hooked():
    module = nn.Sequential(nn.Linear(5, 3))
    module[0].register_forward_hook(lambda module, inputs, output: 2 * output)
    return module


def tied():
    module = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5), nn.Linear(5, 3))
    module[2].weight = module[0].weight
    return module


def reused():
    layer = nn.Linear(5, 5)
    return nn.Sequential(layer, nn.Tanh(), layer, nn.Linear(5, 3))


def frozen_dropout():
    return nn.Sequential(nn.Linear(5, 4), nn.Dropout(0.5), nn.Linear(4, 3)).eval()


SERVED = {
    "mlp": lambda: MLP(input_shape=(5,), num_classes=3, hidden=[7, 4]),
    "no biases": lambda: nn.Sequential(nn.Linear(5, 4, bias=False), nn.Tanh(), nn.Linear(4, 3, bias=False)),
    "nested": lambda: nn.Sequential(nn.Sequential(nn.Linear(5, 4), nn.GELU()), nn.Identity(), nn.Linear(4, 3)),
    "one layer": lambda: nn.Sequential(nn.Linear(5, 3)),
    "bare layer": lambda: nn.Linear(5, 3),
    "softplus": lambda: nn.Sequential(nn.Linear(5, 4), nn.Softplus(), nn.ELU(), nn.Linear(4, 3), nn.SiLU()),
    "layers in a row": lambda: nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 4), nn.Identity(), nn.Linear(4, 3)),
    # Tanh needs its outputs again, which the first ReLU must leave as they are, as must the second those of the first.
    "functions in a row": lambda: nn.Sequential(
        nn.Linear(5, 6), nn.Tanh(), nn.ReLU(), nn.ReLU(), nn.Linear(6, 4), nn.ReLU(), nn.Tanh(), nn.Linear(4, 3)
    ),
    "dropout in eval mode": frozen_dropout,
    "one function twice": lambda: nn.Sequential(nn.Linear(5, 4), relu := nn.ReLU(), nn.Linear(4, 3), relu),
}
REFUSED = {
    "own forward": lambda: Doubling(nn.Linear(5, 3)),
    "subclass of Linear": lambda: nn.Sequential(OddLinear(5, 3)),
    "hook": hooked,
    "shared parameter": tied,
    "shared layer": reused,
    "batch norm in train mode": lambda: nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)),
    "batch norm without parameters": lambda: nn.Sequential(
        nn.Linear(5, 4), nn.BatchNorm1d(4, affine=False), nn.Linear(4, 3)
    ),
    "learned function": lambda: nn.Sequential(nn.Linear(5, 4), nn.PReLU(), nn.Linear(4, 3)),
    "in-place function": lambda: nn.Sequential(nn.Linear(5, 4), nn.ReLU(inplace=True), nn.Linear(4, 3)),
    "flatten from the first dimension": lambda: nn.Sequential(nn.Flatten(1, 1), nn.Linear(5, 3)),
    "parametrized": lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(5, 3))),
}


def batches(sizes=(4, 4, 2)):
    generator = torch.Generator().manual_seed(5)
    return [
        (torch.randn(size, 5, generator=generator).double(), torch.randint(0, 3, (size,), generator=generator))
        for size in sizes
    ]


def expected(module):
    """By `torch.autograd.grad` on the module itself, in the mode it is in."""
    gradients = []
    for inputs, targets in batches():
        slopes = torch.autograd.grad(cross_entropy(module(inputs), targets), list(module.parameters()))
        gradients.append({name: slope for (name, _), slope in zip(module.named_parameters(), slopes, strict=True)})
    return gradients


@pytest.mark.parametrize("needs", [EVERYTHING, Need.SQ_NORMS | Need.MEAN])
@pytest.mark.parametrize("method", ["ghost", "layers", "auto"])
@pytest.mark.parametrize("name", SERVED)
def test_stacks_are_served(name, method, needs):
    module = SERVED[name]().double()
    assert linear.serves(module, 2)
    gradients = expected(module)
    loss, params = functional_loss(module, cross_entropy), detached_parameters(module)
    actual = gradient_moments(loss, params, batches(), method=method, needs=needs)
    norms = [reference.squared_norm(gradient) for gradient in gradients]
    assert_close(actual.sq_norms, torch.tensor(norms, dtype=torch.float64), **EXACT)
    assert_close(actual.mean, reference.mean(gradients), **EXACT)
    if Need.SQUARE in needs:
        assert_close(actual.square, reference.mean_square(gradients), **EXACT)
    assert actual.method in ("ghost", "layers")


@pytest.mark.parametrize("name", REFUSED)
def test_others_are_refused_by_name_and_served_right_by_auto(name):
    module = REFUSED[name]().double()
    assert not linear.serves(module, 2)
    loss, params = functional_loss(module, cross_entropy), detached_parameters(module)
    for method in ("ghost", "layers"):
        with pytest.raises(ValueError, match=f"{type(module).__name__} is no stack of Linear layers"):
            gradient_moments(loss, params, batches(), method=method)
    gradients = expected(module)
    actual = gradient_moments(loss, params, batches(), method="auto")
    assert actual.method in ("loop", "hooks")
    assert_close(actual.mean, reference.mean(gradients), **EXACT)
    assert_close(actual.square, reference.mean_square(gradients), **EXACT)


def test_dropout_in_train_mode_is_refused():
    assert not linear.serves(frozen_dropout().train(), 2)


def test_inputs_must_be_flat_when_they_come_to_a_layer():
    layer, flattened = nn.Sequential(nn.Linear(5, 3)), nn.Sequential(nn.Flatten(), nn.Linear(5, 3))
    assert [linear.serves(layer, dimensions) for dimensions in (1, 2, 3)] == [False, True, False]
    assert linear.serves(flattened, 4)
    assert not linear.serves(nn.Sequential(nn.ReLU()), 2)


def test_auto_takes_what_is_less_work():
    small, large = batches((2, 2)), batches((200, 200))
    module = MLP(input_shape=(5,), num_classes=3, hidden=[64, 64]).double()
    loss, params = functional_loss(module, cross_entropy), detached_parameters(module)
    norms = Need.SQ_NORMS | Need.MEAN
    assert choose_method(loss, params, small, norms) == "ghost"
    assert choose_method(loss, params, large, norms) == "layers"
    assert choose_method(loss, params, small, EVERYTHING) == "layers"  # squares need every g_k
    assert choose_method(loss, params, small[:1], norms) == "loop"  # nothing to batch
    middle = batches((17, 17))
    assert choose_method(loss, params, middle, norms) == "layers"
    assert (
        choose_method(loss, params, middle, Need.SQ_NORMS) == "ghost"
    )  # without the mean, forming g_k is all extra work
    assert choose_method(lambda params, batch: loss(params, batch), params, small, norms) == "loop"


def test_the_full_batch_has_no_variance_to_the_last_bit():
    problem = problems()[3]
    loss, params = functional_loss(problem.module, problem.criterion), detached_parameters(problem.module)
    moments = gradient_moments(loss, params, problem.batches)
    assert moments.method == "loop"
    assert float(moments.sq_norm_mean) == reference_norm(moments.mean)


def reference_norm(params):
    return float(torch.stack([torch.dot(value.flatten(), value.flatten()) for value in params.values()]).sum())
