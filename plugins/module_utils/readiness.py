# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Pure functions that tell from an object's status whether it is ready, and why not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class State:
    """What a live object says of itself.

    :ivar ready: whether it does what it is for.
    :ivar reason: what is missing, in Kubernetes' words where it has some.
    :ivar final: whether the object itself says that waiting cannot help.
    """

    ready: bool
    reason: str = ""
    final: bool = False


READY = State(True)


def judge(live: dict | None, bound: bool = False) -> State:
    """Return the state of ``live``; kinds without a status of interest are ready once they exist.

    :param bound: whether a PersistentVolumeClaim must be bound. Many storage classes wait for a first
        pod; where that is not so, the pod that cannot be scheduled tells about its claim.
    """
    if live is None:
        return State(False, "does not exist")
    if live["kind"] == "PersistentVolumeClaim" and bound and _status(live).get("phase") == "Pending":
        return State(False, "it is not bound to a volume")
    return _JUDGES.get(live["kind"], lambda _live: READY)(live)


def _status(live: dict) -> dict:
    return live.get("status") or {}


def _observed(live: dict) -> bool:
    """Whether the controller has seen the object as it is now."""
    return _status(live).get("observedGeneration", 0) >= live["metadata"].get("generation", 0)


NOT_OBSERVED = State(False, "the change is not observed yet")


def _deployment(live: dict) -> State:
    status, wanted = _status(live), live["spec"].get("replicas", 1)
    if not _observed(live):
        return NOT_OBSERVED
    updated, available = status.get("updatedReplicas", 0), status.get("availableReplicas", 0)
    if updated < wanted or available < wanted:
        return State(False, f"{min(updated, available)} of {wanted} pods are ready")
    if status.get("replicas", 0) > wanted:
        return State(False, f"{status['replicas'] - wanted} old pods are still there")
    return READY


def _stateful_set(live: dict) -> State:
    status, spec = _status(live), live["spec"]
    if not _observed(live):
        return NOT_OBSERVED
    wanted, strategy = spec.get("replicas", 1), spec.get("updateStrategy") or {}
    if status.get("availableReplicas", 0) < wanted:
        return State(False, f"{status.get('availableReplicas', 0)} of {wanted} pods are ready")
    # Pods below the partition, and all of them with OnDelete, keep their revision.
    kept = (strategy.get("rollingUpdate") or {}).get("partition", 0)
    if strategy.get("type") != "OnDelete" and status.get("updatedReplicas", 0) < wanted - kept:
        return State(False, f"{status.get('updatedReplicas', 0)} of {wanted - kept} pods are updated")
    if status.get("replicas", 0) > wanted:
        return State(False, f"{status['replicas'] - wanted} old pods are still there")
    return READY


def _daemon_set(live: dict) -> State:
    status = _status(live)
    if not _observed(live):
        return NOT_OBSERVED
    wanted, available = status.get("desiredNumberScheduled", 0), status.get("numberAvailable", 0)
    updated = status.get("updatedNumberScheduled", 0)
    if ((live["spec"].get("updateStrategy") or {}).get("type")) == "OnDelete":
        updated = wanted
    if min(updated, available) < wanted:
        return State(False, f"{min(updated, available)} of {wanted} pods are ready")
    return READY


def _leader_worker_set(live: dict) -> State:
    """Judge groups of pods; their controller says only from 0.9 on which generation it has observed."""
    status, spec = _status(live), live["spec"]
    if "observedGeneration" in status and not _observed(live):
        return NOT_OBSERVED
    wanted = spec.get("replicas", 1)
    rolling = (spec.get("rolloutStrategy") or {}).get("rollingUpdateConfiguration") or {}
    ready, updated = status.get("readyReplicas", 0), status.get("updatedReplicas", 0)
    if ready < wanted:
        return State(False, f"{ready} of {wanted} groups are ready")
    if updated < wanted - rolling.get("partition", 0):
        return State(False, f"{updated} of {wanted - rolling.get('partition', 0)} groups are updated")
    if status.get("replicas", 0) > wanted:
        return State(False, f"{status['replicas'] - wanted} old groups are still there")
    for condition in status.get("conditions") or []:
        if condition["type"] in ("Progressing", "UpdateInProgress") and condition["status"] == "True":
            return State(False, f"{condition['type']}: {condition.get('message')}")
    return _conditions(status.get("conditions"), ("Available",), None)


