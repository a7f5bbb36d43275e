# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
name: status_complaint
short_description: Why the status of a stack is not as it should be
version_added: "0.1.0"
author: the llm_d.multi_engine authors (@llm-d)
description: Puts the conditions that count and hold into one sentence.
options:
  _input:
    description: RV(llm_d.multi_engine.stack_status#module:status).
    type: dict
    required: true
  conditions:
    description: Conditions that count.
    type: list
    elements: str
    choices: [unready, drift, version]
    required: true
"""

EXAMPLES = r"""
- name: Fail when a model is not ready, whatever else there is
  ansible.builtin.fail:
    msg: "{{ result.status | llm_d.multi_engine.status_complaint(['unready']) }}"
  when: result.status | llm_d.multi_engine.status_complaint(['unready']) | length > 0
"""

RETURN = r"""
_value:
  description: A sentence, empty when none of the conditions holds.
  type: str
"""

from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.plain import as_list, to_plain
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.status import complaint


def _status_complaint(status: dict, conditions: list) -> str:
    return complaint(to_plain(status), as_list(to_plain(conditions)))


class FilterModule:
    """Name to function."""

    def filters(self) -> dict:
        return {"status_complaint": _status_complaint}
