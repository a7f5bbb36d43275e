# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
name: rollbacks
short_description: The way back to what served a model before
version_added: "0.1.0"
author: the llm_d.multi_engine authors (@llm-d)
description: >-
  From what is known of a stack's models to a change as M(llm_d.multi_engine.rollout) takes it, or why there is none.
options:
  _input:
    description: Result of M(llm_d.multi_engine.rollout_history) with its O(llm_d.multi_engine.rollout_history#module:objects).
    type: dict
    required: true
  model:
    description: Name of the model. Empty where only one has a revision to go back to.
    type: str
    default: ""
  to:
    description: The revision, or its first letters. Empty takes the one that served before.
    type: str
    default: ""
  strategy:
    description: Strategy in the place of the one that the model had then.
    type: str
    default: ""
"""

EXAMPLES = r"""
- name: Tell what served before
  ansible.builtin.debug:
    msg: "{{ (result | llm_d.multi_engine.rollbacks('qwen3-32b')).words }}"
"""

RETURN = r"""
_value:
  description: >-
    C(changes), as P(llm_d.multi_engine.rollouts#filter) returns them, at most one; C(refusals), why there is none; and
    C(words), what to know of it.
  type: dict
"""

from ansible_collections.llm_d.multi_engine.plugins.plugin_utils import rollback
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.plain import to_plain


def _rollbacks(found: dict, model: str = "", to: str = "", strategy: str = "") -> dict:
    return rollback.ways(
        to_plain(found["history"]),
        to_plain(found["objects"]),
        to_plain(found["serving"]),
        str(model),
        str(to),
        str(strategy),
    )


class FilterModule:
    """Name to function."""

    def filters(self) -> dict:
        return {"rollbacks": _rollbacks}
