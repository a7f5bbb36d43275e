# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Runs where the report is read: on the controller."""

from __future__ import annotations

import os

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.llm_d.multi_engine.plugins.module_utils.redact import Redactor
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.files import replace
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.plain import to_plain
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.timeline import TimelineError
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.timeline_page import page


class ActionModule(ActionBase):
    """Writes the timeline of a rollout."""

    _supports_check_mode = True
    _requires_connection = False
    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict | None = None) -> dict:
        result = super().run(tmp, task_vars)
        _validation, arguments = self.validate_argument_spec(
            argument_spec={
                "path": {"type": "path", "required": True},
                "title": {"type": "str", "required": True},
                # Read below: what is wrong there is told by place.
                "events": {"type": "list", "elements": "dict", "required": True},
                "traffic": {"type": "list", "elements": "dict", "default": []},
                "notes": {"type": "list", "elements": "str", "default": []},
            }
        )
        path = os.path.abspath(os.path.expanduser(arguments["path"]))
        try:
            text = report(to_plain(arguments))
            if not self._task.check_mode:
                write(path, text)
        except TimelineError as error:
            raise AnsibleActionFail(str(error)) from error
        except OSError as error:
            raise AnsibleActionFail(f"{path} cannot be written: {error.strerror}.") from error
        result.update(changed=False, path=path)
        return result


def report(arguments: dict) -> str:
    """Return the report of what the module's options say."""
    redactor = Redactor()
    events = [{**event, "words": redactor.text(str(event.get("words") or ""))} for event in arguments["events"]]
    notes = [redactor.text(note) for note in arguments["notes"]]
    return page(redactor.text(arguments["title"]), events, arguments["traffic"], notes)


def write(path: str, text: str) -> None:
    """Write the report at once, into a directory that is made for it."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    replace(path, text)
