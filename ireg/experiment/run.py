"""One run: from a configuration to a folder with its results.

`python -m ireg.run FOLDER` does a folder's run again.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from ireg.config.arguments import require_arguments
from ireg.config.read import read
from ireg.config.schema import Config, Logging
from ireg.config.surroundings import require_device, require_surroundings
from ireg.runs.checkpoints import HELD_OUT_WRONG, find_resumption, read_checkpoint
from ireg.runs.finished import objective, objective_if_finished
from ireg.runs.hyperparameters import hyperparameters
from ireg.runs.layout import CHECKPOINTS, HELD_OUT, LABELS, LOG, METRICS, PREVIOUS, STATUS
from ireg.runs.lock import locked
from ireg.runs.log import RunLog
from ireg.runs.metrics import is_finite
from ireg.runs.origin import UNKNOWN, Origin, origin_of, origin_of_this_job
from ireg.runs.ownership import event_files, finished
from ireg.runs.status import Status, read_status
from ireg.runs.trust import NOTHING_MORE, Trust, add_options, require_trusted, trust_of
from ireg.sweeps.plan import FILE_NAME as PLAN
from ireg.sweeps.progress import ProgressDisplay
from ireg.system.command import Parser, framed
from ireg.system.errors import UserError
from ireg.system.files import replacing, set_aside
from ireg.system.termination import ends_with_its_parent, noting_that_it_resumes, sigterm_raises

if TYPE_CHECKING:
    import lightning as L
    import torch
    from lightning.pytorch.loggers import Logger
    from torch import Tensor

    from ireg.lit.data import NoisyImages
    from ireg.lit.module import Classifier
    from ireg.runs.checkpoints import Resumption

log = logging.getLogger(__name__)


def run(config: DictConfig) -> float:
    """Do a composed configuration's run in Hydra's output folder, see `run_in`.

    Raises:
        UserError: as `run_in`, or a value is out of its range.
    """
    return run_in(Path(HydraConfig.get().runtime.output_dir), read(config), origin_of_this_job())


def run_in(folder: Path, settings: Config, origin: Origin = UNKNOWN) -> float:
    """Do a run in a folder, or resume it; leave it as it is where it is done.

    Args:
        folder: the run's; it must exist.
        settings: the run's, which those of a run that is there must equal.
        origin: where the run comes from, for its record.

    Returns:
        The final value of the settings' objective; infinity for a run that diverged.

    Raises:
        UserError: data are missing or damaged, a value is not one that its receiver takes, the folder belongs to
            another run, another process is at work in it, or the objective has no value for its optimizer.
        Terminated: SIGTERM was received, or the process that started this one has ended.
    """
    with sigterm_raises(), ends_with_its_parent(), noting_that_it_resumes():
        before = objective_if_finished(folder, settings)  # without the lock, for which something is written
        if before is not None:
            return before
        with locked(folder):
            before = objective_if_finished(folder, settings)  # another process may just have ended it
            if before is not None:
                return before
            current = Status(folder, asdict(settings), origin)
            with current.recorded():
                state = _train(settings, folder, current)
                current.end(state)
            return objective(settings, state, current.fields["final"])


def _train(settings: Config, folder: Path, status: Status) -> str:
    """Build everything, train to the end from where the run stands, and return `done` or `diverged`."""
    require_surroundings(settings)  # also where another machine does the run than checked it
    # Imported here: together they take seconds, which a mistyped command should not.
    import torch

    from ireg.experiment.build import make_classifier, make_data, make_model

    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    data = make_data(settings)
    model = make_model(settings, data)
    classifier = make_classifier(settings, model)
    wrong, count = float(data.train_labels.corrupted.double().mean()), len(data.train_inputs)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    what = "%s: %d parameters, %d training examples, %.2f %% of their labels wrong"
    log.info(what, settings.data.name, parameters, count, 100 * wrong)
    start = find_resumption(folder, run=status.fields["config_hash"], model=classifier.state_dict())
    if start.checkpoint is None:
        _clear(folder, status)
    else:
        _report_resumption(status, start)
    status.begin(start.rows, wrong_labels=wrong, batch_size=data.batch_size or count, parameters=parameters)
    _save_labels(data, folder / LABELS)
    # The last row of a run that was killed between its end and the note of it says that nothing is left to do.
    diverged = not is_finite(start.rows.get(status.fields["epochs_done"], {}))
    if not diverged and status.fields["epochs_done"] < settings.epochs:
        diverged = _fit(settings, folder, status, start, data, classifier)
    else:
        if start.checkpoint is not None:
            classifier.measurement.held_out_wrong = read_checkpoint(start.checkpoint).get(HELD_OUT_WRONG, {})
        # Events may have been cut off with the run, and no training writes them again.
        for logger in _loggers(replace(settings.logger, further={}), folder, status, start):
            logger.finalize("success")
    if classifier.measurement.held_out_wrong:
        _save_held_out(classifier.measurement.held_out_wrong, folder / HELD_OUT)
    (folder / CHECKPOINTS / PREVIOUS).unlink(missing_ok=True)
    epochs_done = status.fields["epochs_done"]
    if diverged:
        log.warning("%s: diverged, its loss is not finite after epoch %d", folder, epochs_done)
        return "diverged"
    if epochs_done != settings.epochs:
        raise RuntimeError(f"training ended after {epochs_done} of {settings.epochs} epochs")
    return "done"


def _fit(
    settings: Config, folder: Path, status: Status, start: "Resumption", data: "NoisyImages", classifier: "Classifier"
) -> bool:
    """Train to the end; say whether the loss ceased to be finite."""
    from ireg.lit.loggers import end

    trainer = _trainer(settings, folder, status, start)
    if settings.logger.histograms:
        from ireg.lit.histograms import Histograms

        classifier.measurement.watchers.append(Histograms(folder, max(start.rows, default=-1) + 1, settings.by_steps))
    device = trainer.strategy.root_device
    status.update(device=str(device), accelerator=_name_of(device))
    try:
        trainer.fit(classifier, datamodule=data, ckpt_path=start.checkpoint, weights_only=True)
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # Lightning makes an exit of Ctrl-C
            raise KeyboardInterrupt from error
        raise  # as when Slurm's launcher puts a run that has reached its time limit back into the queue
    finally:
        for logger in trainer.loggers:
            end(logger)
    return classifier.diverged


def _name_of(device: "torch.device") -> str | None:
    """Return what an accelerator is called; None for the processor, and where torch does not say."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else None


