"""One run: from a configuration to a folder with its results."""

import inspect
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from ireg.config import Config, read
from ireg.errors import UserError
from ireg.sweep.status import Status, finished, locked

if TYPE_CHECKING:
    import lightning as L
    from torch import nn

    from ireg.lit.data import NoisyImages
    from ireg.lit.module import Classifier

log = logging.getLogger(__name__)

OBJECTIVE = "test/error"
"""What a run returns to a sweeper: the last value of this tag; infinity if the run diverged."""


def run(config: DictConfig) -> float:
    """Do the run of a composed configuration in Hydra's output folder, unless it is done already.

    Returns:
        The final test error, a share; infinity for a run that diverged.

    Raises:
        UserError: a value is out of its range, data are missing or damaged, or the folder belongs to another run.
    """
    settings = read(config)
    folder = Path(HydraConfig.get().runtime.output_dir)
    with locked(folder):
        status = finished(folder, asdict(settings))
        if status is not None:
            log.warning("%s: %s already, kept as it is; to run it again, delete the folder", folder, status["state"])
            return _objective(status["state"], status["final"])
        _clear(folder)
        current = Status(folder, asdict(settings))
        with current.recorded():
            state = _train(settings, folder, current)
            current.end(state)
        return _objective(state, current.fields["final"])


def _objective(state: str, final: Mapping[str, Any]) -> float:
    return float(final[OBJECTIVE]) if state == "done" else math.inf


def _clear(folder: Path) -> None:
    """Remove what an unfinished run of the same configuration left, so that no row is there twice."""
    for pattern in ("events.out.tfevents.*", "metrics.csv", "labels.npz", "checkpoints/*.ckpt"):
        for path in folder.glob(pattern):
            path.unlink()


def _train(settings: Config, folder: Path, status: Status) -> str:
    """Build everything, train, and say how it ended: `done` or `diverged`."""
    # Imported here: together they take seconds, which a mistyped command should not.
    import torch

    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    data = _data(settings)
    with _user_errors("data"):
        data.setup()
    _save_labels(data, folder / "labels.npz")
    wrong = float(data.train_labels.corrupted.double().mean())
    model = _model(settings, data)
    log.info(
        "%s: %d parameters, %d training examples, %.2f %% of their labels wrong",
        settings.data.name,
        sum(parameter.numel() for parameter in model.parameters()),
        len(data.train_inputs),
        100 * wrong,
    )
    classifier = _classifier(settings, model)
    status.update(wrong_labels=wrong, batch_size=data.batch_size or len(data.train_inputs))
    trainer = _trainer(settings, folder, status)
    status.update(device=str(trainer.strategy.root_device))
    try:
        trainer.fit(classifier, datamodule=data)
    except SystemExit as error:
        raise KeyboardInterrupt from error  # which is what Lightning makes an exit of
    epochs_done = status.fields["epochs_done"]
    if classifier.diverged:
        log.warning("%s: diverged, its loss is not finite after epoch %d", folder, epochs_done)
        return "diverged"
    if epochs_done != settings.epochs:
        raise RuntimeError(f"training ended after {epochs_done} of {settings.epochs} epochs")
    return "done"


def rebuild(config: Mapping[str, Any]) -> tuple[Config, "NoisyImages", "Classifier"]:
    """What a run was made of, made again: its settings, its data, set up, and its network before training.

    Args:
        config: the configuration as `status.json` holds it.

    Raises:
        UserError: a value is out of its range, or data are missing or damaged.
    """
    settings = read(OmegaConf.create(dict(config)))
    data = _data(settings)
    with _user_errors("data"):
        data.setup()
    return settings, data, _classifier(settings, _model(settings, data))


