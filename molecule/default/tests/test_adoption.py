"""A deployment that llm-d's charts made: shown beside ours, and taken over without touching a pod."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import yaml
from ansible_collections.llm_d.multi_engine.plugins.module_utils.adopted import Adopted
from ansible_collections.llm_d.multi_engine.plugins.module_utils.adoption import Deployments, Takeover

STATE = Path("/var/lib/llm-d-embedded-api")
NAMESPACE = "adoption"
POOL, SERVER, PICKER = "gaie-multi-engine", "ms-multi-engine-llm-d-modelservice-decode", "gaie-multi-engine-epp"
RELEASES = ("gaie-multi-engine", "ms-multi-engine")
CHARTS = {
    "gaie-multi-engine": STATE / "charts/inferencepool-1.5.0.tgz",
    "ms-multi-engine": Path(__file__).parents[1] / "modelservice",
}
VALUES = {
    "inferenceExtension": {"image": {"tag": "v1.5.0"}},
    "inferencePool": {
        "modelServerType": "sglang",
        "modelServers": {"matchLabels": {"llm-d.ai/guide": "multi-engine", "llm-d.ai/inference-serving": "true"}},
        "targetPorts": [{"number": 8000}],
    },
    "provider": {"name": "istio"},
    "experimentalHttpRoute": {"enabled": True, "inferenceGatewayName": "infra-multi-engine-inference-gateway"},
}
#: What is not of the deployment and comes with a namespace.
GIVEN = {"kube-root-ca.crt", "default"}


def helm(program: str, *words: object) -> subprocess.CompletedProcess[str]:
    command = [STATE / "bin" / program, "--kubeconfig", STATE / "kubeconfig", "--namespace", NAMESPACE, *words]
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module", autouse=True)
def _nothing_left(api):
    """Others compare all that is in the cluster with what was there."""
    yield
    api.delete("namespace", NAMESPACE, "--wait=false")


@pytest.fixture
def deployed(api, tmp_path: Path, request: pytest.FixtureRequest):
    """What the charts make, by a Helm: the real one of GAIE, and one that makes what llm-d's does."""
    kinds = (
        "deployment,service,serviceaccount,configmap,role,rolebinding,secret,inferencepool,httproute,destinationrule"
    )
    # An interrupted run has left it.
    api.kubectl("delete", kinds, "-n", NAMESPACE, "--all")
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump(VALUES))
    for release in RELEASES:
        options = ["--values", values] if release == POOL else []
        done = helm(request.param, "install", release, CHARTS[release], "--create-namespace", *options)
        assert done.returncode == 0, done.stderr
    yield request.param
    api.kubectl("delete", kinds, "-n", NAMESPACE, "--all")


def objects(api) -> dict[str, dict]:
    """Return the deployment's objects as they are, without their labels and who wrote them."""
    kinds = "deployment,service,serviceaccount,configmap,role,rolebinding,inferencepool,httproute,destinationrule"
    found = {}
    for item in json.loads(api.kubectl("get", kinds, "-n", NAMESPACE, "-o", "json"))["items"]:
        metadata = item["metadata"]
        if metadata["name"] not in GIVEN:
            for key in ("labels", "managedFields", "resourceVersion"):
                metadata.pop(key, None)
            found[f"{item['kind']} {metadata['name']}"] = item
    return found


PLACE = {"llm_d_namespace": NAMESPACE, "llm_d_models": [], "llm_d_accelerator": "nvidia"}


