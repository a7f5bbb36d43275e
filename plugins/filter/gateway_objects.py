# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
name: gateway_objects
short_description: Compose the Gateway of a stack
version_added: "0.1.0"
author: the llm_d.multi_engine authors (@llm-d)
description: Composes the objects that role C(istio_gateway) applies, and lays patches of the Gateway over them.
options:
  _input:
    description: Result of M(llm_d.multi_engine.resolve).
    type: dict
    required: true
  options:
    description: Options of the role, without their prefix.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Compose the Gateway
  ansible.builtin.set_fact:
    objects: "{{ resolved | llm_d.multi_engine.gateway_objects(options) }}"
"""

RETURN = r"""
_value:
  description: Kubernetes objects.
  type: list
  elements: dict
"""

from ansible.errors import AnsibleFilterError
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils import gateway, patches
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.plain import stack_of, to_plain


def _gateway_objects(resolved: dict, options: dict) -> list:
    resolved = stack_of(resolved)
    objects = gateway.compose(resolved["stack"], resolved["engines"], to_plain(options))
    ours = [patch for patch in resolved["patches"] if patch["target"]["kind"] == "Gateway"]
    try:
        return patches.checked(objects, ours)
    except patches.PatchError as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    """Name to function."""

    def filters(self) -> dict:
        return {"gateway_objects": _gateway_objects}
