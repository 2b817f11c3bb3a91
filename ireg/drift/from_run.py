"""From a run's folder to the problem of its drift."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ireg.config.schema import Config
from ireg.drift.problem import Problem
from ireg.experiment.run import rebuild
from ireg.objective import CRITERIA
from ireg.runs.checkpoints import DamagedCheckpointError, read_checkpoint
from ireg.runs.layout import CHECKPOINTS, LAST, STATUS
from ireg.runs.status import read_status
from ireg.runs.trust import NOTHING_MORE, Trust
from ireg.system.errors import UserError

CHECKPOINT = Path(CHECKPOINTS) / LAST


@dataclass(frozen=True, kw_only=True)
class Start:
    """A run whose drift can be measured.

    Attributes:
        folder: of the run.
        epoch: epochs it was trained for.
        ended: when, as its status has it.
        config: its configuration.
        problem: its network, data and optimizer after its last epoch.
        test: inputs and labels of its test examples.
    """

    folder: Path
    epoch: int
    ended: str
    config: Config
    problem: Problem
    test: tuple[Tensor, Tensor]


def load(folder: Path, *, seed: int, trust: Trust = NOTHING_MORE, needs_rule: bool = True) -> Start:
    """Load a finished run as it stood after its last epoch.

    Args:
        folder: of the run.
        seed: of the orders.
        trust: what its configuration may name beside the package's own.
        needs_rule: whether an optimizer without rule, or whose memory never fades, is refused.

    Raises:
        UserError: no run, one whose configuration names what is not trusted, one that is not finished or diverged, no
            or a damaged checkpoint, an optimizer that no drift is defined for, or training that is not repeated here.
    """
    status = read_status(folder)
    if status is None:
        raise UserError(f"{folder}: no run there (no {STATUS}); name a run's folder, like multirun/NAME/RUN")
    if status["state"] != "done":
        raise UserError(f"{folder}: the run is {status['state']}; its drift can be measured once a run is done")
    checkpoint = _checkpoint(folder / CHECKPOINT)
    settings, data, classifier = rebuild(folder, status["config"], trust)
    _check_repeatable(folder, settings)
    double = settings.trainer.get("precision") == "64-true"
    try:
        classifier.load_state_dict(checkpoint["state_dict"])
        problem = Problem(
            module=classifier.model.double() if double else classifier.model,
            criterion=CRITERIA[settings.loss],
            inputs=data.train_inputs.double() if double else data.train_inputs,
            targets=data.train_labels.observed,
            batch_size=data.batch_size or len(data.train_inputs),
            make_optimizer=classifier.make_optimizer,
            optimizer_state=_ordinary(checkpoint["optimizer_states"][0]),
            seed=seed,
            regularizer=None if classifier.objective is None else classifier.objective.regularizer,
        )
        if needs_rule:
            _require_memory(folder, problem)
    except (KeyError, IndexError, RuntimeError, ValueError) as error:
        raise UserError(f"{folder / CHECKPOINT}: {' '.join(str(error).split())}") from error
    return Start(
        folder=folder,
        epoch=int(status["epochs_done"]),
        ended=status["ended"],
        config=settings,
        problem=problem,
        test=(data.test_inputs.to(problem.inputs), data.test_labels.observed),
    )


def _require_memory(folder: Path, problem: Problem) -> None:
    """Refuse an optimizer without rule, or whose memory never fades."""
    try:
        _ = problem.optimizer.memory
    except ValueError as error:
        raise UserError(
            f"{folder / CHECKPOINT}: {' '.join(str(error).split())}; `ireg drift RUN --own-steps` needs no rule"
        ) from error


def _check_repeatable(folder: Path, settings: Config) -> None:
    """Refuse what the trainer does beside the optimizer's steps."""
    for key in ("gradient_clip_val", "precision"):
        value = settings.trainer.get(key)
        if value not in (None, "32-true", "64-true"):
            raise UserError(f"{folder}: trainer.{key}={value} is not repeated here; measure a run without it")
    if settings.sampling != "epoch":
        raise UserError(
            f"{folder}: sampling={settings.sampling} is not repeated here; measure a run with sampling=epoch"
        )


def _checkpoint(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path}: there is no such checkpoint; run the training again")
    try:
        return read_checkpoint(path)
    except DamagedCheckpointError as error:
        raise UserError(f"{path}: {error}; run the training again") from error


def _ordinary(state: dict[str, Any]) -> dict[str, Any]:
    """Return the optimizer's state for torch's ordinary kernels.

    Fused kernels compute the same, so that a run with them has the same state.
    """
    groups = [{**group, "fused": None} if "fused" in group else group for group in state["param_groups"]]
    return {**state, "param_groups": groups}
