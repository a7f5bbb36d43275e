#!/usr/bin/python
# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
module: node_devices
short_description: Wait until nodes offer devices to pods, and say why when they do not
version_added: "0.1.0"
author: the llm_d.multi_engine authors (@llm-d)
description:
  - Waits until each of the nodes offers at least one device, such as a GPU. Changes nothing.
  - When one does not in time, it tells which node, and what the pods say that should give devices to it. It gives up
    earlier on what no time heals, such as an image that does not exist.
options:
  nodes:
    description: Names of the nodes.
    type: list
    elements: str
    required: true
  resources:
    description: Names of resources that are such devices, with C(*) for anything.
    type: list
    elements: str
    default: [nvidia.com/gpu, "nvidia.com/mig-*"]
  namespace:
    description: Namespace of what gives devices to pods.
    type: str
    required: true
  timeout:
    description: Longest wait, in seconds.
    type: int
    default: 600
extends_documentation_fragment:
  - kubernetes.core.k8s_auth_options
requirements:
  - python >= 3.10
  - kubernetes >= 24.2.0
notes:
  - Supports check mode; changes nothing.
"""

EXAMPLES = r"""
- name: Wait for the GPUs of a node
  llm_d.multi_engine.node_devices:
    nodes: [gpu-1]
    namespace: nvidia-device-plugin
"""

RETURN = r"""
nodes:
  description: Name of each node to what it offers.
  returned: success
  type: dict
waited:
  description: Seconds spent waiting.
  returned: success
  type: float
"""

import time

from ansible_collections.kubernetes.core.plugins.module_utils.args_common import AUTH_ARG_SPEC
from ansible_collections.kubernetes.core.plugins.module_utils.k8s.core import AnsibleK8SModule
from ansible_collections.llm_d.multi_engine.plugins.module_utils.cluster import Cluster, ClusterError
from ansible_collections.llm_d.multi_engine.plugins.module_utils.node_devices import (
    LOGS,
    Late,
    failure,
    offered,
    why_late,
)
from ansible_collections.llm_d.multi_engine.plugins.module_utils.redact import Redactor

ARGUMENTS = {
    "nodes": {"type": "list", "elements": "str", "required": True},
    "resources": {"type": "list", "elements": "str", "default": ["nvidia.com/gpu", "nvidia.com/mig-*"]},
    "namespace": {"type": "str", "required": True},
    "timeout": {"type": "int", "default": 600},
}
#: Seconds between two looks at the nodes.
PAUSE = 1
#: Seconds after which the pods are asked why.
PATIENCE = 5
#: Seconds that what gives devices was installed before, at most: what failed earlier may be mended by now.
APPLIED_BEFORE = 15


def main() -> None:
    module = AnsibleK8SModule(argument_spec={**AUTH_ARG_SPEC, **ARGUMENTS}, supports_check_mode=True)
    start = time.monotonic()
    try:
        nodes = wait(Cluster(module), module.params, start)
    except ClusterError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, nodes=nodes, waited=round(time.monotonic() - start, 1))


def wait(cluster: Cluster, params: dict, start: float) -> dict[str, dict]:
    """Return what each node offers, once all of them offer something.

    :param start: when the module began, on the monotonic clock.
    """
    since = time.time() - APPLIED_BEFORE
    while True:
        live = {node["metadata"]["name"]: node for node in cluster.list("v1", "Node")}
        offers = {name: offered(live.get(name, {}), params["resources"]) for name in params["nodes"]}
        waiting = [name for name, found in offers.items() if not found]
        if not waiting:
            return offers
        spent = time.monotonic() - start
        timed_out = spent >= params["timeout"]
        if timed_out or spent >= PATIENCE:
            late = look(cluster, params["namespace"], waiting, live, since)
            if timed_out or any(item.final for item in late):
                text = failure(late, logs(cluster, params["namespace"], late), params["resources"], spent, timed_out)
                raise ClusterError(Redactor().text(text))
        time.sleep(PAUSE)


def look(cluster: Cluster, namespace: str, names: list[str], live: dict[str, dict], since: float) -> list[Late]:
    """Return why the nodes ``names`` offer nothing."""
    pods = cluster.list("v1", "Pod", namespace)
    events = cluster.list("v1", "Event", namespace)
    daemon_sets = cluster.list("apps/v1", "DaemonSet", namespace)
    return [why_late(live.get(name), name, pods, events, daemon_sets, since) for name in names]


def logs(cluster: Cluster, namespace: str, late: list[Late]) -> dict[tuple, str]:
    """Return the last lines of the first few logs that tell more."""
    wanted = [key for item in late for key in item.logs][:LOGS]
    return {key: cluster.log_tail(namespace, *key) for key in wanted}


if __name__ == "__main__":
    main()
