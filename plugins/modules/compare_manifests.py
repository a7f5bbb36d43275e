#!/usr/bin/python
# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
module: compare_manifests
short_description: Show object by object how two sets of manifests differ
version_added: "0.1.0"
author: the llm_d.multi_engine authors (@llm-d)
description:
  - Shows a diff for each object that was created, changed or removed between two sets of Kubernetes
    objects, such as what a Helm release holds and what its chart renders now.
  - Changes nothing itself. It says C(changed) when the two sets differ, for Ansible shows the diff of
    nothing else.
  - Values of Secrets are hidden. The schemas of CustomResourceDefinitions are shortened to their length
    and checksum.
options:
  before:
    description:
      - Objects as they are, a YAML text with any number of documents, or a list of objects and texts.
      - Empty when there are none yet.
      - Those annotated C(helm.sh/resource-policy=keep) are not shown as removed, for Helm keeps them.
    type: raw
    required: true
  after:
    description: Objects as they will be, as in O(before).
    type: raw
    required: true
notes:
  - Runs on the controller.
  - Supports check mode and diff mode.
requirements:
  - python >= 3.10
  - PyYAML
"""

EXAMPLES = r"""
- name: Render the chart
  kubernetes.core.helm_template:
    release_name: example
    release_namespace: example
    chart_ref: /opt/charts/example.tgz
    disable_hook: true
  register: rendered
  changed_when: false
  check_mode: false

- name: Look at what is installed
  kubernetes.core.helm_info:
    release_name: example
    release_namespace: example
  register: deployed

- name: Show what an upgrade would change
  llm_d.multi_engine.compare_manifests:
    before: "{{ deployed.status.manifest | default([]) }}"
    after: "{{ rendered.stdout }}"
"""

RETURN = r"""
objects:
  description: What became of each object.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: Kind, namespace and name.
      type: str
    action:
      description: C(created), C(changed), C(removed) or C(unchanged).
      type: str
"""

# The work is done by the action plugin of the same name.
