# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""What a client has to know to ask a model: role ``smoke_test`` is such a client."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .body_router import NAME as BODY_ROUTER
from .gaie import picker_name
from .objects import workload_kind, workloads_of


def questions(resolved: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return for each model of the ``resolved`` stack how to reach it.

    :returns: ``name``, ``served_name``, ``body_router`` and ``picker`` (names of Deployments, the former may be empty),
        ``workloads`` (``kind`` and ``name`` of each), ``port``, ``path`` (prefix, may be empty), ``headers``,
        ``by_body`` (whether a body needs none of them), ``adapters`` (names to send) and ``api_key`` (``secret`` and
        ``key``, or nothing).
    """
    return [_question(model, resolved["body_routing"]) for model in resolved["models"]]


def _question(model: Mapping[str, Any], body_routing: bool) -> dict[str, Any]:
    route = model["route"]
    key = model["api_key"]
    by_header = route["header"] and not route["default"]
    return {
        "name": model["name"],
        "served_name": model["served_name"],
        "body_router": BODY_ROUTER if body_routing else "",
        "picker": picker_name(model),
        "workloads": [{"kind": workload_kind(pods), "name": pods["workload"]} for pods in workloads_of(model)],
        "port": model["port"],
        "path": "" if by_header or route["default"] else route["path"],
        "headers": {route["header"]["name"]: route["header"]["value"]} if by_header else {},
        "by_body": bool(by_header and body_routing),
        "adapters": [adapter["served_name"] for adapter in model["lora"]["adapters"]],
        "api_key": {name: key[name] for name in ("secret", "key")} if key else None,
    }
