# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""A key that clients have to send: it stays in its Secret, and nothing that cannot send it may need it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .findings import Finding, listing

RULE = "api-key"
#: Of a Secret, unless the model says another.
_KEY = "api-key"
#: Where the endpoint picker has prompts turned into tokens, by an engine that does.
_RENDER = "/v1/completions/render"


def resolve(
    model: Mapping[str, Any], where: str, facts: Mapping[str, Any], findings: list[Finding]
) -> dict[str, Any] | None:
    """Return the key of ``model``: ``secret``, ``key`` (in it), and ``env`` that the engine gets it by; or None.

    :param model: a model whose ``probes`` are known.
    :param facts: effective profile of its engine.
    """
    given, own, place = model["api_key"], facts.get("api_key"), f"{where}.api_key"
    if not given:
        return None
    if not given.get("secret"):
        findings.append(Finding(RULE, f"{place}.secret", "missing.", "Allowed: a Secret of the stack's namespace."))
        return None
    if not own:
        problem = f"{facts['title']} cannot be given one, as far as its profile knows."
        findings.append(Finding(RULE, place, problem, "Leave it out for this engine."))
        return None
    _check_ways_in(model, where, own, facts, findings)
    for name, probe in model["probes"].items():
        path = (probe.get("httpGet") or {}).get("path", "")
        if path and guards(own, path):
            problem = f"{path} needs the key of {place}, and a probe would have to hold it."
            remedy = f"Leave it to the profile, or use a path below {listing(own['open']) or 'none'}."
            findings.append(Finding(RULE, f"{where}.probes.{name}.httpGet.path", problem, remedy))
    if guards(own, facts["metrics"]["path"]):
        problem = f"{facts['title']} guards {facts['metrics']['path']}, which the endpoint picker reads without a key."
        findings.append(Finding(RULE, place, problem, "Leave it out for this engine."))
    if (model.get("renderer") or {}).get("by_engine") and guards(own, _RENDER):
        problem = f"the endpoint picker asks the engine for tokens at {_RENDER}, without the key of {place}."
        findings.append(Finding(RULE, f"{where}.routing", problem, "Use another routing, or no key."))
    return {"secret": given["secret"], "key": given.get("key") or _KEY, "env": own["env"]}


def arguments(model: Mapping[str, Any], facts: Mapping[str, Any]) -> list[str]:
    """Return what the engine has to be started with; Kubernetes puts the key in place of its variable."""
    return list(facts["api_key"]["arguments"]) if model["api_key"] and facts.get("api_key") else []


def guards(own: Mapping[str, Any], path: str) -> bool:
    """Whether the engine answers ``path`` only to who has the key."""
    return path.startswith(tuple(own["guards"])) and not path.startswith(tuple(own["open"]))


def _check_ways_in(model: Mapping, where: str, own: Mapping, facts: Mapping, findings: list[Finding]) -> None:
    """The key may not be taken away, or given in another way, unnoticed."""
    if own["env"] in model["env"]:
        problem = f"{where}.api_key sets it, too."
        findings.append(Finding(RULE, f"{where}.env.{own['env']}", problem, "Keep one of them."))
    lacking = [argument for argument in own["arguments"] if model.get("args") and argument not in model["args"]]
    if lacking:
        problem = f"they replace all arguments, and {facts['title']} takes {where}.api_key by one only."
        findings.append(Finding(RULE, f"{where}.args", problem, f"Add {listing(lacking)}, as it stands here."))
