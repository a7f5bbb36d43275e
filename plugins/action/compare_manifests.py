# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Runs where the manifests are: a module would carry them all through another program."""

from __future__ import annotations

import yaml
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.comparison import compare
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.plain import to_plain


class ActionModule(ActionBase):
    """Compares manifests on the controller."""

    _supports_check_mode = True
    _requires_connection = False
    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict | None = None) -> dict:
        result = super().run(tmp, task_vars)
        _validation, arguments = self.validate_argument_spec(
            argument_spec={
                "before": {"type": "raw", "required": True},
                "after": {"type": "raw", "required": True},
            }
        )
        try:
            result.update(compare(to_plain(arguments["before"]), to_plain(arguments["after"])))
        except yaml.YAMLError as error:
            # Its own words quote the text, which may hold a Secret.
            where = getattr(error, "problem_mark", None)
            line = f" at line {where.line + 1}" if where else ""
            raise AnsibleActionFail(f"The manifests are no YAML{line}.") from None
        except ValueError as error:
            raise AnsibleActionFail(f"The manifests cannot be compared: {error}.") from error
        return result
