# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
name: gpu_host_settings
short_description: What the inventory decides about a GPU host
version_added: "0.1.0"
author: the llm_d.multi_engine authors (@llm-d)
description: >-
  Reads the variables of role C(gpu_node) that matter to the cluster, with the role's defaults for those that the
  inventory does not set.
options:
  _input:
    description: An entry of C(hostvars).
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show who brings the driver
  ansible.builtin.debug:
    msg: "{{ (hostvars['gpu-1'] | llm_d.multi_engine.gpu_host_settings).driver }}"
"""

RETURN = r"""
_value:
  description: >-
    C(driver), C(driver_version), C(driver_branch), C(toolkit), C(default_runtime), C(dcgm), C(mig) and C(labels).
  type: dict
"""

from collections.abc import Mapping

from ansible.module_utils.parsing.convert_bool import boolean
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.plain import to_plain


def _gpu_host_settings(variables: Mapping) -> dict:
    def read(name: str, otherwise: object) -> object:
        # Each one is a template until it is read.
        return to_plain(variables[f"gpu_node_{name}"]) if f"gpu_node_{name}" in variables else otherwise

    driver = read("driver", "existing")
    return {
        "driver": driver,
        "driver_version": str(read("driver_version", "")),
        "driver_branch": str(read("driver_branch", "")),
        "toolkit": boolean(read("toolkit", driver != "operator")),
        "default_runtime": read("default_runtime", "runc"),
        "dcgm": boolean(read("dcgm", False)),
        "mig": str(read("mig", "")),
        "labels": read("labels", {}),
    }


class FilterModule:
    """Name to function."""

    def filters(self) -> dict:
        return {"gpu_host_settings": _gpu_host_settings}
