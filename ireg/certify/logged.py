"""What `ireg.measure` returns, against the formulas by the plainest computation.

For every training of `ireg.certify.trainings`, each tag is compared with `ireg.certify.formulas`, and so is whether it
exists. A constant that is wrong in a term, in the mean flow or in a rule is an error here, however small its part.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ireg.certify import formulas
from ireg.certify.formulas import Values
from ireg.certify.point import Point, point
from ireg.certify.probes import DRAWS, exact_probes, packed_residual, probe_errors
from ireg.certify.trainings import TRAININGS, Training
from ireg.core.functional import functional_loss
from ireg.core.random import named_generator
from ireg.measurement import evaluate, measure, measure_epoch, take_snapshot
from ireg.options import Epoch, Options
from ireg.terms.named import TERMS

CLOSE = 1e-8
"""Largest relative error that passes."""
LANCZOS = 5e-3
"""The same of eigenvalues: their error is of second order in Lanczos' residual of 1 %."""
EIGENVALUES = ("curvature/lambda_max", "curvature/preconditioned_sharpness", "curvature/edge_fraction")
RESIDUAL = 1e-2
"""The largest residual of Lanczos' method, as a share of its value."""
MOST_PRODUCTS = 60
SAMPLED = ("sgd", "momentum, dampened, L2 decay", "rmsprop, L2 decay", "adamw, decay")
"""Trainings of which samples of three of the four minibatches are measured, all that there are."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A value that is logged, and what it has to be.

    Attributes:
        tag: of the value.
        where: the training.
        error: relative; infinite where the value exists and must not, or the reverse.
        close: the largest that passes.
    """

    tag: str
    where: str
    error: float
    close: float = CLOSE

    @property
    def holds(self) -> bool:
        """Whether the value is right."""
        return self.error <= self.close


def compared(
    logged: Mapping[str, float], expected: Mapping[str, float | None], where: str, suffix: str = ""
) -> Iterable[Comparison]:
    """Compare values by tag; the value of a layer counts for the tag of all layers.

    Args:
        logged: what `ireg.measure` returns.
        expected: what it has to be; None, or no value, for what must not exist.
        where: the training.
        suffix: added to the tags of the comparisons.
    """
    for name in sorted(expected.keys() | logged.keys()):
        right, tag = expected.get(name), "/".join(name.split("/")[:2])
        close = LANCZOS if tag in EIGENVALUES else CLOSE
        yield Comparison(tag=tag + suffix, where=where, error=_error(logged.get(name), right), close=close)


def _error(value: float | None, right: float | None) -> float:
    if value is None or right is None:
        return 0.0 if value is right else float("inf")
    distance = abs(value - right)
    return distance / abs(right) if right else distance


def of_training(name: str, training: Training) -> list[Comparison]:
    """Train, and compare all that is logged with its formulas.

    Args:
        name: the training's in `TRAININGS`; the mean over samples is compared, too, for those in `SAMPLED`.
        training: what is trained.
    """
    there = point(training)
    expected: Values = {}
    for formula in formulas.FORMULAS:
        expected |= formula(there)
    kept: dict[str, Tensor] = {}
    tags = dict.fromkeys("/".join(tag.split("/")[:2]) for tag in expected)
    lanczos = ("curvature/lambda_max_residual", "curvature/lambda_max_products")
    logged = measured(there, [*tags, *lanczos, "curvature/noise_edge"], kept)
    vector = kept["lambda_max"].double()
    expected |= formulas.noise_edge(there, vector)
    residual, products = (logged.pop(tag) for tag in lanczos)
    result = list(compared(logged, expected, name))
    result += _of_lanczos(there, vector, residual, products, name)
    return result + (of_samples(name, there) if name in SAMPLED else [])


def measured(there: Point, tags: Iterable[str], kept: dict[str, Tensor] | None = None) -> dict[str, float]:
    """Measure a trained module with its optimizer by `ireg.measure`.

    Args:
        there: the trained module.
        tags: of the terms.
        kept: takes the vectors that the terms keep, by name; None keeps none.

    Returns:
        What is logged, by tag.
    """
    trained = there.trained
    options = Options(terms=list(tags), criterion=cross_entropy, regularizer=there.training.regularizer)
    epoch = Epoch(
        batches=trained.batches, rates=trained.rates if there.changing else None, initial=trained.initial, kept=kept,
        path=trained.path,
    )  # fmt: skip
    return measure_epoch(trained.module, options, epoch, optimizer=trained.optimizer)


