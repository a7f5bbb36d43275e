"""llm-d's own routing proxy: between prefill and decode pods, and in front of an engine that does both.

No endpoint picker that could choose a prefill pod is to be had here. GAIE's chooses the decode pod, and the tests name
the prefill pod in the header that llm-d's picker would set.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.llm_d.multi_engine.molecule.site.tests.tools import (
    PICKED,
    ROOT,
    Client,
    Kube,
    eventually,
)
from ansible_collections.llm_d.multi_engine.plugins.module_utils.marks import TRACK_LABEL
from ansible_collections.llm_d.multi_engine.tests.load.load import Load

HEADER = "x-prefiller-host-port"
#: API groups of InferencePools.
V1, LEGACY = "inference.networking.k8s.io", "inference.networking.x-k8s.io"
DEFINITION = f"inferencepools.{LEGACY}"
RELEASES = ROOT / "roles/inference_engine/vars/releases"


def own_release(folder: Path) -> Path:
    """Write a release for disaggregated models that needs no llm-d picker, and return its path.

    The proxy that can be built here understands the selector of no v1 pool, but that of the ones before.
    """
    release = yaml.safe_load((RELEASES / "gaie-1.5.yml").read_text())["gaie-1.5"]
    picker, proxy = release["endpoint_picker"], release["routing_proxy"]
    picker["config"]["disaggregated"] = picker["config"]["aggregated"]
    picker["deciders"] = {"none": {"plugin": {"type": "none"}}}
    proxy["arguments"] = [argument.replace(V1, LEGACY) for argument in proxy["arguments"]]
    assert f"--pool-group={LEGACY}" in proxy["arguments"]
    path = folder / "own.yml"
    path.write_text(yaml.safe_dump({"own": release}))
    return path


def legacy_pools() -> list[dict[str, Any]]:
    """Return pools of the prefill pods as the proxy reads them, and the definition, which GAIE 1.5 has no more."""
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    names = {"kind": "InferencePool", "plural": "inferencepools", "singular": "inferencepool"}
    version = {"name": "v1alpha2", "served": True, "storage": True, "schema": schema}
    definition = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": DEFINITION,
            # Kubernetes wants somebody to have agreed.
            "annotations": {"api-approved.kubernetes.io": "unapproved, for a test"},
        },
        "spec": {"group": LEGACY, "names": names, "scope": "Namespaced", "versions": [version]},
    }
    pools = [
        {
            "apiVersion": f"{LEGACY}/v1alpha2",
            "kind": "InferencePool",
            "metadata": {"name": pool, "namespace": "pairs"},
            "spec": {"selector": {"llm-d.ai/model": model, "llm-d.ai/role": "prefill"}},
        }
        # A rollout that goes to a pool of its own gives it this name.
        for pool, model in (("finch", "finch"), ("wren", "wren"), ("wren-canary", "wren"))
    ]
    return [definition, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "pairs"}}, *pools]


@pytest.fixture(scope="module")
def pairs(ansible, kube, stand_ins, tmp_path_factory) -> Iterator[Any]:
    """The stack of disaggregated models; call it to run it again."""
    folder = tmp_path_factory.mktemp("release")
    release, pools = own_release(folder), folder / "pools.yml"
    definition, *rest = legacy_pools()
    for objects in ([definition], rest):
        pools.write_text(yaml.safe_dump_all(objects))
        kube("apply", "--server-side", "-f", str(pools))
        kube("wait", "--for=condition=Established", f"crd/{DEFINITION}")

    def run(**variables: Any) -> Any:
        return ansible("disaggregated", "models", llm_d_release=str(release), **variables)

    run().ok()
    yield run
    kube("delete", "namespace", "pairs", "--wait=false")
    kube("delete", "crd", DEFINITION, "--wait=false")


@pytest.fixture(scope="module")
def gate(pairs, stand_ins) -> Client:
    """The gateway that both models are behind."""
    return stand_ins.client


def pod(kube: Kube, model: str, role: str) -> dict:
    return kube.pods("pairs", model=model, role=role)[0]


def address(pod: dict, port: int = 8000) -> str:
    return f"{pod['status']['podIP']}:{port}"


def client(pod: dict, port: int = 8000) -> Client:
    return Client(pod["status"]["podIP"], port)


def met(kube: Kube, pod: dict) -> dict[str, str]:
    """Return where the last request of an engine met its other side: what its log says."""
    name = pod["metadata"]["name"]
    log = kube("logs", "-n", "pairs", name, "-c", "model-server")
    found = re.findall(r"bootstrap_host='(.*?)', bootstrap_port=(\d+), bootstrap_room=(\d+)", log)
    return dict(zip(("host", "port", "room"), found[-1], strict=True)) if found else {}


def test_each_side_has_its_pods(pairs, kube) -> None:
    assert len(kube.pods("pairs", model="finch", role="prefill")) == 2
    assert len(kube.pods("pairs", model="finch", role="decode")) == 1
    for model in ("finch", "wren"):
        assert "initContainers" not in pod(kube, model, "prefill")["spec"]
        (proxy,) = pod(kube, model, "decode")["status"]["initContainerStatuses"]
        assert (proxy["name"], proxy["ready"], proxy["restartCount"]) == ("routing-proxy", True, 0)


def test_both_sides_meet_in_one_room(gate, kube) -> None:
    prefill, decode = pod(kube, "finch", "prefill"), pod(kube, "finch", "decode")
    rooms = set()
    for _ in range(2):
        answer = gate.complete("birds/finch", "/finch", headers={HEADER: address(prefill)})
        assert answer.status == 200, answer
        assert answer.json["choices"]
        # It came by the picker, too.
        assert answer.headers[PICKED] == "true"
        # The proxy does not wait for the prefill side.
        eventually(lambda: met(kube, prefill) and met(kube, prefill) == met(kube, decode))
        where = met(kube, decode)
        assert (where["host"], where["port"]) == (prefill["status"]["podIP"], "9998")
        rooms.add(where["room"])
    assert len(rooms) == 2


def test_clients_cannot_name_what_is_no_prefill_pod_of_the_model(gate, kube) -> None:
    decode, other = pod(kube, "finch", "decode"), pod(kube, "wren", "prefill")
    for target in (address(decode), address(other), "169.254.169.254:80"):
        answer = gate.complete("birds/finch", "/finch", headers={HEADER: target})
        assert answer.status == 403, answer


def test_decode_pods_of_sglang_refuse_what_nobody_prefilled(gate) -> None:
    answer = gate.complete("birds/finch", "/finch")
    assert answer.status == 400
    assert b"without bootstrap room id" in answer.body


def test_the_prefill_side_is_where_it_says(pairs, kube) -> None:
    prefill = pod(kube, "finch", "prefill")
    assert client(prefill, 9998).ask("/health").body == b"OK"


def finished(kube: Kube, pod: dict) -> int:
    """Return how many requests a pod of vLLM has finished."""
    counter = re.compile(r"^vllm:request_success_total{.*} ([\d.]+)", re.MULTILINE)
    return int(sum(map(float, counter.findall(kube.through(pod, "/metrics")))))


def prefills_and_decodes(gate: Client, kube: Kube) -> None:
    """Assert that both sides of the model on vLLM work on a request."""
    pods = pod(kube, "wren", "prefill"), pod(kube, "wren", "decode")
    before = [finished(kube, pod) for pod in pods]
    answer = gate.complete("birds/wren", "/wren", headers={HEADER: address(pods[0])})
    assert answer.status == 200, answer
    assert [finished(kube, pod) for pod in pods] == [count + 1 for count in before]


def test_vllm_prefills_and_decodes(gate, kube) -> None:
    prefills_and_decodes(gate, kube)


def test_a_second_run_changes_nothing(pairs) -> None:
    pairs().ok(changed=False)


def test_both_sides_are_changed_together_behind_a_pool_of_their_own(pairs, gate, kube) -> None:
    variables = yaml.safe_load((ROOT / "molecule/site/disaggregated/group_vars/all.yml").read_text())
    finch, wren = variables["llm_d_models"]
    wanted = [finch, {**wren, "context_length": 2048, "rollout": {"strategy": "surge", "hold_seconds": 2}}]
    targets = [{"model": "birds/wren", "path": "/wren", "stream": stream} for stream in (False, True)] * 2
    # 800 tokens take 8 s, longer than the switch.
    targets.append({**targets[1], "max_tokens": 800})
    old = kube.get("pairs", "httproute", "wren")["metadata"]["generation"]
    with Load(f"http://{gate.address}", targets) as load:
        pairs(llm_d_models=wanted).ok(changed=True)
    load.unharmed(50)

    route = kube.get("pairs", "httproute", "wren")
    assert {backend["name"] for rule in route["spec"]["rules"] for backend in rule["backendRefs"]} == {"wren-canary"}
    # The route has switched once, whole.
    assert route["metadata"]["generation"] == old + 1
    # One decode pod, one prefill pod, and nothing of the old ones or of what the new ones were tried by.
    assert {item["metadata"]["labels"][TRACK_LABEL] for item in kube.pods("pairs", model="wren")} == {"canary"}
    assert "wren-try" not in kube("get", "-n", "pairs", "httproute", "-o", "name")
    prefills_and_decodes(gate, kube)
    pairs(llm_d_models=wanted).ok(changed=False)


@pytest.fixture(scope="module")
def heron(ansible, kube) -> Iterator[dict]:
    """The pod of an aggregated model behind the proxy as the shipped release has it."""
    ansible("proxied", "models", options="--tags model_service").ok()
    (pod,) = kube.pods("proxied", model="heron")
    yield pod
    kube("delete", "namespace", "proxied", "--wait=false")


def test_an_engine_behind_the_proxy(heron) -> None:
    assert client(heron).complete("birds/heron").status == 200
    # The engine itself, for probes and metrics.
    assert client(heron, 8200).ask("/ready").status == 200
    # What the endpoint picker reads comes through the proxy, too.
    assert b"sglang:num_running_reqs" in client(heron).ask("/metrics").body


def test_clients_cannot_send_the_proxy_anywhere(heron, kube) -> None:
    dns = kube.get("kube-system", "service", "kube-dns")["spec"]["clusterIP"]
    for target in (f"{dns}:9153", "169.254.169.254:80"):
        answer = client(heron).complete("birds/heron", headers={HEADER: target})
        assert answer.status == 403, answer


def test_the_engine_has_no_credentials(heron, kube) -> None:
    mounts = {
        container["name"]: [mount["mountPath"] for mount in container["volumeMounts"]]
        for container in heron["spec"]["containers"] + heron["spec"]["initContainers"]
    }
    secrets = "/var/run/secrets/kubernetes.io/serviceaccount"
    assert secrets in mounts["routing-proxy"]
    assert secrets not in mounts["model-server"]
