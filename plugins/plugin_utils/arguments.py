# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Command-line arguments of an engine: neutral settings, the profile's own, the user's."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any


def from_settings(templates: Mapping[str, Sequence[str]], settings: Mapping[str, Any]) -> list[str]:
    """Return the arguments of all ``settings`` that have a value, in the order of ``templates``.

    :param templates: per setting the arguments that it gives, with ``{value}`` in its place.
    :param settings: values; ``None``, ``False`` and empty text give nothing.
    """
    result: list[str] = []
    for name, parts in templates.items():
        value = settings.get(name)
        if value is None or value is False or value == "":
            continue
        result += [part.replace("{value}", text(value)) for part in parts]
    return result


def with_user_flags(arguments: Sequence[str], flags: Mapping[str, Any], separate: bool = False) -> list[str]:
    """Return ``arguments`` with the user's ``flags`` added, each replacing one of the same name.

    :param flags: flag without dashes to its value: ``True`` for a bare flag, ``False`` to take
        one away, a list for several values, anything else for ``--flag=value``.
    :param separate: whether the engine wants ``--flag value`` instead.
    """
    names = {flag_name(str(name)) for name in flags}
    kept: list[str] = []
    gone = False
    for argument in arguments:
        # What stands behind a flag is its value, and goes with it.
        gone = flag_name(argument) in names or (separate and gone and not argument.startswith("--"))
        kept += [] if gone else [argument]
    for name, value in flags.items():
        flag = f"--{flag_name(str(name))}"
        if value is True:
            kept.append(flag)
        elif isinstance(value, (list, tuple)):
            kept += [flag, *(text(item) for item in value)]
        elif value is not False and value is not None:
            kept += [flag, text(value)] if separate else [f"{flag}={text(value)}"]
    return kept


def value_of(args: Sequence[str], setting: str, facts: Mapping[str, Any]) -> str | None:
    """Return the value of a setting's flag on a command line, None where it is not there.

    :param facts: effective profile of the engine.
    """
    flags = {part.split("=")[0] for part in facts["arguments"].get(setting, []) if part.startswith("--")}
    flags |= {f"--{name}" for name in facts["reserved_arguments"].get(setting, [])}
    found = None
    for argument, after in zip(args, [*args, None][1:], strict=True):
        flag, separator, value = argument.partition("=")
        if flag in flags:
            found = value if separator else after
    return found


def flag_name(argument: str) -> str:
    """Return ``tp-size`` of ``--tp-size=2``; nothing of a positional argument.

    A name without dashes, as users write it, is returned as it is.
    """
    if argument.startswith("--"):
        return argument[2:].split("=", 1)[0]
    return argument


def text(value: Any) -> str:
    """Return ``value`` as a command line has it: ``0.9``, ``2``, ``true``, JSON of a dict."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, (Mapping, list, tuple)):
        return json.dumps(value, sort_keys=True)
    return str(value)