def _of_lanczos(there: Point, vector: Tensor, residual: float, products: float, where: str) -> list[Comparison]:
    """Compare Lanczos' residual with that of the kept vector, and the number of products with its bounds."""
    image = there.hessians.mean(0) @ vector
    value = vector @ image
    expected, size = float((image - value * vector).norm()), float(abs(value))
    within = products.is_integer() and 1 <= products <= MOST_PRODUCTS
    settled = residual <= 1.01 * RESIDUAL * size or products in (MOST_PRODUCTS, len(vector))
    return [
        Comparison(tag="curvature/lambda_max_residual", where=where, error=abs(residual - expected) / size),
        Comparison(tag="curvature/lambda_max_products", where=where, error=0.0 if within and settled else float("inf")),
    ]


def of_samples(name: str, there: Point) -> list[Comparison]:
    """Compare the mean over all samples with the whole value.

    Samples are three of the four minibatches: there is no bias. The mean square of the standard error of equation 1, a
    plain mean over minibatches, is its variance.

    Args:
        name: the training's.
        there: the trained module.
    """
    expected = {
        tag: value for tag, value in (formulas.equations(there) | formulas.own(there)).items() if value is not None
    }
    trained, taken = there.trained, list(combinations(range(there.count), 3))
    rows = [
        measure(
            trained.module, [trained.batches[number] for number in chosen], optimizer=trained.optimizer,
            criterion=cross_entropy, terms=list(expected), population=there.count,
        )
        for chosen in taken
    ]  # fmt: skip
    means: dict[str, float] = {tag: sum(row[tag] for row in rows) / len(rows) for tag in expected}
    suffix = ", 3 of 4 minibatches"
    result = list(compared(means, expected, name, suffix))
    values = torch.tensor([row["ireg/sgd"] for row in rows], dtype=torch.float64)
    squares = sum(row["ireg/sgd_se"] ** 2 for row in rows) / len(rows)
    result += compared({"ireg/sgd_se": squares}, {"ireg/sgd_se": float(values.var(correction=0))}, name, suffix)
    return result


def of_corrupted(training: Training) -> list[Comparison]:
    """Compare the margins of right and wrong labels, taken as `train.py` does."""
    there = point(training)
    trained = there.trained
    examples = sum(len(labels) for _, labels in trained.batches)
    corrupted = torch.rand(examples, generator=named_generator("corrupted")) < 0.4
    expected = formulas.margins(there, corrupted)
    options = Options(terms=list(expected))
    snapshot = take_snapshot(
        trained.module, Epoch(batches=trained.batches, corrupted=corrupted), options,
        loss=functional_loss(trained.module, cross_entropy), optimizer=trained.optimizer,
    )  # fmt: skip
    return list(compared(evaluate(options.chosen, snapshot), expected, "corrupted labels"))


def all_logged(chosen: Mapping[str, Training] = TRAININGS) -> Iterator[Comparison]:
    """Compare every training's values, one after another, and then what no single training shows."""
    for name, training in chosen.items():
        yield from of_training(name, training)
    yield from of_corrupted(TRAININGS["sgd"])
    yield from compared(*exact_probes(), "separable loss")
    residual, where = packed_residual(), "60 curvatures from −1 to 1"
    yield Comparison(tag="curvature/lambda_max_residual", where=where, error=residual, close=RESIDUAL)
    for tag, error in probe_errors(point(TRAININGS["sgd"])).items():
        yield Comparison(tag=tag, where=f"{DRAWS} draws of the signs, in standard errors", error=error, close=4.0)


def not_compared(comparisons: Iterable[Comparison]) -> list[str]:
    """List the tags of the catalogue's terms whose value nothing was compared with."""
    return sorted(TERMS.keys() - {comparison.tag for comparison in comparisons})
