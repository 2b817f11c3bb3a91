"""Errors of Hydra's composition, in one line.

The line names what was written and what works.
"""

import argparse
import json
import re
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.errors import HydraException

from ireg.system.errors import UserError

GROUPS = ("optimizer", "regularizer", "model", "data", "terms", "trainer", "logger", "experiment")

# Hydra's texts, and what to say instead; {0} and {1} are what the parentheses hold.
_TEXTS = (
    (r"Could not append to config\. An item is already at '(.+?)'", "{0}: has a value already; write ++{0}=…"),
    (
        r"Multiple values for (\S+)\. To override a value use 'override \S+: (.+?)'",
        "+{0}={1}: {0} has a choice already; write {0}={1} on the command line, and override /{0} in a defaults list",
    ),
    (
        r"force-add of config groups is not supported: '\+\+(.+?)'",
        "++{0}: write {0}, which replaces the group's choice",
    ),
    (
        r"Cannot find primary config '(.+?)'",
        "-cn {0}: no such file in conf; leave -cn out, and choose parts of the configuration, like experiment=demo",
    ),
)


def composition_error(error: Exception) -> str | None:
    """Explain an error of Hydra's composition.

    None where Hydra's own text explains it.
    """
    if isinstance(error, HydraException):
        found = ((re.match(pattern, str(error)), line) for pattern, line in _TEXTS)
        return next((line.format(*match.groups()) for match, line in found if match), None)
    # A choice that is no name, and a file that is no YAML, raise errors that are not Hydra's own.
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    if not any(frame.f_globals.get("__name__") == "hydra._internal.config_loader_impl" for frame in frames):
        return None
    if line := _no_name(frames[-1].f_locals):
        return line
    is_of_a_file = isinstance(error, ValueError) or type(error).__module__.startswith("yaml.")
    return " ".join(str(error).split()) if is_of_a_file else None


def _no_name(variables: Mapping[str, Any]) -> str | None:
    """Say what can be chosen instead of a refused choice.

    It reads the variables of Hydra's code that refuses: the error does not name the group.
    """
    if {"override", "repo", "is_group"} <= variables.keys():
        group, written = variables["override"].key_or_group, variables["override"].input_line
    elif {"item", "repo", "d"} <= variables.keys() and not isinstance(variables["item"], str):
        group = variables["d"].get_group_path()
        written = f"{group}=[{json.dumps(variables['item'])}]"
    else:
        return None
    options = ", ".join(variables["repo"].get_group_options(group))
    none = "; terms=[] is none of them" if group == "terms" else ""
    return f"{written}: choose one of {options}, or leave it out for the default{none}"


def check_config_name(arguments: Sequence[str]) -> None:
    """Refuse a part of the configuration as the whole.

    Raises:
        UserError: `-cn` names a file of a group.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-cn", "--config-name", nargs="?", default="")
    name = parser.parse_known_args(arguments)[0].config_name or ""
    group, _, choice = name.rpartition("/")
    if group in GROUPS:
        raise UserError(f"-cn {name}: a part of the configuration is not the whole; write {group}={choice}")
