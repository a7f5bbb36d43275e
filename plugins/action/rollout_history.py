# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Composes what is noted down of models that serve; module ``rollout_history`` says which ones those are."""

from __future__ import annotations

import json

from ansible_collections.llm_d.multi_engine.plugins.modules import rollout_history
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils import rollback
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.here import ModuleAction
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.plain import to_plain


class ActionModule(ModuleAction):
    """Keeps what serves each model."""

    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict | None = None) -> dict:
        result = super().run(tmp, task_vars)
        arguments = to_plain(self._task.args)
        stack = json.loads(arguments.pop("resolved", None) or "null")
        options = [arguments.pop(name, None) or {} for name in ("gaie_options", "model_service_options")]
        wanted = rollback.wanted(stack, *options) if stack else []
        found = self.call(rollout_history, {**arguments, "wanted": wanted}, task_vars)
        due = found.pop("due", None) or []
        if due:
            entries = [rollback.entry(stack, *options, one) for one in wanted if one["model"] in due]
            found = self.call(rollout_history, {**arguments, "entries": entries}, task_vars)
        result.update(found)
        return result
