#!/usr/bin/python
# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
module: resolve
short_description: Turn what an inventory says into one plain dictionary per model
version_added: "0.1.0"
author: the llm_d.multi_engine authors (@llm-d)
description:
  - Checks the input against the catalogue of engines and releases, and makes every decision that
    the engine, its version and the accelerator imply.
  - Touches nothing and needs no cluster.
options:
  settings:
    description:
      - C(engine), C(namespace), C(stack) and C(accelerator) as text, C(models) and C(overrides) as lists,
        C(model_defaults) as a dictionary, and what else role C(inference_engine) hands over.
    type: dict
    required: true
  release:
    description: A release of the catalogue, or the path of one's own, which has a slash.
    type: str
    required: true
  engine_files:
    description: Files with engines of one's own.
    type: list
    elements: path
    default: []
  catalogue:
    description: Folder of the catalogue.
    type: path
    required: true
  known:
    description: RV(text) of an earlier result. That is returned again when it was made of the same input.
    type: str
    default: ""
notes:
  - Runs on the controller.
  - Supports check mode; changes nothing.
requirements:
  - python >= 3.10
"""

EXAMPLES = r"""
- name: Resolve the models
  llm_d.multi_engine.resolve:
    settings: "{{ settings }}"
    release: gaie-1.5
    catalogue: "{{ role_path }}/vars"
  register: resolved
"""

RETURN = r"""
findings:
  description: Why the input is refused; what else is returned is incomplete unless this is empty.
  returned: always
  type: list
  elements: str
notes:
  description: What is worth knowing and forbids nothing.
  returned: always
  type: list
  elements: str
news:
  description: Whether this was resolved just now, and not before.
  returned: always
  type: bool
stack:
  description: Name of the stack.
  returned: always
  type: str
namespace:
  description: Its namespace.
  returned: always
  type: str
release:
  description: The release, with its name.
  returned: always
  type: dict
engines:
  description: Name of each engine in use to what the data path needs to know of it.
  returned: always
  type: dict
devices:
  description: Kubernetes resources that are accelerators.
  returned: always
  type: list
  elements: str
models:
  description: The models, each with every decision made.
  returned: always
  type: list
  elements: dict
body_routing:
  description: Whether requests are routed by the model that their body names.
  returned: always
  type: bool
patches:
  description: Patches for the objects of all models.
  returned: always
  type: list
  elements: dict
image_sources:
  description: Images that are pulled from a mirror, to where upstream has them.
  returned: always
  type: dict
rules:
  description: The rules of compatibility, for hosts to be compared with.
  returned: always
  type: list
  elements: dict
text:
  description: All of it as JSON, which the filters of this collection read faster.
  returned: always
  type: str
input:
  description: Digest of the input.
  returned: always
  type: str
"""

# The work is done by the action plugin of the same name.
