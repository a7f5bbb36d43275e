# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
name: rollouts_pending
short_description: Why objects of a stack cannot be applied before a rollout
version_added: "0.1.0"
author: the llm_d.multi_engine authors (@llm-d)
description: Tells which models are served by something that applying the stack would take away or miss.
options:
  _input:
    description: Result of M(llm_d.multi_engine.resolve).
    type: dict
    required: true
  serving:
    description: By model what serves it, as RV(llm_d.multi_engine.cluster_facts#module:cluster.serving); may be null.
    type: dict
    required: true
  objects:
    description: >-
      Objects of role C(model_service) that are to be applied, as the JSON text that
      P(llm_d.multi_engine.model_service_objects#filter) returns. Empty where there are none among what is to be.
    type: str
    default: ""
"""

EXAMPLES = r"""
- name: Refuse to take away what serves
  ansible.builtin.assert:
    that: resolved | llm_d.multi_engine.rollouts_pending(cluster.serving) | length == 0
"""

RETURN = r"""
_value:
  description: Reasons, none where the stack can be applied.
  type: list
  elements: str
"""

import json

from ansible_collections.llm_d.multi_engine.plugins.plugin_utils import changes
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.plain import stack_of, to_plain


def _rollouts_pending(resolved: dict, serving: dict | None, objects: str = "") -> list:
    if not serving:
        return []
    return changes.pending(stack_of(resolved), to_plain(serving), json.loads(objects) if objects else [])


class FilterModule:
    """Name to function."""

    def filters(self) -> dict:
        return {"rollouts_pending": _rollouts_pending}
