"""The options of a measurement, and what the epoch was trained on."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ireg.check import require_check
from ireg.core.clipping import Clip
from ireg.core.drawing import EPOCH, require_sampling
from ireg.core.moments import SMALLEST
from ireg.core.moments.needs import needs_exact_moments
from ireg.core.parts import require_parts
from ireg.core.path import Path
from ireg.core.snapshot import Term
from ireg.core.types import Batch, Params
from ireg.measured_loss import MODES, Criterion, ModelLoss, require_one_loss
from ireg.regularizers import Regularizer
from ireg.terms.named import Chosen, chosen_terms

UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of a measurement, checked when they are made.

    `ireg.measure`, `ireg.Monitor`, `ireg.ImplicitRegularizationMonitor` and the built-in runs take these options by
    these names.

    Attributes:
        terms: `"default"`, `"theory"`, tags, or functions by tag, see docs/terms.md.
        criterion: `(outputs, targets) -> 0-d tensor` for minibatches that are pairs `(inputs, targets)`: the mean over
            the examples. It opens the faster methods.
        loss: `(model, batch) -> 0-d tensor` for minibatches of any structure: the mean loss. Give this or `criterion`.
            Without either, the callback takes the module's own `training_step`.
        method: how gradient moments are computed, see `ireg.gradient_moments`.
        num_batches: estimate the terms from so many of the epoch's minibatches, drawn at random, so that time and
            memory do not grow with the data. The terms are without bias, and each has a standard error under
            `<tag>_se`, see docs/theory.md, section 9. None takes all.
        mode: `as_trained` measures the loss that is descended: the model stays in its present mode, in which BatchNorm
            takes the minibatch's statistics, and known noise like dropout is off. `two_draws` is the same with dropout
            on: for each minibatch two gradients are taken, each with masks of its own, so that the terms are those of
            the mean over the masks, without bias, see docs/theory.md, section 10. `eval` measures it in eval mode.
        sampling: how training draws its minibatches. `epoch`: each once an epoch, in random order. `independent`: each
            by a draw of its own, with replacement, or from a stream that never repeats. C is then the loss of the
            population, and the minibatches are a window of two draws or more. `ireg/own_variance` does not exist, and
            ‖∇C‖² is freed of the window's noise, see docs/theory.md, section 15. `ireg.sampling_of` says what a loader
            does. None leaves it open until the loader is known, as the callback does.
        by: measure each term of gradients also by `layer`, the module that holds the parameters, or by the optimizer's
            parameter `group`: under `<tag>/<layer>` beside the global value, with a standard error where that has one.
            Terms of the Hessian, of the mean flow, of the path and of the norm have no parts, and are left out there.
        regularizer: an explicit penalty that the steps descend beside the loss. `ireg/own` and the mean flow are then
            of both, and all else of the loss alone.
        check: which steps are computed again, to compare their gradients with those that the optimizer got: the first
            of `each` epoch, the `first` of all, or none (`off`). Where no step is seen, the gradient of the first
            minibatch is compared with that of the model's own forward and backward pass.
        max_cache: memory that the copies of an epoch's minibatches may take, in bytes or like `"1GiB"`.
        progress: show on standard error which term is being computed, of how many, and for how long. The first term of
            a pass over the minibatches takes its whole time, and those that share it none. By default it is shown on a
            terminal, after two seconds.

    Raises:
        ValueError: `criterion` and `loss` are both given; a term, a mode, a sampling, a check or a size that is
            unknown; a sample that is too small; a term or a penalty that needs all minibatches, or all of an epoch.

    Example:
        >>> Options(terms=["sgd"]).chosen.keys()
        dict_keys(['ireg/sgd'])
        >>> Options(check="often")
        Traceback (most recent call last):
        ValueError: check='often': must be one of each, first, off
    """

    terms: Chosen = "default"
    criterion: Criterion | None = None
    loss: ModelLoss | None = None
    method: str = "auto"
    num_batches: int | None = None
    mode: str = "as_trained"
    sampling: str | None = EPOCH
    by: str | None = None
    regularizer: Regularizer | None = None
    check: str = "each"
    max_cache: int | str = "1GiB"
    progress: bool | None = None

    def __post_init__(self) -> None:
        """Check each value, and that they can be combined."""
        require_check(self.check)
        require_mode(self.mode)
        if self.sampling is not None:
            require_sampling(self.sampling)
        require_parts(self.by)
        if self.criterion is not None and self.loss is not None:
            require_one_loss(self.criterion, self.loss)
        self.require_estimates(self.num_batches)
        require_all(self.regularizer, self.num_batches, self.drawing)
        as_bytes(self.max_cache)

    @cached_property
    def chosen(self) -> dict[str, Term]:
        """The terms, functions by tag."""
        return chosen_terms(self.terms)

    @property
    def drawing(self) -> str:
        """How minibatches are drawn; `epoch` where it is not known."""
        return EPOCH if self.sampling is None else self.sampling

    @property
    def draws_masks(self) -> bool:
        """Whether the terms are means over drawn masks."""
        return self.mode == "two_draws"

    @property
    def cache(self) -> int:
        """The number of bytes that copies of minibatches may take."""
        return as_bytes(self.max_cache)

    def require_estimates(self, size: int | None, population: int | None = None) -> None:
        """Check that the terms can be estimated from a sample of minibatches or masks, if that is asked for.

        Args:
            size: minibatches in a sample, k; None where all are used.
            population: minibatches of the epoch, m; None where it is not known yet.

        Raises:
            ValueError: a term has no estimate, minibatches and masks are both to be drawn, or the sample is too small
                or larger than the epoch.
        """
        drawn = self.draws_masks
        if size is not None and drawn:
            raise ValueError("mode='two_draws' takes all minibatches; leave num_batches and population out")
        for tag, term in self.chosen.items():
            if (size is not None or drawn) and needs_exact_moments(term):
                what, remedy = (
                    ("masks", "take mode='as_trained'")
                    if drawn
                    else ("minibatches", "leave num_batches out and measure whole epochs")
                )
                raise ValueError(f"{tag} has no estimate from drawn {what}; leave it out of the terms, or {remedy}")
        if size is None:
            return
        if population is not None and size > population:
            raise ValueError(f"population={population}: must be at least {size}, the number of minibatches given")
        if size < SMALLEST and (size != population or self.drawing != EPOCH):
            raise ValueError(f"num_batches={size}: must be at least {SMALLEST}, so that there is a standard error")


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """What an epoch was trained on, as far as it has been observed.

    Attributes:
        batches: the minibatches, as a list: each is looked at several times.
        rates: of each minibatch's step, the learning rate of each parameter group; by default the optimizer's present
            ones.
        settings: of each minibatch's step, what each parameter group said, as momentum; by default what it says now.
        stepped: identities of the parameters that had a gradient in a step; None where no step has been seen.
        modes: whether each submodule was in training mode, by name; by default submodules stay as they are.
        initial: the parameters before training, by name, for `norm/distance`; by default the present ones.
        population: the number m of the epoch's minibatches, where `batches` are a random sample of them; by default
            `batches` are all.
        generator: random numbers for terms that draw; by default a stream with a fixed seed.
        kept: what an earlier measurement has left for this one, as eigenvectors to start from; it is written to.
        path: sums over the epoch's steps, for terms of the path: `path()` of an `ireg.core.path.PathRecorder` that was
            started before them.
        corrupted: which examples have a wrong label, (N,), in the order of the minibatches; None where that is unknown.
        clip: how gradients are clipped before each step; None where they are not, or where that is not known.
        group: the ranks that train together, where the model is not what wraps it; None for those of its wrapper.
    """

    batches: Sequence[Batch]
    rates: Sequence[Sequence[float]] | None = None
    settings: Sequence[Sequence[Mapping[str, Any]]] | None = None
    stepped: Collection[int] | None = None
    modes: Mapping[str, bool] | None = None
    initial: Params | None = None
    population: int | None = None
    generator: torch.Generator | None = None
    kept: dict[str, Tensor] | None = None
    path: Path | None = None
    corrupted: Tensor | None = None
    clip: Clip | None = None
    group: Any = None