def _report_resumption(status: Status, start: "Resumption") -> None:
    log.info("resumes after epoch %d, from %s", max(start.rows), start.checkpoint)
    for what, before, now in status.changed_software():
        log.warning(
            "%s: begun with %s %s, resumes with %s: the last bits may differ", status.path.parent, what, before, now
        )


def _clear(folder: Path, status: Status) -> None:
    """Remove the rows and events of a run that cannot be resumed, which it writes again from the start.

    Rows of a run that has lost its status are kept under another name.
    """
    if not status.earlier and (folder / METRICS).is_file():
        aside = set_aside(folder / METRICS)
        log.warning("%s: no checkpoint goes with these rows; they are kept as %s", folder / METRICS, aside.name)
    for path in (folder / METRICS, *event_files(folder, status.fields["starts"])):
        path.unlink(missing_ok=True)


def _save_labels(data: "NoisyImages", path: Path) -> None:
    """Save the labels and what was corrupted of them.

    Names of test labels begin with `test_`, those of held-out examples with `holdout_`. Of a text there are the indices
    of the blocks alone.
    """
    import numpy as np

    arrays: dict[str, Any] = {}
    for split in ("train", "test", "holdout") if data.holdout else ("train", "test"):
        before = "" if split == "train" else f"{split}_"
        if data.has_noisy_labels:
            labels = getattr(data, f"{split}_labels")._asdict()
            arrays |= {f"{before}{name}": values for name, values in labels.items()}
        arrays[f"{before}indices"] = getattr(data, f"{split}_indices")
    with replacing(path) as temporary:
        np.savez_compressed(temporary, **{name: values.numpy() for name, values in arrays.items()})


def _save_held_out(wrong: "Mapping[int, Tensor]", path: Path) -> None:
    """Save which held-out examples are wrong after each epoch.

    `epoch` is (epochs,), row 0 among them, and `wrong` (epochs, examples), in the order of `holdout_indices` in the
    labels' file.
    """
    import numpy as np

    epochs = sorted(wrong)
    with replacing(path) as temporary:
        np.savez_compressed(temporary, epoch=epochs, wrong=np.stack([wrong[epoch].numpy() for epoch in epochs]))


