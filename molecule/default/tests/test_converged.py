"""The converged stack: check mode, and one changed value."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.usefixtures("converged", "unchanged")
#: The models of the inventory, with another context length for the first.
MODELS = [
    {"name": "first", "source": "hf://Qwen/Qwen3-0.6B", "context_length": 4096},
    {"name": "second", "source": "hf://Qwen/Qwen3-1.7B", "engine": "vllm", "replicas": 2},
]


def test_check_mode_finds_nothing_to_do(ansible) -> None:
    run = ansible("site", options="--check --diff").ok(changed=0)
    assert run.diffs == {}


def test_the_diff_shows_the_one_value_that_changes(ansible) -> None:
    run = ansible("gateway", "models", options="--check --diff", llm_d_models=MODELS).ok(changed=1)
    assert run.diffs == {"Deployment molecule/first-sglang": ["-- --context-length=2048", "+- --context-length=4096"]}


def test_each_model_runs_on_its_engine(api) -> None:
    for name, engine, replicas in (("first", "sglang", 1), ("second", "vllm", 2)):
        workload = api.get("deployment", f"{name}-{engine}")
        assert workload["spec"]["replicas"] == replicas
        labels = workload["spec"]["template"]["metadata"]["labels"]
        assert labels["inference.networking.k8s.io/engine-type"] == engine
        selector = api.get("inferencepool", name)["spec"]["selector"]["matchLabels"]
        assert selector.items() <= labels.items()
