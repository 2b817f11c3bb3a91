"""The language model: what it computes, by torch's own layers, and its derivatives up to the third."""

import pytest
import torch
from torch import nn
from torch.nn.functional import gelu, layer_norm, linear, scaled_dot_product_attention

from ireg.certify.derivatives import CLOSE, derivative_errors
from ireg.core.functional import detached_parameters, functional_loss, twice_differentiable
from ireg.core.moments import gradient_moments
from ireg.models import GPT
from ireg.models.layers import LayerNorm
from ireg.models.transformer import Block
from ireg.objective import SEQUENCE_CRITERIA

CONTEXT, ALPHABET = 6, 5
LOSS = SEQUENCE_CRITERIA["cross_entropy"]


def made(**arguments):
    torch.manual_seed(0)
    model = GPT(input_shape=(CONTEXT,), num_classes=ALPHABET, width=8, blocks=2, heads=2, **arguments).double()
    with torch.no_grad():  # large enough that attention and GELU are no straight lines
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def text(count=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(ALPHABET, (count, CONTEXT), generator=generator) for _ in range(2))


def by_torchs_layers(weights, characters, heads=2, blocks=2):
    """The same network, written with torch's functions from the weights by name."""

    def norm(values, name):
        return layer_norm(values, (8,), weights[f"{name}.weight"], weights[f"{name}.bias"])

    def affine(values, name):
        return linear(values, weights[f"{name}.weight"], weights[f"{name}.bias"])

    hidden = weights["embed.weight"][characters] + weights["places.weight"]
    for block in (f"blocks.{number}" for number in range(blocks)):
        parts = affine(norm(hidden, f"{block}.before"), f"{block}.mix").chunk(3, -1)
        query, key, value = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in parts)
        mixed = scaled_dot_product_attention(query, key, value, is_causal=True)
        hidden = hidden + affine(mixed.transpose(1, 2).flatten(2), f"{block}.out")
        wide = gelu(affine(norm(hidden, f"{block}.between"), f"{block}.network.0"))
        hidden = hidden + affine(wide, f"{block}.network.2")
    return affine(norm(hidden, "norm"), "last")


def test_it_computes_what_torchs_own_layers_do():
    model, (characters, _) = made(), text()
    torch.testing.assert_close(model(characters), by_torchs_layers(model.state_dict(), characters), rtol=1e-10, atol=0)


def test_a_position_sees_no_later_character():
    model, (characters, _) = made(), text()
    changed = characters.clone()
    changed[:, 4] = (changed[:, 4] + 1) % ALPHABET
    before, after = model(characters), model(changed)
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4:], after[:, 4:])


def test_derivatives_up_to_the_third_are_right():
    model = made()
    loss = functional_loss(model, LOSS)
    assert max(derivative_errors(loss, detached_parameters(model), text())) < CLOSE


def test_the_second_derivative_is_that_of_torchs_own_layers():
    """Third ones of torch's are wrong, see `ireg.models.layers.LayerNorm`; up to the second they are a reference."""
    model, (characters, targets) = made(), text()
    weights = detached_parameters(model)
    direction = {name: torch.randn_like(value) for name, value in weights.items()}

    def products(logits_of):
        leaves = {name: value.clone().requires_grad_() for name, value in weights.items()}
        with twice_differentiable():
            loss = nn.functional.cross_entropy(logits_of(leaves).transpose(1, 2), targets)
            gradients = torch.autograd.grad(loss, list(leaves.values()), create_graph=True)
            along = sum((g * direction[name]).sum() for name, g in zip(leaves, gradients, strict=True))
            return gradients, torch.autograd.grad(along, list(leaves.values()))

    def own(leaves):
        return torch.func.functional_call(model, leaves, (characters,))

    found, expected = products(own), products(lambda leaves: by_torchs_layers(leaves, characters))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_torchs_own_normalization_would_be_found(monkeypatch):
    def forward(layer, inputs):
        return layer_norm(inputs, inputs.shape[-1:], layer.weight, layer.bias, layer.eps)

    monkeypatch.setattr(LayerNorm, "forward", forward)
    model = made()
    assert derivative_errors(functional_loss(model, LOSS), detached_parameters(model), text())[2] > 100 * CLOSE


@pytest.mark.parametrize("method", ["vmap", "hooks"])
def test_moments_are_served_by_each_method(method):
    model, batches = made(), [text(seed=seed) for seed in range(3)]
    loss, params = functional_loss(model, LOSS), detached_parameters(model)
    found = gradient_moments(loss, params, batches, method=method)
    expected = gradient_moments(loss, params, batches, method="loop")
    torch.testing.assert_close(found.sq_norms, expected.sq_norms, rtol=1e-10, atol=0)
    torch.testing.assert_close(found.square, expected.square, rtol=1e-9, atol=1e-14)


def test_initial_weights():
    torch.manual_seed(0)
    weights = GPT(input_shape=(64,), num_classes=76).state_dict()
    for name, value in weights.items():
        if name.endswith("bias"):
            assert not value.any()
        elif value.ndim > 1:
            added = name.endswith(("out.weight", "network.2.weight"))
            assert float(value.std()) == pytest.approx(0.02 / 8**0.5 if added else 0.02, rel=0.05)
        else:
            assert torch.equal(value, torch.ones_like(value))


def test_dropout_acts_in_training_alone():
    model, (characters, _) = made(dropout=0.5), text()
    assert not torch.equal(model(characters), model(characters))
    model.eval()
    torch.testing.assert_close(model(characters), made()(characters), rtol=0, atol=0)
    assert not any(isinstance(layer, nn.Dropout) for layer in made().modules())


def test_attention_of_images_sees_all_positions():
    torch.manual_seed(0)
    block, hidden = Block(4, 1, expansion=2), torch.randn(1, 3, 4)
    changed = hidden.clone()
    changed[:, 2, 0] += 1
    assert not torch.allclose(block(hidden)[:, 0], block(changed)[:, 0])


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"heads": 3}, "heads=3: must divide width=128"),
        ({"heads": 0}, "heads=0: must divide width=128"),
        ({"blocks": 0}, "blocks=0: must be at least 1"),
        ({"dropout": 1.0}, "dropout=1: must be at least 0 and below 1"),
        ({"dropout": -0.1}, "dropout=-0.1: must be"),
        ({"input_shape": (1, 28, 28)}, r"input_shape=\(1, 28, 28\): GPT takes blocks of characters; use data=shakesp"),
    ],
)
def test_arguments_are_checked(arguments, match):
    with pytest.raises(ValueError, match=match):
        GPT(**{"input_shape": (8,), "num_classes": 5, **arguments})
