# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
name: gpu_cluster_plan
short_description: What gives the GPUs of a cluster to pods
version_added: "0.1.0"
author: the llm_d.multi_engine authors (@llm-d)
description: >-
  Composes the chart that role C(gpu_cluster) installs and what it does to nodes, and tells what is wrong with its
  variables and with the cluster, before anything is changed.
options:
  _input:
    description: Variables of role C(gpu_cluster) without their prefix.
    type: dict
    required: true
  hosts:
    description: Name of each GPU host to what P(llm_d.multi_engine.gpu_host_settings#filter) returns.
    type: dict
    required: true
  resolved:
    description: Result of M(llm_d.multi_engine.resolve).
    type: dict
    required: true
  knowledge:
    description: What is known of charts and vendors.
    type: dict
    required: true
  cluster:
    description: RV(llm_d.multi_engine.cluster_facts#module:cluster); null where only files are written.
    type: dict
"""

EXAMPLES = r"""
- name: Plan
  ansible.builtin.set_fact:
    plan: "{{ settings | llm_d.multi_engine.gpu_cluster_plan(hosts, resolved, knowledge, facts.cluster) }}"
"""

RETURN = r"""
_value:
  description: C(chart), C(namespace), C(mark), C(images), C(resources), C(nodes), C(installed) and C(findings).
  type: dict
"""

from ansible_collections.llm_d.multi_engine.plugins.plugin_utils import gpu_cluster
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.plain import as_list, stack_of, to_plain


def _gpu_cluster_plan(settings: dict, hosts: dict, resolved: dict, knowledge: dict, cluster: dict | None) -> dict:
    plain = to_plain(settings)
    for name in ("nodes", "image_pull_secrets", "overrides"):
        plain[name] = as_list(plain[name])
    seen = to_plain(cluster) if cluster else None
    return gpu_cluster.cluster_plan(plain, to_plain(hosts), stack_of(resolved), to_plain(knowledge), seen)


class FilterModule:
    """Name to function."""

    def filters(self) -> dict:
        return {"gpu_cluster_plan": _gpu_cluster_plan}
