# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Shows a table of hosts on the terminal, where a module could only return it."""

from __future__ import annotations

import json
import os

from ansible import constants
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.llm_d.multi_engine.plugins.action.stack_status import speaks_json
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.files import replace
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.host_table import host_table
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.plain import to_plain


class ActionModule(ActionBase):
    """Reports what hosts offer."""

    _supports_check_mode = True
    _requires_connection = False
    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict | None = None) -> dict:
        result = super().run(tmp, task_vars)
        _validation, arguments = self.validate_argument_spec(
            argument_spec={"reports": {"type": "list", "elements": "dict", "required": True}, "path": {"type": "path"}}
        )
        reports, path = to_plain(arguments["reports"]), arguments.get("path")
        if path and not self._task.check_mode:
            write(path, reports)
        if not speaks_json(constants.DEFAULT_STDOUT_CALLBACK):
            self._display.display(f"\n{host_table(reports)}\n")
        result.update(changed=False, reports=reports)
        return result


def write(path: str, reports: list) -> None:
    """Write ``reports`` as JSON at once, so that nobody reads half of it."""
    path = os.path.abspath(os.path.expanduser(path))
    try:
        replace(path, json.dumps(reports, indent=2) + "\n")
    except OSError as error:
        raise AnsibleActionFail(f"{path} cannot be written: {error.strerror}.") from error
