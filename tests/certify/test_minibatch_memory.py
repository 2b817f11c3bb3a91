"""What noise adds to the memory of a step along a smooth map: the formula of docs/theory.md, section 19.

Quadratic losses, the smoothed normalized step, a running mean, and the mean over all orders of three epochs. What is of
first order in the rate in the mean step of the last one is compared with the formula.
"""

from functools import partial
from itertools import permutations, product

import pytest
import torch
from torch.func import jvp

M, P, BETA, EPOCHS = 3, 3, 0.2, 3
GENERATOR = torch.Generator().manual_seed(3)
LAGS = 40


def normal(*shape):
    return torch.randn(shape, generator=GENERATOR).double()


FACTORS = normal(M, P, P)
HESSIANS = FACTORS @ FACTORS.mT / (2 * P) + torch.eye(P).double() / 2
OFFSETS = normal(M, P)
ORDERS = torch.tensor([sum(each, ()) for each in product(permutations(range(M)), repeat=EPOCHS)])


def step(c):
    return c / (c.square().sum(-1, keepdim=True) + 1).sqrt()


def scaled(values, size):
    return values.mean(0) + size * (values - values.mean(0))


def in_all_orders(size, rate, frozen=None):
    """The mean weights at the start and the end of the last epoch; or the mean steps at frozen weights, (M, P)."""
    hessians, offsets = scaled(HESSIANS, size), scaled(OFFSETS, size)
    point = torch.zeros(P).double() if frozen is None else frozen
    mean = HESSIANS.mean(0) @ point + OFFSETS.mean(0)
    held = (mean + rate * BETA / (1 - BETA) * HESSIANS.mean(0) @ step(mean)).expand(len(ORDERS), P)
    weights, steps, start = point.expand(len(ORDERS), P), [], point
    for number, k in enumerate(ORDERS.T):
        held = BETA * held + (1 - BETA) * (torch.einsum("nij,nj->ni", hessians[k], weights) + offsets[k])
        if number == ORDERS.shape[1] - M:
            start = weights.mean(0)
        if number >= ORDERS.shape[1] - M:
            steps.append(step(held).mean(0))
        weights = weights - rate * step(held)
    return (start, weights.mean(0)) if frozen is None else torch.stack(steps)


def leading(size, point):
    return in_all_orders(size, 0.0, frozen=point).mean(0)


def along(function, direction, length=1e-4):
    return (function(length * direction) - function(-length * direction)) / (2 * length)


def first_order(size, rate=1e-3):
    """What is of first order in the rate in the velocity of the means at the epochs' ends."""
    found = []
    for each in (rate, -rate):
        start, end = in_all_orders(size, each)
        found.append((start - end) / (each * M) - leading(size, start))
    velocity = leading(size, torch.zeros(P).double())
    return (found[0] - found[1]) / (2 * rate) + M / 2 * along(partial(leading, size), velocity)


def left(ones, others):
    """κ of two sets of weights of past minibatches: the mean over the steps of an epoch."""
    total = 0.0
    for q in range(M):
        epochs = {}
        for lag in range(LAGS):
            epochs.setdefault(-(-(lag - q) // M) if lag > q else 0, []).append(lag)
        for number, lags in epochs.items():
            if number and len(lags) < M:
                continue  # cut off at the end of the lags
            equal = sum(ones[lag] * others[lag] for lag in lags)
            whole = sum(ones[lag] for lag in lags) * sum(others[lag] for lag in lags)
            total += equal - (whole - equal) / (M - 1)
    return total / M


def derivative(function, point, *directions):
    for direction in directions:
        function = partial(lambda inner, along_it, value: jvp(inner, (value,), (along_it,))[1], function, direction)
    return function(point)


def test_the_whole_is_right_and_the_first_candidate_is_not():
    a = [(1 - BETA) * BETA**n for n in range(LAGS)]
    since = [sum(a[j] * sum(a[: n - j]) for j in range(n + 1)) for n in range(LAGS)]
    kappa, kappa2, kappa3 = left(a, a), left(a, since), left(a, [n * weight for n, weight in enumerate(a)])
    tau, lag = 2 / (M * (M - 1)) * sum((M - d) * BETA**d for d in range(1, M)), BETA / (1 - BETA)
    assert kappa == pytest.approx((1 - BETA) / (1 + BETA) * (1 - tau), rel=1e-10)
    h, g = HESSIANS.mean(0), OFFSETS.mean(0)
    spread, deltas, u = HESSIANS - h, OFFSETS - g, step(g)
    d = partial(derivative, step, g)

    def mean(function):
        return sum(function(k) for k in range(M)) / M

    noise = kappa / 2 * mean(lambda k: d(deltas[k], deltas[k]))
    candidate = (1 - tau) / 2 * d(mean(lambda k: HESSIANS[k] @ d(deltas[k])))

    def phase(point, size=0.02):
        both = (in_all_orders(size, 0.0, frozen=point) + in_all_orders(-size, 0.0, frozen=point)) / 2
        return sum(q * (both[q] - both.mean(0)) for q in range(M)) / M / size**2

    of_phase = d(h @ phase(torch.zeros(P).double())) - along(phase, u, 1e-3)
    whole = (
        (0.5 + lag) * (d(h @ noise) + kappa / 2 * mean(lambda k: d(deltas[k], deltas[k], h @ u)))
        + (kappa / 2 + kappa3) * mean(lambda k: d(deltas[k], spread[k] @ u))
        - kappa2 * mean(lambda k: d(deltas[k], h @ d(deltas[k])))
        + candidate
        + of_phase
    )
    # The part without noise is (½ + L) DT[Hu]; taken as measured, as are the others, its errors cancel.
    still = first_order(0.0)
    full_batch = (0.5 + lag) * d(h @ u)
    assert float((still - full_batch).norm() / full_batch.norm()) < 1e-4
    twice, once = (((first_order(size) + first_order(-size)) / 2 - still) / size**2 for size in (0.2, 0.1))
    measured = (4 * once - twice) / 3  # what is of fourth order in the noise cancels
    errors = {
        name: float((measured - found).norm() / measured.norm())
        for name, found in (("whole", whole), ("candidate", candidate), ("no phase", whole - of_phase))
    }
    assert errors["whole"] < 2e-4
    assert errors["candidate"] > 1
    assert errors["no phase"] > 0.04
