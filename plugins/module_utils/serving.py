# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""What serves each model of a stack, told by live objects alone: its route, that one's pool, and whom the pool selects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.llm_d.multi_engine.plugins.module_utils import adoption
from ansible_collections.llm_d.multi_engine.plugins.module_utils.cluster import Cluster, Forbidden
from ansible_collections.llm_d.multi_engine.plugins.module_utils.marks import (
    ADOPTED_SIDE,
    CONFIG_HASH,
    ENGINE_LABELS,
    MODEL_LABEL,
    MODEL_SERVERS,
    REPLICAS,
    REVISION,
    STACK_LABEL,
    TRACK_LABEL,
    is_server,
    labels_of,
)

GATEWAY_API = "gateway.networking.k8s.io/v1"
INFERENCE_API = "inference.networking.k8s.io/v1"
_KINDS = {"HTTPRoute": GATEWAY_API, "InferencePool": INFERENCE_API, **MODEL_SERVERS}
_ENGINE = ENGINE_LABELS[0]


def read(cluster: Cluster, stack: str, namespace: str) -> dict[str, dict[str, Any]] | None:
    """Return by model what serves it; None where the credentials may not look.

    :returns: see :func:`told`.
    """
    try:
        live = {kind: cluster.list(api, kind, namespace, f"{STACK_LABEL}={stack}") for kind, api in _KINDS.items()}
    except Forbidden:
        return None
    return told(live)


def told(live: Mapping[str, Sequence[dict]]) -> dict[str, dict[str, Any]]:
    """Return by model what serves it, of models that have a route to a pool.

    :param live: all objects of a stack by kind.
    :returns: ``pool``, ``engine`` and ``track`` (of the pods that the pool selects, None where it selects any),
        ``port``, ``protocol`` and ``config_hash`` (of the pool and of its picker), and ``workloads`` (all of the model,
        each as :func:`_workload` returns it). Where something was taken over for the model, also ``adopted``, the names
        of its ``pools`` and ``routes``; while it serves, it is engine and track :data:`marks.ADOPTED_SIDE`.
    """
    found = _ours(live)
    for model, taken in adoption.taken(live).items():
        if not taken.pools:
            # Its last object: nothing of it is left but what has to stay.
            continue
        servers = [{**_workload(item), "engine": ADOPTED_SIDE, "track": ADOPTED_SIDE} for item in taken.servers]
        own = found.get(model)
        if not own or taken.is_led_to:
            beside = [_workload(item) for item in _servers(live) if labels_of(item)[MODEL_LABEL] == model]
            place = {"engine": ADOPTED_SIDE, "track": ADOPTED_SIDE, "config_hash": ""}
            own = found[model] = {**_behind(taken.pools[0]), **place, "workloads": beside}
        own["workloads"] += servers
        own["adopted"] = taken.facts()
    return found


def _ours(live: Mapping[str, Sequence[dict]]) -> dict[str, dict[str, Any]]:
    pools = {item["metadata"]["name"]: item for item in live["InferencePool"] if not adoption.is_adopted(item)}
    deployments = {item["metadata"]["name"]: item for item in live["Deployment"]}
    workloads = [_workload(item) for item in _servers(live)]
    found = {}
    for route in live["HTTPRoute"]:
        pool = pools.get(backend_of(route))
        selected = adoption.selector_of(pool) if pool else {}
        model = selected.get(MODEL_LABEL)
        # Others are of testers, or of a pool that is not ours.
        if not pool or model != route["metadata"]["name"]:
            continue
        picker = deployments.get(pool["spec"]["endpointPickerRef"]["name"])
        found[model] = {
            **_behind(pool),
            "engine": selected.get(_ENGINE),
            "track": selected.get(TRACK_LABEL),
            "config_hash": _config_hash(picker),
            "workloads": [workload for workload in workloads if workload["model"] == model],
        }
    return found


def _servers(live: Mapping[str, Sequence[dict]]) -> list[dict]:
    """Return the workloads of models that were not taken over."""
    return [item for kind in MODEL_SERVERS for item in live[kind] if is_server(item) and not adoption.is_adopted(item)]


def _behind(pool: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is known of ``pool`` by itself."""
    return {
        "pool": pool["metadata"]["name"],
        "port": pool["spec"]["targetPorts"][0]["number"],
        "protocol": pool["spec"].get("appProtocol", "http"),
    }


def backend_of(route: Mapping[str, Any] | None) -> str:
    """Return the pool that the rules of ``route`` lead to; nothing where there are several."""
    rules = ((route or {}).get("spec") or {}).get("rules") or []
    names = {backend["name"] for rule in rules for backend in rule.get("backendRefs") or []}
    return names.pop() if len(names) == 1 else ""


def _config_hash(picker: Mapping[str, Any] | None) -> str:
    metadata = ((picker or {}).get("spec") or {}).get("template", {}).get("metadata") or {}
    return (metadata.get("annotations") or {}).get(CONFIG_HASH, "")


def _workload(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return what matters of a live workload: who it is, what it runs, and how far it is.

    ``revision`` is empty where nobody noted it down. ``asked`` is how often it is to be there when no rollout holds
    some of it back.
    """
    metadata, spec = item["metadata"], item["spec"]
    labels, annotations = labels_of(item), metadata.get("annotations") or {}
    group = spec.get("leaderWorkerTemplate") or {}
    template = group.get("leaderTemplate") or group.get("workerTemplate") or spec.get("template") or {}
    containers = (template.get("spec") or {}).get("containers") or [{}]
    return {
        "kind": item["kind"],
        "name": metadata["name"],
        "model": labels[MODEL_LABEL],
        "engine": labels.get(_ENGINE, ""),
        "track": labels.get(TRACK_LABEL, ""),
        "revision": annotations.get(REVISION, ""),
        "image": containers[0].get("image", ""),
        "replicas": spec.get("replicas", 1),
        "asked": int(annotations.get(REPLICAS) or spec.get("replicas", 1)),
        "ready": (item.get("status") or {}).get("readyReplicas", 0),
        "created": metadata.get("creationTimestamp") or "",
    }
