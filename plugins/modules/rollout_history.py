#!/usr/bin/python
# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
module: rollout_history
short_description: Keep what serves each model, to be able to go back to it
version_added: "0.1.0"
author: the llm_d.multi_engine authors (@llm-d)
description:
  - Keeps the last revisions that served a model, as the objects that were applied, in a ConfigMap
    C(<stack>-rollout-<model>), and the reason of its last change that failed.
  - At most five revisions and 700 kB a model are kept; the oldest ones go first. No Secrets are among them.
  - Where nothing has changed it sends one small request and writes nothing.
options:
  stack:
    description: Stack that the models belong to.
    type: str
    required: true
  namespace:
    description: Namespace of its objects.
    type: str
    required: true
  resolved:
    description:
      - RV(llm_d.multi_engine.resolve#module:text) of the models that have just been applied. Those that serve as they
        are wanted are noted down.
    type: str
  gaie_options:
    description: Options of role C(gaie), without their prefix.
    type: dict
    default: {}
  model_service_options:
    description: Options of role C(model_service), without their prefix.
    type: dict
    default: {}
  returning:
    description: Models that a rollback is about to lead to a revision that is known, so that it goes on when it is interrupted.
    type: list
    elements: dict
    default: []
    suboptions:
      model: {description: Name of the model., type: str, required: true}
      revision: {description: The revision., type: str, required: true}
  returned:
    description: Models that a rollback has led to a revision that is known.
    type: list
    elements: dict
    default: []
    suboptions:
      model: {description: Name of the model., type: str, required: true}
      revision: {description: The revision., type: str, required: true}
  failure:
    description: A change that failed.
    type: dict
    suboptions:
      model: {description: Name of the model., type: str, required: true}
      revision: {description: Revision that was wanted., type: str, required: true}
      wanted: {description: What was wanted in words., type: str, required: true}
      reason: {description: Why it failed. What looks like a credential is hidden., type: str, required: true}
  objects:
    description: Also return what serves, and the objects of each revision.
    type: bool
    default: false
  wanted:
    description: The models of O(resolved), with C(revision) and C(asked). The action plugin sets this.
    type: list
    elements: dict
    default: []
    suboptions:
      model: {description: Name of the model., type: str, required: true}
      revision: {description: Its revision., type: str, required: true}
      asked: {description: Digest of its objects., type: str, required: true}
  entries:
    description: What to note down. The action plugin sets this.
    type: list
    elements: dict
    default: []
    suboptions:
      model: {description: Name of the model., type: str, required: true}
      entry: {description: What to say of it., type: dict, required: true}
      objects: {description: 'Its objects, packed.', type: str, required: true}
extends_documentation_fragment:
  - kubernetes.core.k8s_auth_options
requirements:
  - python >= 3.10
  - kubernetes >= 24.2.0
notes:
  - Supports check mode.
"""

EXAMPLES = r"""
- name: Remember what serves
  llm_d.multi_engine.rollout_history:
    stack: llm-d
    namespace: llm-d
    resolved: "{{ inference_engine_resolved.text | string }}"
    gaie_options: "{{ gaie_options }}"
    model_service_options: "{{ model_service_options }}"

- name: Look what served before
  llm_d.multi_engine.rollout_history:
    stack: llm-d
    namespace: llm-d
  register: result
"""

RETURN = r"""
history:
  description: >-
    By model its C(revisions), the last one last, each with C(revision), C(since), C(engine), C(version), C(image) and
    C(release), and C(back_from) where a rollback led to it; C(failure), with C(at), C(revision), C(wanted) and
    C(reason), or null; and C(returning), the revision that a rollback leads to which is under way or was interrupted.
  returned: success
  type: dict
serving:
  description: By model what serves it; null where the credentials may not look.
  returned: when O(objects) is true
  type: dict
objects:
  description: By model and revision its objects, packed.
  returned: when O(objects) is true
  type: dict
"""

import time

from ansible_collections.kubernetes.core.plugins.module_utils.args_common import AUTH_ARG_SPEC
from ansible_collections.kubernetes.core.plugins.module_utils.k8s.core import AnsibleK8SModule
from ansible_collections.llm_d.multi_engine.plugins.module_utils import history, serving
from ansible_collections.llm_d.multi_engine.plugins.module_utils.cluster import Cluster, ClusterError, Forbidden

_TEXT = {"type": "str", "required": True}
_REVISIONS = {"type": "list", "elements": "dict", "default": [], "options": {"model": _TEXT, "revision": _TEXT}}
ARGUMENTS = {
    "stack": _TEXT,
    "namespace": _TEXT,
    # These three are for the action plugin.
    "resolved": {"type": "str"},
    "gaie_options": {"type": "dict", "default": {}},
    "model_service_options": {"type": "dict", "default": {}},
    "returning": _REVISIONS,
    "returned": _REVISIONS,
    "failure": {
        "type": "dict",
        "options": {"model": _TEXT, "revision": _TEXT, "wanted": _TEXT, "reason": _TEXT},
    },
    "objects": {"type": "bool", "default": False},
    "wanted": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {"model": _TEXT, "revision": _TEXT, "asked": _TEXT},
    },
    "entries": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {"model": _TEXT, "entry": {"type": "dict", "required": True}, "objects": _TEXT},
    },
}


def main() -> None:
    module = AnsibleK8SModule(argument_spec={**AUTH_ARG_SPEC, **ARGUMENTS}, supports_check_mode=True)
    try:
        module.exit_json(**run(module, Cluster(module)))
    except ClusterError as error:
        module.fail_json(msg=str(error))


def run(module, cluster: Cluster) -> dict:
    """Write down what the parameters say, and return what is known."""
    params = module.params
    changed = False if module.check_mode else write(module, cluster)
    try:
        known = history.read(cluster, params["stack"], params["namespace"])
    except Forbidden as error:
        if params["objects"]:
            raise
        module.warn(f"What serves is not noted down, and a rollback will not know it: {error}")
        return {"changed": changed, "history": {}, "due": []}
    result: dict = {
        "changed": changed,
        "history": {
            name: {"revisions": one.revisions, "failure": one.failure, "returning": one.returning}
            for name, one in known.items()
        },
    }
    if params["wanted"]:
        result["due"] = due(cluster, params, known)
    if params["objects"]:
        result["serving"] = serving.read(cluster, params["stack"], params["namespace"])
        result["objects"] = {name: objects(cluster, params, name) for name in known}
    return result


def write(module, cluster: Cluster) -> bool:
    """Write down what there is to; return whether that was news."""
    params, now = module.params, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    changes = []
    for one in params["entries"]:
        entry, packed = {**one["entry"], "since": now}, one["objects"]
        changes.append((one["model"], lambda record, entry=entry, packed=packed: history.served(record, entry, packed)))
    for one in params["returning"]:
        revision = one["revision"]
        changes.append((one["model"], lambda record, revision=revision: history.goes_back(record, revision)))
    for one in params["returned"]:
        revision = one["revision"]
        changes.append((one["model"], lambda record, revision=revision: history.went_back(record, revision, now)))
    if params["failure"]:
        failure = params["failure"]
        facts = (failure["revision"], failure["wanted"], failure["reason"])
        changes.append((failure["model"], lambda record: history.failed(record, now, *facts)))
    news = False
    for model, change in changes:
        try:
            news = history.keep(cluster, params["stack"], params["namespace"], model, change) or news
        except ClusterError as error:
            # What it is about has been done.
            module.warn(str(error))
    return news


def due(cluster: Cluster, params: dict, known: dict) -> list[str]:
    """Return the models that serve as they are wanted, and are not noted down so."""
    records = {one["model"]: known.get(one["model"], history.Record()) for one in params["wanted"]}
    # A rollback that was given up ends with what serves instead.
    late = [
        one
        for one in params["wanted"]
        if records[one["model"]].asked != one["asked"] or records[one["model"]].returning
    ]
    if not late:
        return []
    live = serving.read(cluster, params["stack"], params["namespace"]) or {}
    return [one["model"] for one in late if serves(live.get(one["model"]), one["revision"])]


def serves(live: dict | None, revision: str) -> bool:
    """Whether all that is there of a model is ``revision``, and answers."""
    workloads = (live or {}).get("workloads") or []
    return bool(workloads) and all(item["revision"] == revision and item["ready"] for item in workloads)


def objects(cluster: Cluster, params: dict, model: str) -> dict:
    """Return the packed objects of each revision of ``model``."""
    name = history.name_for(params["stack"], model)
    return dict(history.record_of(cluster.get("v1", "ConfigMap", name, params["namespace"])).objects)


if __name__ == "__main__":
    main()
