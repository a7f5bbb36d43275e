# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
name: offered_devices
short_description: Which devices a node offers
version_added: "0.1.0"
author: the llm_d.multi_engine authors (@llm-d)
description: Devices are the resources of somebody's domain, such as C(nvidia.com/gpu).
options:
  _input:
    description: The Node, as M(kubernetes.core.k8s_info) returns it.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Tell
  ansible.builtin.debug:
    msg: "{{ nodes.resources[0] | llm_d.multi_engine.offered_devices }}"
"""

RETURN = r"""
_value:
  description: Name to number.
  type: dict
"""

from ansible_collections.llm_d.multi_engine.plugins.plugin_utils import host_rollout
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.plain import to_plain


def _offered_devices(node: dict) -> dict:
    return host_rollout.devices(to_plain(node))


class FilterModule:
    """Name to function."""

    def filters(self) -> dict:
        return {"offered_devices": _offered_devices}
