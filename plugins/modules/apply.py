#!/usr/bin/python
# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
module: apply
short_description: Apply Kubernetes objects on the server, show each change, wait until they are ready
version_added: "0.1.0"
author: the llm_d.multi_engine authors (@llm-d)
description:
  - Applies a list of objects in one call by server-side apply, in an order that works, and returns
    a diff for each object that changes.
  - Refuses to touch an object that exists and that this collection did not make for this stack.
  - Objects that are as asked for already are not written. Their managed fields tell, and an annotation with a
    digest of what was asked for. What a person changed with kubectl is
    changed back; fields that another program owns are an error that names both, unless
    O(force_conflicts) is set.
  - With O(role), the objects form an ApplySet (KEP-3659), for which a ConfigMap stands. What
    belongs to it and is not among O(objects) any more is removed, once those that are have become
    ready. Only one run at a time changes a set; a Lease sees to it.
  - In check mode the API server tries every change without keeping it. Objects whose namespace or
    kind does not exist yet are shown as they were asked for.
  - An API server that restarts or is overloaded meanwhile is waited for, for a minute at most.
options:
  objects:
    description: Kubernetes objects, or texts with lists of them as JSON, which Ansible hands over faster.
    type: list
    elements: raw
    default: []
  sources:
    description:
      - Files or URLs with further objects as YAML, such as CustomResourceDefinitions.
      - One that exists and that this collection did not make is left alone, see O(upgrade_sources).
    type: list
    elements: path
    default: []
  upgrade_sources:
    description: Change objects of O(sources) that somebody else made. They keep their labels.
    type: bool
    default: false
  source_labels:
    description: Labels for the objects of O(sources).
    type: dict
    default: {}
  secret_data:
    description:
      - Name of a Secret among O(objects) to a dictionary with its values as text.
      - They appear in no output.
    type: dict
    default: {}
  stack:
    description: Stack that the objects belong to.
    type: str
    required: true
  role:
    description:
      - Role whose objects these are, all of them.
      - Requires O(namespace), where the ConfigMap and the Lease of the set are kept.
    type: str
  prune:
    description: Remove objects of the set that are not asked for any more.
    type: bool
    default: true
  allow_empty:
    description: Remove them also when nothing at all is asked for any more.
    type: bool
    default: false
  namespace:
    description: Namespace to make when it does not exist.
    type: str
  force_conflicts:
    description: Take over fields that another manager owns.
    type: bool
    default: false
  adopt:
    description: Take over objects that this collection did not make.
    type: bool
    default: false
  wait:
    description: Wait until all objects are ready.
    type: bool
    default: false
  ready_first:
    description:
      - By kind a list of kinds. Objects of the former are created or changed when those of the latter that are of
        the same model (label C(llm-d.ai/model), or none) are ready, for example a C(Deployment) after a C(Job).
      - Needs O(wait); without it everything is applied at once.
    type: dict
    default: {}
  wait_timeout:
    description:
      - Longest wait, in seconds.
      - Objects that are being deleted are waited for likewise, for a minute at most.
    type: int
    default: 300
  only_prune:
    description:
      - Only remove what is not asked for any more. An earlier call has applied O(objects).
      - Refused when another run has applied something else since. The action plugin sets this after a wait.
    type: bool
    default: false
  wait_slice:
    description:
      - Seconds after which to return what is not ready yet instead of waiting on.
      - A module that runs cannot print. The action plugin of this name sets this, goes on waiting
        by M(llm_d.multi_engine.ready) and shows what is missing in between.
    type: int
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
- name: Apply a ConfigMap, and remove what this task applied before
  llm_d.multi_engine.apply:
    stack: llm-d
    role: example
    namespace: llm-d
    objects:
      - apiVersion: v1
        kind: ConfigMap
        metadata:
          name: example
          namespace: llm-d
          labels:
            app.kubernetes.io/managed-by: llm_d.multi_engine
            multi-engine.llm-d.ai/stack: llm-d
        data: {key: value}
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
      description: C(created), C(changed), C(unchanged) or C(removed).
      type: str
    checked:
      description: Whether the API server has seen the object; false for some in check mode.
      type: bool
calls:
  description: Requests that were sent to the API server, by verb.
  returned: when there are objects
  type: dict
pending:
  description: Objects that are not ready, each with O(ignore:name) and O(ignore:reason).
  returned: when O(wait) is true
  type: list
  elements: dict
held_back:
  description: Objects that were not applied yet because those of O(ready_first) are not ready.
  returned: when there are objects
  type: list
  elements: str
unwanted:
  description: Objects that are not asked for any more and are there until all others are ready.
  returned: when there are objects
  type: list
  elements: str
waited:
  description: Seconds spent waiting.
  returned: when O(wait) is true
  type: float
