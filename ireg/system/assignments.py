"""An optimizer's class and its arguments on a command line; torch is not imported."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from ireg.system.errors import UserError
from ireg.system.signatures import NoSuchNameError, signature_at

POWER = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")


def settings_of(given: Sequence[str], *, with_rate: bool = False) -> dict[str, Any]:
    """Read arguments of an optimizer, as `betas=[0.6,0.8]`.

    Args:
        given: NAME=VALUE each.
        with_rate: whether the rate may be among them.

    Raises:
        UserError: one has no value or cannot be read, or is the rate, where that is chosen here.
    """
    settings = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise UserError(f"--set {text}: must be NAME=VALUE, like betas=[0.6,0.8]")
        if name == "lr" and not with_rate:
            raise UserError(f"--set {text}: the rates are chosen by what the optimizer remembers; leave lr out")
        try:
            settings[name] = _with_powers(yaml.safe_load(value))
        except yaml.YAMLError:
            raise UserError(f"--set {text}: {value!r} cannot be read; write it like betas=[0.6,0.8]") from None
    return settings


def _with_powers(value: Any) -> Any:
    """Read numbers like 1e-3, which YAML takes for text, as torch's users write them."""
    if isinstance(value, list):
        return [_with_powers(one) for one in value]
    return float(value) if isinstance(value, str) and POWER.fullmatch(value) else value


def as_text(settings: Mapping[str, Any]) -> str:
    """Name the arguments with which an optimizer is made."""
    return ", ".join(f"{name}={value}" for name, value in settings.items()) or "lr alone"


def require_takes(path: str, settings: Mapping[str, Any]) -> None:
    """Check that an optimizer's class takes arguments beside the parameters and the rate.

    Args:
        path: the import path of the class.
        settings: the arguments.

    Raises:
        UserError: it is known not to, or not to be there.
    """
    try:
        signature = signature_at(path)
    except NoSuchNameError as error:
        raise UserError(f"--optimizer {path}: {error}; write package.module.Class") from None
    if signature is None:
        return
    fault = signature.fault(settings, {*list(signature.arguments)[:1], "lr"})
    if fault is None:
        return
    value = f"={settings[fault.argument]}" if fault.argument in settings else ""
    raise UserError(f"--set {fault.argument}{value}: {fault.text}")
