# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
name: held_back
short_description: Which pods stay until their model has a ready replica elsewhere
version_added: "0.1.0"
author: the llm_d.multi_engine authors (@llm-d)
description: Names the pods of one replica of each model whose ready replicas are all on nodes that leave service.
options:
  _input:
    description: Pods of model servers, as M(kubernetes.core.k8s_info) returns them.
    type: list
    elements: dict
    required: true
  nodes:
    description: Names of the nodes that leave service at the same time.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Tell
  ansible.builtin.debug:
    msg: "{{ pods.resources | llm_d.multi_engine.held_back(['gpu-1']) }}"
"""

RETURN = r"""
_value:
  description: C(namespace) and C(name) of each pod.
  type: list
  elements: dict
"""

from ansible_collections.llm_d.multi_engine.plugins.plugin_utils import host_rollout
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.plain import to_plain


def _held_back(pods: list, nodes: list) -> list:
    return host_rollout.held_back(to_plain(pods), to_plain(nodes))


class FilterModule:
    """Name to function."""

    def filters(self) -> dict:
        return {"held_back": _held_back}
