# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
name: gpu_users
short_description: Pods of others that hold GPUs
version_added: "0.1.0"
author: the llm_d.multi_engine authors (@llm-d)
description: Tells who would miss the device plugin.
options:
  _input:
    description: Pods.
    type: list
    elements: dict
    required: true
  resources:
    description: Names of resources that are GPUs, with C(*) for anything.
    type: list
    elements: str
    required: true
  stack:
    description: Stack whose own pods do not count.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Show who uses GPUs
  ansible.builtin.debug:
    msg: "{{ pods.resources | llm_d.multi_engine.gpu_users(['nvidia.com/gpu'], 'llm-d') }}"
"""

RETURN = r"""
_value:
  description: Namespace and name of each.
  type: list
  elements: str
"""

from ansible_collections.llm_d.multi_engine.plugins.module_utils.marks import STACK_LABEL
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils import gpu_cluster
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.plain import to_plain


def _gpu_users(pods: list, resources: list, stack: str) -> list:
    return gpu_cluster.users(to_plain(pods), to_plain(resources), STACK_LABEL, str(stack))


class FilterModule:
    """Name to function."""

    def filters(self) -> dict:
        return {"gpu_users": _gpu_users}
