"""A second stack in the same cluster and on the same Istio: two models, two engines, one gateway."""

from __future__ import annotations

import json
import re
import ssl
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from ansible_collections.llm_d.multi_engine.molecule.site.tests.tools import STATE, Client

HEADER = "X-Gateway-Base-Model-Name"
SWIFT, ROBIN = "birds/swift", "birds/robin"
#: Served beside `robin`.
ADAPTER = f"{ROBIN}:sql"


def answers(kube, model: str) -> dict[str, int]:
    """Return by pod how many completions it has given."""
    metric = {"swift": "sglang:num_requests_total", "robin": "vllm:request_success_total"}[model]
    found = {}
    for pod in kube.pods("stand-ins", model=model):
        values = re.findall(rf"^{metric}{{.*}} ([\d.]+)", kube.through(pod, "/metrics"), re.MULTILINE)
        found[pod["metadata"]["name"]] = int(sum(map(float, values)))
    return found


def test_it_uses_istio_and_changes_nothing_of_it(stand_ins, kube) -> None:
    after = kube.objects()
    kept = {name: state for name, state in stand_ins.before.items() if "istio" in name.lower()}
    assert "Deployment istio-system/istiod" in kept
    assert {name: after.get(name) for name in kept} == kept
    others = [name for name in after if name not in stand_ins.before and " stand-ins/" not in name]
    # Istio keeps its own list of revisions and gateways nowhere else.
    assert others in ([], ["Namespace /stand-ins"])


@pytest.mark.parametrize(
    ("path", "headers", "engine"),
    [
        ("", {}, "swift"),
        ("", {HEADER: ROBIN}, "robin"),
        ("/robin", {}, "robin"),
        ("/robin", {HEADER: "birds/nobody"}, "robin"),
        # No model is named so: back to the default.
        ("", {HEADER: "birds/nobody"}, "swift"),
        ("/robins", {}, None),
    ],
)
def test_requests_are_routed(stand_ins, kube, path: str, headers: dict, engine: str | None) -> None:
    before = {name: sum(answers(kube, name).values()) for name in ("swift", "robin")}
    model = ROBIN if engine == "robin" else SWIFT
    answer = stand_ins.client.complete(model, path, headers=headers)
    after = {name: sum(answers(kube, name).values()) for name in ("swift", "robin")}
    if engine is None:
        # It went to the default model, which knows no such path.
        assert answer.status == 404
        assert after == before
        return
    assert answer.status == 200, answer
    assert answer.headers["x-went-into-resp-headers"] == "true"
    assert answer.headers["server"] == "istio-envoy"
    assert answer.json["model"] == model
    assert after == {**before, engine: before[engine] + 1}


def test_models_are_listed_each_by_its_engine(stand_ins) -> None:
    assert [entry["id"] for entry in stand_ins.client.ask("/v1/models").json["data"]] == [SWIFT]
    served = [entry["id"] for entry in stand_ins.client.ask("/robin/v1/models").json["data"]]
    assert served == [ROBIN, ADAPTER]


@pytest.mark.parametrize(("path", "headers"), [("/robin", {}), ("", {HEADER: ROBIN})])
def test_an_adapter_is_served_where_its_model_is(stand_ins, path: str, headers: dict) -> None:
    answer = stand_ins.client.complete(ADAPTER, path, headers=headers)
    assert (answer.status, answer.json["model"]) == (200, ADAPTER)


def test_wrong_model_names_are_answered_as_the_engines_do(stand_ins) -> None:
    assert stand_ins.client.complete("birds/nobody").status == 200
    answer = stand_ins.client.complete("birds/nobody", "/robin")
    assert answer.status == 404
    assert "birds/nobody" in answer.body.decode()


def test_both_streams_end_well(stand_ins) -> None:
    for target in (stand_ins.swift, stand_ins.robin):
        answer = stand_ins.client.complete(**target, max_tokens=30, stream=True)
        assert answer.events[-1] == "[DONE]"
        assert len(answer.events) > 30
        assert answer.arrivals[0] < answer.arrivals[-1] / 2


