# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Resolves an inventory in one task: Ansible would walk the catalogue and the models once for each of several."""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.llm_d.multi_engine.plugins import filter as filters
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils import catalogue_files
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.objects import digest
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.plain import TEXT, to_plain
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.resolve import resolve

# Ansible forks for each task, and to find one filter it loads the others, too: here they are loaded once for all tasks.
for _found in pkgutil.iter_modules(filters.__path__):
    importlib.import_module(f"{filters.__name__}.{_found.name}")

ARGUMENTS = {
    "settings": {"type": "dict", "required": True},
    "release": {"type": "str", "required": True},
    "engine_files": {"type": "list", "elements": "path", "default": []},
    "catalogue": {"type": "path", "required": True},
    "known": {"type": "str", "default": ""},
}


class ActionModule(ActionBase):
    """Returns what an inventory means."""

    _supports_check_mode = True
    _requires_connection = False
    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict | None = None) -> dict:
        result = super().run(tmp, task_vars)
        # Nobody reads thousands of lines on a terminal.
        result["_ansible_verbose_override"] = True
        # First, for the validation copies them, and Ansible's own types are slow to copy.
        self._task.args = to_plain(self._task.args)
        _validation, arguments = self.validate_argument_spec(argument_spec=ARGUMENTS)
        text = arguments.pop("known")
        known = json.loads(text) if text else {}
        asked = digest(arguments)
        if known.get("input") == asked:
            return {**result, **known, TEXT: text, "news": False}
        resolved = {**_resolved(arguments), "input": asked}
        return {**result, **resolved, TEXT: json.dumps(resolved), "news": True}


def _resolved(arguments: dict[str, Any]) -> dict[str, Any]:
    release, file = arguments["release"], ""
    # One of the user's own is told from a name by its path.
    if "/" in release:
        file = os.path.realpath(release)
        release = Path(file).stem
    engines = [os.path.realpath(path) for path in arguments["engine_files"]]
    try:
        catalogue = catalogue_files.load(Path(arguments["catalogue"]), file, engines)
    except catalogue_files.FileError as error:
        raise AnsibleActionFail(f"The inventory cannot work; nothing was changed:\n- {error}") from error
    return resolve({**arguments["settings"], "release": release}, catalogue)
