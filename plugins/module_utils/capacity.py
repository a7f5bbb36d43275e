# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Pure functions that tell whether pods that do not exist yet would find room, node by node."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from ansible_collections.llm_d.multi_engine.plugins.module_utils.scheduling import (
    by_node,
    obstacles,
    quantity,
    requests,
)


def pods_of(workloads: Iterable[Mapping[str, Any]]) -> list[list[dict]]:
    """Return for each replica of ``workloads``, as they are composed, the pods that it is made of."""
    return [
        _replica(workload["spec"]) for workload in workloads for _replica_number in range(workload["spec"]["replicas"])
    ]


def _replica(spec: Mapping[str, Any]) -> list[dict]:
    group = spec.get("leaderWorkerTemplate")
    if not group:
        return [_pod(spec["template"])]
    worker = _pod(group["workerTemplate"])
    leader = _pod(group.get("leaderTemplate") or group["workerTemplate"])
    return [leader, *[worker] * (group.get("size", 1) - 1)]


def _pod(template: Mapping[str, Any]) -> dict:
    return {"metadata": {"name": "new", **(template.get("metadata") or {})}, "spec": template["spec"]}


def room(replicas: Sequence[Sequence[dict]], nodes: Sequence[dict], placed: Iterable[dict]) -> int:
    """Return how many of ``replicas`` find room at once.

    Pods that are going have room as good as free: they wait for nothing but the end of their requests.

    :param placed: pods that have a node.
    """
    on_node = _staying(placed)
    count = 0
    for pods in replicas:
        for pod in pods:
            node = next((node for node in nodes if not obstacles(pod, node, on_node[_name(node)])), None)
            if node is None:
                return count
            on_node[_name(node)].append(pod)
        count += 1
    return count


def devices(replicas: Iterable[Sequence[dict]]) -> dict[str, int]:
    """Return the accelerators that ``replicas`` ask for: resources that have a vendor."""
    total: dict[str, Decimal] = defaultdict(Decimal)
    for pods in replicas:
        for pod in pods:
            for resource, amount in requests(pod).items():
                if "/" in resource:
                    total[resource] += amount
    return {resource: int(amount) for resource, amount in sorted(total.items())}


def free(resource: str, pod: dict, nodes: Sequence[dict], placed: Iterable[dict]) -> int:
    """Return how many of ``resource`` nobody uses, on nodes that would take ``pod`` if they were empty."""
    on_node, total = _staying(placed), Decimal(0)
    for node in nodes:
        if obstacles(pod, node, []):
            continue
        offered = quantity(((node.get("status") or {}).get("allocatable") or {}).get(resource, "0"))
        used = sum((requests(one).get(resource, Decimal(0)) for one in on_node[_name(node)]), Decimal(0))
        total += max(Decimal(0), offered - used)
    return int(total)


def _staying(placed: Iterable[dict]) -> dict[str, list[dict]]:
    return by_node(pod for pod in placed if not pod["metadata"].get("deletionTimestamp"))


def _name(node: Mapping[str, Any]) -> str:
    return node["metadata"]["name"]
