# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
name: istiod_values
short_description: Values of Istio's istiod chart for inference
version_added: "0.1.0"
author: the llm_d.multi_engine authors (@llm-d)
description: Lays your values over those that inference needs.
options:
  _input:
    description: A release, as M(llm_d.multi_engine.resolve) returns it.
    type: dict
    required: true
  overrides:
    description: Values of your own.
    type: dict
    required: true
  version:
    description: Version of Istio. Empty for the release's.
    type: str
    default: ""
  pull_secrets:
    description: Names of Secrets with credentials of registries.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Compose the values
  ansible.builtin.set_fact:
    values: "{{ resolved.release | llm_d.multi_engine.istiod_values({'pilot': {'autoscaleMin': 2}}) }}"
"""

RETURN = r"""
_value:
  description: Values for the chart.
  type: dict
"""

from collections.abc import Sequence

from ansible_collections.llm_d.multi_engine.plugins.plugin_utils import gateway
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.plain import as_list, to_plain


def _istiod_values(release: dict, overrides: dict, version: str = "", pull_secrets: Sequence[str] | str = ()) -> dict:
    return gateway.istiod_values(
        to_plain(release), to_plain(overrides), to_plain(version), as_list(to_plain(pull_secrets))
    )


class FilterModule:
    """Name to function."""

    def filters(self) -> dict:
        return {"istiod_values": _istiod_values}
