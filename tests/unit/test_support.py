"""What a support bundle holds, from what was read of a cluster."""

from __future__ import annotations

import base64
import io
import os
import stat
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from ansible_collections.llm_d.multi_engine.plugins.action.support_bundle import (
    collection_version,
    no_log_options,
    texts,
    vaulted,
    versions,
    without_vaulted,
)
from ansible_collections.llm_d.multi_engine.plugins.module_utils import support
from ansible_collections.llm_d.multi_engine.plugins.module_utils.cluster import ClusterError, Forbidden, Unreachable
from ansible_collections.llm_d.multi_engine.plugins.module_utils.redact import Redactor
from ansible_collections.llm_d.multi_engine.plugins.modules import support_bundle

STACK = {"multi-engine.llm-d.ai/stack": "llm-d"}
PASSWORD = "correct horse battery"
TOKEN = "Zx81Zx82Zx83Zx84"


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def item(kind: str, name: str, owner: str = "", labels: dict | None = None, **content: Any) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name, "namespace": "llm-d", "uid": f"{kind}/{name}", "labels": labels or {}}
    if owner:
        metadata["ownerReferences"] = [{"uid": owner, "name": owner.partition("/")[2]}]
    return {"kind": kind, "metadata": metadata, **content}


def test_what_was_made_from_objects_of_the_stack() -> None:
    chosen = [item("Deployment", "a"), item("Service", "a")]
    volumes = [{"persistentVolumeClaim": {"claimName": "weights"}}, {"emptyDir": {}}]
    candidates = [
        item("Pod", "a-1-x", "ReplicaSet/a-1", spec={"volumes": volumes}),
        item("ReplicaSet", "a-1", "Deployment/a"),
        item("EndpointSlice", "a-s", labels={"kubernetes.io/service-name": "a"}),
        item("PersistentVolumeClaim", "weights"),
        item("PersistentVolumeClaim", "theirs"),
        item("EndpointSlice", "b-s", labels={"kubernetes.io/service-name": "b"}),
        item("Pod", "b", "ReplicaSet/b", spec={}),
        item("Service", "a"),
    ]
    names = [found["metadata"]["uid"] for found in support.with_made(chosen, candidates)]
    assert sorted(names) == sorted(
        [
            "Deployment/a",
            "Service/a",
            "ReplicaSet/a-1",
            "Pod/a-1-x",
            "EndpointSlice/a-s",
            "PersistentVolumeClaim/weights",
        ]
    )


def test_secrets_that_a_pod_needs() -> None:
    spec = {
        "imagePullSecrets": [{"name": "pull"}],
        "volumes": [
            {"secret": {"secretName": "tls"}},
            {"secret": {"secretName": "maybe", "optional": True}},
            {"projected": {"sources": [{"secret": {"name": "part"}}, {"configMap": {"name": "x"}}]}},
        ],
        "containers": [
            {
                "envFrom": [{"secretRef": {"name": "all"}}, {"configMapRef": {"name": "x"}}],
                "env": [{"name": "A", "value": "b"}, {"name": "B", "valueFrom": {"secretKeyRef": {"name": "one"}}}],
            }
        ],
    }
    needed = {"pull": False, "tls": True, "maybe": False, "part": True, "all": True, "one": True}
    assert support.needed_secrets({"spec": spec}) == needed


def test_devices_of_nodes() -> None:
    node = {
        "metadata": {"name": "gpu-1", "labels": {"a": "b"}, "annotations": {"x": "y"}},
        "spec": {"taints": [{"key": "nvidia.com/gpu", "effect": "NoSchedule"}]},
        "status": {
            "capacity": {"nvidia.com/gpu": "8"},
            "nodeInfo": {"kubeletVersion": "v1.35.4", "containerRuntimeVersion": "containerd://2.1", "machineID": "m"},
        },
    }

    def pod(phase: str, on: str, gpus: str) -> dict[str, Any]:
        asked = {"nvidia.com/gpu": gpus, "memory": "1Gi", "cpu": "1"}
        return {
            "spec": {"nodeName": on, "containers": [{"resources": {"requests": asked}}]},
            "status": {"phase": phase},
        }

    pods = [pod("Running", "gpu-1", "2"), pod("Pending", "gpu-1", "1"), pod("Failed", "gpu-1", "4"), pod("", "b", "8")]
    (facts,) = support.node_facts([node], pods)
    assert facts["devices_in_use"] == {"nvidia.com/gpu": 3}
    assert facts["versions"] == {"kubeletVersion": "v1.35.4", "containerRuntimeVersion": "containerd://2.1"}
    assert (facts["taints"], facts["capacity"]) == (node["spec"]["taints"], {"nvidia.com/gpu": "8"})
    assert "devices_in_use" not in support.node_facts([node], None)[0]


