"""The one path from a module, its minibatches, its loss and its optimizer to one number a term."""

import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ireg.check import NOISE
from ireg.core.clipping import Clip
from ireg.core.complex_weights import loss_by_reals
from ireg.core.drawing import EPOCH
from ireg.core.functional import detached_parameters
from ireg.core.large import is_large
from ireg.core.moments import STANDARD_ERROR, Observer, standard_error
from ireg.core.moments.needs import Need, has_parts, needs_path, union_of_needs
from ireg.core.moving import moving_parameters
from ireg.core.optimizers import OptimizerState, acting, view
from ireg.core.own_passes import OwnPasses
from ireg.core.parts import parts_of, tag_of_part
from ireg.core.random import named_generator
from ireg.core.reservoir import sampled
from ireg.core.several import SeveralOptimizers
from ireg.core.snapshot import Snapshot, Term
from ireg.core.types import Batch, Descended, LossFn, Params
from ireg.core.wrappers import unwrapped
from ireg.joint import evaluate_jointly, of_each
from ireg.measured import Measurement
from ireg.measured_loss import Criterion, MeasuredLoss, ModelLoss
from ireg.objective import Objective
from ireg.options import Epoch, Options, require_all, require_minibatches
from ireg.reasons import class_of, left_out, left_out_jointly
from ireg.regularizers import Regularizer
from ireg.system.terminal import counting
from ireg.terms.named import Chosen

NOISE_SCALE = "noise/scale"
"""The tag whose value is read against the number of examples: others need not know what an example is."""


