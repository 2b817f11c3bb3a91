"""What terms ask of the moments."""

import torch

from ireg.core.drawing import EPOCH, INDEPENDENT
from ireg.core.moments.needs import Need, union_of_needs
from ireg.core.optimizers import view
from ireg.terms.implicit import full_batch


def test_independent_minibatches_need_the_mean_square_for_an_estimate():
    weight = torch.nn.Parameter(torch.ones(2))
    seen = view(torch.optim.SGD([weight], lr=0.1), {"w": weight})
    assert union_of_needs([full_batch], seen, EPOCH) == Need.MEAN
    assert union_of_needs([full_batch], seen, INDEPENDENT) == Need.MEAN | Need.SQ_NORMS
    assert union_of_needs([lambda snapshot: None], seen, INDEPENDENT) == Need(0)
