"""Another release: llm-d's own endpoint picker of v0.6 gives way to GAIE's, while requests come in.

The model is aggregated: with this release those with prefill pods are refused.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from ansible_collections.llm_d.multi_engine.tests.load.load import Load

#: That of the stack `birds`, which lets us.
GATEWAY = {"llm_d_gateway_name": "aviary", "gaie_gateway_namespace": "stand-ins"}


def picker(kube, namespace: str) -> str:
    """Return the image of the model's only picker."""
    (image,) = kube("get", "-n", namespace, "deployment", "heron-epp", "-o", "jsonpath={..image}").split()
    return image


@pytest.fixture
def namespace(kube) -> Iterator[str]:
    """Without what another test has left there."""
    kube("delete", "namespace", "proxied", "--ignore-not-found")
    yield "proxied"
    kube("delete", "namespace", "proxied", "--wait=false")


def test_a_release_is_changed_under_traffic(ansible, kube, stand_ins, namespace) -> None:
    older = {**GATEWAY, "llm_d_release": "llm-d-0.6"}
    ansible("proxied", "models", **older).ok()
    assert picker(kube, namespace) == "ghcr.io/llm-d/llm-d-inference-scheduler:v0.7.1"
    targets = [{"model": "birds/heron", "path": "/heron", "stream": stream} for stream in (False, True)] * 2
    # 500 tokens take 5 s, longer than pickers are two.
    targets.append({**targets[1], "max_tokens": 500})
    with Load(f"http://{stand_ins.client.address}", targets) as load:
        shown = ansible("proxied", "models", options="--check", **GATEWAY).ok(changed=True).output
        assert "Release llm-d-0.6 -> gaie-1.5, in this order: " in shown
        ansible("proxied", "models", **GATEWAY).ok(changed=True)
        assert picker(kube, namespace) == "registry.k8s.io/gateway-api-inference-extension/epp:v1.5.0"
        ansible("proxied", "models", **GATEWAY).ok(changed=False)
        # And back: nothing in it was too new for the older one.
        ansible("proxied", "models", **older).ok(changed=True)
        assert picker(kube, namespace) == "ghcr.io/llm-d/llm-d-inference-scheduler:v0.7.1"
    load.unharmed(50)
