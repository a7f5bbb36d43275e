"""The example inventories give exactly what they are meant to reproduce."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils import model_service
from ansible_collections.llm_d.multi_engine.tests.unit.shipped import MODEL_OPTIONS, inventory


def only_pod(name: str, *files: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the Deployment's spec and its pod's, of an inventory of one model."""
    stack = inventory(name, *files)
    assert stack["findings"] == []
    (model,) = stack["models"]
    objects = model_service.compose(stack["stack"], stack["namespace"], model, MODEL_OPTIONS)
    (deployment,) = [item for item in objects if item["kind"] == "Deployment"]
    return deployment["spec"], deployment["spec"]["template"]["spec"]


def test_pr_527() -> None:
    spec, pod = only_pod("pr_527")
    (engine,), (proxy,) = pod["containers"], pod["initContainers"]
    assert spec["replicas"] == 2
    assert engine["image"] == "docker.io/lmsysorg/sglang:v0.5.5.post1"
    assert engine["command"] == ["python3", "-m", "sglang.launch_server"]
    assert {"--model-path=Qwen/Qwen3-0.6B", "--port=8200", "--enable-metrics"} <= set(engine["args"])
    (port,) = engine["ports"]
    assert port["containerPort"] == 8200
    probes = {name: engine[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")}
    assert {name: (probe["path"], probe["port"]) for name, probe in probes.items()} == {
        "startup": ("/v1/models", port["name"]),
        "readiness": ("/v1/models", port["name"]),
        "liveness": ("/health", port["name"]),
    }
    assert {"--port=8000", "--vllm-port=8200", "--kv-connector=sglang"} <= set(proxy["args"])
    assert [entry["containerPort"] for entry in proxy["ports"]] == [8000]


@pytest.mark.parametrize(("files", "connector"), [((), "nixlv2"), (("corrected.yml",), "sglang")])
def test_multi_engine_current(files: tuple[str, ...], connector: str) -> None:
    _spec, pod = only_pod("multi_engine_current", *files)
    (engine,), (proxy,) = pod["containers"], pod["initContainers"]
    assert engine["image"] == "docker.io/lmsysorg/sglang:v0.5.6.post2-runtime"
    assert {"--model-path=Qwen/Qwen2.5-0.5B-Instruct", "--port=8200"} <= set(engine["args"])
    assert {"--port=8000", "--vllm-port=8200", f"--kv-connector={connector}"} <= set(proxy["args"])


def test_its_connector_is_refused_with_the_right_one_named() -> None:
    (message,) = inventory("multi_engine_current", overrides=[])["findings"]
    assert message.startswith(
        "llm_d_models[0] (qwen2-5-0-5b).connector: SGLang does not speak 'nixlv2'. Use sglang, which is the default."
    )


@pytest.mark.parametrize(
    ("engine", "image", "arguments"),
    [
        ("sglang", "docker.io/lmsysorg/sglang:v0.5.20", {"--tp-size=2", "--mem-fraction-static=0.9"}),
        (
            "vllm",
            "docker.io/vllm/vllm-openai:v0.30.0",
            {"--tensor-parallel-size=2", "--gpu-memory-utilization=0.9"},
        ),
    ],
)
def test_baseline(engine: str, image: str, arguments: set[str]) -> None:
    stack = inventory("baseline", engine=engine)
    (model,) = stack["models"]
    assert stack["findings"] == []
    assert (model["image"], model["replicas"], model["port"], model["proxy"]) == (image, 2, 8000, None)
    assert model["devices"] == {"nvidia.com/gpu": 2}
    assert set(model["args"]) >= arguments


def test_mixed_engines() -> None:
    stack = inventory("mixed_engines")
    assert stack["findings"] == []
    assert [(model["workload"], model["route"]["default"]) for model in stack["models"]] == [
        ("qwen3-32b-sglang", True),
        ("gpt-oss-120b-vllm", False),
    ]


def test_disaggregated() -> None:
    stack = inventory("disaggregated")
    assert stack["findings"] == []
    prefill, decode = stack["models"][0]["roles"]
    assert (prefill["replicas"], decode["replicas"]) == (4, 2)
    for pods in (prefill, decode):
        assert {"--tp-size=2", "--page-size=64", "--disaggregation-transfer-backend=nixl"} <= set(pods["args"])
    assert decode["proxy"]["connector"] == "sglang"


@pytest.mark.parametrize(("engine", "size"), [("sglang", "--tp-size=16"), ("vllm", "--tensor-parallel-size=16")])
def test_multi_node(engine: str, size: str) -> None:
    stack = inventory("multi_node", engine=engine)
    assert stack["findings"] == []
    (model,) = stack["models"]
    assert {size, "--nnodes=2"} <= set(model["worker"]["args"])


def test_precise_prefix() -> None:
    stack = inventory("precise_prefix")
    assert stack["findings"] == []
    (model,) = stack["models"]
    assert {"--block-size=64", "--tensor-parallel-size=2"} <= set(model["args"])
    assert model["picker_values"]["page_size"] == 64


def test_own_engine() -> None:
    _spec, pod = only_pod("own_engine")
    (engine,) = pod["containers"]
    assert engine["image"] == "ghcr.io/ggml-org/llama.cpp:server-cuda-b6123"
    flags = " ".join(engine["args"])
    for part in ("--model /model/qwen3-8b-q4_k_m.gguf", "--port 8000", "--ctx-size 32768", "--flash-attn on"):
        assert part in flags
    # It has no such variable.
    assert [entry["name"] for entry in engine["env"]] == ["POD_IP", "HOME", "LLAMA_CACHE"]
