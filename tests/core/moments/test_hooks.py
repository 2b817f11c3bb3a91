"""Fast gradients by hooks: equal to the loop for every kind of layer, refused where they would be wrong."""

import logging

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, gelu, linear, mse_loss
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from ireg.core.functional import detached_parameters, functional_loss
from ireg.core.moments import NotServedError, choose_method, compute, gradient_moments, hooks, kind, kinds
from ireg.core.moments.needs import EVERYTHING
from ireg.models import CNN, ResNet, ViT
from ireg.models.layers import Shift
from tests.cases import EXACT


class Branches(nn.Module):
    """A layer used twice, a residual sum, and positions that become examples."""

    def __init__(self):
        super().__init__()
        self.first, self.again, self.last = nn.Linear(4, 4), nn.Linear(4, 4, bias=False), nn.Linear(4, 3)

    def forward(self, inputs):  # (N, 5, 4)
        hidden = torch.tanh(self.again(torch.tanh(self.again(self.first(inputs)))))
        return self.last((hidden.flatten(0, 1) + inputs.flatten(0, 1)).relu()).unflatten(0, (-1, 5)).mean(1)


class Language(nn.Module):
    """Tokens, with the embedding's weight at the end again."""

    def __init__(self, **arguments):
        super().__init__()
        self.embed, self.mix = nn.Embedding(7, 4, **arguments), nn.Linear(4, 4)
        self.norm, self.scale, self.out = nn.LayerNorm(4), nn.RMSNorm(4), nn.Linear(4, 7, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, tokens):  # (N, 5)
        hidden = self.embed(tokens)
        return self.out(self.scale(hidden + gelu(self.mix(self.norm(hidden)))))


def sequence_loss(outputs, targets):
    return cross_entropy(outputs.flatten(0, 1), targets.flatten())


def images(*shape):
    return torch.randn(4, *shape, dtype=torch.float64), torch.randint(0, 3, (4,))


def tokens():
    return torch.randint(0, 7, (4, 5)), torch.randint(0, 7, (4, 5))


def convolutions(make, dimensions, **arguments):
    side = {1: (9,), 2: (5, 6), 3: (3, 4, 5)}[dimensions]
    network = nn.Sequential(make(2, 4, 3, padding=1, **arguments), nn.Tanh(), make(4, 4, 2), nn.Flatten())
    width = network.double()(torch.zeros(1, 2, *side, dtype=torch.float64)).shape[1]
    return nn.Sequential(*network, nn.Linear(width, 3)), lambda: images(2, *side), cross_entropy


SERVED = {
    "cnn": lambda: (CNN(input_shape=(1, 8, 8), num_classes=3, groups=0), lambda: images(1, 8, 8), cross_entropy),
    "cnn with groups": lambda: (CNN(input_shape=(1, 8, 8), num_classes=3), lambda: images(1, 8, 8), cross_entropy),
    "resnet": lambda: (
        ResNet(input_shape=(1, 8, 8), num_classes=3, channels=(4, 8), groups=2), lambda: images(1, 8, 8), cross_entropy
    ),
    "vit": lambda: (
        ViT(input_shape=(1, 8, 8), num_classes=3, patch=4, width=8, heads=2), lambda: images(1, 8, 8), cross_entropy
    ),
    "branches": lambda: (Branches(), lambda: images(5, 4), cross_entropy),
    "tokens": lambda: (Language(), tokens, sequence_loss),
    "padding": lambda: (Language(padding_idx=3), tokens, sequence_loss),
    "conv1d": lambda: convolutions(nn.Conv1d, 1, bias=False),
    "conv2d": lambda: convolutions(nn.Conv2d, 2, stride=2, dilation=1, groups=2),
    "conv3d": lambda: convolutions(nn.Conv3d, 3, bias=False),
    "in-place functions": lambda: (
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(72, 3)),
        lambda: images(1, 8, 8),
        cross_entropy,
    ),
    "no scale": lambda: (
        nn.Sequential(Shift(5, scale=1.0), nn.LayerNorm(5, elementwise_affine=False), nn.Linear(5, 3)),
        lambda: images(5),
        cross_entropy,
    ),
}  # fmt: skip


def made(name):
    torch.manual_seed(0)
    module, batch, criterion = SERVED[name]()
    batches = [batch() for _ in range(5)]
    batches[-1] = tuple(values[:2] for values in batches[-1])  # a smaller last minibatch
    return module.double(), batches, criterion


@pytest.mark.parametrize("chunk_size", [None, 1, 3])
@pytest.mark.parametrize("name", SERVED)
def test_hooks_give_what_the_loop_gives(name, chunk_size):
    module, batches, criterion = made(name)
    loss, params = functional_loss(module, criterion), detached_parameters(module)
    seen = []
    actual = gradient_moments(
        loss, params, batches, method="hooks", chunk_size=chunk_size, observer=lambda first, values: seen.append(values)
    )
    expected = gradient_moments(loss, params, batches, method="loop")
    assert_close(actual.mean, expected.mean, **EXACT)
    assert_close(actual.square, expected.square, **EXACT)
    assert_close(actual.sq_norms, expected.sq_norms, **EXACT)
    assert_close(actual.losses, expected.losses, **EXACT)
    assert sum(len(values.flatten(0, 1)) for values in seen) == 18
    assert not any(layer._forward_hooks for layer in module.modules())
    assert [layer.inplace for layer in module.modules() if isinstance(layer, nn.ReLU)].count(True) == (
        name == "in-place functions"
    )


