# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Runs modules of this collection on the controller, where their tasks are meant for it, without sending them there.

Ansible packs a module and all that it imports, starts an interpreter, and has it unpack, compile and load everything
again. That takes most of a second, several times what these modules do. A fork of the process that runs the task has it
all loaded. It gets the same arguments on its standard input and gives the same result on its standard output.

Whatever would not come to the same is left to Ansible: another host, user, interpreter or environment.
"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from ansible import constants
from ansible.module_utils.basic import AnsibleModule
from ansible.plugins.action import ActionBase

from .plain import to_plain

COLLECTION = "llm_d.multi_engine"


class ModuleAction(ActionBase):
    """An action plugin that calls modules of this collection."""

    TRANSFERS_FILES = False

    def call(
        self, module: ModuleType, arguments: Mapping[str, Any], task_vars: dict[str, Any] | None
    ) -> dict[str, Any]:
        """Return the result of a module, after its warnings were shown: a plugin that calls several would keep the first."""
        name = f"{COLLECTION}.{module.__name__.rpartition('.')[2]}"
        arguments = to_plain(arguments)
        if self._is_here(task_vars or {}):
            self._update_module_args(name, arguments, task_vars or {})
            result = forked(name, module.main, arguments)
        else:
            result = self._execute_module(module_name=name, module_args=arguments, task_vars=task_vars)
        for warning in result.pop("warnings", []):
            # Newer ansible-cores have more than a text.
            self._display.warning(str(getattr(getattr(warning, "event", None), "msg", warning)))
        return result

    def _is_here(self, task_vars: Mapping[str, Any]) -> bool:
        """Whether the module would be run by this very program, and as it is."""
        task = self._task
        interpreter = self._templar.template(task_vars.get("ansible_python_interpreter"))
        return (
            hasattr(os, "fork")
            and self._connection.transport == "local"
            and interpreter == sys.executable
            and not (self._connection.become or task.delegate_to or any(task.environment or []))
            # Whoever wants to see what is sent.
            and not constants.DEFAULT_KEEP_REMOTE_FILES
        )


def forked(name: str, main: Callable[[], None], arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the result of a module's ``main``, run in a process of its own.

    :param arguments: with those that Ansible adds.
    :returns: with ``warnings``, a list of texts.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _be_module(name, main, json.dumps({"ANSIBLE_MODULE_ARGS": arguments}), writing)
    os.close(writing)
    try:
        with open(reading, encoding="utf-8", errors="surrogateescape") as output:
            text = output.read()
    except BaseException:
        # A task may have a timeout: what it began ends with it.
        os.kill(child, signal.SIGTERM)
        raise
    finally:
        _pid, status = os.waitpid(child, 0)
    answer, _newline, warnings = text.rstrip("\n").rpartition("\n")
    try:
        result = json.loads(answer)
        result["warnings"] = [*result.get("warnings", []), *json.loads(warnings)]
        return result
    except ValueError:
        how = f"exit status {os.waitstatus_to_exitcode(status)}"
        return {"failed": True, "msg": f"Module {name} ended without a result ({how}).", "exception": text}


def _be_module(name: str, main: Callable[[], None], arguments: str, writing: int) -> None:
    """Do what a module does in an interpreter of its own, and never return."""
    status = 1
    try:
        # What the process that runs the task does about signals is not ours.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.argv = [name]
        sys.stdin = io.TextIOWrapper(io.BytesIO(arguments.encode()), encoding="utf-8")
        # Where a task is run, ansible-core shows warnings itself, and from here nobody would see them.
        warnings: list[str] = []
        AnsibleModule.warn = lambda _module, warning, **_more: warnings.append(warning)
        with open(writing, "w", encoding="utf-8", errors="surrogateescape") as sys.stdout:
            try:
                main()
                status = 0
            except SystemExit as end:
                status = end.code if isinstance(end.code, int) else 1
            except BaseException:  # noqa: BLE001 - an interpreter would show it, whatever it is
                print(traceback.format_exc())
            print(json.dumps(warnings))
    finally:
        # Nothing of the process that was forked is to run twice.
        os._exit(status)
