# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Pure functions over Kubernetes objects: order, identity, what a person should see of them."""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence

from ansible_collections.llm_d.multi_engine.plugins.module_utils.marks import (
    ADOPTED,
    ASKED,
    MANAGED_BY,
    MANAGED_BY_LABEL,
    REPLICAS,
    REVISION,
    STACK_LABEL,
)

#: Kinds that others depend on come first; what is not listed comes in between.
_FIRST = (
    "Namespace",
    "CustomResourceDefinition",
    "ServiceAccount",
    "ClusterRole",
    "ClusterRoleBinding",
    "Role",
    "RoleBinding",
    "Secret",
    "ConfigMap",
    "PersistentVolumeClaim",
    "Service",
)
#: A filter fails closed without what it asks: it comes last, and goes first. What scales a workload comes after it.
_LAST = (
    "Deployment",
    "LeaderWorkerSet",
    "ScaledObject",
    "HorizontalPodAutoscaler",
    "Gateway",
    "InferencePool",
    "DestinationRule",
    "HTTPRoute",
    "EnvoyFilter",
)
_NOISE = ("managedFields", "resourceVersion", "uid", "generation", "creationTimestamp", "selfLink")
MASK = "(hidden)"
OTHER_MASK = "(hidden, another value)"


def in_order(objects: list[dict]) -> list[dict]:
    """Return ``objects`` with those first that others need; equals stay in their order."""
    return sorted(objects, key=_rank)


def in_groups(objects: list[dict]) -> list[list[dict]]:
    """Return ``objects`` in their order, in groups whose members do not need each other."""
    return [list(group) for _rank_of_group, group in itertools.groupby(in_order(objects), key=_rank)]


def _rank(item: dict) -> int:
    kind = item["kind"]
    if kind in _FIRST:
        return _FIRST.index(kind) - len(_FIRST)
    return _LAST.index(kind) + 1 if kind in _LAST else 0


def awaited_first(objects: list[dict], ready_first: Mapping[str, Sequence[str]]) -> list[dict]:
    """Return those of ``objects`` that others wait for.

    :param ready_first: by kind the kinds that it waits for.
    """
    kinds = {kind for first in ready_first.values() for kind in first}
    return [item for item in objects if item["kind"] in kinds]


def name_of(item: dict) -> str:
    """Return ``Deployment llm-d/qwen``, as messages and diffs call an object."""
    metadata = item["metadata"]
    namespace = metadata.get("namespace")
    return f"{item['kind']} {namespace + '/' if namespace else ''}{metadata['name']}"


def with_digest(item: dict) -> dict:
    """Return ``item`` with an annotation that is another one whenever anything else in it is.

    Values of Secrets are left out: they are compared one by one, and nothing is to be told of them.
    """
    told = {key: value for key, value in item.items() if key not in ("data", "stringData") or item["kind"] != "Secret"}
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]
    metadata = item["metadata"]
    return {**item, "metadata": {**metadata, "annotations": {**(metadata.get("annotations") or {}), ASKED: digest}}}


def foreign(live: dict, stack: str) -> str | None:
    """Return why ``live`` is not ours to change, or None when it is.

    :param stack: stack that wants to change it.
    """
    labels = live["metadata"].get("labels") or {}
    if labels.get(MANAGED_BY_LABEL) != MANAGED_BY:
        owner = labels.get(MANAGED_BY_LABEL)
        return f"it exists and is managed by {owner}" if owner else "it exists and was not made by this collection"
    if labels.get(STACK_LABEL, stack) != stack:
        return f"it belongs to stack {labels[STACK_LABEL]}"
    if ADOPTED in labels:
        return "it was taken over, to stay as it is until a model of ours serves in its place"
    return None


def presentable(item: dict | None, before: dict | None = None) -> dict:
    """Return ``item`` for a diff: no status, no bookkeeping, secret values hidden.

    :param before: the same object earlier; it tells which hidden values are others now.
    """
    if not item:
        return {}
    # The server writes the first two in either order, which is no change.
    keys = [key for key in dict.fromkeys(("apiVersion", "kind", *item)) if key in item and key != "status"]
    shown = {key: copy.deepcopy(item[key]) for key in keys}
    metadata = shown.get("metadata") or {}
    for key in _NOISE:
        metadata.pop(key, None)
    annotations = metadata.get("annotations") or {}
    annotations.pop("kubectl.kubernetes.io/last-applied-configuration", None)
    annotations.pop("deployment.kubernetes.io/revision", None)
    # They follow from what else is shown.
    ours = [annotations.pop(name, None) for name in (ASKED, REVISION, REPLICAS)]
    if any(ours) and not annotations:
        del metadata["annotations"]
    if shown.get("kind") == "Secret":
        for field in ("data", "stringData"):
            if field in shown:
                shown[field] = _masked(shown[field] or {}, (before or {}).get(field) or {})
    if shown.get("kind") == "CustomResourceDefinition":
        for version in shown.get("spec", {}).get("versions", []):
            version["schema"] = _digest(version.get("schema"))
    return shown


def _masked(values: dict, before: dict) -> dict:
    return {key: MASK if before.get(key, value) == value else OTHER_MASK for key, value in values.items()}


def _digest(schema: dict | None) -> str:
    """Stand in for thousands of lines that nobody reads in a diff, and differ when they do."""
    text = json.dumps(schema, sort_keys=True)
    return f"({len(text)} characters, sha256 {hashlib.sha256(text.encode()).hexdigest()[:12]})"


def limited_to(shown: dict, asked: dict) -> dict:
    """Return of ``shown`` only what ``asked`` speaks of, so that defaults do not clutter a diff.

    Lists of named items are compared by name; all other lists stay whole.
    """
    result = {}
    for key, value in shown.items():
        if key not in asked:
            continue
        result[key] = _limited(value, asked[key])
    return result


def _limited(value, asked):
    if isinstance(value, dict) and isinstance(asked, dict):
        return limited_to(value, asked)
    if isinstance(value, list) and isinstance(asked, list):
        return [_limited_item(item, index, asked) for index, item in enumerate(value)]
    return value


def _limited_item(item, index: int, asked: list):
    if not isinstance(item, dict):
        return item
    if "name" in item:
        matches = [other for other in asked if isinstance(other, dict) and other.get("name") == item["name"]]
    else:
        matches = asked[index : index + 1]
    return _limited(item, matches[0]) if matches else item
