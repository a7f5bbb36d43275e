"""Nothing becomes ready here: what waits gives up in time and says for what, and why."""

from __future__ import annotations

import json
import time

import pytest

pytestmark = pytest.mark.usefixtures("converged")
#: For the run itself, on a machine that does other things too.
SLACK = 60


def tell(api, name: str, **status: object) -> str:
    """Say something of a pod as its scheduler or kubelet would; return the pod's name."""
    found = json.loads(api.kubectl("get", "pods", "-n", "molecule", "-l", f"llm-d.ai/model={name}", "-o", "json"))
    pod = found["items"][0]["metadata"]["name"]
    patch = json.dumps({"status": status})
    api.kubectl("patch", "pod", "-n", "molecule", pod, "--subresource", "status", "--type", "merge", "-p", patch)
    return pod


def test_a_gateway_that_nobody_programs(ansible) -> None:
    start = time.monotonic()
    message = ansible("gateway", istio_gateway_wait=True, istio_gateway_wait_timeout=3).message
    assert time.monotonic() - start < SLACK
    assert "Not ready after 3 s:" in message or "Not ready after 4 s:" in message
    assert "Gateway molecule/llm-d-inference-gateway: " in message
    assert "Accepted is Unknown: Pending: Waiting for controller" in message


def test_a_route_that_no_gateway_takes(ansible) -> None:
    message = ansible("models", options="--tags gaie", gaie_wait=True, gaie_wait_timeout=3).message
    assert "HTTPRoute molecule/first: no gateway has taken it" in message
    assert "Deployment molecule/second-epp: 0 of 1 pods are ready" in message


def test_a_pod_that_finds_no_node(ansible, api) -> None:
    pods = {}
    for name in ("first", "second"):
        reason = f"0/3 nodes are available: 3 Insufficient nvidia.com/gpu for {name}."
        condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": reason}
        pods[tell(api, name, conditions=[condition])] = reason
    start = time.monotonic()
    options = {"model_service_wait": True, "model_service_wait_timeout": 3}
    message = ansible("models", options="--tags model_service", **options).message
    assert time.monotonic() - start < SLACK
    assert "Not ready after" in message
    assert "Deployment molecule/first-sglang: 0 of 1 pods are ready" in message
    assert "Deployment molecule/second-vllm: 0 of 2 pods are ready" in message
    for pod, reason in pods.items():
        assert f"pod {pod} is not scheduled: {reason}" in message


def test_a_pod_that_no_time_heals(ansible, api) -> None:
    waiting = {"reason": "ErrImagePull", "message": 'failed to pull "docker.io/lmsysorg/sglang:v0": not found'}
    status = {"name": "model-server", "image": "", "imageID": "", "ready": False, "restartCount": 0}
    pod = tell(api, "first", conditions=[], containerStatuses=[{**status, "state": {"waiting": waiting}}])
    options = {"model_service_wait": True, "model_service_wait_timeout": 500}
    message = ansible("models", options="--tags model_service", **options).message
    assert "waiting cannot help" in message
    assert f"pod {pod}, container model-server: ErrImagePull: failed to pull" in message
