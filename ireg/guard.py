"""Let steps of a training be computed again, and judge the difference."""

from __future__ import annotations

import warnings

from ireg.check import NOISE, REPLAY, require_check
from ireg.core.clipping import Clip
from ireg.core.types import Batch
from ireg.core.witness import Witness
from ireg.measured_loss import MeasuredLoss


class Guard:
    """Compare the gradient of one step in each window with that of its minibatch, computed again.

    A difference at the first step ends the training there, before an epoch is lost. One at a later step ends none: the
    window's rows are marked, and one warning is given. A step whose gradient looks clipped is followed by another one:
    a bound is met again, and a factor that looked like one is not.

    Args:
        check: one of `ireg.check.CHECKS`.

    Raises:
        ValueError: it is another value.

    Attributes:
        modes: of the submodules at the window's step, by name; empty where none was seen.
        clip: how gradients are clipped, as the last step showed whose was; None where none was.
    """

    def __init__(self, check: str) -> None:
        require_check(check)
        self.check = check
        self.modes: dict[str, bool] = {}
        self.clip: Clip | None = None
        self.warnings = Warnings()
        self._compared = 0
        self._replay: float | None = None
        self._noise = 0.0
        self._drawn = False

    def begin(self, witness: Witness) -> None:
        """Begin a window, and ask for a record of its first step, if that is to be compared."""
        self.modes, self._replay, self._drawn = {}, None, False
        witness.begin()
        if self._wants:
            witness.ask()

    @property
    def _wants(self) -> bool:
        return self.check == "each" or (self.check == "first" and not self._compared)

    def ask_again(self, witness: Witness) -> None:
        """Ask for the next step if none could be recorded yet, as where layers had no weights."""
        if self._wants and self._replay is None and not witness.asked:
            witness.ask()

    def after_step(
        self,
        witness: Witness,
        measured: MeasuredLoss,
        batch: Batch,
        *,
        mode: str,
        step: int,
        before: Batch | None = None,
    ) -> None:
        """Compare the step that was asked for with its minibatch's gradient, computed again.

        Args:
            witness: which has a record of the step.
            measured: the loss.
            batch: the step's minibatch.
            mode: how the model computes the loss in the terms, see `ireg.measure`.
            step: its number.
            before: the minibatch before it, if its own step was not seen.

        Raises:
            ValueError: it is the first step that is compared, and differs.
        """
        record = witness.record
        assert record is not None
        witness.forget()
        first = self._replay is None
        self.modes = record.modes
        with measured.in_modes(self.modes):
            if not measured.is_known:
                measured.look(batch)
            finding = measured.replay.compare(record, batch, before)
            if not self._compared:
                self._noise = measured.noise(batch, mode)
        if first and finding.drawn and not self._drawn:  # what is drawn between two steps is known after one
            self._drawn = True
            witness.ask()
            return
        if finding.clipping is not None:
            self.clip = finding.clipping.clip
        if first and finding.clipping is not None and finding.clipping.factor < 1:
            witness.ask()  # a factor that is none of clipping makes no bound of the next norm
        self._compared += 1
        self._replay = max(self._replay or 0.0, finding.difference.relative)
        if finding.cause:
            text = finding.text(measured.optimizer, "the first step" if step == 1 else f"step {step}")
            # The first comparison ends a training. So does the second in its window, where the first looked clipped.
            if self._compared <= 1 + (not first):
                raise ValueError(text)
            self.warnings.once("replay", text)

    def marks(self) -> dict[str, float]:
        """Return the marks of the window's rows, by tag."""
        marks = {} if self._replay is None else {REPLAY: self._replay}
        return marks | ({NOISE: self._noise} if self._noise else {})


class Warnings:
    """Warnings of which each kind is given once."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def once(self, kind: str, text: str) -> None:
        """Give a warning, unless one of its kind has been given."""
        if kind not in self._said:
            self._said.add(kind)
            warnings.warn(text, UserWarning, stacklevel=4)
