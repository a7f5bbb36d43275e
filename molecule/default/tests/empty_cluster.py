"""A cluster where nothing is installed: check mode, and what is refused before the first change.

Run by prepare.yml, before converge.
"""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.usefixtures("unchanged")
ISTIOD = {
    "spec": {
        "replicas": 0,
        "selector": {"matchLabels": {"app": "istiod"}},
        "template": {
            "metadata": {"labels": {"app": "istiod"}},
            "spec": {
                "containers": [
                    {
                        "name": "discovery",
                        "image": "docker.io/istio/pilot:1.29.0",
                        "env": [{"name": "ENABLE_GATEWAY_API_INFERENCE_EXTENSION", "value": "true"}],
                    }
                ]
            },
        },
    }
}


@pytest.fixture(scope="module", autouse=True)
def remembered(api, before) -> None:
    """Keep the list of objects for the tests of uninstall."""
    before.write_text(json.dumps(sorted(api.objects())))


@pytest.fixture
def foreign_istio(api):
    """An Istio that somebody else installed."""
    api.kubectl("create", "namespace", "istio-system")
    api.kubectl("create", "-f", "-", stdin={
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "istiod", "namespace": "istio-system", "labels": {"app": "istiod"}}, **ISTIOD,
    })  # fmt: skip
    yield
    api.delete("namespace", "istio-system")


def test_check_mode_says_what_it_would_do(ansible) -> None:
    run = ansible("site", options="--check --diff").ok(changed=True)
    shown = set(run.diffs)
    assert {
        "Namespace molecule",
        "CustomResourceDefinition gateways.gateway.networking.k8s.io",
        "CustomResourceDefinition inferencepools.inference.networking.k8s.io",
        "Gateway molecule/llm-d-inference-gateway",
        "ConfigMap istio-system/llm-d-multi-engine-istio",
        "Deployment istio-system/istiod",
        "InferencePool molecule/first",
        "HTTPRoute molecule/second",
        "DestinationRule molecule/first-epp",
        "Deployment molecule/first-sglang",
        "Deployment molecule/second-vllm",
    } <= shown
    assert all(line.startswith("+") for lines in run.diffs.values() for line in lines)
    assert "+replicas: 2" in run.diffs["Deployment molecule/second-vllm"]
    (charts,) = [result for name, result in run.results if result.get("changed") and "Install the charts" in name]
    assert len([item for item in charts["results"] if item["changed"]]) == 2


def test_existing_istio_and_definitions_are_missing(ansible) -> None:
    message = ansible("gateway", istio_gateway_istio="existing", istio_gateway_crds="existing").message
    assert "istio_gateway_istio: 'existing', but no istiod runs in the cluster." in message
    assert "set istio_gateway_istio: managed" in message
    assert "istio_gateway_crds: the cluster lacks definitions of Gateway API: gateways.gateway" in message
    assert "standard-install.yaml, or set it to install" in message


@pytest.mark.usefixtures("foreign_istio")
def test_an_istio_of_somebody_else_is_refused(ansible) -> None:
    message = ansible("gateway").message
    assert "istio_gateway_istio: 'managed'" in message
    assert "did not install runs: istio-system/istiod 1.29.0" in message
    assert "Set istio_gateway_istio: existing to leave it alone, or istio_gateway_adopt: true" in message


@pytest.mark.usefixtures("foreign_istio")
def test_an_istio_of_somebody_else_can_be_used(ansible) -> None:
    run = ansible("gateway", options="--check --diff", istio_gateway_istio="existing").ok(changed=True)
    assert "Gateway molecule/llm-d-inference-gateway" in run.diffs
    assert not [name for name in run.diffs if "istio-system" in name]


def test_the_status_of_nothing(ansible) -> None:
    run = ansible("status")
    assert run.message.startswith("Stack molecule: not ready: gateway, first, second; not as the inventory wants it: ")
    (status,) = [result["status"] for _name, result in run.results if "status" in result]
    assert status["unknown"] == []
    assert {entry["state"] for entry in status["drift"]} == {"missing"}
    assert {hop["reason"] for model in status["models"] for hop in model["hops"]} == {"does not exist"}
