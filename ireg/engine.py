"""Compute gradient moments, snapshots and curvature of a model: the engine behind the terms.

All functions take the model, its minibatches and its loss as `ireg.measure` does, and change nothing of the training:
weights, gradients, buffers, modes and random streams are as before.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from ireg.core.lanczos import Eigenpair
from ireg.core.moments import GradientMoments
from ireg.core.moments.needs import EVERYTHING, Need
from ireg.core.params import by_name
from ireg.core.random import named_generator
from ireg.core.sharpness import PRODUCTS, TOLERANCE, steepest
from ireg.core.snapshot import Snapshot
from ireg.core.types import Batch, Params
from ireg.core.wrappers import bare_module, unwrapped
from ireg.measured_loss import Criterion, MeasuredLoss, ModelLoss
from ireg.measurement import take_snapshot
from ireg.options import Epoch, Options, require_minibatches, require_mode

_NAMED = 3
"""Parameters that a message names, at most."""


def gradient_moments(
    model: nn.Module,
    batches: Sequence[Batch],
    *,
    criterion: Criterion | None = None,
    loss: ModelLoss | None = None,
    optimizer: Optimizer | None = None,
    needs: Need = EVERYTHING,
    method: str = "auto",
    mode: str = "as_trained",
) -> GradientMoments:
    """Compute the moments of the minibatch gradients at the model's present weights.

    With g_k = ∇Ĉ_k(ω) the gradient of the mean loss of minibatch k of m: the m values ‖g_k‖², the mean
    ḡ = (1/m) Σ g_k = ∇C and the mean square (1/m) Σ g_k ⊙ g_k, in one pass. Each minibatch has the weight 1/m, whatever
    its size. With minibatches of one example each these are the moments of the examples' gradients.

    Args:
        model: any module; it stays in its present mode.
        batches: the minibatches, as a list.
        criterion: `(outputs, targets) -> 0-d tensor`, the mean over the examples, for minibatches that are pairs
            `(inputs, targets)`. It opens the faster methods.
        loss: `(model, batch) -> 0-d tensor`, the mean loss, for minibatches of any structure. Give this or `criterion`.
        optimizer: by whose parameters the loss is differentiated; by default by all that require a gradient.
        needs: what to compute, as `Need.MEAN | Need.SQ_NORMS`; the mean square costs most.
        method: `auto`, or `loop`, `vmap`, `hooks`, `ghost`, `layers`, `backward`: they compute the same and differ in
            time and in the models that they serve.
        mode: `as_trained` (layers stay in their mode, BatchNorm takes the minibatch's statistics, dropout is off) or
            `eval`.

    Returns:
        `mean` and `square` by parameter name, each of the parameter's shape, without parameters that the loss does not
        depend on; `sq_norms` and `losses`, (m,), in the order of the minibatches; `sq_norm_mean`, 0-d; `num_batches`;
        `method`. They are detached, and have the units of the loss: ‖g‖² is loss² over weight². Of complex weights the
        real and imaginary parts are given, (…, 2).

    Raises:
        ValueError: not exactly one of `criterion` and `loss`; `batches` that are no sequence, empty, or no pairs; an
            unknown mode or method; a method that cannot serve the model; what `needs` does not have is asked of the
            result; a gradient that differs from the model's own; no parameter to differentiate by.

    Source: Smith et al. 2021, arXiv:2101.12176, for the weights 1/m; Rochette, Manoel & Tramel 2019, arXiv:1912.06015,
    for `hooks`.

    Example:
        >>> model = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.constant_(model.weight, 1.0)
        >>> batches = [(torch.tensor([[x]]), torch.zeros(1, 1)) for x in (1.0, 2.0)]  # g = 2x²: 2 and 8
        >>> moments = gradient_moments(model, batches, criterion=nn.functional.mse_loss)
        >>> moments.sq_norms, moments.mean
        (tensor([ 4., 64.]), {'weight': tensor([[5.]])})
        >>> moments.sq_norm_mean, moments.square, moments.num_batches
        (tensor(34.), {'weight': tensor([[34.]])}, 2)
    """
    if not isinstance(needs, Need) or not needs:
        raise ValueError(f"needs={needs!r}: must be one or several of ireg.Need, as Need.MEAN | Need.SQ_NORMS")
    opened = _Opened(model, batches, optimizer, criterion, loss, mode, method)
    with opened.measuring():
        return replace(opened.snapshot(method=method), needs=needs).moments


@contextmanager
def snapshot(
    model: nn.Module,
    batches: Sequence[Batch],
    *,
    optimizer: Optimizer,
    criterion: Criterion | None = None,
    loss: ModelLoss | None = None,
    initial: Params | None = None,
    method: str = "auto",
    mode: str = "as_trained",
) -> Iterator[Snapshot]:
    """Open a snapshot of training, from which terms are computed.

    A term is any function of a snapshot. What the snapshot derives is computed when it is asked for, and once: moments
    of the gradients, products with the Hessian, its largest eigenvalue, the optimizer's mean flow. So it is used within
    the `with` block, where the model is in the mode that is measured.

    Args:
        model: any module.
        batches: the minibatches of an epoch, as a list.
        optimizer: of the model; the terms may read its state. It decides which parameters are differentiated.
        criterion: as for `ireg.gradient_moments`.
        loss: as for `ireg.gradient_moments`.
        initial: the parameters before training, by name; by default the present ones.
        method: how gradient moments are computed, as for `ireg.gradient_moments`.
        mode: `as_trained` or `eval`, as for `ireg.gradient_moments`.

    Returns:
        A context that gives the `Snapshot`. Its `params` are copies of all weights, its `moving` those that the
        optimizer moves.

    Raises:
        ValueError: as `ireg.gradient_moments`; an optimizer that moves nothing; a pass that is asked for after the
            block.

    Example:
        >>> from ireg.terms import implicit
        >>> model = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.constant_(model.weight, 1.0)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> batches = [(torch.tensor([[x]]), torch.zeros(1, 1)) for x in (1.0, 2.0)]
        >>> with snapshot(model, batches, optimizer=optimizer, criterion=nn.functional.mse_loss) as taken:
        ...     print(implicit.sgd(taken), taken.hessian(taken.moving))  # (η/4) 34, and (2 + 8)/2 · 1
        tensor(0.8500) {'weight': tensor([[5.]])}
    """
    opened = _Opened(model, batches, unwrapped(optimizer), criterion, loss, mode, method)
    with opened.measuring():
        taken = opened.snapshot(method=method, initial=initial)
        try:
            yield taken
        finally:
            # A pass after the block would see the model in another mode, without a word.
            object.__setattr__(taken, "loss", _over)
            taken.__dict__.pop("hessian", None)


class Hessian:
    """Compute products H v with the Hessian H of C = (1/m) Σ Ĉ_k, at the weights that the model has now.

    They are exact, by double backward (or forward over reverse for stacks of Linear layers), and cost about two
    gradients of C each. H is not formed. The weights that it differentiates by are copied when it is made; everything
    else is read from the model at each product.

    Args:
        model: any module; it stays in its present mode.
        batches: the minibatches, as a list; sizes may differ, and each has the weight 1/m.
        criterion: as for `ireg.gradient_moments`; it opens the faster methods.
        loss: as for `ireg.gradient_moments`.
        optimizer: by whose parameters the loss is differentiated; by default by all that require a gradient.
        mode: `as_trained` or `eval`, as for `ireg.gradient_moments`.

    Attributes:
        params: the weights at which H is taken, by name: those that the loss depends on, without frozen ones. A
            direction has their names, shapes, type and device.

    Raises:
        ValueError: as `ireg.gradient_moments`; a parameter that is a sparse tensor, which has no second derivatives.

    Source: Pearlmutter 1994, "Fast exact multiplication by the Hessian".

    Example:
        >>> model = nn.Linear(2, 1, bias=False)
        >>> batches = [(torch.tensor([[1.0, 2.0]]), torch.zeros(1, 1))]
        >>> hessian = Hessian(model, batches, criterion=nn.functional.mse_loss)  # 2 x xᵀ
        >>> hessian({"weight": torch.tensor([[1.0, 0.0]])})
        {'weight': tensor([[2., 4.]])}
        >>> hessian.products
        1
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Sequence[Batch],
        *,
        criterion: Criterion | None = None,
        loss: ModelLoss | None = None,
        optimizer: Optimizer | None = None,
        mode: str = "as_trained",
    ) -> None:
        self._opened = _Opened(model, batches, optimizer, criterion, loss, mode)
        with self._opened.measuring():
            taken = self._opened.snapshot()
            self.params = dict(taken.moving)
            self._mean = taken.hessian

    @property
    def products(self) -> int:
        """How many products have been computed."""
        return self._mean.products

    def __call__(self, direction: Params) -> Params:
        """Compute the Hessian product H v.

        Args:
            direction: v, by name, like `params`.

        Returns:
            H v by name, of the same shapes, detached, in loss over weight² times the unit of v. It is 0 for a parameter
            that enters the loss linearly.

        Raises:
            ValueError: the direction has other names, shapes or types than `params`, or is elsewhere.
        """
        require_direction("direction", direction, self.params)
        with self._opened.measuring():
            return self._mean({name: direction[name].detach().clone() for name in self.params})

    def _top(
        self, generator: torch.Generator, start: Params | None, tolerance: float, products: int | None
    ) -> Eigenpair:
        before = None if start is None else torch.cat([start[name].detach().flatten() for name in self.params])
        with self._opened.measuring():
            return steepest(self._mean, generator, before=before, tolerance=tolerance, products=products)


