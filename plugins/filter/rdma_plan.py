# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
name: rdma_plan
short_description: Packages and kernel modules that bring RDMA to a GPU host
version_added: "0.1.0"
author: the llm_d.multi_engine authors (@llm-d)
description: >-
  Plans what role C(gpu_node) installs for RDMA, and tells what is wrong with its variables, before anything is changed.
options:
  _input:
    description: C(llm_d_gpu_host) of M(llm_d.multi_engine.gpu_facts).
    type: dict
    required: true
  host:
    description: Name of the host.
    type: str
    required: true
  settings:
    description: C(stack), C(peermem), C(version), C(repository), C(key) and C(fingerprint).
    type: dict
    required: true
  knowledge:
    description: What is known of packages and kernel modules.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Plan
  ansible.builtin.set_fact:
    plan: "{{ ansible_facts.llm_d_gpu_host | llm_d.multi_engine.rdma_plan(inventory_hostname, settings, knowledge) }}"
"""

RETURN = r"""
_value:
  description: C(format), C(names), C(repository), C(pins), C(modules), C(peermem) and C(findings).
  type: dict
"""

from ansible_collections.llm_d.multi_engine.plugins.plugin_utils import host_rdma
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.plain import to_plain


def _rdma_plan(facts: dict, host: str, settings: dict, knowledge: dict) -> dict:
    return host_rdma.plan(to_plain(facts), str(host), to_plain(settings), to_plain(knowledge))


class FilterModule:
    """Name to function."""

    def filters(self) -> dict:
        return {"rdma_plan": _rdma_plan}
