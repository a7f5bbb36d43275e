"""Whether pods that do not exist yet find room."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.llm_d.multi_engine.plugins.module_utils import capacity

GPU = "nvidia.com/gpu"


def node(name: str, gpus: int, **spec: Any) -> dict[str, Any]:
    allocatable = {"cpu": "8", "memory": "64Gi", "pods": "20", GPU: str(gpus)}
    return {
        "metadata": {"name": name, "labels": {"name": name}},
        "spec": spec,
        "status": {"allocatable": allocatable},
    }


def template(gpus: int, **spec: Any) -> dict[str, Any]:
    container = {"resources": {"requests": {GPU: str(gpus)}}} if gpus else {}
    return {"metadata": {}, "spec": {"containers": [container], **spec}}


def placed(name: str, gpus: int, phase: str = "Running", **metadata: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "other", **metadata},
        "spec": {**template(gpus)["spec"], "nodeName": name},
        "status": {"phase": phase},
    }


def deployment(replicas: int, gpus: int, **spec: Any) -> dict[str, Any]:
    return {"spec": {"replicas": replicas, "template": template(gpus, **spec)}}


TAINTED = node("c", 8, taints=[{"key": "gpu", "value": "mine", "effect": "NoSchedule"}])


@pytest.mark.parametrize(
    ("workload", "nodes", "pods", "fits"),
    [
        (deployment(2, 4), [node("a", 8)], [], 2),
        (deployment(3, 4), [node("a", 8)], [], 2),
        # Node by node: what is free on two is not free on one.
        (deployment(1, 4), [node("a", 3), node("b", 3)], [], 0),
        (deployment(2, 4), [node("a", 8)], [placed("a", 4)], 1),
        (deployment(2, 4), [node("a", 8)], [placed("a", 4, "Succeeded")], 2),
        (deployment(2, 4), [node("a", 8)], [placed("a", 4, deletionTimestamp="now")], 2),
        (deployment(1, 4), [TAINTED], [], 0),
        (deployment(1, 4, tolerations=[{"operator": "Exists"}]), [TAINTED], [], 1),
        (deployment(2, 4, nodeSelector={"name": "b"}), [node("a", 8), node("b", 4)], [], 1),
        (deployment(1, 4), [node("a", 8, unschedulable=True)], [], 0),
        # Without devices there is still room to be had, or not.
        (deployment(19, 0), [node("a", 0)], [placed("a", 0), placed("a", 0)], 18),
        (deployment(1, 4), [], [], 0),
    ],
)
def test_room(workload: dict, nodes: list[dict], pods: list[dict], fits: int) -> None:
    assert capacity.room(capacity.pods_of([workload]), nodes, pods) == fits


def test_a_group_fits_as_a_whole_or_not() -> None:
    group = {"size": 2, "leaderTemplate": template(8), "workerTemplate": template(8)}
    workload = {"spec": {"replicas": 2, "leaderWorkerTemplate": group}}
    replicas = capacity.pods_of([workload])
    assert [len(pods) for pods in replicas] == [2, 2]
    assert capacity.devices(replicas) == {GPU: 32}
    nodes = [node(name, 8) for name in "abc"]
    assert capacity.room(replicas, nodes, []) == 1


def test_free_counts_nodes_that_would_do() -> None:
    nodes = [node("a", 8), node("b", 8, unschedulable=True), TAINTED]
    pod = capacity.pods_of([deployment(1, 4)])[0][0]
    assert capacity.free(GPU, pod, nodes, [placed("a", 3)]) == 5
