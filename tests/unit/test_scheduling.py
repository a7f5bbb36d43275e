"""Which nodes could hold a pod, and why the others cannot."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from ansible_collections.llm_d.multi_engine.plugins.module_utils.scheduling import (
    Obstacle,
    Verdict,
    obstacles,
    quantity,
    requests,
    shown,
    verdict,
)

GPU = "nvidia.com/gpu"


def container(**asked: str) -> dict[str, Any]:
    return {"resources": {"requests": {key.replace("gpu", GPU): value for key, value in asked.items()}}}


def pod(*containers: dict[str, Any], name: str = "qwen-1", node: str | None = None, **spec: Any) -> dict[str, Any]:
    spec = {"containers": list(containers), **spec}
    if node:
        spec["nodeName"] = node
    return {"metadata": {"name": name, "namespace": "llm-d"}, "spec": spec}


def gpus(count: int, **more: Any) -> dict[str, Any]:
    return pod(container(gpu=str(count)), **more)


def node(name: str = "a", gpu: int = 8, capacity: int | None = None, **more: Any) -> dict[str, Any]:
    offered = {"cpu": "4", "memory": "16Gi", "pods": "110"}
    if gpu or capacity:
        offered[GPU] = str(gpu)
    status = {"allocatable": offered, "capacity": {**offered, **({GPU: str(capacity)} if capacity else {})}}
    return {"metadata": {"name": name, "labels": more.pop("labels", {})}, "spec": more, "status": status}


@pytest.mark.parametrize(
    ("text", "expected"),
    [("8", 8), (4, 4), ("500m", Decimal("0.5")), ("1Gi", 1024**3), ("1k", 1000), ("2e3", 2000), ("1.5Mi", 1572864)],
)
def test_quantity(text: str | int, expected: Decimal) -> None:
    assert quantity(text) == expected


@pytest.mark.parametrize(
    ("resource", "value", "text"),
    [
        (GPU, Decimal(8), "8"),
        (GPU, Decimal(100), "100"),
        ("cpu", Decimal("0.50"), "0.5"),
        ("memory", Decimal(64) * 1024**3, "64Gi"),
        ("memory", Decimal(3) * 1024**3 / 2, "1.5Gi"),
    ],
)
def test_amounts_for_people(resource: str, value: Decimal, text: str) -> None:
    assert shown(resource, value) == text


@pytest.mark.parametrize(
    ("asking", "expected"),
    [
        (pod(), {}),
        (pod(container(cpu="1", gpu="2"), container(cpu="500m")), {"cpu": Decimal("1.5"), GPU: 2}),
        # What runs first may need more than what runs later.
        (pod(container(cpu="1"), initContainers=[container(cpu="3"), container(cpu="2")]), {"cpu": 3}),
        # A sidecar runs on, so it counts with those that start after it.
        (
            pod(
                container(cpu="1"),
                initContainers=[
                    container(cpu="2"),
                    {**container(cpu="1"), "restartPolicy": "Always"},
                    container(cpu="3"),
                ],
            ),
            {"cpu": 4},
        ),
        (
            pod(container(cpu="1"), initContainers=[{**container(cpu="1"), "restartPolicy": "Always"}]),
            {"cpu": 2},
        ),
        (pod(container(cpu="1"), overhead={"cpu": "250m"}), {"cpu": Decimal("1.25")}),
        (pod(container(cpu="1", gpu="1"), resources={"requests": {"cpu": "6"}}), {"cpu": 6, GPU: 1}),
        (pod(container(gpu="0")), {}),
    ],
)
def test_requests(asking: dict[str, Any], expected: dict[str, Decimal]) -> None:
    assert requests(asking) == {"pods": 1, **expected}


def affinity(*terms: dict[str, Any]) -> dict[str, Any]:
    required = {"nodeSelectorTerms": list(terms)}
    return {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}}


def expression(operator: str, *values: str, key: str = "gpu") -> dict[str, Any]:
    return {"matchExpressions": [{"key": key, "operator": operator, "values": list(values)}]}


TAINT = {"key": "dedicated", "value": "ml", "effect": "NoSchedule"}
UNTOLERATED = [Obstacle("taint dedicated=ml:NoSchedule is not tolerated", True)]


@pytest.mark.parametrize(
    ("asking", "on", "neighbours", "expected"),
    [
        (gpus(8), node(), None, []),
        (gpus(16), node(), None, [Obstacle("16 nvidia.com/gpu asked for, 8 offered", True)]),
        (gpus(1), node(gpu=0), None, [Obstacle("1 nvidia.com/gpu asked for, 0 offered", True)]),
        # A device plugin that restarts takes back what is allocatable.
        (
            gpus(4),
            node(gpu=0, capacity=8),
            None,
            [Obstacle("4 nvidia.com/gpu asked for, 0 offered (8 in all)", False)],
        ),
        (
            gpus(4),
            node(),
            [gpus(6)],
            [Obstacle("4 nvidia.com/gpu asked for, 2 of 8 free", False, GPU)],
        ),
        (gpus(2), node(), [gpus(6)], []),
        (
            pod(container(memory="64Gi", cpu="8")),
            node(),
            None,
            [
                Obstacle("8 cpu asked for, 4 offered", True),
                Obstacle("64Gi memory asked for, 16Gi offered", True),
            ],
        ),
        (pod(nodeSelector={"gpu": "h200"}), node(), None, [Obstacle("has no label gpu=h200", True)]),
        (pod(nodeSelector={"gpu": "h200"}), node(labels={"gpu": "h200"}), None, []),
        (pod(), node(unschedulable=True), None, [Obstacle("is cordoned", False)]),
        (
            pod(),
            node(unschedulable=True, taints=[{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]),
            None,
            [Obstacle("is cordoned", False)],
        ),
        (pod(), node(taints=[TAINT]), None, UNTOLERATED),
        (pod(), node(taints=[{**TAINT, "effect": "PreferNoSchedule"}]), None, []),
        (
            pod(),
            node(taints=[{"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"}]),
            None,
            [Obstacle("taint node.kubernetes.io/not-ready:NoExecute is not tolerated", False)],
        ),
        (pod(tolerations=[{"operator": "Exists"}]), node(taints=[TAINT]), None, []),
        (pod(tolerations=[{"key": "dedicated", "operator": "Exists"}]), node(taints=[TAINT]), None, []),
        (pod(tolerations=[{"key": "dedicated", "value": "ml"}]), node(taints=[TAINT]), None, []),
        (pod(tolerations=[{"key": "dedicated", "value": "other"}]), node(taints=[TAINT]), None, UNTOLERATED),
        (
            pod(tolerations=[{"operator": "Exists", "effect": "NoExecute"}]),
            node(taints=[TAINT]),
            None,
            UNTOLERATED,
        ),
        (pod(**affinity(expression("In", "h100", "h200"))), node(labels={"gpu": "h200"}), None, []),
        (
            pod(**affinity(expression("In", "h100", "h200"), expression("Exists", key="any"))),
            node(),
            None,
            [Obstacle("does not match the node affinity (gpu In h100, h200 or any Exists)", True)],
        ),
        (pod(**affinity(expression("NotIn", "h100"))), node(), None, []),
        (pod(**affinity(expression("DoesNotExist"))), node(), None, []),
        (pod(**affinity(expression("Gt", "4"))), node(labels={"gpu": "8"}), None, []),
        (
            pod(**affinity(expression("Lt", "4"))),
            node(labels={"gpu": "8"}),
            None,
            [Obstacle("does not match the node affinity (gpu Lt 4)", True)],
        ),
        (
            pod(**affinity(expression("Gt", "4"))),
            node(),
            None,
            [Obstacle("does not match the node affinity (gpu Gt 4)", True)],
        ),
        (
            pod(**affinity({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["b"]}]})),
            node(),
            None,
            [Obstacle("does not match the node affinity (metadata.name In b)", True)],
        ),
        (pod(**affinity({})), node(), None, [Obstacle("does not match the node affinity ()", True)]),
    ],
)
def test_obstacles(
    asking: dict[str, Any], on: dict[str, Any], neighbours: list[dict[str, Any]] | None, expected: list[Obstacle]
) -> None:
    assert obstacles(asking, on, neighbours) == expected


CONTROL = node("control", 0, taints=[{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}])
NO_CONTROL = (
    "node control: taint node-role.kubernetes.io/control-plane:NoSchedule is not tolerated; "
    "{} nvidia.com/gpu asked for, 0 offered"
)


@pytest.mark.parametrize(
    ("asking", "nodes", "placed", "expected"),
    [
        (gpus(1), [], [], Verdict((), False)),
        (gpus(1), [node()], [], Verdict((), False)),
        (
            gpus(16),
            [CONTROL, *(node(name) for name in "dcba")],
            None,
            Verdict(
                (
                    "nodes a, b, c and 1 more: 16 nvidia.com/gpu asked for, 8 offered",
                    NO_CONTROL.format(16),
                ),
                True,
            ),
        ),
        (
            gpus(4),
            [node("a"), node("b"), CONTROL],
            [
                gpus(8, name="x", node="a"),
                gpus(3, name="y", node="b"),
                gpus(3, name="z", node="b"),
                {**gpus(2, name="ended", node="b"), "status": {"phase": "Succeeded"}},
                gpus(8, name="waits"),
            ],
            Verdict(
                (
                    "node a: 4 nvidia.com/gpu asked for, 0 of 8 free",
                    "node b: 4 nvidia.com/gpu asked for, 2 of 8 free",
                    NO_CONTROL.format(4),
                    "nvidia.com/gpu is used by pods llm-d/x (8), llm-d/y (3), llm-d/z (3)",
                ),
                False,
            ),
        ),
        # Who uses the CPU would be a list of all pods.
        (
            pod(container(cpu="3")),
            [node()],
            [pod(container(cpu="2"), node="a")],
            Verdict(("node a: 3 cpu asked for, 2 of 4 free",), False),
        ),
        (
            gpus(1),
            [node(gpu=0)],
            None,
            Verdict(("node a: 1 nvidia.com/gpu asked for, 0 offered",), True, GPU),
        ),
        (
            gpus(2),
            [node("a", 2)],
            [gpus(1, name=name, node="a") for name in ("p", "q", "r", "s")],
            Verdict(
                (
                    "node a: 2 nvidia.com/gpu asked for, 0 of 2 free",
                    "nvidia.com/gpu is used by pods llm-d/p (1), llm-d/q (1), llm-d/r (1) and 1 more",
                ),
                False,
            ),
        ),
    ],
)
def test_verdict(asking: dict[str, Any], nodes: list[dict], placed: list[dict] | None, expected: Verdict) -> None:
    assert verdict(asking, nodes, placed) == expected
