"""What module ``stack_status`` sees of a cluster."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.llm_d.multi_engine.plugins.module_utils.cluster import ClusterError, Forbidden, UnknownKind
from ansible_collections.llm_d.multi_engine.plugins.modules.stack_status import held, look, running

STACK = "multi-engine.llm-d.ai/stack"
GPU = "nvidia.com/gpu"
IMAGE = "lmsysorg/sglang:v0.5.20"
MODEL = {
    "name": "qwen",
    "engine": "sglang",
    "version": "0.5.20",
    "image": IMAGE,
    "replicas": 2,
    "autoscaled": False,
    "devices": {GPU: 4},
    "workloads": [{"kind": "Deployment", "name": "qwen-sglang"}],
    "body_router": "",
    "picker": "qwen-epp",
    "pool": "qwen",
    "route": "qwen",
}
PARAMS = {
    "stack": "birds",
    "namespace": "llm-d",
    "release": "llm-d-0.10",
    "gateway_name": "gate",
    "gateway_namespace": "edge",
    "models": [MODEL],
    "container": "model-server",
    "devices": [GPU],
}
LABELS = {"llm-d.ai/model": "qwen", "llm-d.ai/engine-type": "sglang"}
TRUE = [{"type": name, "status": "True"} for name in ("Accepted", "Programmed", "ResolvedRefs")]
READY = [{"type": "Ready", "status": "True"}]
WAITING = {"name": "model-server", "ready": False, "state": {"waiting": {"reason": "ErrImagePull", "message": "none"}}}


def deployment(name: str, labels: dict[str, str], replicas: int = 1, ready: int | None = None) -> dict[str, Any]:
    ready = replicas if ready is None else ready
    return {
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "llm-d", "labels": labels, "generation": 1},
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels}},
        "status": {"observedGeneration": 1, "replicas": ready, "updatedReplicas": ready, "availableReplicas": ready},
    }


def pod(name: str = "a", labels: dict[str, str] | None = None, image: str = IMAGE, **status: Any) -> dict[str, Any]:
    """A ready pod on a node with two GPUs."""
    limits = {GPU: "2", "memory": "8Gi"}
    containers = [{"name": "proxy", "image": "envoy"}, {"name": "model-server", "image": image}]
    containers[1]["resources"] = {"limits": limits}
    return {
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "llm-d", "labels": LABELS if labels is None else labels},
        "spec": {"nodeName": "one", "containers": containers},
        "status": {"phase": "Running", "conditions": READY, **status},
    }


def changed(item: dict[str, Any], **parts: Any) -> dict[str, Any]:
    """``item`` with ``parts`` laid over its parts of the same name."""
    return {**item, **{name: {**item[name], **part} for name, part in parts.items()}}


class FakeCluster:
    """A cluster where all is well but for what a test replaces (by kind) or refuses."""

    server = "https://api:6443"

    def __init__(self, refuses: dict[str, ClusterError] | None = None, **kinds: list[dict]) -> None:
        self._refuses = refuses or {}
        spec = {"selector": {"matchLabels": LABELS}}
        status = {"conditions": TRUE, "addresses": [{"value": "192.0.2.1"}]}
        parents = [{"parentRef": {"name": "gate"}, "conditions": TRUE}]
        taken = {"spec": {"parentRefs": [{"name": "gate"}]}, "status": {"parents": parents}}
        self.kinds = {
            "Gateway": [{"kind": "Gateway", "metadata": {"name": "gate"}, "status": status}],
            "HTTPRoute": [{"kind": "HTTPRoute", "metadata": {"name": "qwen"}, **taken}],
            "InferencePool": [
                {
                    "kind": "InferencePool",
                    "metadata": {"name": "qwen"},
                    "spec": spec,
                    "status": {"parents": parents},
                }
            ],
            "Deployment": [deployment("qwen-epp", {"app": "epp"}), deployment("qwen-sglang", LABELS, 2)],
            # As in a cluster that does not know the kind.
            "LeaderWorkerSet": [],
            "Pod": [pod("a"), pod("b"), pod("epp", {"app": "epp"})],
            "ConfigMap": [],
            "edge": [deployment("gate-istio", {"app": "gate"})],
            **kinds,
        }
        self.asked: list[tuple] = []

    def raw(self, _method: str, path: str, accept: str, **query: str) -> dict:
        assert path == "/api/v1/namespaces/llm-d/configmaps"
        assert query["labelSelector"].endswith("/stack=birds,multi-engine.llm-d.ai/role=rollout")
        assert "PartialObjectMetadataList" in accept
        return {"items": self._answer("ConfigMap")}

    def _answer(self, kind: str) -> list[dict]:
        if kind in self._refuses:
            raise self._refuses[kind]
        return self.kinds[kind]

    def get(self, _api_version: str, kind: str, name: str, namespace: str) -> dict | None:
        assert (name, namespace) == ("gate", "edge")
        return next(iter(self._answer(kind)), None)

    def list(self, _api_version: str, kind: str, namespace: str, labels: str) -> list[dict]:
        self.asked.append((kind, namespace, labels))
        return self._answer("edge" if namespace == "edge" else kind)


def seen(**changes: Any) -> dict[str, Any]:
    """What is seen, by hop: empty when it is ready."""
    live = look(FakeCluster(**changes), PARAMS)
    return {hop["hop"]: hop["reason"] for hop in [live["gateway"], *live["models"][0]["hops"]] if not hop["ready"]}


def test_a_healthy_stack() -> None:
    cluster = FakeCluster()
    assert look(cluster, PARAMS) == {
        "server": "https://api:6443",
        "stack": "birds",
        "namespace": "llm-d",
        "release": "llm-d-0.10",
        "gateway": {
            "hop": "gateway",
            "object": "Gateway edge/gate",
            "ready": True,
            "reason": "",
            "addresses": ["192.0.2.1"],
        },
        "models": [
            {
                "name": "qwen",
                "wanted": {
                    "engine": "sglang",
                    "version": "0.5.20",
                    "image": IMAGE,
                    "replicas": 2,
                    "autoscaled": False,
                    "devices": {GPU: 4},
                },
                "hops": [
                    {"hop": "route", "object": "HTTPRoute llm-d/qwen", "ready": True, "reason": ""},
                    {"hop": "pool", "object": "InferencePool llm-d/qwen", "ready": True, "reason": ""},
                    {"hop": "picker", "object": "Deployment llm-d/qwen-epp", "ready": True, "reason": ""},
                    {"hop": "server", "object": "Deployment llm-d/qwen-sglang", "ready": True, "reason": ""},
                    {"hop": "endpoints", "object": "InferencePool llm-d/qwen", "ready": True, "reason": ""},
                ],
                "endpoints": {"ready": 2, "wanted": 2},
                "running": [{"engine": "sglang", "image": IMAGE, "pods": 2, "ready": 2}],
                "devices": {GPU: 4},
                "history": {"revisions": [], "failure": None},
            }
        ],
        "others": [],
    }
    ours = f"{STACK}=birds"
    assert sorted(cluster.asked) == [
        ("Deployment", "edge", "gateway.networking.k8s.io/gateway-name=gate"),
        ("Deployment", "llm-d", ours),
        ("HTTPRoute", "llm-d", ours),
        ("InferencePool", "llm-d", ours),
        ("LeaderWorkerSet", "llm-d", ours),
        ("Pod", "llm-d", ours),
    ]


NOTHING = {kind: [] for kind in ("Gateway", "HTTPRoute", "InferencePool", "Deployment", "Pod", "edge")}
EPP = deployment("qwen-epp", {"app": "epp"})
SERVER = deployment("qwen-sglang", LABELS, 2)
LATE = deployment("qwen-sglang", LABELS, 2, ready=1)
IDLE = {**deployment("gate-istio", {"app": "gate"}), "spec": {"replicas": 0}}


@pytest.mark.parametrize(
    ("changes", "late"),
    [
        ({}, {}),
        (
            NOTHING,
            dict.fromkeys(("gateway", "route", "pool", "picker", "server", "endpoints"), "does not exist"),
        ),
        ({"edge": [IDLE]}, {"gateway": "it is scaled to 0"}),
        # Not all implementations run in the Gateway's namespace.
        ({"edge": []}, {}),
        ({"Deployment": [{**EPP, "spec": {**EPP["spec"], "replicas": 0}}, SERVER]}, {"picker": "it is scaled to 0"}),
        (
            {"Deployment": [EPP, LATE], "Pod": [pod("a"), pod("b", conditions=[], containerStatuses=[WAITING])]},
            {
                "server": "1 of 2 pods are ready\npod b, container model-server: ErrImagePull: none",
                "endpoints": "1 of 2 pods are ready",
            },
        ),
        # Deleted ones say nothing of those that replace them, and take no requests.
        (
            {
                "Deployment": [EPP, LATE],
                "Pod": [
                    pod("a"),
                    changed(pod("b", containerStatuses=[WAITING]), metadata={"deletionTimestamp": "2026-01-01"}),
                ],
            },
            {"server": "1 of 2 pods are ready", "endpoints": "1 of 2 pods are ready"},
        ),
        # The pods are of another engine than those behind the pool.
        (
            {"Pod": [pod("a", {**LABELS, "llm-d.ai/engine-type": "vllm"})]},
            {"endpoints": "no pod has the labels that it selects"},
        ),
        ({"refuses": {"Gateway": UnknownKind("x")}}, {"gateway": "does not exist"}),
        ({"refuses": {"Gateway": Forbidden("No permission")}}, {"gateway": "No permission"}),
        ({"refuses": {"edge": Forbidden("No permission")}}, {}),
        (
            {"refuses": {"Deployment": Forbidden("No permission")}},
            {"picker": "No permission", "server": "No permission"},
        ),
        ({"refuses": {"Pod": Forbidden("No permission")}}, {"endpoints": "No permission"}),
        (
            {"refuses": {"InferencePool": Forbidden("No permission")}},
            {"pool": "No permission", "endpoints": "No permission"},
        ),
        ({"refuses": {"HTTPRoute": Forbidden("No permission")}}, {"route": "No permission"}),
    ],
)
def test_which_hops_are_not_ready(changes: dict[str, Any], late: dict[str, str]) -> None:
    assert seen(**changes) == late


@pytest.mark.parametrize(
    ("router", "reason"),
    [
        ([deployment("body-based-router", {"app": "router"})], ""),
        ([deployment("body-based-router", {"app": "router"}, ready=0)], "0 of 1 pods are ready"),
        ([], "does not exist"),
    ],
)
def test_no_request_passes_without_the_router_of_bodies(router: list[dict], reason: str) -> None:
    models = [{**MODEL, "body_router": "body-based-router"}]
    cluster = FakeCluster(Deployment=[EPP, SERVER, *router])
    hops = look(cluster, {**PARAMS, "models": models})["models"][0]["hops"]
    item = "Deployment llm-d/body-based-router"
    assert hops[0] == {"hop": "body-router", "object": item, "ready": not reason, "reason": reason}
    assert all(hop["ready"] for hop in hops[1:])


def test_many_pods_with_the_same_trouble() -> None:
    pods = [pod(f"p{number}", conditions=[], containerStatuses=[WAITING]) for number in range(8)]
    reason = seen(Deployment=[EPP, deployment("qwen-sglang", LABELS, 8, ready=0)], Pod=pods)["server"]
    assert reason.splitlines() == [
        "0 of 8 pods are ready",
        "pod p0, container model-server: ErrImagePull: none (so with 7 more)",
    ]


def test_workloads_that_are_not_in_the_inventory() -> None:
    labels = {"llm-d.ai/model": "old", "llm-d.ai/engine-type": "vllm"}
    cluster = FakeCluster()
    cluster.kinds["Deployment"].append(deployment("old-vllm", labels))
    cluster.kinds["Pod"].append(pod("c", labels, "vllm-openai:v0.30.0"))
    assert look(cluster, PARAMS)["others"] == [
        {
            "object": "Deployment llm-d/old-vllm",
            "model": "old",
            "adopted": False,
            "running": [{"engine": "vllm", "image": "vllm-openai:v0.30.0", "pods": 1, "ready": 1}],
            "devices": {GPU: 2},
        }
    ]
    cluster.kinds["Deployment"][-1]["metadata"]["labels"]["multi-engine.llm-d.ai/adopted-from"] = "helm.ms"
    assert [item["adopted"] for item in look(cluster, PARAMS)["others"]] == [True]


@pytest.mark.parametrize(
    ("fewest", "replicas", "ready", "endpoints", "late"),
    [
        (1, 3, 3, {"ready": 3, "wanted": 3}, {}),
        (1, 3, 2, {"ready": 2, "wanted": 3}, {"server": "2 of 3 pods are ready", "endpoints": "2 of 3 pods are ready"}),
        # Idle, as it may be.
        (0, 0, 0, {"ready": 0, "wanted": 0}, {}),
        (
            1,
            0,
            0,
            {"ready": 0, "wanted": 1},
            {"server": "it is scaled to 0", "endpoints": "no pod has the labels that"},
        ),
    ],
)
def test_an_autoscaled_model_is_as_its_autoscaler_wants_it(
    fewest: int, replicas: int, ready: int, endpoints: dict[str, int], late: dict[str, str]
) -> None:
    server = deployment("qwen-sglang", LABELS, replicas, ready)
    cluster = FakeCluster(Deployment=[EPP, server], Pod=[pod(str(number)) for number in range(ready)])
    live = look(cluster, {**PARAMS, "models": [{**MODEL, "replicas": fewest, "autoscaled": True}]})
    (model,) = live["models"]
    assert model["endpoints"] == endpoints
    found = {hop["hop"]: hop["reason"] for hop in model["hops"] if not hop["ready"]}
    assert {name: reason[: len(late.get(name, ""))] for name, reason in found.items()} == late


def test_replicas_over_several_nodes() -> None:
    """A leader that answers and a worker that does not get ready: GPUs of both, one endpoint."""
    ours = {"leaderworkerset.sigs.k8s.io/name": "qwen-sglang"}
    serving = {"llm-d.ai/inference-serving": "true"}
    groups = {
        "kind": "LeaderWorkerSet",
        "metadata": {"name": "qwen-sglang", "namespace": "llm-d", "labels": LABELS},
        "spec": {"replicas": 1},
        "status": {"replicas": 1, "updatedReplicas": 1},
    }
    other = {**groups, "metadata": {"name": "old-vllm", "namespace": "llm-d", "labels": {"llm-d.ai/model": "old"}}}
    pods = [
        pod("qwen-sglang-0", {**LABELS, **ours, **serving}),
        pod("qwen-sglang-0-1", {**LABELS, **ours}, conditions=[], containerStatuses=[WAITING]),
    ]
    cluster = FakeCluster(LeaderWorkerSet=[groups, other], Deployment=[EPP], Pod=pods)
    cluster.kinds["InferencePool"][0]["spec"] = {"selector": {"matchLabels": {**LABELS, **serving}}}
    workloads = [{"kind": "LeaderWorkerSet", "name": "qwen-sglang"}]
    live = look(cluster, {**PARAMS, "models": [{**MODEL, "replicas": 1, "workloads": workloads}]})
    (model,) = live["models"]
    assert {hop["hop"]: hop["reason"] for hop in model["hops"] if not hop["ready"]} == {
        "server": "0 of 1 groups are ready\npod qwen-sglang-0-1, container model-server: ErrImagePull: none"
    }
    assert (model["endpoints"], model["devices"]) == ({"ready": 1, "wanted": 1}, {GPU: 4})
    assert [item["object"] for item in live["others"]] == ["LeaderWorkerSet llm-d/old-vllm"]


def test_what_runs_while_a_rollout_goes_on() -> None:
    old = "lmsysorg/sglang:v0.5.16"
    pods = [
        pod("a"),
        pod("b", conditions=[]),
        pod("c", image=old),
        pod("d", phase="Pending"),
        changed(pod("e"), metadata={"deletionTimestamp": "2026-01-01"}),
    ]
    assert running(pods, "model-server") == [
        {"engine": "sglang", "image": old, "pods": 1, "ready": 1},
        {"engine": "sglang", "image": IMAGE, "pods": 2, "ready": 1},
    ]


@pytest.mark.parametrize(
    ("pods", "count"),
    [
        ([], {}),
        ([pod(), pod()], {GPU: 4}),
        # It waits for a node.
        ([changed(pod(phase="Pending"), spec={"nodeName": None})], {}),
        ([pod(phase="Pending")], {GPU: 2}),
        ([pod(phase="Failed"), pod(phase="Succeeded")], {}),
        # What goes holds them until it is gone.
        ([changed(pod(), metadata={"deletionTimestamp": "2026-01-01"})], {GPU: 2}),
        ([changed(pod(), spec={"containers": [{"name": "model-server", "image": IMAGE}]})], {}),
    ],
)
def test_devices_that_are_held(pods: list[dict], count: dict[str, int]) -> None:
    assert held(pods, [GPU, "amd.com/gpu"]) == count


def test_what_served_before_and_why_the_last_change_failed() -> None:
    revision = {"revision": "a1", "asked": "x", "since": "1", "engine": "sglang", "version": "0.5.20", "image": "i"}
    failure = {"at": "2", "revision": "b2", "wanted": "vllm 0.30.0", "reason": "no"}
    notes = {
        "multi-engine.llm-d.ai/revisions": json.dumps([revision]),
        "multi-engine.llm-d.ai/failure": json.dumps(failure),
    }
    noted = {"metadata": {"name": "any", "labels": {"llm-d.ai/model": "qwen"}, "annotations": notes}}
    (model,) = look(FakeCluster(ConfigMap=[noted]), PARAMS)["models"]
    told = {name: value for name, value in revision.items() if name != "asked"}
    assert model["history"] == {"revisions": [{**told, "release": "", "back_from": None}], "failure": failure}


def test_who_may_not_read_config_maps_sees_the_rest() -> None:
    (model,) = look(FakeCluster({"ConfigMap": Forbidden("no")}), PARAMS)["models"]
    assert model["history"] is None
    assert all(hop["ready"] for hop in model["hops"])
