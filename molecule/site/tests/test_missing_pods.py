"""When a model does not answer, the smoke test says where its way is broken."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

#: By Deployment: the labels of its pods, and which models are asked.
SCALED = {
    "swift-sglang": ("llm-d.ai/model=swift", "{{ llm_d_models[:1] }}"),
    "robin-epp": ("app.kubernetes.io/name=robin-epp", "{{ llm_d_models[1:] }}"),
}


@pytest.fixture(scope="module")
def messages(stand_ins, ansible, kube) -> Iterator[dict[str, str]]:
    """What is said when Deployments have no pods, by Deployment; scaled by hand, and back."""
    before = {name: kube.get("stand-ins", "deployment", name)["spec"]["replicas"] for name in SCALED}
    for name, (labels, _models) in SCALED.items():
        kube("scale", "-n", "stand-ins", "deployment", name, "--replicas=0")
        kube("delete", "pod", "-n", "stand-ins", "-l", labels, "--force", "--grace-period=0")
    with ThreadPoolExecutor() as pool:
        runs = {
            name: pool.submit(ansible, "stand-ins", "verify", smoke_test_timeout=5, smoke_test_models=models)
            for name, (_labels, models) in SCALED.items()
        }
    yield {name: run.result().failed() for name, run in runs.items()}
    for name, replicas in before.items():
        kube("scale", "-n", "stand-ins", "deployment", name, f"--replicas={replicas}")
        kube("rollout", "status", "-n", "stand-ins", f"deployment/{name}", "--timeout=60s")


def test_a_pool_without_pods(messages) -> None:
    message = messages["swift-sglang"]
    assert message.startswith("Model swift did not answer within 5 s: ")
    assert "Broken hop: pool: none of the 0 pods with " in message
    assert "llm-d.ai/model=swift" in message
    assert "Deployment swift-sglang is scaled to 0" in message


def test_a_picker_without_pods(messages) -> None:
    message = messages["robin-epp"]
    assert message.startswith("Model robin did not answer within 5 s: ")
    assert "Broken hop: picker: Deployment stand-ins/robin-epp" in message
    assert "Deployment robin-epp is scaled to 0" in message
