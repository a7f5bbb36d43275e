# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Adds to what the module saw what needs no cluster: why a stack cannot run there."""

from __future__ import annotations

import json

from ansible_collections.llm_d.multi_engine.plugins.modules import cluster_facts
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils import autoscaling
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.gate import release_change, stack_findings
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.here import ModuleAction
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.permissions import needed
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.plain import as_list, to_plain


class ActionModule(ModuleAction):
    """Reports what a cluster offers."""

    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict | None = None) -> dict:
        result = super().run(tmp, task_vars)
        arguments = to_plain(self._task.args)
        stack = json.loads(arguments.pop("stack", None) or "null")
        overrides = as_list(arguments.pop("overrides", None) or [])
        if stack:
            arguments.setdefault("serving_of", stack["stack"])
            scaled_by = {model["autoscaling"].get("by") for model in stack["models"]}
            arguments.setdefault("metrics", autoscaling.HPA in scaled_by)
            arguments["permissions"] = [*(arguments.get("permissions") or []), *needed(stack)]
        result.update(self.call(cluster_facts, arguments, task_vars))
        if stack and not result.get("failed"):
            cluster = to_plain(result["cluster"])
            change = release_change(stack, cluster, overrides)
            result["findings"] = stack_findings(stack, cluster, overrides) + change["findings"]
            result["changes"] = change["words"]
        return result
