"""What a play needs to be allowed to do."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.permissions import needed
from ansible_collections.llm_d.multi_engine.tests.unit.shipped import resolved

ALWAYS = {
    "configmaps", "deployments.apps", "destinationrules.networking.istio.io",
    "httproutes.gateway.networking.k8s.io", "inferencepools.inference.networking.k8s.io", "leases.coordination.k8s.io",
    "rolebindings.rbac.authorization.k8s.io", "roles.rbac.authorization.k8s.io", "serviceaccounts", "services",
}  # fmt: skip
PD = {"topology": "disaggregated", "gpus": 1}


def names(found: list[dict[str, Any]]) -> set[str]:
    return {f"{entry['resource']}.{entry['group']}".rstrip(".") for entry in found}


@pytest.mark.parametrize(
    ("model", "settings", "more"),
    [
        ({}, {}, set()),
        (PD, {}, set()),
        ({"disruption_budget": {"min_available": 1}, "replicas": 2}, {}, {"poddisruptionbudgets.policy"}),
        ({"gpus": 8, "nodes": 2}, {}, {"leaderworkersets.leaderworkerset.x-k8s.io"}),
        ({}, {"body_routing": True}, {"envoyfilters.networking.istio.io"}),
    ],
)
def test_what_a_model_needs(model: dict[str, Any], settings: dict[str, Any], more: set[str]) -> None:
    found = needed(resolved(model, **settings))
    assert names(found) == ALWAYS | more
    assert {entry["namespace"] for entry in found} == {"llm-d"}


def test_one_run_at_a_time() -> None:
    (lease,) = [entry for entry in needed(resolved({})) if entry["resource"] == "leases"]
    assert lease["verbs"] == ["get", "create", "update"]


def test_prefetching() -> None:
    stack = resolved({})
    stack["models"][0]["prefetch"] = {"any": "thing"}
    assert names(needed(stack)) == ALWAYS | {"jobs.batch", "daemonsets.apps"}
