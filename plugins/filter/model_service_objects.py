# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
name: model_service_objects
short_description: Compose the model servers of each model
version_added: "0.1.0"
author: the llm_d.multi_engine authors (@llm-d)
description: Composes the objects that role C(model_service) applies, by model, and lays the patches of the inventory over them.
options:
  _input:
    description: Result of M(llm_d.multi_engine.resolve).
    type: dict
    required: true
  options:
    description: Options of the role, without their prefix.
    type: dict
    required: true
  serving:
    description: By model what serves it, as RV(llm_d.multi_engine.cluster_facts#module:cluster.serving).
    type: dict
    default: {}
  as_json:
    description: Return one JSON text with the objects of all models, for M(llm_d.multi_engine.apply).
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Compose the objects
  ansible.builtin.set_fact:
    objects_by_model: "{{ resolved | llm_d.multi_engine.model_service_objects(options) }}"
"""

RETURN = r"""
_value:
  description: Name of the model to its Kubernetes objects, in the order of the models; or a text.
  type: raw
"""

from ansible.errors import AnsibleFilterError
from ansible_collections.llm_d.multi_engine.plugins.module_utils import documents
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils import composing, patches
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.plain import stack_of, to_plain


def _model_service_objects(
    resolved: dict, options: dict, as_json: bool = False, serving: dict | None = None
) -> dict | str:
    try:
        by_model = composing.model_servers(stack_of(resolved), to_plain(options), to_plain(serving))
    except patches.PatchError as error:
        raise AnsibleFilterError(str(error)) from error
    return documents.as_json(by_model) if as_json else by_model


class FilterModule:
    """Name to function."""

    def filters(self) -> dict:
        return {"model_service_objects": _model_service_objects}
