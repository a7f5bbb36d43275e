# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
---
name: manifests
short_description: Kubernetes objects as the text of files
version_added: "0.1.0"
author: the llm_d.multi_engine authors (@llm-d)
description: Writes objects as YAML that a person reads, the same for the same objects.
options:
  _input:
    description: Name of each file to a list of objects (one document each) or a dictionary.
    type: dict
    required: true
"""

EXAMPLES = r"""
---
- name: Write the manifests
  llm_d.multi_engine.write_manifests:
    dest: /tmp/manifests
    files: "{{ objects_by_model | llm_d.multi_engine.manifests }}"
"""

RETURN = r"""
---
_value:
  description: Name of each file to its text.
  type: dict
"""

from ansible_collections.llm_d.multi_engine.plugins.module_utils.documents import text
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.plain import to_plain


def _manifests(files: dict) -> dict:
    return {name: text(content) for name, content in to_plain(files).items()}


class FilterModule:
    """Name to function."""

    def filters(self) -> dict:
        return {"manifests": _manifests}