@dataclass(frozen=True, kw_only=True)
class TopEigenvalue:
    """The largest algebraic eigenvalue of a Hessian, as well as it is known.

    An eigenvalue lies within `residual` of `eigenvalue`, which is never above the largest one, but for rounding.

    Attributes:
        eigenvalue: θ = vᵀHv, loss over weight²; nan where a product is not finite, as after training has diverged.
        eigenvector: v, by parameter name, of norm 1 over all parameters; the start where `eigenvalue` is nan.
        residual: ‖Hv − θv‖, in the unit of θ; nan where that is.
        products: products with H that were computed.
        settled: whether the residual is within the tolerance, or is rounding alone.

    Example:
        >>> top = TopEigenvalue(
        ...     eigenvalue=2.0, eigenvector={"w": torch.ones(1)}, residual=0.1, products=60, settled=False
        ... )
        >>> top.eigenvalue, top.residual
        (2.0, 0.1)
    """

    eigenvalue: float
    eigenvector: Params
    residual: float
    products: int
    settled: bool


def top_eigenvalue(
    model: nn.Module,
    batches: Sequence[Batch],
    *,
    criterion: Criterion | None = None,
    loss: ModelLoss | None = None,
    optimizer: Optimizer | None = None,
    mode: str = "as_trained",
    tolerance: float = TOLERANCE,
    max_products: int | None = None,
    start: Params | None = None,
    generator: torch.Generator | None = None,
) -> TopEigenvalue:
    """Find the largest eigenvalue of the Hessian of C, the sharpness, by Lanczos' method.

    λ_max = max vᵀHv over ‖v‖ = 1, with H as of `ireg.Hessian`. All Lanczos vectors are kept, and made orthogonal: the
    memory is that of `max_products` networks at most. Above 16 MiB of weights conjugate gradients find it, which keep
    four vectors and may take more products.

    Args:
        model: any module; it stays in its present mode.
        batches: the minibatches, as a list.
        criterion: as for `ireg.gradient_moments`.
        loss: as for `ireg.gradient_moments`.
        optimizer: by whose parameters the loss is differentiated; by default by all that require a gradient.
        mode: `as_trained` or `eval`, as for `ireg.gradient_moments`.
        tolerance: the residual at which it ends, as a share of the eigenvalue that is largest in absolute value. Where
            a gap follows, the error of the result is of second order in that.
        max_products: products with H at most; by default 60, and 240 above 16 MiB of weights.
        start: the eigenvector of an earlier result, which saves products.
        generator: of the random first vector, on the CPU; by default one with a fixed seed.

    Returns:
        The eigenvalue, its eigenvector by name, the residual, and the number of products. Where that number is
        `max_products`, the residual may be above the tolerance, and `settled` says so.

    Raises:
        ValueError: as `ireg.Hessian`; a tolerance that is negative or not below 1; fewer than one product; a start with
            other names, shapes or types than the weights.

    Source: Golub & Van Loan 2013, "Matrix Computations", section 10.3.

    Example:
        >>> model = nn.Linear(2, 1, bias=False)
        >>> batches = [(torch.tensor([[3.0, 4.0]]), torch.zeros(1, 1))]
        >>> top = top_eigenvalue(model, batches, criterion=nn.functional.mse_loss)  # of 2 x xᵀ: 2 ‖x‖²
        >>> round(top.eigenvalue, 4), top.eigenvector["weight"].abs()
        (50.0, tensor([[0.6000, 0.8000]]))
    """
    if not 0 <= tolerance < 1:
        raise ValueError(f"tolerance={tolerance}: must be a share from 0 to below 1; 0.01 is usual")
    if max_products is not None and max_products < 1:
        raise ValueError(f"max_products={max_products}: must be at least 1; {PRODUCTS} are usual")
    hessian = Hessian(model, batches, criterion=criterion, loss=loss, optimizer=optimizer, mode=mode)
    if start is not None:
        require_direction("start", start, hessian.params)
    generator = named_generator("top_eigenvalue") if generator is None else generator
    pair = hessian._top(generator, start, tolerance, max_products)
    return TopEigenvalue(
        eigenvalue=pair.value,
        eigenvector=by_name(pair.vector, hessian.params),
        residual=pair.residual,
        products=pair.products,
        settled=pair.settled,
    )


