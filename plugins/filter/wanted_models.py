# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
name: wanted_models
short_description: What has to run of each model of a stack
version_added: "0.1.0"
author: the llm_d.multi_engine authors (@llm-d)
description: Returns the models as M(llm_d.multi_engine.stack_status) takes them.
options:
  _input:
    description: Result of M(llm_d.multi_engine.resolve).
    type: dict
    required: true
  serving:
    description: By model what serves it, as RV(llm_d.multi_engine.cluster_facts#module:cluster.serving); may be null.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Show what has to run
  ansible.builtin.debug:
    msg: "{{ resolved | llm_d.multi_engine.wanted_models }}"
"""

RETURN = r"""
_value:
  description: Per model its engine, version, image, pods and accelerators, and the names of its objects.
  type: list
  elements: dict
"""

from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.plain import stack_of, to_plain
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.status import wanted_models
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.tracks import overlaid


def _wanted_models(resolved: dict, serving: dict | None = None) -> list:
    return wanted_models(overlaid(stack_of(resolved), to_plain(serving)))


class FilterModule:
    """Name to function."""

    def filters(self) -> dict:
        return {"wanted_models": _wanted_models}
