from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.findings import Finding
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.schema import check

MODEL = {
    "type": "dict",
    "options": {
        "name": {"type": "str", "required": True, "pattern": "[a-z]+", "allowed": "lower-case letters"},
        "replicas": {"type": "int", "minimum": 1, "maximum": 9, "default": 1},
        "policy": {"type": "str", "choices": ["Always", "Never"]},
        "args": {"type": "list", "elements": "str", "default": []},
        "env": {"type": "dict", "keys": "[A-Z]+", "default": {}},
        "labels": {"type": "dict", "values": "str"},
        "route": {"type": "dict", "options": {"header": {"type": "dict", "options": {"name": {"required": True}}}}},
        "volumes": {"type": "list", "elements": "dict", "options": {"name": {"required": True}}},
    },
}


def run(value: Any, spec: dict[str, Any]) -> tuple[Any, list[str]]:
    findings: list[Finding] = []
    return check(value, spec, "it", findings), [str(finding) for finding in findings]


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        ("3", "int", 3),
        (3.0, "int", 3),
        ("0.9", "float", 0.9),
        (1, "float", 1.0),
        (16, "str", "16"),
        ("yes", "bool", True),
        ("Off", "bool", False),
        (0, "bool", False),
        ((1, 2), "list", [1, 2]),
        ({"a": None}, "dict", {"a": None}),
        ({"any": ["thing"]}, "raw", {"any": ["thing"]}),
    ],
)
def test_coerced(value: Any, kind: str, expected: Any) -> None:
    assert run(value, {"type": kind}) == (expected, [])


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("three", "int"),
        (1.5, "int"),
        (True, "int"),
        (None, "int"),
        ([1], "int"),
        ("inf", "int"),
        (float("inf"), "float"),
        (float("nan"), "float"),
        ("1e999", "int"),
        (["a"], "str"),
        ({"a": 1}, "str"),
        (True, "str"),
        (None, "str"),
        ("maybe", "bool"),
        ([], "bool"),
        ("a,b", "list"),
        ({"a": 1}, "list"),
        ("a", "dict"),
        ([], "dict"),
    ],
)
def test_of_another_type(value: Any, kind: str) -> None:
    result, findings = run(value, {"type": kind})
    assert result is None
    assert findings[0].startswith(f"it: {value!r} is not of type {kind}. ")
    assert " Allowed: " in findings[0]


def test_defaults_are_filled_in_and_not_shared() -> None:
    first, _ = run({"name": "a"}, MODEL)
    second, _ = run({"name": "a", "replicas": None}, MODEL)
    assert first == second == {"name": "a", "replicas": 1, "args": [], "env": {}}
    first["args"].append("x")
    assert run({"name": "a"}, MODEL)[0]["args"] == []


def test_values_of_a_dict_are_coerced() -> None:
    assert run({"name": "a", "labels": {"generation": 2}}, MODEL)[0]["labels"] == {"generation": "2"}


def test_the_input_is_not_changed() -> None:
    given = {"name": "a", "env": {"A": {"b": [1]}}}
    result, _ = run(given, MODEL)
    result["env"]["A"]["b"].append(2)
    assert given == {"name": "a", "env": {"A": {"b": [1]}}}


@pytest.mark.parametrize(
    ("changed", "finding"),
    [
        ({"replicsa": 2}, "it.replicsa: unknown key. Did you mean 'replicas'? Allowed: args, env, labels, name, "),
        ({7: 2}, "it.7: unknown key. Allowed: "),
        ({"name": None}, "it.name: missing. Allowed: lower-case letters."),
        ({"name": "A"}, "it.name: 'A' is not valid. Allowed: lower-case letters."),
        ({"replicas": 0}, "it.replicas: 0 is too small. Allowed: a whole number, at least 1, at most 9."),
        ({"replicas": "10"}, "it.replicas: 10 is too large. Allowed: a whole number, at least 1, at most 9."),
        ({"replicas": "x"}, "it.replicas: 'x' is not of type int. Allowed: a whole number, at least 1, at most 9."),
        ({"policy": "always"}, "it.policy: 'always' is not allowed. Did you mean 'Always'? Allowed: Always, Never."),
        ({"args": ["a", ["b"]]}, "it.args[1]: ['b'] is not of type str. Allowed: text."),
        ({"args": [None]}, "it.args[0]: None is not of type str. Allowed: text."),
        ({"env": {"a": 1}}, "it.env.a: not a valid key. Keys match [A-Z]+."),
        (
            {"labels": {"a": True}},
            "it.labels.a: True is not of type str. Put it in quotes to have it read as text. Allowed: text.",
        ),
        ({"route": {"header": {}}}, "it.route.header.name: missing. Allowed: text."),
        ({"volumes": [{"name": "a"}, {}]}, "it.volumes[1].name: missing. Allowed: text."),
    ],
)
def test_findings_say_where_what_and_what_is_allowed(changed: dict, finding: str) -> None:
    _, findings = run({"name": "a", **changed}, MODEL)
    assert len(findings) == 1
    assert findings[0].startswith(finding)


def test_all_findings_at_once() -> None:
    _, findings = run({"nmae": "a", "replicas": 0, "args": "x"}, MODEL)
    assert [finding.split(":")[0] for finding in findings] == ["it.nmae", "it.name", "it.replicas", "it.args"]