def require_direction(name: str, direction: Params, params: Params) -> None:
    """Check that a direction has the names, shapes, types and devices of the weights.

    Args:
        name: of the argument, for the message.
        direction: to be checked.
        params: the weights.

    Raises:
        ValueError: the direction differs in one of these.

    Example:
        >>> require_direction("start", {"w": torch.ones(2)}, {"w": torch.ones(3)})
        Traceback (most recent call last):
        ...
        ValueError: start['w'] is (2,) float32 on cpu; must be (3,) float32 on cpu, like the weight
    """
    if not isinstance(direction, Mapping):
        raise ValueError(f"{name} is a {type(direction).__name__}; must be a dictionary with a tensor for each weight")
    missing, other = params.keys() - direction.keys(), direction.keys() - params.keys()
    if missing or other:
        parts = [f"lacks {_some(missing)}"] if missing else []
        parts += [f"has {_some(other)}"] if other else []
        raise ValueError(
            f"{name} {' and '.join(parts)}; must have the names of the weights that are differentiated: take them from "
            "Hessian(…).params"
        )
    for key, param in params.items():
        value = direction[key]
        if not isinstance(value, Tensor) or _looks(value) != _looks(param):
            given = _looks(value) if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise ValueError(f"{name}[{key!r}] is {given}; must be {_looks(param)}, like the weight")