def rebuild(
    folder: Path, config: Mapping[str, Any], trust: Trust = NOTHING_MORE
) -> tuple[Config, "NoisyImages", "Classifier"]:
    """Make a run's settings, data and network again, with weights from torch's random stream.

    Args:
        folder: the run's.
        config: the configuration as its `status.json` holds it.
        trust: what that may name beside the package's own.

    Returns:
        The settings, the data, and the network in what trains it.

    Raises:
        UserError: it names something else, a value is out of its range, or data are missing or damaged.
    """
    from ireg.experiment.build import make_classifier, make_data, make_model

    require_trusted(folder, config, trust)
    settings = read(OmegaConf.create(dict(config)))
    data = make_data(settings)
    return settings, data, make_classifier(settings, make_model(settings, data))


def _trainer(settings: Config, folder: Path, status: Status, start: "Resumption") -> "L.Trainer":
    from ireg.experiment.build import user_errors
    from ireg.lit.checkpoints import LastCheckpoint
    from ireg.lit.loggers import MetricsFile
    from ireg.lit.trainer import make_trainer

    arguments = {key: value for key, value in settings.trainer.items() if key != "fused"}  # the optimizer's
    with user_errors("trainer"):
        return make_trainer(
            arguments,
            epochs=settings.epochs,
            loggers=[
                MetricsFile(folder / METRICS, status.row, start.rows),
                *_loggers(settings.logger, folder, status, start),
            ],
            checkpoint=LastCheckpoint(
                folder / CHECKPOINTS, run=status.fields["config_hash"], every=settings.checkpoint.every
            ),
        )


def _loggers(logger: Logging, folder: Path, status: Status, start: "Resumption") -> "list[Logger]":
    from ireg.experiment.build import make_loggers

    return make_loggers(
        logger,
        folder,
        hyperparameters=hyperparameters(folder, status.fields),
        with_charts=not (folder.parent / PLAN).exists(),
        earlier=start.rows,
        replaced=event_files(folder, status.fields["starts"]),
    )


@framed
def main(arguments: Sequence[str] | None = None) -> int:
    """Do a folder's run again from its `status.json`; return the exit code.

    Args:
        arguments: of the command line; None takes the process's own.

    Raises:
        UserError: the folder holds no run, or its configuration names what is not trusted, or as `run_in`.
    """
    parser = Parser(
        "run",
        description="Do the run that FOLDER holds again: resume it if it was interrupted or has failed, or, with "
        "--into, do it from the beginning in another folder. Everything is taken from FOLDER's status.json.",
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="a run's folder, like multirun/NAME/RUN")
    parser.add_argument("--into", metavar="OTHER", type=Path, help="where the run is done; its own folder by default")
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    add_options(parser)
    options = parser.parse_args(arguments)
    status = read_status(options.folder)
    if status is None:
        raise UserError(f"{options.folder}: no run there (no {STATUS}); name a run's folder, like multirun/NAME/RUN")
    folder = (options.into or options.folder).absolute()
    # Where data are looked for may be relative to the folder in which the command was given.
    directory = Path((status.get("starts") or [{}])[-1].get("directory", "."))
    with chdir(directory if directory.is_dir() else "."):
        require_trusted(options.folder, status["config"], trust_of(options))
    settings = read(OmegaConf.create(status["config"]))
    if finished(folder, asdict(settings)) is None:  # before anything is written there
        require_surroundings(settings)
        require_arguments(settings)
        require_device(settings)
    folder.mkdir(parents=True, exist_ok=True)
    with _logging_to(folder / LOG), chdir(directory if directory.is_dir() else "."):
        display = ProgressDisplay([folder])
        if not options.quiet:
            display.start()
        try:
            run_in(folder, settings, origin_of(status))
        finally:
            display.stop()
    return 0


@contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    """Send messages to the run's log file, and warnings to standard error, as under Hydra."""
    file, terminal = RunLog(path), logging.StreamHandler()
    terminal.setLevel(logging.WARNING)
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    for handler in (file, terminal):
        handler.setFormatter(logging.Formatter("[%(asctime)s][%(name)s][%(levelname)s] %(message)s"))
        root.addHandler(handler)
    try:
        yield
    finally:
        for handler in (file, terminal):
            root.removeHandler(handler)
            handler.close()
