"""Why nodes do not offer devices, in the words of the pods that should give them."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.llm_d.multi_engine.plugins.module_utils.cluster import ClusterError
from ansible_collections.llm_d.multi_engine.plugins.module_utils.node_devices import failure, offered, why_late
from ansible_collections.llm_d.multi_engine.plugins.modules import node_devices

PATTERNS = ["nvidia.com/gpu", "nvidia.com/mig-*"]
DAEMON_SET = {"kind": "DaemonSet", "metadata": {"name": "plugin", "uid": "ds"}}


def node(name: str = "gpu-1", ready: str = "True", **allocatable: str) -> dict[str, Any]:
    conditions = [{"type": "Ready", "status": ready}]
    return {"metadata": {"name": name}, "status": {"allocatable": allocatable, "conditions": conditions}}


def pod(on: str = "gpu-1", name: str = "plugin-a", state: dict | None = None, **status: Any) -> dict[str, Any]:
    container = {"name": "ctr", "ready": state is None, "state": state or {"running": {}}, **status}
    return {
        "metadata": {"name": name, "namespace": "plugin", "uid": name},
        "spec": {"nodeName": on, "containers": [{"name": "ctr"}]},
        "status": {"phase": "Running", "containerStatuses": [container]},
    }


CRASHED = {"waiting": {"reason": "CrashLoopBackOff"}}
LAST = {"lastState": {"terminated": {"exitCode": 1, "reason": "Error", "finishedAt": "2026-01-01T00:01:00Z"}}}
NO_IMAGE = {"waiting": {"reason": "ErrImagePull", "message": "nvcr.io/nvidia/x:v1: not found"}}


def test_what_a_node_offers() -> None:
    found = node(**{"cpu": "4", "nvidia.com/gpu": "0", "nvidia.com/mig-1g.18gb": "7", "nvidia.com/gpu.shared": "1"})
    assert offered(found, PATTERNS) == {"nvidia.com/mig-1g.18gb": 7}
    assert offered({}, PATTERNS) == {}


@pytest.mark.parametrize(
    ("found", "pods", "lines", "final"),
    [
        (None, [], ["the cluster has no such node"], True),
        (node(ready="False"), [pod()], ["the node is not ready"], False),
        (node(), [pod()], ["plugin-a runs and found no GPU, or the kubelet does not know it yet"], False),
        (
            node(),
            [pod("gpu-2")],
            ["no pod of plugin is on it: its labels or taints keep them away"],
            False,
        ),
        (node(), [pod(state=NO_IMAGE)], ["pod plugin-a, container ctr: ErrImagePull: nvcr.io/nvidia/x:v1: not found"], True),
        (
            node(),
            [pod(state=CRASHED, restartCount=4, **LAST)],
            ["pod plugin-a, container ctr: restarted 4 times, last with exit code 1 (Error)"],
            True,
        ),
    ],
)  # fmt: skip
def test_why(found: dict | None, pods: list[dict], lines: list[str], final: bool) -> None:
    late = why_late(found, "gpu-1", pods, [], [DAEMON_SET], since=0)
    assert (list(late.lines), late.final) == (lines, final)


def test_a_pod_that_the_scheduler_has_not_placed() -> None:
    """A DaemonSet makes one for each node; a taint or want of memory may keep it away."""
    fields = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["gpu-1"]}]}
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [fields]}}
    waiting = pod()
    waiting["spec"] = {"containers": [{"name": "ctr"}], "affinity": {"nodeAffinity": required}}
    message = {"type": "PodScheduled", "status": "False", "message": "0/1 nodes are available: 1 Insufficient memory."}
    waiting["status"] = {"phase": "Pending", "conditions": [message]}
    late = why_late(node(), "gpu-1", [waiting], [], [DAEMON_SET], since=0)
    assert late.lines == ("pod plugin-a is not scheduled: 0/1 nodes are available: 1 Insufficient memory.",)


def test_what_makes_the_daemon_sets_may_be_broken() -> None:
    operator = pod("control-1", "gpu-operator-1", state=NO_IMAGE)
    late = why_late(node(), "gpu-1", [operator], [], [], since=0)
    assert late.lines[0] == "no DaemonSet is there that would run on it"
    assert "gpu-operator-1, container ctr: ErrImagePull" in late.lines[1]


def test_a_daemon_set_that_may_make_no_pods() -> None:
    event = {"reason": "FailedCreate", "message": "forbidden: violates PodSecurity", "involvedObject": {"uid": "ds"}}
    assert why_late(node(), "gpu-1", [], [event], [DAEMON_SET], since=0).lines[-1] == "forbidden: violates PodSecurity"


def test_the_message() -> None:
    late = [
        why_late(node(name), name, [pod(name, f"plugin-{name}")], [], [DAEMON_SET], 0) for name in map(str, range(10))
    ]
    key = ("plugin-0", "ctr", False)
    text = failure(late, {key: "no NVML\nidle"}, PATTERNS, 600.4, timed_out=True).splitlines()
    assert text[0] == "10 node(s) offer no nvidia.com/gpu or nvidia.com/mig-* (after 600 s):"
    assert text[1] == "- 0: plugin-0 runs and found no GPU, or the kubelet does not know it yet"
    assert text[2:5] == ["  last log lines of pod plugin-0, container ctr:", "    no NVML", "    idle"]
    assert text[-1] == "- and 2 more: 8, 9"


class Cluster:
    """One node, which offers GPUs from the ``after``-th look on."""

    def __init__(self, pods: list[dict], after: int = 1000) -> None:
        self.pods, self.after, self.looks = pods, after, 0

    def list(self, _version: str, kind: str, _namespace: str | None = None) -> list[dict]:
        if kind == "Node":
            self.looks += 1
            return [node(**({"nvidia.com/gpu": "8"} if self.looks > self.after else {}))]
        return {"Pod": self.pods, "DaemonSet": [DAEMON_SET]}.get(kind, [])

    def log_tail(self, _namespace: str, pod: str, _container: str, _previous: bool) -> str:
        return f"log of {pod}, token=hf_abcdefghijklmnopqrstuvwxyz0123456789"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that were slept; the clock goes on by as much."""
    slept: list[float] = []
    monkeypatch.setattr(node_devices.time, "sleep", slept.append)
    monkeypatch.setattr(node_devices.time, "monotonic", lambda: sum(slept))
    monkeypatch.setattr(node_devices.time, "time", lambda: 0.0)
    return slept


def wait(cluster: Cluster) -> dict:
    params = {"nodes": ["gpu-1"], "resources": PATTERNS, "namespace": "plugin", "timeout": 60}
    return node_devices.wait(cluster, params, 0.0)


def test_the_wait_ends_when_every_node_offers_something(clock: list[float]) -> None:
    assert wait(Cluster([pod()], after=20)) == {"gpu-1": {"nvidia.com/gpu": 8}}
    assert sum(clock) == 20


def test_the_wait_ends_at_its_deadline_with_the_reason(clock: list[float]) -> None:
    with pytest.raises(ClusterError, match=r"after 60 s[\s\S]*log of plugin-a") as told:
        wait(Cluster([pod()]))
    assert "hf_abc" not in str(told.value)


def test_the_wait_ends_early_where_it_cannot_help(clock: list[float]) -> None:
    with pytest.raises(ClusterError, match="given up after 5 s, waiting cannot help"):
        wait(Cluster([pod(state=CRASHED, restartCount=4, **LAST)]))
