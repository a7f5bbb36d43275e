# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
name: resolve
short_description: Turn what an inventory says into one plain dict per model
version_added: "0.1.0"
author: the llm_d.multi_engine authors (@llm-d)
description:
  - Checks the input against the catalogue of engines and releases, and makes every decision that
    the engine, its version and the accelerator imply.
  - Touches nothing and needs no cluster.
options:
  _input:
    description:
      - C(engine), C(release), C(namespace), C(stack) and C(accelerator) as text, C(models) and
        C(overrides) as lists, C(model_defaults) as a dictionary.
    type: dict
    required: true
  catalogue:
    description:
      - C(engines), C(releases), C(model_schema) and C(rules) of role C(inference_engine), and C(engine_files), a
        dictionary of paths to the text of the user's own engines.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Resolve
  ansible.builtin.set_fact:
    resolved: "{{ settings | llm_d.multi_engine.resolve(catalogue) }}"
"""

RETURN = r"""
_value:
  description:
    - C(stack), C(namespace), C(release), C(engines), C(devices), C(models), C(rules), C(notes) and C(findings).
    - The input is refused when C(findings), a list of text, is not empty.
  type: dict
"""

from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.plain import to_plain
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.resolve import resolve


def _resolve(settings: dict, catalogue: dict) -> dict:
    return resolve(to_plain(settings), to_plain(catalogue))


class FilterModule:
    """Name to function."""

    def filters(self) -> dict:
        return {"resolve": _resolve}
