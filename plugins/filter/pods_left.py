# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
name: pods_left
short_description: Which pods a drained node still has
version_added: "0.1.0"
author: the llm_d.multi_engine authors (@llm-d)
description: Leaves out pods of DaemonSets, those that the kubelet has from files, and ended ones.
options:
  _input:
    description: Pods of the node, as M(kubernetes.core.k8s_info) returns them.
    type: list
    elements: dict
    required: true
"""

EXAMPLES = r"""
- name: Tell
  ansible.builtin.debug:
    msg: "{{ pods.resources | llm_d.multi_engine.pods_left }}"
"""

RETURN = r"""
_value:
  description: Pods as namespace/name.
  type: list
  elements: str
"""

from ansible_collections.llm_d.multi_engine.plugins.plugin_utils import host_rollout
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.plain import to_plain


def _pods_left(pods: list) -> list:
    return host_rollout.left(to_plain(pods))


class FilterModule:
    """Name to function."""

    def filters(self) -> dict:
        return {"pods_left": _pods_left}
