"""Known noise is off, and nothing else."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ireg.core.noise import noise_layers, without_noise

INPUTS = torch.randn(6, 4, 8, generator=torch.Generator().manual_seed(0))


class DropPath(nn.Module):
    """As timm has it."""

    def __init__(self, drop_prob=0.5):
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, inputs):
        if not self.training:
            return inputs
        kept = inputs.new_empty(len(inputs), 1, 1).bernoulli_(1 - self.drop_prob)
        return inputs * kept / (1 - self.drop_prob)


class Calling(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, inputs):
        return self.function(inputs, self.training)


class Recurrent(nn.Module):
    def __init__(self, dropout):
        super().__init__()
        self.inner = nn.LSTM(8, 8, 2, dropout=dropout)

    def forward(self, inputs):
        return self.inner(inputs)[0]


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.MultiheadAttention(8, 2, dropout=0.5)

    def forward(self, inputs):
        return self.inner(inputs, inputs, inputs)[0]


def attention(inputs, training):
    return F.scaled_dot_product_attention(inputs, inputs, inputs, dropout_p=0.5 * training)


NOISY = {
    "Dropout": lambda: nn.Dropout(0.5),
    "Dropout1d": lambda: nn.Dropout1d(0.5),
    "AlphaDropout": lambda: nn.AlphaDropout(0.5),
    "FeatureAlphaDropout": lambda: nn.FeatureAlphaDropout(0.5),
    "RReLU": nn.RReLU,
    "LSTM": lambda: Recurrent(0.5),
    "attention layer": Attending,
    "transformer layer": lambda: nn.TransformerEncoderLayer(8, 2, 16, dropout=0.5),
    "DropPath": DropPath,
    "F.dropout": lambda: Calling(lambda x, training: F.dropout(x, 0.5, training)),
    "F.dropout by position": lambda: Calling(lambda x, training: F.dropout(x, 0.5, training, False)),
    "F.dropout1d": lambda: Calling(lambda x, training: F.dropout1d(x, 0.5, training)),
    "F.alpha_dropout": lambda: Calling(lambda x, training: F.alpha_dropout(x, 0.5, training)),
    "F.feature_alpha_dropout": lambda: Calling(lambda x, training: F.feature_alpha_dropout(x, 0.5, training)),
    "torch.dropout": lambda: Calling(lambda x, training: torch.dropout(x, 0.5, training)),
    "torch.native_dropout": lambda: Calling(lambda x, training: torch.native_dropout(x, 0.5, training)[0]),
    "attention by position": lambda: Calling(
        lambda x, training: F.scaled_dot_product_attention(x, x, x, None, 0.5 * training)
    ),
    "F.rrelu": lambda: Calling(lambda x, training: F.rrelu(x, training=training)),
    "attention": lambda: Calling(attention),
}


@pytest.mark.parametrize("name", NOISY)
def test_it_is_off_as_in_eval_mode_and_on_again(name):
    torch.manual_seed(0)
    module = NOISY[name]()
    assert not torch.equal(module(INPUTS), module(INPUTS))
    with without_noise(module):
        first = module(INPUTS)
        assert torch.equal(first, module(INPUTS))
    torch.testing.assert_close(first, module.eval()(INPUTS), rtol=1e-5, atol=1e-6)
    module.train()
    assert not torch.equal(module(INPUTS), module(INPUTS))


def test_what_is_no_noise_stays_in_training_mode():
    module = nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Dropout(0.0), Recurrent(0.0))
    with without_noise(module):
        assert [layer.training for layer in module] == [True, False, True, True]
    assert noise_layers(module) == [module[1]]
    assert noise_layers(module.eval()) == []


def test_functions_are_looked_at_where_a_layer_is_somebodys_own():
    own, torchs = Calling(lambda x, training: F.dropout(x, 0.5, training)), nn.Sequential(nn.Identity())
    with without_noise(torchs):
        assert not torch.equal(F.dropout(INPUTS), INPUTS)
    with without_noise(torchs, functional=True):
        assert torch.equal(F.dropout(INPUTS), INPUTS)
    with without_noise(own, functional=False):
        assert not torch.equal(own(INPUTS), INPUTS)


def test_all_is_restored_after_an_error():
    module = Recurrent(0.5)
    with pytest.raises(KeyError), without_noise(module):
        raise KeyError
    assert (module.inner.dropout, module.inner.training) == (0.5, True)
