"""Engine profiles: how their blocks are laid over each other, and what ours say at each boundary."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.profiles import effective, image, merge
from ansible_collections.llm_d.multi_engine.tests.unit.shipped import catalogue

SMALL = {
    "image": {"repository": "r", "tag": "v{version}{variant}"},
    "cuda": {"major": 13},
    "list": [1],
    "by_version": [
        {"versions": "<2", "set": {"cuda": {"major": 12}, "list": [2]}},
        {"versions": "<1", "set": {"cuda": {"major": 11}, "old": True}},
    ],
    "variants": {"-cu12": {"versions": "<3", "set": {"cuda": {"major": 12}}}, "-slim": {}},
    "accelerators": {"gpu": {"resource": "gpu"}, "cpu": {"cuda": None, "image": {"tag": "v{version}-cpu"}}},
}


@pytest.mark.parametrize(
    ("base", "over", "merged"),
    [
        ({"a": 1}, {"b": 2}, {"a": 1, "b": 2}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}}, {"a": {"b": 3, "c": 2}}),
        ({"a": [1, 2]}, {"a": [3]}, {"a": [3]}),
        ({"a": {"b": 1}}, {"a": None}, {"a": None}),
        ({"a": None}, {"a": {"b": 1}}, {"a": {"b": 1}}),
        ({"a": 1}, {}, {"a": 1}),
        ({"a": 1}, "text", "text"),
    ],
)
def test_merge(base: Any, over: Any, merged: Any) -> None:
    assert merge(base, over) == merged


def test_merge_shares_nothing() -> None:
    base, over = {"a": {"b": [1]}}, {"c": {"d": [2]}}
    merged = merge(base, over)
    merged["a"]["b"].append(0)
    merged["c"]["d"].append(0)
    assert (base, over) == ({"a": {"b": [1]}}, {"c": {"d": [2]}})


@pytest.mark.parametrize(
    ("version", "accelerator", "variant", "cuda", "name"),
    [
        ("2.0", "gpu", "", {"major": 13}, "r:v2.0"),
        ("1.9", "gpu", "", {"major": 12}, "r:v1.9"),
        ("0.9", "gpu", "", {"major": 11}, "r:v0.9"),
        ("2.0", "gpu", "-cu12", {"major": 12}, "r:v2.0-cu12"),
        ("2.0", "gpu", "-slim", {"major": 13}, "r:v2.0-slim"),
        ("2.0", "gpu", "-unknown", {"major": 13}, "r:v2.0-unknown"),
        ("0.9", "cpu", "-cu12", None, "r:v0.9-cpu"),
    ],
)
def test_layers(version: str, accelerator: str, variant: str, cuda: Any, name: str) -> None:
    facts = effective(SMALL, version, accelerator, variant)
    assert facts["cuda"] == cuda
    assert image(facts, version, variant) == name
    assert not facts.keys() & {"by_version", "variants", "accelerators"}


READY, HEALTH = {"path": "/ready"}, {"path": "/health"}
CUDA_12, CUDA_13 = {"major": 12}, {"major": 13}


@pytest.mark.parametrize(
    ("engine", "version", "key", "value"),
    [
        ("sglang", "0.5.20", "probes.startup.httpGet", READY),
        ("sglang", "0.5.20", "probes.startup.timeoutSeconds", 5),
        ("sglang", "0.5.20", "probes.readiness.httpGet", READY),
        ("sglang", "0.5.20", "probes.liveness.httpGet", HEALTH),
        ("sglang", "0.5.19", "probes.startup.httpGet", HEALTH),
        # It generates a token, and gives up after 20 s.
        ("sglang", "0.5.19", "probes.startup.timeoutSeconds", 25),
        ("sglang", "0.5.19", "probes.readiness.httpGet", HEALTH),
        ("sglang", "0.5.19", "probes.readiness.timeoutSeconds", 25),
        ("sglang", "0.5.19", "probes.liveness.httpGet", HEALTH),
        ("sglang", "0.5.20", "kv_events.encoding", "map"),
        ("sglang", "0.5.19", "kv_events.encoding", "array"),
        ("sglang", "0.5.12.post1", "cuda", CUDA_13),
        ("sglang", "0.5.10.post1", "cuda", CUDA_12),
        ("sglang", "0.5.6.post2", "cuda", CUDA_12),
        ("sglang", "0.5.12", "metrics.page_size", "sglang:page_size"),
        ("sglang", "0.5.11", "metrics.page_size", None),
        ("sglang", "0.5.11", "metrics.pages", None),
        ("sglang", "0.5.11", "metrics.queued_requests", "sglang:num_queue_reqs"),
        ("vllm", "0.32.0", "kv_events.encoding", "map"),
        ("vllm", "0.31.9", "kv_events.encoding", "array"),
        ("vllm", "0.26.0", "probes.liveness.httpGet", HEALTH),
    ],
)
def test_boundaries_of_the_shipped_profiles(engine: str, version: str, key: str, value: Any) -> None:
    facts: Any = effective(catalogue()["engines"][engine], version, "nvidia")
    for part in key.split("."):
        facts = facts[part]
    assert facts == value


@pytest.mark.parametrize(
    ("engine", "version", "accelerator", "variant", "name", "cuda"),
    [
        ("sglang", "0.5.23", "nvidia", "", "docker.io/lmsysorg/sglang:v0.5.23", CUDA_13),
        ("sglang", "0.5.19", "amd-mi30x", "", "docker.io/lmsysorg/sglang:v0.5.19-rocm720-mi30x", None),
        ("sglang", "0.5.9", "amd-mi35x", "", "docker.io/lmsysorg/sglang:v0.5.9-rocm720-mi35x", None),
        ("sglang", "0.5.6.post2", "amd-mi30x", "", "docker.io/lmsysorg/sglang:v0.5.6.post2-rocm700-mi30x", None),
        ("vllm", "0.27.1", "amd-mi30x", "", "docker.io/vllm/vllm-openai-rocm:v0.27.1", None),
        ("sglang", "0.5.19", "nvidia", "-cu129", "docker.io/lmsysorg/sglang:v0.5.19-cu129", CUDA_12),
        ("sglang", "0.5.19", "nvidia", "-cu129-runtime", "docker.io/lmsysorg/sglang:v0.5.19-cu129-runtime", CUDA_12),
        ("sglang", "0.5.10", "nvidia", "-cu130", "docker.io/lmsysorg/sglang:v0.5.10-cu130", CUDA_13),
        ("sglang", "0.5.6.post2", "nvidia", "-runtime", "docker.io/lmsysorg/sglang:v0.5.6.post2-runtime", CUDA_12),
        ("sglang", "0.5.23", "cpu", "", "docker.io/lmsysorg/sglang:v0.5.23-xeon", None),
        ("vllm", "0.30.0", "nvidia", "", "docker.io/vllm/vllm-openai:v0.30.0", None),
        ("vllm", "0.30.0", "cpu", "", "docker.io/vllm/vllm-openai-cpu:v0.30.0", None),
    ],
)
def test_images_and_what_they_need(
    engine: str, version: str, accelerator: str, variant: str, name: str, cuda: Any
) -> None:
    facts = effective(catalogue()["engines"][engine], version, accelerator, variant)
    assert image(facts, version, variant) == name
    assert facts["cuda"] == cuda
