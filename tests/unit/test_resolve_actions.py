"""The two tasks that stand before every change: what the inventory means, and what the cluster says to it."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.errors import AnsibleActionFail
from ansible_collections.llm_d.multi_engine.plugins.action import cluster_facts, resolve
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.plain import stack_of
from ansible_collections.llm_d.multi_engine.tests.unit.shipped import VARS, resolved, settings

CLUSTER: dict[str, Any] = {
    "version": "v1.20.0", "definitions": None, "nodes": None, "istio": None, "helm_revisions": None, "denied": [],
}  # fmt: skip


def prepared(plugin: type, **arguments: Any) -> Any:
    """Return an action plugin that is about to run a task."""
    action = plugin.__new__(plugin)
    action._task = SimpleNamespace(args=arguments, async_val=0, check_mode=False, diff=False)
    action._connection = SimpleNamespace(_shell=SimpleNamespace(tmpdir="/tmp"))
    return action


def resolution(*models: dict[str, Any], known: str = "", release: str = "llm-d-0.10") -> dict[str, Any]:
    given = settings(*models)
    del given["release"]
    return prepared(resolve.ActionModule, settings=given, release=release, catalogue=str(VARS), known=known).run()


def test_what_the_inventory_means() -> None:
    result = resolution({})
    assert result["news"]
    assert stack_of(result) == {**resolved({}), "input": result["input"]}
    # Not on a terminal.
    assert result["_ansible_verbose_override"]


def test_the_same_input_is_resolved_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = resolution({})
    monkeypatch.setattr(resolve, "resolve", lambda *_input: {"stack": "another"})
    assert resolution({}, known=first["text"]) == {**first, "news": False}
    assert resolution({"replicas": 3}, known=first["text"])["stack"] == "another"
    assert resolution({}, known=first["text"], release="gaie-1.5")["stack"] == "another"


def test_a_release_that_is_no_file() -> None:
    with pytest.raises(
        AnsibleActionFail, match=r"^The inventory cannot work; nothing was changed:\n- llm_d_release: /x"
    ):
        resolution({}, release="/x/mine.yml")


def comparison(monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any], **arguments: Any) -> tuple[dict, dict]:
    """Return the result of ``cluster_facts`` and what its module was asked."""
    action, asked = prepared(cluster_facts.ActionModule, namespace="llm-d", **arguments), {}

    def execute(_name: str, given: dict[str, Any], task_vars: Any) -> dict[str, Any]:
        asked.update(given)
        return answer

    monkeypatch.setattr(action, "call", lambda _module, given, task_vars: execute("", given, task_vars))
    return action.run(), asked


def test_what_the_cluster_says_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    stack = json.dumps(resolved({}))
    result, asked = comparison(monkeypatch, {"cluster": CLUSTER}, stack=stack, overrides=[])
    assert result["findings"][0].startswith("llm_d_release: release llm-d-0.10 supports Kubernetes")
    assert {"group": "apps", "resource": "deployments"}.items() <= asked["permissions"][0].items()
    assert not {"stack", "overrides"} & asked.keys()
    result, _asked = comparison(monkeypatch, {"cluster": CLUSTER}, stack=stack, overrides=["kubernetes-version"])
    assert len(result["findings"]) == 0


def test_a_cluster_without_a_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    assert comparison(monkeypatch, {"cluster": CLUSTER})[0] == {"cluster": CLUSTER}
    failed = {"failed": True, "msg": "No Kubernetes API answers"}
    assert comparison(monkeypatch, failed, stack=json.dumps(resolved({})))[0] == failed
