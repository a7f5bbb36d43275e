# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
name: node_faults
short_description: What a node lacks to take pods again
version_added: "0.1.0"
author: the llm_d.multi_engine authors (@llm-d)
description: A node has to be Ready and to offer the devices that it offered before.
options:
  _input:
    description: The Node, as M(kubernetes.core.k8s_info) returns it.
    type: dict
    required: true
  before:
    description: What P(llm_d.multi_engine.offered_devices#filter) returned before.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Tell
  ansible.builtin.debug:
    msg: "{{ nodes.resources[0] | llm_d.multi_engine.node_faults({'nvidia.com/gpu': '8'}) }}"
"""

RETURN = r"""
_value:
  description: What it lacks; nothing when it can.
  type: list
  elements: str
"""

from ansible_collections.llm_d.multi_engine.plugins.plugin_utils import host_rollout
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.plain import to_plain


def _node_faults(node: dict, before: dict) -> list:
    return host_rollout.node_faults(to_plain(node), to_plain(before))


class FilterModule:
    """Name to function."""

    def filters(self) -> dict:
        return {"node_faults": _node_faults}
