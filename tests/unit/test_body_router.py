"""Routing by the body: what the router is told, what its filter covers, and where it is refused."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from ansible_collections.llm_d.multi_engine.plugins.filter.gaie_objects import FilterModule
from ansible_collections.llm_d.multi_engine.plugins.module_utils.manifests import in_groups
from ansible_collections.llm_d.multi_engine.plugins.modules.inference_check import headers_for
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.questions import questions
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.status import wanted_models
from ansible_collections.llm_d.multi_engine.tests.unit.shipped import GAIE_OPTIONS, ROOT, findings, resolved

OTHER = {"name": "other", "source": "hf://a/b"}
SQL = {"name": "sql", "source": "pvc://adapters/sql"}
HEADER = "X-Gateway-Base-Model-Name"


def composed(*models: dict[str, Any], **changed: Any) -> dict[str, list[dict[str, Any]]]:
    return FilterModule().filters()["gaie_objects"](resolved(*models, **changed), GAIE_OPTIONS)


def test_nobody_who_does_not_ask_gets_it() -> None:
    objects = [item for items in composed({}, OTHER).values() for item in items]
    assert "EnvoyFilter" not in {item["kind"] for item in objects}
    assert "body_router" not in composed({})


def test_its_filter_covers_one_gateway_and_comes_last() -> None:
    *others, item = composed({}, OTHER, body_routing=True)["body_router"]
    assert item["kind"] == "EnvoyFilter"
    assert "EnvoyFilter" not in {other["kind"] for other in others}
    (target,) = item["spec"]["targetRefs"]
    assert (target["kind"], target["name"]) == ("Gateway", "llm-d-inference-gateway")
    (patch,) = item["spec"]["configPatches"]
    service = next(other for other in others if other["kind"] == "Service")
    config = patch["patch"]["value"]["typed_config"]
    cluster = config["grpc_service"]["envoy_grpc"]["cluster_name"]
    place = f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc.cluster.local"
    assert cluster == f"outbound|{service['spec']['ports'][0]['port']}||{place}"
    assert config["failure_mode_allow"] is False
    # Of the answers it sees nothing: it would hold them back.
    assert {key: mode for key, mode in config["processing_mode"].items() if key.startswith("response")} == {
        "response_header_mode": "SKIP",
        "response_body_mode": "NONE",
        "response_trailer_mode": "SKIP",
    }


def test_it_is_applied_behind_what_it_asks_and_pruned_before() -> None:
    objects = [item for items in composed({}, OTHER, body_routing=True).values() for item in items]
    assert [item["kind"] for item in in_groups(objects)[-1]] == ["EnvoyFilter"]


def test_without_models_there_is_none() -> None:
    # Or an empty list of models would not look empty, and everything would be removed.
    nothing = {**resolved({}, body_routing=True), "models": []}
    assert FilterModule().filters()["gaie_objects"](nothing, GAIE_OPTIONS) == {}


def test_every_name_leads_to_the_header_that_the_route_matches() -> None:
    given = [{"lora_adapters": [SQL]}, {**OTHER, "route": {"header": {"name": HEADER, "value": "x"}}}]
    by_model = composed(*given, body_routing=True)
    names = {}
    for item in by_model["body_router"]:
        if item["kind"] == "ConfigMap":
            assert item["metadata"]["labels"]["inference.networking.k8s.io/bbr-managed"] == "true"
            base = item["data"]["baseModel"]
            names |= dict.fromkeys([base, *(yaml.safe_load(item["data"].get("adapters", "")) or [])], base)
    assert names == {"Qwen/Qwen3-32B": "Qwen/Qwen3-32B", "Qwen/Qwen3-32B:sql": "Qwen/Qwen3-32B", "x": "x", "a/b": "x"}
    for model, value in (("qwen", "Qwen/Qwen3-32B"), ("other", "x")):
        route = next(item for item in by_model[model] if item["kind"] == "HTTPRoute")
        matched = [match["headers"][0]["value"] for rule in route["spec"]["rules"] for match in rule["matches"]]
        assert value in matched


def test_the_smoke_test_asks_without_headers() -> None:
    first, second = questions(resolved({}, {**OTHER, "route": {"path": "/b"}}, body_routing=True))
    assert (first["by_body"], second["by_body"]) == (True, False)
    assert HEADER in headers_for(first)
    assert HEADER not in headers_for(first, body={"model": "x"})
    assert HEADER in headers_for({**first, "by_body": False}, body={"model": "x"})


def test_whoever_looks_for_a_broken_hop_knows_it() -> None:
    """Status and smoke test are given the Deployment that is made."""
    stack = {"body_routing": True}
    names = {item["metadata"]["name"] for item in composed({}, **stack)["body_router"] if item["kind"] == "Deployment"}
    for tell in (questions, wanted_models):
        assert {model["body_router"] for model in tell(resolved({}, OTHER, **stack))} == names
        assert {model["body_router"] for model in tell(resolved({}))} == {""}


def test_a_mirror_holds_its_image_too() -> None:
    stack = resolved({}, image_registry="mirror.example.com", body_routing=True)
    image = stack["release"]["body_router"]["image"]
    assert image == "mirror.example.com/gateway-api-inference-extension/bbr:v1.5.0"
    assert stack["image_sources"][image].startswith("registry.k8s.io/")


@pytest.mark.parametrize(
    ("model", "changed", "found"),
    [
        (
            {},
            {"release": "llm-d-0.6", "body_routing": True},
            "llm_d_body_routing: true, but release llm-d-0.6 of llm_d_release has no router that reads bodies. Use ",
        ),
        (
            {"route": {"header": {"name": "X-Model", "value": "q"}}},
            {"body_routing": "yes"},
            "llm_d_models[0] (qwen).route.header.name: 'X-Model', but llm_d_body_routing is true, and the router sets X-",
        ),
        ({}, {"body_routing": "perhaps"}, "llm_d_body_routing: 'perhaps' is not of type bool. Allowed: true or false."),
    ],
)
def test_what_is_refused(model: dict[str, Any], changed: dict[str, Any], found: str) -> None:
    (message,) = findings(model, **changed)
    assert message.startswith(found)


def test_it_is_removed_before_what_it_asks() -> None:
    tasks = yaml.safe_load((ROOT / "roles/gaie/tasks/uninstall.yml").read_text())
    kinds = next(iter(tasks[0].values() if "kinds" in tasks[0] else [tasks[0]["llm_d.multi_engine.remove"]]))["kinds"]
    order = [kind.split()[-1] for kind in kinds]
    assert order.index("EnvoyFilter") < order.index("Deployment")
    composed_kinds = {item["kind"] for item in composed({}, OTHER, body_routing=True)["body_router"]}
    assert composed_kinds <= set(order)
