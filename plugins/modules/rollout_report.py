#!/usr/bin/python
# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
module: rollout_report
short_description: Write the timeline of a rollout as an HTML file
version_added: "0.1.0"
author: the llm_d.multi_engine authors (@llm-d)
description:
  - Draws who served, how many replicas were ready, requests, failures and latency by the phases of a rollout.
  - The file needs nothing from elsewhere, runs no scripts and follows the reader's dark or light mode.
  - What looks like a credential in O(notes) or in the words of O(events) is hidden.
options:
  path:
    description: File on the controller. Its directory is made when it does not exist.
    type: path
    required: true
  title:
    description: What the report is about.
    type: str
    required: true
  events:
    description: What was seen of the rollout, one entry a moment.
    type: list
    elements: dict
    required: true
    suboptions:
      at:
        description: The moment, in UTC (C(2026-11-29T12:00:03Z)) or in seconds since the epoch.
        type: raw
        required: true
      model: {description: Name of the model., type: str, required: true}
      step: {description: Number of the step of the plan; a new one begins a phase., type: int, required: true}
      words: {description: What the step does., type: str}
      serve:
        description: Who gets requests from this moment on.
        type: str
        choices: [old, both, new]
        required: true
      ready:
        description: How many replicas are ready at this moment, C(old) and C(new).
        type: dict
        required: true
      requests:
        description: How many requests were answered since the model's event before, where somebody counted.
        type: int
      failures: {description: How many of them failed., type: int}
      latency_ms: {description: Mean latency of them in milliseconds., type: float}
  traffic:
    description:
      - What clients saw, C({at, ok, failed, latency_ms}) a second or so. It takes the place of what O(events) counted.
      - Used where O(events) are of one model.
    type: list
    elements: dict
    default: []
  notes:
    description: What else a reader should know, such as why a rollout went back.
    type: list
    elements: str
    default: []
notes:
  - Runs on the controller.
  - Supports check mode, in which no file is written.
  - Reports no change, for the file is none of what it tells about.
requirements:
  - python >= 3.10
"""

EXAMPLES = r"""
- name: Write the timeline
  llm_d.multi_engine.rollout_report:
    path: reports/qwen3-32b.html
    title: "qwen3-32b: SGLang 0.5.20 to vLLM 0.30.0"
    events:
      - {at: 2026-11-29T12:00:00Z, model: qwen3-32b, step: 1, words: new beside old, serve: old, ready: {old: 2, new: 0}}
      - {at: 2026-11-29T12:01:10Z, model: qwen3-32b, step: 2, words: new serves, serve: new, ready: {old: 2, new: 2}}
"""

RETURN = r"""
path:
  description: The file.
  returned: always
  type: str
"""

# The work is done by the action plugin of the same name.
