"""The one measuring path, from a network to one number a term.

It takes a module, its minibatches, its loss and its optimizer.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ireg.check import NOISE, require_check
from ireg.core.complex_weights import loss_by_reals
from ireg.core.drawing import EPOCH, require_sampling
from ireg.core.functional import detached_parameters
from ireg.core.moments import SMALLEST, STANDARD_ERROR, Observer, standard_error
from ireg.core.moments.needs import needs_exact_moments, needs_path, union_of_needs
from ireg.core.moving import moving_parameters
from ireg.core.optimizers import view
from ireg.core.path import Path
from ireg.core.random import named_generator
from ireg.core.snapshot import Snapshot, Term
from ireg.core.types import Batch, Descended, LossFn, Params
from ireg.core.wrappers import unwrapped
from ireg.measured_loss import MODES, Criterion, MeasuredLoss, ModelLoss, Steps
from ireg.objective import Objective
from ireg.regularizers import Regularizer
from ireg.terms.named import Chosen, chosen_terms


def measure(
    model: nn.Module,
    batches: Sequence[Batch],
    *,
    optimizer: Optimizer,
    criterion: Criterion | None = None,
    loss: ModelLoss | None = None,
    terms: Chosen = "default",
    rates: Sequence[Sequence[float]] | None = None,
    initial: Params | None = None,
    generator: torch.Generator | None = None,
    population: int | None = None,
    method: str = "auto",
    mode: str = "as_trained",
    kept: dict[str, Tensor] | None = None,
    path: Path | None = None,
    regularizer: Regularizer | None = None,
    sampling: str = EPOCH,
    check: str = "first",
    steps: Steps | None = None,
) -> dict[str, float]:
    """Measure terms at the model's present weights, over these minibatches.

    Nothing of the training is changed: weights, gradients, buffers, modes, random streams, and the optimizer's state
    are as before. Only the weights that the optimizer moves are differentiated.

    Args:
        model: any module, also compiled, or within `DistributedDataParallel`: a minibatch is then that of all ranks,
            and all of them must measure.
        batches: the minibatches of an epoch, as a list: each is looked at several times.
        optimizer: of the model; wrappers of Lightning and accelerate are looked through. For a class without a rule in
            `ireg.core.optimizers`, the terms of its memory and of its second moment are left out.
        criterion: `(outputs, targets) -> 0-d tensor` for minibatches that are pairs `(inputs, targets)`: the mean over
            the examples. It opens the faster methods.
        loss: `(model, batch) -> 0-d tensor` for minibatches of any structure: the mean loss. Give this or `criterion`.
        terms: `"default"`, `"theory"`, tags, or functions by tag, see `ireg.terms.named.chosen_terms`.
        rates: of each minibatch's step, the learning rate of each parameter group; by default the optimizer's present
            ones.
        initial: the parameters before training, by name, for `norm/distance`; by default the present ones.
        generator: random numbers for terms that draw; by default one with a fixed seed.
        population: the number m of the epoch's minibatches, where `batches` are a random sample of them. The terms are
            then estimated without bias, and each has a standard error under `<tag>_se`, see
            `ireg.core.moments.sample`. By default `batches` are all.
        method: how gradient moments are computed, see `ireg.core.moments.gradient_moments`.
        mode: `as_trained` measures the loss that is descended: the model stays in its present mode, in which BatchNorm
            takes the minibatch's statistics, and known noise like dropout is off. `two_draws` is the same with dropout
            on: for each minibatch two gradients are taken, each with masks of its own, so that the terms are those of
            the mean over the masks, without bias, see `ireg.core.moments.draws`. `eval` measures it in eval mode.
        kept: what an earlier measurement has left for this one, as eigenvectors to start from; it is written to.
        path: sums over the epoch's steps, for terms of the path: `path()` of an `ireg.core.path.PathRecorder` that was
            started before them.
        regularizer: an explicit penalty that the steps descend beside the loss. `ireg/own` and the mean flow are then
            of both, and all else of the loss alone.
        sampling: how training draws its minibatches. `epoch`: each once an epoch, in random order. `independent`: each
            by a draw of its own, with replacement, or from a stream that never repeats. C is then the loss of the
            population, and `batches` are a window of two draws or more. `ireg/own_variance` does not exist, and ‖∇C‖²
            is freed of the window's noise, see `ireg.core.moments.independent`. `ireg.core.drawing.sampling_of` reads
            it off a loader.
        check: `first` or `each` compares the gradient of the first minibatch with that of the model's own forward and
            backward pass, in its present mode; `off` does not.
        steps: what was noted of the epoch's steps, where somebody has seen them.

    Returns:
        The values by tag, without those that do not exist for the optimizer. `check/noise` says by how much of itself
        the loss of the first minibatch differs between two seeds, where it does with `as_trained`.

    Raises:
        ValueError: a model whose weights cannot be replaced; a gradient that differs from the model's own; no
            minibatches, or no sequence of them; not exactly one of `criterion` and `loss`; a loss that is no single
            number; a term, a mode, a sampling or a check that is unknown; one independent minibatch, or a penalty of
            all minibatches beside independent ones; an optimizer that moves nothing, or that a term is not made for; a
            term of the path without one; a sample that is too small, or a term or a penalty that needs all
            minibatches.

    Example:
        >>> module = nn.Linear(1, 1)
        >>> _ = module.load_state_dict({"weight": torch.tensor([[2.0]]), "bias": torch.tensor([0.0])})
        >>> optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        >>> batches = [(torch.ones(1, 1), torch.zeros(1, 1))]
        >>> value = measure(module, batches, optimizer=optimizer, criterion=nn.functional.mse_loss)
        >>> round(value["ireg/sgd"], 6)  # (η/4) ‖g‖² with g = (4, 4)
        0.8
        >>> def loss(model, batch):
        ...     return (model(batch["x"]) - batch["y"]).square().mean()
        >>> batches = [{"x": torch.ones(1, 1), "y": torch.zeros(1, 1), "name": "first"}]
        >>> value = measure(module, batches, optimizer=optimizer, loss=loss, terms=["ireg/sgd"])
        >>> round(value["ireg/sgd"], 6)
        0.8
    """
    chosen = chosen_terms(terms)
    require_check(check)
    optimizer = unwrapped(optimizer)
    steps = Steps(rates=rates) if steps is None else steps
    measured = MeasuredLoss(model, optimizer, criterion, loss, modes=steps.modes)
    require_minibatches(batches, pairs=criterion is not None)
    require_mode(mode)
    require_sampling(sampling)
    require_estimates(chosen, mode, None if population is None else len(batches), population, sampling)
    if path is None and (missing := [tag for tag, term in chosen.items() if needs_path(term)]):
        raise ValueError(
            f"{missing[0]} is a sum over the steps of the epoch, which are over; use ireg.Monitor, made before them"
        )
    require_all(regularizer, population, sampling)
    generator = named_generator("terms") if generator is None else generator
    with measured:
        batches = measured.outside_inference(batches)
        measured.look(batches[0])
        if check != "off":
            measured.require_own_gradient(batches[0], ", or measure nevertheless with check='off'")
        noise = measured.noise(batches[0], mode) if check != "off" else 0.0
        with measured.mode(mode)(measured.module):
            if mode == "two_draws":
                torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))  # of the masks
            snapshot = take_snapshot(
                measured.module,
                batches,
                loss=measured.loss,
                optimizer=optimizer,
                terms=chosen,
                initial=detached_parameters(measured.module) if initial is None else initial,
                generator=generator,
                rates=steps.rates,
                settings=steps.settings,
                stepped=steps.stepped,
                population=population,
                drawn=mode == "two_draws",
                method=method,
                kept=kept,
                path=path,
                sampling=sampling,
                objective=None if regularizer is None else Objective(measured.loss, regularizer, batches),
            )
            return evaluate(chosen, snapshot) | ({NOISE: noise} if noise else {})


def require_mode(mode: str) -> None:
    """Check that a mode is one of `MODES`.

    Raises:
        ValueError: it is not.
    """
    if mode not in MODES:
        raise ValueError(f"mode={mode!r}: must be one of {', '.join(MODES)}")


def require_minibatches(batches: Sequence[Batch], *, pairs: bool) -> None:
    """Check that the minibatches can be looked at again and again.

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


