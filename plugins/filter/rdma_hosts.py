# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
name: rdma_hosts
short_description: GPU hosts that models take their network cards from
version_added: "0.1.0"
author: the llm_d.multi_engine authors (@llm-d)
description:
  - Returns what counts of the hosts, those that were not looked at included, when some model asks for RDMA without
    naming network cards. Otherwise returns nothing, so that hosts change nothing for the others.
options:
  _input:
    description: The models, as the inventory has them.
    type: raw
    required: true
  defaults:
    description: What is true of every model that does not say otherwise.
    type: raw
    required: true
  names:
    description: Names of the GPU hosts.
    type: list
    elements: str
    required: true
  variables:
    description: C(hostvars).
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: See which hosts nobody looked at
  ansible.builtin.debug:
    msg: >-
      {{
        llm_d_models | llm_d.multi_engine.rdma_hosts({}, groups['gpu_nodes'], hostvars)
        | selectattr('cards', 'none') | map(attribute='name')
      }}
"""

RETURN = r"""
_value:
  description: >-
    Per host its C(name), C(labels), C(gpus) (vendor to number, null where it is not known) and C(cards) (C(name) and
    C(link_layer) of RDMA devices beside its GPUs, null where they are not known).
  type: list
  elements: dict
"""

from ansible_collections.llm_d.multi_engine.plugins.plugin_utils import network_cards, rdma
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.plain import as_list, to_plain


def _rdma_hosts(models: object, defaults: object, names: list, variables: dict) -> list:
    if not rdma.asks_hosts(to_plain(models), to_plain(defaults)):
        return []
    return [_host(str(name), variables[name]) for name in names]


def _host(name: str, variables: dict) -> dict:
    given = variables.get("gpu_node_rdma_devices")
    facts = variables.get("ansible_facts", {}).get("llm_d_gpu_host")
    return network_cards.host(
        name,
        to_plain(variables.get("gpu_node_labels") or {}),
        # Empty is the role's default: what the host has.
        as_list(to_plain(given)) if given else None,
        None if facts is None else to_plain({key: facts[key] for key in ("gpus", "nics")}),
    )


class FilterModule:
    """Name to function."""

    def filters(self) -> dict:
        return {"rdma_hosts": _rdma_hosts}
