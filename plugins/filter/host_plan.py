# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
name: host_plan
short_description: Repositories and packages that a GPU host gets
version_added: "0.1.0"
author: the llm_d.multi_engine authors (@llm-d)
description: >-
  Plans what role C(gpu_node) installs on a host, and tells what is wrong with its variables, before anything is changed.
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
    description: C(root), C(memlock), and C(driver) and C(toolkit), each null where it is not installed.
    type: dict
    required: true
  driver:
    description: What is known of the driver's packages.
    type: dict
    required: true
  toolkit:
    description: What is known of the container toolkit's packages.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Plan
  ansible.builtin.set_fact:
    plan: "{{ ansible_facts.llm_d_gpu_host | llm_d.multi_engine.host_plan(inventory_hostname, settings, driver, toolkit) }}"
"""

RETURN = r"""
_value:
  description: C(driver) and C(toolkit) with C(repository) and names of packages, C(format), and C(findings).
  type: dict
"""

from ansible_collections.llm_d.multi_engine.plugins.plugin_utils import host_packages
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.plain import to_plain


def _host_plan(facts: dict, host: str, settings: dict, driver: dict, toolkit: dict) -> dict:
    return host_packages.host_plan(to_plain(facts), str(host), to_plain(settings), to_plain(driver), to_plain(toolkit))


class FilterModule:
    """Name to function."""

    def filters(self) -> dict:
        return {"host_plan": _host_plan}
