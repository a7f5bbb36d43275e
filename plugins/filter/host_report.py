# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
name: host_report
short_description: What keeps a GPU host from serving its models
version_added: "0.1.0"
author: the llm_d.multi_engine authors (@llm-d)
description: Compares the facts of a host with what the models that may run on it need.
options:
  _input:
    description: C(llm_d_gpu_host) of M(llm_d.multi_engine.gpu_facts).
    type: dict
    required: true
  host:
    description: Name of the host.
    type: str
    required: true
  resolved:
    description: Result of M(llm_d.multi_engine.resolve).
    type: dict
    required: true
  knowledge:
    description: C(operating_systems) and C(architectures) of role C(gpu_node).
    type: dict
    required: true
  settings:
    description: >-
      C(driver), C(branch), C(labels), C(image_gib), C(kubelet_gib) and C(overrides), as the variables of role
      C(gpu_node) hold them, and C(mends) with the names of checks whose findings the role puts right itself.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Compare
  ansible.builtin.set_fact:
    report: >-
      {{ ansible_facts.llm_d_gpu_host | llm_d.multi_engine.host_report(inventory_hostname, resolved, knowledge, settings) }}
"""

RETURN = r"""
_value:
  description: C(host), C(offers), C(needs), C(models), C(findings) and C(notes).
  type: dict
"""

from ansible_collections.llm_d.multi_engine.plugins.plugin_utils import host_gate
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.plain import as_list, stack_of, to_plain


def _host_report(facts: dict, host: str, resolved: dict, knowledge: dict, settings: dict) -> dict:
    plain = to_plain(settings)
    plain.update(
        image_gib=int(plain["image_gib"]),
        kubelet_gib=int(plain["kubelet_gib"]),
        overrides=as_list(plain["overrides"]),
        mends=as_list(plain["mends"]),
    )
    return host_gate.host_report(str(host), to_plain(facts), stack_of(resolved), to_plain(knowledge), plain)


class FilterModule:
    """Name to function."""

    def filters(self) -> dict:
        return {"host_report": _host_report}
