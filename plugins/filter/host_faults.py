# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
name: host_faults
short_description: What a GPU host lacks to serve again
version_added: "0.1.0"
author: the llm_d.multi_engine authors (@llm-d)
description: Compares the loaded driver with the installed one and counts GPUs; of each GPU it looks at fabric and memory.
options:
  _input:
    description: C(llm_d_gpu_host) of M(llm_d.multi_engine.gpu_facts).
    type: dict
    required: true
  gpus:
    description: How many GPUs the host had before.
    type: int
    required: true
  report:
    description: What C(nvidia-smi -q -x) prints. Empty where there is none.
    type: str
    default: ""
  rebooted:
    description: Whether the host was rebooted, so that kernel and driver should be as its files say.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Tell
  ansible.builtin.debug:
    msg: "{{ ansible_facts.llm_d_gpu_host | llm_d.multi_engine.host_faults(8) }}"
"""

RETURN = r"""
_value:
  description: What it lacks; nothing when it can.
  type: list
  elements: str
"""

from ansible_collections.llm_d.multi_engine.plugins.plugin_utils import host_rollout
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.plain import to_plain


def _host_faults(facts: dict, gpus: int, report: str = "", rebooted: bool = False) -> list:
    return host_rollout.host_faults(to_plain(facts), gpus, to_plain(report), rebooted)


class FilterModule:
    """Name to function."""

    def filters(self) -> dict:
        return {"host_faults": _host_faults}
