#!/usr/bin/python
# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
module: cluster_facts
short_description: What a cluster offers to an inference stack
version_added: "0.1.0"
author: the llm_d.multi_engine authors (@llm-d)
description:
  - Reads in one call what decides beforehand whether a stack can work, versions, definitions,
    nodes, Istio and permissions. Writes nothing.
  - Given the O(stack), tells why the cluster cannot run it.
  - What the credentials may not see is returned as null.
options:
  namespace:
    description: Namespace of the stack.
    type: str
    required: true
  serving_of:
    description:
      - Name of a stack, to be told what serves its models. Default is the one of O(stack).
    type: str
  permissions:
    description: Actions that the play will need.
    type: list
    elements: dict
    default: []
    suboptions:
      verbs: {description: Verbs., type: list, elements: str, required: true}
      group: {description: API group; empty for the core one., type: str, default: ""}
      resource: {description: Resource in the plural., type: str, required: true}
      namespace: {description: Namespace; empty for the whole cluster., type: str, default: ""}
  releases:
    description: Names of Helm releases to tell the deployed revisions of.
    type: list
    elements: str
    default: [istio-base, istiod]
  marks:
    description: ConfigMaps by which this collection tells what it installed, each as C(NAMESPACE/NAME).
    type: list
    elements: str
    default: []
  stack:
    description:
      - RV(llm_d.multi_engine.resolve#module:text), the stack that the cluster is to run.
      - Asks for the permissions that its play will need.
    type: str
  overrides:
    description: Names of rules to wave through.
    type: list
    elements: str
    default: []
  metrics:
    description: Also look which metrics the cluster's APIs serve to autoscalers.
    type: bool
    default: false
extends_documentation_fragment:
  - kubernetes.core.k8s_auth_options
requirements:
  - python >= 3.10
  - kubernetes >= 24.2.0
notes:
  - Supports check mode; changes nothing.
"""

EXAMPLES = r"""
- name: Look at the cluster
  llm_d.multi_engine.cluster_facts:
    namespace: llm-d
  register: cluster
"""

RETURN = r"""
findings:
  description: Why the cluster cannot run O(stack).
  returned: when there is a stack
  type: list
  elements: str
changes:
  description: What another release than the installed one changes, a line for each that is installed.
  returned: when there is a stack
  type: list
  elements: str
cluster:
  description: The facts.
  returned: always
  type: dict
  contains:
    server: {description: Address of the API server., type: str}
    version: {description: Version of Kubernetes., type: str}
    namespace_exists: {description: Whether the namespace exists., type: bool}
    definitions:
      description: Names of CustomResourceDefinitions to their annotations and labels.
      type: dict
    nodes:
      description: >-
        Per node its name and labels, whether it takes pods, its allocatable resources, and the versions of its
        kubelet and of its container runtime (C(containerd://2.1.5)).
      type: list
      elements: dict
    istio:
      description: >-
        Per control plane its name, namespace, version, environment, labels, whether this
        collection manages it, for which stack first, and what it noted down when it installed it.
      type: list
      elements: dict
    pickers:
      description: >-
        Per endpoint picker of this collection in the namespace its name, stack and image, and the release that it was
        made for, null where it does not say.
      type: list
      elements: dict
    helm_revisions:
      description: Namespace and name of the Helm releases O(releases) to the revision that is deployed.
      type: dict
    marks:
      description: >-
        Those of O(marks) that exist, with the stack that made them and what it noted down. The stack of one that
        somebody else made is null.
      type: dict
    serving:
      description: >-
        By model its pool, engine and track (null while two serve), port, protocol and digest of the picker's
        configuration, and its workloads, each with what it runs and how many pods of it are ready; C(adopted), names
        of pools and routes, where something was taken over for it. Null without O(serving_of), or where the
        credentials may not look.
      type: dict
    metrics:
      description: >-
        API of metrics, such as C(external.metrics.k8s.io), to the names that it lists, null where it does not answer.
        Null without O(metrics).
      type: dict
    denied:
      description: Those of O(permissions) that the credentials lack, in words.
      type: list
      elements: str
"""

from ansible_collections.kubernetes.core.plugins.module_utils.args_common import AUTH_ARG_SPEC
from ansible_collections.kubernetes.core.plugins.module_utils.k8s.core import AnsibleK8SModule
from ansible_collections.llm_d.multi_engine.plugins.module_utils import serving
from ansible_collections.llm_d.multi_engine.plugins.module_utils.cluster import (
    METADATA_ONLY,
    Cluster,
    ClusterError,
    Forbidden,
)
from ansible_collections.llm_d.multi_engine.plugins.module_utils.marks import (
    MANAGED_BY,
    MANAGED_BY_LABEL,
    RELEASE,
    STACK_LABEL,
)

ARGUMENTS = {
    "namespace": {"type": "str", "required": True},
    # The action plugin compares; the module never sees a stack.
    "stack": {"type": "str"},
    "overrides": {"type": "list", "elements": "str", "default": []},
    "serving_of": {"type": "str"},
    "permissions": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "verbs": {"type": "list", "elements": "str", "required": True},
            "group": {"type": "str", "default": ""},
            "resource": {"type": "str", "required": True},
            "namespace": {"type": "str", "default": ""},
        },
    },
    "releases": {"type": "list", "elements": "str", "default": ["istio-base", "istiod"]},
    "marks": {"type": "list", "elements": "str", "default": []},
    "metrics": {"type": "bool", "default": False},
}
#: APIs that autoscalers read.
METRICS_APIS = ("metrics.k8s.io", "custom.metrics.k8s.io", "external.metrics.k8s.io")
#: Present in every namespace where this collection manages an Istio control plane.
ISTIO_MARK = "llm-d-multi-engine-istio"


def main() -> None:
    module = AnsibleK8SModule(argument_spec={**AUTH_ARG_SPEC, **ARGUMENTS}, supports_check_mode=True)
    try:
        module.exit_json(changed=False, cluster=facts(Cluster(module), module.params))
    except ClusterError as error:
        module.fail_json(msg=str(error))


def facts(cluster: Cluster, params: dict) -> dict:
    """Return the facts as the documentation describes them."""
    return {
        "server": cluster.server,
        "version": cluster.raw("get", "/version")["gitVersion"],
        "namespace_exists": bool(permitted(cluster, f"/api/v1/namespaces/{params['namespace']}")),
        "definitions": definitions(cluster),
        "nodes": nodes(cluster),
        "istio": istio(cluster),
        "pickers": pickers(cluster, params["namespace"]),
        "helm_revisions": helm_revisions(cluster, params["releases"]),
        "marks": marks(cluster, params["marks"]),
        "serving": serving.read(cluster, params["serving_of"], params["namespace"]) if params["serving_of"] else None,
        "metrics": metrics(cluster) if params["metrics"] else None,
        "denied": denied(cluster, params["permissions"]),
    }


def metrics(cluster: Cluster) -> dict[str, list[str] | None] | None:
    """Return the names that each API of metrics lists; an API that nobody serves is left out."""
    answer = permitted(cluster, "/apis")
    if answer is None:
        return None
    served = {group["name"]: group["preferredVersion"]["groupVersion"] for group in answer["groups"]}
    return {name: listed(cluster, served[name]) for name in METRICS_APIS if name in served}


def listed(cluster: Cluster, group_version: str) -> list[str] | None:
    """Return the names of an API's resources; None where what should serve it does not answer."""
    try:
        answer = cluster.impatient().raw("get", f"/apis/{group_version}")
    except ClusterError:
        return None
    return [resource["name"] for resource in (answer or {}).get("resources") or []]


def denied(cluster: Cluster, permissions: list[dict]) -> list[str]:
    """Return which of ``permissions`` the credentials lack, in words."""
    everything = {"group": "*", "resource": "*", "namespace": ""}
    # One question instead of many for administrators.
    if not permissions or allowed(cluster, everything, "*"):
        return []
    return [
        words(wanted, verb) for wanted in permissions for verb in wanted["verbs"] if not allowed(cluster, wanted, verb)
    ]


def permitted(cluster: Cluster, path: str, **query: str) -> dict | None:
    """Return what is at ``path``; None also where the credentials may not look."""
    try:
        return cluster.raw("get", path, **query)
    except Forbidden:
        return None


def items(answer: dict) -> list[dict]:
    """Return the items of a list; the API server writes an empty one as null."""
    return answer["items"] or []


def definitions(cluster: Cluster) -> dict | None:
    """Return CustomResourceDefinitions by name, without their (large) schemas."""
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    answer = permitted(cluster, path, accept=METADATA_ONLY)
    if answer is None:
        return None
    return {
        item["metadata"]["name"]: {
            "annotations": item["metadata"].get("annotations", {}),
            "labels": item["metadata"].get("labels", {}),
        }
        for item in items(answer)
    }


def nodes(cluster: Cluster) -> list[dict] | None:
    """Return what each node offers to pods."""
    answer = permitted(cluster, "/api/v1/nodes")
    if answer is None:
        return None
    return [
        {
            "name": node["metadata"]["name"],
            "labels": node["metadata"].get("labels", {}),
            "schedulable": not node["spec"].get("unschedulable", False),
            "allocatable": node.get("status", {}).get("allocatable", {}),
            "kubelet": software(node).get("kubeletVersion"),
            "runtime": software(node).get("containerRuntimeVersion"),
        }
        for node in items(answer)
    ]


def software(node: dict) -> dict:
    """Return the versions of what runs on a node; one that has just joined says none."""
    return node.get("status", {}).get("nodeInfo") or {}


def istio(cluster: Cluster) -> list[dict] | None:
    """Return the Istio control planes of the cluster."""
    answer = permitted(cluster, "/apis/apps/v1/deployments", labelSelector="app=istiod")
    if answer is None:
        return None
    return [control_plane(cluster, deployment) for deployment in items(answer)]


def control_plane(cluster: Cluster, deployment: dict) -> dict:
    """Return what concerns inference of one istiod."""
    metadata, container = deployment["metadata"], deployment["spec"]["template"]["spec"]["containers"][0]
    mark = mark_of(cluster, metadata["namespace"], ISTIO_MARK) or {"ours": False, "stack": None, "note": {}}
    return {
        "name": metadata["name"],
        "namespace": metadata["namespace"],
        "version": version_of(metadata, container["image"]),
        "labels": metadata.get("labels", {}),
        "env": {entry["name"]: entry.get("value", "") for entry in container.get("env", [])},
        **mark,
    }


def pickers(cluster: Cluster, namespace: str) -> list[dict] | None:
    """Return the endpoint pickers of all stacks of ours in ``namespace``."""
    chosen = f"{MANAGED_BY_LABEL}={MANAGED_BY},app.kubernetes.io/component=endpoint-picker"
    answer = permitted(cluster, f"/apis/apps/v1/namespaces/{namespace}/deployments", labelSelector=chosen)
    if answer is None:
        return None
    return [
        {
            "name": item["metadata"]["name"],
            "stack": item["metadata"]["labels"].get(STACK_LABEL),
            "release": (item["metadata"].get("annotations") or {}).get(RELEASE),
            "image": item["spec"]["template"]["spec"]["containers"][0]["image"],
        }
        for item in items(answer)
    ]


def marks(cluster: Cluster, places: list[str]) -> dict[str, dict]:
    """Return which of the ConfigMaps ``places`` (namespace and name) exist, and what they say."""
    found = {place: mark_of(cluster, *place.split("/")) for place in places}
    return {place: {key: mark[key] for key in ("stack", "note")} for place, mark in found.items() if mark}


def mark_of(cluster: Cluster, namespace: str, name: str) -> dict | None:
    """Return whether a mark is ours, the stack that made it, and what it noted down; None where there is none."""
    mark = permitted(cluster, f"/api/v1/namespaces/{namespace}/configmaps/{name}")
    if mark is None:
        return None
    labels = mark["metadata"].get("labels") or {}
    ours = labels.get(MANAGED_BY_LABEL) == MANAGED_BY
    return {"ours": ours, "stack": labels.get(STACK_LABEL) if ours else None, "note": mark.get("data") or {}}


def version_of(metadata: dict, image: str) -> str:
    """Return what a control plane says of its version; an image may be named by its digest."""
    labels = metadata.get("labels") or {}
    return labels.get("app.kubernetes.io/version") or image.partition("@")[0].rpartition(":")[2]


def helm_revisions(cluster: Cluster, names: list[str]) -> dict | None:
    """Return the deployed revision of each Helm release of ``names``, from the labels of its record."""
    selector = f"owner=helm,status=deployed,name in ({', '.join(names)})"
    answer = permitted(cluster, "/api/v1/secrets", accept=METADATA_ONLY, labelSelector=selector)
    if answer is None:
        return None
    records = [item["metadata"] for item in items(answer)]
    return {f"{record['namespace']}/{record['labels']['name']}": int(record["labels"]["version"]) for record in records}


def allowed(cluster: Cluster, wanted: dict, verb: str) -> bool:
    """Whether the credentials may do ``verb`` to what ``wanted`` describes."""
    attributes = {key: wanted[key] for key in ("group", "resource", "namespace")}
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {**attributes, "verb": verb}},
    }
    answer = cluster.raw("post", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)
    return bool(answer and answer["status"]["allowed"])


def words(wanted: dict, verb: str) -> str:
    """Return ``create deployments.apps in namespace llm-d``."""
    resource = f"{wanted['resource']}.{wanted['group']}".rstrip(".")
    place = f"in namespace {wanted['namespace']}" if wanted["namespace"] else "in the whole cluster"
    return f"{verb} {resource} {place}"


if __name__ == "__main__":
    main()
