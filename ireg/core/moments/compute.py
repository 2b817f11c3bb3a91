"""Moments of the minibatch gradients at fixed parameters, in one pass."""

import logging
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from ireg.core.complex_weights import LossByReals
from ireg.core.functional import ModuleLoss, changes_gradients
from ireg.core.moments import backward, hooks, linear, loop, vmap  # noqa: F401 — they register their methods
from ireg.core.moments.kept import KEPT_MEMORY, KeptGradients, KeptSample
from ireg.core.moments.kinds import NotServedError
from ireg.core.moments.memory import bytes_of
from ireg.core.moments.methods import METHODS
from ireg.core.moments.needs import EVERYTHING, Need
from ireg.core.moments.sample import SMALLEST, SampledGradients
from ireg.core.moments.streamed import Foreseen, StreamedSample, StreamedSums, sketches_of
from ireg.core.moments.sums import GradientMoments, MomentSums, Observer
from ireg.core.own_passes import OwnPasses
from ireg.core.random import named_generator
from ireg.core.types import Batch, LossFn, Params

log = logging.getLogger(__name__)

_OF_ANY_WEIGHTS = ("loop", "vmap")
"""The methods that differentiate the loss as it is; the others know layers of real weights."""


def gradient_moments(
    loss: LossFn,
    params: Params,
    batches: Sequence[Batch],
    *,
    needs: Need = EVERYTHING,
    method: str = "auto",
    chunk_size: int | None = None,
    observer: Observer | None = None,
) -> GradientMoments:
    """Compute the needed moments of the minibatch gradients at `params`.

    With g_k the gradient of the mean loss of minibatch k: the m values ‖g_k‖², (1/m) Σ g_k and (1/m) Σ g_k ⊙ g_k, each
    minibatch with the same weight 1/m whatever its size, so that ḡ is the gradient of C = (1/m) Σ Ĉ_k (Smith et al.
    2021, arXiv:2101.12176). Memory does not grow with the number of minibatches, but for two numbers each.

    Where squares leave the range of the weights' type, a second pass forms all gradients, and sums in double precision.

    The methods compute the same and differ in time and in the models they can serve:

    - `loop`: one minibatch after the other, by backward passes; serves everything, the reference.
    - `vmap`: several minibatches of equal size at once, by `torch.func`; not for models that `vmap` cannot serve.
    - `ghost` and `layers`: for stacks of Linear layers, one pass over many minibatches and then layer by layer, see
      `ireg.core.moments.linear`; `ghost` forms no g_k unless their squares are needed.
    - `hooks`: for modules whose parameters are in layers of known kinds, several minibatches in one pass, see
      `ireg.core.moments.hooks`;
    - `backward`: one minibatch after the other, by the own forward and backward passes of the module; also for an
      `ireg.core.own_passes.OwnPasses`, whose weights may be sharded, and of which other methods know nothing.
    - `auto`: `backward` for such a loss. Else `ghost` or `layers`, whichever is less work, where the model allows them
      and there are several minibatches; else `hooks`, on a CPU where minibatches are small; else `vmap` on an
      accelerator, else `loop`. Where hooks turn out not to serve a module, `loop`. A loss of a module and any batch
      takes `loop`.

    Args:
        loss: pure function `(params, batch) -> 0-d mean loss`; `ghost`, `layers`, `hooks` and `observer` want one made
            by `functional_loss`.
        params: where the gradients are taken; neither they nor any `.grad` are changed.
        batches: the minibatches; sizes may differ.
        needs: what to compute.
        method: one of the above.
        chunk_size: minibatches held at once by `vmap` (default: as many as fit into `VMAP_MEMORY` bytes), `hooks`
            (default: by what one minibatch needs), `ghost` and `layers` (default: `EXAMPLES_AT_ONCE` examples).
        observer: called with each minibatch's outputs during the pass.

    Returns:
        The moments that `needs` names; what was not asked for raises a `ValueError` when it is read.

    Raises:
        ValueError: no minibatches, an unknown method, a chunk size below 1, or a loss that `method` cannot serve.

    Example:
        >>> def loss(params, batch):
        ...     inputs, targets = batch
        ...     return (params["w"] * inputs - targets).square().mean()
        >>> batches = [(torch.tensor([x]), torch.zeros(1)) for x in (1.0, 2.0)]
        >>> moments = gradient_moments(loss, {"w": torch.tensor(1.0)}, batches)  # g = 2x²w: 2 and 8
        >>> moments.sq_norms, moments.mean, moments.num_batches
        (tensor([ 4., 64.]), {'w': tensor(5.)}, 2)
    """
    sums = MomentSums(params=params, needs=needs, observer=observer)
    chosen = _fill(sums, loss, batches, method, chunk_size)
    if sums.has_left_range():
        sums = MomentSums(params=params, needs=needs, wide=True)
        chosen = _fill(sums, loss, batches, chosen, chunk_size)
    return sums.moments(chosen)


