# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Two sets of Kubernetes objects next to each other, object by object."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ansible_collections.llm_d.multi_engine.plugins.module_utils import documents
from ansible_collections.llm_d.multi_engine.plugins.module_utils.manifests import in_order, name_of, presentable

#: Objects with it outlive the release that made them, and the chart that has them no more.
KEEP = "helm.sh/resource-policy"


def compare(before: Any, after: Any) -> dict[str, Any]:
    """Return what became of each object, and a diff for each that differs.

    :param before: objects as :func:`flattened` takes them.
    :param after: the same, later.
    :raises ValueError: when something among them is no Kubernetes object.
    """
    old, new = _by_identity(before), _by_identity(after)
    removed = [item for key, item in old.items() if key not in new and not _outlives(item)]
    objects, diffs = [], []
    for item in [*in_order(list(new.values())), *reversed(in_order(removed))]:
        key = _identity(item)
        earlier, later = presentable(old.get(key)), presentable(new.get(key), old.get(key))
        name, action = name_of(item), _action(earlier, later)
        objects.append({"name": name, "action": action})
        if action != "unchanged":
            diffs.append({"before_header": name, "after_header": name, "before": _text(earlier), "after": _text(later)})
    return {"changed": bool(diffs), "objects": objects, "diff": diffs}


def flattened(given: Any) -> Iterator[dict[str, Any]]:
    """Yield the objects of ``given``: one, a YAML text with any number, or a list of these."""
    if isinstance(given, (list, tuple)):
        for part in given:
            yield from flattened(part)
    else:
        for item in documents.load(given) if isinstance(given, str) else [given]:
            yield from _unpacked(item)


def _unpacked(item: Any) -> Iterator[dict[str, Any]]:
    """Yield ``item`` or, of a Kubernetes List, what it holds; nothing for an empty document."""
    if isinstance(item, Mapping) and isinstance(item.get("items"), list):
        for part in item["items"]:
            yield from _unpacked(part)
    elif item:
        yield _checked(item)


def _checked(item: Any) -> dict[str, Any]:
    metadata = item.get("metadata") if isinstance(item, Mapping) else None
    if not isinstance(metadata, Mapping) or not item.get("kind") or not metadata.get("name"):
        # Not quoted: it may be part of a Secret.
        raise ValueError("something in them is no Kubernetes object with a kind and a name")
    return dict(item)


def _by_identity(given: Any) -> dict[tuple, dict[str, Any]]:
    return {_identity(item): item for item in flattened(given)}


def _identity(item: dict[str, Any]) -> tuple:
    """Return what makes an object this one; another version of its API does not make another object."""
    metadata = item["metadata"]
    group, separator, _version = str(item.get("apiVersion", "")).partition("/")
    return group if separator else "", item["kind"], metadata.get("namespace"), metadata["name"]


def _outlives(item: dict[str, Any]) -> bool:
    return (item["metadata"].get("annotations") or {}).get(KEEP) == "keep"


def _action(before: dict[str, Any], after: dict[str, Any]) -> str:
    if before == after:
        return "unchanged"
    if not before:
        return "created"
    return "changed" if after else "removed"


def _text(item: dict[str, Any]) -> str:
    return documents.dump([item] if item else [], explicit_start=False)