def event(reason: str, at: str | None, kind: str = "Warning", **more: Any) -> dict[str, Any]:
    about = {"kind": "Pod", "name": "a", "namespace": "llm-d", "uid": "other"}
    return {"metadata": {}, "type": kind, "reason": reason, "lastTimestamp": at, "involvedObject": about, **more}


def test_events_in_the_order_of_time() -> None:
    events = [
        event("Last", "2026-01-03T00:00:00Z", message="two\n  lines", count=3),
        event("First", None, "Normal", eventTime="2026-01-01T00:00:00.5Z"),
        event("Middle", None, series={"lastObservedTime": "2026-01-02T00:00:00Z", "count": 2}),
        event("Never", None),
    ]
    assert support.events_text(events).splitlines() == [
        " Warning Never Pod llm-d/a: ",
        "2026-01-01T00:00:00.5Z Normal First Pod llm-d/a: ",
        "2026-01-02T00:00:00Z Warning Middle Pod llm-d/a:  (2 times)",
        "2026-01-03T00:00:00Z Warning Last Pod llm-d/a: two lines (3 times)",
    ]
    assert [line.split()[2] for line in support.warnings(events)[:2]] == ["Last", "Middle"]


def test_containers_and_their_runs() -> None:
    ended = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
    pod = item(
        "Pod",
        "a",
        spec={"initContainers": [{"name": "i"}], "containers": [{"name": "c"}, {"name": "d"}]},
        status={"containerStatuses": [{"name": "c", "restartCount": 2, "lastState": ended}, {"name": "d"}]},
    )
    assert support.container_runs(pod) == [("i", False), ("c", False), ("c", True), ("d", False)]
    assert support.restarts([pod]) == ["Pod llm-d/a, container c: 2 times, last with exit code 137 (OOMKilled)"]


def test_the_end_of_a_log() -> None:
    assert support.tail("a\nb\n", 10) == "a\nb\n"
    assert support.tail("first\nsecond\nthird\n", 14) == "(6 bytes before this were left out)\nsecond\nthird\n"


def test_names_of_files_stay_inside() -> None:
    assert support.file_name("logs", "llm-d", "../x y", "c.log") == "logs/llm-d/_x_y/c.log"


class Blind(Redactor):
    """Overlooks what it knows."""

    def scrub(self, text: str) -> str:
        return text


def test_a_file_with_a_secret_is_left_out() -> None:
    files = {"a.txt": "fine", "b.txt": f"as {TOKEN}", f"{TOKEN}.txt": "fine"}
    assert support.sealed(files, Redactor([TOKEN])) == ({"a.txt": "fine", "b.txt": "as (hidden)"}, ["(hidden).txt"])
    safe, left_out = support.sealed(files, Blind([TOKEN]))
    assert (safe, left_out) == ({"a.txt": "fine"}, ["b.txt", f"{TOKEN}.txt"])


def test_an_archive() -> None:
    data = support.archive({"z.txt": "käse", "a.txt": "", "index.md": "# x"}, "top", 1.0)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = tar.getmembers()
        assert [member.name for member in members] == ["top/index.md", "top/a.txt", "top/z.txt"]
        assert {member.mode for member in members} == {0o600}
        assert tar.extractfile("top/z.txt").read().decode() == "käse"


