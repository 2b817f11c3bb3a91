"""Each logged quantity by its printed formula in docs/terms.md or docs/theory.md, from a `Point`.

A function returns values by tag, and None for what must not exist. Tags that an optimizer refuses are left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.optim import SGD

from ireg.certify import textbook
from ireg.certify.noise import noise
from ireg.certify.point import Point, Values
from ireg.certify.steps import division


def equations(point: Point) -> Values:
    """Compute equations 1 and 2, and Singh's term, each weight and step at its own rate.

    With S = Σ η_t² and T = Σ η_t the parts are S/(4T) ‖ḡ‖² and (T² − S)/(4(m − 1)T) (1/m) Σ ‖g_k − ḡ‖².
    """
    mean, spread = point.gradients.mean(0), _variance(point.gradients)
    of_mean, of_variance = _step_coefficients(point)
    whole, variance = float(of_mean @ mean.square()), float(of_variance @ spread)
    second = None
    if point.adaptive:
        averages = torch.zeros_like(mean) if point.squares is None else point.squares[0]
        second = point.rate / 4 * float((averages * point.gradients).square().sum(1).mean())
    return {
        "ireg/full_batch": whole,
        "ireg/minibatch_variance": variance,
        "ireg/sgd": whole + variance,
        "ireg/rmsprop": second,
    }


def noise_scales(point: Point) -> Values:
    """Compute tr Σ and ‖∇C‖² of minibatches of different sizes, each with one weight, and their ratios.

    With a = (1/m) Σ N/B_k they are Var (N − 1) m/(a (m − 1)) and ‖ḡ‖² − Var (a − m)/(a (m − 1)).
    """
    sizes = torch.tensor([len(labels) for _, labels in point.trained.batches], dtype=torch.float64)
    variance, m = float(_variance(point.gradients).sum()), point.count
    whole, square = float(sizes.sum()), float(point.gradients.mean(0).square().sum())
    a = float((whole / sizes).mean())
    trace = variance * (whole - 1) * m / (a * (m - 1)) if m > 1 else None
    signal = None if trace is None else square - variance * (a - m) / (a * (m - 1))
    exists = trace is not None and signal is not None and signal > 0
    implied = equations(point)
    own: Values = {"noise/scale_own": None}
    if point.memory is not None and point.scale is not None and m > 1:
        of_own = float(point.scale @ _variance(point.gradients))
        signal_own = float(point.scale @ point.gradients.mean(0).square()) - of_own * (a - m) / (a * (m - 1))
        own = {"noise/scale_own": of_own * (whole - 1) * m / (a * (m - 1)) / signal_own if signal_own > 0 else None}
    return own | {
        "noise/trace": trace,
        "noise/square": signal,
        "noise/scale": trace / signal if exists else None,  # type: ignore[operator]
        "noise/signal_to_noise": signal * whole / (trace * a) if exists else None,  # type: ignore[operator]
        "noise/share": implied["ireg/minibatch_variance"] / implied["ireg/sgd"],  # type: ignore[operator]
    }


def steps_and_weights(point: Point) -> Values:
    """Compute length and angle of a step of SGD, and the norm at which weight decay balances its steps.

    With a buffer, and without Nesterov's step, ΔW is what the last step took off. Without one, and with L2 decay λ, the
    norm settles at η √((1/m) Σ ‖g_k‖²)/√(w(2 − w)), w = ηλ.
    """
    optimizer, group, weights = point.trained.optimizer, point.group, point.weights
    if type(optimizer) is not SGD or group["nesterov"] or point.training.penalty is not None:
        return {}
    values: Values = {}
    if group["momentum"] and point.trained.weights:
        before = point.last_weights
        values["noise/update_ratio"] = float((before - weights).norm() / weights.norm())
        values["noise/angle"] = 2 * math.asin(float((before / before.norm() - weights / weights.norm()).norm()) / 2)
    of_all = len({*point.l2.tolist()}) == 1 and bool((point.shares == 1).all()) and not point.changing
    if of_all and not group["momentum"] and float(point.l2[0]) > 0:
        w = point.rate * float(point.l2[0])
        settled = point.rate * math.sqrt(float(point.gradients.square().sum(1).mean()) / (w * (2 - w)))
        values["noise/equilibrium"] = settled / float(weights.norm())
    return values


def _variance(gradients: Tensor) -> Tensor:
    return (gradients - gradients.mean(0)).square().mean(0)


def _step_coefficients(point: Point) -> tuple[Tensor, Tensor]:
    """Compute S/(4T) and (T² − S)/(4(m − 1)T) of each weight."""
    total, squares = point.step_rates.sum(0), point.step_rates.square().sum(0)
    between = (total.square() - squares) / (4 * max(point.count - 1, 1) * total)
    return squares / (4 * total), between


def own(point: Point) -> Values:
    """Compute the optimizer's own regularizer.

    It is (η_e/4) [(1 + 2L) ‖ḡ‖²_P + (1 − τ) Var_P], ḡ with all that is descended, and at rates that change
    `Filter.pair`.
    """
    memory, scale = point.memory, point.scale
    if memory is None or scale is None:
        return dict.fromkeys(("ireg/own", "ireg/own_full_batch", "ireg/own_variance"))
    gradients, _ = point.descended
    mean, spread = gradients.mean(0), _variance(gradients)
    if point.decoupled:
        mean = mean + point.decays * point.shares / scale * point.weights
    by_mean, by_variance = point.pair
    of_mean, of_variance = by_mean * scale, by_variance * scale
    # Without memory each step has its own rate: the parts are those of equations 1 and 2, with decay.
    if isinstance(point.trained.optimizer, SGD) and not point.group["momentum"]:
        of_mean, of_variance = _step_coefficients(point)
    whole, variance = float(of_mean @ mean.square()), float(of_variance @ spread)
    return {"ireg/own_full_batch": whole, "ireg/own_variance": variance, "ireg/own": whole + variance}


def flow(point: Point) -> Values:
    """Compute ‖X‖/‖u‖ and ⟨X, ∇Q⟩/(‖X‖ ‖∇Q‖) of the mean flow and its parts."""
    if not point.training.flow:
        return {}
    memory, optimizer = point.memory, point.trained.optimizer
    assert memory is not None
    decoupled = float(point.decays[0]) if point.decoupled else 0.0
    divided = division(optimizer, memory)
    vectors = textbook.mean_flow(point.weights, *point.descended, memory, point.pair, divided, decoupled)
    parts = {name: vectors.get(name) for name in ("memory", "lag", "fluctuation")}
    whole = torch.stack([part for part in parts.values() if part is not None]).sum(0)
    values: Values = {}
    for name, part in {"": whole, **{f"_{name}": part for name, part in parts.items()}}.items():
        values[f"ireg/strength{name}"] = None if part is None else float(part.norm() / vectors["leading"].norm())
        values[f"ireg/alignment{name}"] = None if part is None else _cosine(part, vectors["squares"])
    return values


def _cosine(one: Tensor, other: Tensor) -> float:
    return float(one @ other / (one.norm() * other.norm()))


def edges(point: Point) -> Values:
    """Compute λ_max of H, and in the optimizer's metric λ_max and the curvature along the step.

    In that metric H has L2 decay with it, and is P^½HP^½. The last two are also shares of the edge h*.
    """
    hessian, memory, scale = point.hessians.mean(0), point.memory, point.scale
    values: Values = {"curvature/lambda_max": float(torch.linalg.eigvalsh(hessian)[-1])}
    if memory is None or scale is None:
        own = ("curvature/preconditioned_sharpness", "curvature/edge_fraction", "curvature/along_step")
        return values | dict.fromkeys(own)
    root, decayed = torch.diag(scale.sqrt()), hessian + torch.diag(point.l2)
    largest = float(torch.linalg.eigvalsh(root @ decayed @ root)[-1])
    gradient = point.gradients.mean(0) + point.l2 * point.weights
    step = scale * gradient
    along = float(step @ decayed @ step / (gradient @ step))
    return values | {
        "curvature/preconditioned_sharpness": largest,
        "curvature/edge_fraction": None if point.edge is None else largest / point.edge,
        "curvature/along_step": None if point.edge is None else along / point.edge,
    }


def noise_edge(point: Point, steepest: Tensor) -> Values:
    """Compute (η/2) [(σ²/h)/(1 − β) + h/(1 + β)] along an eigenvector.

    h is the mean and σ² the variance of the minibatches' curvatures along it.

    Args:
        point: where.
        steepest: the eigenvector of H, (p,), of length 1.

    Returns:
        The value by its tag; None but for SGD and heavy-ball momentum without dampening, at one rate and decay.
    """
    group = point.group
    plain = isinstance(point.trained.optimizer, SGD) and not group["nesterov"]
    uniform = len(set(point.decays.tolist())) == 1 and bool((point.step_rates == point.step_rates[0, 0]).all())
    if not plain or not uniform or (group["momentum"] and group["dampening"]):
        return {"curvature/noise_edge": None}
    curvatures = torch.einsum("i,kij,j->k", steepest, point.hessians, steepest) + point.decays[0]
    mean, variance, beta = curvatures.mean(), curvatures.var(correction=0), group["momentum"]
    return {"curvature/noise_edge": float(group["lr"] / 2 * (variance / mean / (1 - beta) + mean / (1 + beta)))}


def sharpness(point: Point) -> Values:
    """Compute batch sharpness; for a network with ReLU, whose diag H is exact, also the sums over that."""
    products = torch.einsum("ki,kij,kj->k", point.gradients, point.hessians, point.gradients)
    values: Values = {"curvature/batch_sharpness": float((products / point.gradients.square().sum(1)).mean())}
    if not any(isinstance(module, nn.ReLU) for module in point.trained.module.modules()):
        return values | {"curvature/trace_root": None}
    diagonal = point.hessians.mean(0).diagonal().clamp(min=0)
    return values | {
        "curvature/trace": float(diagonal.sum()),
        "curvature/trace_root": float(diagonal.sqrt().sum()),
        "curvature/adaptive": float((point.weights.square() * diagonal).sum() / 2),
        "curvature/trace_se": None,
        "curvature/adaptive_se": None,
    }


def norms(point: Point) -> Values:
    """Compute the norms of all weights, and of each matrix."""
    weights = {name: value.detach() for name, value in point.trained.module.named_parameters()}
    moved = [weights[name] - value for name, value in point.trained.initial.items()]
    matrices = {name: value for name, value in weights.items() if value.ndim > 1}
    sizes = {name: math.sqrt(float(value.square().sum())) for name, value in matrices.items()}
    return {
        "norm/l2": math.sqrt(sum(float(value.square().sum()) for value in weights.values())),
        "norm/distance": math.sqrt(sum(float(value.square().sum()) for value in moved)),
        "norm/product": math.prod(sizes.values()),
        "norm/spectral_product": math.prod(float(torch.linalg.svdvals(value)[0]) for value in matrices.values()),
        **{f"norm/layers/{name}": size for name, size in sizes.items()},
    }


def margins(point: Point, corrupted: Tensor | None = None) -> Values:
    """Compute quantiles of f_y − max_{j≠y} f_j, also over Π‖W_l‖_F.

    Args:
        point: where.
        corrupted: which labels are wrong, by example; with it the quantiles are those of right and of wrong labels,
            else those of all.
    """
    of_examples = []
    for inputs, labels in point.trained.batches:
        outputs = point.trained.module(inputs).detach()
        for output, label in zip(outputs.tolist(), labels.tolist(), strict=True):
            of_examples.append(output[label] - max(value for other, value in enumerate(output) if other != label))
    product = norms(point)["norm/product"]
    assert product is not None
    chosen: Mapping[str, list[float] | None] = {"": of_examples, "clean_": None, "corrupted_": None}
    if corrupted is not None:
        chosen = {
            prefix: [
                margin
                for margin, wrong in zip(of_examples, corrupted.tolist(), strict=True)
                if wrong == (prefix == "corrupted_")
            ]
            for prefix in ("clean_", "corrupted_")
        }
    values: Values = {}
    for prefix, among in chosen.items():
        for name, share in (("median", 0.5), ("low", 0.01)):
            value = None if among is None else _quantile(among, share)
            values[f"margin/{prefix}{name}"] = value
            values[f"margin/normalized_{prefix}{name}"] = None if value is None else value / product
    return values


def _quantile(values: list[float], share: float) -> float:
    """Interpolate a quantile linearly between the two nearest of the sorted values."""
    ordered, place = sorted(values), share * (len(values) - 1)
    low = math.floor(place)
    high = min(low + 1, len(values) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def path(point: Point) -> Values:
    """Compute both parts of the norm's growth, of ω and of the weights once torch's buffers have run out."""
    if not point.trained.epoch:
        return {}
    values: Values = {}
    for prefix, places in (("", point.trained.epoch), ("settled_", point.settled)):
        if prefix and point.memory is None:
            values |= dict.fromkeys(f"path/{prefix}{part}" for part in ("radial", "diffusive", "whole"))
            continue
        steps = [before - after for before, after in pairwise(places)]
        values[f"path/{prefix}radial"] = sum(
            float(-2 * place @ step) for place, step in zip(places, steps, strict=False)
        )
        values[f"path/{prefix}diffusive"] = sum(float(step @ step) for step in steps)
        values[f"path/{prefix}whole"] = float((places[-1] - places[0]).square().sum())
    return values


FORMULAS: tuple[Callable[[Point], Values], ...] = (
    equations,
    noise_scales,
    steps_and_weights,
    own,
    flow,
    noise,
    edges,
    sharpness,
    norms,
    margins,
    path,
)
"""Those that a point suffices for."""
