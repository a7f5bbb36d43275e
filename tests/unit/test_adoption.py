"""Deployments of somebody else: which entry describes them, and what is shown of them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import yaml
from ansible_collections.llm_d.multi_engine.plugins.module_utils.adoption import Deployments, Takeover
from ansible_collections.llm_d.multi_engine.plugins.module_utils.cluster import ClusterError
from ansible_collections.llm_d.multi_engine.plugins.modules.adopt import refuse_unknown
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.adoption import entry_of, release_like, slug
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.adoption_report import report, text
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.command_line import flags_of
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.model_service import compose
from ansible_collections.llm_d.multi_engine.tests.unit.fake_cluster import FakeCluster
from ansible_collections.llm_d.multi_engine.tests.unit.shipped import MODEL_OPTIONS, ROOT, catalogue, resolved, settings

CATALOGUE = {**catalogue(), "refused": set()}
RELEASE = CATALOGUE["releases"]["llm-d-0.10"]
GPU = "nvidia.com/gpu"
SELECTOR = {"llm-d.ai/guide": "baseline"}
POOL: dict[str, Any] = {
    "apiVersion": "inference.networking.k8s.io/v1",
    "kind": "InferencePool",
    "metadata": {"name": "gaie", "namespace": "llm"},
    "spec": {
        "selector": {"matchLabels": SELECTOR},
        "targetPorts": [{"number": 8000}],
        "endpointPickerRef": {"name": "gaie-epp"},
    },
}
FLAGS = ["serve", "Qwen/Qwen3-32B"]


def route(*matches: dict[str, Any], name: str = "gaie") -> dict[str, Any]:
    backend = {"kind": "InferencePool", "name": name}
    spec = {"parentRefs": [{"name": "gate", "namespace": "edge"}]}
    rules = [{"backendRefs": [backend], **({"matches": list(matches)} if matches else {})}]
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": "route", "namespace": "llm"},
        "spec": {**spec, "rules": rules},
    }


def server(
    role: str = "decode",
    image: str = "docker.io/vllm/vllm-openai:v0.30.0",
    pod: dict[str, Any] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """A workload as llm-d's guides make it, of vLLM with two GPUs and probes as ours."""
    limits = {GPU: "2"}
    probes = CATALOGUE["engines"]["vllm"]["probes"]
    container = {
        "name": "modelserver",
        "image": image,
        "command": ["vllm"],
        "args": FLAGS,
        "ports": [{"containerPort": 8000, "name": "modelserver"}],
        "resources": {"limits": limits, "requests": limits},
        **{f"{name}Probe": copy.deepcopy(probe) for name, probe in probes.items()},
        **more,
    }
    template = {
        "metadata": {"labels": {**SELECTOR, "llm-d.ai/role": role}},
        "spec": {"containers": [container], **(pod or {})},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": f"baseline-{role}", "namespace": "llm"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {**SELECTOR, "llm-d.ai/role": role}}, "template": template},
    }


