# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Data of the catalogue with places for what is known of a model only: ``{name}`` in its texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def fill(data: Any, values: Mapping[str, Any]) -> Any:
    """Return ``data`` with the name of each value in braces replaced.

    A text that is nothing but one name becomes the value itself, whatever its type; a key whose
    value becomes ``None`` that way is left out.
    """
    if isinstance(data, Mapping):
        filled = {key: fill(value, values) for key, value in data.items()}
        return {key: value for key, value in filled.items() if value is not None or data[key] is None}
    if isinstance(data, (list, tuple)):
        return [fill(item, values) for item in data]
    if isinstance(data, str) and data[:1] == "{" and data[-1:] == "}" and data[1:-1] in values:
        return values[data[1:-1]]
    return fill_text(data, values) if isinstance(data, str) else data


def fill_text(text: Any, values: Mapping[str, Any]) -> str:
    """Return ``text`` with the name of each value in braces replaced by the value's text."""
    result = str(text)
    for name, value in values.items():
        result = result.replace(f"{{{name}}}", str(value))
    return result
