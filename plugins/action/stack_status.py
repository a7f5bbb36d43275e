# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Adds to what the module saw what needs no cluster: the drift, a table, a file."""

from __future__ import annotations

import datetime
import json
import os

from ansible import constants
from ansible.errors import AnsibleActionFail
from ansible_collections.llm_d.multi_engine.plugins.modules import stack_status
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.files import replace
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.here import ModuleAction
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.plain import to_plain
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.status import report
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.status_table import table


class ActionModule(ModuleAction):
    """Reports how a stack is."""

    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict | None = None) -> dict:
        result = super().run(tmp, task_vars)
        arguments = to_plain(self._task.args)
        comparisons = arguments.pop("comparisons", None) or {}
        path = arguments.pop("path", None)
        seen = self.call(stack_status, arguments, task_vars)
        live = seen.pop("live", None)
        result.update(seen)
        if live is None:
            return result
        status = report(to_plain(live), comparisons, now())
        if path and not self._task.check_mode:
            write(path, status)
        if not speaks_json(constants.DEFAULT_STDOUT_CALLBACK):
            self._display.display(f"\n{table(status)}\n")
        result["status"] = status
        return result


def now() -> str:
    """Return the time as JSON documents write it."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z")


def speaks_json(callback: str) -> bool:
    """Whether programs read what ``callback`` writes: text in between would be in their way."""
    return callback.rpartition(".")[2].startswith("json")


def write(path: str, status: dict) -> None:
    """Write ``status`` as JSON at once, so that nobody reads half of it."""
    path = os.path.abspath(os.path.expanduser(path))
    try:
        replace(path, json.dumps(status, indent=2) + "\n")
    except OSError as error:
        raise AnsibleActionFail(f"{path} cannot be written: {error.strerror}.") from error
