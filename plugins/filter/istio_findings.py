# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
name: istio_findings
short_description: Why the Istio of a cluster cannot be used
version_added: "0.1.0"
author: the llm_d.multi_engine authors (@llm-d)
description: Compares the Istio control planes of a cluster with what the release needs.
options:
  _input:
    description: A release, as M(llm_d.multi_engine.resolve) returns it.
    type: dict
    required: true
  cluster:
    description: RV(llm_d.multi_engine.cluster_facts#module:cluster).
    type: dict
    required: true
  mode:
    description: Whose Istio it is.
    type: str
    choices: [managed, existing]
    required: true
  adopt:
    description: Whether an Istio of somebody else may be taken over.
    type: bool
    default: false
  overrides:
    description: Names of rules to wave through.
    type: list
    elements: str
    default: []
  rules:
    description: Compatibility rules; those about a change of Istio are asked where it is managed.
    type: list
    elements: dict
    default: []
  version:
    description: Version of Istio that will be installed. Empty takes the release's.
    type: str
    default: ''
"""

EXAMPLES = r"""
- name: Show what is wrong with the company's Istio
  ansible.builtin.debug:
    msg: "{{ resolved.release | llm_d.multi_engine.istio_findings(facts.cluster, 'existing') }}"
"""

RETURN = r"""
_value:
  description: Reasons, none when it will do.
  type: list
  elements: str
"""

from ansible_collections.llm_d.multi_engine.plugins.plugin_utils import gate
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.plain import to_plain


def _istio_findings(
    release: dict,
    cluster: dict,
    mode: str,
    adopt: bool = False,
    overrides: list | None = None,
    rules: list | None = None,
    version: str = "",
) -> list:
    return gate.istio_findings(
        str(mode),
        to_plain(release),
        to_plain(cluster),
        bool(adopt),
        to_plain(overrides or []),
        to_plain(rules or []),
        str(version),
    )


class FilterModule:
    """Name to function."""

    def filters(self) -> dict:
        return {"istio_findings": _istio_findings}