def test_both_replicas_of_both_models_answer(stand_ins, kube) -> None:
    before = {name: answers(kube, name) for name in ("swift", "robin")}
    # Another beginning each time, or the picker keeps to the pod that has it in its cache.
    prompts = [f"{number} swallows " * 20 for number in range(20)]
    with ThreadPoolExecutor(5) as pool:
        for target in (stand_ins.swift, stand_ins.robin):
            asked = [pool.submit(stand_ins.client.complete, **target, prompt=prompt) for prompt in prompts]
            assert [answer.result().status for answer in asked] == [200] * len(prompts)
    for name in ("swift", "robin"):
        after = answers(kube, name)
        assert len(after) == 2
        assert all(after[pod] > before[name][pod] for pod in after), (before[name], after)


def test_engines_get_the_arguments_of_their_models(stand_ins, kube) -> None:
    def arguments(model: str) -> list[str]:
        (pod, _other) = kube.pods("stand-ins", model=model)
        (container,) = pod["spec"]["containers"]
        return container["args"]

    swift, robin = arguments("swift"), arguments("robin")
    assert {"--context-length=1024", "--mem-fraction-static=0.8", "--schedule-conservativeness=0.3"} <= set(swift)
    assert {"--max-model-len=1024", "--max-num-seqs=64", "--served-model-name=birds/robin"} <= set(robin)


def test_both_stacks_answer_with_their_own_models(stand_ins, gateway) -> None:
    assert gateway.complete("tiny-qwen3").json["model"] == "tiny-qwen3"
    assert gateway.ask("/robin/v1/models").status == 404
    assert stand_ins.client.complete(SWIFT).json["model"] == SWIFT


def trusting(certificate: Path) -> ssl.SSLContext:
    """A client that trusts nothing but ``certificate``; the gateway is asked by its address."""
    context = ssl.create_default_context(cafile=str(certificate))
    context.check_hostname = False
    return context


def test_https_answers_with_the_certificate_of_the_secret(stand_ins) -> None:
    client = Client(stand_ins.client.address, 443, trusting(stand_ins.certificate))
    assert client.complete(SWIFT).json["model"] == SWIFT
    with pytest.raises(ssl.SSLCertVerificationError):
        Client(stand_ins.client.address, 443, ssl.create_default_context()).complete(SWIFT)


def test_node_ports_answer(stand_ins, kube) -> None:
    service = kube.get("stand-ins", "service", "aviary-istio")["spec"]
    assert service["type"] == "NodePort"
    ports = {port["port"]: port["nodePort"] for port in service["ports"]}
    (node,) = json.loads(kube("get", "nodes", "-o", "json"))["items"]
    address = next(item["address"] for item in node["status"]["addresses"] if item["type"] == "InternalIP")
    assert Client(address, ports[80]).complete(SWIFT).json["model"] == SWIFT
    assert Client(address, ports[443], trusting(stand_ins.certificate)).complete(SWIFT).json["model"] == SWIFT


def test_logs_hold_no_secrets(stand_ins, kube) -> None:
    token = "hf_notForAnybodysEyes"
    secret = kube.get("stand-ins", "secret", "llm-d-hf-token")["data"]
    assert list(secret) == ["HF_TOKEN"]
    (pod, _other) = kube.pods("stand-ins", model="swift")
    (container,) = pod["spec"]["containers"]
    assert {
        "name": "HF_TOKEN",
        "valueFrom": {"secretKeyRef": {"name": "llm-d-hf-token", "key": "HF_TOKEN"}},
    } in container["env"]
    logs = [path for path in (STATE / "logs").rglob("*") if path.is_file()]
    assert any("stand-ins_aviary" in str(path) for path in logs)
    assert any("llm-d_tiny-sglang" in str(path) for path in logs)
    # The token, the key of a certificate, and the tokens of service accounts.
    secrets = (token.encode(), secret["HF_TOKEN"].encode(), b"PRIVATE KEY", b"eyJhbGciOi")
    found = [(path.name, word) for path in logs for word in secrets if word in path.read_bytes()]
    assert found == []
