# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
name: last_replicas
short_description: Which models would be left without a ready replica
version_added: "0.1.0"
author: the llm_d.multi_engine authors (@llm-d)
description: >-
  Compares where the ready pods of models are with the nodes that are about to leave service. Prefill and decode
  count apart; a group of pods over several nodes is one replica.
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
  movable:
    description: Leave out models with several ready replicas there. One can stay while another one moves.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Tell
  ansible.builtin.debug:
    msg: "{{ pods.resources | llm_d.multi_engine.last_replicas(['gpu-1']) }}"
"""

RETURN = r"""
_value:
  description: Models, each with the pods that are its last ready ones.
  type: list
  elements: str
"""

from ansible_collections.llm_d.multi_engine.plugins.plugin_utils import host_rollout
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.plain import to_plain


def _last_replicas(pods: list, nodes: list, movable: bool = False) -> list:
    return host_rollout.last_replicas(to_plain(pods), to_plain(nodes), movable)


class FilterModule:
    """Name to function."""

    def filters(self) -> dict:
        return {"last_replicas": _last_replicas}
