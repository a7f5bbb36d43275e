# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
name: cluster_findings
short_description: Why a cluster cannot run a stack
version_added: "0.1.0"
author: the llm_d.multi_engine authors (@llm-d)
description: Compares the facts of a cluster with what the models and the release need.
options:
  _input:
    description: Result of P(llm_d.multi_engine.resolve#filter).
    type: dict
    required: true
  cluster:
    description: RV(llm_d.multi_engine.cluster_facts#module:cluster).
    type: dict
    required: true
  overrides:
    description: Names of rules to wave through.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Refuse what cannot work
  ansible.builtin.assert:
    that: resolved | llm_d.multi_engine.cluster_findings(facts.cluster) | length == 0
"""

RETURN = r"""
_value:
  description: Reasons, none when the cluster will do.
  type: list
  elements: str
"""

from ansible_collections.llm_d.multi_engine.plugins.plugin_utils import gate
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.plain import to_plain


def _cluster_findings(resolved: dict, cluster: dict, overrides: list | None = None) -> list:
    return gate.stack_findings(to_plain(resolved), to_plain(cluster), to_plain(overrides or []))


class FilterModule:
    """Name to function."""

    def filters(self) -> dict:
        return {"cluster_findings": _cluster_findings}
