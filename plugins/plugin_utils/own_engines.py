# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Engines that the user describes, in files beside the inventory."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from .catalogue import check_profile
from .findings import Finding, listing

VARIABLE = "llm_d_engine_profiles"
RULE = "engine-profile"
#: With 40 characters of a model's name, `-<engine>-prefill` has to fit in Kubernetes' 63.
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,12}[a-z0-9])?")


def added(catalogue: Mapping[str, Any], findings: list[Finding]) -> dict[str, Any]:
    """Return ``catalogue`` with the user's engines among its ``engines``; one of ours with such a name gives way.

    :param catalogue: its ``engine_files`` are paths to the text of each file, or None where there is none.
    :returns: the catalogue, and in ``refused`` the names of engines whose description is wrong: findings tell why
        already, so that models need not.
    """
    engines, places, refused = dict(catalogue["engines"]), {}, set()
    for path, text in (catalogue.get("engine_files") or {}).items():
        for name, profile in _read(path, text, findings).items():
            own = _check_name(name, path, places) or check_profile(f"{path}: {name}", profile)
            places.setdefault(name, path)
            findings += own
            if own:
                refused.add(name)
                engines.pop(name, None)
            elif name not in refused:
                engines[name] = profile
    return {**catalogue, "engines": engines, "refused": refused}


def _read(path: str, text: str | None, findings: list[Finding]) -> Mapping[str, Any]:
    """Return the engines of a file, name to profile."""
    if text is None:
        remedy = "Name YAML files of this machine. A relative path begins at the current directory."
        findings.append(Finding(RULE, VARIABLE, f"{path} is no file.", remedy))
        return {}
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        problem = f"no YAML: {getattr(error, 'problem', None) or error}{line}."
        findings.append(Finding(RULE, path, problem, "Describe the engine as the shipped files do."))
        return {}
    if not isinstance(data, Mapping) or not data:
        remedy = "Write the name of the engine as the only key, and everything about it below."
        findings.append(Finding(RULE, path, "not a dict of engines.", remedy))
        return {}
    return data


def _check_name(name: Any, path: str, places: Mapping[str, str]) -> list[Finding]:
    if name in places:
        problem = f"engine {name!r} stands in {places[name]}, too."
        return [Finding(RULE, path, problem, f"Keep one of {listing([places[name], path])}, or rename it.")]
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        remedy = (
            "Allowed: lower-case letters, digits and '-', at most 14, beginning with a letter; it ends names of pods."
        )
        return [Finding(RULE, path, f"{name!r} is no name for an engine.", remedy)]
    return []
