#!/usr/bin/python
# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
module: write_manifests
short_description: Write manifests and chart values as files, all in one call
version_added: "0.1.0"
author: the llm_d.multi_engine authors (@llm-d)
description:
  - Writes each file only when its content differs, and shows the difference.
  - Removes nothing; files of models that are no longer wanted are returned as RV(stale).
options:
  dest:
    description: Directory for the files; made when it does not exist.
    type: path
    required: true
  files:
    description: Name of each file, without C(.yaml), to its text. Either this or O(sections).
    type: dict
  sections:
    description:
      - Name of each file, without C(.yaml), to a dictionary that is laid over the one that the file holds.
      - For a file that several calls write, each its own key. Nothing in O(dest) is stale then.
    type: dict
notes:
  - Runs on the controller.
  - Supports check mode and diff mode.
requirements:
  - python >= 3.10
  - PyYAML
"""

EXAMPLES = r"""
- name: Write the manifests of a model
  llm_d.multi_engine.write_manifests:
    dest: /tmp/manifests/gaie
    files:
      first: "{{ objects_by_model.first | to_nice_yaml }}"
"""

RETURN = r"""
written:
  description: Paths of the files that changed.
  returned: always
  type: list
  elements: str
stale:
  description: Paths of YAML files in O(dest) that were not asked for.
  returned: always
  type: list
  elements: str
"""

# The work is done by the action plugin of the same name.