def sampled_gradients(
    loss: LossFn,
    params: Params,
    batches: Sequence[Batch],
    population: float,
    *,
    method: str = "auto",
    foreseen: Foreseen | None = None,
    generator: torch.Generator | None = None,
) -> SampledGradients:
    """Compute the gradients of minibatches that are a sample of an epoch's.

    Where all k gradients take no more than `KEPT_MEMORY`, they are kept. Else they are summed up as they come: memory
    is then that of one network, and of one sketch a minibatch. Values stay exact, and standard errors are those of the
    sketches, see `ireg.core.moments.streamed`.

    Args:
        loss: as for `gradient_moments`.
        params: where the gradients are taken.
        batches: k minibatches, drawn at random and without replacement.
        population: the number m of the epoch's minibatches, more than k; infinite for independent draws.
        method: as for `gradient_moments`.
        foreseen: the metrics that will be asked for; any other takes another pass where gradients are not kept.
        generator: of the sketch's random signs, on the CPU; by default one with a fixed seed.

    Returns:
        The gradients, whose methods return estimates (1 + k,): of the whole sample, and without each minibatch.

    Raises:
        ValueError: fewer than `SMALLEST` minibatches, not fewer than m, or a method that cannot serve the loss.

    Example:
        >>> def loss(params, batch):
        ...     return (params["w"] * batch[0]).square().mean() / 2
        >>> batches = [(torch.tensor([x]), torch.zeros(1)) for x in (1.0, 2.0, 3.0)]
        >>> gradients = sampled_gradients(loss, {"w": torch.tensor(1.0)}, batches, 4)  # 1, 4 and 9
        >>> gradients.mean_square(None)  # of all three, then without one of each
        tensor([32.6667, 48.5000, 41.0000,  8.5000], dtype=torch.float64)
    """
    if not SMALLEST <= len(batches) < population:
        raise ValueError(
            f"a sample of {len(batches)} of {population} minibatches: must be at least {SMALLEST}, and fewer than all"
        )
    if len(batches) * bytes_of(params) <= KEPT_MEMORY:
        kept = KeptGradients(params=params, needs=Need.SQUARE, size=len(batches))  # squares: so that each is formed
        method = _fill(kept, loss, batches, method, None)
        return KeptSample(kept.rows, population, method)
    foreseen = foreseen or Foreseen()
    generator = named_generator("sketch") if generator is None else generator
    sketches = sketches_of(params, len(batches), foreseen.parts, generator)

    def stream(asked: Foreseen) -> tuple[StreamedSums, str]:
        for in_double in (False, True):
            sums = StreamedSums(
                params=params,
                needs=Need.MEAN | Need.SQUARE,
                wide=in_double,
                size=len(batches),
                foreseen=asked,
                sketches=sketches,
            )
            chosen = _fill(sums, loss, batches, method, None)
            if not sums.has_left_range():
                break
        return sums, chosen

    return StreamedSample(stream, foreseen, population)


def _fill(sums: MomentSums, loss: LossFn, batches: Sequence[Batch], method: str, chunk_size: int | None) -> str:
    """Add all minibatches to the sums, and return the name of the method that did."""
    if len(batches) == 0:
        raise ValueError("gradient moments need at least one minibatch, got none")
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size={chunk_size}: must be at least 1")
    chosen = choose_method(loss, sums.params, batches, sums.needs) if method == "auto" else method
    if chosen not in METHODS:
        raise ValueError(f"method={method!r}: unknown; choose one of auto, {', '.join(METHODS)}")
    if isinstance(loss, OwnPasses) and chosen not in ("backward", "loop"):
        raise ValueError(f"method={method!r}: not for a model's own passes; choose auto, backward or loop")
    if isinstance(loss, LossByReals) and chosen not in _OF_ANY_WEIGHTS:
        raise ValueError(f"method={method!r}: not for complex weights; choose auto, {' or '.join(_OF_ANY_WEIGHTS)}")
    try:
        METHODS[chosen](loss, batches, chunk_size, sums)
    except NotServedError as error:
        if method != "auto":
            raise
        _say_once(str(error))
        chosen = "loop"
        METHODS[chosen](loss, batches, chunk_size, sums)
    return chosen


def choose_method(loss: LossFn, params: Params, batches: Sequence[Batch], needs: Need) -> str:
    """Choose the method that `auto` stands for.

    A single minibatch leaves nothing to batch, and by the loop its ‖g‖² is ‖ḡ‖² to the last bit.

    Args:
        loss: as for `gradient_moments`.
        params: where the gradients are taken.
        batches: at least one; the first stands for all.
        needs: what is to be computed: forming every g_k makes some methods slower than others.

    Returns:
        A name in `METHODS`.
    """
    if isinstance(loss, OwnPasses):
        return "backward"
    if isinstance(loss, LossByReals) or (not isinstance(loss, ModuleLoss) and hasattr(loss, "module")):
        return "loop"  # of complex weights, of a step, or of several ranks
    if len(batches) == 1 or (isinstance(loss, ModuleLoss) and changes_gradients(loss.module)):
        return "loop"
    inputs, targets = batches[0]
    if not isinstance(inputs, Tensor):
        return "loop"
    if isinstance(loss, ModuleLoss) and linear.serves(loss.module, inputs.ndim):
        pays = Need.SQUARE not in needs and linear.products_pay(loss.module, len(targets), needs)
        return "ghost" if pays else "layers"
    try:
        hooks.layers_of(loss, params)
    except NotServedError as error:
        _say_once(str(error))
        return "loop" if inputs.device.type == "cpu" else "vmap"
    return "hooks" if hooks.pays(loss, params, batches[0]) else "loop"


@cache
def _say_once(reason: str) -> None:
    """Log why there is no fast way, once a process and reason."""
    log.info("minibatch gradients one after the other: %s", reason)
