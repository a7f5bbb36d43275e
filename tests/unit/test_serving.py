"""What serves a model, told by live objects."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from ansible_collections.llm_d.multi_engine.plugins.module_utils import serving
from ansible_collections.llm_d.multi_engine.plugins.module_utils.cluster import Forbidden
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils import composing, tracks
from ansible_collections.llm_d.multi_engine.tests.unit import shipped
from ansible_collections.llm_d.multi_engine.tests.unit.fake_cluster import FakeCluster


def objects(model: dict[str, Any], place: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    resolved = shipped.resolved(model)
    there = {"qwen": place} if place else {}
    return [
        *composing.routing(resolved, shipped.GAIE_OPTIONS, there)["qwen"],
        *composing.model_servers(resolved, shipped.MODEL_OPTIONS, there)["qwen"],
    ]


def told(*items: dict[str, Any]) -> dict[str, Any]:
    found = serving.read(FakeCluster(*items), "llm-d", "llm-d")
    assert found is not None
    return found


def test_what_the_roles_compose_serves_where_they_put_it() -> None:
    found = told(*objects({"replicas": 3}))["qwen"]
    (server,) = found.pop("workloads")
    assert found.pop("config_hash")
    assert found == {
        "pool": "qwen",
        "engine": "sglang",
        "track": "stable",
        "port": 8000,
        "protocol": "http",
    }
    assert (server["name"], server["replicas"], server["asked"], server["ready"]) == ("qwen-sglang", 3, 3, 0)
    assert len(server["revision"]) == 16


def test_another_track_and_pool() -> None:
    place = {"engine": "sglang", "track": "canary", "pool": "qwen-canary"}
    found = told(*objects({}, place))["qwen"]
    assert {key: found[key] for key in place} == place
    assert [server["name"] for server in found["workloads"]] == ["qwen-sglang-canary"]
    assert tracks.placement(shipped.one(), found) == {"track": "canary", "pool": "qwen-canary"}
    # Of another engine it is nothing but the pool that stays.
    assert tracks.placement(shipped.one({"engine": "vllm"}), found) == {"track": "stable", "pool": "qwen-canary"}
    # It runs the same, whatever it is called.
    (stable,) = told(*objects({}))["qwen"]["workloads"]
    assert found["workloads"][0]["revision"] == stable["revision"]


@pytest.mark.parametrize("topology", ["aggregated", "disaggregated"])
def test_everything_is_called_by_its_place(topology: str) -> None:
    model = {"topology": topology, "disruption_budget": {"max_unavailable": "1"}, "replicas": 2}
    place = {"engine": "sglang", "track": "canary", "pool": "qwen-canary"}
    names = {(item["kind"], item["metadata"]["name"]) for item in objects(model)}
    moved = {(item["kind"], item["metadata"]["name"]) for item in objects(model, place)}
    # The route stays, and leads elsewhere.
    assert names & moved == {("HTTPRoute", "qwen")}
    back = {(kind, tracks.neutral_name(shipped.one(model), name)) for kind, name in moved}
    assert back == names


def test_two_that_serve() -> None:
    items = objects({}) + [item for item in objects({"engine": "vllm"}) if item["metadata"]["name"] == "qwen-vllm"]
    for item in items:
        if item["kind"] == "InferencePool":
            labels = item["spec"]["selector"]["matchLabels"]
            for name in [*serving.ENGINE_LABELS, serving.TRACK_LABEL]:
                del labels[name]
    found = told(*items)["qwen"]
    assert (found["engine"], found["track"], len(found["workloads"])) == (None, None, 2)


def test_a_route_that_is_somebody_elses_tells_nothing() -> None:
    items = objects({})
    (route,) = [item for item in items if item["kind"] == "HTTPRoute"]
    testers = copy.deepcopy(route)
    testers["metadata"]["name"] = "testers"
    mixed = copy.deepcopy(route)
    mixed["spec"]["rules"][0]["backendRefs"].append({"name": "another"})
    assert list(told(*items, testers)) == ["qwen"]
    assert told(*[item for item in items if item is not route], mixed) == {}
    assert told(*[item for item in items if item["kind"] != "InferencePool"]) == {}


def test_what_cannot_be_seen_is_not_known() -> None:
    class Blind(FakeCluster):
        def list(self, *_arguments: Any, **_options: Any) -> list[dict]:
            raise Forbidden("no")

    assert serving.read(Blind(), "llm-d", "llm-d") is None


def test_notes_of_before_there_were_any() -> None:
    items = objects({"replicas": 2})
    for item in items:
        item["metadata"].pop("annotations", None)
    (server,) = told(*items)["qwen"]["workloads"]
    assert (server["revision"], server["asked"]) == ("", 2)
