"""Why a workload is not ready, by objects and events as Kubernetes 1.35 writes them."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.llm_d.multi_engine.plugins.module_utils.cluster import Cluster, ClusterError
from ansible_collections.llm_d.multi_engine.plugins.module_utils.explain import (
    WORKLOADS,
    Around,
    Explanation,
    explain,
    pods_of,
    why_not_ready,
)
from ansible_collections.llm_d.multi_engine.plugins.module_utils.readiness import JUDGED

REVISION = "deployment.kubernetes.io/revision"
GPU = "nvidia.com/gpu"
#: 2026-01-01T00:01:00Z.
NOW = 1767225660.0
MIDNIGHT, LATER = "2026-01-01T00:00:00Z", "2026-01-01T00:00:30Z"


def workload(kind: str = "Deployment", name: str = "qwen", **more: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "llm-d", "generation": 1, "annotations": {REVISION: "2"}}
    spec = {"replicas": 2, "selector": {"matchLabels": {"llm-d.ai/model": "qwen", "track": "stable"}}}
    status = {"observedGeneration": 1, "replicas": 2, "updatedReplicas": 2}
    return {"kind": kind, "metadata": metadata, "spec": spec, "status": status, **more}


def replica_set(revision: str, **condition: Any) -> dict[str, Any]:
    failure = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", **condition}
    return {
        "metadata": {"name": f"qwen-{revision}", "annotations": {REVISION: revision}},
        "status": {"conditions": [failure]} if condition else {},
    }


def pod(name: str = "qwen-2-a", owner: str = "qwen-2", status: dict | None = None, **more: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "llm-d", "uid": f"uid-{name}", "ownerReferences": [{"name": owner}]}
    spec = more.pop("spec", {})
    return {"metadata": {**metadata, **more}, "spec": spec, "status": status or {"phase": "Pending"}}


def state(name: str = "model-server", restarts: int = 0, **state: Any) -> dict[str, Any]:
    return {"name": name, "ready": False, "restartCount": restarts, "state": state}


def crashing(**more: Any) -> dict[str, Any]:
    ended = {"exitCode": 1, "reason": "Error", "finishedAt": LATER}
    back_off = state(restarts=3, waiting={"reason": "CrashLoopBackOff", "message": "back-off 40s"})
    return pod(
        status={"phase": "Running", "containerStatuses": [{**back_off, "lastState": {"terminated": ended}}]}, **more
    )


def running(name: str = "qwen-2-a", **more: Any) -> dict[str, Any]:
    status = {"phase": "Running", "containerStatuses": [state(running={"startedAt": MIDNIGHT})]}
    return pod(name, status=status, **more)


def event(reason: str, message: str, about: dict[str, Any], at: str = LATER, kind: str = "Pod") -> dict[str, Any]:
    metadata = about["metadata"]
    involved = {"kind": kind, "name": metadata["name"], "uid": metadata.get("uid")}
    return {
        "type": "Warning",
        "reason": reason,
        "message": message,
        "lastTimestamp": at,
        "involvedObject": involved,
    }


def homeless(name: str = "qwen-2-a", gpus: int = 16, at: str | None = MIDNIGHT, **more: Any) -> dict[str, Any]:
    condition = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "lastTransitionTime": at,
        "message": "0/2 nodes are available: 2 Insufficient nvidia.com/gpu. no new claims to deallocate, preemption: "
        "0/2 nodes are available: 2 Preemption is not helpful for scheduling.",
    }
    status = {"phase": "Pending", "conditions": [{**condition, **more.pop("condition", {})}], **more.pop("status", {})}
    spec = {"containers": [{"resources": {"requests": {GPU: str(gpus)}}}], **more.pop("spec", {})}
    return pod(name, status=status, spec=spec, **more)


def node(name: str, gpus: int = 8, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": spec, "status": {"allocatable": {"pods": "110", GPU: str(gpus)}}}


NODES = [node("a"), node("b")]
HOMELESS = "pod qwen-2-a is not scheduled: 0/2 nodes are available: 2 Insufficient nvidia.com/gpu."
TOO_MANY = "  nodes a, b: 16 nvidia.com/gpu asked for, 8 offered"
CRASH = "pod qwen-2-a, container model-server: restarted 3 times, last with exit code 1 (Error)"


def test_what_can_be_told_about_can_be_waited_for() -> None:
    assert set(WORKLOADS) <= set(JUDGED)


# Which pods


def labelled(name: str, owner: str, **labels: str) -> dict[str, Any]:
    prefix = "leaderworkerset.sigs.k8s.io/"
    names = {"hash": f"{prefix}template-revision-hash", "set": f"{prefix}name", "revision": "controller-revision-hash"}
    return pod(name, owner, labels={names[key]: value for key, value in labels.items()}, creationTimestamp=name)


@pytest.mark.parametrize(
    ("live", "pods", "names"),
    [
        (
            workload(),
            [
                pod("new", "qwen-2"),
                pod("old", "qwen-1"),
                pod("other", "x"),
                pod("gone", "qwen-2", deletionTimestamp="x"),
            ],
            ["new"],
        ),
        (workload(status={"observedGeneration": 0}), [pod("new", "qwen-2")], []),
        (
            workload("StatefulSet", status={"observedGeneration": 1, "updateRevision": "r2"}),
            [labelled("qwen-0", "qwen", revision="r1"), labelled("qwen-1", "qwen", revision="r2")],
            ["qwen-1"],
        ),
        # In order, an old pod that is ill keeps new ones from being made.
        (
            workload("StatefulSet", status={"observedGeneration": 1, "updateRevision": "r2"}),
            [labelled("qwen-0", "qwen", revision="r1"), labelled("other", "x", revision="r1")],
            ["qwen-0"],
        ),
        (workload("DaemonSet"), [pod("one", "qwen"), pod("other", "x")], ["one"]),
        (workload("Job", status={}), [pod("one", "qwen")], ["one"]),
        # Workers belong to StatefulSets of their leaders.
        (
            workload("LeaderWorkerSet", status={}),
            [
                labelled("1", "qwen", set="qwen", hash="old"),
                labelled("2", "qwen", set="qwen", hash="new"),
                labelled("3", "qwen-0", set="qwen", hash="new"),
                labelled("4", "x", set="x", hash="new"),
            ],
            ["2", "3"],
        ),
        (workload("LeaderWorkerSet", status={}), [], []),
    ],
)
def test_pods_of(live: dict[str, Any], pods: list[dict[str, Any]], names: list[str]) -> None:
    found = pods_of(live, [replica_set("1"), replica_set("2")], pods)
    assert [one["metadata"]["name"] for one in found] == names


# Pods that are not made

QUOTA = (
    'pods "qwen-2-a" is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=2, '
    "used: requests.nvidia.com/gpu=0, limited: requests.nvidia.com/gpu=1"
)
IN_USE = QUOTA.replace("used: requests.nvidia.com/gpu=0", "used: requests.nvidia.com/gpu=4").replace("gpu=1", "gpu=4")
DENIED = 'admission webhook "policy.example.com" denied the request: no latest tags'
SECURITY = (
    'pods "qwen-2-a" is forbidden: violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false '
    '(container "model-server" must set securityContext.allowPrivilegeEscalation=false)'
)
NO_ACCOUNT = (
    'pods "qwen-2-a" is forbidden: error looking up service account llm-d/default: serviceaccount "default" not found'
)
CALLING = 'Internal error occurred: failed calling webhook "policy.example.com": connection refused'


@pytest.mark.parametrize(
    ("message", "final"),
    [
        (QUOTA, True),
        (IN_USE, True),
        (DENIED, True),
        (SECURITY, True),
        (NO_ACCOUNT, False),
        (CALLING, False),
        ('pods "x" is forbidden: status unknown for quota: gpus, resources: pods', False),
    ],
)
def test_a_pod_that_is_refused(message: str, final: bool) -> None:
    expected = Explanation((f"a pod cannot be made: {message}",), final)
    ill = [replica_set("1", message="of an older rollout"), replica_set("2", message=message)]
    assert explain(workload(), [], [], None, replica_sets=ill, now=NOW) == expected
    # The event is newer than the condition, which keeps the first message.
    said = f"(combined from similar events): Error creating: {message}"
    said = event("FailedCreate", said, ill[1], kind="ReplicaSet")
    ill[1] = replica_set("2", message="what was said first")
    assert explain(workload(), [], [said], None, replica_sets=ill, now=NOW) == expected
    said = event(
        "FailedCreate", f"Create Pod qwen-0 in StatefulSet qwen failed error: {message}", workload(), kind="StatefulSet"
    )
    for kind in ("StatefulSet", "LeaderWorkerSet", "Job", "DaemonSet"):
        assert explain(workload(kind), [], [said], None, now=NOW) == expected


def test_workers_of_a_group_are_refused_under_their_leaders_name() -> None:
    leader = running("qwen-0")
    said = event("FailedCreate", f"Create Pod qwen-0-1 in StatefulSet qwen-0 failed error: {QUOTA}", leader)
    said["involvedObject"] = {"kind": "StatefulSet", "name": "qwen-0"}
    found = explain(workload("LeaderWorkerSet"), [leader], [said], None, now=NOW)
    assert found.lines[0] == f"a pod cannot be made: {QUOTA}"
    assert found.final


def test_pods_that_were_made_in_the_end_were_not_refused() -> None:
    events = [
        event("FailedCreate", f"Error creating: {QUOTA}", workload(), MIDNIGHT, "Job"),
        event("SuccessfulCreate", "Created pod: qwen-a", workload(), LATER, "Job"),
    ]
    assert explain(workload("Job"), [], events, None, now=NOW) == Explanation()
    ill = [replica_set("2", message="said before")]
    assert explain(workload(), [pod(), pod("qwen-2-b")], [], None, replica_sets=ill, now=NOW) == Explanation()


@pytest.mark.parametrize(
    ("status", "placed", "final"),
    [
        ({"replicas": 2, "updatedReplicas": 2}, [pod()], True),
        # An old pod gives back what it has, one that ends too.
        ({"replicas": 2, "updatedReplicas": 1}, [pod()], False),
        ({"replicas": 0}, [pod(deletionTimestamp=MIDNIGHT)], False),
        ({"replicas": 0}, [pod(deletionTimestamp=MIDNIGHT, namespace="other")], True),
    ],
)
def test_a_quota_that_others_use_up(status: dict[str, int], placed: list[dict[str, Any]], final: bool) -> None:
    ill = [replica_set("2", message=IN_USE)]
    live = workload(status={"observedGeneration": 1, **status})
    assert explain(live, [], [], None, replica_sets=ill, placed=placed, now=NOW).final is final
    # A quota that is too small for one pod stays so.
    ill = [replica_set("2", message=QUOTA)]
    assert explain(live, [], [], None, replica_sets=ill, placed=placed, now=NOW).final


def test_a_refusal_of_before_may_be_mended_by_now() -> None:
    ill = [replica_set("2", message=QUOTA, lastTransitionTime=LATER)]
    assert explain(workload(), [], [], None, replica_sets=ill, since=NOW - 30).final
    assert not explain(workload(), [], [], None, replica_sets=ill, since=NOW).final


# Pods without a node


@pytest.mark.parametrize(
    ("waiting", "nodes", "lines", "final"),
    [
        (homeless(), NODES, [TOO_MANY], True),
        (homeless(), None, [], False),
        (homeless(), [], [], False),
        # An autoscaler or a device plugin may still be about to say something.
        (homeless(at="2026-01-01T00:00:55Z"), NODES, [TOO_MANY], False),
        (homeless(at=None), NODES, [TOO_MANY], False),
        (
            homeless(at=LATER),
            [node("a", providerID="aws:///1")],
            ["  node a: 16 nvidia.com/gpu asked for, 8 offered"],
            False,
        ),
        (homeless(), [node("a", providerID="aws:///1")], ["  node a: 16 nvidia.com/gpu asked for, 8 offered"], True),
        (homeless(at=LATER), [node("a", 0)], ["  node a: 16 nvidia.com/gpu asked for, 0 offered"], False),
        (homeless(), [node("a", 0)], ["  node a: 16 nvidia.com/gpu asked for, 0 offered"], True),
        (homeless(status={"nominatedNodeName": "a"}), NODES, [TOO_MANY], False),
        # A node that is cordoned could hold it one day.
        (
            homeless(gpus=8),
            [node("a", 4), node("b", unschedulable=True)],
            ["  node a: 8 nvidia.com/gpu asked for, 4 offered", "  node b: is cordoned"],
            False,
        ),
        (
            homeless(gpus=8, spec={"nodeSelector": {"gpu": "h200"}}),
            NODES,
            ["  nodes a, b: has no label gpu=h200"],
            True,
        ),
        (homeless(condition={"reason": "SchedulingGated"}), NODES, [], False),
    ],
)
def test_a_pod_without_a_node(waiting: dict, nodes: list[dict] | None, lines: list[str], final: bool) -> None:
    found = explain(workload(), [waiting], [], nodes, now=NOW)
    assert found == Explanation((HOMELESS, *lines), final)


def test_who_has_the_gpus() -> None:
    asked = {"containers": [{"resources": {"requests": {GPU: "8"}}}], "nodeName": "a"}
    placed = [pod("taker", spec=asked), pod("ended", spec=asked, status={"phase": "Failed"})]
    found = explain(workload(), [homeless(gpus=8)], [], [node("a")], placed=placed, now=NOW)
    assert found.lines[1:] == (
        "  node a: 8 nvidia.com/gpu asked for, 0 of 8 free",
        "  nvidia.com/gpu is used by pods llm-d/taker (8)",
    )
    assert not found.final


@pytest.mark.parametrize(
    ("reason", "message", "final"),
    [
        ("TriggeredScaleUp", "pod triggered scale-up: [{gpus 0->1 (max: 4)}]", False),
        ("Nominated", "Pod should schedule on: nodeclaim/gpus-x", False),
        ("NotTriggerScaleUp", "pod didn't trigger scale-up: 1 max node group size reached", True),
    ],
)
def test_an_autoscaler_has_a_say(reason: str, message: str, final: bool) -> None:
    waiting = homeless()
    events = [event(reason, message, waiting), event("FailedScheduling", "the same at length", waiting)]
    found = explain(workload(), [waiting], events, NODES, now=NOW)
    assert found == Explanation((HOMELESS, TOO_MANY, f"  {reason}: {message}"), final)


def test_a_claim_without_a_volume_is_named() -> None:
    said = 'storageclass.storage.k8s.io "fast" not found'
    claim = {"metadata": {"name": "models"}}
    volumes = [{"persistentVolumeClaim": {"claimName": "models"}}, {"emptyDir": {}}]
    events = [event("ProvisioningFailed", said, claim, kind="PersistentVolumeClaim")]
    found = explain(workload(), [homeless(spec={"volumes": volumes})], events, None, now=NOW)
    assert found.lines == (HOMELESS, f"  PersistentVolumeClaim models: ProvisioningFailed: {said}")


# Pods that have a node


def test_a_crash_loop() -> None:
    logs = (("qwen-2-a", "model-server", True),)
    assert explain(workload(), [crashing()], [], None, now=NOW) == Explanation((CRASH,), True, logs)
    # A Job counts its tries itself.
    assert explain(workload("Job"), [crashing()], [], None, now=NOW) == Explanation((CRASH,), False, logs)
    assert not explain(workload(), [crashing()], [], None, now=NOW, since=NOW).final


def test_a_job_does_not_mend_an_image() -> None:
    waiting = state(waiting={"reason": "ErrImagePull", "message": "x:y: not found"})
    live = pod(status={"phase": "Pending", "containerStatuses": [waiting]})
    assert explain(workload("Job"), [live], [], None, now=NOW).final


def test_pods_that_are_ill_alike_are_told_once() -> None:
    pods = [running(f"qwen-2-{name}") for name in "cab"]
    others = [
        pod(f"x-{number}", status={"phase": "Failed", "reason": f"R{number}", "message": ""}) for number in range(9)
    ]
    text = f"pod qwen-2-a, container model-server: runs and is not ready yet, since {MIDNIGHT}"
    found = explain(workload(), pods, [], None, now=NOW)
    assert found == Explanation((f"{text} (so with 2 more)",), False, (("qwen-2-a", "model-server", False),))
    found = explain(workload(), [*pods, *others], [], None, now=NOW)
    assert len(found.lines) == 9
    assert found.lines[-1] == "and 2 more reasons"


def test_the_probe_of_the_pod_itself_counts() -> None:
    ill, other = running(), running("qwen-2-b")
    said = event("Unhealthy", "Readiness probe failed: HTTP probe failed with statuscode: 503", other)
    said["involvedObject"]["fieldPath"] = "spec.containers{model-server}"
    found = explain(workload(), [ill, other], [said], None, now=NOW)
    assert [line.rpartition("; ")[2] for line in found.lines] == [
        f"pod qwen-2-a, container model-server: runs and is not ready yet, since {MIDNIGHT}",
        "Readiness probe failed: HTTP probe failed with statuscode: 503",
    ]


# Reading


class Told(Cluster):
    """A cluster with some pods, and what it says of them; None for what it does not show."""

    def __init__(self, pods: list[dict], events: list[dict] | None = None, nodes: list[dict] | None = None) -> None:
        self._shown = {"Pod": pods, "Event": events, "Node": nodes, "ReplicaSet": [replica_set("1"), replica_set("2")]}
        self.asked: list[tuple[str, str | None, str]] = []

    def list(self, _api_version: str, kind: str, namespace: str | None = None, labels: str = "") -> list[dict]:
        self.asked.append((kind, namespace, labels))
        if self._shown[kind] is None:
            raise ClusterError("No permission")
        return self._shown[kind]

    def log_tail(self, namespace: str, pod: str, container: str, previous: bool, lines: int = 12) -> str:
        assert namespace == "llm-d"
        if (container, lines) == ("prefetch", 1):
            return "" if pod == "silent" else f"{pod} has 31 of 65 GB"
        assert container == "model-server"
        return f"log of {pod}\nno such model" if previous else ""


LABELS = "llm-d.ai/model=qwen,track=stable"
OF_IT = [("ReplicaSet", "llm-d", LABELS), ("Pod", "llm-d", LABELS), ("Event", "llm-d", "")]


@pytest.mark.parametrize(
    ("events", "lines"),
    [
        (
            [
                event("FailedMount", "claim not found", pod(), LATER),
                event("Other", "before that", pod(), MIDNIGHT),
            ],
            ["pod qwen-2-a: FailedMount: claim not found"],
        ),
        ([], []),
        (None, []),
    ],
)
def test_a_pod_that_does_not_start_is_explained_by_its_events(events: list[dict] | None, lines: list[str]) -> None:
    cluster = Told([pod(), pod("old", "qwen-1")], events)
    assert why_not_ready(cluster, workload()) == (lines, False)
    assert cluster.asked == OF_IT


def test_nodes_are_read_where_they_matter_and_may_be_seen() -> None:
    cluster = Told([homeless()], [], NODES)
    assert why_not_ready(cluster, workload()) == ([HOMELESS, TOO_MANY], True)
    assert cluster.asked == [*OF_IT, ("Node", None, ""), ("Pod", None, "")]
    assert why_not_ready(Told([homeless()], []), workload()) == ([HOMELESS], False)


def test_the_namespaces_pods_are_read_when_its_quota_matters() -> None:
    said = event("FailedCreate", f"Error creating: {IN_USE}", replica_set("2"), kind="ReplicaSet")
    cluster = Told([], [said])
    lines, _final = why_not_ready(cluster, workload())
    assert lines == [f"a pod cannot be made: {IN_USE}"]
    assert cluster.asked == [*OF_IT, ("Pod", "llm-d", "")]


def test_the_last_log_lines_follow() -> None:
    said = ["last log lines of pod qwen-2-a, container model-server in its previous run:"]
    said += ["  log of qwen-2-a", "  no such model"]
    assert why_not_ready(Told([crashing()], []), workload()) == ([CRASH, *said], True)
    assert why_not_ready(Told([crashing()], []), workload(), logs=False) == ([CRASH], True)
    assert len(why_not_ready(Told([running()], []), workload())[0]) == 1


def test_how_far_a_pod_is_stands_in_for_that_it_runs() -> None:
    marked = {"annotations": {"multi-engine.llm-d.ai/progress": "prefetch"}}
    spec = {"initContainers": [{"name": "prefetch"}]}
    busy = {"phase": "Pending", "initContainerStatuses": [state("prefetch", running={"startedAt": MIDNIGHT})]}
    over = {"phase": "Running", "initContainerStatuses": [state("prefetch", terminated={"exitCode": 0})]}
    first, silent = (pod(name, status=busy, spec=spec, **marked) for name in ("first", "silent"))
    lines, final = why_not_ready(
        Told([first, pod("over", status=over, spec=spec, **marked)], []), workload(), logs=False
    )
    assert (lines, final) == (["pod first: first has 31 of 65 GB"], False)
    (line,) = why_not_ready(Told([silent], []), workload(), logs=False)[0]
    assert line.startswith("pod silent, container prefetch: the pod waits for it to end; it runs")
    (line,) = why_not_ready(Told([pod("plain", status=busy, spec=spec)], []), workload(), logs=False)[0]
    assert line.startswith("pod plain, container prefetch: ")


def test_a_change_that_is_not_observed_yet_says_nothing() -> None:
    cluster = Told([pod()], [])
    assert why_not_ready(cluster, workload(status={"observedGeneration": 0})) == ([], False)
    assert explain(workload(status={}), [pod()], [], None) == Explanation()
    assert cluster.asked == []


def test_groups_of_pods_are_found_by_the_name_of_their_set() -> None:
    cluster = Told([], [])
    assert why_not_ready(cluster, workload("LeaderWorkerSet", status={})) == ([], False)
    assert cluster.asked[0] == ("Pod", "llm-d", "leaderworkerset.sigs.k8s.io/name=qwen")


def test_what_is_around_several_workloads_is_read_once() -> None:
    cluster = Told([homeless()], None, NODES)
    around = Around(cluster)
    for _ in range(2):
        why_not_ready(cluster, workload(), around=around)
    assert cluster.asked.count(("Node", None, "")) == 1
    assert cluster.asked.count(("Event", "llm-d", "")) == 1