def _some(names: set[str]) -> str:
    """Return the first names in words, and how many more there are."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(sorted(map(str, names))[:_NAMED]) + more


def _looks(value: Tensor) -> str:
    """Return shape, type and device of a tensor in words."""
    return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')} on {value.device}"


class _Opened:
    """A model with its loss and minibatches, checked, which can be measured several times.

    Args:
        model: any module.
        batches: the minibatches.
        optimizer: by whose parameters is differentiated; None for all that require a gradient.
        criterion: of outputs and targets; this or `loss`.
        loss: of the model and a minibatch.
        mode: `as_trained` or `eval`.
        method: how gradients are computed.

    Raises:
        ValueError: an argument has a value that is not allowed, or the gradient is not the model's own.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Sequence[Batch],
        optimizer: Optimizer | None,
        criterion: Criterion | None,
        loss: ModelLoss | None,
        mode: str,
        method: str = "auto",
    ) -> None:
        require_mode(mode)
        if mode == "two_draws":
            raise ValueError("mode='two_draws' is of whole terms, see ireg.measure; must be as_trained or eval here")
        self.optimizer = of_all_weights(model) if optimizer is None else unwrapped(optimizer)
        self.measured = MeasuredLoss(model, self.optimizer, criterion, loss, method=method)
        require_minibatches(batches, pairs=criterion is not None)
        self.mode = mode
        with self.measured as measured:
            self.batches = measured.outside_inference(batches)
            measured.look(self.batches[0])
            measured.require_own_gradient(self.batches[0])
            noise = measured.noise(self.batches[0], mode)
        if noise:
            warnings.warn(
                f"the loss of the first minibatch differs by {noise:.2g} of itself between two seeds: it draws random "
                "numbers other than dropout, and so does what is computed of it",
                UserWarning,
                stacklevel=4,
            )

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Let the model compute the measured loss within the block, and leave all as it was."""
        with self.measured as measured, measured.mode(self.mode)(measured.module):
            yield

    def snapshot(self, method: str = "auto", initial: Params | None = None) -> Snapshot:
        """Take a snapshot that allows all moments; to be called within `measuring`."""
        taken = take_snapshot(
            self.measured.module,
            Epoch(batches=self.batches, initial=initial),
            Options(terms="norm/l2", method=method),  # one that needs no pass; what is needed is set below
            loss=self.measured.loss,
            optimizer=self.optimizer,
            used=self.measured.used,
        )
        return replace(taken, needs=EVERYTHING)


def of_all_weights(model: nn.Module) -> Optimizer:
    """Return an optimizer of all parameters that require a gradient, which takes no step.

    Raises:
        ValueError: no parameter requires a gradient.
    """
    module = bare_module(model, sharded=True)
    held = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not held:
        raise ValueError(f"{type(module).__name__} has no parameter that requires a gradient; unfreeze one")
    return SGD(held, lr=0.0)


def _over(params: Params, batch: Batch) -> Tensor:
    """Stand for the loss of a snapshot whose block has ended.

    Raises:
        ValueError: always.
    """
    raise ValueError("the snapshot has ended: its passes are made within the with block; compute the term there")
