"""The reference of each term: its value at a small problem, from dense matrices in double precision.

Everything is of `.backward()`, dense Hessians, and what torch's optimizers hold; nothing of it comes of `ireg`, but for
the draws of the estimates and the vector that Lanczos' method has ended with.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ireg.core.random import named_generator
from tests import reference

LR, PROBES, WIDTHS = 0.25, 8, (2, 4, 3)


@dataclass
class Case:
    """A network after an epoch of four minibatches.

    `rmsprop` has ReLU, momentum and L2 decay; `sgd` has tanh, momentum and L2 decay; `forgetful` is RMSprop whose
    second moment is the last gradient's square, which leaves F without the noise of the orders; of `fading` it is a
    mean over few steps.
    """

    kind: str
    places: list[Tensor] = field(default_factory=list)
    settled: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        middle = nn.Tanh() if self.kind == "sgd" else nn.ReLU()
        self.module = nn.Sequential(nn.Linear(2, 4), middle, nn.Linear(4, 3)).double()
        self.batches = [(torch.randn(6, 2, dtype=torch.float64), torch.randint(3, (6,))) for _ in range(4)]
        self.corrupted = torch.rand(24) < 0.4
        self.initial = {name: value.detach().clone() for name, value in self.module.named_parameters()}
        self.optimizer = {
            "rmsprop": lambda weights: torch.optim.RMSprop(
                weights, lr=LR, alpha=0.9, eps=0.1, momentum=0.5, weight_decay=0.2
            ),
            "sgd": lambda weights: torch.optim.SGD(weights, lr=LR, momentum=0.5, weight_decay=0.2),
            "forgetful": lambda weights: torch.optim.RMSprop(weights, lr=LR, alpha=1e-20, eps=0.1),
            "fading": lambda weights: torch.optim.RMSprop(weights, lr=LR, alpha=0.5, eps=0.1),
        }[self.kind](self.module.parameters())
        self.rule = reference.Rule(rate=2 * LR, lag=1.0, tail=(1.0, 0.5), rho=0.9, eps=0.1, steps=10.5, decay=0.2)

    def train(self) -> None:
        """Take the epoch's steps."""
        self._note()
        for inputs, labels in self.batches:
            self.optimizer.zero_grad()
            cross_entropy(self.module(inputs), labels).backward()
            self.optimizer.step()
            self._note()
        self.point, self.g, self.hessians = reference.dense(self.module, cross_entropy, self.batches)
        self.mean, self.h = self.g.mean(0), self.hessians.mean(0)
        self.squares = 2 * torch.einsum("kij,kj->i", self.hessians, self.g) / 4  # ∇Q
        if self.kind != "sgd":
            self.v = self._state("square_avg")
            self.p = 1 / (self.v.sqrt() + 0.1)

    def _note(self) -> None:
        place = reference.flat(dict(self.module.named_parameters()))
        held = self._state("momentum_buffer") if self.optimizer.state and self.kind == "rmsprop" else 0.0
        self.places.append(place)
        self.settled.append(place - LR * 0.5 / 0.5 * held)  # the buffer has run out after η β/(1 − β) of it

    def _state(self, key: str) -> Tensor:
        return torch.cat([self.optimizer.state[value][key].flatten() for value in self.module.parameters()])

    def own(self) -> Tensor:
        """P^½ (H + λ) P^½ of RMSprop."""
        return self.p.sqrt()[:, None] * (self.h + 0.2 * torch.eye(len(self.h), dtype=torch.float64)) * self.p.sqrt()

    def flow(self, of: Callable[..., float], *parts: str) -> float:
        """A number of the mean flow, of the sum of some of its parts."""
        dense = reference.dense(self.module, cross_entropy, self.batches, 0.2)
        found = {
            name: vector.nan_to_num(0.0, 0.0, 0.0) for name, vector in reference.mean_flow(*dense, self.rule).items()
        }
        return of(found, sum(found[part] for part in parts))

    def parts(self) -> tuple[float, float]:
        """Both parts of the regularizer of RMSprop with momentum."""
        descended = self.mean + 0.2 * self.point
        spread = float((self.p * (self.g - self.mean) ** 2).sum(1).mean())
        unlike = 1 - reference.overlap(0.5, 4)
        return LR / 2 * 3 * float(self.p @ descended**2), LR / 2 * unlike * spread  # η_e = η/(1 − β), 1 + 2L = 3

    def exact(self) -> Tensor:
        """F where the second moment is the last gradient's square: the mean step less the step of the mean."""
        return (self.g / (self.g.abs() + 0.1)).mean(0) - self.leading()

    def leading(self) -> Tensor:
        """u at the settled second moment."""
        return self.mean / (self.g.square().mean(0).sqrt() + 0.1)

    def noiseless(self) -> Tensor:
        """The step where all gradients are their mean."""
        return self.mean / (self.mean.abs() + 0.1)

    def change(self) -> Tensor:
        """The mean step less the one without noise, where the second moment is the last gradient's square."""
        return (self.g / (self.g.abs() + 0.1)).mean(0) - self.noiseless()

    def error(self) -> float:
        """The standard error over eight drawn orders, whose second moment has a decay of a half."""
        generator = named_generator("fluctuation", named_generator("terms").initial_seed())

        def drawn(epochs: int) -> list[int]:
            return torch.rand(epochs, 4, dtype=torch.float64, generator=generator).argsort(1).flatten().tolist()

        square, changes = self.g.square().mean(0), []
        root = square.sqrt()
        for past in [drawn(14) for _ in range(8)]:
            v, steps, seconds = torch.zeros_like(square), [], []
            for k in past + drawn(1):
                v = (v + self.g[k] ** 2) / 2
                steps.append(self.g[k] / (v.sqrt() + 0.1))
                seconds.append(v)
            excess = torch.stack(seconds[-4:]).mean(0) - square
            linear = torch.where(root > 0, self.mean * excess / (2 * root * (root + 0.1) ** 2), 0.0)
            changes.append(torch.stack(steps[-4:]).mean(0) + linear - self.noiseless())
        pairs = np.array([[float(one @ other) for other in changes] for one in changes])
        others = (pairs.sum(1) - pairs.diagonal()) / 7
        return float(others.std(ddof=1) / 8**0.5 / others.mean() ** 0.5 / self.noiseless().norm())

    def matrices(self) -> list[np.ndarray]:
        return [value.detach().numpy() for value in self.module.parameters() if value.ndim == 2]

    def margin(self, share: float, among: str) -> float:
        """A quantile of the margins by plain loops."""
        found = [
            outputs[label] - max(output for number, output in enumerate(outputs) if number != label)
            for inputs, labels in self.batches
            for outputs, label in zip(self.module(inputs).tolist(), labels.tolist(), strict=True)
        ]
        wrong = self.corrupted.numpy()
        chosen = {"all": wrong | ~wrong, "clean": ~wrong, "corrupted": wrong}[among]
        return float(np.quantile(np.array(found)[chosen], share))

    def normalized(self, share: float, among: str) -> float:
        return self.margin(share, among) / self.norms()

    def norms(self) -> float:
        return float(np.prod([np.linalg.norm(matrix) for matrix in self.matrices()]))

    def grown(self, places: list[Tensor]) -> tuple[float, float, float]:
        """The radial and the diffusive part, and the squared length of the whole step."""
        steps = [before - after for before, after in pairwise(places)]
        radial = sum(-2 * float(place @ step) for place, step in zip(places, steps, strict=False))
        return (
            radial,
            sum(float(step @ step) for step in steps),
            float((places[-1] - places[0]) @ (places[-1] - places[0])),
        )

    def spread(self, scale: Tensor | float = 1.0) -> float:
        """The variance of one example's gradient: six of 24 in a minibatch."""
        return 6 * 23 / 18 * float((scale * (self.g - self.mean) ** 2).sum(1).mean())

    def balanced(self) -> float:
        """The norm at which steps of η_e g_k and a decay by 1 − η_e λ balance, η_e = 2η."""
        grown = (2 * LR) ** 2 * float(self.g.square().sum(1).mean())
        return float((grown / (1 - (1 - 2 * LR * 0.2) ** 2)) ** 0.5)

    def probes(self, stream: str, matrix: Tensor) -> tuple[float, float]:
        """Mean and standard error of xᵀAx over the signs x that are drawn."""
        generator = named_generator(stream, named_generator("terms").initial_seed())
        shapes = [(len(matrix),)] if stream == "gni" else [value.shape for value in self.module.parameters()]
        values = []
        for _ in range(PROBES):
            signs = [2 * torch.randint(2, shape, generator=generator).flatten() - 1 for shape in shapes]
            x = torch.cat(signs).double()
            values.append(float(x @ matrix @ x))
        return float(np.mean(values)), float(np.std(values, ddof=1) / PROBES**0.5)

    def interaction(self) -> Tensor:
        """Its quadratic form of signs has the mean (1/m) Σ_k g_kᵀHg_k/‖ḡ‖²."""
        return self.g @ self.h @ self.g.T / len(self.g) / self.mean.square().sum()

    def weighted(self) -> Tensor:
        """½ ω_i H_ij ω_j."""
        return self.point[:, None] * self.h * self.point / 2


