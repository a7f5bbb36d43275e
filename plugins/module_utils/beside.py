# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Routes of a model that is changed: to the new one alone for some requests, and to the old one for all."""

from __future__ import annotations

from typing import Any

from ansible_collections.llm_d.multi_engine.plugins.module_utils.trying import PATH

#: Header by which requests reach a new one behind a pool of its own before others do; its value is the revision.
TRY_HEADER = "x-multi-engine-revision"


def route_name(model: str) -> str:
    """Return the name of the route that leads some requests to the new one alone."""
    return f"{model}-try"


def by_revision(routing: list[dict], model: str, revision: str) -> list[dict]:
    """Return ``routing`` of a new one of ``model`` for requests that nobody sends by chance, its route last."""
    (route,) = [item for item in routing if item["kind"] == "HTTPRoute"]
    header = {"type": "Exact", "name": TRY_HEADER, "value": revision}
    # No route of others, whose path may be longer than theirs, is nearer to what is asked.
    match = {"path": {"type": "Exact", "value": PATH}, "headers": [header]}
    rule: dict[str, Any] = {**route["spec"]["rules"][0], "matches": [match]}
    rule.pop("filters", None)
    way = {
        **route,
        "metadata": {**route["metadata"], "name": route_name(model)},
        "spec": {**route["spec"], "rules": [rule]},
    }
    return [*(item for item in routing if item is not route), way]


def with_backend(route: dict, pool: str, port: int) -> dict:
    """Return ``route`` with all its rules leading to ``pool``."""
    rules = [
        {**rule, "backendRefs": [{**backend, "name": pool, "port": port} for backend in rule["backendRefs"]]}
        for rule in route["spec"]["rules"]
    ]
    return {**route, "spec": {**route["spec"], "rules": rules}}
