#!/usr/bin/python
# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
module: remove
short_description: Remove the Kubernetes objects that this collection made for a stack
version_added: "0.1.0"
author: the llm_d.multi_engine authors (@llm-d)
description:
  - Deletes objects by the labels that this collection puts on what it makes, and nothing else.
  - A kind that the credentials may not list stays, with a warning and an entry in RV(kept).
  - A Lease among them keeps other runs off meanwhile, as it does for M(llm_d.multi_engine.apply), and goes last.
  - CustomResourceDefinitions are shared by all stacks. They are deleted only when asked for by
    O(definitions) and when no object of any of them is left in the whole cluster.
options:
  kinds:
    description: Kinds to look through, in the order of deletion, each as C(API_VERSION KIND).
    type: list
    elements: str
    default: []
  namespace:
    description: Only objects of this namespace.
    type: str
  role:
    description: Only objects of this role of the collection.
    type: str
  stack:
    description: Stack whose objects are deleted.
    type: str
    required: true
  definitions:
    description: Groups whose CustomResourceDefinitions are deleted when this collection made them.
    type: list
    elements: str
    default: []
  wait_timeout:
    description: Longest wait until they are gone, in seconds.
    type: int
    default: 120
extends_documentation_fragment:
  - kubernetes.core.k8s_auth_options
requirements:
  - python >= 3.10
  - kubernetes >= 24.2.0
notes:
  - Supports check mode and diff mode.
"""

EXAMPLES = r"""
- name: Remove the model servers of a stack
  llm_d.multi_engine.remove:
    stack: llm-d
    role: model_service
    kinds:
      - apps/v1 Deployment
"""

RETURN = r"""
removed:
  description: Kind, namespace and name of each deleted object.
  returned: always
  type: list
  elements: str
kept:
  description: CustomResourceDefinitions that were kept, and kinds that could not be looked through, with the reason.
  returned: always
  type: list
  elements: str
"""

import time
from contextlib import ExitStack

from ansible_collections.kubernetes.core.plugins.module_utils.args_common import AUTH_ARG_SPEC
from ansible_collections.kubernetes.core.plugins.module_utils.k8s.core import AnsibleK8SModule
from ansible_collections.llm_d.multi_engine.plugins.module_utils.cluster import Cluster, ClusterError, Forbidden
from ansible_collections.llm_d.multi_engine.plugins.module_utils.lease import KIND as LEASE
from ansible_collections.llm_d.multi_engine.plugins.module_utils.lease import RunLease
from ansible_collections.llm_d.multi_engine.plugins.module_utils.manifests import name_of
from ansible_collections.llm_d.multi_engine.plugins.module_utils.marks import (
    MANAGED_BY,
    MANAGED_BY_LABEL,
    ROLE_LABEL,
    STACK_LABEL,
    selector,
)

ARGUMENTS = {
    "kinds": {"type": "list", "elements": "str", "default": []},
    "namespace": {"type": "str"},
    "role": {"type": "str"},
    "stack": {"type": "str", "required": True},
    "definitions": {"type": "list", "elements": "str", "default": []},
    "wait_timeout": {"type": "int", "default": 120},
}
DEFINITION = ("apiextensions.k8s.io/v1", "CustomResourceDefinition")
ADMISSION = "admissionregistration.k8s.io/v1"
#: What manifests of definitions bring beside them.
POLICIES = ("ValidatingAdmissionPolicyBinding", "ValidatingAdmissionPolicy")


def main() -> None:
    module = AnsibleK8SModule(argument_spec={**AUTH_ARG_SPEC, **ARGUMENTS}, supports_check_mode=True)
    try:
        module.exit_json(**run(module))
    except ClusterError as error:
        module.fail_json(msg=str(error))


def run(module) -> dict:
    """Delete what the parameters ask for and return the module's result."""
    params = module.params
    odd = [kind for kind in params["kinds"] if len(kind.split()) != 2]
    if odd:
        raise ClusterError(f"kinds: {odd[0]!r} is not of the form 'API_VERSION KIND', such as 'apps/v1 Deployment'.")
    cluster = Cluster(module)
    doomed, unseen = ours(cluster, params)
    with ExitStack() as stack:
        guards = [] if module.check_mode else [stack.enter_context(guard(cluster, item)) for item in leases(doomed)]
        if guards:
            # Another run may have been there in the meantime.
            doomed, unseen = ours(cluster, params)
        for reason in unseen:
            module.warn(reason)
        definitions, kept = unused_definitions(cluster, params["definitions"], doomed)
        doomed += definitions
        for batch in ([item for item in doomed if item["kind"] != LEASE], leases(doomed)):
            for item in batch:
                for one in guards:
                    one.check()
                cluster.delete(item, module.check_mode)
            if not module.check_mode:
                wait_until_gone(cluster, batch, params["wait_timeout"])
    names = [name_of(item) for item in doomed]
    diffs = [{"before_header": name, "after_header": name, "before": f"{name}\n", "after": ""} for name in names]
    return {"changed": bool(doomed), "removed": names, "kept": unseen + kept, "diff": diffs}


