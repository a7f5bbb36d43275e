#!/usr/bin/python
# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
module: stack_status
short_description: Show how a stack is, and how it differs from what is wanted
version_added: "0.1.0"
author: the llm_d.multi_engine authors (@llm-d)
description:
  - Reads per model which engine and version run, whether each hop of a request is ready, how many
    pods answer and how many accelerators they hold, by one request a kind.
  - Shows it as a table, unless the callback that writes to the terminal writes JSON, and returns it.
  - Writes nothing to the cluster and never fails because of what it sees; RV(status.failing) says
    what is amiss.
options:
  stack:
    description: Name of the stack.
    type: str
    required: true
  namespace:
    description: Namespace of its models.
    type: str
    required: true
  release:
    description: Name of its release, to be shown.
    type: str
    default: ""
  gateway_name:
    description: Name of the Gateway.
    type: str
    required: true
  gateway_namespace:
    description: Namespace of the Gateway.
    type: str
    required: true
  models:
    description: Models that are wanted, as P(llm_d.multi_engine.wanted_models#filter) returns them.
    type: list
    elements: dict
    required: true
    suboptions:
      name: {description: Name in the stack., type: str, required: true}
      engine: {description: Engine., type: str, required: true}
      version: {description: Version of the engine., type: str, required: true}
      image: {description: Image of the engine., type: str, required: true}
      replicas: {description: Number of pods that answer., type: int, required: true}
      autoscaled:
        description: Whether somebody else writes the replicas; O(models[].replicas) are the fewest then.
        type: bool
        default: false
      devices: {description: Accelerators of all pods together., type: dict, default: {}}
      workloads:
        description: Workloads of its model servers.
        type: list
        elements: dict
        required: true
        suboptions:
          kind: {description: Deployment or LeaderWorkerSet., type: str, required: true}
          name: {description: Name of it., type: str, required: true}
      body_router:
        description: Deployment of the router before the Gateway that reads bodies. Empty where there is none.
        type: str
        default: ""
      picker: {description: Deployment of its endpoint picker., type: str, required: true}
      pool: {description: InferencePool., type: str, required: true}
      route: {description: HTTPRoute., type: str, required: true}
  container:
    description: Container of a pod that runs the engine.
    type: str
    default: model-server
  devices:
    description: Kubernetes resources that count as accelerators.
    type: list
    elements: str
    default: []
  comparisons:
    description:
      - Name of each role to the result of M(llm_d.multi_engine.apply) in check mode with its objects.
      - An empty result says nothing about its role.
    type: dict
    default: {}
  path:
    description:
      - File on the controller for RV(status) as JSON, replaced at once.
      - Not written in check mode. Empty writes none.
    type: path
extends_documentation_fragment:
  - kubernetes.core.k8s_auth_options
requirements:
  - python >= 3.10
  - kubernetes >= 24.2.0
notes:
  - Supports check mode; changes nothing.
"""

EXAMPLES = r"""
- name: Look at a stack
  llm_d.multi_engine.stack_status:
    stack: llm-d
    namespace: llm-d
    gateway_name: llm-d-inference-gateway
    gateway_namespace: llm-d
    models: "{{ inference_engine_resolved | llm_d.multi_engine.wanted_models }}"
    devices: [nvidia.com/gpu]
    path: /var/lib/monitoring/llm-d.json
  register: result

- name: Fail where something is amiss
  ansible.builtin.fail:
    msg: "{{ result.status.failing }}"
  when: result.status.failing | length > 0
"""

RETURN = r"""
status:
  description: What was seen, as role C(stack_status) documents it.
  returned: success
  type: dict
  contains:
    schema: {description: Version of this structure., type: int}
    time: {description: When it was seen., type: str}
    server: {description: Address of the API server., type: str}
    stack: {description: Name of the stack., type: str}
    namespace: {description: Namespace of its models., type: str}
    release: {description: Name of its release., type: str}
    ok: {description: Whether nothing is amiss., type: bool}
    failing: {description: 'What is amiss, of V(unready), V(drift) and V(version).', type: list, elements: str}
    gateway: {description: 'The first hop, and its addresses.', type: dict}
    models: {description: 'Models of the inventory, each with what is wanted and what runs.', type: list, elements: dict}
    others: {description: Workloads of the stack that are not in the inventory., type: list, elements: dict}
    drift: {description: Objects that are not as they are wanted., type: list, elements: dict}
    unknown: {description: 'Roles that could not be compared, and why.', type: list, elements: dict}
calls:
  description: Requests that were sent to the API server, by verb.
  returned: success
  type: dict
"""

from ansible_collections.kubernetes.core.plugins.module_utils.args_common import AUTH_ARG_SPEC
from ansible_collections.kubernetes.core.plugins.module_utils.k8s.core import AnsibleK8SModule
from ansible_collections.llm_d.multi_engine.plugins.module_utils import history
from ansible_collections.llm_d.multi_engine.plugins.module_utils.cluster import (
    Cluster,
    ClusterError,
    Forbidden,
    UnknownKind,
)
from ansible_collections.llm_d.multi_engine.plugins.module_utils.explain import explain, selector_of
from ansible_collections.llm_d.multi_engine.plugins.module_utils.manifests import name_of
from ansible_collections.llm_d.multi_engine.plugins.module_utils.marks import (
    ADOPTED,
    ENGINE_LABELS,
    MODEL_LABEL,
    MODEL_SERVERS,
    STACK_LABEL,
    labels_of,
)
from ansible_collections.llm_d.multi_engine.plugins.module_utils.pods import is_ready
from ansible_collections.llm_d.multi_engine.plugins.module_utils.readiness import State, judge

ARGUMENTS = {
    "stack": {"type": "str", "required": True},
    "namespace": {"type": "str", "required": True},
    "release": {"type": "str", "default": ""},
    "gateway_name": {"type": "str", "required": True},
    "gateway_namespace": {"type": "str", "required": True},
    "models": {
        "type": "list",
        "elements": "dict",
        "required": True,
        "options": {
            "name": {"type": "str", "required": True},
            "engine": {"type": "str", "required": True},
            "version": {"type": "str", "required": True},
            "image": {"type": "str", "required": True},
            "replicas": {"type": "int", "required": True},
            "autoscaled": {"type": "bool", "default": False},
            "devices": {"type": "dict", "default": {}},
            "workloads": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {"kind": {"type": "str", "required": True}, "name": {"type": "str", "required": True}},
            },
            "body_router": {"type": "str", "default": ""},
            "picker": {"type": "str", "required": True},
            "pool": {"type": "str", "required": True},
            "route": {"type": "str", "required": True},
        },
    },
    "container": {"type": "str", "default": "model-server"},
    "devices": {"type": "list", "elements": "str", "default": []},
    # These two are for the action plugin, which adds what needs no cluster.
    "comparisons": {"type": "dict", "default": {}},
    "path": {"type": "path"},
}
GATEWAY_API = "gateway.networking.k8s.io/v1"
#: Kind to the API version that it is read in.
KINDS = {
    **MODEL_SERVERS,
    "Pod": "v1",
    "InferencePool": "inference.networking.k8s.io/v1",
    "HTTPRoute": GATEWAY_API,
}
#: What is known of a model that has never served.
NOTHING: dict = {"revisions": [], "failure": None}
#: Label by which Gateway API finds what an implementation made for a Gateway.
GATEWAY_LABEL = "gateway.networking.k8s.io/gateway-name"


def main() -> None:
    module = AnsibleK8SModule(argument_spec={**AUTH_ARG_SPEC, **ARGUMENTS}, supports_check_mode=True)
    try:
        cluster = Cluster(module)
        live = look(cluster, module.params)
        module.exit_json(changed=False, live=live, calls=dict(cluster.calls))
    except ClusterError as error:
        module.fail_json(msg=str(error))


class Seen:
    """Live objects of one namespace.

    :ivar forbidden: kinds that the credentials may not read, with the API server's words.
    """

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.forbidden: dict[str, str] = {}
        self._objects: dict[str, list[dict]] = {}

    def read(self, cluster: Cluster, kind: str, labels: str) -> None:
        """Read all objects of ``kind`` with ``labels``."""
        try:
            self._objects[kind] = cluster.list(KINDS[kind], kind, self.namespace, labels)
        except Forbidden as error:
            self.forbidden[kind] = str(error)

    def all(self, kind: str) -> list[dict]:
        """Return the objects of ``kind``."""
        return self._objects.get(kind, [])

    def one(self, kind: str, name: str) -> dict | None:
        """Return the object of that name."""
        return next((item for item in self.all(kind) if item["metadata"]["name"] == name), None)

    def pods(self, labels: dict) -> list[dict]:
        """Return the pods that have ``labels``."""
        return [pod for pod in self.all("Pod") if labels.items() <= (pod["metadata"].get("labels") or {}).items()]


def look(cluster: Cluster, params: dict) -> dict:
    """Return what the stack is, and its gateway, wanted models and other workloads as they are."""
    seen = Seen(params["namespace"])
    for kind in KINDS:
        seen.read(cluster, kind, f"{STACK_LABEL}={params['stack']}")
    known = past(cluster, params["stack"], params["namespace"])
    wanted = {(entry["kind"], entry["name"]) for model in params["models"] for entry in model["workloads"]}
    return {
        "server": cluster.server,
        **{name: params[name] for name in ("stack", "namespace", "release")},
        "gateway": gateway(cluster, params["gateway_name"], params["gateway_namespace"]),
        "models": [
            {
                **model_state(seen, model, params),
                "history": None if known is None else known.get(model["name"], NOTHING),
            }
            for model in params["models"]
        ],
        "others": [
            other(seen, item, params)
            for kind in MODEL_SERVERS
            for item in seen.all(kind)
            if MODEL_LABEL in labels_of(item) and (kind, item["metadata"]["name"]) not in wanted
        ],
    }


def past(cluster: Cluster, stack: str, namespace: str) -> dict[str, dict] | None:
    """Return by model what served it and why its last change failed; None where the credentials may not look."""
    try:
        known = history.read(cluster, stack, namespace)
    except Forbidden:
        return None
    return {name: {"revisions": list(map(told, one.revisions)), "failure": one.failure} for name, one in known.items()}


def told(revision: dict) -> dict:
    """Return what is of interest of a revision."""
    names = ("revision", "since", "engine", "version", "image", "release")
    return {**{name: revision.get(name, "") for name in names}, "back_from": revision.get("back_from")}


def hop(name: str, item: str, state: State) -> dict:
    """Return one hop on the way of a request."""
    return {"hop": name, "object": item, "ready": state.ready, "reason": state.reason}


def gateway(cluster: Cluster, name: str, namespace: str) -> dict:
    """Return the first hop: the Gateway and what its implementation made for it.

    It may be somebody else's, so it is asked for by its name.
    """
    pods = Seen(namespace)
    try:
        live = cluster.get(GATEWAY_API, "Gateway", name, namespace)
        state = judge(live)
    except UnknownKind:
        live, state = None, judge(None)
    except Forbidden as error:
        live, state = None, State(False, str(error))
    if state.ready:
        pods.read(cluster, "Deployment", f"{GATEWAY_LABEL}={name}")
        state = next((bad for item in pods.all("Deployment") if not (bad := serving(item, [])).ready), state)
    addresses = [address["value"] for address in (live or {}).get("status", {}).get("addresses") or []]
    return {**hop("gateway", f"Gateway {namespace}/{name}", state), "addresses": addresses}


def model_state(seen: Seen, model: dict, params: dict) -> dict:
    """Return what runs of a wanted model, and the hops behind the gateway."""
    pods = seen.pods({MODEL_LABEL: model["name"]})
    pool = seen.one("InferencePool", model["pool"])
    behind = [pod for pod in seen.pods(selector(pool)) if not going(pod)] if pool else []
    ready = sum(map(is_ready, behind))
    wanted = scaled_to(seen, model) if model["autoscaled"] else model["replicas"]
    hops = [
        *([named(seen, "body-router", "Deployment", model["body_router"])] if model["body_router"] else []),
        named(seen, "route", "HTTPRoute", model["route"]),
        named(seen, "pool", "InferencePool", model["pool"]),
        named(seen, "picker", "Deployment", model["picker"]),
        *(named(seen, "server", entry["kind"], entry["name"], wanted) for entry in model["workloads"]),
        hop(
            "endpoints",
            f"InferencePool {seen.namespace}/{model['pool']}",
            endpoints(seen, wanted, pool, len(behind), ready),
        ),
    ]
    return {
        "name": model["name"],
        "wanted": {name: model[name] for name in ("engine", "version", "image", "replicas", "autoscaled", "devices")},
        "hops": hops,
        "endpoints": {"ready": ready, "wanted": wanted},
        "running": running(pods, params["container"]),
        "devices": held(pods, params["devices"]),
    }


def other(seen: Seen, item: dict, params: dict) -> dict:
    """Return what a workload is of which the inventory says nothing."""
    pods = seen.pods(selector_of(item))
    return {
        "object": name_of(item),
        "model": labels_of(item)[MODEL_LABEL],
        "adopted": ADOPTED in labels_of(item),
        "running": running(pods, params["container"]),
        "devices": held(pods, params["devices"]),
    }


def scaled_to(seen: Seen, model: dict) -> int:
    """Return how many replicas an autoscaler wants of a model, at least as many as it always has to leave."""
    live = [seen.one(entry["kind"], entry["name"]) for entry in model["workloads"]]
    return max(model["replicas"], sum(item["spec"].get("replicas", 1) for item in live if item))


def named(seen: Seen, name: str, kind: str, item: str, wanted: int = 1) -> dict:
    """Return the hop that is the object called ``item``.

    :param wanted: how many replicas it is to have; none at all is something to be told of otherwise.
    """
    live = seen.one(kind, item)
    if kind in seen.forbidden:
        state = State(False, seen.forbidden[kind])
    elif live and kind in MODEL_SERVERS:
        state = serving(live, seen.pods(selector_of(live))) if wanted else judge(live)
    else:
        state = judge(live)
    return hop(name, f"{kind} {seen.namespace}/{item}", state)


def serving(workload: dict, pods: list[dict]) -> State:
    """Return whether pods of ``workload`` answer, with the reasons of those that do not."""
    if workload["spec"].get("replicas") == 0:
        # As it was asked for, and nothing answers.
        return State(False, "it is scaled to 0")
    state = judge(workload)
    if state.ready:
        return state
    # From what was read anyway: events and nodes would tell more, and cost a request each.
    why = explain(workload, [pod for pod in pods if not going(pod)], [], None)
    return State(False, "\n".join([state.reason, *why.lines]))


def endpoints(seen: Seen, wanted: int, pool: dict | None, behind: int, ready: int) -> State:
    """Return whether as many pods answer behind ``pool`` as are ``wanted``."""
    for kind in ("InferencePool", "Pod"):
        if kind in seen.forbidden:
            return State(False, seen.forbidden[kind])
    if not pool:
        return judge(pool)
    if ready >= wanted:
        return State(True)
    if not behind:
        return State(False, "no pod has the labels that it selects")
    return State(False, f"{ready} of {wanted} pods are ready")


def selector(pool: dict) -> dict:
    """Return the labels of the pods behind ``pool``."""
    return pool["spec"]["selector"]["matchLabels"]


def running(pods: list[dict], container: str) -> list[dict]:
    """Return which engines and images run, how often, and in how many ready pods."""
    counts: dict[tuple, dict] = {}
    for pod in pods:
        if going(pod) or pod.get("status", {}).get("phase") != "Running":
            continue
        key = labels_of(pod).get(ENGINE_LABELS[0], ""), image_of(pod, container)
        entry = counts.setdefault(key, {"engine": key[0], "image": key[1], "pods": 0, "ready": 0})
        entry["pods"] += 1
        entry["ready"] += is_ready(pod)
    return [counts[key] for key in sorted(counts)]


def image_of(pod: dict, container: str) -> str:
    """Return the image of a container as it was asked for."""
    return next((entry["image"] for entry in pod["spec"]["containers"] if entry["name"] == container), "")


def held(pods: list[dict], devices: list[str]) -> dict:
    """Return how many of ``devices`` are taken by ``pods``, those that go away included."""
    counts: dict[str, int] = {}
    for pod in pods:
        # One without a node waits for its devices; one that ended has given them back.
        if not pod["spec"].get("nodeName") or pod.get("status", {}).get("phase") in ("Succeeded", "Failed"):
            continue
        for container in pod["spec"]["containers"]:
            limits = container.get("resources", {}).get("limits") or {}
            for name in devices:
                if name in limits:
                    counts[name] = counts.get(name, 0) + int(limits[name])
    return counts


def going(pod: dict) -> bool:
    """Whether a pod is being deleted."""
    return bool(pod["metadata"].get("deletionTimestamp"))


if __name__ == "__main__":
    main()
