# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
name: kubespray_variables
short_description: Variables of kubespray for a host
version_added: "0.1.0"
author: the llm_d.multi_engine authors (@llm-d)
description: >-
  Makes kubespray's variables from those of this collection, so that its cluster can serve, and tells what of the
  inventory does not go together with it.
options:
  _input:
    description: >-
      C(version), C(supported), C(release), C(registry), C(environment), C(gpu_runtime), C(default_runtime),
      C(systemd_cgroup), C(memlock) and C(labels), as role C(kubernetes) has them.
    type: dict
    required: true
  host:
    description: Name of the host.
    type: str
    required: true
  groups:
    description: Groups of the inventory.
    type: dict
    required: true
  given:
    description: Variables of kubespray that the inventory has for the host.
    type: dict
    required: true
  kubespray:
    description: C(collection) of P(llm_d.multi_engine.kubespray#lookup).
    type: dict
    required: true
  knowledge:
    description: C(runtime) and C(registries) of role C(kubernetes).
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Make kubespray's variables
  ansible.builtin.set_fact:
    handed_over: "{{ settings | llm_d.multi_engine.kubespray_variables(inventory_hostname, groups, {}, kubespray, knowledge) }}"
"""

RETURN = r"""
_value:
  description: C(variables) and C(findings).
  type: dict
"""

from ansible_collections.llm_d.multi_engine.plugins.plugin_utils import kubespray as mapping
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.plain import to_plain


def _kubespray_variables(
    settings: dict, host: str, groups: dict, given: dict, kubespray: dict | None, knowledge: dict
) -> dict:
    plain = [to_plain(value) for value in (groups, settings, given, kubespray, knowledge)]
    return mapping.handed_over(str(host), *plain)


class FilterModule:
    """Name to function."""

    def filters(self) -> dict:
        return {"kubespray_variables": _kubespray_variables}
