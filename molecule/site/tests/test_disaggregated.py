"""Prefill and decode pods: llm-d's own endpoint picker chooses one of each, and its routing proxy goes between them.

Both are of llm-d 0.6. Its picker is put together here without what it would need a tokenizer for, see the embedded
cluster's images. The proxy is in front of an engine that does both, too.
"""

from __future__ import annotations

import copy
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
from ansible_collections.llm_d.multi_engine.plugins.module_utils.marks import ENGINE_LABELS
from ansible_collections.llm_d.multi_engine.tests.load.load import Load

HEADER = "x-prefiller-host-port"
ROLES = ("prefill", "decode")
#: API groups of InferencePools.
V1, LEGACY = "inference.networking.k8s.io", "inference.networking.x-k8s.io"
DEFINITION = f"inferencepools.{LEGACY}"
RELEASES = ROOT / "roles/inference_engine/vars/releases"


#: As llm-d's guides for P/D, with the plugins' names and parameters of v0.7.1.
PICKER = """
apiVersion: inference.networking.x-k8s.io/v1alpha1
kind: EndpointPickerConfig
plugins:
  - '{decider}'
  - {type: disagg-headers-handler}
  - {type: disagg-profile-handler, parameters: {deciders: {prefill: '{decider_name}'}}}
  - {type: prefill-filter}
  - {type: decode-filter}
  - {type: queue-scorer}
  - {type: max-score-picker}
schedulingProfiles:
  - name: prefill
    plugins: [{pluginRef: prefill-filter}, {pluginRef: queue-scorer, weight: 1}, {pluginRef: max-score-picker}]
  - name: decode
    plugins: [{pluginRef: decode-filter}, {pluginRef: queue-scorer, weight: 1}, {pluginRef: max-score-picker}]
"""


def own_release(folder: Path) -> Path:
    """Write a release with llm-d's picker for disaggregated models on the cluster that is there, and return its path.

    The shipped one refuses them: its proxy understands the selector of no v1 pool, but that of the ones before.
    """
    named = ("gaie-1.5", "llm-d-0.6", "llm-d-0.10")
    release, older, newer = (yaml.safe_load((RELEASES / f"{name}.yml").read_text())[name] for name in named)
    picker, proxy = older["endpoint_picker"], release["routing_proxy"]
    picker["config"]["disaggregated"] = {"approximate-prefix": yaml.safe_load(PICKER)}
    picker["deciders"] = newer["endpoint_picker"]["deciders"]
    del picker["lacks"]["disaggregated"]
    proxy["arguments"] = [argument.replace(V1, LEGACY) for argument in proxy["arguments"]]
    assert f"--pool-group={LEGACY}" in proxy["arguments"]
    path = folder / "own.yml"
    path.write_text(yaml.safe_dump({"own": {**release, "endpoint_picker": picker}}))
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
        for model in ("finch", "wren")
        for pool in (model, f"{model}-canary")
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


def met(kube: Kube, pod: dict) -> list[dict[str, str]]:
    """Return where each request of an engine met its other side: what its log says."""
    log = kube("logs", "-n", "pairs", pod["metadata"]["name"], "-c", "model-server")
    found = re.findall(r"bootstrap_host='(.*?)', bootstrap_port=(\d+), bootstrap_room=(\d+)", log)
    return [dict(zip(("host", "port", "room"), one, strict=True)) for one in found]


def newest(kube: Kube, pod: dict, before: int) -> dict[str, str]:
    """Return where the request was met that came after ``before`` others, once its line is there."""
    eventually(lambda: len(met(kube, pod)) == before + 1)
    return met(kube, pod)[-1]


def test_each_side_has_its_pods(pairs, kube) -> None:
    assert len(kube.pods("pairs", model="finch", role="prefill")) == 2
    assert len(kube.pods("pairs", model="finch", role="decode")) == 1
    for model in ("finch", "wren"):
        assert "initContainers" not in pod(kube, model, "prefill")["spec"]
        (proxy,) = pod(kube, model, "decode")["status"]["initContainerStatuses"]
        assert (proxy["name"], proxy["ready"], proxy["restartCount"]) == ("routing-proxy", True, 0)


