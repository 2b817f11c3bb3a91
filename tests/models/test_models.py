import pytest
import torch
import yaml
from hydra.utils import instantiate
from torch import nn
from torch.nn.functional import cross_entropy

from ireg.core.functional import functional_loss
from ireg.core.moments import gradient_moments
from ireg.models import CNN, MLP, ResNet, ViT
from ireg.models.resnet import Block
from tests.conftest import ROOT


def test_the_singhs_network():
    model = MLP(input_shape=(784,), num_classes=10, hidden=[256] * 4)
    layers = [layer for layer in model if isinstance(layer, nn.Linear)]
    assert len(layers) == 5
    assert sum(parameter.numel() for parameter in model.parameters()) == 400_906
    assert not any(isinstance(layer, nn.Softmax) for layer in model)
    logits = model(torch.rand(3, 1, 28, 28))
    assert logits.shape == (3, 10)
    assert float(logits.detach().min()) < 0  # logits, not probabilities


def test_no_hidden_layer_makes_a_linear_model():
    model = MLP(input_shape=(4,), num_classes=2, hidden=[])
    first, second = torch.randn(2, 3, 4)
    zero = torch.zeros(3, 4)
    torch.testing.assert_close(model(first + second), model(first) + model(second) - model(zero))


def test_widths_are_checked():
    with pytest.raises(ValueError, match=r"widths \[4, 0, 2\]: each must be at least 1"):
        MLP(input_shape=(4,), num_classes=2, hidden=[0])
    assert MLP(input_shape=(1,), num_classes=1, hidden=[1])(torch.zeros(3, 1)).shape == (3, 1)


