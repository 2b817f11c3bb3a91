"""A problem on which adaptive methods are known to generalize worse."""

import torch
from torch import Tensor

from ireg.core.random import named_generator
from ireg.system.errors import UserError


def separable(*, num_train: int, num_test: int, positive: float, seed: int, train: bool) -> tuple[Tensor, Tensor]:
    """Make one split of the separable problem of Wilson et al. 2017.

    An example of class ±1 has that sign as its first feature, two features of 1, and features of 1 that no other
    example has: one if it is positive, five if it is negative. Those of test examples were never seen, and are left
    out. The first feature alone decides.

    From weights of 0, gradient descent on a linear model ends at the solution of least norm, which decides all test
    examples rightly. Adaptive methods with full batches give all features weights of one size, and call every test
    example positive.

    Args:
        num_train: training examples.
        num_test: test examples.
        positive: share of positive examples, in (½, 1); exact up to rounding.
        seed: of the order of the examples.
        train: the training split, else the test split.

    Returns:
        Inputs, float32 (N, 1, 1, 3 + 5·num_train), and labels, int64 (N,).

    Raises:
        UserError: a share out of its range.

    Source: Wilson, Roelofs, Stern, Srebro & Recht 2017, arXiv:1705.08292, section 3.3.

    Example:
        >>> inputs, labels = separable(num_train=4, num_test=8, positive=0.75, seed=0, train=True)
        >>> inputs.shape, sorted(labels.tolist())
        (torch.Size([4, 1, 1, 23]), [0, 1, 1, 1])
        >>> inputs[labels == 0].sum()  # −1 + 2 + 5
        tensor(6.)
    """
    if not 0.5 < positive < 1:
        raise UserError(f"positive={positive:g}: must be above 0.5 and below 1")
    count = num_train if train else num_test
    order = torch.randperm(count, generator=named_generator("separable", seed, int(train)))
    labels = (order < round(positive * count)).long()
    inputs = torch.zeros(count, 3 + 5 * num_train)
    inputs[:, 0] = 2.0 * labels - 1
    inputs[:, 1:3] = 1
    if train:
        for example, label in enumerate(labels.tolist()):
            first = 3 + 5 * example
            inputs[example, first : first + (1 if label else 5)] = 1
    return inputs[:, None, None], labels
