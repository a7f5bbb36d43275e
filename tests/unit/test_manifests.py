"""Order, ownership and presentation of Kubernetes objects."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from ansible_collections.llm_d.multi_engine.plugins.module_utils.manifests import (
    MASK,
    OTHER_MASK,
    foreign,
    in_order,
    limited_to,
    name_of,
    presentable,
)
from ansible_collections.llm_d.multi_engine.plugins.module_utils.marks import REPLICAS, REVISION

OURS = {"app.kubernetes.io/managed-by": "llm_d.multi_engine", "multi-engine.llm-d.ai/stack": "llm-d"}


def kinds(*names: str) -> list[dict[str, Any]]:
    return [{"kind": kind, "metadata": {"name": str(index)}} for index, kind in enumerate(names)]


@pytest.mark.parametrize(
    ("given", "ordered"),
    [
        (["HTTPRoute", "Deployment", "Namespace"], ["Namespace", "Deployment", "HTTPRoute"]),
        (["PodMonitor", "Deployment", "Service"], ["Service", "PodMonitor", "Deployment"]),
        (["RoleBinding", "Role", "ServiceAccount", "Secret"], ["ServiceAccount", "Role", "RoleBinding", "Secret"]),
        (["InferencePool", "CustomResourceDefinition"], ["CustomResourceDefinition", "InferencePool"]),
        ([], []),
    ],
)
def test_in_order(given: list[str], ordered: list[str]) -> None:
    assert [item["kind"] for item in in_order(kinds(*given))] == ordered


def test_equals_stay_in_their_order() -> None:
    ordered = in_order(kinds("ConfigMap", "Deployment", "ConfigMap", "Deployment"))
    assert [item["metadata"]["name"] for item in ordered] == ["0", "2", "1", "3"]


@pytest.mark.parametrize(
    ("metadata", "name"),
    [({"name": "a", "namespace": "b"}, "Deployment b/a"), ({"name": "a"}, "Deployment a")],
)
def test_name_of(metadata: dict[str, str], name: str) -> None:
    assert name_of({"kind": "Deployment", "metadata": metadata}) == name


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (OURS, None),
        ({"app.kubernetes.io/managed-by": "llm_d.multi_engine"}, None),
        ({**OURS, "multi-engine.llm-d.ai/stack": "other"}, "it belongs to stack other"),
        ({"app.kubernetes.io/managed-by": "Helm"}, "it exists and is managed by Helm"),
        ({}, "it exists and was not made by this collection"),
        (None, "it exists and was not made by this collection"),
    ],
)
def test_foreign(labels: dict[str, str] | None, reason: str | None) -> None:
    assert foreign({"metadata": {"labels": labels}}, "llm-d") == reason
    if labels is None:
        assert foreign({"metadata": {}}, "llm-d") == reason


def test_presentable_leaves_out_what_nobody_asked_for() -> None:
    item = {
        "kind": "Deployment",
        "metadata": {
            "name": "a",
            "uid": "1",
            "resourceVersion": "2",
            "generation": 3,
            "creationTimestamp": "now",
            "managedFields": [],
            "annotations": {"deployment.kubernetes.io/revision": "1", "mine": "x", REVISION: "2", REPLICAS: "1"},
        },
        "spec": {"replicas": 1},
        "status": {"replicas": 1},
    }
    before = copy.deepcopy(item)
    assert presentable(item) == {
        "kind": "Deployment",
        "metadata": {"name": "a", "annotations": {"mine": "x"}},
        "spec": {"replicas": 1},
    }
    assert item == before


@pytest.mark.parametrize("item", [None, {}, {"kind": "A", "metadata": {"annotations": None}}, {"metadata": None}])
def test_presentable_takes_what_is_empty(item: dict | None) -> None:
    assert presentable(item) == (item or {})


SECRET = {"kind": "Secret", "metadata": {"name": "token"}, "data": {"TOKEN": "aGZfc2VjcmV0", "other": "eA=="}}


@pytest.mark.parametrize(
    ("item", "before", "data"),
    [
        (SECRET, None, {"TOKEN": MASK, "other": MASK}),
        (SECRET, SECRET, {"TOKEN": MASK, "other": MASK}),
        (SECRET, {**SECRET, "data": {"TOKEN": "b3RoZXI=", "other": "eA=="}}, {"TOKEN": OTHER_MASK, "other": MASK}),
        (SECRET, {**SECRET, "data": {}}, {"TOKEN": MASK, "other": MASK}),
        (SECRET, {**SECRET, "data": None}, {"TOKEN": MASK, "other": MASK}),
    ],
)
def test_presentable_hides_secrets_and_tells_changed_ones(item: dict, before: dict | None, data: dict) -> None:
    assert presentable(item, before)["data"] == data


def test_presentable_hides_text_of_secrets() -> None:
    shown = presentable({"kind": "Secret", "metadata": {}, "stringData": {"TOKEN": "hf_secret"}})
    assert shown["stringData"] == {"TOKEN": MASK}
    assert "hf_secret" not in repr(shown)


def test_presentable_abridges_definitions_and_still_tells_them_apart() -> None:
    def definition(description: str) -> dict[str, Any]:
        schema = {"openAPIV3Schema": {"description": description}}
        return {"kind": "CustomResourceDefinition", "metadata": {}, "spec": {"versions": [{"schema": schema}]}}

    assert presentable(definition("a")) == presentable(definition("a")) != presentable(definition("b"))
    assert "openAPIV3Schema" not in repr(presentable(definition("a")))


@pytest.mark.parametrize(
    ("shown", "asked", "limited"),
    [
        ({"a": 1, "b": 2}, {"a": 0}, {"a": 1}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 0}}, {"a": {"b": 1}}),
        ({"a": {"b": 1}}, {"a": 0}, {"a": {"b": 1}}),
        # Named items are compared by name, wherever they stand.
        (
            {"list": [{"name": "y", "v": 1, "default": 2}, {"name": "x", "v": 3, "default": 4}]},
            {"list": [{"name": "x", "v": 0}, {"name": "y", "v": 0}]},
            {"list": [{"name": "y", "v": 1}, {"name": "x", "v": 3}]},
        ),
        # What was not asked for stays visible.
        ({"list": [{"name": "z", "v": 1}]}, {"list": []}, {"list": [{"name": "z", "v": 1}]}),
        ({"list": [{"v": 1, "default": 2}]}, {"list": [{"v": 0}]}, {"list": [{"v": 1}]}),
        ({"list": ["a", "b"]}, {"list": ["a"]}, {"list": ["a", "b"]}),
    ],
)
def test_limited_to(shown: dict, asked: dict, limited: dict) -> None:
    assert limited_to(shown, asked) == limited


def test_the_order_in_which_a_server_names_an_object_is_no_change() -> None:
    one = {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "a"}}
    other = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}
    assert list(presentable(one)) == list(presentable(other)) == ["apiVersion", "kind", "metadata"]