def test_both_sides_meet_in_one_room(gate, kube) -> None:
    prefills, decode = kube.pods("pairs", model="finch", role="prefill"), pod(kube, "finch", "decode")
    addresses, before = {prefill["status"]["podIP"] for prefill in prefills}, met(kube, decode)
    seen: list[dict[str, str]] = []
    # Of two that are equally empty the picker takes any.
    while {one["host"] for one in seen} != addresses and len(seen) < 40:
        answer = gate.complete("birds/finch", "/finch")
        assert answer.status == 200, answer
        assert answer.json["choices"]
        assert answer.headers[PICKED] == "true"
        seen.append(newest(kube, decode, len(before) + len(seen)))
        assert (seen[-1]["host"] in addresses, seen[-1]["port"]) == (True, "9998")
        # The proxy does not wait for the prefill side.
        (prefill,) = (one for one in prefills if one["status"]["podIP"] == seen[-1]["host"])
        eventually(lambda prefill=prefill, room=seen[-1]: room in met(kube, prefill))
    assert len({one["room"] for one in seen}) == len(seen)
    assert {one["host"] for one in seen} == addresses


def test_clients_cannot_name_a_prefill_pod(gate, kube) -> None:
    decode, other = pod(kube, "finch", "decode"), pod(kube, "wren", "prefill")
    own = {prefill["status"]["podIP"] for prefill in kube.pods("pairs", model="finch", role="prefill")}
    for target in (address(decode), address(other), "169.254.169.254:80"):
        # The picker puts its own choice in the place of theirs.
        before = len(met(kube, decode))
        answer = gate.complete("birds/finch", "/finch", headers={HEADER: target})
        assert answer.status == 200, answer
        assert newest(kube, decode, before)["host"] in own
        # Past the picker the proxy has pods of the model's pool only.
        answer = client(decode).complete("birds/finch", headers={HEADER: target})
        assert answer.status == 403, answer


def test_decode_pods_of_sglang_refuse_what_nobody_prefilled(pairs, kube) -> None:
    answer = client(pod(kube, "finch", "decode")).complete("birds/finch")
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
    answer = gate.complete("birds/wren", "/wren")
    assert answer.status == 200, answer
    assert [finished(kube, pod) for pod in pods] == [count + 1 for count in before]


def test_vllm_prefills_and_decodes(gate, kube) -> None:
    prefills_and_decodes(gate, kube)


def test_a_second_run_changes_nothing(pairs) -> None:
    pairs().ok(changed=False)


VARIABLES = yaml.safe_load((ROOT / "molecule/site/disaggregated/group_vars/all.yml").read_text())
#: What each engine has of its own in the inventory, and who is on it there.
OWN = ("engine", "engine_version", "image", "page_size", "disaggregation", "engine_args")
SGLANG, VLLM = ({key: model[key] for key in OWN if key in model} for model in VARIABLES["llm_d_models"])
ROLLOUT = {"strategy": "surge", "hold_seconds": 2}