def measure(
    model: nn.Module,
    batches: Sequence[Batch],
    *,
    optimizer: Optimizer | Sequence[Optimizer],
    terms: Chosen = "default",
    criterion: Criterion | None = None,
    loss: ModelLoss | None = None,
    method: str = "auto",
    num_batches: int | None = None,
    mode: str = "as_trained",
    sampling: str = EPOCH,
    by: str | None = None,
    regularizer: Regularizer | None = None,
    check: str = "each",
    progress: bool | None = None,
    rates: Sequence[Sequence[float]] | None = None,
    initial: Params | None = None,
    population: int | None = None,
    clip: Clip | None = None,
) -> Measurement:
    """Measure terms at the model's present weights, over these minibatches.

    Nothing of the training is changed: weights, gradients, buffers, modes, random streams, and the optimizer's state
    are as before. Only the weights that the optimizer moves are differentiated.

    Args:
        model: any module, also compiled, or within `DistributedDataParallel`: a minibatch is then that of all ranks,
            and all of them must measure.
        batches: the minibatches of an epoch, as a list: each is looked at several times.
        optimizer: of the model; wrappers of Lightning and accelerate are looked through. For a class whose
            update rule is not known, the terms of its memory and of its second moment are left out. Several, which step
            together, are a list: terms of gradients are sums over them, and those of each are under `<tag>/<class>`, or
            `<tag>/<number>` where two are of one class.
        terms: what is measured. All that is asked for, from here to `progress`, is described in `ireg.options.Options`.
        criterion: `(outputs, targets) -> 0-d tensor`, for pairs.
        loss: `(model, batch) -> 0-d tensor`, for any minibatch. Give this or `criterion`.
        method: how gradient moments are computed.
        num_batches: estimate the terms from so many of `batches`, drawn by a fixed seed.
        mode: `as_trained`, `two_draws` or `eval`.
        sampling: `epoch` or `independent`.
        by: `layer` or `group`.
        regularizer: a penalty that is descended beside the loss.
        check: `off` does not compare the gradient of the first minibatch with the model's own.
        progress: show on standard error which term is being computed.
        rates: of each minibatch's step, the learning rate of each parameter group; by default the optimizer's present
            ones.
        initial: the parameters before training, by name, for `norm/distance`; by default the present ones.
        population: the number m of the epoch's minibatches, where `batches` are a random sample of them; by default
            `batches` are all.
        clip: how gradients are clipped before each step, for `ireg/own_full_batch` and for the flow of full batches; by
            default they are not.

    Returns:
        The values by tag, without those that do not exist for the optimizer, in a dictionary that prints as a table and
        says why a tag is missing, see `ireg.Measurement`. `check/noise` says by how much of itself the loss of the
        first minibatch differs between two seeds, where it does with `as_trained`.

    Raises:
        ValueError: a model whose weights cannot be replaced; a gradient that differs from the model's own; no
            minibatches, or no sequence of them; not exactly one of `criterion` and `loss`; a loss that is no single
            number; an option that `ireg.options.Options` refuses; one independent minibatch; an optimizer that moves
            nothing, or that a term is not made for; a term of the path; a sample that is too small, or a term or a
            penalty that needs all minibatches.

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
    options = Options(
        terms=terms,
        criterion=criterion,
        loss=loss,
        method=method,
        num_batches=num_batches,
        mode=mode,
        sampling=sampling,
        by=by,
        regularizer=regularizer,
        check=check,
        progress=progress,
    )
    if num_batches is not None and population is not None:
        raise ValueError(
            f"num_batches={num_batches} draws a sample, and population={population} says that batches are one; "
            "leave one of them out"
        )
    epoch = Epoch(batches=batches, rates=rates, initial=initial, population=population, clip=clip)
    return measure_epoch(model, options, epoch, optimizer=optimizer)


def measure_epoch(
    model: nn.Module,
    options: Options,
    epoch: Epoch,
    *,
    optimizer: Optimizer | Sequence[Optimizer],
    measured: MeasuredLoss | None = None,
    warn: Callable[[str], None] = warnings.warn,
) -> Measurement:
    """Measure terms at the model's present weights, with all that was recorded of an epoch.

    See `measure`, whose keywords are the fields of `options` and of `epoch`.

    Args:
        model: any module.
        options: what is asked for. Of the epoch's minibatches `num_batches` are drawn, if `epoch` has no `population`
            yet.
        epoch: what was trained on.
        optimizer: of the model.
        measured: the model's loss by these options, where it is known from an earlier measurement.
        warn: called with a line for what could not be measured.

    Returns:
        The values by tag.

    Raises:
        ValueError: as `measure`; a term of the path without one.
    """
    optimizer = unwrapped(optimizer)
    several = optimizer if isinstance(optimizer, SeveralOptimizers) else None
    if several is not None and options.regularizer is not None:
        raise ValueError(f"a regularizer is measured with one optimizer, not with {' and '.join(several.names)}")
    if measured is None:
        measured = MeasuredLoss(model, optimizer, options.criterion, options.loss, options.method, epoch.group)
    epoch = _sampled(options, epoch)
    if epoch.path is None and (missing := [tag for tag, term in options.chosen.items() if needs_path(term)]):
        raise ValueError(
            f"{missing[0]} is a sum over the steps of the epoch, which are over; use ireg.Monitor, made before them"
        )
    generator = named_generator("terms") if epoch.generator is None else epoch.generator
    with measured.in_modes({} if epoch.modes is None else epoch.modes):
        epoch = replace(epoch, batches=measured.outside_inference(epoch.batches), generator=generator)
        first = epoch.batches[0]
        if not measured.is_known:
            measured.look(first)
        noise = 0.0
        if options.check != "off":
            measured.require_own_gradient(first, ", or measure nevertheless with check='off'")
            noise = measured.noise(first, options.mode)
        with measured.mode(options.mode)(measured.module):
            if options.draws_masks:
                torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))  # of the masks
            penalized = options.regularizer
            whole, asked = of_all_weights(epoch, options, optimizer)
            snapshot = take_snapshot(
                measured.module,
                whole,
                asked,
                loss=measured.loss,
                optimizer=optimizer,
                objective=None if penalized is None else Objective(measured.loss, penalized, epoch.batches),
                used=measured.used,
            )
            with counting(len(options.chosen), shown=options.progress) as begins:
                values, parts = evaluate_all(
                    options.chosen, snapshot, epoch, measured.module, optimizer, by=options.by, begins=begins
                )
                if several is None:
                    reasons = left_out(options.chosen, snapshot, values, class_of(optimizer))
                else:
                    reasons = left_out_jointly(options.chosen, snapshot, parts, values, several)
            for line in snapshot.notes:
                warn(line)
            inverse = snapshot.inverse_size if NOISE_SCALE in values else None
            return Measurement(
                values | ({NOISE: noise} if noise else {}),
                reasons=reasons,
                terms=options.terms if isinstance(options.terms, str) else tuple(options.terms),
                by=options.by,
                batch_size=None if inverse is None else 1 / inverse,
            )


def of_all_weights(epoch: Epoch, options: Options, optimizer: Optimizer) -> tuple[Epoch, Options]:
    """Return of what the snapshot of all weights is taken.

    The rates and the parts of several optimizers are those of each, see `ireg.joint.of_each`.
    """
    if not isinstance(optimizer, SeveralOptimizers):
        return epoch, options
    return replace(epoch, rates=None, settings=None), replace(options, by=None)


def evaluate_all(
    terms: Mapping[str, Term],
    snapshot: Snapshot,
    epoch: Epoch,
    module: nn.Module,
    optimizer: Optimizer,
    *,
    by: str | None,
    begins: Callable[[str], None] = lambda tag: None,
) -> tuple[dict[str, float], Mapping[str, Snapshot]]:
    """Compute terms, and those of each optimizer where several step together.

    Args:
        terms: function by tag.
        snapshot: of all weights.
        epoch: what was trained on.
        module: whose parameters they are.
        optimizer: of the module.
        by: into which parts the weights of each of several optimizers are divided; None for none.
        begins: called with each tag before its term is computed.

    Returns:
        The values by tag, and by name a snapshot of each of several optimizers' weights.
    """
    if not isinstance(optimizer, SeveralOptimizers):
        return evaluate(terms, snapshot, begins), {}
    divided = {tag: term for tag, term in terms.items() if has_parts(term)}
    parts = of_each(snapshot, optimizer, epoch, module, divided, by)
    return evaluate_jointly(terms, snapshot, parts, evaluate, begins), parts


def _sampled(options: Options, epoch: Epoch) -> Epoch:
    """Draw the sample of minibatches that is asked for, unless it is drawn already, and check its size.

    Raises:
        ValueError: there are no minibatches, or a sample that is too small, too large, or must be all.
    """
    require_minibatches(epoch.batches, pairs=options.criterion is not None)
    if options.num_batches is not None and epoch.population is None:
        drawn = sampled(epoch.batches, options.num_batches, named_generator("minibatches"))
        epoch = replace(epoch, batches=drawn, population=len(epoch.batches))
    size = None if epoch.population is None else len(epoch.batches)
    options.require_estimates(size, epoch.population)
    require_all(options.regularizer, size, options.drawing)
    return epoch


def take_snapshot(
    module: nn.Module,
    epoch: Epoch,
    options: Options,
    *,
    loss: LossFn,
    optimizer: Optimizer,
    observer: Observer | None = None,
    objective: Descended | None = None,
    used: Collection[str] = (),
) -> Snapshot:
    """Take a snapshot of training, as far as the terms need it.

    Args:
        module: whose parameters are taken; in the mode in which it is measured, see `ireg.core.functional.measuring`.
        epoch: what was trained on.
        options: what is asked for: the terms, the method, how minibatches are drawn, and whether masks are.
        loss: of the module, as a function of its parameters.
        optimizer: of the module.
        observer: called with each minibatch's outputs when the moments are computed.
        objective: what is descended, an explicit penalty included; by default the loss.
        used: names of parameters that the loss is known to depend on.

    Raises:
        ValueError: an optimizer that cannot be read, that moves nothing, or that a term is not made for.
    """
    moving = moving_parameters(optimizer, dict(module.named_parameters()), loss, epoch.batches, epoch.stepped, used)
    seen = view(optimizer, moving, epoch.rates, epoch.settings)
    params = detached_parameters(module)
    # Copies: a forward pass may write to the weights that it is given. A large model is copied where it was seen to.
    # The model's own passes replace its weights, and a loss that is not known to leave them may write to them.
    if not is_large(params) or isinstance(loss, OwnPasses) or getattr(loss, "fresh", True):
        params = {name: value.clone() for name, value in params.items()}
    by_reals = loss_by_reals(loss, {name: params[name] for name in seen.moving})
    parts = parts_of(options.by, seen.moving, acting(optimizer), dict(module.named_parameters()))
    needed = _needs_of(options, seen, optimizer)
    if parts is not None and needed:
        needed |= Need.BY_PARAMETER | Need.MEAN
    if objective is not None and by_reals is not loss:
        raise ValueError("a regularizer is not measured with complex weights; leave it out, or hold two real weights")
    return Snapshot(
        params=params,
        initial=detached_parameters(module) if epoch.initial is None else epoch.initial,
        loss=by_reals,
        batches=epoch.batches,
        optimizer=seen,
        generator=named_generator("terms") if epoch.generator is None else epoch.generator,
        needs=needed,
        method=options.method,
        observer=observer,
        population=epoch.population,
        drawn=options.draws_masks,
        kept={} if epoch.kept is None else epoch.kept,
        path=epoch.path,
        corrupted=epoch.corrupted,
        objective=objective,
        sampling=options.drawing,
        parts=parts,
        clip=epoch.clip,
    )


def _needs_of(options: Options, seen: OptimizerState, optimizer: Optimizer) -> Need:
    """Return what the terms use of the moments together.

    Raises:
        ValueError: a term is not made for the optimizer, or for several.
    """
    try:
        return union_of_needs(options.chosen.values(), seen, options.drawing)
    except ValueError as error:
        if isinstance(optimizer, SeveralOptimizers):
            raise ValueError(optimizer.reason) from error
        raise


def evaluate(
    terms: Mapping[str, Term], snapshot: Snapshot, begins: Callable[[str], None] = lambda tag: None
) -> dict[str, float]:
    """Compute the terms at a snapshot, by tag.

    Terms that do not exist for the optimizer are left out. Of a term with several numbers, each has its name after the
    tag. From a sample of the minibatches, each term of gradients has its standard error under `<tag>_se`. Where the
    snapshot has parts, terms that have parts are also computed of each, under `<tag>/<part>`.

    Args:
        terms: function by tag.
        snapshot: where.
        begins: called with each tag before its term is computed.

    Returns:
        The values by tag, each in the unit of its term.
    """
    values: dict[str, float] = {}
    for tag, term in terms.items():
        begins(tag)
        values |= _values(tag, term, snapshot)
    return values


def _values(tag: str, term: Term, snapshot: Snapshot) -> dict[str, float]:
    """Compute a term, by tag; its standard error and its parts, too, where these are asked for."""
    value = term(snapshot)
    values = {} if value is None else _numbers(tag, term, value, snapshot)
    if has_parts(term):
        for name, part in snapshot.by_part.items():
            values |= _values(tag_of_part(tag, name), term, part)
    return values


def _numbers(tag: str, term: Term, value: Tensor | Mapping[str, Tensor], snapshot: Snapshot) -> dict[str, float]:
    """Return what a term has returned as numbers by tag, with the standard error of an estimate."""
    if isinstance(value, Mapping):
        return {f"{tag}/{name}": float(part) for name, part in value.items()}
    if snapshot.population is None or not union_of_needs([term], snapshot.optimizer):
        return {tag: float(value)}
    if not snapshot.has_errors:
        return {tag: float(value), f"{tag}{STANDARD_ERROR}": 0.0}
    error = standard_error(value, snapshot.population_size)  # first: it refuses what is no estimate
    return {tag: float(value[0]), f"{tag}{STANDARD_ERROR}": error}