def require_estimates(
    terms: Mapping[str, Term],
    mode: str,
    size: int | None = None,
    population: int | None = None,
    sampling: str = EPOCH,
) -> None:
    """Check that the terms can be estimated, if they are to be.

    Args:
        terms: function by tag.
        mode: one of `MODES`.
        size: minibatches in a sample, k; None where all are used.
        population: minibatches of the epoch, m; None where it is not known yet.
        sampling: how training draws its minibatches.

    Raises:
        ValueError: a term has no estimate, minibatches and masks are both to be drawn, or the sample is too small or
            larger than the epoch.
    """
    drawn = mode == "two_draws"
    if size is not None and drawn:
        raise ValueError("mode='two_draws' takes all minibatches; leave num_batches and population out")
    for tag, term in terms.items():
        if (size is not None or drawn) and needs_exact_moments(term):
            what, remedy = ("masks", "take mode='as_trained'") if drawn else ("minibatches", "leave num_batches out")
            raise ValueError(f"{tag} has no estimate from drawn {what}; leave it out of the terms, or {remedy}")
    if size is None:
        return
    if population is not None and size > population:
        raise ValueError(f"population={population}: must be at least {size}, the number of minibatches given")
    if size < SMALLEST and (size != population or sampling != EPOCH):
        raise ValueError(f"num_batches={size}: must be at least {SMALLEST}, so that there is a standard error")


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