POD = item(
    "Pod",
    "qwen-1-x",
    "ReplicaSet/qwen-1",
    spec={"containers": [{"name": "model-server", "env": [{"name": "HF_TOKEN", "value": TOKEN}]}]},
    status={
        "containerStatuses": [
            {
                "name": "model-server",
                "restartCount": 4,
                "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                "lastState": {"terminated": {"exitCode": 1, "reason": "Error"}},
            }
        ]
    },
)
DEPLOYMENT = item(
    "Deployment",
    "qwen",
    labels=STACK,
    spec={"replicas": 1, "selector": {"matchLabels": {"app": "qwen"}}, "template": {"spec": {"containers": []}}},
    status={},
)
DEPLOYMENT["metadata"]["annotations"] = {"deployment.kubernetes.io/revision": "1"}
REPLICA_SET = item("ReplicaSet", "qwen-1", "Deployment/qwen")
REPLICA_SET["metadata"]["annotations"] = {"deployment.kubernetes.io/revision": "1"}
ISTIOD = {
    "metadata": {"name": "istiod", "namespace": "istio-system", "uid": "i"},
    "spec": {
        "replicas": 0,
        "selector": {"matchLabels": {"app": "istiod"}},
        "template": {"spec": {"containers": [{"image": "docker.io/istio/pilot:1.29.1"}]}},
    },
}
LOG = "/api/v1/namespaces/llm-d/pods/qwen-1-x/log"
KINDS = {
    "/apis": {
        "groups": [
            {
                "name": "apps",
                "preferredVersion": {"groupVersion": "apps/v1"},
                "versions": [{"groupVersion": "apps/v1"}],
            },
            {"name": "metrics.k8s.io", "versions": [{"groupVersion": "metrics.k8s.io/v1"}]},
        ]
    },
    "/api/v1": {
        "resources": [
            {"name": "pods", "kind": "Pod", "namespaced": True, "verbs": ["list"]},
            {"name": "pods/log", "kind": "Pod", "namespaced": True, "verbs": ["get"]},
            {"name": "secrets", "kind": "Secret", "namespaced": True, "verbs": ["list"]},
            {"name": "configmaps", "kind": "ConfigMap", "namespaced": True, "verbs": ["list"]},
            {"name": "bindings", "kind": "Binding", "namespaced": True, "verbs": ["create"]},
        ]
    },
    "/apis/apps/v1": {
        "resources": [
            {"name": "deployments", "kind": "Deployment", "namespaced": True, "verbs": ["list"]},
            {"name": "replicasets", "kind": "ReplicaSet", "namespaced": True, "verbs": ["list"]},
        ]
    },
}
ANSWERS: dict[str, Any] = {
    **KINDS,
    "/version": {"gitVersion": "v1.35.4"},
    "/apis/apps/v1/deployments?multi-engine.llm-d.ai/stack=llm-d": {"items": [DEPLOYMENT]},
    "/apis/apps/v1/deployments?app=istiod": {"items": [ISTIOD]},
    "/apis/apps/v1/namespaces/llm-d/replicasets": {"items": [REPLICA_SET]},
    "/api/v1/namespaces/llm-d/pods": {"items": [POD]},
    "/api/v1/namespaces/llm-d/secrets": {
        "items": [
            {
                "metadata": {"name": "ours", "namespace": "llm-d", "labels": STACK},
                "data": {"password": encoded(PASSWORD)},
            },
            {"metadata": {"name": "theirs", "namespace": "llm-d"}, "data": {"note": encoded("another secret")}},
        ]
    },
    "/api/v1/namespaces/llm-d/events": {
        "items": [event("Odd", "2026-01-01T00:00:00Z", message=f"said another secret and {encoded(PASSWORD)}")]
    },
    "/api/v1/nodes": {"items": [{"metadata": {"name": "gpu-1"}}]},
    "/apis/apiextensions.k8s.io/v1/customresourcedefinitions": {
        "items": [
            {"metadata": {"name": "gateways.gateway.networking.k8s.io", "annotations": {"x": "1.5.1"}}},
            {"metadata": {"name": "gateways.networking.istio.io"}},
            {"metadata": {"name": "certificates.cert-manager.io"}},
        ]
    },
}
TEXTS = {
    f"{LOG}?model-server": f"start\nlogged in as {TOKEN}\nmax-tokens: 128\n",
    f"{LOG}?model-server,previous": f"old run of {PASSWORD}\n",
}


class FakeCluster:
    """Answers what it was given, and nothing else; what is an exception is raised."""

    server = "https://cluster.example:6443"
    answers: dict[str, Any] = ANSWERS

    def __init__(self, _module: Any) -> None:
        pass

    def raw(self, _method: str, path: str, **query: str) -> dict | None:
        selector = query.get("labelSelector", "")
        answer = self.answers.get(f"{path}?{selector}" if selector else path, {"items": []})
        if isinstance(answer, Exception):
            raise answer
        return answer

    def text(self, path: str, **query: str) -> str:
        assert query["tailLines"] == "2000"
        answer = TEXTS[f"{path}?{query['container']}" + (",previous" if "previous" in query else "")]
        if isinstance(answer, Exception):
            raise answer
        return answer