def test_parameters_that_do_not_move_are_left_out():
    module, batches, criterion = made("resnet")
    loss = functional_loss(module, criterion)
    some = {name: value for name, value in detached_parameters(module).items() if "norms" in name}
    actual = gradient_moments(loss, some, batches, method="hooks")
    expected = gradient_moments(loss, some, batches, method="loop")
    assert actual.mean.keys() == some.keys()
    assert_close(actual.square, expected.square, **EXACT)


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.ones(5))

    def forward(self, inputs):
        return inputs * self.factor


def test_a_kind_of_ones_own():
    module = nn.Sequential(Scale(), nn.Tanh(), nn.Linear(5, 3)).double()
    batches = [images(5) for _ in range(3)]
    loss, params = functional_loss(module, cross_entropy), detached_parameters(module)
    with pytest.raises(NotServedError, match=r"0.factor is in a Scale, no kind of layer .*; choose auto or loop, or"):
        gradient_moments(loss, params, batches, method="hooks")
    try:

        @kind(Scale)
        def scale(layer, inputs, slopes):
            return {"factor": (inputs * slopes).sum(1)}

        actual = gradient_moments(loss, params, batches, method="hooks")
        assert_close(actual.square, gradient_moments(loss, params, batches, method="loop").square, **EXACT)
    finally:
        kinds.KINDS.pop(Scale, None)


def test_a_method_of_a_layer_serves_its_own_class_alone():
    class OwnWay(Scale):
        def minibatch_gradients(self, inputs, slopes):
            return {"factor": (inputs * slopes).sum(1)}

    class Other(OwnWay):
        """A subclass may do anything in its forward."""

    batches = [images(5) for _ in range(3)]
    for layer, served in ((OwnWay(), True), (Other(), False)):
        module = nn.Sequential(layer, nn.Tanh(), nn.Linear(5, 3)).double()
        loss, params = functional_loss(module, cross_entropy), detached_parameters(module)
        if not served:
            with pytest.raises(NotServedError, match="0.factor is in a Other"):
                gradient_moments(loss, params, batches, method="hooks")
            continue
        actual = gradient_moments(loss, params, batches, method="hooks")
        assert_close(actual.square, gradient_moments(loss, params, batches, method="loop").square, **EXACT)


# What hooks would get wrong.


class Wrong(nn.Module):
    def __init__(self, forward, layer=None):
        super().__init__()
        self.layer, self.last, self.wrong = layer or nn.Linear(5, 5), nn.Linear(5, 3), forward

    def forward(self, inputs):
        return self.last(self.wrong(self.layer, inputs))


WRONG = {
    "used without its layer": (lambda layer, inputs: layer(inputs) + linear(inputs, layer.weight), "layer.weight is"),
    "never called": (lambda layer, inputs: linear(inputs, layer.weight, layer.bias), "layer.weight is another"),
    "examples mixed": (lambda layer, inputs: layer(inputs) - layer(inputs).tanh().mean(0), "is another by hooks"),
    "checkpoint": (
        lambda layer, inputs: checkpoint(lambda values: layer(layer(values).tanh()), inputs + 0, use_reentrant=False),
        "Wrong by hooks: [^\n]*Recomputed values .*; choose auto or loop$",
    ),
    "first outputs in place": (lambda layer, inputs: layer(inputs).mul_(2.0), "Wrong by hooks: .*in-place operation"),
    "outputs in place": (lambda layer, inputs: layer(layer(inputs).tanh()).mul_(2.0), "outputs are changed in place"),
    "by keyword": (lambda layer, inputs: layer(input=inputs), "Linear is called with 0 arguments by position"),
    "fewer rows": (lambda layer, inputs: layer(inputs[:1]).expand(len(inputs), 5), r"a layer's tensor of shape \(1, 5"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_hooks_would_get_wrong_is_refused_and_right_by_auto(name, caplog):
    torch.manual_seed(0)
    forward, match = WRONG[name]
    module = Wrong(forward).double()
    batches = [images(5) for _ in range(4)]
    loss, params = functional_loss(module, cross_entropy), detached_parameters(module)
    with pytest.raises(NotServedError, match=match):
        gradient_moments(loss, params, batches, method="hooks")
    assert not any(layer._forward_hooks for layer in module.modules())
    compute._say_once.cache_clear()
    with caplog.at_level(logging.INFO, logger="ireg"):
        for _ in range(2):
            actual = gradient_moments(loss, params, batches)
    assert actual.method == "loop"
    assert caplog.text.count("minibatch gradients one after the other: ") == 1
    expected = gradient_moments(loss, params, batches, method="loop")
    assert_close(actual.square, expected.square, rtol=0, atol=0)
    assert actual.num_batches == 4


@pytest.mark.parametrize(
    ("module", "batch", "match"),
    [
        (nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3)), lambda: images(5), "Sequential has BatchNorm, which mixes"),
        (nn.Sequential(nn.Linear(5, 3), nn.PReLU()), lambda: images(5), "1.weight is in a PReLU, no kind of layer"),
        (nn.Sequential(nn.Conv1d(2, 3, 3, padding="same"), nn.Flatten()), lambda: images(2, 1), "padding='same'"),
        (
            nn.Sequential(nn.Conv1d(2, 3, 3, padding=1, padding_mode="circular"), nn.Flatten()),
            lambda: images(2, 1),
            "Conv1d with padding=.1,., 'circular'",
        ),
        (Language(max_norm=1.0), tokens, "Embedding with max_norm or scale_grad_by_freq"),
        (Language(scale_grad_by_freq=True), tokens, "Embedding with max_norm or scale_grad_by_freq"),
        (nn.Sequential(nn.Linear(5, 3), nn.Flatten(0, 0), nn.Unflatten(0, (-1, 2)), nn.Flatten(1)), lambda: images(5),
         "outputs of shape"),
    ],
)  # fmt: skip
def test_refusals(module, batch, match):
    loss = functional_loss(module.double(), lambda outputs, targets: outputs.square().mean())
    batches = [batch() for _ in range(3)]
    with pytest.raises(NotServedError, match=match):
        gradient_moments(loss, detached_parameters(module), batches, method="hooks")