def entry(*servers: dict[str, Any], routes: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    found, _notes = entry_of(list(servers), POOL, [route()] if routes is None else routes, CATALOGUE, RELEASE)
    return found


def notes(*servers: dict[str, Any], routes: list[dict[str, Any]] | None = None) -> list[str]:
    return entry_of(list(servers), POOL, [route()] if routes is None else routes, CATALOGUE, RELEASE)[1]


PLAIN = {
    "name": "qwen3-32b",
    "source": "hf://Qwen/Qwen3-32B",
    "engine": "vllm",
    "replicas": 2,
    "gpus": 2,
    "route": {"default": True},
}


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, {}),
        # What the profile would say is left out, under whatever name it stands.
        ({"args": [*FLAGS, "--host=0.0.0.0", "--port", "8000", "--tensor-parallel-size=2", "-tp", "2"]}, {}),
        ({"args": [*FLAGS, "--tp=1"]}, {"tensor_parallel": 1}),
        (
            {"args": [*FLAGS, "--max-model-len", "32768", "--gpu-memory-utilization=0.85", "--trust-remote-code"]},
            {"context_length": 32768, "memory_fraction": 0.85, "trust_remote_code": True},
        ),
        # What only this engine knows.
        (
            {"args": [*FLAGS, "--enforce-eager", "--allowed-origins", "a", "b", "--swap-space=4", "--seed=007"]},
            {
                "engine_args": {
                    "vllm": {"enforce-eager": True, "allowed-origins": ["a", "b"], "swap-space": 4, "seed": "007"}
                }
            },
        ),
        ({"args": [*FLAGS, "--served-model-name=qwen"]}, {"name": "qwen", "served_name": "qwen"}),
        # Versions and images.
        ({"image": "docker.io/vllm/vllm-openai:v0.29.0"}, {"engine_version": "0.29.0"}),
        (
            {"image": "mirror.example.com/a/vllm/vllm-openai:v0.30.0", "command": ["vllm", "serve"], "args": FLAGS[1:]},
            {"image": "mirror.example.com/a/vllm/vllm-openai:v0.30.0", "engine_version": "0.30.0"},
        ),
        (
            {"image": "mirror.example.com:5000/vllm/vllm-openai:nightly"},
            {"image": "mirror.example.com:5000/vllm/vllm-openai:nightly", "engine_version": "0.30.0"},
        ),
        # Weights and caches.
        (
            {
                "args": ["serve", "/models/qwen3"],
                "volumeMounts": [{"name": "w", "mountPath": "/models", "subPath": "all"}],
                "pod": {"volumes": [{"name": "w", "persistentVolumeClaim": {"claimName": "weights"}}]},
            },
            {"name": "qwen3", "source": "pvc://weights/all/qwen3"},
        ),
        (
            {
                "args": ["serve", "/models/qwen3"],
                "volumeMounts": [{"name": "w", "mountPath": "/models"}],
                "pod": {"volumes": [{"name": "w", "hostPath": {"path": "/srv/models"}}]},
            },
            {"name": "qwen3", "source": "host:///srv/models/qwen3"},
        ),
        (
            {
                "env": [{"name": "HF_HOME", "value": "/cache/hf"}, {"name": "A", "value": "b"}],
                "volumeMounts": [
                    {"name": "c", "mountPath": "/cache"},
                    {"name": "shm", "mountPath": "/dev/shm"},
                    {"name": "own", "mountPath": "/etc/own"},
                ],
                "pod": {
                    "volumes": [
                        {"name": "c", "persistentVolumeClaim": {"claimName": "cache"}},
                        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "20Gi"}},
                        {"name": "own", "configMap": {"name": "own"}},
                    ],
                    "nodeSelector": {"gpu": "h100"},
                    "schedulerName": "default-scheduler",
                    "imagePullSecrets": [{"name": "registry"}],
                },
            },
            {
                "cache": {"claim": "cache"},
                "shm_size": "20Gi",
                "env": {"A": "b"},
                "volumes": [{"name": "own", "configMap": {"name": "own"}}],
                "volume_mounts": [{"name": "own", "mountPath": "/etc/own"}],
                "node_selector": {"gpu": "h100"},
                "image_pull_secrets": ["registry"],
            },
        ),
        ({"ports": [{"containerPort": 9000}], "args": [*FLAGS, "--port=9000"]}, {"port": 9000}),
        (
            {"resources": {"limits": {GPU: "2", "memory": "80Gi"}, "requests": {GPU: "2", "cpu": "8"}}},
            {"resources": {"limits": {"memory": "80Gi"}, "requests": {"cpu": "8"}}},
        ),
        # A script of its own is kept.
        (
            {"command": ["/bin/sh", "-c"], "args": ["exec vllm serve x"]},
            {"name": "name", "source": "hf://ORG/NAME", "command": ["/bin/sh", "-c"], "args": ["exec vllm serve x"]},
        ),
    ],
)
def test_the_entry_that_describes_a_workload(changed: dict[str, Any], expected: dict[str, Any]) -> None:
    assert entry(server(**changed)) == {**PLAIN, **expected}


def test_prefill_and_decode() -> None:
    proxy = {
        "name": "routing-proxy",
        "image": "ghcr.io/llm-d/llm-d-router-disagg-sidecar:v0.11.0",
        "args": ["--port=8000", "--model-server-port=8200", "--kv-connector=nixlv2"],
    }
    prefill = server("prefill", resources={"limits": {GPU: "1"}}, env=[{"name": "A", "value": "b"}])
    decode = server(args=[*FLAGS, "--port=8200"], pod={"initContainers": [proxy]}, env=[{"name": "A", "value": "b"}])
    prefill["spec"]["replicas"] = 4
    assert entry(prefill, decode) == {
        "name": "qwen3-32b",
        "source": "hf://Qwen/Qwen3-32B",
        "engine": "vllm",
        "topology": "disaggregated",
        "env": {"A": "b"},
        "prefill": {"replicas": 4, "gpus": 1},
        "decode": {"replicas": 2, "gpus": 2},
        "route": {"default": True},
    }


