# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""What all Kubernetes objects of a stack have in common: names, labels, small shapes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from ansible_collections.llm_d.multi_engine.plugins.module_utils.marks import (
    ENGINE_LABELS,
    MANAGED_BY,
    MANAGED_BY_LABEL,
    MODEL_LABEL,
    ROLE_LABEL,
    SERVING_LABEL,
    STACK_LABEL,
    TRACK_LABEL,
)

from .arguments import text

Object = dict[str, Any]

#: Label that llm-d's components read.
POD_ROLE_LABEL = "llm-d.ai/role"


def labels(stack: str, role: str, component: str) -> dict[str, str]:
    """Return the labels that every object of ours carries.

    :param stack: name of the stack; ``uninstall`` finds its objects by it.
    :param role: role of this collection that owns the object.
    :param component: what the object belongs to, such as ``endpoint-picker``.
    """
    return {
        MANAGED_BY_LABEL: MANAGED_BY,
        "app.kubernetes.io/part-of": stack,
        "app.kubernetes.io/component": component,
        STACK_LABEL: stack,
        ROLE_LABEL: role,
    }


def model_labels(stack: str, model: Mapping[str, Any]) -> dict[str, str]:
    """Return the labels that tell the pods of one workload from all others."""
    return {
        STACK_LABEL: stack,
        MODEL_LABEL: model["name"],
        TRACK_LABEL: model["track"],
        **dict.fromkeys(ENGINE_LABELS, model["engine"]),
    }


def serving_labels(stack: str, model: Mapping[str, Any]) -> dict[str, str]:
    """Return the labels that tell the pods of a model that answer requests from all others."""
    return {**model_labels(stack, model), SERVING_LABEL: "true"}


def workload_kind(pods: Mapping[str, Any]) -> str:
    """Return the kind of the workload that makes resolved ``pods``."""
    return "LeaderWorkerSet" if pods["worker"] else "Deployment"


def workloads_of(model: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the kinds of pods of a resolved ``model``, each like a model: itself when there is one kind."""
    return model["roles"] or [model]


def make(
    api_version: str, kind: str, name: str, namespace: str | None, object_labels: Mapping[str, str], **content: Any
) -> Object:
    """Return an object; ``content`` holds its other top-level keys."""
    metadata: dict[str, Any] = {"name": name}
    if namespace:
        metadata["namespace"] = namespace
    metadata["labels"] = dict(object_labels)
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **content}


def env_entries(env: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a container's environment: a value is text, or a dict as under ``valueFrom``; None takes it away."""
    return [
        {"name": name, **({"valueFrom": value} if isinstance(value, Mapping) else {"value": text(value)})}
        for name, value in env.items()
        if value is not None
    ]


def digest(value: Any) -> str:
    """Return a short digest of plain data, the same for equal data."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def without_empty(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``mapping`` without keys whose value is ``None`` or an empty collection or text."""
    return {key: value for key, value in mapping.items() if value is not None and value not in ("", [], {})}