IMAGES = torch.randn(4, 1, 14, 14, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LABELS = torch.tensor([0, 1, 2, 1])
MADE = {
    "mlp": lambda: MLP(input_shape=(1, 14, 14), num_classes=3, hidden=[8], activation="tanh"),
    "linear": lambda: MLP(input_shape=(1, 14, 14), num_classes=3, hidden=[]),
    "cnn": lambda: CNN(input_shape=(1, 14, 14), num_classes=3, channels=[4, 4], groups=2, activation="gelu"),
    "cnn without normalization": lambda: CNN(input_shape=(1, 14, 14), num_classes=3, groups=0, activation="softplus"),
    "resnet": lambda: ResNet(input_shape=(1, 14, 14), num_classes=3, channels=[4, 8], groups=2),
    "vit": lambda: ViT(input_shape=(1, 14, 14), num_classes=3, width=8, heads=2),
}


def made_by_a_file(path):
    """The network of a file of conf/model."""
    return lambda: instantiate(yaml.safe_load(path.read_text()), input_shape=(1, 14, 14), num_classes=3)


FILES = {path.stem: path for path in sorted((ROOT / "conf" / "model").glob("*.yaml"))}
MADE |= {name: made_by_a_file(path) for name, path in FILES.items() if name not in {*MADE, "gpt"}}  # it takes text


@pytest.fixture(params=MADE)
def model(request):
    torch.manual_seed(0)
    return MADE[request.param]().double()


def test_an_examples_logits_do_not_depend_on_the_others(model):
    together = model(IMAGES)
    assert together.shape == (4, 3)
    alone = torch.cat([model(image[None]) for image in IMAGES])
    torch.testing.assert_close(together, alone, rtol=1e-10, atol=1e-12)


def test_all_moments_are_served_by_each_method(model):
    batches = [(IMAGES[:2], LABELS[:2]), (IMAGES[2:], LABELS[2:])]
    params = {name: value.detach() for name, value in model.named_parameters()}
    loss = functional_loss(model, cross_entropy)
    by_loop, by_vmap = (gradient_moments(loss, params, batches, method=method) for method in ("loop", "vmap"))
    torch.testing.assert_close(by_loop.sq_norms, by_vmap.sq_norms, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(by_loop.square, by_vmap.square, rtol=1e-10, atol=1e-12)


def test_a_network_without_biases_is_homogeneous():
    """⟨ω, ∇C⟩ = D · mean Σ_c f_c (p_c − y_c), D the number of layers."""
    torch.manual_seed(0)
    model = MLP(input_shape=(1, 14, 14), num_classes=3, hidden=[8, 8], bias=False).double()
    logits = model(IMAGES)
    cross_entropy(logits, LABELS).backward()
    radial = sum(float((p.detach() * p.grad).sum()) for p in model.parameters())
    errors = logits.softmax(1) - nn.functional.one_hot(LABELS, 3)
    assert radial == pytest.approx(3 * float((logits * errors).sum(1).mean()), rel=1e-10)


@pytest.mark.parametrize("name", ["cnn", "resnet"])
def test_weights_before_a_normalization_have_no_radial_gradient(name):
    torch.manual_seed(0)
    model = MADE[name]().double()
    cross_entropy(model(IMAGES), LABELS).backward()

    def cosine(layer):
        weight, slope = (torch.cat([v.flatten() for v in values]) for values in zip(*pairs(layer), strict=True))
        return abs(float(weight @ slope / (weight.norm() * slope.norm())))

    def pairs(layer):
        return [(parameter.detach(), parameter.grad) for parameter in layer.parameters()]

    assert cosine(model[0]) < 1e-3  # ε of the normalization leaves a little
    assert cosine(model[-1]) > 1e-2


def test_the_scale_of_the_initial_weights():
    models = []
    for scale in (1.0, 0.5):
        torch.manual_seed(0)
        models.append(MLP(input_shape=(4,), num_classes=2, hidden=[3], init_scale=scale))
    for whole, half in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(0.5 * whole, half)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (
            lambda: MLP(input_shape=(4,), num_classes=2, hidden=[3], activation="step"),
            "activation=step: must be",
        ),
        (
            lambda: MLP(input_shape=(4,), num_classes=2, hidden=[3], init_scale=0.0),
            "init_scale=0: must be a finite number above 0, or 0 for a linear model",
        ),
        (
            lambda: MLP(input_shape=(4,), num_classes=2, hidden=[], init_scale=float("inf")),
            "init_scale=inf: must be a finite number",
        ),
        (lambda: CNN(input_shape=(4,), num_classes=2), r"input_shape=\(4,\): CNN takes images .*; use model=mlp"),
        (lambda: CNN(input_shape=(1, 4, 4), num_classes=2, channels=[]), r"channels=\[\]: must be at least one"),
        (lambda: CNN(input_shape=(1, 4, 4), num_classes=2, groups=5), "groups=5: must be 0, or divide .*, as 16"),
        (lambda: ResNet(input_shape=(4,), num_classes=2), "ResNet takes images"),
        (lambda: ResNet(input_shape=(1, 4, 4), num_classes=2, channels=[0]), r"channels=\[0\]"),
        (lambda: ViT(input_shape=(1, 14, 14), num_classes=2, patch=5), "patch=5: must divide the 14 × 14 pixels"),
        (lambda: ViT(input_shape=(1, 15, 14), num_classes=2, patch=5), "patch=5: must divide the 15 × 14 pixels"),
        (lambda: ViT(input_shape=(1, 14, 15), num_classes=2, patch=5), "patch=5: must divide the 14 × 15 pixels"),
        (lambda: ViT(input_shape=(1, 14, 14), num_classes=2, patch=0), "patch=0: must divide"),
        (lambda: ViT(input_shape=(1, 14, 14), num_classes=2, heads=3), "heads=3: must divide width=64"),
        (lambda: ViT(input_shape=(4,), num_classes=2), "ViT takes images"),
    ],
)
def test_arguments_are_checked(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_a_residual_block_adds_its_inputs():
    torch.manual_seed(0)
    block, inputs = Block(8, 8, 4, "relu"), torch.randn(2, 8, 5, 5)
    nn.init.zeros_(block.second.weight)  # its normalization of zeros is zero
    torch.testing.assert_close(block(inputs), inputs.relu())


def test_a_transformer_may_have_one_head():
    inputs = torch.ones(2, 1, 14, 14)
    assert ViT(input_shape=(1, 14, 14), num_classes=3, width=8, heads=1)(inputs).shape == (2, 3)
