# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
name: images
short_description: Container images that Kubernetes objects or Istio's chart need
version_added: "0.1.0"
author: the llm_d.multi_engine authors (@llm-d)
description: Returns the images to mirror, each once.
options:
  _input:
    description: Kubernetes objects, or with O(kind=istiod_values) the values of Istio's istiod chart.
    type: raw
    required: true
  kind:
    description: What the input is.
    type: str
    choices: [objects, istiod_values]
    default: objects
  sources:
    description: What is pulled to where upstream has it, as M(llm_d.multi_engine.resolve) returns it.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Show the images
  ansible.builtin.debug:
    msg: "{{ objects_by_model.values() | flatten | llm_d.multi_engine.images(sources=resolved.image_sources) }}"
"""

RETURN = r"""
_value:
  description: For each image what is pulled (C(image)) and where upstream has it (C(source)).
  type: list
  elements: dict
"""

from collections.abc import Mapping
from typing import Any

from ansible_collections.llm_d.multi_engine.plugins.plugin_utils import images
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.plain import to_plain


def _images(value: Any, kind: str = "objects", sources: Mapping | None = None) -> list:
    value = to_plain(value)
    found = images.of_istio(value) if kind == "istiod_values" else images.of_objects(value)
    return images.with_sources(found, to_plain(sources or {}))


class FilterModule:
    """Name to function."""

    def filters(self) -> dict:
        return {"images": _images}