@pytest.mark.parametrize("deployed", ["helm"], indirect=True)
@pytest.mark.usefixtures("deployed")
def test_looked_at_and_taken_over(ansible, api) -> None:
    earlier, before = api.objects(), objects(api)

    looked = ansible("adopt", **PLACE).ok(changed=0)
    (found,) = [result["adoption"] for _task, result in looked.results if "adoption" in result]
    (one,) = found
    assert (one["pool"], one["releases"], one["taken"]) == (f"InferencePool {NAMESPACE}/{POOL}", list(RELEASES), False)
    assert one["entry"] == {
        "name": "qwen2-5-0-5b-instruct",
        "source": "hf://Qwen/Qwen2.5-0.5B-Instruct",
        "engine": "sglang",
        "engine_version": "0.5.6.post2",
        "image_variant": "-runtime",
        "replicas": 2,
        "gpus": 1,
        "memory_fraction": 0.8,
        "engine_args": {"sglang": {"schedule-conservativeness": 0.3}},
        "routing_proxy": True,
        "connector": "nixlv2",
        "env": {"UCX_TLS": "cuda_ipc,cuda_copy,tcp"},
        "cache": {"size": "10Gi"},
        "probes": {
            "startup": {"httpGet": {"path": "/v1/models"}, "timeoutSeconds": 5},
            "readiness": {"httpGet": {"path": "/v1/models"}, "periodSeconds": 5, "timeoutSeconds": 1},
        },
        "route": {"default": True},
    }
    assert {fate["object"].replace(f"{NAMESPACE}/", "") for fate in one["fates"]} == before.keys()

    take = {"adopt_take": {POOL: one["model"]}}
    shown = ansible("adopt", options="--check --diff", **PLACE, **take).ok(changed=1)
    assert api.changed_since(earlier) == set()
    records = [f"Secret {NAMESPACE}/sh.helm.release.v1.{release}.v1" for release in RELEASES]
    assert {name.replace(f"{NAMESPACE}/", "") for name in shown.diffs} == {
        *before.keys(),
        *(name.replace(f"{NAMESPACE}/", "") for name in records),
    }
    assert all(lines for lines in shown.diffs.values())

    ansible("adopt", **PLACE, **take).ok(changed=1)
    # Generations, templates, everything but labels: no pod would notice.
    assert objects(api) == before
    ansible("adopt", **PLACE, **take).ok(changed=0)

    # Ours come beside it where there is room, which a cluster without nodes has not, and it is left alone.
    models = [{**one["entry"], "connector": "sglang"}]
    variables = {**PLACE, **one["variables"], "llm_d_hf_token_secret": "", "llm_d_models": models}
    refused = ansible("models", plain=True, **variables, llm_d_overrides=["no-devices"])
    said = "old and new beside each other need 2 nvidia.com/gpu more, and only 0 of 2 replicas find room"
    assert (refused.rc, said in refused.output) == (2, True), refused.output[-3000:]
    assert objects(api) == before


def test_what_is_as_ours_would_be_is_taken_as_it_is(ansible, api) -> None:
    # Ours, whose labels somebody has lost.
    mine = {"llm_d_namespace": NAMESPACE, "llm_d_models": [{"name": "lost", "source": "hf://Qwen/Qwen3-4B"}]}
    ansible("models", **mine).ok(changed=True)
    marks = ("app.kubernetes.io/managed-by-", "multi-engine.llm-d.ai/stack-", "app.kubernetes.io/part-of-")
    for kind in ("deployment", "inferencepool", "httproute"):
        api.kubectl("label", kind, "-n", NAMESPACE, "--all", *marks)
    before = objects(api)
    assert "Deployment lost-vllm" in before or "Deployment lost-sglang" in before

    refused = ansible("models", **mine)
    assert refused.rc == 2
    assert "adopt" in refused.message
    assert objects(api) == before
    adopt = dict.fromkeys(("gaie_adopt", "model_service_adopt", "rollout_adopt"), True)
    ansible("models", **mine, **adopt).ok(changed=True)
    # Generations and templates: no pod would notice.
    assert objects(api) == before
    ansible("models", **mine).ok(changed=0)


@pytest.mark.parametrize("deployed", ["helm3", "helm"], indirect=True)
def test_helm_takes_nothing_of_it_away_any_more(api, cluster, deployed: str) -> None:
    """Neither does an uninstall delete what was taken over, nor does an upgrade change it."""
    before = objects(api)
    (found,) = Deployments(cluster, NAMESPACE, NAMESPACE).all()
    Takeover(cluster, NAMESPACE, dry_run=False).take(found, "qwen")
    for release in RELEASES:
        assert "not found" in helm(deployed, "uninstall", release).stderr
        assert helm(deployed, "upgrade", "--install", release, CHARTS[release]).returncode
    assert objects(api) == before
    (taken,) = Deployments(cluster, NAMESPACE, NAMESPACE).all()
    assert taken["taken"]

    # Its route leads to ours and back, and nothing else of it is another; then all of it goes, but Helm's records.
    adopted = Adopted(cluster, (NAMESPACE, NAMESPACE, "qwen"), {})
    theirs, ours = {"pool": POOL, "port": 8000}, {"pool": "qwen", "port": 8000}
    ((route, led),) = adopted.lead(theirs, ours)
    assert [backend["name"] for rule in led["spec"]["rules"] for backend in rule["backendRefs"]] == ["qwen"]
    ((_led, back),) = adopted.lead(ours, theirs)
    assert back["spec"] == route["spec"]
    assert [item["metadata"]["name"] for item in adopted.servers()] == [SERVER]
    gone = {f"{item['kind']} {item['metadata']['name']}" for item in adopted.clear([route])}
    assert (gone, objects(api), adopted.warnings) == (before.keys(), {}, [])