def _data(settings: Config) -> "NoisyImages":
    from ireg.lit.data import NoisyImages

    data, noise = settings.data, settings.data.noise
    return NoisyImages(
        instantiate(data.source),
        num_train=data.num_train,
        num_test=data.num_test,
        num_classes=data.num_classes,
        batch_size=None if settings.optimizer.get("full_batch", False) else settings.batch_size,
        seed=settings.seed,
        noise_kind=noise.kind,
        noise_rate=noise.rate,
        noise_seed=noise.seed,
        test_noise_rate=noise.test_rate,
        train_size=data.train_size,
        test_size=data.test_size,
        subset_seed=data.subset_seed,
        mean=data.mean,
        std=data.std,
        standardize=data.standardize,
        eval_batch_size=data.eval_batch_size,
    )


def _save_labels(data: "NoisyImages", path: Path) -> None:
    """What was corrupted, of the training labels and, under names with `test_`, of the test labels."""
    import numpy as np

    from ireg.files import replacing

    arrays = {**data.train_labels._asdict(), "indices": data.train_indices}
    arrays |= {f"test_{name}": values for name, values in data.test_labels._asdict().items()}
    arrays["test_indices"] = data.test_indices
    with replacing(path) as temporary:
        np.savez_compressed(temporary, **{name: values.numpy() for name, values in arrays.items()})


def _model(settings: Config, data: "NoisyImages") -> "nn.Module":
    with _user_errors("model"):
        model: nn.Module = instantiate(
            settings.model, in_features=data.train_inputs[0].numel(), num_classes=settings.data.num_classes
        )
    return model


def _classifier(settings: Config, model: "nn.Module") -> "Classifier":
    from ireg.core.optimizer_view import view
    from ireg.core.sums import union_of_needs
    from ireg.lit.module import Classifier

    with _user_errors("terms"):
        terms = {
            f"{group}/{name}": instantiate(function)
            for group, functions in settings.terms.items()
            if isinstance(functions, dict)
            for name, function in functions.items()
        }
    # `name` and `full_batch` are ours; the rest are the arguments of the optimizer's class.
    arguments = {key: value for key, value in settings.optimizer.items() if key not in ("name", "full_batch")}
    with _user_errors(f"optimizer={settings.optimizer['name']}"):
        optimizer: Callable[..., Any] = instantiate(arguments)
        if settings.trainer.get("fused", False):
            optimizer = _fused(optimizer)
        # Made and dropped: wrong arguments, or one that the terms cannot read, are found here, not amid the training.
        made = optimizer(model.parameters())
        if terms:
            union_of_needs(terms.values(), view(made, dict(model.named_parameters())))
    return Classifier(
        model,
        optimizer,
        terms,
        terms_every=settings.terms["every"],
        method=settings.terms["method"],
        seed=settings.seed,
    )


def _fused(optimizer: Callable[..., Any]) -> Callable[..., Any]:
    """The optimizer with torch's fused kernel, or as it is where there is none, as for RMSprop."""
    if "fused" in inspect.signature(optimizer).parameters:
        return partial(optimizer, fused=True)
    log.warning("trainer.fused=true: %s has no fused kernel; its ordinary one is used", optimizer)
    return optimizer


def _trainer(settings: Config, folder: Path, status: Status) -> "L.Trainer":
    from ireg.lit.trainer import make_trainer

    hyperparameters = {
        "optimizer": settings.optimizer["name"],
        "lr": settings.lr,
        "batch_size": status.fields["batch_size"],
        "seed": settings.seed,
        "data": settings.data.name,
        "noise": f"{settings.data.noise.kind} {settings.data.noise.rate:g}",
    }
    arguments = {key: value for key, value in settings.trainer.items() if key != "fused"}  # the optimizer's
    with _user_errors("trainer"):
        return make_trainer(
            folder, arguments, epochs=settings.epochs, listener=status.row, hyperparameters=hyperparameters
        )


@contextmanager
def _user_errors(what: str) -> Iterator[None]:
    """Tell errors of values that only their receiver can check as the user's."""
    from ireg.lit.trainer import MisconfigurationException

    try:
        yield
    except UserError:
        raise
    except (InstantiationException, MisconfigurationException, ImportError, IndexError, TypeError, ValueError) as error:
        reason = error.__cause__ or error
        raise UserError(f"{what}: {' '.join(str(reason).split())}") from error
