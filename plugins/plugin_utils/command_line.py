# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Command lines of engines that somebody else has written: their flags, and the settings that these are for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from .arguments import flag_name


def flags_of(args: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Return the flags of a command line with their values, True for bare ones, and what is no flag."""
    flags: dict[str, Any] = {}
    rest: list[str] = []
    name = ""
    for argument in args:
        if argument.startswith("--"):
            name, separator, value = argument.partition("=")
            name = flag_name(name)
            flags[name] = value.strip('"') if separator else True
            name = "" if separator else name
        elif not name:
            rest.append(argument)
        elif flags[name] is True:
            flags[name] = argument
        else:
            flags[name] = [*(flags[name] if isinstance(flags[name], list) else [flags[name]]), argument]
    return flags, rest


def plain(value: Any) -> Any:
    """Return what a command line says as a person would write it: ``0.8`` is a number, a version is none."""
    if isinstance(value, str) and re.fullmatch(r"-?(0|[1-9]\d*)", value):
        return int(value)
    if isinstance(value, str) and re.fullmatch(r"-?(0|[1-9]\d*)\.\d*[1-9]", value):
        return float(value)
    return value


def settings_by_flag(facts: Mapping[str, Any]) -> dict[str, str]:
    """Return the setting that each flag of an engine is for, under every name that it has."""
    result: dict[str, str] = {}
    for setting, parts in facts["arguments"].items():
        for part in parts:
            if part.startswith("--"):
                # A flag that only goes along with another one says nothing of its own.
                result.setdefault(flag_name(part), setting)
    for setting, names in facts["reserved_arguments"].items():
        meant = "model" if setting == "source" else setting
        for name in names:
            if meant in facts["arguments"]:
                result.setdefault(name, meant)
    return result
