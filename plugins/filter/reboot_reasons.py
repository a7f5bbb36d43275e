# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
name: reboot_reasons
short_description: Why a GPU host has to be rebooted
version_added: "0.1.0"
author: the llm_d.multi_engine authors (@llm-d)
description: Compares what runs on a host with what it would start with, whatever changed it and when.
options:
  _input:
    description: C(llm_d_gpu_host) of M(llm_d.multi_engine.gpu_facts).
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Tell
  ansible.builtin.debug:
    msg: "{{ ansible_facts.llm_d_gpu_host | llm_d.multi_engine.reboot_reasons }}"
"""

RETURN = r"""
_value:
  description: Reasons; none when no reboot is needed.
  type: list
  elements: str
"""

from ansible_collections.llm_d.multi_engine.plugins.plugin_utils import host_reboot
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.plain import to_plain


def _reboot_reasons(facts: dict) -> list:
    return host_reboot.reasons(to_plain(facts))


class FilterModule:
    """Name to function."""

    def filters(self) -> dict:
        return {"reboot_reasons": _reboot_reasons}