def require_mode(mode: str) -> None:
    """Check that a mode is one of `MODES`.

    Raises:
        ValueError: it is not.
    """
    if mode not in MODES:
        raise ValueError(f"mode={mode!r}: must be one of {', '.join(MODES)}")


def require_minibatches(batches: Sequence[Batch], *, pairs: bool) -> None:
    """Check that the minibatches can be passed over several times.

    Raises:
        ValueError: they are no sequence, there is none, or one is no pair though it must be.
    """
    if not isinstance(batches, Sequence):
        raise ValueError(
            f"batches is a {type(batches).__name__}; must be a sequence, since each pass over a shuffling loader sees "
            "other minibatches: give list(loader), or use ireg.Monitor, which remembers those of the epoch"
        )
    if not batches:
        raise ValueError("there are no minibatches; give at least one")
    if pairs and not (isinstance(batches[0], tuple | list) and len(batches[0]) == 2):
        raise ValueError(
            f"a minibatch is a {type(batches[0]).__name__}, and criterion takes pairs (inputs, targets); give "
            "loss(model, batch) instead"
        )


def require_all(regularizer: Regularizer | None, sample: int | None, sampling: str = EPOCH) -> None:
    """Check that an explicit penalty is measured over all minibatches.

    Raises:
        ValueError: they are a sample, or the penalty is of an epoch, and there is none.
    """
    if regularizer is not None and sample is not None:
        raise ValueError("a regularizer is measured over all minibatches; leave num_batches and population out")
    if regularizer is not None and regularizer.of_epoch and sampling != EPOCH:
        raise ValueError(
            f"sampling={sampling!r}: {type(regularizer).__name__} is a penalty of all minibatches of an epoch; "
            f"independent ones have none; take another penalty, or sampling={EPOCH!r}"
        )


def as_bytes(size: int | str) -> int:
    """Return a number of bytes, also written like 512MiB.

    Raises:
        ValueError: it is no number of bytes.
    """
    if isinstance(size, int):
        return size
    for unit, factor in UNITS.items():
        number = size.removesuffix(unit).strip()
        if size.endswith(unit) and number.isdecimal():
            return int(number) * factor
    raise ValueError(f"max_cache={size!r}: must be a number of bytes, or like 512MiB or 1GiB")
