#!/usr/bin/python
# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
module: adopt
short_description: Find deployments that llm-d's charts or guides have made, and take them over
version_added: "0.1.0"
author: the llm_d.multi_engine authors (@llm-d)
description:
  - Looks behind each InferencePool of a namespace that this collection did not make, for model servers, endpoint
    picker, routes, and what else came by the same Helm releases. Without O(take) it changes nothing.
  - Taking over puts labels on those objects, and nothing else. Pods, and everything that they are made
    of, stay as they are.
  - Helm's records of the releases are kept and put out of Helm's sight, by another value of their label C(owner).
    C(helm uninstall) would delete what they list whatever annotations the objects have.
  - The action plugin of this name shows each deployment side by side with what this collection would run for it.
options:
  namespace:
    description: Namespace to look in.
    type: str
    required: true
  stack:
    description: Stack that takes over.
    type: str
    required: true
  take:
    description: Name of each InferencePool to take over to the name of the model that it serves.
    type: dict
    default: {}
  settings:
    description:
      - Settings of the stack, as role C(inference_engine) resolves them, whose models are compared with what is found.
      - The action plugin reads this; without it, it shows nothing.
    type: dict
    default: {}
  release:
    description: Release of the stack, by name or by the path of the user's own file.
    type: str
    default: ""
  engine_files:
    description: Files with engines of the user's own.
    type: list
    elements: path
    default: []
  catalogue:
    description: Folder of the shipped engines and releases, as M(llm_d.multi_engine.resolve) takes it.
    type: path
extends_documentation_fragment:
  - kubernetes.core.k8s_auth_options
requirements:
  - python >= 3.10
  - kubernetes >= 24.2.0
attributes: {}
notes:
  - Supports check mode and diff mode.
"""

EXAMPLES = r"""
- name: Look what could be taken over
  llm_d.multi_engine.adopt:
    namespace: llm-d-multi-engine
    stack: llm-d-multi-engine
  register: found

- name: Take over what one InferencePool leads to
  llm_d.multi_engine.adopt:
    namespace: llm-d-multi-engine
    stack: llm-d-multi-engine
    take: {gaie-multi-engine: qwen2-5-0-5b}
"""

RETURN = r"""
deployments:
  description: What was found, one entry an InferencePool.
  returned: success
  type: list
  elements: dict
  contains:
    pool: {description: The InferencePool., type: dict}
    picker: {description: The Deployment of its endpoint picker; null where there is none here., type: dict}
    servers: {description: Model servers that it selects., type: list, elements: dict}
    routes: {description: Routes that lead to it., type: list, elements: dict}
    releases: {description: Helm releases that made them., type: list, elements: str}
    objects: {description: Names of all that belongs to it., type: list, elements: str}
    taken: {description: Whether the stack has taken it over., type: bool}
adoption:
  description: For each deployment an entry of C(llm_d_models) that describes it, and how the two compare.
  returned: with O(settings)
  type: list
  elements: dict
changes:
  description: Names of the objects that were changed.
  returned: success
  type: list
  elements: str
forbidden:
  description: Kinds that the credentials may not read, with the API server's words.
  returned: success
  type: dict
"""

from ansible_collections.kubernetes.core.plugins.module_utils.args_common import AUTH_ARG_SPEC
from ansible_collections.kubernetes.core.plugins.module_utils.k8s.core import AnsibleK8SModule
from ansible_collections.llm_d.multi_engine.plugins.module_utils import documents
from ansible_collections.llm_d.multi_engine.plugins.module_utils.adoption import Deployments, Takeover
from ansible_collections.llm_d.multi_engine.plugins.module_utils.cluster import Cluster, ClusterError
from ansible_collections.llm_d.multi_engine.plugins.module_utils.manifests import name_of, presentable

ARGUMENTS = {
    "namespace": {"type": "str", "required": True},
    "stack": {"type": "str", "required": True},
    "take": {"type": "dict", "default": {}},
    # The rest is for the action plugin, which compares what needs no cluster.
    "settings": {"type": "dict", "default": {}},
    "release": {"type": "str", "default": ""},
    "engine_files": {"type": "list", "elements": "path", "default": []},
    "catalogue": {"type": "path"},
}


def main() -> None:
    module = AnsibleK8SModule(argument_spec={**AUTH_ARG_SPEC, **ARGUMENTS}, supports_check_mode=True)
    result: dict = {"changed": False, "changes": [], "diff": []}
    try:
        run(module, result)
    except ClusterError as error:
        module.fail_json(msg=str(error), **result)
    module.exit_json(**result)


def run(module, result: dict) -> None:
    """Look, and take over what the parameters name.

    :param result: the module's result, filled in as things happen.
    """
    params = module.params
    cluster = Cluster(module)
    found = Deployments(cluster, params["namespace"], params["stack"])
    deployments = found.all()
    by_pool = {deployment["pool"]["metadata"]["name"]: deployment for deployment in deployments}
    refuse_unknown(params["take"], by_pool, params["namespace"])
    takeover = Takeover(cluster, params["stack"], module.check_mode)
    try:
        for pool, model in params["take"].items():
            takeover.take(by_pool[pool], model)
    finally:
        result["changes"] = [entry["name"] for entry in takeover.diffs]
        result["changed"] = bool(takeover.diffs)
        result["diff"] = [shown(entry) for entry in takeover.diffs]
    result["forbidden"] = found.forbidden
    result["deployments"] = [told(deployment) for deployment in deployments]


def refuse_unknown(take: dict, by_pool: dict, namespace: str) -> None:
    """Refuse to take over what is not there, before anything changes."""
    unknown = [pool for pool in take if pool not in by_pool]
    if unknown:
        there = ", ".join(by_pool) or "none"
        raise ClusterError(
            f"Nothing was changed. Namespace {namespace} has no InferencePool {', '.join(unknown)} of somebody else; "
            f"it has: {there}."
        )


def told(deployment: dict) -> dict:
    """Return a deployment as it is returned, without what only the API server needs."""
    return {
        "pool": presentable(deployment["pool"]),
        "picker": presentable(deployment["picker"]) or None,
        "servers": [presentable(item) for item in deployment["servers"]],
        "routes": [presentable(item) for item in deployment["routes"]],
        "releases": deployment["releases"],
        "objects": [name_of(item) for item in deployment["objects"]],
        "taken": deployment["taken"],
    }


def shown(entry: dict) -> dict:
    """Return a diff as Ansible shows it."""
    sides = {side: documents.dump([entry[side]], explicit_start=False) for side in ("before", "after")}
    return {"before_header": entry["name"], "after_header": entry["name"], **sides}


if __name__ == "__main__":
    main()
