# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Whose a workload's ``spec.replicas`` are: leaving them to an autoscaler, and taking them back.

Server-side apply resets a field that its only owner does not send any more, and a workload without
replicas has one. So before we leave the field out, another manager of ours owns it at its live value;
the autoscaler's first write takes it from that one. On the way back we own it together with whoever
has it, by force where the value is another one.

An annotation of the workload (:data:`INITIAL_REPLICAS`) says that its replicas are left to an
autoscaler. It comes and goes by the same request as the field.
"""

from __future__ import annotations

from typing import Any

from ansible_collections.llm_d.multi_engine.plugins.module_utils.cluster import Cluster, Owned
from ansible_collections.llm_d.multi_engine.plugins.module_utils.marks import (
    AUTOSCALERS,
    FIELD_MANAGER,
    INITIAL_REPLICAS,
    REPLICAS_MANAGER,
)

#: The field, as the API server writes it.
FIELD = ".spec.replicas"


def start_of(item: dict | None) -> int | None:
    """Return how many replicas a workload starts with that an autoscaler scales; None of others."""
    annotations = ((item or {"metadata": {}})["metadata"].get("annotations")) or {}
    return int(annotations[INITIAL_REPLICAS]) if INITIAL_REPLICAS in annotations else None


def target_of(autoscaler: dict) -> tuple[str, str]:
    """Return kind and name of what an autoscaler scales."""
    reference = autoscaler["spec"]["scaleTargetRef"]
    return reference.get("kind", "Deployment"), reference["name"]


def is_autoscaler(item: dict) -> bool:
    """Whether ``item`` scales a workload."""
    return item["kind"] in AUTOSCALERS


def made_by(cluster: Cluster, autoscaler: dict) -> dict | None:
    """Return the HorizontalPodAutoscaler that a ScaledObject has made, if it has."""
    name, kind = (autoscaler.get("status") or {}).get("hpaName"), "HorizontalPodAutoscaler"
    return cluster.get(AUTOSCALERS[kind], kind, name, autoscaler["metadata"].get("namespace")) if name else None


def owns(live: dict, manager: str) -> bool:
    """Whether ``manager`` owns the replicas of ``live`` by an apply."""
    return any(
        entry["manager"] == manager
        and entry["operation"] == "Apply"
        and "f:replicas" in (entry.get("fieldsV1") or {}).get("f:spec", {})
        for entry in live["metadata"].get("managedFields") or []
    )


def fixed(item: dict, least: int) -> dict:
    """Return a workload of an autoscaler as one of ``least`` replicas, or of what it starts with; others as they are."""
    start = start_of(item)
    if start is None:
        return item
    annotations = {key: text for key, text in item["metadata"]["annotations"].items() if key != INITIAL_REPLICAS}
    metadata = {**item["metadata"], "annotations": annotations}
    return {**item, "metadata": metadata, "spec": {**item["spec"], "replicas": max(start, least)}}


def released(cluster: Cluster, item: dict, live: dict | None, dry_run: bool) -> dict:
    """Return ``item`` as it is to be sent, once nothing happens to its replicas by that.

    :param live: what is there, None for nothing.
    """
    if start_of(item) is None or not live or not owns(live, FIELD_MANAGER):
        return item
    replicas = live["spec"]["replicas"]
    if dry_run:
        # What does not change is not to be shown as changed.
        return {**item, "spec": {**item["spec"], "replicas": replicas}}
    _own(cluster, item, replicas)
    return item


def started(cluster: Cluster, item: dict, live: dict | None, after: dict) -> dict:
    """Return a workload that was new as it is with the replicas that it starts with.

    :param live: what was there before, None for nothing.
    :param after: what is there now.
    """
    start = start_of(item)
    if live or start is None or start == after["spec"].get("replicas"):
        return after
    return _own(cluster, item, start) or after


def taken_back(item: dict, live: dict | None, error: Owned) -> bool:
    """Whether what somebody else owns are replicas that we left to an autoscaler and set again."""
    return start_of(live) is not None and start_of(item) is None and error.fields == {FIELD}


def explained(error: Owned) -> Owned:
    """Return ``error`` with what to do where nothing but replicas belongs to somebody else."""
    if error.fields != {FIELD}:
        return error
    said = f"{error} If an autoscaler is to write them, say so with the model's autoscaling."
    return Owned(said, error.by_hand, error.fields)


def forgotten(cluster: Cluster, item: dict, after: dict) -> dict:
    """Return ``item`` as it is once no other manager of ours owns its replicas any more."""
    if start_of(item) is not None or not owns(after, REPLICAS_MANAGER):
        return after
    return cluster.apply(_only(item), force=False, dry_run=False, manager=REPLICAS_MANAGER)


def _own(cluster: Cluster, item: dict, replicas: int) -> dict | None:
    """Own ``replicas`` beside whoever does; None when an autoscaler has written others in the meantime."""
    try:
        return cluster.apply(
            {**_only(item), "spec": {"replicas": replicas}}, force=False, dry_run=False, manager=REPLICAS_MANAGER
        )
    except Owned:
        # Whoever wrote them has taken them from us: there is nothing left to lose.
        return None


def _only(item: dict) -> dict[str, Any]:
    """Return nothing of ``item`` but which object it is."""
    metadata = {key: item["metadata"][key] for key in ("name", "namespace") if key in item["metadata"]}
    return {"apiVersion": item["apiVersion"], "kind": item["kind"], "metadata": metadata}
