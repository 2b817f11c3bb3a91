"""Whether what a configuration names takes the arguments that stand there; torch is not imported.

What a class takes is read from its source, see `ireg.system.signatures`. Where that leaves a question open, the class
itself answers it when it is made.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from ireg.config.schema import NO_REGULARIZER, Config
from ireg.known_models import MODELS
from ireg.known_optimizers import OPTIMIZERS
from ireg.system.errors import UserError
from ireg.system.signatures import NoSuchNameError, Signature, signature_at

OF_OPTIMIZER = ("name", "full_batch", "decay_groups")
"""Keys of `optimizer` that are ours; the others are arguments of its class."""

IN_PYTHON = {"from": "first", "to": "second"}
"""By key of `optimizer`, what the argument is called, since Python takes `from` for no name."""

OF_MODEL = ("input_shape", "num_classes")
"""Arguments of the network that come of the data."""

WITH_MATRICES_ALONE = "use optimizer=muon_adamw, or model=mlp with +model.bias=false"
"""What to do where an optimizer takes matrices alone."""


def require_arguments(settings: Config) -> None:
    """Check the arguments of the optimizer, the network, the regularizer and the source of the data.

    Raises:
        UserError: one has a name or a value that is not taken, or the network does not go with the data or the
            optimizer.
    """
    optimizer = {IN_PYTHON.get(key, key): value for key, value in settings.optimizer.items() if key not in OF_OPTIMIZER}
    as_key = {name: key for key, name in IN_PYTHON.items()}
    _require("optimizer", optimizer, first=True, as_key=as_key)
    if settings.regularizer["name"] != NO_REGULARIZER:
        penalty = {key: value for key, value in settings.regularizer.items() if key != "name"}
        _require("regularizer", penalty)
    _require("data.source", settings.data.source, supplied=("train",))
    model = _require("model", settings.model, supplied=OF_MODEL)
    if model is not None and settings.model["_target_"] in MODELS:
        for line in _faults_of_model(settings, {**model.defaults, **settings.model}):
            raise UserError(line)


def _require(
    group: str,
    entry: Mapping[str, Any],
    *,
    supplied: Collection[str] = (),
    first: bool = False,
    as_key: Mapping[str, str] | None = None,
) -> Signature | None:
    """Check the arguments of what a group names; return what it takes, None where that is not known.

    Args:
        group: whose keys the arguments are.
        entry: `_target_` and the arguments.
        supplied: arguments that come of elsewhere.
        first: whether the first one does.
        as_key: by argument, its key where that is another.
    """
    path = entry["_target_"]
    try:
        signature = signature_at(path)
    except NoSuchNameError as error:
        raise UserError(f"{group}._target_={path}: {error}; give the import path of what is called") from None
    if signature is None or "_args_" in entry:
        return None
    supplied = {*supplied, *list(signature.arguments)[: int(first)]}
    given = {key: value for key, value in entry.items() if not (key.startswith("_") and key.endswith("_"))}
    fault = signature.fault(given, supplied)
    if fault is None:
        return signature
    value = f"={given[fault.argument]}" if fault.argument in given else ""
    raise UserError(f"{group}.{(as_key or {}).get(fault.argument, fault.argument)}{value}: {fault.text}")


def _faults_of_model(settings: Config, arguments: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with one of our networks: alone, with the data, with the optimizer."""
    path = settings.model["_target_"]
    known, name = MODELS[path], path.rpartition(".")[2]
    if known.characters and settings.data.context is None:
        yield f"model: {name} takes blocks of characters; data={settings.data.name} holds none; use data=shakespeare"
    if settings.data.context is not None and not known.characters:
        yield f"model: {name} takes numbers; data={settings.data.name} holds characters; use model=gpt"
    try:
        known.check(**{name: arguments[name] for name in known.arguments})
    except ValueError as error:
        yield f"model: {error}"
    refusing = {entry.target for entry in OPTIMIZERS.values() if entry.matrices_alone}
    if settings.optimizer["_target_"] in refusing and not known.matrices_alone(arguments):
        yield (
            f"optimizer={settings.optimizer['name']}: takes weights that are matrices alone, and this {name} has "
            f"others; {WITH_MATRICES_ALONE}"
        )
