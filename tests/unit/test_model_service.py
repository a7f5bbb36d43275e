"""What of a model's settings the golden manifests do not show."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.model_service import compose
from ansible_collections.llm_d.multi_engine.tests.unit.shipped import MODEL_OPTIONS, findings, one

TOKEN = {"name": "llm-d-hf-token", "key": "HF_TOKEN"}


def pod(model: dict[str, Any], **options: Any) -> dict[str, Any]:
    """Return the pod of ``model``, with its only container as ``container``."""
    (deployment,) = compose("llm-d", "llm-d", one(model), {**MODEL_OPTIONS, **options})
    spec = deployment["spec"]["template"]["spec"]
    return {**spec, "container": spec["containers"][0]}


def environment(model: dict[str, Any], **options: Any) -> dict[str, Any]:
    entries = pod(model, **options)["container"]["env"]
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in entries}


@pytest.mark.parametrize(
    ("env", "name", "value"),
    [
        ({}, "USER", "sglang"),
        ({"USER": "me"}, "USER", "me"),
        ({"USER": None}, "USER", None),
        ({"DEBUG": True}, "DEBUG", "true"),
        ({"COUNT": 2}, "COUNT", "2"),
        ({"X": {"secretKeyRef": {"name": "a", "key": "b"}}}, "X", {"secretKeyRef": {"name": "a", "key": "b"}}),
    ],
)
def test_environment(env: dict[str, Any], name: str, value: Any) -> None:
    assert environment({"env": env}).get(name) == value


@pytest.mark.parametrize(
    ("model", "secret", "token"),
    [
        ({}, {}, None),
        ({}, TOKEN, {"secretKeyRef": TOKEN}),
        ({"source": "pvc://claim/qwen"}, TOKEN, None),
        ({"env": {"HF_TOKEN": "own"}}, TOKEN, "own"),
        ({"env": {"HF_TOKEN": None}}, TOKEN, None),
    ],
)
def test_token(model: dict[str, Any], secret: dict[str, str], token: Any) -> None:
    assert environment(model, hf_token_secret=secret).get("HF_TOKEN") == token


@pytest.mark.parametrize(
    ("cache", "volume"),
    [
        ({}, {"emptyDir": {}}),
        ({"size": "100Gi"}, {"emptyDir": {"sizeLimit": "100Gi"}}),
        ({"host_path": "/srv"}, {"hostPath": {"path": "/srv", "type": "DirectoryOrCreate"}}),
        ({"claim": "c"}, {"persistentVolumeClaim": {"claimName": "c"}}),
    ],
)
def test_cache(cache: dict[str, str], volume: dict[str, Any]) -> None:
    assert {"name": "cache", **volume} in pod({"cache": cache})["volumes"]


def test_time_to_end() -> None:
    assert pod({})["terminationGracePeriodSeconds"] == 330
    assert pod({"drain_seconds": 0})["terminationGracePeriodSeconds"] == 30


def test_without_a_service_account_there_are_no_credentials() -> None:
    assert pod({})["automountServiceAccountToken"] is False
    assert "serviceAccountName" not in pod({})


@pytest.mark.parametrize(
    ("budget", "spec"),
    [
        ({"max_unavailable": 1}, {"maxUnavailable": 1}),
        ({"max_unavailable": "1"}, {"maxUnavailable": 1}),
        ({"min_available": 2}, {"minAvailable": 2}),
        ({"min_available": "50%"}, {"minAvailable": "50%"}),
    ],
)
def test_disruption_budget(budget: dict[str, Any], spec: dict[str, Any]) -> None:
    model = one({"disruption_budget": budget, "replicas": 3})
    deployment, made = compose("llm-d", "llm-d", model, MODEL_OPTIONS)
    assert made["spec"].items() >= spec.items()
    assert made["spec"]["selector"] == deployment["spec"]["selector"]


@pytest.mark.parametrize(
    ("budget", "replicas", "message"),
    [
        (
            {"max_unavailable": 1, "min_available": 1},
            2,
            "both min_available and max_unavailable. Kubernetes takes one of them.",
        ),
        ({"min_available": 2}, 2, "2 of 2 replicas have to be available: no node could be drained. "),
        ({"min_available": "51%"}, 2, "51% of 2 replicas have to be available: no node could be drained. "),
        ({"min_available": 1}, 1, "1 of 1 replicas have to be available: no node could be drained. "),
        ({"max_unavailable": "0%"}, 2, "no replica may be unavailable: no node could be drained. "),
    ],
)
def test_disruption_budgets_that_are_refused(budget: dict[str, Any], replicas: int, message: str) -> None:
    model = {"disruption_budget": budget, "replicas": replicas}
    (found,) = findings(model)
    assert found.startswith(f"llm_d_models[0] (qwen).disruption_budget: {message}")
    overridable = "add 'disruption-budget' to llm_d_overrides" in found
    assert bool(findings(model, overrides=["disruption-budget"])) != overridable


def test_values_of_a_disruption_budget() -> None:
    assert findings({"disruption_budget": {"max_unavailable": -1, "min": 1}}) == [
        "llm_d_models[0] (qwen).disruption_budget.min: unknown key. Allowed: max_unavailable, min_available.",
        (
            "llm_d_models[0] (qwen).disruption_budget.max_unavailable: '-1' is not valid. "
            "Allowed: a number or a percentage of pods, such as 1 or '50%'."
        ),
    ]


def test_network_policies_are_optional_and_take_text_for_a_list() -> None:
    options = {**MODEL_OPTIONS, "network_policies": True, "network_policy_namespaces": "a, b"}
    _deployment, policy = compose("llm-d", "llm-d", one(), options)
    peers = policy["spec"]["ingress"][0]["from"]
    assert [list(peer) for peer in peers] == [
        ["namespaceSelector", "podSelector"],
        ["podSelector"],
        ["podSelector"],
        ["namespaceSelector"],
        ["namespaceSelector"],
    ]
