"""Measure the terms in a training loop of one's own."""

import warnings
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.optim import Optimizer

from ireg.catalogue import VALID_STRENGTH
from ireg.core.batches import copied
from ireg.core.functional import detached_parameters
from ireg.core.path import recorder_for
from ireg.core.random import named_generator
from ireg.core.reservoir import Reservoir
from ireg.core.types import Batch
from ireg.measurement import (
    Criterion,
    ModelLoss,
    loss_function,
    measure,
    require_all,
    require_estimates,
    require_minibatches,
    require_mode,
)
from ireg.regularizers import Regularizer
from ireg.terms.named import Chosen, chosen_terms

if TYPE_CHECKING:
    from pandas import DataFrame


class Monitor:
    """Remember an epoch's minibatches, and measure the terms over them.

    The words are torchmetrics': `update` after each step, `compute` after the epoch, `reset` before the next.

    Observing does not change the training: the weights are bit-equal with and without a monitor.

    Args:
        model: any module.
        optimizer: of the model.
        criterion: `(outputs, targets) -> 0-d tensor` for minibatches that are pairs `(inputs, targets)`.
        loss: `(model, batch) -> 0-d tensor` for any minibatch. Give this or `criterion`.
        terms: `"default"`, `"theory"`, tags, or functions by tag, see `ireg.terms.named.chosen_terms`.
        num_batches: estimate the terms from so many of the epoch's minibatches, drawn at random, so that time and
            memory do not grow with the data. Each term has a standard error under `<tag>_se`.
        method: how gradient moments are computed, see `ireg.core.moments.gradient_moments`.
        mode: `as_trained`, `two_draws` or `eval`, see `ireg.measure`.
        regularizer: an explicit penalty that the steps descend beside the loss, see `ireg.measure`.

    Raises:
        ValueError: an argument has a value that `ireg.measure` refuses.

    Example:
        >>> import torch
        >>> model = nn.Linear(2, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> monitor = Monitor(model, optimizer, criterion=nn.functional.mse_loss, terms=["ireg/sgd", "norm/distance"])
        >>> loader = [(torch.ones(4, 2), torch.zeros(4, 1)) for _ in range(3)]
        >>> for epoch in range(2):
        ...     for inputs, targets in loader:
        ...         optimizer.zero_grad()
        ...         nn.functional.mse_loss(model(inputs), targets).backward()
        ...         optimizer.step()
        ...         monitor.update((inputs, targets))
        ...     values = monitor.compute()
        ...     monitor.reset()
        >>> monitor.rows.columns.tolist(), len(monitor.rows)
        (['steps', 'ireg/sgd', 'norm/distance'], 2)
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        *,
        criterion: Criterion | None = None,
        loss: ModelLoss | None = None,
        terms: Chosen = "default",
        num_batches: int | None = None,
        method: str = "auto",
        mode: str = "as_trained",
        regularizer: Regularizer | None = None,
    ) -> None:
        loss_function(model, criterion, loss)  # refused here, not after an epoch
        require_mode(mode)
        require_estimates(chosen_terms(terms), mode, num_batches)
        require_all(regularizer, num_batches)
        self.model = model
        self.optimizer = unwrapped(optimizer)
        self.criterion = criterion
        self.loss = loss
        self.terms = chosen_terms(terms)
        self.num_batches = num_batches
        self.method = method
        self.mode = mode
        self.regularizer = regularizer
        self.initial = {name: value.clone() for name, value in detached_parameters(model).items()}
        self.steps = 0
        self.warnings = Warnings()
        self._rows: list[dict[str, float]] = []
        self._kept: dict[str, Tensor] = {}
        self._recorder = recorder_for(self.terms.values(), self.optimizer)
        self.reset()

    def update(self, batch: Batch) -> None:
        """Remember a minibatch and the rates of its step.

        Call it after `optimizer.step()`.

        The minibatch is copied. Call this before a scheduler changes the rates.

        Args:
            batch: as `criterion` or `loss` takes it.

        Raises:
            ValueError: it is no pair, and `criterion` takes pairs.
        """
        require_minibatches([batch], pairs=self.criterion is not None)
        place = self._sample.place()
        if place is not None:
            self._sample.put(place, copied(batch))
        self._rates.append(rates_of(self.optimizer))
        self.steps += 1

    def compute(self) -> dict[str, float]:
        """Measure the terms at the present weights.

        The minibatches are those since the last `reset`.

        The values are also added to `rows`.

        Returns:
            The values by tag, without those that do not exist for the optimizer.

        Raises:
            ValueError: there are no minibatches, or `ireg.measure` refuses something.
        """
        values = measure(
            self.model,
            self._sample.items,
            optimizer=self.optimizer,
            criterion=self.criterion,
            loss=self.loss,
            terms=self.terms,
            rates=self._rates,
            initial=self.initial,
            generator=named_generator("terms", self.steps),
            population=None if self.num_batches is None else len(self._rates),
            method=self.method,
            mode=self.mode,
            kept=self._kept,
            path=None if self._recorder is None else self._recorder.path(),
            regularizer=self.regularizer,
        )
        self.warnings.of_measurement(self.model, self._rates, values, mode=self.mode)
        self._rows.append({"steps": self.steps, **values})
        return values

    def reset(self) -> None:
        """Forget the minibatches; `rows` stay."""
        self._sample: Reservoir[Batch] = Reservoir(self.num_batches, named_generator("minibatches", self.steps))
        self._rates: list[tuple[float, ...]] = []
        if self._recorder is not None:
            self._recorder.start()

    @property
    def rows(self) -> "DataFrame":
        """What was computed so far, one row a call of `compute`.

        `steps` counts the updates.
        """
        from pandas import DataFrame  # only where it is wanted: it takes half a second to import

        return DataFrame(self._rows)


class Warnings:
    """What is worth a warning, each once."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def once(self, kind: str, text: str) -> None:
        """Warn, if this kind of warning is the first."""
        if kind not in self._said:
            self._said.add(kind)
            warnings.warn(text, UserWarning, stacklevel=4)

    def of_measurement(
        self, model: nn.Module, rates: Iterable[tuple[float, ...]], values: Mapping[str, float], *, mode: str
    ) -> None:
        """Warn of what bends the meaning of a measurement."""
        if len(set(rates)) > 1:
            self.once(
                "rates",
                "the learning rate changes within the epoch: SGD's terms have the coefficients for that; the terms of "
                "an optimizer with memory use the epoch's mean rate",
            )
        dropout = any(isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p > 0 for layer in model.modules())
        if dropout and mode == "as_trained":
            self.once(
                "dropout",
                "the model has dropout, which is off in the terms: at p = 0.1 they are about 1 % off, at p = 0.5 5 %; "
                "mode='two_draws' has it on, without bias, in twice the time",
            )
        strength = values.get("ireg/strength", 0.0)
        if strength > VALID_STRENGTH:
            self.once(
                "strength",
                f"ireg/strength is {strength:.2g}: above {VALID_STRENGTH:g} the expansion says nothing about this run",
            )


def unwrapped(optimizer: Any) -> Optimizer:
    """Return torch's optimizer, also of a wrapper's.

    Lightning and others keep it as `optimizer`.

    Raises:
        ValueError: there is none.
    """
    inner = getattr(optimizer, "optimizer", optimizer)
    if not isinstance(inner, Optimizer):
        raise ValueError(f"optimizer is a {type(optimizer).__name__}; must be one of torch.optim, or a subclass of its")
    return inner


def rates_of(optimizer: Optimizer) -> tuple[float, ...]:
    """The present learning rate of each parameter group."""
    return tuple(float(group["lr"]) for group in optimizer.param_groups)
