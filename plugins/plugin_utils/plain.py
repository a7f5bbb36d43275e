# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Ansible's own data types turned into Python's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

#: Where the result of module ``resolve`` has all of itself as JSON.
TEXT = "text"


def to_plain(value: Any) -> Any:
    """Return ``value`` as dicts, lists, str, int, float, bool and None.

    Values of an inventory arrive as lazy containers and tagged text, which YAML cannot write and
    which are slow to walk twice.
    """
    if isinstance(value, Mapping):
        return {to_plain(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    return str(value)


def stack_of(resolved: Any) -> Any:
    """Return what module ``resolve`` returned, plain.

    It has all of that as text, too: to read it is many times faster than to walk what Ansible makes of the structure.
    """
    text = resolved.get(TEXT) if isinstance(resolved, Mapping) else None
    return json.loads(text) if text else to_plain(resolved)


def as_list(value: Any) -> list[Any]:
    """Return ``value`` as the list that Ansible's argument specifications accept it for.

    They let text with commas pass for a list, as ``-e`` hands it over, and leave it as it is.
    """
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return list(value)
