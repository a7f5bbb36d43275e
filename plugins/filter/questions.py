# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
name: questions
short_description: How a client reaches each model of a stack
version_added: "0.1.0"
author: the llm_d.multi_engine authors (@llm-d)
description: Returns the models as M(llm_d.multi_engine.inference_check) takes them.
options:
  _input:
    description: Result of M(llm_d.multi_engine.resolve).
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show how to reach the models
  ansible.builtin.debug:
    msg: "{{ resolved | llm_d.multi_engine.questions }}"
"""

RETURN = r"""
_value:
  description: Per model its names, port, path and headers.
  type: list
  elements: dict
"""

from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.plain import stack_of
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.questions import questions


def _questions(resolved: dict) -> list:
    return questions(stack_of(resolved))


class FilterModule:
    """Name to function."""

    def filters(self) -> dict:
        return {"questions": _questions}