PARAMS = {
    "stack": "llm-d",
    "namespaces": ["llm-d"],
    "resolved": {"release": {"name": "llm-d-0.10"}},
    "findings": "The inventory cannot work:\n- llm_d_models[0]: missing",
    "inputs": {"llm_d_hf_token": "(hidden)", "note": "given secret"},
    "versions": {"ansible-core": "2.21.5"},
    "secrets": ["given secret"],
    "log_lines": 2000,
    "log_bytes": 1 << 20,
}


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Run the module and return its result and the archive's files."""

    def run(check_mode: bool = False, cluster: Any = FakeCluster, **answers: Any) -> tuple[dict, dict[str, str]]:
        monkeypatch.setattr(support_bundle, "Cluster", cluster)
        monkeypatch.setattr(FakeCluster, "answers", {**ANSWERS, **answers})
        params = {**PARAMS, "dest": str(tmp_path / "out")}
        result = support_bundle.run(SimpleNamespace(params=params, check_mode=check_mode))
        if check_mode:
            return result, {}
        assert stat.S_IMODE(os.stat(result["path"]).st_mode) == 0o600
        assert [str(path) for path in (tmp_path / "out").iterdir()] == [result["path"]]
        with tarfile.open(result["path"]) as tar:
            files = {
                member.name.partition("/")[2]: tar.extractfile(member).read().decode() for member in tar.getmembers()
            }
        assert sorted(files) == result["files"]
        for text in files.values():
            for secret in (PASSWORD, "another secret", TOKEN, "given secret"):
                assert secret not in text
                assert encoded(secret) not in text
        return result, files

    return run


def test_a_bundle(made) -> None:
    result, files = made()
    assert result["changed"]
    assert result["missing"] == []
    assert set(files) == {
        "index.md", "versions.yaml", "nodes.yaml", "definitions.yaml",
        "inventory/inputs.yaml", "inventory/resolved.yaml", "inventory/findings.txt",
        "objects/llm-d/Deployment.apps.yaml", "objects/llm-d/ReplicaSet.apps.yaml", "objects/llm-d/Pod.yaml",
        "objects/llm-d/Secret.yaml", "istio/istio-system/Deployment.apps.yaml", "events/llm-d.txt",
        "logs/llm-d/qwen-1-x/model-server.log", "logs/llm-d/qwen-1-x/model-server.previous.log",
    }  # fmt: skip
    assert files["logs/llm-d/qwen-1-x/model-server.log"] == "start\nlogged in as (hidden)\nmax-tokens: 128\n"
    (secret,) = yaml.safe_load_all(files["objects/llm-d/Secret.yaml"])
    assert (secret["metadata"]["name"], secret["data"]) == ("ours", {"password": "(hidden, 21 bytes)"})
    assert yaml.safe_load(files["versions.yaml"]) == {
        "kubernetes": {"gitVersion": "v1.35.4"},
        "istio": {"Deployment istio-system/istiod": "docker.io/istio/pilot:1.29.1"},
        "release": "llm-d-0.10",
        "controller": {"ansible-core": "2.21.5"},
    }
    names = [definition["name"] for definition in yaml.safe_load_all(files["definitions.yaml"])]
    assert names == ["gateways.gateway.networking.k8s.io", "gateways.networking.istio.io"]
    assert yaml.safe_load(files["nodes.yaml"])["devices_in_use"] == {}
    assert yaml.safe_load(files["inventory/inputs.yaml"])["note"] == "(hidden)"


def test_the_index(made) -> None:
    _result, files = made()
    index = files["index.md"]
    assert index.startswith("# Support bundle of stack llm-d\n\nMade 2")
    assert "Kubernetes v1.35.4 at https://cluster.example:6443; namespaces llm-d; 4 objects." in index
    crash = "pod qwen-1-x, container model-server: restarted 4 times, last with exit code 1 (Error)"
    assert f"- Deployment llm-d/qwen: 0 of 1 pods are ready\n  - {crash}\n\n" in index
    assert "## The inventory\n\n- The inventory cannot work:\n  - llm_d_models[0]: missing\n\n" in index
    assert "- Pod llm-d/qwen-1-x, container model-server: 4 times, last with exit code 1 (Error)\n" in index
    assert "- 2026-01-01T00:00:00Z Warning Odd Pod llm-d/a: said (hidden) and (hidden)\n" in index
    assert "## Missing\n\nNothing.\n" in index
    assert "- logs/llm-d/qwen-1-x/model-server.log (44 bytes)\n" in index