def test_a_loss_that_is_no_modules_is_refused():
    with pytest.raises(NotServedError, match="hooks need a loss made by functional_loss; choose auto, loop or vmap"):
        gradient_moments(lambda params, batch: params["w"].sum(), {"w": torch.ones(1)}, [images(1)], method="hooks")


def test_an_error_after_the_check_is_the_networks_own():
    calls = []

    def forward(layer, inputs):
        calls.append(len(inputs))
        if len(calls) > 4:
            raise RuntimeError("broken on a later minibatch")
        return layer(inputs)

    module = Wrong(forward).double()
    loss, params = functional_loss(module, cross_entropy), detached_parameters(module)
    with pytest.raises(RuntimeError, match="^broken on a later minibatch"):
        gradient_moments(loss, params, [images(5) for _ in range(9)], method="hooks", chunk_size=1)


def test_auto_takes_hooks_where_minibatches_are_small():
    module = CNN(input_shape=(1, 28, 28), num_classes=10)
    loss, params = functional_loss(module, cross_entropy), detached_parameters(module)

    def chosen(examples):
        batches = [(torch.zeros(examples, 1, 28, 28), torch.zeros(examples, dtype=torch.long))] * 2
        return choose_method(loss, params, batches, EVERYTHING)

    assert [chosen(examples) for examples in (4, 128)] == ["hooks", "loop"]


def test_half_precision_is_summed_in_single():
    module = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.LayerNorm(4), nn.Linear(4, 1)).bfloat16()
    batches = [(torch.randn(4, 5).bfloat16(), torch.randn(4, 1).bfloat16()) for _ in range(3)]
    loss, params = functional_loss(module, mse_loss), detached_parameters(module)
    actual = gradient_moments(loss, params, batches, method="hooks")
    assert actual.mean["0.weight"].dtype == torch.float32
    expected = gradient_moments(loss, params, batches, method="loop")
    assert_close(actual.sq_norms, expected.sq_norms, rtol=0.05, atol=0)
    assert hooks.SAME[torch.float32] == 1e-3


def test_gradients_formed_at_once_are_bounded(monkeypatch):
    """Small examples of a large network: without the bound the memory would be that of many networks."""
    module = nn.Linear(2, 100)
    loss, params = functional_loss(module, cross_entropy), detached_parameters(module)
    batch = (torch.zeros(2, 2), torch.zeros(2, dtype=torch.long))
    assert hooks.minibatches_at_once(loss, params, batch) > 100
    monkeypatch.setattr(hooks, "GRADIENT_MEMORY", 7 * 2 * 300)
    assert hooks.minibatches_at_once(loss, params, batch) == 3


def test_a_network_too_large_for_hooks_is_known_without_a_pass(monkeypatch):
    module = nn.Linear(2, 100)
    loss, params = functional_loss(module, cross_entropy), detached_parameters(module)
    calls = []
    module.register_forward_hook(lambda *passed: calls.append(passed))
    batches = [(torch.zeros(2, 2), torch.zeros(2, dtype=torch.long))]
    assert hooks.pays(loss, params, batches[0])
    assert hooks.pays(loss, params, batches[0])  # what a pass keeps is measured once for a loss and a shape
    assert len(calls) == 1
    small = (torch.zeros(3, 2), torch.zeros(3, dtype=torch.long))
    assert hooks.pays(loss, params, small)
    assert len(calls) == 2
    monkeypatch.setattr(hooks, "GRADIENT_MEMORY", (hooks.AT_LEAST - 1) * 4 * 300)
    assert not hooks.pays(loss, params, (torch.zeros(4, 2), torch.zeros(4, dtype=torch.long)))
    assert len(calls) == 2
