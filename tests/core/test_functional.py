import pytest
import torch
from torch import nn
from torch.func import grad, vmap
from torch.nn.functional import cross_entropy, mse_loss
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from ireg.core.functional import detached_parameters, evaluating, functional_loss, require_gradients_elsewhere
from tests.cases import EXACT, SharedWeights, problems


def test_loss_uses_the_given_parameters_not_the_modules():
    module = nn.Linear(2, 1, bias=False).double()
    loss = functional_loss(module, mse_loss)
    inputs, targets = torch.tensor([[1.0, 2.0]]).double(), torch.tensor([[1.0]]).double()
    weights = {"weight": torch.tensor([[2.0, 3.0]]).double()}
    assert loss(weights, (inputs, targets)) == (2 + 6 - 1) ** 2


def test_shared_weights_are_replaced_under_both_names():
    module = SharedWeights().double()
    params = {name: torch.zeros_like(value) for name, value in detached_parameters(module).items()}
    assert set(params) == {"first.weight", "first.bias", "last.weight", "last.bias"}
    inputs, targets = torch.ones(2, 5).double(), torch.tensor([0, 1])
    expected = torch.tensor(3.0).double().log()  # all logits 0: three classes alike
    assert_close(functional_loss(module, cross_entropy)(params, (inputs, targets)), expected, **EXACT)


class SharedParameter(nn.Module):
    """Two layers with one weight matrix."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 3)
        self.second.weight = self.first.weight

    def forward(self, inputs):
        return self.second(self.first(inputs))


@pytest.mark.parametrize("module", [SharedWeights(), SharedParameter()], ids=["submodule", "parameter"])
def test_the_module_keeps_its_parameters(module):
    module = module.double()
    before = {id(parameter) for parameter in module.parameters()}
    params = detached_parameters(module)
    inputs = torch.randn(2, 5 if "last.weight" in params else 3).double()
    loss = functional_loss(module, cross_entropy)
    vmap(grad(loss), in_dims=(None, 0))(params, (inputs[None], torch.zeros(1, 2, dtype=torch.long)))
    assert {id(parameter) for parameter in module.parameters()} == before


def test_a_shared_parameter_is_replaced_in_both_places():
    module = SharedParameter().double()
    params = {name: torch.zeros_like(value) for name, value in detached_parameters(module).items()}
    params["second.bias"] = torch.tensor([0.0, 1.0, 0.0]).double()
    logits = functional_loss(module, lambda outputs, _: outputs[0, 1])
    assert logits(params, (torch.ones(1, 3).double(), torch.tensor([0]))) == 1.0


def test_detached_parameters_share_memory():
    module = problems()[1].module
    params = detached_parameters(module)
    assert not any(value.requires_grad for value in params.values())
    assert params["0.weight"].data_ptr() == module[0].weight.data_ptr()


def test_evaluating_restores_each_submodule():
    module = nn.Sequential(nn.Dropout(0.5), nn.Sequential(nn.BatchNorm1d(3)))
    module.train()
    module[1].eval()  # a part kept in eval mode, as when its layers are frozen
    with evaluating(module):
        assert not any(part.training for part in module.modules())
    assert [part.training for part in module.modules()] == [True, True, False, False]
    try:
        with evaluating(module):
            raise RuntimeError("stop")
    except RuntimeError:
        assert [part.training for part in module.modules()] == [True, True, False, False]


class Checkpointed(nn.Module):
    """Its middle is computed once more in the backward pass."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(5, 4), nn.Linear(4, 3)

    def forward(self, inputs):
        return self.last(checkpoint(lambda values: torch.tanh(self.first(values)), inputs, use_reentrant=False))


def test_checkpointing_is_right_at_the_modules_weights_and_refused_elsewhere():
    torch.manual_seed(0)
    module = Checkpointed().double()
    batch = torch.randn(4, 5, dtype=torch.float64), torch.randint(0, 3, (4,))
    loss = functional_loss(module, cross_entropy)
    leaves = {name: value.requires_grad_() for name, value in detached_parameters(module).items()}
    found = torch.autograd.grad(loss(leaves, batch), list(leaves.values()))
    expected = torch.autograd.grad(cross_entropy(module(batch[0]), batch[1]), list(module.parameters()))
    assert_close(found, expected, **EXACT)
    with pytest.raises(ValueError, match="Checkpointed has right gradients at its own weights only: .*; switch"):
        require_gradients_elsewhere(loss, batch)


@pytest.mark.parametrize("problem", problems(), ids=lambda problem: problem.name)
def test_other_modules_have_gradients_elsewhere(problem):
    before = {name: value.clone() for name, value in problem.module.state_dict().items()}
    require_gradients_elsewhere(functional_loss(problem.module, problem.criterion), problem.batches[0])
    assert all(torch.equal(value, before[name]) for name, value in problem.module.state_dict().items())