def test_what_cannot_be_read_is_told_and_the_rest_is_there(made, monkeypatch: pytest.MonkeyPatch) -> None:
    no = Forbidden("No permission: x.")
    monkeypatch.setitem(TEXTS, f"{LOG}?model-server", ClusterError("The API server refused (400): is waiting to start"))
    monkeypatch.setitem(TEXTS, f"{LOG}?model-server,previous", "old run\n")
    labels = "?multi-engine.llm-d.ai/stack=llm-d"
    answers = {
        "/api/v1/namespaces/llm-d/secrets": no,
        "/api/v1/namespaces/llm-d/events": ClusterError("The API server refused (500): etcd"),
        "/api/v1/nodes": no,
        f"/api/v1/configmaps{labels}": no,
        f"/api/v1/namespaces/llm-d/configmaps{labels}": no,
        # Only the whole cluster may not be seen.
        f"/apis/apps/v1/deployments{labels}": no,
        f"/apis/apps/v1/namespaces/llm-d/deployments{labels}": {"items": [DEPLOYMENT]},
        "/apis/apps/v1/deployments?app=istiod": no,
    }
    result, files = made(**answers)
    assert sorted(result["missing"]) == sorted(
        [
            "no permission to list in namespace llm-d: configmaps",
            "Secrets of namespace llm-d, whose values could not be looked for therefore: No permission: x.",
            "events of namespace llm-d: The API server refused (500): etcd",
            "nodes: No permission: x.",
            "Istio's control plane: No permission: x.",
            "log of pod llm-d/qwen-1-x, container model-server: The API server refused (400): is waiting to start",
        ]
    )
    assert all(f"- {line}\n" in files["index.md"] for line in result["missing"])
    assert {"objects/llm-d/Deployment.apps.yaml", "objects/llm-d/Pod.yaml"} <= set(files)
    # A value that was found by its name is hidden all the same.
    assert TOKEN not in files["objects/llm-d/Pod.yaml"]


def test_credentials_that_nobody_accepts(made) -> None:
    refused = ClusterError("The API server does not accept the credentials")
    refused.__cause__ = Exception()
    refused.__cause__.status = 401
    told = ["everything of the cluster: The API server does not accept the credentials"]
    result, files = made(**{"/version": refused})
    assert result["missing"] == told
    assert "llm_d_models[0]: missing" in files["index.md"]


def nowhere(_module: Any) -> None:
    raise Unreachable("No Kubernetes API answers")


@pytest.mark.parametrize(
    ("cluster", "answers"), [(nowhere, {}), (FakeCluster, {"/version": Unreachable("No Kubernetes API answers")})]
)
def test_nobody_answers(made, tmp_path: Path, cluster: Any, answers: dict[str, Any]) -> None:
    with pytest.raises(Unreachable, match="No Kubernetes API answers"):
        made(cluster=cluster, **answers)
    assert list((tmp_path / "out").iterdir()) == []


def test_nothing_can_be_written(made, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(ClusterError, match="out: nothing can be written there: File exists"):
        made()


def test_check_mode_looks_at_nothing(made, tmp_path: Path) -> None:
    result, _files = made(check_mode=True, cluster=None)
    assert (result["changed"], result["files"]) == (True, [])
    assert result["path"].startswith(f"{tmp_path}/out/support-bundle-llm-d-2")
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_cleaned_is_left_out(made, monkeypatch: pytest.MonkeyPatch) -> None:
    class Sleepy(Redactor):
        """Overlooks in texts what it knows, except in the list of what is missing."""

        def scrub(self, text: str) -> str:
            return text

    monkeypatch.setattr(support_bundle, "Redactor", Sleepy)
    result, files = made()
    left_out = ["events/llm-d.txt", "index.md", "logs/llm-d/qwen-1-x/model-server.log"]
    assert [
        name for name in left_out if f"{name}: a secret could not be taken out of it" in result["missing"]
    ] == left_out
    assert "events/llm-d.txt" not in files
    assert files["index.md"] == "# Support bundle\n\nThis file was left out: a secret could not be taken out of it.\n"
    assert "objects/llm-d/Deployment.apps.yaml" in files


def test_a_log_that_was_cut_loses_its_last_line(made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(support_bundle, "LOG_LIMIT", 20)
    monkeypatch.setitem(TEXTS, f"{LOG}?model-server", f"first\nsecond {TOKEN[:9]}")
    _result, files = made()
    assert files["logs/llm-d/qwen-1-x/model-server.log"] == "first\n"


def test_secret_variables_of_the_collection() -> None:
    assert "model_service_hf_token" in no_log_options()


def test_versions_of_the_controller() -> None:
    found = versions()
    assert found["llm_d.multi_engine"].endswith("(a checkout)")
    assert found["kubernetes.core"].startswith("6.")
    assert collection_version("nobody.nothing") == "not installed"


def test_texts_and_encrypted_values_of_variables() -> None:
    class EncryptedString(str):
        """Known by its name only: which class it is depends on ansible-core."""

    assert texts({"a": ["b", 1, True, None], "c": {"d": "e"}}) == {"b", "1", "e"}
    assert vaulted({"a": [EncryptedString("x"), "y"]}) == {"x"}
    assert vaulted("plain") == set()
    assert without_vaulted({"a": [EncryptedString("x"), "y"], "b": 1}) == {"a": ["(hidden)", "y"], "b": 1}
