"""Identities of the norm's growth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Optimizer

from ireg import known_optimizers
from ireg.certify.identity import RATE, STEPS, Identity, flat, minibatches, mlp, network, relative
from ireg.core.optimizers import view
from ireg.core.path import Growth, Path, PathRecorder
from ireg.known_optimizers import KnownOptimizer

Make = Callable[[Sequence[Tensor]], Optimizer]


def makers(entries: Mapping[str, KnownOptimizer]) -> dict[str, Make]:
    """Return what makes each optimizer that has an example."""
    return {
        name: partial(entry.load(), lr=RATE, **entry.example)
        for name, entry in entries.items()
        if entry.example is not None
    }


OPTIMIZERS: Mapping[str, Make] = makers(known_optimizers.OPTIMIZERS)
"""One of each rule."""


def growth_of(make: Make) -> Identity:
    """Compare both parts of the growth with sums over lists of weights."""
    module = mlp("tanh")
    path, weights, settled, _ = _walk(module, make(list(module.parameters())))
    assert path.settled is not None
    error = max(_apart(path.weights, weights), _apart(path.settled, settled))
    controls = {"a step left out": _apart(path.weights, weights[1:])}
    if not torch.equal(weights[-1], settled[-1]):
        controls["weights for settled weights"] = _apart(path.settled, weights)
    return Identity(error, controls)


def _walk(module: nn.Module, optimizer: Optimizer) -> tuple[Path, list[Tensor], list[Tensor], list[Tensor]]:
    """Take some steps; return what is recorded, all ω, all settled weights, and all gradients."""
    recorder, batches = PathRecorder(optimizer), minibatches()
    named = dict(module.named_parameters())
    recorder.start()
    weights, settled, gradients = [flat(named)], [flat(named)], []
    for number in range(STEPS):
        inputs, labels = batches[number % len(batches)]
        optimizer.zero_grad()
        cross_entropy(module(inputs), labels).backward()
        optimizer.step()
        seen = view(optimizer, named)
        held, scale = seen.buffer, seen.preconditioner
        weights.append(flat(named))
        settled.append(weights[-1])
        gradients.append(flat({name: value.grad for name, value in named.items() if value.grad is not None}))
        if held is not None:
            assert seen.first_moment is not None
            pending = flat(seen.first_moment)
            if scale is not None and not held.divided:
                pending = flat(scale) * pending
            # Where the weights come to rest if all further gradients are 0.
            settled[-1] = weights[-1] - held.ahead * pending
    path = recorder.path()
    assert path is not None
    return path, weights, settled, gradients


def _apart(growth: Growth, places: Sequence[Tensor]) -> float:
    """Compute the relative error of both parts against their definition."""
    steps = [before - after for before, after in pairwise(places)]
    radial = sum(float(-2 * place @ step) for place, step in zip(places[:-1], steps, strict=True))
    diffusive = sum(float(step @ step) for step in steps)
    return max(relative(growth.radial, radial), relative(growth.diffusive, diffusive))


def diffusion() -> Identity:
    """Check the diffusive part: SGD's is η² Σ ‖g_k‖², momentum's in settled weights η_e² Σ ‖g_k‖²."""
    errors, controls = [], {}
    for momentum in (0.0, 0.9):
        module = mlp("tanh")
        path, _, _, gradients = _walk(module, SGD(module.parameters(), lr=RATE, momentum=momentum))
        assert path.settled is not None
        expected = (RATE / (1 - momentum)) ** 2 * sum(float(gradient @ gradient) for gradient in gradients)
        errors.append(relative(path.settled.diffusive, expected))
        if momentum:
            controls["in the weights themselves"] = relative(path.weights.diffusive, expected)
    return Identity(max(errors), controls)


def homogeneity() -> Identity:
    """Check the radial part of a network without biases, homogeneous of degree D (its layers).

    By Euler's theorem ω·∇f_c = D f_c, so that SGD's is −2ηD Σ mean_i Σ_c f_c (p_c − y_c).
    """
    module, batches = mlp(bias=False), minibatches()
    optimizer = SGD(module.parameters(), lr=RATE)
    recorder, total = PathRecorder(optimizer), 0.0
    recorder.start()
    for number in range(STEPS):
        inputs, labels = batches[number % len(batches)]
        outputs = module(inputs)
        errors = outputs.softmax(1) - nn.functional.one_hot(labels, 3)
        total += float((outputs * errors).detach().sum(1).mean())
        optimizer.zero_grad()
        cross_entropy(outputs, labels).backward()
        optimizer.step()
    path = recorder.path()
    assert path is not None
    layers = 3
    wrong = {"a layer less": relative(path.weights.radial, -2 * RATE * (layers - 1) * total)}
    return Identity(relative(path.weights.radial, -2 * RATE * layers * total), wrong)


class _Normalized(nn.Module):
    """A layer with or without a normalization after it."""

    def __init__(self, *, normalizes: bool) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 3, 3, bias=False)
        self.norm = nn.GroupNorm(1, 3, eps=0.0, affine=False) if normalizes else nn.Identity()

    def forward(self, inputs: Tensor) -> Tensor:
        pooled: Tensor = self.norm(self.layer(inputs)).square().mean((2, 3))
        return pooled


def normalization() -> Identity:
    """Check that SGD's radial part is 0 before a normalization, as a share of the diffusive one.

    The loss does not depend on the length of the weights there, so that ω·g = 0.
    """
    shares = {}
    for normalizes in (True, False):
        module = network(lambda normalizes=normalizes: _Normalized(normalizes=normalizes))  # type: ignore[misc]
        path, *_ = _walk(module, SGD(module.parameters(), lr=RATE))
        shares[normalizes] = abs(path.weights.radial) / path.weights.diffusive
    return Identity(shares[True], {"no normalization": shares[False]})
