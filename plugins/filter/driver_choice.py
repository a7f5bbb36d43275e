# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
name: driver_choice
short_description: The one version that all packages of a GPU driver get
version_added: "0.1.0"
author: the llm_d.multi_engine authors (@llm-d)
description: Chooses among the versions of a repository; Fabric Manager and driver are equal to the last digit.
options:
  _input:
    description: C(driver) of P(llm_d.multi_engine.host_plan#filter).
    type: dict
    required: true
  listed:
    description: Lines C(name | version | ...), as C(apt-cache madison) writes them, newest first.
    type: list
    elements: str
    required: true
  facts:
    description: C(llm_d_gpu_host) of M(llm_d.multi_engine.gpu_facts).
    type: dict
    required: true
  version:
    description: A whole version that is asked for, or nothing.
    type: str
    required: true
  host:
    description: Name of the host.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Choose
  ansible.builtin.set_fact:
    choice: "{{ plan.driver | llm_d.multi_engine.driver_choice(madison.stdout_lines, facts, '', inventory_hostname) }}"
"""

RETURN = r"""
_value:
  description: C(version), C(install) (names with versions) and C(findings).
  type: dict
"""

from ansible_collections.llm_d.multi_engine.plugins.plugin_utils import host_packages
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.plain import to_plain


def _driver_choice(plan: dict, listed: list, facts: dict, version: str, host: str) -> dict:
    available = host_packages.available(to_plain(listed))
    result = host_packages.choose_driver(to_plain(plan), available, to_plain(facts), str(version), str(host))
    return {**result, "findings": [str(item) for item in result["findings"]]}


class FilterModule:
    """Name to function."""

    def filters(self) -> dict:
        return {"driver_choice": _driver_choice}
