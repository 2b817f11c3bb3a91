"""From a composed configuration to settings that have been checked."""

import re
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigKeyError,
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    UnsupportedInterpolationType,
)

from ireg.catalogue import present
from ireg.config.ranges import check
from ireg.config.schema import CHOICES, Config
from ireg.config.trainer_arguments import TRAINER, instead, unsupported
from ireg.system.errors import UserError


def read(config: DictConfig) -> Config:
    """Resolve a composed configuration and check it.

    Raises:
        UserError: a value is missing, cannot be resolved, or is out of its range.
    """
    tree = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    for group, choice in CHOICES.items():
        if OmegaConf.is_missing(tree, group):
            raise UserError(f"{group}: none is chosen; choose one, like {group}={choice}")
    try:
        plain = OmegaConf.to_container(tree, resolve=True, throw_on_missing=True)
        settings = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), plain))
    except ConfigKeyError as error:
        raise UserError(no_such_key(str(error.full_key))) from error
    except OmegaConfBaseException as error:
        raise UserError(unresolved(error)) from error
    assert isinstance(settings, Config)
    settings.optimizer = {key: _floats(value) for key, value in settings.optimizer.items()}
    settings.objective = present(settings.objective)
    check(settings)
    if settings.by_steps is not None:  # an epoch of the run is then what one row is of
        settings.epochs = settings.steps // settings.by_steps
    return settings


def unresolved(error: OmegaConfBaseException) -> str:
    """Say in one line which key has no usable value: it is missing, of another type, or not resolved."""
    within: BaseException | None = error
    while within is not None:
        if isinstance(within, UserError):  # of a resolver of ours, whose line says what to do
            return str(within)
        within = within.__cause__ or within.__context__
    first = (error.msg or str(error)).splitlines()[0]
    reason = re.sub(r"^\w+ (raised )?while resolving interpolation: ", "", first).strip('"')
    key = f"{error.full_key}: " if error.full_key and error.full_key not in reason else ""
    if isinstance(error, MissingMandatoryValue):
        return f"{key}{reason}; give it a value"
    if not isinstance(error, InterpolationResolutionError | UnsupportedInterpolationType):
        return f"{key}{reason}"
    return f"{key}{reason}; in ${{…}}, name a key (python train.py --help lists them) or oc.env:VARIABLE,DEFAULT"


def _floats(value: Any) -> Any:
    """Make floats of the integers in a list of numbers, like betas=[0,0.999]: torch takes no integers."""
    if not isinstance(value, list) or not all(type(entry) in (int, float) for entry in value):
        return value
    # One that no float equals is meant as an integer.
    return [float(entry) if abs(entry) <= 2**53 else entry for entry in value]


def no_such_key(key: str, hint: str = "") -> str:
    """Say what to do about an unknown key.

    Groups that hold another's arguments take further ones.
    """
    group, _, argument = key.partition(".")
    if group == "trainer" and argument and argument not in TRAINER:
        return f"{key}: {unsupported(argument)}"
    if argument and group in ("optimizer", "model", "trainer", "regularizer"):
        # Two pluses, as one is refused where a sweep's optimizer has the argument already.
        return f"{key}: no such key; if it is an argument of the {group}, write ++{key}=…"
    if not argument and (known := instead(key)):
        return f"{key}: no such key; {known}"
    return f"{key}: no such key{hint}; python train.py --help lists the keys"