def ours(cluster: Cluster, params: dict) -> tuple[list[dict], list[str]]:
    """Return the live objects that the parameters speak of, in the order of their kinds, and why some may stay."""
    found, unseen = [], []
    where = f"in namespace {params['namespace']}" if params["namespace"] else "in all namespaces"
    for text in params["kinds"]:
        api_version, kind = text.split()
        try:
            found += cluster.list(api_version, kind, params["namespace"], selector(params["stack"], params["role"]))
        except Forbidden:
            # Nobody gains if the rest stays, too.
            unseen.append(f"{kind}: no permission to list it {where}; objects of this kind stay")
    return [item for item in found if not item["metadata"].get("deletionTimestamp")], unseen


def leases(objects: list[dict]) -> list[dict]:
    """Return those that keep other runs off the rest meanwhile, and go last."""
    return [item for item in objects if item["kind"] == LEASE]


def guard(cluster: Cluster, lease: dict) -> RunLease:
    """Return a hold on a set of objects by the Lease that was made with them."""
    metadata = lease["metadata"]
    labels = metadata["labels"]
    return RunLease(cluster, labels[STACK_LABEL], labels.get(ROLE_LABEL, ""), metadata["namespace"], metadata["name"])


def unused_definitions(cluster: Cluster, groups: list[str], doomed: list[dict]) -> tuple[list[dict], list[str]]:
    """Return definitions of ``groups`` that we made, with their policies, and why others are kept.

    None is returned while an object of any of them is left: who uses one watches the others too.

    :param doomed: objects that are about to go and use nothing any more.
    """
    unused, kept, used = [], [], False
    going = {item["metadata"]["uid"] for item in doomed}
    for definition in cluster.list(*DEFINITION) if groups else []:
        spec, name = definition["spec"], definition["metadata"]["name"]
        if spec["group"] not in groups:
            continue
        served = next((version["name"] for version in spec["versions"] if version["served"]), None)
        if served is None:
            kept.append(f"{name}: none of its versions is served, so that nobody can tell what uses it")
            used = True
            continue
        found = cluster.list(f"{spec['group']}/{served}", spec["names"]["kind"], known=True)
        left = [item for item in found if item["metadata"]["uid"] not in going]
        used = used or bool(left)
        if left:
            kept.append(f"{name}: in use by {', '.join(name_of(item) for item in left[:5])}")
        elif (definition["metadata"].get("labels") or {}).get(MANAGED_BY_LABEL) != MANAGED_BY:
            kept.append(f"{name}: not made by this collection")
        else:
            unused.append(definition)
    if used:
        kept += [f"{item['metadata']['name']}: goes with those in use" for item in unused]
        return [], kept
    return unused + ([] if kept else policies(cluster, groups)), kept


def policies(cluster: Cluster, groups: list[str]) -> list[dict]:
    """Return the policies that came with the definitions of ``groups`` and are named after one."""
    ours, ends = f"{MANAGED_BY_LABEL}={MANAGED_BY}", tuple(f".{group}" for group in groups)
    found = [item for kind in POLICIES for item in cluster.list(ADMISSION, kind, None, ours)]
    return [item for item in found if item["metadata"]["name"].endswith(ends)]


def wait_until_gone(cluster: Cluster, objects: list[dict], timeout: int) -> None:
    """Wait until none of ``objects`` exists any more."""
    deadline = time.monotonic() + timeout
    left = objects
    while left:
        left = [item for item in left if still_there(cluster, item)]
        if left and time.monotonic() > deadline:
            names = "; ".join(f"{name_of(item)} {finalizers(item)}" for item in left)
            raise ClusterError(f"Still there after {timeout} s: {names}.")
        if left:
            time.sleep(0.5)


def still_there(cluster: Cluster, item: dict) -> bool:
    """Whether the very object exists (not a new one of the same name)."""
    metadata = item["metadata"]
    live = cluster.get(item["apiVersion"], item["kind"], metadata["name"], metadata.get("namespace"))
    return bool(live) and live["metadata"]["uid"] == metadata["uid"]


def finalizers(item: dict) -> str:
    """Return what may hold ``item`` back."""
    found = item["metadata"].get("finalizers")
    return f"(waits for finalizers {', '.join(found)})" if found else ""


if __name__ == "__main__":
    main()
