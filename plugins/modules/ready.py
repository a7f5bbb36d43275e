#!/usr/bin/python
# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
module: ready
short_description: Wait until Kubernetes objects are ready, and say why when they are not
version_added: "0.1.0"
author: the llm_d.multi_engine authors (@llm-d)
description:
  - Waits for all objects at once, by one watch for each kind. Changes nothing.
  - Gives up before the deadline on what no time heals, such as an image that does not exist.
  - An API server that is away meanwhile is waited for until the deadline.
options:
  objects:
    description:
      - Objects to wait for. Their C(apiVersion), C(kind) and C(metadata) suffice.
      - Kinds without a status of interest count as ready.
    type: list
    elements: dict
    required: true
  timeout:
    description: Longest wait, in seconds.
    type: int
    default: 300
  slice:
    description: Seconds after which to return what is not ready yet instead of waiting on.
    type: int
  waited:
    description: Seconds that were spent waiting before, for messages.
    type: float
    default: 0.0
extends_documentation_fragment:
  - kubernetes.core.k8s_auth_options
requirements:
  - python >= 3.10
  - kubernetes >= 24.2.0
notes:
  - Supports check mode; changes nothing.
"""

EXAMPLES = r"""
- name: Wait for a Gateway
  llm_d.multi_engine.ready:
    timeout: 60
    objects:
      - apiVersion: gateway.networking.k8s.io/v1
        kind: Gateway
        metadata: {name: llm-d-inference-gateway, namespace: llm-d}
"""

RETURN = r"""
pending:
  description: Objects that are not ready yet. Empty unless O(slice) is set.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: Kind, namespace and name.
      type: str
    reason:
      description: Why it is not ready.
      type: str
waited:
  description: Seconds spent waiting.
  returned: always
  type: float
"""

import time
from dataclasses import asdict

from ansible_collections.kubernetes.core.plugins.module_utils.args_common import AUTH_ARG_SPEC
from ansible_collections.kubernetes.core.plugins.module_utils.k8s.core import AnsibleK8SModule
from ansible_collections.llm_d.multi_engine.plugins.module_utils.cluster import Cluster, ClusterError, Unreachable
from ansible_collections.llm_d.multi_engine.plugins.module_utils.waiting import Pending, wait

ARGUMENTS = {
    "objects": {"type": "list", "elements": "dict", "required": True},
    "timeout": {"type": "int", "default": 300},
    "slice": {"type": "int"},
    "waited": {"type": "float", "default": 0.0},
}
#: Seconds between two tries to reach an API server that is away.
PAUSE = 2


def main() -> None:
    module = AnsibleK8SModule(argument_spec={**AUTH_ARG_SPEC, **ARGUMENTS}, supports_check_mode=True)
    start = time.monotonic()
    try:
        pending = run(module, start)
    except ClusterError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, pending=pending, waited=round(time.monotonic() - start, 1))


def run(module, start: float) -> list[dict]:
    """Wait as the parameters ask for and return what is not ready.

    :param start: when the module began, on the monotonic clock.
    """
    params = module.params
    timeout, until = params["timeout"], params["slice"]
    while True:
        spent = time.monotonic() - start
        left = None if until is None else until - spent
        try:
            cluster = Cluster(module)
        except Unreachable as error:
            if spent >= timeout:
                raise
            if left is not None and left <= 0:
                return [asdict(Pending("API server", str(error)))]
            time.sleep(PAUSE)
            continue
        return [
            asdict(entry) for entry in wait(cluster, params["objects"], timeout - spent, left, params["waited"] + spent)
        ]


if __name__ == "__main__":
    main()
