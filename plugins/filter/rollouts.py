# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
name: rollouts
short_description: Which models of a stack have to change while requests come in
version_added: "0.1.0"
author: the llm_d.multi_engine authors (@llm-d)
description: >-
  Compares what is wanted of each model with what serves it, and returns the changes as
  M(llm_d.multi_engine.rollout) takes them.
options:
  _input:
    description: Result of M(llm_d.multi_engine.resolve).
    type: dict
    required: true
  serving:
    description: By model what serves it, as RV(llm_d.multi_engine.cluster_facts#module:cluster.serving); may be null.
    type: dict
    required: true
  gaie_options:
    description: Options of role C(gaie), without their prefix.
    type: dict
    required: true
  model_service_options:
    description: Options of role C(model_service), without their prefix.
    type: dict
    required: true
  prune:
    description: Whether what has been replaced, and is still there, is to go.
    type: bool
    default: true
"""

EXAMPLES = r"""
- name: Tell what would change
  ansible.builtin.debug:
    msg: "{{ resolved | llm_d.multi_engine.rollouts(cluster.serving, gaie_options, model_service_options) }}"
"""

RETURN = r"""
_value:
  description: A dictionary for each model that has to change; none where nothing does.
  type: list
  elements: dict
"""

from ansible.errors import AnsibleFilterError
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils import changes, patches
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.plain import stack_of, to_plain


def _rollouts(
    resolved: dict, serving: dict | None, gaie_options: dict, model_service_options: dict, prune: bool = True
) -> list:
    if not serving:
        return []
    try:
        return changes.wanted(
            stack_of(resolved), to_plain(serving), to_plain(gaie_options), to_plain(model_service_options), prune
        )
    except patches.PatchError as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    """Name to function."""

    def filters(self) -> dict:
        return {"rollouts": _rollouts}