def _job(live: dict) -> State:
    status, spec = _status(live), live["spec"]
    held = {
        condition["type"]: condition for condition in status.get("conditions") or [] if condition["status"] == "True"
    }
    if "Complete" in held:
        return READY
    failed = held.get("Failed") or held.get("FailureTarget")
    if failed:
        return State(False, f"it failed: {failed.get('reason')}: {failed.get('message')}", final=True)
    if "Suspended" in held or spec.get("suspend"):
        return State(False, "it is suspended")
    return State(False, f"{status.get('succeeded', 0)} of {spec.get('completions') or 1} pods have succeeded")


def _claim(live: dict) -> State:
    if _status(live).get("phase") == "Lost":
        return State(False, "its volume is gone", final=True)
    return READY


def _scaled_object(live: dict) -> State:
    return _conditions(_status(live).get("conditions"), ("Ready",), None)


def _horizontal_autoscaler(live: dict) -> State:
    """Judge what reads the metrics; whether there are as many pods as they ask for is the workload's."""
    return _conditions(_status(live).get("conditions"), ("AbleToScale", "ScalingActive"), None)


def _conditions(conditions: list[dict] | None, wanted: Iterable[str], generation: int | None) -> State:
    by_type = {condition["type"]: condition for condition in conditions or []}
    for name in wanted:
        condition = by_type.get(name)
        if not condition:
            return State(False, f"condition {name} is not reported yet")
        if generation and condition.get("observedGeneration", generation) < generation:
            return State(False, f"condition {name} is of an older generation")
        if condition["status"] != "True":
            return State(
                False, f"{name} is {condition['status']}: {condition.get('reason')}: {condition.get('message')}"
            )
    return READY


def _gateway(live: dict) -> State:
    status, generation = _status(live), live["metadata"].get("generation")
    state = _conditions(status.get("conditions"), ("Accepted", "Programmed"), generation)
    if state.ready and not status.get("addresses"):
        return State(False, "it has no address")
    asked = {listener["name"] for listener in live.get("spec", {}).get("listeners") or []}
    for listener in status.get("listeners") or []:
        if not state.ready:
            break
        if listener["name"] not in asked:
            continue
        state = _conditions(listener.get("conditions"), ("ResolvedRefs", "Programmed"), generation)
        if not state.ready:
            state = State(False, f"listener {listener['name']}: {state.reason}")
    return state


def _route(live: dict) -> State:
    """Judge what gateways say; a word about one that the route has left does not count."""
    namespace = live["metadata"].get("namespace")
    told: dict[tuple, list[dict]] = {}
    for parent in _status(live).get("parents") or []:
        told.setdefault(_parent(parent["parentRef"], namespace), []).append(parent)
    references = live.get("spec", {}).get("parentRefs") or []
    if not told or not references:
        return State(False, "no gateway has taken it")
    for reference in references:
        said = told.get(_parent(reference, namespace))
        if not said:
            return State(False, f"at gateway {reference['name']}: it has not taken it")
        for parent in said:
            state = _conditions(
                parent.get("conditions"), ("Accepted", "ResolvedRefs"), live["metadata"].get("generation")
            )
            if not state.ready:
                return State(False, f"at gateway {reference['name']}: {state.reason}")
    return READY


def _parent(reference: dict, namespace: str | None) -> tuple:
    """Return what a reference to a parent means, with the defaults of the Gateway API."""
    return (
        reference.get("group", "gateway.networking.k8s.io"),
        reference.get("kind", "Gateway"),
        reference.get("namespace", namespace),
        reference.get("name"),
        reference.get("sectionName"),
        reference.get("port"),
    )


def _pool(live: dict) -> State:
    parents = [
        parent
        for parent in _status(live).get("parents") or []
        # What the definition fills in until a gateway says something.
        if (parent["parentRef"].get("kind"), parent["parentRef"]["name"]) != ("Status", "default")
    ]
    if not parents:
        return State(False, "no gateway has taken it")
    for parent in parents:
        state = _conditions(parent.get("conditions"), ("Accepted", "ResolvedRefs"), live["metadata"].get("generation"))
        if not state.ready:
            return State(False, f"at gateway {parent['parentRef']['name']}: {state.reason}")
    return READY


def _definition(live: dict) -> State:
    return _conditions(_status(live).get("conditions"), ("Established",), None)


_JUDGES = {
    "Deployment": _deployment,
    "StatefulSet": _stateful_set,
    "DaemonSet": _daemon_set,
    "LeaderWorkerSet": _leader_worker_set,
    "ScaledObject": _scaled_object,
    "HorizontalPodAutoscaler": _horizontal_autoscaler,
    "Job": _job,
    "PersistentVolumeClaim": _claim,
    "Gateway": _gateway,
    "HTTPRoute": _route,
    "InferencePool": _pool,
    "CustomResourceDefinition": _definition,
}

#: Kinds with a status of interest.
JUDGED = tuple(_JUDGES)