@pytest.mark.parametrize(
    ("routes", "expected"),
    [
        ([route()], {"default": True}),
        ([route({"path": {"value": "/"}})], {"default": True}),
        ([route({"path": {"value": "/qwen/"}})], {"path": "/qwen"}),
        ([route({"headers": [{"name": "model", "value": "q"}]})], {"header": {"name": "model", "value": "q"}}),
        ([route(name="other")], None),
    ],
)
def test_by_what_requests_find_it(routes: list[dict[str, Any]], expected: dict[str, Any] | None) -> None:
    assert entry(server(), routes=routes).get("route") == expected
    assert ("No route leads to it." in notes(server(), routes=routes)) is (expected is None)


@pytest.mark.parametrize(
    ("changed", "note"),
    [
        ({"image": "example.com/own:1", "command": ["own"]}, "example.com/own:1 is none of the engines that are known"),
        ({"image": "vllm/vllm-openai:nightly"}, "vllm/vllm-openai:nightly does not tell the engine's version"),
        ({"readinessProbe": None}, "It has no readiness probe; ours has."),
        ({"pod": {"serviceAccountName": "ms"}}, "Pods have service account ms; engines need none, and ours have none."),
        ({"command": ["/bin/sh", "-c"], "args": ["x"]}, "Its command is a script or another program: it is kept"),
    ],
)
def test_what_the_entry_cannot_say(changed: dict[str, Any], note: str) -> None:
    (found,) = notes(server(**changed))
    assert found.startswith(note)


def test_flags_of_a_command_line() -> None:
    line = ["vllm", "serve", "--a=b", "--c", "d", "e", "--f", '--g="h i"']
    assert flags_of(line) == ({"a": "b", "c": ["d", "e"], "f": True, "g": "h i"}, ["vllm", "serve"])


@pytest.mark.parametrize(
    ("name", "expected"),
    [("Qwen2.5-0.5B-Instruct", "qwen2-5-0-5b-instruct"), ("7B", "b"), ("a" * 50, "a" * 40), ("-", "model")],
)
def test_names_of_models(name: str, expected: str) -> None:
    assert slug(name) == expected


def picker(image: str) -> dict[str, Any]:
    labels = {"inferencepool": "gaie-epp"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "epp", "image": image}]}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "gaie-epp", "namespace": "llm"},
        "spec": {"selector": {"matchLabels": labels}, "template": template},
    }


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("ghcr.io/llm-d/llm-d-inference-scheduler:v0.7.1", "llm-d-0.6"),
        ("mirror.example.com/llm-d/llm-d-inference-scheduler:v0.5.0", "llm-d-0.6"),
        ("ghcr.io/llm-d/llm-d-router-endpoint-picker:v0.10.0", "llm-d-0.9"),
        # Of none of them: the inventory's, where it is of the same kind.
        ("ghcr.io/llm-d/llm-d-router-endpoint-picker:v0.12.0", "llm-d-0.10"),
        ("example.com/own:1", "llm-d-0.10"),
    ],
)
def test_the_release_that_runs_already(image: str, expected: str) -> None:
    assert release_like(picker(image), CATALOGUE["releases"], "llm-d-0.10") == expected
    assert release_like(None, CATALOGUE["releases"], "llm-d-0.10") == "llm-d-0.10"


def chart() -> list[dict[str, Any]]:
    """What stands in for llm-d's modelservice chart, as it is in the cluster."""
    objects = list(yaml.safe_load_all((ROOT / "molecule/default/modelservice/templates/decode.yaml").read_text()))
    for item in objects:
        item["metadata"]["namespace"] = "llm"
    return objects


def deployment(*servers: dict[str, Any], **changed: Any) -> dict[str, Any]:
    names = [f"{item['kind']} llm/{item['metadata']['name']}" for item in (POOL, *servers)]
    found = {"pool": POOL, "picker": None, "servers": list(servers), "routes": [route()], "releases": []}
    return {**found, "objects": [*names, "ServiceAccount llm/ms"], "taken": False, **changed}


