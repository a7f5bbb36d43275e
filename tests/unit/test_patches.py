"""Patches of the user's own: how they are merged, what they find, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.llm_d.multi_engine.plugins.filter.gaie_objects import FilterModule as GaieObjects
from ansible_collections.llm_d.multi_engine.plugins.filter.gateway_objects import FilterModule as GatewayObjects
from ansible_collections.llm_d.multi_engine.plugins.filter.model_service_objects import FilterModule as ModelObjects
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.patches import PatchError, json_patch, merge
from ansible_collections.llm_d.multi_engine.tests.unit.shipped import (
    GAIE_OPTIONS,
    GATEWAY_OPTIONS,
    MODEL_OPTIONS,
    findings,
    resolved,
)

SERVER = {"target": {"kind": "Deployment", "name": "*-sglang"}}
OTHER = {"name": "other", "source": "hf://a/b", "engine": "vllm"}


@pytest.mark.parametrize(
    ("base", "over", "result"),
    [
        ({"a": {"b": 1}}, {"a": {"c": 2}}, {"a": {"b": 1, "c": 2}}),
        ({"a": 1}, {"a": None}, {}),
        ({"a": 1}, {"b": {"c": None, "d": 1}}, {"a": 1, "b": {"d": 1}}),
        ({"a": {"b": 1}}, {"a": {"$patch": "replace", "c": 2}}, {"a": {"c": 2}}),
        ({"a": {"b": 1}, "c": 1}, {"a": {"$patch": "delete"}}, {"c": 1}),
        ({"args": [1, 2]}, {"args": [3]}, {"args": [3]}),
        ({"tolerations": [{"key": "a"}]}, {"tolerations": [{"key": "b"}]}, {"tolerations": [{"key": "b"}]}),
        (
            {"containers": [{"name": "a", "image": "x"}, {"name": "b"}]},
            {"containers": [{"name": "c"}, {"name": "a", "tty": True}]},
            {"containers": [{"name": "a", "image": "x", "tty": True}, {"name": "b"}, {"name": "c"}]},
        ),
        ({"volumeMounts": [{"mountPath": "/a", "name": "x"}]}, {"volumeMounts": [{"mountPath": "/a", "name": "y"}]},
         {"volumeMounts": [{"mountPath": "/a", "name": "y"}]}),
        ({"ports": [{"containerPort": 1, "name": "x"}]}, {"ports": [{"containerPort": 1, "hostPort": 2}]},
         {"ports": [{"containerPort": 1, "name": "x", "hostPort": 2}]}),
        ({"ports": [{"port": 1, "name": "x"}]}, {"ports": [{"port": 2}]}, {"ports": [{"port": 1, "name": "x"}, {"port": 2}]}),
        # One of several sources: the new one alone.
        ({"env": [{"name": "A", "value": "1"}]}, {"env": [{"name": "A", "valueFrom": {}}]},
         {"env": [{"name": "A", "valueFrom": {}}]}),
        ({"volumes": [{"name": "a", "emptyDir": {}}]}, {"volumes": [{"name": "a", "hostPath": {"path": "/a"}}]},
         {"volumes": [{"name": "a", "hostPath": {"path": "/a"}}]}),
        ({"env": [{"name": "A"}, {"name": "B"}]}, {"env": [{"name": "A", "$patch": "delete"}]}, {"env": [{"name": "B"}]}),
        ({"env": [{"name": "A"}]}, {"env": [{"$patch": "replace"}, {"name": "B"}]}, {"env": [{"name": "B"}]}),
        ({}, {"env": [{"name": "B"}]}, {"env": [{"name": "B"}]}),
        ({"spec": 1}, {"spec": {"a": 1}}, {"spec": {"a": 1}}),
    ],
)  # fmt: skip
def test_merge(base: Any, over: Any, result: Any) -> None:
    before = repr((base, over))
    assert merge(base, over) == result
    assert repr((base, over)) == before


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ({"containers": [{"image": "x"}]}, "an entry of containers lacks name, by which entries are told"),
        ({"containers": ["x"]}, "an entry of containers lacks name, by which entries are told"),
        ({"ports": [{"name": "x"}]}, "an entry of ports lacks containerPort or port, by which entries are told"),
        ({"env": [{"name": "X", "$patch": "delete"}]}, "env has no entry with name 'X' to delete"),
        ({"a": {"$patch": "merge"}}, "$patch: 'merge' is not known, only delete and replace are"),
    ],
)
def test_merges_that_are_refused(over: Any, message: str) -> None:
    with pytest.raises(PatchError) as raised:
        merge({"env": [{"name": "A"}], "a": {}}, over)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("operations", "result"),
    [
        ([{"op": "add", "path": "/b", "value": {}}], {"a": [1, 2], "x/y~z": 0, "b": {}}),
        ([{"op": "add", "path": "/b", "value": None}], {"a": [1, 2], "x/y~z": 0, "b": None}),
        ([{"op": "add", "path": "/a/-", "value": 3}], {"a": [1, 2, 3], "x/y~z": 0}),
        ([{"op": "add", "path": "/a/0", "value": 3}], {"a": [3, 1, 2], "x/y~z": 0}),
        ([{"op": "add", "path": "/a/2", "value": 3}], {"a": [1, 2, 3], "x/y~z": 0}),
        ([{"op": "remove", "path": "/a/0"}], {"a": [2], "x/y~z": 0}),
        ([{"op": "remove", "path": "/x~1y~0z"}], {"a": [1, 2]}),
        ([{"op": "replace", "path": "/a/1", "value": 9}], {"a": [1, 9], "x/y~z": 0}),
        ([{"op": "test", "path": "/a/1", "value": 2}, {"op": "remove", "path": "/a"}], {"x/y~z": 0}),
    ],
)
def test_json_patch(operations: list[dict[str, Any]], result: Any) -> None:
    item = {"a": [1, 2], "x/y~z": 0}
    assert json_patch(item, operations) == result
    assert item == {"a": [1, 2], "x/y~z": 0}


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        ({"op": "remove", "path": "/c"}, "/c does not exist: 'c' is not there, there is a, b"),
        ({"op": "add", "path": "/c/d", "value": 1}, "/c/d does not exist: 'c' is not there, there is a, b"),
        ({"op": "add", "path": "/b/d", "value": 1}, "/b/d does not exist: 'd' is not there"),
        ({"op": "add", "path": "/a/4", "value": 1}, "/a/4 does not exist: '4' is no entry of a list of 2"),
        ({"op": "replace", "path": "/a/2", "value": 1}, "/a/2 does not exist: '2' is no entry of a list of 2"),
        ({"op": "remove", "path": "/a/-"}, "/a/- does not exist: '-' is no entry of a list of 2"),
        ({"op": "remove", "path": "/a/-1"}, "/a/-1 does not exist: '-1' is no entry of a list of 2"),
        ({"op": "test", "path": "/a/0", "value": 5}, "test of /a/0 found 1 and not 5"),
    ],
)
def test_json_patches_that_do_not_fit(operation: dict[str, Any], message: str) -> None:
    with pytest.raises(PatchError) as raised:
        json_patch({"a": [1, 2], "b": 1}, [operation])
    assert str(raised.value) == message


def servers(*models: Any, **changed: Any) -> dict[str, list[dict[str, Any]]]:
    return ModelObjects().filters()["model_service_objects"](resolved(*models, **changed), MODEL_OPTIONS)


def pickers(*models: Any, **changed: Any) -> dict[str, list[dict[str, Any]]]:
    return GaieObjects().filters()["gaie_objects"](resolved(*models, **changed), GAIE_OPTIONS)


@pytest.mark.parametrize(
    ("target", "touched"),
    [
        ({"kind": "Deployment"}, ["qwen-sglang", "other-vllm"]),
        ({"kind": "Deployment", "name": "*-vllm"}, ["other-vllm"]),
        ({"kind": "Deployment", "name": "qwen-sglang"}, ["qwen-sglang"]),
        ({"kind": "Deployment", "role": "prefill-decode"}, ["qwen-sglang", "other-vllm"]),
        ({"kind": "Deployment", "name": "*-epp"}, []),
    ],
)
def test_patches_of_the_stack_find_their_objects(target: dict[str, str], touched: list[str]) -> None:
    patch = {"target": target, "merge": {"spec": {"paused": True}}}
    composed = servers({}, OTHER, patches=[patch])
    deployments = [item for objects in composed.values() for item in objects]
    assert [item["metadata"]["name"] for item in deployments if item["spec"].get("paused")] == touched


def test_patches_of_a_model_come_last_and_stay_with_it() -> None:
    stack = {**SERVER, "merge": {"spec": {"minReadySeconds": 1, "paused": True}}}
    own = {**SERVER, "json": [{"op": "replace", "path": "/spec/minReadySeconds", "value": 2}]}
    composed = servers({"patches": [own]}, {**OTHER, "engine": "sglang"}, patches=[stack])
    specs = [objects[0]["spec"] for objects in composed.values()]
    assert [(spec["minReadySeconds"], spec["paused"]) for spec in specs] == [(2, True), (1, True)]


def test_a_patched_configuration_restarts_its_picker() -> None:
    def annotation(**changed: Any) -> str:
        (objects,) = pickers({}, **changed).values()
        (deployment,) = [item for item in objects if item["kind"] == "Deployment"]
        return deployment["spec"]["template"]["metadata"]["annotations"]["multi-engine.llm-d.ai/config-hash"]

    patch = {"target": {"kind": "ConfigMap"}, "merge": {"data": {"config.yaml": "other"}}}
    assert annotation(patches=[patch]) != annotation()
    assert annotation(patches=[{"target": {"kind": "Service"}, "merge": {"spec": {}}}]) == annotation()


def test_patches_of_the_gateway() -> None:
    compose = GatewayObjects().filters()["gateway_objects"]
    patch = {"target": {"kind": "Gateway"}, "merge": {"spec": {"gatewayClassName": "mine"}}}
    assert compose(resolved({}, patches=[patch]), GATEWAY_OPTIONS)[0]["spec"]["gatewayClassName"] == "mine"
    patch = {"target": {"kind": "Gateway", "name": "llm-d-gateway"}, "merge": {}}
    with pytest.raises(AnsibleFilterError, match=r"Gateway llm-d-gateway matches nothing\. Did you mean 'llm-d-inf"):
        compose(resolved({}, patches=[patch]), GATEWAY_OPTIONS)


def test_what_does_not_fit_a_picker_is_told_when_it_is_composed() -> None:
    patch = {"target": {"kind": "Deployment", "name": "*-epp"}, "json": [{"op": "remove", "path": "/spec/paused"}]}
    with pytest.raises(AnsibleFilterError, match=r"llm_d_patches\[0\]: /spec/paused does not exist"):
        pickers({}, patches=[patch])


NOTHING = (
    "Kinds that there are: ConfigMap, Deployment, DestinationRule, Gateway, HTTPRoute, InferencePool, NetworkPolicy, PodMonitor, "
    "Role, RoleBinding, Service, ServiceAccount."
)
WHOLE = "The object is Deployment qwen-sglang (prefill-decode); playbook render shows it whole."


@pytest.mark.parametrize(
    ("patch", "messages"),
    [
        ({"merge": {}}, ["llm_d_patches[0].target: missing. Allowed: a dict."]),
        ({"target": {"name": "a"}, "merge": {}}, ["llm_d_patches[0].target.kind: missing. Allowed: text."]),
        (
            {"target": {"kind": "Deployment", "rol": "decode"}, "merge": {}},
            ["llm_d_patches[0].target.rol: unknown key. Did you mean 'role'? Allowed: kind, name, role."],
        ),
        (
            {"target": {"kind": "Deployment", "role": "decoder"}, "merge": {}},
            [
                (
                    "llm_d_patches[0].target.role: 'decoder' is not allowed. Did you mean 'decode'? "
                    "Allowed: prefill-decode, prefill, decode."
                ),
            ],
        ),
        (SERVER, ["llm_d_patches[0]: neither merge nor json. Give exactly one of them; write two patches for both."]),
        (
            {**SERVER, "merge": {}, "json": []},
            ["llm_d_patches[0]: both merge and json. Give exactly one of them; write two patches for both."],
        ),
        ({**SERVER, "merge": []}, ["llm_d_patches[0].merge: [] is not of type dict. Allowed: a dict."]),
        (
            {**SERVER, "json": [{"op": "ad", "path": "spec", "valu": 1}, {"op": "add", "path": "/spec"}]},
            [
                "llm_d_patches[0].json[0].valu: unknown key. Did you mean 'value'? Allowed: op, path, value.",
                "llm_d_patches[0].json[0].op: 'ad' is not allowed. Did you mean 'add'? Allowed: add, remove, replace, test.",
                (
                    "llm_d_patches[0].json[0].path: 'spec' is not valid. "
                    "Allowed: a JSON pointer such as /spec/template/spec/containers/0/args/-."
                ),
                "llm_d_patches[0].json[1].value: missing. Operation add needs one.",
            ],
        ),
        (
            {"target": {"kind": "Deploymnt"}, "merge": {}},
            [f"llm_d_patches[0].target: Deploymnt * matches nothing. Did you mean 'Deployment'? {NOTHING}"],
        ),
        (
            {"target": {"kind": "Deployment", "name": "qwen-vllm"}, "merge": {}},
            [
                (
                    "llm_d_patches[0].target: Deployment qwen-vllm matches nothing. Did you mean 'qwen-sglang'? "
                    "There are: Deployment qwen-epp, Deployment qwen-sglang (prefill-decode)."
                ),
            ],
        ),
        (
            {"target": {"kind": "Deployment", "role": "decode"}, "merge": {}},
            [
                (
                    "llm_d_patches[0].target: Deployment * of role decode matches nothing. "
                    "There are: Deployment qwen-epp, Deployment qwen-sglang (prefill-decode)."
                ),
            ],
        ),
        (
            {**SERVER, "merge": {"metadata": {"name": "mine"}}},
            [f"llm_d_patches[0]: it would change metadata.name, by which the object is known. {WHOLE}"],
        ),
        (
            {**SERVER, "merge": {"apiVersion": "v2"}},
            [f"llm_d_patches[0]: it would change apiVersion, by which the object is known. {WHOLE}"],
        ),
        (
            {**SERVER, "json": [{"op": "remove", "path": "/metadata"}]},
            [f"llm_d_patches[0]: it would change metadata.name, by which the object is known. {WHOLE}"],
        ),
        (
            {**SERVER, "merge": {"metadata": {"labels": {"llm-d.ai/model": "x"}}}},
            [
                (
                    "llm_d_patches[0]: it would change llm-d.ai/model in metadata.labels, by which objects and pods are "
                    f"found. {WHOLE}"
                ),
            ],
        ),
        (
            {**SERVER, "merge": {"spec": {"selector": {"matchLabels": {"a": "b"}}}}},
            [f"llm_d_patches[0]: it would change spec.selector, which has to match the pods. {WHOLE}"],
        ),
        (
            {**SERVER, "merge": {"spec": {"template": {"metadata": {"labels": {"llm-d.ai/role": None}}}}}},
            [
                (
                    "llm_d_patches[0]: it would change llm-d.ai/role in the pods' labels, by which objects and pods are "
                    f"found. {WHOLE}"
                ),
            ],
        ),
        (
            {**SERVER, "merge": {"spec": {"template": None}}},
            [f"llm_d_patches[0]: it would take away a pod template. {WHOLE}"],
        ),
        (
            {**SERVER, "merge": {"spec": "none"}},
            [f"llm_d_patches[0]: it would change spec.selector, which has to match the pods. {WHOLE}"],
        ),
        (
            {**SERVER, "json": [{"op": "remove", "path": "/spec/paused"}]},
            [
                (
                    "llm_d_patches[0]: /spec/paused does not exist: 'paused' is not there, there is replicas, strategy, "
                    f"progressDeadlineSeconds, selector, template. {WHOLE}"
                ),
            ],
        ),
        ("junk", ["llm_d_patches[0]: 'junk' is not of type dict. Allowed: a dict."]),
    ],
)
def test_patches_that_are_refused(patch: Any, messages: list[str]) -> None:
    assert findings({}, patches=[patch]) == messages


def test_an_identity_that_a_picker_would_lose_is_told_beforehand_and_once() -> None:
    patch = {"target": {"kind": "InferencePool"}, "merge": {"metadata": {"namespace": "x"}}}
    assert findings({}, OTHER, patches=[patch]) == [
        f"llm_d_patches[0]: it would change metadata.namespace, by which the object is known. "
        f"The object is InferencePool {name}; playbook render shows it whole."
        for name in ("qwen", "other")
    ]


def test_a_patch_of_a_model_does_not_find_others() -> None:
    patch = {"target": {"kind": "Deployment", "name": "other-*"}, "merge": {}}
    assert findings({"patches": [patch]}, OTHER) == [
        (
            "llm_d_models[0] (qwen).patches[0].target: Deployment other-* matches nothing. "
            "There are: Deployment qwen-epp, Deployment qwen-sglang (prefill-decode)."
        ),
    ]


def test_targets_are_looked_for_only_when_the_models_are_right() -> None:
    patch = {"target": {"kind": "Deployment", "name": "nobody"}, "merge": {}}
    assert findings({"engine": "sglan"}, patches=[patch]) == [
        "llm_d_models[0] (qwen).engine: unknown engine 'sglan'. Did you mean 'sglang'? Known engines: sglang, simulator, vllm.",
    ]
    assert findings(patches=[patch]) == []
