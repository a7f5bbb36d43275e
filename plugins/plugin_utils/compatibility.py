# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""The gate: which combinations of known facts cannot work, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .findings import Finding
from .versions import VersionError, matches

Facts = Mapping[str, Any]


def judge(rules: Sequence[Mapping[str, Any]], facts: Facts, where: str) -> list[Finding]:
    """Return a finding for each rule that refuses ``facts``.

    :param rules: as in ``roles/inference_engine/vars/compatibility.yml``.
    :param facts: name to value; a fact that is missing or ``None`` is unknown and refuses nothing.
    :param where: variable to name in the findings.
    """
    findings = []
    for rule in rules:
        if not all(_holds(facts.get(name), wanted) for name, wanted in rule["when"].items()):
            continue
        broken = [
            f"{name} is {facts[name]}, needed is {wanted}"
            for name, wanted in rule["needs"].items()
            if facts.get(name) is not None and not _holds(facts[name], wanted)
        ]
        if broken:
            problem = f"{'; '.join(broken)}: {rule['reason']} ({rule['source']})."
            findings.append(Finding(rule["name"], where, problem, rule["remedy"], overridable=True))
    return findings


def needed(rules: Sequence[Mapping[str, Any]], facts: Facts, name: str) -> list[Any]:
    """Return what the rules that apply to ``facts`` need of the fact ``name``, such as ``>=580``."""
    return [
        rule["needs"][name]
        for rule in rules
        if name in rule["needs"] and all(_holds(facts.get(fact), wanted) for fact, wanted in rule["when"].items())
    ]


def _holds(fact: Any, wanted: Any) -> bool:
    if fact is None:
        return False
    if isinstance(wanted, str) and wanted[:1] in "<>=!":
        try:
            return matches(str(fact), wanted)
        except VersionError:
            return False
    if isinstance(wanted, (list, tuple)):
        return fact in wanted
    return str(fact) == str(wanted)