def _angle(one: Tensor, other: Tensor) -> float:
    return float(torch.acos(one @ other / (one.norm() * other.norm())))


def _of(part: int) -> Callable[[Case, list[Tensor]], float]:
    return lambda case, places: case.grown(places)[part]


_radial, _diffusive, _whole = _of(0), _of(1), _of(2)


def _noise_edge(case: Case, vector: Tensor) -> float:
    along = torch.stack([vector @ hessian @ vector for hessian in case.hessians]) + 0.2
    variance = along.var(correction=0)
    return float(LR / 2 * (variance / along.mean() / (1 - 0.5) + along.mean() / (1 + 0.5)))


def _residual(case: Case, vector: Tensor) -> float:
    value = vector @ case.h @ vector
    return float((case.h @ vector - value * vector).norm())


def _largest(matrix: Tensor) -> float:
    return float(torch.linalg.eigvalsh(matrix)[-1])


def _along_step(case: Case) -> float:
    gradient = case.mean + 0.2 * case.point
    step = case.p * gradient
    return float(step @ (case.h + 0.2 * torch.eye(len(step), dtype=torch.float64)) @ step / (gradient @ step))


EDGE = 2 * (1 + 0.5) / LR
"""h* of RMSprop with momentum 0.5, docs/theory.md, section 12."""

