#!/usr/bin/python
# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
module: node_marks
short_description: Label and taint nodes, and take back only what was put there
version_added: "0.1.0"
author: the llm_d.multi_engine authors (@llm-d)
description:
  - Gives labels and taints to all nodes in one call. An annotation of the node says which of them are ours; what an
    earlier call put there and this one does not ask for is taken back, and nothing else.
  - A label or taint that somebody else gave another value is an error that names it.
options:
  stack:
    description: Stack that asks for them.
    type: str
    required: true
  nodes:
    description:
      - Name of each node to its C(labels) (a dictionary) and C(taints) (a list of C(key), C(effect) and C(value)).
      - Nodes that are not named lose what this stack put there.
    type: dict
    default: {}
  force:
    description: Take over labels and taints that have another value.
    type: bool
    default: false
extends_documentation_fragment:
  - kubernetes.core.k8s_auth_options
requirements:
  - python >= 3.10
  - kubernetes >= 24.2.0
notes:
  - Supports check mode and diff mode.
"""

EXAMPLES = r"""
- name: Keep other pods away from a GPU node
  llm_d.multi_engine.node_marks:
    stack: llm-d
    nodes:
      gpu-1:
        labels: {nvidia.com/gpu.present: 'true'}
        taints: [{key: nvidia.com/gpu, effect: NoSchedule}]
"""

RETURN = r"""
nodes:
  description: Names of the nodes that changed.
  returned: always
  type: list
  elements: str
"""

from ansible_collections.kubernetes.core.plugins.module_utils.args_common import AUTH_ARG_SPEC
from ansible_collections.kubernetes.core.plugins.module_utils.k8s.core import AnsibleK8SModule
from ansible_collections.llm_d.multi_engine.plugins.module_utils.cluster import (
    Cluster,
    ClusterError,
    Conflict,
    Forbidden,
)
from ansible_collections.llm_d.multi_engine.plugins.module_utils.documents import dump
from ansible_collections.llm_d.multi_engine.plugins.module_utils.node_marks import (
    Taken,
    note_of,
    patch_of,
    patched,
    shown,
)

ARGUMENTS = {
    "stack": {"type": "str", "required": True},
    "nodes": {"type": "dict", "default": {}},
    "force": {"type": "bool", "default": False},
}
#: A kubelet writes its node often; somebody else may be faster so many times.
TRIES = 5


def main() -> None:
    module = AnsibleK8SModule(argument_spec={**AUTH_ARG_SPEC, **ARGUMENTS}, supports_check_mode=True)
    try:
        module.exit_json(**run(Cluster(module), module.params, module.check_mode))
    except Forbidden as error:
        if module.params["nodes"]:
            module.fail_json(msg=str(error))
        # Who may not see nodes has marked none.
        module.warn(f"{error} Labels and taints of nodes stay as they are.")
        module.exit_json(changed=False, nodes=[], diff=[])
    except ClusterError as error:
        module.fail_json(msg=str(error))


def run(cluster: Cluster, params: dict, check_mode: bool) -> dict:
    """Change the nodes and return the module's result."""
    live = {node["metadata"]["name"]: node for node in cluster.list("v1", "Node")}
    missing = [name for name in params["nodes"] if name not in live]
    if missing:
        raise ClusterError(f"nodes: the cluster has no {', '.join(missing)}; nothing was changed.")
    ours = {name: {} for name, node in live.items() if note_of(node)["stack"] == params["stack"]}
    wanted = {**ours, **params["nodes"]}
    plans = {name: plan(live[name], wanted[name], params) for name in wanted}
    diffs, changed = [], []
    for name, patch in plans.items():
        if not patch:
            continue
        changed.append(name)
        before, after = shown(live[name]), shown(patched(live[name], patch))
        if before != after:
            header = f"Node {name}"
            diffs.append({"before_header": header, "after_header": header, **_texts(before, after)})
        if not check_mode:
            write(cluster, live[name], wanted[name], patch, params)
    return {"changed": bool(changed), "nodes": changed, "diff": diffs}


def _texts(before: dict, after: dict) -> dict[str, str]:
    return {"before": dump([before], explicit_start=False), "after": dump([after], explicit_start=False)}


def plan(node: dict, wanted: dict, params: dict) -> dict | None:
    """Return the patch for ``node``."""
    labels = {str(key): str(value) for key, value in (wanted.get("labels") or {}).items()}
    try:
        return patch_of(node, params["stack"], labels, wanted.get("taints") or [], params["force"])
    except Taken as error:
        name = node["metadata"]["name"]
        raise ClusterError(
            f"Node {name}: {error}. Ask for the value that it has, remove it by hand (kubectl label, kubectl taint), "
            "or take it over with force."
        ) from error


def write(cluster: Cluster, node: dict, wanted: dict, patch: dict | None, params: dict) -> None:
    """Send the patch, anew for as long as others write the node in between."""
    path = f"/api/v1/nodes/{node['metadata']['name']}"
    for attempt in range(TRIES):
        if not patch:
            return
        try:
            cluster.patch(path, patch)
            return
        except Conflict:
            if attempt == TRIES - 1:
                raise
            patch = plan(cluster.raw("get", path), wanted, params)


if __name__ == "__main__":
    main()
