"""The minibatches of a trainer's optimizer steps, remembered as they come."""

from __future__ import annotations

from typing import Any

import torch

from ireg.core.batches import copied, size_of
from ireg.core.witness import Settings
from ireg.lit.step_loss import MicroBatches, moved
from ireg.window import Window


class Remembered:
    """The minibatches of the step that is being made, and the window of the steps since a measurement.

    Args:
        size: how many steps' minibatches are kept, drawn at random; None keeps all.
        device: where copies are kept; None leaves them where the minibatches are.

    Attributes:
        window: the steps that have been taken.
        dropped: whether the window has left the memory allowed, so that no minibatch is kept.
        recorded: which of the window's steps the witness has a record of.
    """

    def __init__(self, size: int | None, device: torch.device | str | None) -> None:
        self._size = size
        self._device = device
        self.begin(0)

    def begin(self, number: int) -> None:
        """Forget all, and begin a window.

        Args:
            number: of the window, which seeds the draw.
        """
        self._number = number
        self._pending: list[tuple[Any, int]] = []
        self.dropped = False
        self._new_window()

    def _new_window(self) -> None:
        self.window: Window[MicroBatches] = Window(self._size, number=self._number)
        self.recorded: int | None = None
        self._place: int | None = None  # of the step in the sample; None leaves it out
        self._drawn = False  # whether that has been decided

    @property
    def bytes(self) -> int:
        """Memory of the copies."""
        return self.window.bytes + size_of(self._pending)

    @property
    def is_between_steps(self) -> bool:
        """Whether the next minibatch is the first of a step."""
        return not self._pending

    def add(self, batch: Any, batch_idx: int, *, needed: bool) -> None:
        """Copy a minibatch before its step, which may change it in place, if it is in the sample.

        Args:
            batch: the minibatch.
            batch_idx: its index in the epoch.
            needed: whether it is copied though it is not in the sample.
        """
        if not self._drawn:
            self._place, self._drawn = self.window.sample.place(), True
        if self.dropped or (self._place is None and not needed):
            self._pending.append((None, batch_idx))
            return
        kept = copied(batch)
        self._pending.append((kept if self._device is None else moved(kept, self._device), batch_idx))

    def discard_last(self) -> None:
        """Forget the last minibatch, which has no loss."""
        if self._pending:
            self._pending.pop()

    def discard_step(self) -> None:
        """Forget the minibatches of a step that was not taken."""
        self._pending = []

    def close_step(self, settings: Settings, divisor: int) -> MicroBatches | None:
        """Add the step that has been taken to the window.

        Args:
            settings: what each parameter group used.
            divisor: of the sum of the step's losses.

        Returns:
            Its minibatches; None if it had none.
        """
        if not self._pending:
            return None
        if len(self.window) and len(settings) != len(self.window.settings[0]):
            self._new_window()  # a parameter group has joined: steps before it moved other weights
            self._place = self.window.sample.place()
        step = MicroBatches(tuple(self._pending), divisor)
        self.window.settings.append(settings)
        if self._place is not None and not self.dropped:
            self.window.put(self._place, step)
        self._pending, self._drawn = [], False
        return step

    def drop(self) -> None:
        """Keep no minibatch of this window any more."""
        self.dropped = True
        settings = self.window.settings
        self._new_window()
        self._drawn = True
        self.window.settings = settings
