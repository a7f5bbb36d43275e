"""From release to release: what is installed is known from the cluster, told, and asked whether it can be changed."""

from __future__ import annotations

import json

import pytest

NAMESPACE = "upgraded"
PICKERS = "Apply | Endpoint pickers, pools and routes"
ISTIOD = ("istio-system", "istiod")
#: No engine of release llm-d-0.6 but SGLang has a version there.
STACK = {
    "llm_d_namespace": NAMESPACE,
    "llm_d_models": [{"name": "third", "source": "hf://Qwen/Qwen3-4B"}],
    "istio_gateway_extra_objects": [],
}


@pytest.fixture(scope="module", autouse=True)
def stack(ansible, api, converged):
    """A second stack, of an old release."""
    ansible("models", llm_d_release="llm-d-0.6", **STACK).ok()
    yield
    ansible("uninstall", **STACK).ok()
    api.delete("namespace", NAMESPACE, "--wait=false")


def picker(api) -> tuple[str, str]:
    """The release that the picker says, and its image."""
    found = api.get("deployment", "third-epp", NAMESPACE)
    (container,) = found["spec"]["template"]["spec"]["containers"]
    return found["metadata"]["annotations"]["multi-engine.llm-d.ai/release"], container["image"].rpartition("/")[2]


def test_releases_are_skipped_and_gone_back_to(ansible, api) -> None:
    assert picker(api) == ("llm-d-0.6", "llm-d-inference-scheduler:v0.7.1")
    newer = {**STACK, "llm_d_release": "llm-d-0.10"}

    told = ansible("models", options="--check --diff", **newer).ok(changed=True)
    assert "Release llm-d-0.6 -> llm-d-0.10, in this order: Istio 1.29.1 -> 1.29.2; definitions of " in told.said()
    assert "+image: ghcr.io/llm-d/llm-d-router-endpoint-picker:v0.11.0" in str(told.diffs)
    assert picker(api)[0] == "llm-d-0.6"

    names = [name for name, result in ansible("models", **newer).ok(changed=True).results if result.get("changed")]
    # Pickers before the sidecars and engines that they have to know.
    assert [name.rpartition(" : ")[2] for name in names] == [PICKERS, "Apply | Model servers"]
    assert picker(api) == ("llm-d-0.10", "llm-d-router-endpoint-picker:v0.11.0")
    again = ansible("models", **newer).ok(changed=False)
    assert "Release " not in again.said()

    back = ansible("models", **{**STACK, "llm_d_release": "llm-d-0.9"}).ok(changed=True)
    assert "Release llm-d-0.10 -> llm-d-0.9, in this order: endpoint picker " in back.said()
    assert picker(api)[0] == "llm-d-0.9"


def test_istio_is_not_taken_over_a_minor_version(ansible, api) -> None:
    version = {"app.kubernetes.io/version": "1.27.4"}
    labels = api.get("deployment", ISTIOD[1], ISTIOD[0])["metadata"]["labels"]
    api.kubectl(
        "label", "deployment", "-n", *ISTIOD, "--overwrite", *(f"{key}={text}" for key, text in version.items())
    )
    try:
        earlier = api.objects()
        run = ansible("gateway")
        assert run.rc == 2
        assert "istio_gateway_istio_version (istio-system/istiod 1.27.4 -> 1.29.1): istio_minors is 2, " in run.message
        assert "To go on regardless, add 'istio-minor-skipped' to llm_d_overrides." in run.message
        assert api.changed_since(earlier) == set()
    finally:
        before = {key: labels.get(key) for key in version}
        words = [f"{key}={text}" if text else f"{key}-" for key, text in before.items()]
        api.kubectl("label", "deployment", "-n", *ISTIOD, "--overwrite", *words)
    assert json.dumps(api.get("deployment", ISTIOD[1], ISTIOD[0])["metadata"]["labels"]) == json.dumps(labels)