REFERENCES: dict[str, tuple[str, Callable[..., float]]] = {
    "ireg/sgd": ("rmsprop", lambda case: LR / 4 * float(case.g.square().sum(1).mean())),
    "ireg/full_batch": ("rmsprop", lambda case: LR / 4 * float(case.mean.square().sum())),
    "ireg/minibatch_variance": ("rmsprop", lambda case: LR / 4 * float((case.g - case.mean).square().sum(1).mean())),
    "ireg/rmsprop": ("rmsprop", lambda case: LR / 4 * float((case.v * case.g).square().sum(1).mean())),
    "ireg/own": ("rmsprop", lambda case: sum(case.parts())),
    "ireg/own_full_batch": ("rmsprop", lambda case: case.parts()[0]),
    "ireg/own_variance": ("rmsprop", lambda case: case.parts()[1]),
    "ireg/strength": ("rmsprop", lambda case: case.flow(reference.strength, "M", "V", "F")),
    "ireg/strength_memory": ("rmsprop", lambda case: case.flow(reference.strength, "M")),
    "ireg/strength_lag": ("rmsprop", lambda case: case.flow(reference.strength, "V")),
    "ireg/strength_fluctuation": ("rmsprop", lambda case: case.flow(reference.strength, "F")),
    "ireg/alignment": ("rmsprop", lambda case: case.flow(reference.alignment, "M", "V", "F")),
    "ireg/alignment_memory": ("rmsprop", lambda case: case.flow(reference.alignment, "M")),
    "ireg/alignment_lag": ("rmsprop", lambda case: case.flow(reference.alignment, "V")),
    "ireg/alignment_fluctuation": ("rmsprop", lambda case: case.flow(reference.alignment, "F")),
    "ireg/strength_fluctuation_exact": ("forgetful", lambda case: float(case.exact().norm() / case.leading().norm())),
    "ireg/alignment_fluctuation_exact": (
        "forgetful",
        lambda case: float(case.exact() @ case.squares / (case.exact().norm() * case.squares.norm())),
    ),
    "noise/step": ("forgetful", lambda case: float(case.change().norm() / case.noiseless().norm())),
    "noise/step_se": ("fading", lambda case: case.error()),
    "noise/trace": ("rmsprop", lambda case: case.spread()),
    "noise/square": ("rmsprop", lambda case: float(case.mean.square().sum())),
    "noise/scale": ("rmsprop", lambda case: case.spread() / float(case.mean.square().sum())),
    "noise/scale_own": ("rmsprop", lambda case: case.spread(case.p) / float((case.p * case.mean.square()).sum())),
    "noise/signal_to_noise": ("rmsprop", lambda case: 6 * float(case.mean.square().sum()) / case.spread()),
    "noise/share": ("rmsprop", lambda case: float((case.g - case.mean).square().sum() / case.g.square().sum())),
    "noise/update_ratio": ("rmsprop", lambda case: float((case.point - case.places[-2]).norm() / case.point.norm())),
    "noise/angle": ("rmsprop", lambda case: _angle(case.places[-2], case.point)),
    "noise/equilibrium": ("sgd", lambda case: case.balanced() / float(case.point.norm())),
    "norm/l2": ("rmsprop", lambda case: float(np.linalg.norm(case.places[-1].numpy()))),
    "norm/distance": ("rmsprop", lambda case: float(np.linalg.norm((case.places[-1] - case.places[0]).numpy()))),
    "norm/layers": ("rmsprop", lambda case: float(np.linalg.norm(case.module[2].weight.detach().numpy()))),
    "norm/product": ("rmsprop", lambda case: case.norms()),
    "norm/spectral_product": (
        "rmsprop",
        lambda case: float(np.prod([np.linalg.norm(matrix, 2) for matrix in case.matrices()])),
    ),
    "path/radial": ("rmsprop", lambda case: _radial(case, case.places)),
    "path/diffusive": ("rmsprop", lambda case: _diffusive(case, case.places)),
    "path/whole": ("rmsprop", lambda case: _whole(case, case.places)),
    "path/settled_radial": ("rmsprop", lambda case: _radial(case, case.settled)),
    "path/settled_diffusive": ("rmsprop", lambda case: _diffusive(case, case.settled)),
    "path/settled_whole": ("rmsprop", lambda case: _whole(case, case.settled)),
    "margin/median": ("rmsprop", lambda case: case.margin(0.5, "all")),
    "margin/low": ("rmsprop", lambda case: case.margin(0.01, "all")),
    "margin/clean_median": ("rmsprop", lambda case: case.margin(0.5, "clean")),
    "margin/clean_low": ("rmsprop", lambda case: case.margin(0.01, "clean")),
    "margin/corrupted_median": ("rmsprop", lambda case: case.margin(0.5, "corrupted")),
    "margin/corrupted_low": ("rmsprop", lambda case: case.margin(0.01, "corrupted")),
    "margin/normalized_median": ("rmsprop", lambda case: case.normalized(0.5, "all")),
    "margin/normalized_low": ("rmsprop", lambda case: case.normalized(0.01, "all")),
    "margin/normalized_clean_median": ("rmsprop", lambda case: case.normalized(0.5, "clean")),
    "margin/normalized_clean_low": ("rmsprop", lambda case: case.normalized(0.01, "clean")),
    "margin/normalized_corrupted_median": ("rmsprop", lambda case: case.normalized(0.5, "corrupted")),
    "margin/normalized_corrupted_low": ("rmsprop", lambda case: case.normalized(0.01, "corrupted")),
    "curvature/lambda_max": ("rmsprop", lambda case: _largest(case.h)),
    "curvature/lambda_max_residual": ("rmsprop", lambda case: _residual(case, case.steepest)),
    "curvature/lambda_max_products": ("rmsprop", lambda case: case.products),
    "curvature/preconditioned_sharpness": ("rmsprop", lambda case: _largest(case.own())),
    "curvature/edge_fraction": ("rmsprop", lambda case: _largest(case.own()) / EDGE),
    "curvature/batch_sharpness": (
        "rmsprop",
        lambda case: float(
            (torch.einsum("ki,kij,kj->k", case.g, case.hessians, case.g) / case.g.square().sum(1)).mean()
        ),
    ),
    "curvature/gni": ("sgd", lambda case: case.probes("gni", case.interaction())[0]),
    "curvature/gni_se": ("sgd", lambda case: case.probes("gni", case.interaction())[1]),
    "curvature/noise_edge": ("sgd", lambda case: _noise_edge(case, case.steepest)),
    "curvature/trace": ("rmsprop", lambda case: float(case.h.trace())),
    "curvature/trace_se": ("sgd", lambda case: case.probes("trace", case.h)[1]),
    "curvature/trace_root": ("rmsprop", lambda case: float(case.h.diagonal().clamp(min=0).sqrt().sum())),
    "curvature/adaptive": ("rmsprop", lambda case: float(case.weighted().trace())),
    "curvature/adaptive_se": ("sgd", lambda case: case.probes("adaptive", case.weighted())[1]),
    "curvature/along_step": ("rmsprop", lambda case: _along_step(case) / EDGE),
}
"""By tag, the case at which a term is measured, and its value there. A new term needs a line here."""

TOLERANCES = {
    "curvature/lambda_max": 5e-3,
    "curvature/preconditioned_sharpness": 5e-3,
    "curvature/edge_fraction": 5e-3,
    "noise/angle": 1e-7,
}
"""Relative, of eigenvalues: of second order in Lanczos' residual of 1 %. Others agree to 10⁻⁹."""
