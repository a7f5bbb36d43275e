"""Two sets of manifests next to each other: what a Helm release holds and what its chart renders."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.comparison import KEEP, compare, flattened

DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata:
  name: istiod
  namespace: istio-system
spec:
  replicas: {replicas}
  paused: false
"""


def thing(name: str, kind: str = "ConfigMap", **content: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "a", **content.pop("metadata", {})}
    return {"apiVersion": "v1", "kind": kind, "metadata": metadata, **content}


def actions(result: dict[str, Any]) -> dict[str, str]:
    return {entry["name"]: entry["action"] for entry in result["objects"]}


def test_only_what_differs_is_shown() -> None:
    before = [DEPLOYMENT.format(replicas=1), [thing("same"), thing("gone")]]
    after = DEPLOYMENT.format(replicas=2) + "---\n" + "---\n# nothing\n---\n"
    result = compare(before, [after, thing("same"), thing("new")])
    assert actions(result) == {
        "ConfigMap a/same": "unchanged",
        "ConfigMap a/new": "created",
        "Deployment istio-system/istiod": "changed",
        "ConfigMap a/gone": "removed",
    }
    created, changed, removed = result["diff"]
    assert created["before"] == ""
    assert created["after"] == "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: new\n  namespace: a\n"
    assert changed["before_header"] == changed["after_header"] == "Deployment istio-system/istiod"
    assert changed["before"].replace("replicas: 1", "replicas: 2") == changed["after"]
    assert (removed["after_header"], removed["after"]) == ("ConfigMap a/gone", "")
    assert result["changed"]


@pytest.mark.parametrize("nothing", ["", [], None, [None], "---\n", [""]])
def test_nothing_installed_yet(nothing: Any) -> None:
    result = compare(nothing, DEPLOYMENT.format(replicas=1))
    assert actions(result) == {"Deployment istio-system/istiod": "created"}
    assert compare(nothing, nothing) == {"changed": False, "objects": [], "diff": []}


def test_the_same_is_no_change() -> None:
    text = DEPLOYMENT.format(replicas=1)
    bookkeeping = {"creationTimestamp": None}
    result = compare([text, thing("a")], [thing("a", metadata=bookkeeping), text])
    assert (result["changed"], result["diff"]) == (False, [])
    assert set(actions(result).values()) == {"unchanged"}


def test_another_version_of_the_api_is_a_change_and_another_group_another_object() -> None:
    one = {**thing("x", "Gateway"), "apiVersion": "networking.istio.io/v1beta1"}
    newer = {**one, "apiVersion": "networking.istio.io/v1"}
    other = {**one, "apiVersion": "gateway.networking.k8s.io/v1"}
    assert actions(compare([one], [newer])) == {"Gateway a/x": "changed"}
    assert [entry["action"] for entry in compare([one], [other])["objects"]] == ["created", "removed"]


def test_what_helm_keeps_is_not_shown_as_removed() -> None:
    kept = thing("crd", metadata={"annotations": {KEEP: "keep"}})
    assert compare([kept], [])["changed"] is False
    assert actions(compare([kept], [thing("crd")])) == {"ConfigMap a/crd": "changed"}


def test_values_of_secrets_are_hidden() -> None:
    old, new = (thing("s", "Secret", data={"key": value, "other": "b3RoZXI="}) for value in ("c2VjcmV0MQ==", "bmV3"))
    for before, after in (([], [new]), ([old], [new]), ([old], [])):
        result = compare(before, after)
        assert result["changed"]
        assert not [value for value in ("c2VjcmV0MQ==", "bmV3", "b3RoZXI=") if value in repr(result)]
    assert "key: (hidden, another value)\n  other: (hidden)" in compare([old], [new])["diff"][0]["after"]
    assert compare([old], [old])["changed"] is False


def test_schemas_of_definitions_are_shortened() -> None:
    def definition(text: str) -> dict[str, Any]:
        spec = {"versions": [{"name": "v1", "schema": {"openAPIV3Schema": {"description": text}}}]}
        return thing("d", "CustomResourceDefinition", spec=spec)

    (diff,) = compare([definition("one")], [definition("another")])["diff"]
    assert "openAPIV3Schema" not in diff["before"] + diff["after"]
    assert diff["before"].count("\n") == diff["after"].count("\n") < 12


def test_lists_of_kubernetes_are_unpacked() -> None:
    items = {"apiVersion": "v1", "kind": "List", "items": [thing("a"), thing("b")]}
    assert [item["metadata"]["name"] for item in flattened([items, [thing("c")]])] == ["a", "b", "c"]


@pytest.mark.parametrize("wrong", ["just words", 3, {"secret": 1}, "- a\n- b\n", {"kind": "A", "metadata": {}}])
def test_what_is_no_object_is_refused_without_showing_it(wrong: Any) -> None:
    with pytest.raises(ValueError, match="something in them is no Kubernetes object") as error:
        compare([], wrong)
    assert "words" not in str(error.value)
    assert "secret" not in str(error.value)
