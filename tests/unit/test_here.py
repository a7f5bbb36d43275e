"""Modules that run in a fork of the process that runs their task, and those that do not."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils import here


def echo() -> None:
    module = AnsibleModule({"text": {"type": "str"}, "fail": {"type": "bool"}}, supports_check_mode=True)
    module.warn("of no use to anybody " * 5)
    answer = {"text": module.params["text"], "check": module.check_mode, "process": os.getpid()}
    if module.params["fail"]:
        module.fail_json(msg="no", **answer)
    module.exit_json(**answer)


def raises() -> None:
    raise RuntimeError("of no use")


def is_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_module_gets_its_arguments_and_gives_its_result() -> None:
    text = "ü" * 200_000
    result = here.forked("echo", echo, {"text": text, "_ansible_check_mode": True})
    assert (result["text"], result["check"]) == (text, True)
    assert result["process"] != os.getpid()
    assert result["warnings"] == ["of no use to anybody " * 5]
    failed = here.forked("echo", echo, {"text": "x", "fail": True})
    assert (failed["failed"], failed["msg"], failed["check"]) == (True, "no", False)


@pytest.mark.parametrize(("main", "status", "said"), [(raises, 1, "RuntimeError: of no use"), (is_killed, -9, "")])
def test_a_module_that_ends_without_a_result(main: Any, status: int, said: str) -> None:
    result = here.forked("it", main, {})
    assert result["failed"]
    assert result["msg"] == f"Module it ended without a result (exit status {status})."
    assert said in result["exception"]


def test_signals_end_a_module_as_they_would_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        result = here.forked("it", lambda: os.kill(os.getpid(), signal.SIGTERM), {})
    finally:
        signal.signal(signal.SIGTERM, before)
    assert result["msg"].endswith(f"(exit status -{signal.SIGTERM.value}).")


def test_a_module_ends_with_its_task(tmp_path: Path) -> None:
    def timeout(_signal: int, _frame: object) -> None:
        raise TimeoutError

    def lasts() -> None:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            (tmp_path / "let-go").touch()

    before = signal.signal(signal.SIGALRM, timeout)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        with pytest.raises(TimeoutError):
            here.forked("it", lasts, {})
    finally:
        signal.signal(signal.SIGALRM, before)
    assert (tmp_path / "let-go").exists()


HERE: dict[str, Any] = {"transport": "local", "become": None, "delegate_to": None, "environment": []}


class Action(here.ModuleAction):
    def run(self, tmp: None = None, task_vars: None = None) -> dict:
        raise NotImplementedError


def called(monkeypatch: pytest.MonkeyPatch, interpreter: str | None, **changed: Any) -> str:
    """Return which way a module took; either way its warnings have to be shown."""
    shown: list[str] = []
    facts = {**HERE, **changed}
    action = Action.__new__(Action)
    action._task = SimpleNamespace(delegate_to=facts["delegate_to"], environment=facts["environment"])
    action._connection = SimpleNamespace(transport=facts["transport"], become=facts["become"])
    action._templar = SimpleNamespace(template=lambda value: value)
    action._update_module_args = lambda *_arguments: None
    action._display = SimpleNamespace(warning=shown.append)
    # As newer ansible-cores have one.
    later = SimpleNamespace(event=SimpleNamespace(msg="two"))
    sent, forked = {"way": "sent", "warnings": ["one", later]}, {"way": "forked", "warnings": ["one", "two"]}
    monkeypatch.setattr(action, "_execute_module", lambda **given: {**sent, **given}, raising=False)
    monkeypatch.setattr(here, "forked", lambda name, _main, arguments: {**forked, "name": name, **arguments})
    module = ModuleType("somewhere.plugins.modules.apply")
    module.main = None
    result = action.call(module, {"stack": "x"}, {"ansible_python_interpreter": interpreter})
    assert "llm_d.multi_engine.apply" in json.dumps(result)
    assert shown == ["one", "two"]
    return result["way"]


@pytest.mark.parametrize(
    "other",
    [
        {"transport": "ssh"},
        {"become": "sudo"},
        {"delegate_to": "elsewhere"},
        {"environment": [{"HTTPS_PROXY": "http://proxy"}]},
    ],
)
def test_what_would_come_to_another_is_left_to_ansible(monkeypatch: pytest.MonkeyPatch, other: dict[str, Any]) -> None:
    assert called(monkeypatch, sys.executable) == "forked"
    assert called(monkeypatch, sys.executable, **other) == "sent"


@pytest.mark.parametrize("interpreter", [None, "/usr/bin/other", "auto_silent"])
def test_another_interpreter_is_left_to_ansible(monkeypatch: pytest.MonkeyPatch, interpreter: str | None) -> None:
    assert called(monkeypatch, interpreter) == "sent"


def test_whoever_keeps_files_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(here.constants, "DEFAULT_KEEP_REMOTE_FILES", True)
    assert called(monkeypatch, sys.executable) == "sent"
