# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Checks a value against options written as in a role's argument specification.

Ansible's own validator stops at the first error, does not suggest, applies no defaults inside
lists and coerces nothing there. A list of models needs all of that, so the same notation
(``type``, ``elements``, ``choices``, ``default``, ``required``, ``options``) is read here,
extended by ``minimum``, ``maximum``, ``pattern``, ``keys`` (pattern of a free dict's keys) and
``values`` (type of a free dict's values, or one option for all of them).
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Mapping
from typing import Any

from .findings import Finding, did_you_mean, listing

RULE = "schema"
_TRUE, _FALSE = {"true", "yes", "on", "1"}, {"false", "no", "off", "0"}


def check(value: Any, spec: Mapping[str, Any], where: str, findings: list[Finding]) -> Any:
    """Return ``value`` coerced to ``spec`` with defaults filled in; append what is wrong.

    :param spec: one option of an argument specification.
    :param where: path of the value, for messages.
    :returns: a new value; ``None`` where it could not be read.
    """
    kind = spec.get("type", "str")
    try:
        value = _coerce(value, kind)
    except (TypeError, ValueError, OverflowError):
        # YAML reads yes, no, on and off so.
        hint = "Put it in quotes to have it read as text. " if kind == "str" and isinstance(value, bool) else ""
        findings.append(Finding(RULE, where, f"{value!r} is not of type {kind}.", f"{hint}{_describe(spec)}"))
        return None
    if kind == "dict":
        value = _check_dict(value, spec, where, findings)
    elif kind == "list":
        elements = {**spec, "type": spec.get("elements", "raw")}
        value = [check(item, elements, f"{where}[{index}]", findings) for index, item in enumerate(value)]
    else:
        _check_scalar(value, spec, where, findings)
    return value


def _check_dict(value: dict, spec: Mapping, where: str, findings: list[Finding]) -> dict:
    options = spec.get("options")
    if options is None:
        _check_free_keys(value, spec, where, findings)
        if "values" not in spec:
            return copy.deepcopy(value)
        values = spec["values"] if isinstance(spec["values"], Mapping) else {"type": spec["values"]}
        return {key: check(item, values, f"{where}.{key}", findings) for key, item in value.items()}
    for key in value:
        if key not in options:
            findings.append(
                Finding(
                    RULE,
                    f"{where}.{key}",
                    "unknown key.",
                    f"{did_you_mean(key, options)}Allowed: {listing(sorted(options))}.",
                )
            )
    result: dict[str, Any] = {}
    for key, option in options.items():
        given = value.get(key)
        if given is not None:
            result[key] = check(given, option, f"{where}.{key}", findings)
        elif option.get("required"):
            findings.append(Finding(RULE, f"{where}.{key}", "missing.", _describe(option)))
        elif "default" in option:
            result[key] = copy.deepcopy(option["default"])
    return result


def _check_free_keys(value: dict, spec: Mapping, where: str, findings: list[Finding]) -> None:
    for key in value:
        if "keys" in spec and not re.fullmatch(spec["keys"], str(key)):
            findings.append(Finding(RULE, f"{where}.{key}", "not a valid key.", f"Keys match {spec['keys']}."))


def _check_scalar(value: Any, spec: Mapping, where: str, findings: list[Finding]) -> None:
    problem = None
    if "choices" in spec and value not in spec["choices"]:
        problem = f"{value!r} is not allowed."
    elif "pattern" in spec and not re.fullmatch(spec["pattern"], str(value)):
        problem = f"{value!r} is not valid."
    elif "minimum" in spec and value < spec["minimum"]:
        problem = f"{value!r} is too small."
    elif "maximum" in spec and value > spec["maximum"]:
        problem = f"{value!r} is too large."
    if problem:
        suggestion = did_you_mean(value, spec.get("choices", ()))
        findings.append(Finding(RULE, where, problem, suggestion + _describe(spec)))


def _coerce(value: Any, kind: str) -> Any:
    """Read what Ansible hands over (often text, from ``-e key=value``) as ``kind``."""
    if kind == "raw":
        return copy.deepcopy(value)
    if kind == "bool":
        return _coerce_bool(value)
    if kind in ("int", "float"):
        if isinstance(value, bool):
            raise TypeError(kind)
        number = float(value)
        if not math.isfinite(number):
            raise ValueError(kind)
        if kind == "float":
            return number
        if number != int(number):
            raise ValueError(kind)
        return int(number)
    if kind == "str":
        if value is None or isinstance(value, (Mapping, list, tuple, bool)):
            raise TypeError(kind)
        return str(value)
    if kind == "dict" and isinstance(value, Mapping):
        return dict(value)
    if kind == "list" and isinstance(value, (list, tuple)):
        return list(value)
    raise TypeError(kind)


def _coerce_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).lower()
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError("bool")


def _describe(spec: Mapping[str, Any]) -> str:
    """Return what ``spec`` allows, in words."""
    if "choices" in spec:
        return f"Allowed: {listing(spec['choices'])}."
    if "allowed" in spec:
        return f"Allowed: {spec['allowed']}."
    bounds = []
    if "minimum" in spec:
        bounds.append(f"at least {spec['minimum']}")
    if "maximum" in spec:
        bounds.append(f"at most {spec['maximum']}")
    kind = {
        "int": "a whole number",
        "float": "a number",
        "str": "text",
        "bool": "true or false",
        "dict": "a dict",
        "list": "a list",
    }
    return f"Allowed: {listing([kind.get(spec.get('type', 'str'), spec.get('type', 'str')), *bounds])}."
