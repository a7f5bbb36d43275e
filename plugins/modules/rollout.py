#!/usr/bin/python
# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
module: rollout
short_description: Change what serves a model while requests come in
version_added: "0.1.0"
author: the llm_d.multi_engine authors (@llm-d)
description:
  - Changes engine, version, image or arguments of a model that serves, by steps that the action plugin of this name
    plans from what is there. The new one runs beside the old one, gives a completion, and gets the requests; the old
    one finishes its own and goes.
  - When the new one is never ready, does not answer as it should or does not stay well, the old one serves again, the new one
    goes, and the error says why.
  - Interrupted at any point, the next run goes on from what it finds. Only one run at a time changes a stack; a Lease
    sees to it.
  - In check mode it says what it would do and what that takes, and changes nothing.
options:
  stack:
    description: Stack that the model belongs to.
    type: str
    required: true
  namespace:
    description: Namespace of its objects.
    type: str
    required: true
  change:
    description: The change, one of what P(llm_d.multi_engine.rollouts#filter) returns.
    type: dict
    required: true
    suboptions:
      model: {description: Name of the model., type: str, required: true}
      plan: {description: What the action plugin plans from., type: dict, required: true}
      target: {description: 'Where the new one goes: engine, track and pool.', type: dict, required: true}
      servers: {description: 'Objects of role C(model_service) for it, or their JSON.', type: raw, required: true}
      routing: {description: 'Objects of role C(gaie) for it, or their JSON.', type: raw, required: true}
      testers:
        description: >-
          Objects of role C(gaie) that lead requests of testers to it alone, or their JSON; the route is the last. Nothing
          where nobody tests.
        type: raw
        default: ''
      question: {description: 'How to ask one of its pods: served_name, port and api_key.', type: dict, required: true}
      metrics:
        description: >-
          What tells of the requests of old, new and picker. Of one that is missing nothing is known, and a canary is
          judged without.
        type: dict
        default: {}
      drain:
        description: >-
          What tells when the requests of one that was taken over are finished: C(path) of metrics, C(busy), names of
          those that count requests, and C(seconds) after which that is not waited for any more.
        type: dict
        default: {}
  force_conflicts:
    description: Take over fields that another manager owns.
    type: bool
    default: false
  adopt:
    description: Take over objects that this collection did not make.
    type: bool
    default: false
  timeout:
    description: Longest wait until the new one is ready, in seconds.
    type: int
    default: 3600
  observe:
    description: Read what endpoint pickers have counted, for RV(timeline).
    type: bool
    default: false
  part:
    description: One step of the plan, and how far it is. The action plugin sets this; without it only the room is looked at.
    type: dict
    suboptions:
      step: {description: The step., type: dict, required: true}
      progress: {description: How far it is., type: dict, default: {}}
      slice: {description: Seconds after which to return., type: int, default: 10}
      holder: {description: Who holds the Lease of the run., type: str, required: true}
      last: {description: Whether to let go of the Lease., type: bool, default: false}
extends_documentation_fragment:
  - kubernetes.core.k8s_auth_options
requirements:
  - python >= 3.10
  - kubernetes >= 24.2.0
notes:
  - Supports check mode and diff mode.
"""

EXAMPLES = r"""
- name: Change what serves
  llm_d.multi_engine.rollout:
    stack: llm-d
    namespace: llm-d
    change: "{{ changes | selectattr('model', 'equalto', item) | first }}"
  loop: "{{ changes | map(attribute='model') }}"
  vars:
    changes: "{{ inference_engine_resolved | llm_d.multi_engine.rollouts(inference_engine_serving, gaie_options, model_service_options) }}"
"""

RETURN = r"""
strategy:
  description: How it is done.
  returned: always
  type: str
words:
  description: The plan for people, a line a step.
  returned: always
  type: list
  elements: str
serving:
  description: Where the model serves afterwards, C(engine), C(track) and C(pool).
  returned: success
  type: dict
room:
  description: What the cluster has for the new one.
  returned: always
  type: dict
timeline:
  description: >-
    What happened when, as M(llm_d.multi_engine.rollout_report) takes it. Per entry C(at) (seconds since the epoch),
    C(model), C(step) (its number), C(words), C(serve) (C(old), C(both) or C(new)) and C(ready) (pods that answer,
    C(old) and C(new)); with O(observe) also C(requests), C(failures) and C(latency_ms) since the entry before.
  returned: when it is not check mode
  type: list
  elements: dict
notes:
  description: What judgements said, and why it went back.
  returned: when it is not check mode
  type: list
  elements: str
objects:
  description: What became of each object that changed.
  returned: when it is not check mode
  type: list
  elements: dict
"""

import contextlib
import signal
import time
from dataclasses import asdict

from ansible_collections.kubernetes.core.plugins.module_utils.args_common import AUTH_ARG_SPEC
from ansible_collections.kubernetes.core.plugins.module_utils.k8s.core import AnsibleK8SModule
from ansible_collections.llm_d.multi_engine.plugins.module_utils import documents
from ansible_collections.llm_d.multi_engine.plugins.module_utils.applyset import set_name
from ansible_collections.llm_d.multi_engine.plugins.module_utils.cluster import Cluster, ClusterError, Unreachable
from ansible_collections.llm_d.multi_engine.plugins.module_utils.lease import RunLease
from ansible_collections.llm_d.multi_engine.plugins.module_utils.proving import Progress, Worse
from ansible_collections.llm_d.multi_engine.plugins.module_utils.rolling import Rolling
from ansible_collections.llm_d.multi_engine.plugins.module_utils.waiting import Pending

ARGUMENTS = {
    "stack": {"type": "str", "required": True},
    "namespace": {"type": "str", "required": True},
    "change": {
        "type": "dict",
        "required": True,
        "options": {
            "model": {"type": "str", "required": True},
            "plan": {"type": "dict", "required": True},
            "target": {"type": "dict", "required": True},
            "servers": {"type": "raw", "required": True},
            "routing": {"type": "raw", "required": True},
            "testers": {"type": "raw", "default": ""},
            "question": {"type": "dict", "required": True},
            "metrics": {"type": "dict", "default": {}},
            "drain": {"type": "dict", "default": {}},
        },
    },
    "force_conflicts": {"type": "bool", "default": False},
    "adopt": {"type": "bool", "default": False},
    "timeout": {"type": "int", "default": 3600},
    "observe": {"type": "bool", "default": False},
    "part": {
        "type": "dict",
        "options": {
            "step": {"type": "dict", "required": True},
            "progress": {"type": "dict", "default": {}},
            "slice": {"type": "int", "default": 10},
            "holder": {"type": "str", "required": True},
            "last": {"type": "bool", "default": False},
        },
    },
}
ROLE = "rollout"
#: Seconds after which a run counts as dead: longer than it takes to start the next module.
LEASE_SECONDS = 30
#: Seconds between two tries to reach an API server that is away.
PAUSE = 2


def main() -> None:
    # Whoever ends the play ends this too, and what it holds has to be let go.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    module = AnsibleK8SModule(argument_spec={**AUTH_ARG_SPEC, **ARGUMENTS}, supports_check_mode=True)
    result: dict = {"changed": False}
    try:
        cluster = reached(module, result)
        if cluster:
            run(module, cluster, result)
    except Worse as error:
        module.fail_json(msg=str(error), worse=True, **result)
    except ClusterError as error:
        module.fail_json(msg=str(error), worse=False, **result)
    module.exit_json(**result)


def reached(module, result: dict) -> Cluster | None:
    """Return the cluster; None when it is away in the midst of a step, and may come back."""
    part = module.params["part"]
    deadline = time.monotonic() + (part["slice"] if part else 0)
    while True:
        try:
            return Cluster(module)
        except Unreachable as error:
            if not part:
                raise
            if time.monotonic() >= deadline:
                progress = Progress(**part["progress"])
                progress.waited += part["slice"]
                if progress.waited >= module.params["timeout"]:
                    raise
                progress.pending = [Pending("API server", str(error))]
                result.update(progress=asdict(progress), ready={}, objects=[], diff=[])
                return None
            time.sleep(PAUSE)


def run(module, cluster: Cluster, result: dict) -> None:
    """Look at the room, or take a part of a step.

    :param result: the module's result, filled in as things happen, so that a failure has it too.
    """
    params, change, part = module.params, module.params["change"], module.params["part"]
    plan = change["plan"]
    own = {
        **{name: params[name] for name in ("stack", "namespace", "adopt", "force_conflicts", "timeout")},
        **{name: plan[name] for name in ("old", "new", "leftovers", "settings")},
        **{name: change[name] for name in ("model", "question")},
        **{name: change.get(name) or {} for name in ("metrics", "drain")},
        "show": module._diff,
    }
    given = (change.get(name) for name in ("servers", "routing", "testers"))
    servers, routing, testers = (documents.objects_of([objects] if objects else []) for objects in given)
    rolling = Rolling(cluster, own, servers, routing, testers)
    if not part:
        result["room"] = rolling.room()
        return
    progress = Progress(**{**part["progress"], "pending": []})
    lease = RunLease(
        cluster,
        params["stack"],
        ROLE,
        params["namespace"],
        set_name(params["stack"], ROLE),
        part["holder"],
        LEASE_SECONDS,
    )
    try:
        with lease:
            if lease.waited:
                module.warn(f"Waited for it to end or to expire: {lease.waited}")
            # Unless there is more to come, nobody has to wait for it.
            lease.last = True
            try:
                rolling.take(part["step"], progress, part["slice"])
                result.update(seen(rolling, params["observe"]))
                lease.last = part["last"] and progress.done
            except Worse:
                lease.last = part["last"]
                # Why it is worse matters more than what is there now.
                with contextlib.suppress(ClusterError):
                    result.update(seen(rolling, params["observe"]))
                raise
    finally:
        for text in rolling.warnings:
            module.warn(text)
        result.update(
            changed=bool(rolling.results), objects=rolling.results, diff=rolling.diffs, progress=asdict(progress)
        )


def seen(rolling: Rolling, observe: bool) -> dict:
    """Return how many pods answer, and what pickers have counted where that is asked for."""
    found: dict = {"ready": rolling.ready()}
    if observe:
        found["pickers"] = rolling.pickers()
    return found


if __name__ == "__main__":
    main()
