# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""ApplySets: which objects one role of one stack has applied, so that those no longer wanted can go.

Labels and annotations are those of KEP-3659, the specification behind ``kubectl apply --applyset``:
kubectl can list such a set by its label, and refuses to change it because of its tooling annotation.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable

from ansible_collections.llm_d.multi_engine.plugins.module_utils.marks import (
    ASKED,
    MANAGED_BY,
    MANAGED_BY_LABEL,
    ROLE_LABEL,
    STACK_LABEL,
)

#: On every member: the set that it belongs to.
PART_OF = "applyset.kubernetes.io/part-of"
_ID = "applyset.kubernetes.io/id"
_TOOLING = "applyset.kubernetes.io/tooling"
_KINDS = "applyset.kubernetes.io/contains-group-kinds"
_NAMESPACES = "applyset.kubernetes.io/additional-namespaces"
#: Name and version of the specification's reader and writer, as ``kubectl/v1.35`` is kubectl's.
TOOLING = f"{MANAGED_BY}/v1"

#: Group (empty for the core one) and kind.
GroupKind = tuple[str, str]


def set_name(stack: str, role: str) -> str:
    """Return the name of the ConfigMap that stands for the set, and of the Lease that guards it."""
    return f"{stack}-{role.replace('_', '-')}"


def set_id(name: str, namespace: str) -> str:
    """Return the identity of the set whose parent is ConfigMap ``name``."""
    digest = hashlib.sha256(f"{name}.{namespace}.ConfigMap.".encode()).digest()
    return f"applyset-{base64.urlsafe_b64encode(digest).decode().rstrip('=')}-v1"


def group_kind(item: dict) -> GroupKind:
    """Return group and kind of an object."""
    group, _slash, _version = item["apiVersion"].rpartition("/")
    return group, item["kind"]


def parent(
    stack: str, role: str, namespace: str, kinds: Iterable[GroupKind], namespaces: Iterable[str], asked: str = ""
) -> dict:
    """Return the object that stands for the set.

    :param kinds: kinds of all members.
    :param namespaces: namespaces of all members.
    :param asked: digest of all that the last run asked for.
    """
    name = set_name(stack, role)
    others = sorted(set(namespaces) - {namespace})
    annotations = {_TOOLING: TOOLING, _KINDS: ",".join(sorted(f"{kind}.{group}".rstrip(".") for group, kind in kinds))}
    if asked:
        annotations[ASKED] = asked
    if others:
        annotations[_NAMESPACES] = ",".join(others)
    labels = {
        MANAGED_BY_LABEL: MANAGED_BY,
        STACK_LABEL: stack,
        ROLE_LABEL: role,
        _ID: set_id(name, namespace),
    }
    metadata = {"name": name, "namespace": namespace, "labels": labels, "annotations": annotations}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}


def kinds_of(live: dict | None) -> set[GroupKind]:
    """Return the kinds that a live parent says its members have."""
    found = _listed(live, _KINDS)
    return {(group, kind) for kind, _dot, group in (entry.partition(".") for entry in found)}


def namespaces_of(live: dict | None) -> set[str]:
    """Return the namespaces of the members of a live parent, its own included."""
    return {live["metadata"]["namespace"], *_listed(live, _NAMESPACES)} if live else set()


def asked_of(live: dict | None) -> str:
    """Return the digest of what the last run asked for."""
    return ((live or {"metadata": {}})["metadata"].get("annotations") or {}).get(ASKED, "")


def tooling_of(live: dict) -> str:
    """Return which tool keeps the set, in its own words."""
    return (live["metadata"].get("annotations") or {}).get(_TOOLING, "")


def is_member(item: dict, identity: str) -> bool:
    """Whether ``item`` says that it belongs to the set."""
    return (item["metadata"].get("labels") or {}).get(PART_OF) == identity


def _listed(live: dict | None, annotation: str) -> list[str]:
    text = ((live or {"metadata": {}})["metadata"].get("annotations") or {}).get(annotation, "")
    return [entry for entry in text.split(",") if entry]
