"""The stack that converge made: a real SGLang behind Istio and an endpoint picker."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from ansible_collections.llm_d.multi_engine.molecule.site.tests.tools import ROOT

MODEL = "tiny-qwen3"


@pytest.fixture(scope="module")
def engine(kube) -> dict:
    """The model server's pod."""
    (pod,) = kube.pods("llm-d", model="tiny")
    return pod


def counted(kube) -> int:
    """How many requests the endpoint picker has counted."""
    pods = json.loads(kube("get", "pods", "-n", "llm-d", "-l", "app.kubernetes.io/name=tiny-epp", "-o", "json"))
    (picker,) = pods["items"]
    counts = re.findall(
        rf'^inference_objective_request_total{{model_name="{MODEL}",.*}} (\d+)',
        kube.through(picker, "/metrics", 9090),
        re.MULTILINE,
    )
    return sum(map(int, counts))


def test_a_completion_comes_through_gateway_and_picker(gateway, kube) -> None:
    before = counted(kube)
    answer = gateway.complete(MODEL)
    assert answer.status == 200, answer
    assert answer.headers["x-went-into-resp-headers"] == "true"
    assert answer.headers["server"] == "istio-envoy"
    assert answer.json["model"] == MODEL
    assert answer.json["usage"]["completion_tokens"] == 8
    assert answer.json["choices"][0]["text"]
    assert counted(kube) == before + 1


def test_tokens_are_streamed_as_they_are_generated(gateway) -> None:
    answer = gateway.complete(MODEL, max_tokens=48, stream=True, ignore_eos=True)
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in answer.events[:-1]]
    assert len(chunks) > 16
    assert {chunk["model"] for chunk in chunks} == {MODEL}
    # Not all at once when it is finished.
    assert len(answer.arrivals) > 8
    assert answer.arrivals[0] < answer.arrivals[-1] / 2, answer.arrivals


def test_models_are_listed(gateway) -> None:
    assert [entry["id"] for entry in gateway.ask("/v1/models").json["data"]] == [MODEL]


def test_pods_say_which_engine_they_are_in_both_ways(engine) -> None:
    labels = engine["metadata"]["labels"]
    assert labels["llm-d.ai/engine-type"] == labels["inference.networking.k8s.io/engine-type"] == "sglang"


def test_the_engine_runs_as_the_inventory_says(kube, engine) -> None:
    info = json.loads(kube.through(engine, "/server_info"))
    assert info["version"] == "0.5.23"
    expected = {
        "served_model_name": MODEL,
        "model_path": "/model",
        "host": "0.0.0.0",
        "port": 8000,
        "context_length": 1024,
        "page_size": 16,
        "max_total_tokens": 8192,
        "device": "cpu",
        "attention_backend": "torch_native",
        "disable_overlap_schedule": True,
        "sleep_on_idle": True,
        "enable_metrics": True,
    }
    assert {key: info.get(key) for key in expected} == expected


def test_connections_may_be_idle_as_long_as_the_engine_says(kube) -> None:
    profile = yaml.safe_load(Path(ROOT, "roles/inference_engine/vars/engines/sglang.yml").read_text())["sglang"]
    dump = kube(
        "exec", "-n", "llm-d", "deploy/llm-d-inference-gateway-istio", "--",
        "pilot-agent", "request", "GET", "config_dump?mask=dynamic_listeners",
    )  # fmt: skip
    options = re.findall(r'"common_http_protocol_options":\s*{[^}]*}', dump)
    assert profile["http"]["idle_timeout"] == "3600s"
    assert options
    assert all('"idle_timeout": "3600s"' in option for option in options), options


PROCESSES = {
    "picker": ("/epp", "--pool-name=tiny", 65532),
    "gateway": ("/usr/local/bin/pilot-agent", "llm-d.svc.cluster.local", 1337),
    "engine": ("python3", "--served-model-name=tiny-qwen3", 0),
}


@pytest.mark.parametrize("name", PROCESSES)
def test_processes_have_no_more_rights_than_the_manifests_give(name: str) -> None:
    program, argument, user = PROCESSES[name]
    (process,) = [
        path.parent
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if (words := path.read_bytes().decode(errors="replace").split("\0"))[0] == program and argument in words
    ]
    status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines() if ":\t" in line)
    assert status["Uid"].split() == [str(user)] * 4
    assert status["NoNewPrivs"] == "1"
    if name != "gateway":
        assert status["Seccomp"] == "2"
    if name != "engine":
        assert int(status["CapEff"], 16) == 0
        mounts = [line.split() for line in (process / "mountinfo").read_text().splitlines()]
        (root,) = [mount for mount in mounts if mount[4] == "/"]
        assert root[5].startswith("ro"), root
    # Only who asks the API server has credentials for it.
    assert (process / "root/var/run/secrets/kubernetes.io").exists() is (name == "picker")


def test_check_mode_finds_nothing_to_do(ansible) -> None:
    run = ansible("local", "site", options="--check --diff").ok(changed=False)
    assert [result["diff"] for _name, result in run.results if result.get("diff")] == []