"""

import base64
import signal
import time
from dataclasses import asdict

from ansible_collections.kubernetes.core.plugins.module_utils.args_common import AUTH_ARG_SPEC
from ansible_collections.kubernetes.core.plugins.module_utils.k8s.core import AnsibleK8SModule
from ansible_collections.llm_d.multi_engine.plugins.module_utils import documents
from ansible_collections.llm_d.multi_engine.plugins.module_utils.applying import Apply
from ansible_collections.llm_d.multi_engine.plugins.module_utils.cluster import Cluster, ClusterError
from ansible_collections.llm_d.multi_engine.plugins.module_utils.manifests import awaited_first, name_of
from ansible_collections.llm_d.multi_engine.plugins.module_utils.marks import (
    MANAGED_BY,
    MANAGED_BY_LABEL,
    STACK_LABEL,
)
from ansible_collections.llm_d.multi_engine.plugins.module_utils.waiting import wait

ARGUMENTS = {
    "objects": {"type": "list", "elements": "raw", "default": []},
    "sources": {"type": "list", "elements": "path", "default": []},
    "upgrade_sources": {"type": "bool", "default": False},
    "source_labels": {"type": "dict", "default": {}},
    "secret_data": {"type": "dict", "default": {}, "no_log": True},
    "stack": {"type": "str", "required": True},
    "role": {"type": "str"},
    "prune": {"type": "bool", "default": True},
    "allow_empty": {"type": "bool", "default": False},
    "namespace": {"type": "str"},
    "force_conflicts": {"type": "bool", "default": False},
    "adopt": {"type": "bool", "default": False},
    "wait": {"type": "bool", "default": False},
    "wait_timeout": {"type": "int", "default": 300},
    "ready_first": {"type": "dict", "default": {}},
    "only_prune": {"type": "bool", "default": False},
    "wait_slice": {"type": "int"},
}


def main() -> None:
    # Whoever ends the play ends this too, and what it holds has to be let go.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    module = AnsibleK8SModule(
        argument_spec={**AUTH_ARG_SPEC, **ARGUMENTS}, supports_check_mode=True, required_by={"role": "namespace"}
    )
    result: dict = {"changed": False, "objects": []}
    try:
        run(module, result)
    except ClusterError as error:
        module.fail_json(msg=str(error), **result)
    module.exit_json(**result)


def run(module, result: dict) -> None:
    """Apply what the parameters ask for.

    :param result: the module's result, filled in as things happen, so that a failure has it too.
    """
    params = module.params
    sources = [item for source in params["sources"] for item in load(source)]
    objects = wanted_objects(params)
    if not objects and not sources and not params["role"]:
        return
    cluster = Cluster(module)
    # Nobody sees a diff that was not asked for; check mode is asked by the status, too.
    apply = Apply(cluster, params, module.check_mode, show=module.check_mode or module._diff)
    try:
        if params["only_prune"]:
            apply.prune(objects)
            return
        ready_first = params["ready_first"] if params["wait"] else {}
        held_back = apply.all(objects, sources, ready_first)
        unwanted = apply.unwanted()
        result["held_back"] = [name_of(item) for item in held_back]
        if params["wait"] and not module.check_mode:
            start = time.monotonic()
            awaited = awaited_first(objects, ready_first) if held_back else objects
            pending = wait(cluster, awaited, params["wait_timeout"], params["wait_slice"])
            result["pending"] = [asdict(entry) for entry in pending]
            result["waited"] = round(time.monotonic() - start, 1)
        if unwanted and not module.check_mode and not result.get("pending") and not held_back:
            apply.prune()
            unwanted = []
        result["unwanted"] = [] if module.check_mode else [name_of(live) for live in unwanted]
    finally:
        for text in apply.warnings:
            module.warn(text)
        result.update(changed=apply.changed, objects=apply.results, diff=apply.diffs, calls=dict(cluster.calls))


def wanted_objects(params: dict) -> list[dict]:
    """Return the objects that the parameters ask for, the namespace and the values of Secrets included."""
    try:
        objects = documents.objects_of(params["objects"])
    except ValueError as error:
        raise ClusterError(f"Nothing was changed. objects: {error}.") from error
    if params["namespace"]:
        labels = {MANAGED_BY_LABEL: MANAGED_BY, STACK_LABEL: params["stack"]}
        metadata = {"name": params["namespace"], "labels": labels}
        objects.append({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
    for item in objects:
        values = params["secret_data"].get(item["metadata"]["name"])
        if item["kind"] == "Secret" and values:
            # Not stringData: nobody owns what comes that way, so that it conflicts with nobody and is never removed.
            item["data"] = {key: base64.b64encode(str(value).encode()).decode() for key, value in values.items()}
    return objects


def load(source: str) -> list[dict]:
    """Return the objects in a file or behind a URL."""
    try:
        if "://" in source:
            # Here, for it loads cryptography and more: a tenth of a second that each run would pay.
            from ansible.module_utils.urls import open_url

            text = open_url(source, timeout=60).read()
        else:
            with open(source, "rb") as file:
                text = file.read()
    except OSError as error:
        raise ClusterError(f"{source} cannot be read: {error}. Name a mirror or a local file instead.") from error
    objects = documents.load(text)
    for item in objects:
        # Older bundles ship it; applying it back would be refused.
        item.pop("status", None)
    return objects


if __name__ == "__main__":
    main()
