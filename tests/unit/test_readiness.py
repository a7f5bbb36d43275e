"""Whether objects are ready, by statuses as clusters write them."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.llm_d.multi_engine.plugins.module_utils.readiness import State, judge


def deployment(wanted: int | None = 2, /, **status: Any) -> dict[str, Any]:
    spec = {} if wanted is None else {"replicas": wanted}
    return {"kind": "Deployment", "metadata": {"generation": 3}, "spec": spec, "status": status}


def condition(name: str, status: str = "True", **more: Any) -> dict[str, Any]:
    return {"type": name, "status": status, "reason": "Reason", "message": "message", **more}


def gateway(*conditions: dict, **status: Any) -> dict[str, Any]:
    status = {"conditions": list(conditions), **status}
    spec = {"listeners": [{"name": "http"}]}
    return {"kind": "Gateway", "metadata": {"generation": 2}, "spec": spec, "status": status}


def route(*parents: list[dict]) -> dict[str, Any]:
    entries = [{"parentRef": {"name": "gateway"}, "conditions": conditions} for conditions in parents]
    spec = {"parentRefs": [{"name": "gateway"}]}
    return {
        "kind": "HTTPRoute",
        "metadata": {"generation": 2, "namespace": "llm-d"},
        "spec": spec,
        "status": {"parents": entries},
    }


def pool(*parents: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "InferencePool", "metadata": {"generation": 2}, "spec": {}, "status": {"parents": list(parents)}}


def parent(name: str, *conditions: dict, kind: str = "Gateway") -> dict[str, Any]:
    return {"parentRef": {"kind": kind, "name": name}, "conditions": list(conditions)}


def stateful_set(spec: dict[str, Any] | None = None, /, **status: Any) -> dict[str, Any]:
    status = {"observedGeneration": 1, **status}
    return {
        "kind": "StatefulSet",
        "metadata": {"generation": 1},
        "spec": {"replicas": 2, **(spec or {})},
        "status": status,
    }


def daemon_set(wanted: int, updated: int, available: int, **spec: Any) -> dict[str, Any]:
    return {
        "kind": "DaemonSet",
        "metadata": {"generation": 1},
        "spec": spec,
        "status": {
            "observedGeneration": 1,
            "desiredNumberScheduled": wanted,
            "updatedNumberScheduled": updated,
            "numberAvailable": available,
        },
    }


def group_set(*conditions: dict, partition: int = 0, **status: Any) -> dict[str, Any]:
    strategy = {"rollingUpdateConfiguration": {"partition": partition}}
    return {
        "kind": "LeaderWorkerSet",
        "metadata": {"generation": 4},
        "spec": {"replicas": 2, "rolloutStrategy": strategy},
        "status": {"conditions": list(conditions), **status},
    }


def job(*conditions: dict, **spec: Any) -> dict[str, Any]:
    return {"kind": "Job", "metadata": {}, "spec": spec, "status": {"conditions": list(conditions)}}


def claim(phase: str) -> dict[str, Any]:
    return {"kind": "PersistentVolumeClaim", "metadata": {}, "spec": {}, "status": {"phase": phase}}


ADDRESS = [{"type": "Hostname", "value": "gateway.llm-d.svc.cluster.local"}]
PROGRAMMED = [condition("Accepted"), condition("Programmed")]
ALL = {"replicas": 2, "readyReplicas": 2, "updatedReplicas": 2}
ROUTED = [condition("Accepted", observedGeneration=2), condition("ResolvedRefs", observedGeneration=2)]


@pytest.mark.parametrize(
    ("live", "reason"),
    [
        (None, "does not exist"),
        ({"kind": "ConfigMap", "metadata": {}}, ""),
        (deployment(observedGeneration=3, replicas=2, updatedReplicas=2, availableReplicas=2), ""),
        (deployment(None, observedGeneration=3, replicas=1, updatedReplicas=1, availableReplicas=1), ""),
        (deployment(0, observedGeneration=3), ""),
        ({"kind": "Deployment", "metadata": {"generation": 1}, "spec": {}}, "the change is not observed yet"),
        (deployment(observedGeneration=2, updatedReplicas=2, availableReplicas=2), "the change is not observed yet"),
        (deployment(observedGeneration=3), "0 of 2 pods are ready"),
        (
            deployment(observedGeneration=3, replicas=2, updatedReplicas=2, availableReplicas=1),
            "1 of 2 pods are ready",
        ),
        (
            deployment(observedGeneration=3, replicas=2, updatedReplicas=1, availableReplicas=2),
            "1 of 2 pods are ready",
        ),
        (
            deployment(observedGeneration=3, replicas=3, updatedReplicas=2, availableReplicas=2),
            "1 old pods are still there",
        ),
        (gateway(*PROGRAMMED, addresses=ADDRESS), ""),
        (gateway(*PROGRAMMED), "it has no address"),
        (gateway(), "condition Accepted is not reported yet"),
        (
            gateway(condition("Accepted"), condition("Programmed", "False", reason="AddressNotAssigned", message="m")),
            "Programmed is False: AddressNotAssigned: m",
        ),
        (
            gateway(condition("Accepted", observedGeneration=1), condition("Programmed"), addresses=ADDRESS),
            "condition Accepted is of an older generation",
        ),
        (gateway(condition("Accepted", "Unknown", reason="Pending")), "Accepted is Unknown: Pending: message"),
        (route(ROUTED), ""),
        (route(), "no gateway has taken it"),
        (
            route(ROUTED, [condition("Accepted"), condition("ResolvedRefs", "False", reason="BackendNotFound")]),
            "at gateway gateway: ResolvedRefs is False: BackendNotFound: message",
        ),
        (
            route([condition("Accepted", "False", reason="NotAllowedByListeners", message="no")]),
            "at gateway gateway: Accepted is False: NotAllowedByListeners: no",
        ),
        # What a gateway said that the route has left does not count, and the other one has not spoken.
        (
            {**route(ROUTED), "spec": {"parentRefs": [{"name": "gateway", "sectionName": "https"}]}},
            "at gateway gateway: it has not taken it",
        ),
        (
            {
                **route(ROUTED, [condition("Accepted", "False")]),
                "status": {
                    "parents": [
                        {"parentRef": {"name": "gateway", "namespace": "llm-d"}, "conditions": ROUTED},
                        {"parentRef": {"name": "left"}, "conditions": [condition("Accepted", "False")]},
                    ]
                },
            },
            "",
        ),
        (
            gateway(
                *PROGRAMMED,
                addresses=ADDRESS,
                listeners=[{"name": "gone", "conditions": []}, {"name": "http", "conditions": ROUTED[1:]}],
            ),
            "listener http: condition Programmed is not reported yet",
        ),
        (
            gateway(
                *PROGRAMMED,
                addresses=ADDRESS,
                listeners=[{"name": "http", "conditions": [condition("ResolvedRefs", observedGeneration=1)]}],
            ),
            "listener http: condition ResolvedRefs is of an older generation",
        ),
        (pool(), "no gateway has taken it"),
        (pool(parent("default", condition("Accepted", "Unknown"), kind="Status")), "no gateway has taken it"),
        (pool(parent("default", kind="Status"), parent("gateway", *ROUTED)), ""),
        (
            pool(parent("gateway", ROUTED[0], condition("ResolvedRefs", "False", reason="InvalidExtensionRef"))),
            "at gateway gateway: ResolvedRefs is False: InvalidExtensionRef: message",
        ),
        (
            pool(parent("gateway", condition("Accepted", observedGeneration=1))),
            "at gateway gateway: condition Accepted is of an older generation",
        ),
        (stateful_set(replicas=2, updatedReplicas=2, availableReplicas=2), ""),
        (stateful_set(observedGeneration=0), "the change is not observed yet"),
        (stateful_set(replicas=2, availableReplicas=1), "1 of 2 pods are ready"),
        (stateful_set(replicas=2, availableReplicas=2, updatedReplicas=1), "1 of 2 pods are updated"),
        (
            stateful_set({"updateStrategy": {"rollingUpdate": {"partition": 1}}}, availableReplicas=2),
            "0 of 1 pods are updated",
        ),
        (stateful_set({"updateStrategy": {"type": "OnDelete"}}, replicas=2, availableReplicas=2), ""),
        (stateful_set(replicas=3, updatedReplicas=2, availableReplicas=2), "1 old pods are still there"),
        (daemon_set(3, 3, 3), ""),
        (daemon_set(0, 0, 0), ""),
        (daemon_set(3, 3, 1), "1 of 3 pods are ready"),
        (daemon_set(3, 2, 3), "2 of 3 pods are ready"),
        (daemon_set(3, 0, 3, updateStrategy={"type": "OnDelete"}), ""),
        ({"kind": "DaemonSet", "metadata": {"generation": 1}, "spec": {}}, "the change is not observed yet"),
        (group_set(condition("Available"), condition("Progressing", "False"), **ALL), ""),
        (group_set(condition("Available"), **ALL, observedGeneration=4), ""),
        (group_set(condition("Available"), **ALL, observedGeneration=3), "the change is not observed yet"),
        (group_set(), "0 of 2 groups are ready"),
        (group_set(readyReplicas=2, updatedReplicas=1), "1 of 2 groups are updated"),
        (group_set(condition("Available"), partition=1, readyReplicas=2, updatedReplicas=1), ""),
        (group_set(readyReplicas=2, updatedReplicas=2, replicas=3), "1 old groups are still there"),
        (group_set(condition("UpdateInProgress"), **ALL), "UpdateInProgress: message"),
        (group_set(**ALL), "condition Available is not reported yet"),
        (job(condition("SuccessCriteriaMet"), condition("Complete")), ""),
        (job(), "0 of 1 pods have succeeded"),
        (job(completions=3), "0 of 3 pods have succeeded"),
        (job(suspend=True), "it is suspended"),
        (job(condition("Failed", "False")), "0 of 1 pods have succeeded"),
        (claim("Bound"), ""),
        (claim("Pending"), ""),
        (
            {
                "kind": "CustomResourceDefinition",
                "metadata": {},
                "status": {"conditions": [condition("NamesAccepted"), condition("Established")]},
            },
            "",
        ),
        ({"kind": "CustomResourceDefinition", "metadata": {}}, "condition Established is not reported yet"),
    ],
)
def test_judge(live: dict | None, reason: str) -> None:
    assert judge(live) == State(not reason, reason)


@pytest.mark.parametrize(
    ("live", "reason"),
    [
        (
            job(condition("Failed", reason="BackoffLimitExceeded", message="Job has reached the specified limit")),
            "it failed: BackoffLimitExceeded: Job has reached the specified limit",
        ),
        (job(condition("FailureTarget", reason="DeadlineExceeded")), "it failed: DeadlineExceeded: message"),
        (claim("Lost"), "its volume is gone"),
    ],
)
def test_some_objects_say_themselves_that_waiting_cannot_help(live: dict, reason: str) -> None:
    assert judge(live) == State(False, reason, final=True)


def test_a_claim_must_be_bound_only_where_its_class_does_not_wait_for_a_pod() -> None:
    assert judge(claim("Pending"), bound=True) == State(False, "it is not bound to a volume")
    assert judge(claim("Bound"), bound=True).ready
