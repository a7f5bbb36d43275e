# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
name: bundle
short_description: What to do about a bundle of CustomResourceDefinitions
version_added: "0.1.0"
author: the llm_d.multi_engine authors (@llm-d)
description:
  - Compares the definitions of a cluster with those that a release needs. Newer ones are left
    alone.
options:
  _input:
    description: C(gateway_api) or C(gaie) of a release.
    type: dict
    required: true
  cluster:
    description: RV(llm_d.multi_engine.cluster_facts#module:cluster).
    type: dict
    required: true
  name:
    description: What to call the bundle in messages.
    type: str
    required: true
  policy:
    description: What may be done, C(install) where they are missing, C(upgrade) older ones too, or C(existing) nothing.
    type: str
    choices: [install, upgrade, existing]
    required: true
  variable:
    description: Variable that holds the policy, for messages.
    type: str
    required: true
  rules:
    description: Compatibility rules; those about a change of definitions are asked where they are changed.
    type: list
    elements: dict
    default: []
  overrides:
    description: Names of rules to wave through.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Decide about Gateway API
  ansible.builtin.set_fact:
    decision: "{{ release.gateway_api | llm_d.multi_engine.bundle(facts.cluster, 'Gateway API', 'install', 'my_policy') }}"
"""

RETURN = r"""
_value:
  description: >-
    C(state) (missing, older, same, newer or unknown), C(apply) (whether to apply the manifest) and
    C(findings) (why not, none when all is well).
  type: dict
"""

from ansible_collections.llm_d.multi_engine.plugins.plugin_utils import gate
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.plain import to_plain


def _bundle(
    bundle: dict,
    cluster: dict,
    name: str,
    policy: str,
    variable: str,
    rules: list | None = None,
    overrides: list | None = None,
) -> dict:
    return gate.bundle_decision(
        to_plain(bundle),
        to_plain(cluster),
        str(name),
        str(policy),
        str(variable),
        to_plain(rules or []),
        to_plain(overrides or []),
    )


class FilterModule:
    """Name to function."""

    def filters(self) -> dict:
        return {"bundle": _bundle}
