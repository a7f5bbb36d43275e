"""How the action plugin goes on after one call of the module: waits, applies what was held back, removes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from ansible_collections.llm_d.multi_engine.plugins.action.apply import ActionModule

JOB = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "weights", "namespace": "llm-d"}}
ENGINE = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "qwen", "namespace": "llm-d"}}
LATE = {"name": "Job llm-d/weights", "reason": "Job llm-d/weights: pod weights-a: 31.2 of 65.5 GB (47 %), 512 MB/s"}
CREATED = {"name": "Job llm-d/weights", "action": "created", "checked": True}
HELD: dict[str, Any] = {
    "changed": True,
    "objects": [CREATED],
    "held_back": ["Deployment llm-d/qwen"],
    "pending": [LATE],
    "unwanted": ["Job llm-d/old"],
    "waited": 10.0,
    "calls": {"patch": 1},
}
REST: dict[str, Any] = {
    "changed": True,
    "objects": [
        {**CREATED, "action": "unchanged"},
        {"name": "Deployment llm-d/qwen", "action": "created", "checked": True},
    ],
    "held_back": [],
    "pending": [],
    "unwanted": [],
    "waited": 5.0,
    "calls": {"patch": 1, "get": 2},
}


class Plugin(ActionModule):
    """Gives prepared answers instead of running modules."""

    def __init__(self, *answers: tuple[str, dict[str, Any]]) -> None:
        arguments = {"objects": [JOB, ENGINE], "ready_first": {"Deployment": ["Job"]}, "wait": True, "wait_timeout": 60}
        self._task = SimpleNamespace(args=arguments, async_val=0, check_mode=False, diff=False, environment=[])
        self.shown: list[str] = []
        self._display = SimpleNamespace(display=self.shown.append)
        self._answers = list(answers)
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def go(self) -> dict[str, Any]:
        result = dict(self._module("apply", {}, None))
        return self.follow(result, None)

    def _module(self, name: str, arguments: dict[str, Any], _task_vars: Any) -> dict[str, Any]:
        wanted, answer = self._answers.pop(0)
        assert wanted == name
        self.asked.append((name, arguments))
        return answer


def test_what_was_held_back_is_applied_when_that_before_it_is_ready() -> None:
    plugin = Plugin(
        ("apply", HELD),
        ("ready", {"pending": [LATE], "waited": 10}),
        ("ready", {"pending": [], "waited": 7}),
        ("apply", REST),
    )
    result = plugin.go()
    assert [entry["action"] for entry in result["objects"]] == ["created", "created"]
    assert (result["pending"], result["held_back"], result["waited"]) == ([], [], 32.0)
    assert result["calls"] == {"patch": 2, "get": 2}
    # Only what has to be ready first is waited for, and the time is one for all.
    assert plugin.asked[1][1]["objects"] == [JOB]
    assert plugin.asked[3][1]["wait_timeout"] == 33
    assert plugin.shown[0] == (
        "  0:10 of 1:00: 0 of 1 objects are ready\n"
        "    Job llm-d/weights: pod weights-a: 31.2 of 65.5 GB (47 %), 512 MB/s"
    )


def test_nothing_else_happens_when_that_before_it_fails() -> None:
    plugin = Plugin(("apply", HELD), ("ready", {"failed": True, "msg": "Given up: no room", "waited": 1}))
    result = plugin.go()
    assert result["failed"]
    assert result["msg"].splitlines() == [
        "Given up: no room",
        "Not applied, and as it was until then: Deployment llm-d/qwen.",
        "Not asked for any more, and left until then: Job llm-d/old.",
    ]


def test_engines_are_waited_for_like_all_else_and_what_they_replace_is_removed() -> None:
    engine = {"name": "Deployment llm-d/qwen", "reason": "Deployment llm-d/qwen: 0 of 1 pods are ready"}
    rest = {**REST, "pending": [engine], "unwanted": ["Job llm-d/old"]}
    removed = {"objects": [{"name": "Job llm-d/old", "action": "removed", "checked": True}], "unwanted": []}
    plugin = Plugin(
        ("apply", {**HELD, "pending": []}), ("apply", rest), ("ready", {"pending": [], "waited": 3}), ("apply", removed)
    )
    result = plugin.go()
    assert plugin.asked[2][1]["objects"] == [JOB, ENGINE]
    assert plugin.asked[3][1]["only_prune"]
    assert result["objects"][-1]["action"] == "removed"


def test_what_is_never_applied_ends_the_run() -> None:
    plugin = Plugin(*[("apply", {**HELD, "pending": []})] * 9)
    result = plugin.go()
    assert result["failed"]
    assert result["msg"].startswith("Not applied: Deployment llm-d/qwen. ")
    assert len(plugin.asked) < 9