def test_side_by_side() -> None:
    _account, decode = chart()
    given = settings(release="llm-d-0.6", namespace="llm", stack="llm")
    shown = report(deployment(decode, releases=["gaie", "ms"]), given, CATALOGUE)
    assert shown["variables"] == {
        "llm_d_namespace": "llm",
        "llm_d_release": "llm-d-0.6",
        "llm_d_gateway_name": "gate",
        "gaie_gateway_namespace": "edge",
        "llm_d_hf_token_secret": "llm-d-hf-token",
    }
    rows = {row["what"]: (row["now"], row["ours"]) for row in shown["rows"]}
    assert rows["image"] == ("docker.io/lmsysorg/sglang:v0.5.6.post2-runtime", "same")
    assert rows["port"] == ("8200", "same")
    assert rows["routing proxy connector"] == ("nixlv2", "same")
    assert rows["liveness probe"] == ("/health on 8200, every 10 s, 3 times", "/health on 8200, every 30 s, 5 times")
    assert rows["env[HF_HOME]"] == ("/model-cache", "/cache/huggingface")
    assert rows["selector[llm-d.ai/guide]"] == ("multi-engine", "")
    assert rows["pool"] == ("gaie", "qwen2-5-0-5b-instruct")
    assert "env[HF_TOKEN]" not in rows
    # What ours refuses is told, and compared all the same.
    (finding,) = shown["findings"]
    assert "SGLang does not speak 'nixlv2'. Use sglang" in finding
    fates = {fate["object"].split("/")[1]: fate["fate"] for fate in shown["fates"]}
    assert fates["ms-multi-engine-llm-d-modelservice-decode"] == (
        "goes on until pods of Deployment llm/qwen2-5-0-5b-instruct-sglang serve: name, selector, arguments, probe, env, "
        "volumes, labels differ"
    )
    assert fates["gaie"] == fates["ms"] == "goes when nothing needs it any more"
    told = text([shown], "llm")
    assert told.startswith("InferencePool llm/gaie, made by Helm's gaie, ms\n")
    assert yaml.safe_load(told.partition("For the inventory:")[2])["llm_d_models"] == [shown["entry"]]


def test_a_model_of_the_inventory_is_what_is_compared() -> None:
    mine = {"name": "mine", "source": "hf://Qwen/Qwen3-32B", "engine": "vllm", "gpus": 4}
    shown = report(deployment(server()), {**settings(), "models": [{"name": "other"}, mine]}, CATALOGUE)
    assert (shown["model"], shown["listed"]) == ("mine", True)
    rows = {row["what"]: (row["now"], row["ours"]) for row in shown["rows"]}
    assert rows["resources"] == (f"{GPU}=2", f"{GPU}=4")
    assert "The inventory has this model. As it runs, it would be" in text([shown], "llm")


def test_what_is_as_ours_would_be_keeps_its_pods() -> None:
    """Not even a selector differs: an earlier version of this stack, say, whose labels somebody has lost."""
    given = settings({}, namespace="llm", stack="llm")
    (model,) = resolved({**PLAIN}, namespace="llm", stack="llm")["models"]
    (ours,) = [item for item in compose("llm", "llm", model, MODEL_OPTIONS) if item["kind"] == "Deployment"]
    shown = report(deployment(ours), {**given, "models": [{**PLAIN}]}, CATALOGUE)
    assert shown["fates"][0]["fate"].startswith(
        "stays, and its pods with it: they are as ours would be. Leave it out of "
    )


def test_nothing_there() -> None:
    assert text([], "llm") == "Namespace llm has no InferencePool of somebody else: there is nothing to take over."
    shown = report(deployment(), settings(), CATALOGUE)
    assert "There is no model server" not in text([shown], "llm")
    assert "No workload has pods that it selects: there is no model server to take over." in text([shown], "llm")


OURS = {"app.kubernetes.io/managed-by": "llm_d.multi_engine"}
STACK = "multi-engine.llm-d.ai/stack"


def labelled(item: dict[str, Any], labels: dict[str, str]) -> dict[str, Any]:
    return {**item, "metadata": {**item["metadata"], "labels": labels}}


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        ({}, [False]),
        (OURS, []),
        ({**OURS, STACK: "llm", "multi-engine.llm-d.ai/adopted-from": "helm.gaie"}, [True]),
        ({**OURS, STACK: "other", "multi-engine.llm-d.ai/adopted-from": "helm.gaie"}, [False]),
    ],
)
def test_pools_of_somebody_else(labels: dict[str, str], found: list[bool]) -> None:
    cluster = FakeCluster(labelled(POOL, labels), server())
    deployments = Deployments(cluster, "llm", "llm").all()
    assert [one["taken"] for one in deployments] == found
    assert all([item["metadata"]["name"] for item in one["servers"]] == ["baseline-decode"] for one in deployments)


def test_what_belongs_to_another_stack_is_not_taken() -> None:
    cluster = FakeCluster(POOL, labelled(server(), {STACK: "other"}))
    (found,) = Deployments(cluster, "llm", "llm").all()
    with pytest.raises(ClusterError, match=r"Deployment llm/baseline-decode \(stack other\)"):
        Takeover(cluster, "llm", dry_run=False).take(found, "qwen")
    assert not cluster.applied


def test_pools_that_are_not_there() -> None:
    with pytest.raises(ClusterError, match="llm has no InferencePool b of somebody else; it has: a"):
        refuse_unknown({"b": "qwen"}, {"a": {}}, "llm")
