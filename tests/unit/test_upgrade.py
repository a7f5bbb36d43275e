"""From the release that is installed to the one that is wanted."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils import upgrade
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.gaie import compose
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.gate import (
    bundle_decision,
    istio_findings,
    release_change,
)
from ansible_collections.llm_d.multi_engine.tests.unit import shipped

CATALOGUE = shipped.catalogue()
RELEASES, RULES = CATALOGUE["releases"], CATALOGUE["rules"]
CHANNEL, BUNDLE = "gateway.networking.k8s.io/channel", "gateway.networking.k8s.io/bundle-version"


def picker(release: str | None, image: str = "", stack: str = "llm-d") -> dict[str, Any]:
    image = image or (RELEASES[release]["endpoint_picker"]["image"] if release in RELEASES else "other:1")
    return {"name": "qwen-epp", "stack": stack, "release": release, "image": image}


@pytest.mark.parametrize(
    ("pickers", "expected"),
    [
        ([], []),
        (None, []),
        ([picker("llm-d-0.9")], ["llm-d-0.9"]),
        ([picker("llm-d-0.9"), picker("llm-d-0.9"), picker("llm-d-0.10")], ["llm-d-0.9", "llm-d-0.10"]),
        ([picker("llm-d-0.9", stack="other")], []),
        # Made before pickers said it.
        ([picker(None, RELEASES["llm-d-0.6"]["endpoint_picker"]["image"])], ["llm-d-0.6"]),
        ([picker(None, "mirror.example:5000/llm-d/llm-d-router-endpoint-picker:v0.10.0")], ["llm-d-0.9"]),
        ([picker(None, "mirror.example/own-picker:v1")], []),
        # A release of the user's own.
        ([picker("ours-2026")], ["ours-2026"]),
    ],
)
def test_which_release_is_installed(pickers: list | None, expected: list[str]) -> None:
    assert upgrade.installed("llm-d", pickers, RELEASES) == expected


def test_pickers_say_their_release() -> None:
    stack = shipped.resolved({}, release="llm-d-0.9")
    objects = compose("llm-d", "llm-d", stack["models"][0], stack["release"], shipped.GAIE_OPTIONS)
    (deployment,) = (item for item in objects if item["kind"] == "Deployment")
    assert deployment["metadata"]["annotations"] == {"multi-engine.llm-d.ai/release": "llm-d-0.9"}
    # Another name alone starts no pod anew.
    assert "llm-d-0.9" not in str(deployment["spec"]["template"]["metadata"])


def change(before: str, after: str, **changed: Any) -> dict[str, list[str]]:
    """What is said of a change between shipped releases; ``changed`` is laid over the wanted one."""
    resolved = shipped.resolved({"engine_version": "0.5.16"}, release=after)
    resolved["release"] = {**resolved["release"], **changed}
    return release_change(resolved, {"pickers": [picker(before)]}, [])


@pytest.mark.parametrize("before", sorted(RELEASES))
@pytest.mark.parametrize("after", sorted(RELEASES))
def test_every_shipped_release_leads_to_every_other(before: str, after: str) -> None:
    found = change(before, after)
    assert found["findings"] == []
    assert len(found["words"]) == (before != after)


def test_what_changes_is_told_in_the_order_of_the_playbooks() -> None:
    (line,) = change("llm-d-0.6", "llm-d-0.10")["words"]
    assert line == (
        "Release llm-d-0.6 -> llm-d-0.10, in this order: Istio 1.29.1 -> 1.29.2; definitions of the inference extension "
        "1.4.0 -> 1.5.0; endpoint picker llm-d-inference-scheduler:v0.7.1 -> llm-d-router-endpoint-picker:v0.11.0; "
        "routing proxy llm-d-routing-sidecar:v0.7.1 -> llm-d-router-disagg-sidecar:v0.11.0; sglang 0.5.6.post2 -> 0.5.20 "
        "where models name no version."
    )


def test_a_release_that_is_not_known_here_is_told() -> None:
    resolved = shipped.resolved({}, release="llm-d-0.10")
    found = release_change(resolved, {"pickers": [picker("ours-2026")]}, [])
    assert found == {
        "words": ["Release ours-2026 -> llm-d-0.10. What ours-2026 was is not known here."],
        "findings": [],
    }


def test_facts_that_an_older_version_of_this_collection_gave_forbid_nothing() -> None:
    assert release_change(shipped.resolved({}), {}, []) == {"words": [], "findings": []}


def test_no_way_back_before_v1_pools() -> None:
    old = {**RELEASES["llm-d-0.6"]["gaie"], "version": "0.5.1"}
    (finding,) = change("llm-d-0.9", "llm-d-0.6", gaie=old)["findings"]
    assert finding.startswith("llm_d_release (llm-d-0.9 -> llm-d-0.6): gaie is 0.5.1, needed is >=1.0: ")
    assert finding.endswith("To go on regardless, add 'pool-api-back' to llm_d_overrides.")


PLANE: dict[str, Any] = {"name": "istiod", "namespace": "istio-system", "labels": {}, "env": {}, "ours": True}


@pytest.mark.parametrize(
    ("before", "after", "refused_by"),
    [
        ("1.29.1", "1.29.2", []),
        ("1.28.0", "1.29.2", []),
        ("1.29.2", "1.29.1", []),
        ("1.29.2", "1.29.2", []),
        ("1.27.3", "1.29.2", ["istio-minor-skipped"]),
        ("1.30.0", "1.29.2", ["istio-minor-back"]),
        ("1.29.2", "2.0.0", ["istio-minor-skipped"]),
        # An image by its digest says no version.
        ("unknown", "1.29.2", []),
    ],
)
def test_istio_goes_minor_by_minor(before: str, after: str, refused_by: list[str]) -> None:
    planes = [{**PLANE, "version": before}]
    assert [finding.rule for finding in upgrade.istio_findings(planes, after, RULES)] == refused_by
    # Only ours is changed.
    assert upgrade.istio_findings([{**PLANE, "version": before, "ours": False}], after, RULES) == []


def test_istio_is_named_and_can_be_insisted_on() -> None:
    release = {"name": "llm-d-0.10", **RELEASES["llm-d-0.10"]}
    cluster = {"istio": [{**PLANE, "version": "1.27.3"}]}
    (finding,) = istio_findings("managed", release, cluster, False, [], RULES)
    assert finding.startswith("istio_gateway_istio_version (istio-system/istiod 1.27.3 -> 1.29.2): istio_minors is 2, ")
    assert istio_findings("managed", release, cluster, False, [], RULES, "1.28.5") == []
    assert istio_findings("managed", release, cluster, False, ["istio-minor-skipped"], RULES) == []


@pytest.mark.parametrize(
    ("version", "channel", "policy", "refused"),
    [
        ("v1.4.1", "standard", "upgrade", False),
        ("v1.4.1", "experimental", "upgrade", True),
        ("v1.5.1", "experimental", "upgrade", False),
        # Newer ones stay.
        ("v1.6.0", "experimental", "upgrade", False),
        ("v1.4.1", None, "upgrade", False),
    ],
)
def test_experimental_definitions_are_not_taken_back(
    version: str, channel: str | None, policy: str, refused: bool
) -> None:
    bundle = RELEASES["llm-d-0.10"]["gateway_api"]
    marks = {BUNDLE: version, **({CHANNEL: channel} if channel else {})}
    cluster = {"definitions": {name: {"annotations": marks, "labels": {}} for name in bundle["crds"]}}
    found = bundle_decision(bundle, cluster, "Gateway API", policy, "istio_gateway_crds", RULES)["findings"]
    assert [finding.startswith("istio_gateway_crds: gateway_api_channel is experimental") for finding in found] == (
        [True] if refused else []
    )
    waved = bundle_decision(bundle, cluster, "Gateway API", policy, "x", RULES, ["gateway-api-experimental"])
    assert waved["findings"] == []
