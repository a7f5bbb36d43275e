"""Whether applying an object again would change anything, told from its managed fields."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from ansible_collections.llm_d.multi_engine.plugins.module_utils.marks import FIELD_MANAGER
from ansible_collections.llm_d.multi_engine.plugins.module_utils.ownership import is_as_asked

ASKED: dict[str, Any] = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "a", "namespace": "n", "labels": {"x": "y"}},
    "spec": {
        "replicas": 2,
        "selector": {"matchLabels": {"x": "y"}},
        "template": {
            "spec": {
                "containers": [
                    {
                        "name": "c",
                        "args": ["--a", "--b"],
                        "ports": [{"containerPort": 8000}],
                        "env": [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
                    }
                ],
                "volumes": [{"name": "shm", "emptyDir": {}}],
            }
        },
    },
}
#: As kube-apiserver 1.35 writes it down for the object above.
FIELDS: dict[str, Any] = {
    "f:metadata": {"f:labels": {"f:x": {}}},
    "f:spec": {
        "f:replicas": {},
        "f:selector": {},
        "f:template": {
            "f:spec": {
                "f:containers": {
                    'k:{"name":"c"}': {
                        ".": {},
                        "f:name": {},
                        "f:args": {},
                        "f:ports": {'k:{"containerPort":8000,"protocol":"TCP"}': {".": {}, "f:containerPort": {}}},
                        "f:env": {'k:{"name":"IP"}': {".": {}, "f:name": {}, "f:valueFrom": {"f:fieldRef": {}}}},
                    }
                },
                "f:volumes": {'k:{"name":"shm"}': {".": {}, "f:name": {}, "f:emptyDir": {}}},
            }
        },
    },
}


def live_object() -> dict[str, Any]:
    """Return what the API server makes of the object: with defaults, status and managed fields."""
    live = copy.deepcopy(ASKED)
    container = live["spec"]["template"]["spec"]["containers"][0]
    container["imagePullPolicy"] = "IfNotPresent"
    container["ports"][0]["protocol"] = "TCP"
    container["env"][0]["valueFrom"]["fieldRef"]["apiVersion"] = "v1"
    live["status"] = {"replicas": 2}
    live["metadata"]["managedFields"] = [
        {"manager": "kube-controller-manager", "operation": "Update", "subresource": "status", "fieldsV1": {}},
        {"manager": FIELD_MANAGER, "operation": "Apply", "fieldsV1": copy.deepcopy(FIELDS)},
    ]
    return live


def ours(live: dict[str, Any]) -> dict[str, Any]:
    return live["metadata"]["managedFields"][1]["fieldsV1"]


def test_an_untouched_object_is_as_asked() -> None:
    assert is_as_asked(ASKED, live_object())


def container(item: dict[str, Any]) -> dict[str, Any]:
    return item["spec"]["template"]["spec"]["containers"][0]


ASKED_OTHERWISE = {
    "another value": lambda asked: asked["spec"].update(replicas=3),
    "another argument": lambda asked: container(asked)["args"].append("--c"),
    "other order": lambda asked: container(asked)["args"].reverse(),
    "a new field": lambda asked: container(asked).update(image="i"),
    "a field given up": lambda asked: container(asked).pop("env"),
    "a new item": lambda asked: container(asked)["ports"].append({"containerPort": 9000}),
    "an item given up": lambda asked: asked["spec"]["template"]["spec"].update(volumes=[]),
    "a label given up": lambda asked: asked["metadata"]["labels"].clear(),
    "a number as text": lambda asked: asked["spec"].update(replicas="2"),
}


@pytest.mark.parametrize("change", ASKED_OTHERWISE.values(), ids=ASKED_OTHERWISE)
def test_what_is_asked_for_changed(change: Any) -> None:
    asked = copy.deepcopy(ASKED)
    change(asked)
    assert not is_as_asked(asked, live_object())


CHANGED_BY_HAND = {
    # Whoever changes a field takes it over.
    "a value": lambda live: (live["spec"].update(replicas=5), ours(live)["f:spec"].pop("f:replicas")),
    # Or shares it, when forced.
    "a value that is shared": lambda live: live["spec"].update(replicas=5),
    "an item removed": lambda live: container(live).update(ports=[]),
    "not applied by us": lambda live: live["metadata"]["managedFields"].pop(1),
    "no managed fields": lambda live: live["metadata"].pop("managedFields"),
}


@pytest.mark.parametrize("change", CHANGED_BY_HAND.values(), ids=CHANGED_BY_HAND)
def test_what_is_there_changed(change: Any) -> None:
    live = live_object()
    change(live)
    assert not is_as_asked(ASKED, live)


@pytest.mark.parametrize(
    ("asked", "same"), [(["a", "b"], True), (["b", "a"], True), (["a"], False), (["a", "c"], False)]
)
def test_sets(asked: list[str], same: bool) -> None:
    live = {
        "metadata": {
            "finalizers": ["a", "b"],
            "managedFields": [
                {
                    "manager": FIELD_MANAGER,
                    "operation": "Apply",
                    "fieldsV1": {"f:metadata": {"f:finalizers": {'v:"a"': {}, 'v:"b"': {}}}},
                }
            ],
        }
    }
    item = {"apiVersion": "v1", "kind": "X", "metadata": {"name": "x", "finalizers": asked}}
    assert is_as_asked(item, live) is same
