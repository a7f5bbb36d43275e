# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Testers of a canary: what lets requests with a header of theirs reach the new one alone.

They have a pool and a picker of their own. A route's rule has one picker, whatever the weights of its pools, so that
their requests are told from others by a rule, and the more specific rule wins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.llm_d.multi_engine.plugins.module_utils import beside

from . import composing, one_model, tracks
from .findings import Finding
from .objects import Object

RULE = "testers"
#: Headers whose values are nobody's business: a route shows them in clear text.
_SECRET = ("authorization", "proxy-authorization", "cookie")


def check(models: Sequence[Mapping[str, Any]], findings: list[Finding]) -> None:
    """Append a finding for each of the resolved ``models`` whose testers cannot be told from others."""
    taken = {
        beside.TRY_HEADER: "rollouts try a new one by it",
        one_model.MODEL_HEADER.lower(): "requests find their model by it",
    }
    taken |= dict.fromkeys(_SECRET, "its values are credentials, and the route shows them to whoever may read it")
    for model in models:
        header = (model["route"]["header"] or {}).get("name", "").lower()
        if header:
            taken.setdefault(header, f"{model['where']}.route.header has it")
    for model in models:
        settings = model["rollout"]
        given = settings.get("testers")
        if not given:
            continue
        where = f"{model['where']}.rollout.testers"
        if settings["strategy"] != tracks.CANARY:
            problem = (
                f"given, but rollout.strategy is {settings['strategy']}, which lets nobody try the new one for long."
            )
            findings.append(Finding(RULE, where, problem, "Set rollout.strategy: canary, or leave testers out."))
        why = taken.get(given["header"].lower())
        if why:
            remedy = "Choose a header that nobody else sends, such as X-Canary."
            findings.append(Finding(RULE, f"{where}.header", f"{given['header']!r} is taken: {why}.", remedy))


def headers(resolved: Mapping[str, Any], model: Mapping[str, Any]) -> str:
    """Return by which headers requests reach the new one, as people write them."""
    given = model["rollout"]["testers"]
    route = _route(resolved, model)
    found = [(given["header"], given["value"])]
    if route["default"] != model["route"]["default"] and route["header"]:
        found.append((route["header"]["name"], route["header"]["value"]))
    return " and ".join(f"{name}: {value}" for name, value in found)


def compose(
    resolved: Mapping[str, Any], model: Mapping[str, Any], options: Mapping[str, Any], target: Mapping[str, str]
) -> list[Object]:
    """Return the objects of role ``gaie`` that let the requests of testers reach the new one alone, the route last.

    :param resolved: the stack.
    :param options: of role ``gaie``.
    :param target: where the new one goes: ``engine``, ``track`` and ``pool``, which the old one shares.
    """
    name = model["name"]
    alone = {**resolved, "models": [{**model, "route": _route(resolved, model)}]}
    place = {name: {**target, "pool": tracks.other_pool(name, target["pool"])}}
    *routing, route = composing.routing(alone, options, place)[name]
    given = model["rollout"]["testers"]
    header = {"type": "Exact", "name": given["header"], "value": given["value"]}
    rules = [
        {**rule, "matches": [_with(match, header) for match in rule["matches"]]} for rule in route["spec"]["rules"]
    ]
    way = {
        **route,
        "metadata": {**route["metadata"], "name": beside.route_name(name)},
        "spec": {**route["spec"], "rules": rules},
    }
    return [*routing, way]


def _with(match: Mapping[str, Any], header: Mapping[str, str]) -> dict[str, Any]:
    return {**match, "headers": [*match.get("headers", []), header]}


def _route(resolved: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, Any]:
    """Return what brings the requests of testers to ``model``.

    Of two rules with one header each, the older one wins. Requests that testers send to a model that is found by its
    header must not depend on that: those to the model that takes all others have to name it.
    """
    route = model["route"]
    others = any(other["route"]["header"] for other in resolved["models"] if other["name"] != model["name"])
    return {**route, "default": route["default"] and not others}