def take_snapshot(
    module: nn.Module,
    batches: Sequence[Batch],
    *,
    loss: LossFn,
    optimizer: Optimizer,
    terms: Mapping[str, Term],
    initial: Params,
    generator: torch.Generator,
    rates: Sequence[Sequence[float]] | None = None,
    settings: Sequence[Mapping[str, Any]] | None = None,
    stepped: Collection[int] | None = None,
    population: int | None = None,
    drawn: bool = False,
    method: str = "auto",
    observer: Observer | None = None,
    kept: dict[str, Tensor] | None = None,
    path: Path | None = None,
    corrupted: Tensor | None = None,
    objective: Descended | None = None,
    sampling: str = EPOCH,
) -> Snapshot:
    """Take a snapshot of training, as far as the terms need it.

    Args:
        module: whose parameters; in the mode in which it is measured, see `ireg.core.functional.measuring`.
        batches: the minibatches that the terms are computed over.
        loss: of the module, as a function of its parameters.
        optimizer: of the module.
        terms: function by tag.
        initial: the parameters before training, by name.
        generator: random numbers for terms that draw.
        rates: of each minibatch's step, the rate of each parameter group; by default the present ones.
        settings: what each parameter group said at the last step; by default what it says now.
        stepped: identities of the parameters that had a gradient in a step; None where no step has been seen.
        population: the number of the epoch's minibatches, where `batches` are a sample.
        drawn: whether the loss draws masks, of which the terms are means.
        method: how gradient moments are computed, see `ireg.core.moments.gradient_moments`.
        observer: called with each minibatch's outputs when the moments are computed.
        kept: what an earlier snapshot has left for this one; it is written to.
        path: sums over the epoch's steps, of a `PathRecorder`.
        corrupted: which examples have a wrong label, (N,), in the order of the minibatches.
        objective: what is descended, an explicit penalty included; by default the loss.
        sampling: how training draws its minibatches, see `measure`.

    Raises:
        ValueError: an optimizer that cannot be read, that moves nothing, or that a term is not made for.
    """
    moving = moving_parameters(optimizer, dict(module.named_parameters()), loss, batches, stepped)
    seen = view(optimizer, moving, rates, settings)
    # Copies: a forward pass may write to the weights that it is given.
    params = {name: value.clone() for name, value in detached_parameters(module).items()}
    by_reals = loss_by_reals(loss, {name: params[name] for name in seen.moving})
    if objective is not None and by_reals is not loss:
        raise ValueError("a regularizer is not measured with complex weights; leave it out, or hold two real weights")
    return Snapshot(
        params=params,
        initial=initial,
        loss=by_reals,
        batches=batches,
        optimizer=seen,
        generator=generator,
        needs=union_of_needs(terms.values(), seen, sampling),
        method=method,
        observer=observer,
        population=population,
        drawn=drawn,
        kept={} if kept is None else kept,
        path=path,
        corrupted=corrupted,
        objective=objective,
        sampling=sampling,
    )


def evaluate(terms: Mapping[str, Term], snapshot: Snapshot) -> dict[str, float]:
    """Compute the terms at a snapshot, by tag.

    Those that do not exist for the optimizer are left out. Of a term with several numbers, each has its name after the
    tag. From a sample of the minibatches, each term of gradients has its standard error under `<tag>_se`.
    """
    values: dict[str, float] = {}
    for tag, term in terms.items():
        value = term(snapshot)
        if value is None:
            continue
        if isinstance(value, Mapping):
            values |= {f"{tag}/{name}": float(part) for name, part in value.items()}
            continue
        estimated = snapshot.population is not None and bool(union_of_needs([term], snapshot.optimizer))
        # The error first: it refuses what is no estimate.
        error = standard_error(value, snapshot.population_size) if estimated and snapshot.has_errors else 0.0
        values[tag] = float(value[0] if estimated and snapshot.has_errors else value)
        if estimated:
            values[f"{tag}{STANDARD_ERROR}"] = error
    return values