def models(finch: dict[str, Any], wren: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    """Return the stack's models on these engines."""
    found = []
    for model, engine in zip(VARIABLES["llm_d_models"], (finch, wren), strict=True):
        rest = {key: value for key, value in model.items() if key not in OWN}
        found.append(copy.deepcopy({**rest, **engine, "rollout": ROLLOUT, **more}))
    return found


def serving(kube: Kube, model: str) -> tuple[set[str], set[str]]:
    """Return the engines of a model's pods, all of which are ready, and the pools that its route leads to."""
    pods = kube.pods("pairs", model=model)
    assert {role: sum(one["metadata"]["labels"]["llm-d.ai/role"] == role for one in pods) for role in ROLES} == {
        "prefill": 2 if model == "finch" else 1,
        "decode": 1,
    }
    assert all(status["ready"] for one in pods for status in one["status"]["containerStatuses"])
    route = kube.get("pairs", "httproute", model)
    backends = {backend["name"] for rule in route["spec"]["rules"] for backend in rule["backendRefs"]}
    return {one["metadata"]["labels"][ENGINE_LABELS[0]] for one in pods}, backends


@pytest.fixture
def load(gate) -> Load:
    """Requests to both models: plain ones, streams, and some of 8 s, longer than a switch."""
    targets = [
        {"model": f"birds/{name}", "path": f"/{name}", **more}
        for name in ("finch", "wren")
        for more in ({}, {"stream": True}, {"stream": True, "max_tokens": 800})
    ]
    return Load(f"http://{gate.address}", targets)


def test_engines_are_exchanged_under_traffic_and_back(pairs, kube, load) -> None:
    exchanged = models(VLLM, SGLANG)
    generations = {name: kube.get("pairs", "httproute", name)["metadata"]["generation"] for name in ("finch", "wren")}
    with load as requests:
        pairs(llm_d_models=exchanged).ok(changed=True)
        assert serving(kube, "finch") == ({"vllm"}, {"finch-canary"})
        assert serving(kube, "wren") == ({"sglang"}, {"wren-canary"})
        # Each route has switched once, whole, and what the new ones were tried by has gone.
        for name, before in generations.items():
            assert kube.get("pairs", "httproute", name)["metadata"]["generation"] == before + 1
        assert "-try" not in kube("get", "-n", "pairs", "httproute", "-o", "name")
        pairs(llm_d_models=exchanged).ok(changed=False)
        assert only_its_own(kube, "wren") > 10

        pairs(llm_d_models=models(SGLANG, VLLM)).ok(changed=True)
        assert serving(kube, "finch") == ({"sglang"}, {"finch"})
        assert serving(kube, "wren") == ({"vllm"}, {"wren"})
    requests.unharmed(100)
    assert only_its_own(kube, "finch") > 0


def only_its_own(kube: Kube, model: str) -> int:
    """Assert that no decode pod of SGLang met a prefill pod of another engine; return how often it met one."""
    own = {one["status"]["podIP"] for one in kube.pods("pairs", model=model, role="prefill", engine_type="sglang")}
    where = met(kube, pod(kube, model, "decode"))
    assert {one["host"] for one in where} <= own
    return len(where)


@pytest.mark.parametrize(
    ("unfit", "timeout", "said"),
    [
        ({"image": "localhost/llm-d-multi-engine/nothing:1"}, 5, "0 of 1 pods are ready"),
        ({"env": {**VARIABLES["llm_d_model_defaults"]["env"], "STAND_IN_FAIL_AFTER": 0}}, 120, "is answered 500"),
    ],
    ids=["it is never ready", "it fails its first completion"],
)
def test_an_engine_that_is_not_fit_gets_no_request(
    pairs, kube, load, unfit: dict[str, Any], timeout: int, said: str
) -> None:
    finch, wren = models(SGLANG, VLLM)
    (other, _wren) = models(VLLM, VLLM)
    with load as requests:
        message = pairs(llm_d_models=[{**other, **unfit}, wren], rollout_timeout=timeout).failed()
        assert "Model finch stays on sglang" in message
        assert said in message
        assert serving(kube, "finch") == ({"sglang"}, {"finch"})
    requests.unharmed(30)
    # What is left of it goes no request's way.
    pairs(llm_d_models=[finch, wren]).ok()
    assert serving(kube, "finch") == ({"sglang"}, {"finch"})


def test_the_topology_is_changed_under_traffic(pairs, kube, load) -> None:
    finch, wren = models(SGLANG, SGLANG)
    together = {key: value for key, value in wren.items() if key not in ("topology", "disaggregation")}
    # What the stack's defaults say of proxies is refused where there is none.
    defaults = dict(VARIABLES["llm_d_model_defaults"])
    finch["proxy_resources"] = defaults.pop("proxy_resources")
    with load as requests:
        pairs(llm_d_models=[finch, together], llm_d_model_defaults=defaults, rollout_timeout=60).ok(changed=True)
        (only,) = kube.pods("pairs", model="wren")
        assert only["metadata"]["labels"]["llm-d.ai/role"] not in ROLES
    requests.unharmed(30)


def test_recreated_where_somebody_asks_for_it(pairs, gate, kube) -> None:
    # From one kind of pods to two.
    recreated = pairs(llm_d_models=models(SGLANG, VLLM, rollout={"strategy": "recreate"})).ok(changed=True)
    words = [
        item["words"] for _name, result in recreated.results for item in result.get("results", []) if "words" in item
    ]
    assert "Model wren: sglang" in words[0][0]
    assert "strategy recreate" in words[0][0]
    assert serving(kube, "wren")[0] == {"vllm"}
    eventually(lambda: gate.complete("birds/wren", "/wren").status == 200)


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
