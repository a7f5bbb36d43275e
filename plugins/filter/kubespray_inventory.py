# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
name: kubespray_inventory
short_description: Variables of kubespray as an inventory of their own
version_added: "0.1.0"
author: the llm_d.multi_engine authors (@llm-d)
description: Puts variables that are the same for all hosts, or for all GPU hosts, to their group.
options:
  _input:
    description: Per host its variables.
    type: dict
    required: true
  gpu_nodes:
    description: Names of the GPU hosts.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Show it
  ansible.builtin.debug:
    msg: "{{ {'gpu-1': {'enable_cdi': true}} | llm_d.multi_engine.kubespray_inventory(['gpu-1']) }}"
"""

RETURN = r"""
_value:
  description: Content of the file.
  type: str
"""

from ansible_collections.llm_d.multi_engine.plugins.plugin_utils import kubespray
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.plain import to_plain


def _kubespray_inventory(hosts: dict, gpu_nodes: list) -> str:
    return kubespray.dumped(to_plain(hosts), to_plain(gpu_nodes))


class FilterModule:
    """Name to function."""

    def filters(self) -> dict:
        return {"kubespray_inventory": _kubespray_inventory}
