#!/usr/bin/python
# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
module: host_table
short_description: Show what GPU hosts offer and what the models need
version_added: "0.1.0"
author: the llm_d.multi_engine authors (@llm-d)
description:
  - Prints a table of hosts and one of models, with everything that keeps a host from serving.
  - Prints nothing where the callback writes JSON; the same is returned as data.
options:
  reports:
    description: Results of P(llm_d.multi_engine.host_report#filter).
    type: list
    elements: dict
    required: true
  path:
    description: File on the controller to write the reports to, as JSON.
    type: path
notes:
  - Runs on the controller.
  - Supports check mode, in which no file is written.
requirements:
  - python >= 3.10
"""

EXAMPLES = r"""
- name: Show the hosts
  llm_d.multi_engine.host_table:
    reports: "{{ ansible_play_hosts | map('extract', hostvars, 'gpu_node_report') }}"
  run_once: true
"""

RETURN = r"""
reports:
  description: The reports.
  returned: always
  type: list
  elements: dict
"""

# The work is done by the action plugin of the same name.
