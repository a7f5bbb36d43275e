# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Adds to what the module found how it compares with the inventory, and shows it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ansible import constants
from ansible.errors import AnsibleActionFail
from ansible_collections.llm_d.multi_engine.plugins.action.stack_status import speaks_json
from ansible_collections.llm_d.multi_engine.plugins.modules import adopt
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils import catalogue_files
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.adoption_report import report, text
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.here import ModuleAction
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.own_engines import added
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.plain import as_list, to_plain


class ActionModule(ModuleAction):
    """Reports what could be taken over, and takes it over."""

    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict | None = None) -> dict:
        result = super().run(tmp, task_vars)
        arguments = to_plain(self._task.args)
        settings = arguments.pop("settings", None)
        release, engines = arguments.pop("release", ""), as_list(arguments.pop("engine_files", None) or [])
        folder = arguments.pop("catalogue", None)
        result.update(self.call(adopt, arguments, task_vars))
        if result.get("failed") or not settings:
            return result
        settings = {**settings, "release": Path(release).stem if "/" in release else release}
        catalogue = _catalogue(folder, release, engines)
        found = [report(deployment, settings, catalogue) for deployment in to_plain(result["deployments"])]
        if not speaks_json(constants.DEFAULT_STDOUT_CALLBACK):
            self._display.display(f"\n{text(found, arguments['namespace'])}\n")
        result["adoption"] = found
        return result


def _catalogue(folder: str, release: str, engines: list[str]) -> dict[str, Any]:
    """Return engines and releases, those of the user included."""
    own = os.path.realpath(release) if "/" in release else ""
    try:
        loaded = catalogue_files.load(Path(folder), own, [os.path.realpath(path) for path in engines])
    except catalogue_files.FileError as error:
        raise AnsibleActionFail(str(error)) from error
    return added(loaded, [])
