# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
name: dcgm_plan
short_description: Packages of DCGM that a GPU host gets
version_added: "0.1.0"
author: the llm_d.multi_engine authors (@llm-d)
description: >-
  Plans what role C(gpu_node) installs of NVIDIA's Data Center GPU Manager, and tells what speaks against it, before
  anything is changed.
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
    description: C(version) of DCGM, C(origin) of the driver, and C(driver) with its branch, version and repository.
    type: dict
    required: true
  knowledge:
    description: What is known of DCGM's packages.
    type: dict
    required: true
  driver:
    description: What is known of the driver's packages.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Plan
  ansible.builtin.set_fact:
    plan: "{{ ansible_facts.llm_d_gpu_host | llm_d.multi_engine.dcgm_plan(inventory_hostname, settings, dcgm, driver) }}"
"""

RETURN = r"""
_value:
  description: C(repository), C(format), C(names), C(install), C(service) and C(findings).
  type: dict
"""

from ansible_collections.llm_d.multi_engine.plugins.plugin_utils import host_dcgm
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.plain import to_plain


def _dcgm_plan(facts: dict, host: str, settings: dict, knowledge: dict, driver: dict) -> dict:
    return host_dcgm.dcgm_plan(to_plain(facts), str(host), to_plain(settings), to_plain(knowledge), to_plain(driver))


class FilterModule:
    """Name to function."""

    def filters(self) -> dict:
        return {"dcgm_plan": _dcgm_plan}
