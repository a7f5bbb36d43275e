"""A deployment that llm-d's charts made is taken over, and changed to ours while requests come in: nobody notices."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from ansible_collections.llm_d.multi_engine.molecule.site.tests.tools import STATE, Client, cluster_ip, eventually
from ansible_collections.llm_d.multi_engine.tests.load.load import Load

NAMESPACE, GATEWAY, POOL = "adopted", "infra-multi-engine-inference-gateway", "gaie-multi-engine"
MODEL, IMAGE = "birds/swallow", "localhost/llm-d-multi-engine/stand-in-vllm:1"
LABELS = {"llm-d.ai/guide": "multi-engine", "llm-d.ai/inference-serving": "true"}
SERVER = "ms-multi-engine-llm-d-modelservice-decode"
#: Of the real chart: what is not its default is what this machine needs.
VALUES = {
    "inferenceExtension": {
        "image": {"tag": "v1.5.0", "pullPolicy": "IfNotPresent"},
        "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "1Gi"}},
    },
    # For SGLang the chart gives this picker options that it refuses.
    "inferencePool": {"modelServerType": "vllm", "modelServers": {"matchLabels": LABELS}},
    "provider": {"name": "istio"},
    "experimentalHttpRoute": {"enabled": True, "inferenceGatewayName": GATEWAY},
}
#: As llm-d's modelservice chart makes it, without what a GPU needs. It has no hook that lets requests end before SIGTERM.
CONTAINER = {
    "name": "vllm",
    "image": IMAGE,
    "command": ["vllm", "serve"],
    "args": [MODEL, "--host", "0.0.0.0", "--port", "8000", "--max-model-len", "1024"],
    "env": [
        {"name": "STAND_IN_LOAD_SECONDS", "value": "0.5"},
        {"name": "STAND_IN_WARMUP_SECONDS", "value": "0.5"},
        {"name": "STAND_IN_TOKEN_SECONDS", "value": "0.03"},
    ],
    "ports": [{"containerPort": 8000}],
    "readinessProbe": {"httpGet": {"path": "/health", "port": 8000}, "periodSeconds": 1},
}
#: Two of them outlive the change of whom they were sent to, who ends at once when it is told to: 500 tokens take 15 s.
TARGETS = [{"model": MODEL}, *[{"model": MODEL, "stream": True, "max_tokens": count} for count in (8, 500, 500)]]


def manifests() -> list[dict]:
    """Return what a guide would have somebody apply beside the chart."""
    place = {"namespace": NAMESPACE}
    gateway = {"gatewayClassName": "istio", "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]}
    annotations = {"networking.istio.io/service-type": "ClusterIP"}
    labels = {**LABELS, "llm-d.ai/role": "decode"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [CONTAINER]}}
    spec = {"replicas": 2, "selector": {"matchLabels": labels}, "template": template}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "Gateway",
            "metadata": {"name": GATEWAY, "annotations": annotations, **place},
            "spec": gateway,
        },
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": SERVER, **place}, "spec": spec},
    ]


@pytest.fixture
def deployed(kube, host, tmp_path: Path) -> Iterator[Client]:
    """The deployment, and a client of its gateway."""
    (tmp_path / "manifests.yml").write_text(yaml.safe_dump_all(manifests()))
    (tmp_path / "values.yml").write_text(yaml.safe_dump(VALUES))
    kube("delete", "namespace", NAMESPACE, "--ignore-not-found")
    kube("apply", "-f", str(tmp_path / "manifests.yml"))
    helm = f"{STATE}/bin/helm --kubeconfig {STATE}/kubeconfig -n {NAMESPACE}"
    done = host.run(f"{helm} install {POOL} {STATE}/charts/inferencepool-1.5.0.tgz -f {tmp_path}/values.yml")
    assert done.rc == 0, done.stderr
    kube("rollout", "status", "-n", NAMESPACE, "deployment", f"{POOL}-epp", SERVER, "--timeout=60s")
    kube("wait", "-n", NAMESPACE, "gateway", GATEWAY, "--for=condition=Programmed", "--timeout=60s")
    client = Client(cluster_ip(kube, NAMESPACE, f"{GATEWAY}-istio"))
    eventually(lambda: answers(client))
    yield client
    kube("delete", "namespace", NAMESPACE, "--wait=false")


def answers(client: Client) -> bool:
    try:
        return client.complete(MODEL).status == 200
    except OSError:
        return False


def servers(kube) -> dict[str, int]:
    """Return by workload how many pods that are not going away answer."""
    found: dict[str, int] = {}
    for pod in kube.pods(NAMESPACE, inference_serving="true"):
        name = pod["metadata"]["name"].rsplit("-", 2)[0]
        found[name] = found.get(name, 0) + all(status["ready"] for status in pod["status"]["containerStatuses"])
    return found


def adopted(kube) -> set[str]:
    """Return what there is of what was taken over."""
    kinds = "deploy,svc,sa,cm,role,rolebinding,inferencepool,httproute,destinationrule"
    labels = "multi-engine.llm-d.ai/adopted-from"
    return set(kube("get", kinds, "-n", NAMESPACE, "-l", labels, "-o", "name").split())


def test_ours_takes_the_place_of_what_the_charts_made(ansible, kube, deployed) -> None:
    place = {"llm_d_namespace": NAMESPACE, "llm_d_stack": NAMESPACE, "llm_d_engine_profiles": []}
    looked = ansible("stand-ins", "adopt", **place, llm_d_models=[]).ok(changed=False)
    ((found,),) = [result["adoption"] for _name, result in looked.results if "adoption" in result]
    entry = {**found["entry"], "engine_version": "0.32.0", "rollout": {"hold_seconds": 1}}
    assert entry["route"] == {"default": True}
    name = entry["name"]
    variables = {**place, **found["variables"], "llm_d_models": [entry]}
    with Load(f"http://{deployed.address}", TARGETS) as load:
        ansible("stand-ins", "adopt", **place, llm_d_models=[], adopt_take={POOL: name}).ok(changed=True)
        before = adopted(kube)
        assert {f"deployment.apps/{SERVER}", f"httproute.gateway.networking.k8s.io/{POOL}"} <= before

        shown = ansible("stand-ins", "models", options="--check --diff", **variables).ok(changed=True)
        (plan,) = [result for task, result in shown.results if task.endswith("One model after the other")]
        words = plan["results"][0]["words"]
        assert words[0].startswith(f"Model {name}: adopted ({IMAGE}) -> vllm 0.32.0, strategy surge.")
        assert words[2] == f"2. lead HTTPRoute {POOL} there, for 1 s"
        assert (servers(kube), adopted(kube)) == ({SERVER: 2}, before)

        unfit = {**variables, "llm_d_models": [{**entry, "image": "localhost/llm-d-multi-engine/nothing:1"}]}
        message = ansible("stand-ins", "models", **unfit, rollout_timeout=5).failed()
        assert f"Model {name} stays on adopted ({IMAGE}), and lost no request." in message
        assert f"Deployment {NAMESPACE}/{name}-vllm: 0 of 2 pods are ready" in message
        assert (servers(kube), adopted(kube)) == ({SERVER: 2}, before)

        ansible("stand-ins", "models", **variables).ok(changed=True)
        assert (servers(kube), adopted(kube)) == ({f"{name}-vllm": 2}, set())
        ansible("stand-ins", "models", **variables).ok(changed=False)
    load.unharmed()
    assert "No model has a revision to go back to" in ansible("stand-ins", "rollback", **place).failed()
    # The Gateway is somebody else's.
    ansible("stand-ins", "status", **variables, stack_status_roles=["gaie", "model_service"]).ok()
    left = json.loads(kube("get", "httproute,inferencepool", "-n", NAMESPACE, "-o", "json"))["items"]
    assert {item["metadata"]["name"] for item in left} == {name}
