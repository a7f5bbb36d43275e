#!/usr/bin/python
# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
module: support_bundle
short_description: Collect what somebody needs to help with a stack, without secrets, in one archive
version_added: "0.1.0"
author: the llm_d.multi_engine authors (@llm-d)
description:
  - Reads the objects of a stack and what was made from them, events, logs, nodes, versions and
    Istio's control plane, and writes them to one compressed tar that only its owner can read.
  - Hides secrets by their names, by their shapes, and by the values of the Secrets that the
    credentials can read. A file in which a known value is left is not written.
  - What cannot be read is listed in the archive, with the reason, and is no failure. It fails only
    when no API server answers or when the archive cannot be written.
options:
  stack:
    description: Stack to collect.
    type: str
    required: true
  namespaces:
    description: Namespaces of the stack. Those where an object carries its label are added.
    type: list
    elements: str
    required: true
  dest:
    description: Directory for the archive; made when it does not exist.
    type: path
    required: true
  resolved:
    description: Result of M(llm_d.multi_engine.resolve), as far as there is one.
    type: dict
    default: {}
  findings:
    description: Why the inventory does not resolve, or why the cluster cannot run it.
    type: str
    default: ""
  inputs:
    description: Variables of the inventory. The action plugin adds those of this collection.
    type: dict
    default: {}
  versions:
    description: Names to versions of what runs on the controller. The action plugin adds them.
    type: dict
    default: {}
  secrets:
    description: Values to hide. The action plugin adds those of the inventory.
    type: list
    elements: str
    default: []
  log_lines:
    description: Longest log of a container, in lines.
    type: int
    default: 2000
  log_bytes:
    description: Longest log of a container, in bytes.
    type: int
    default: 1048576
extends_documentation_fragment:
  - kubernetes.core.k8s_auth_options
requirements:
  - python >= 3.10
  - kubernetes >= 24.2.0
notes:
  - Runs on the controller.
  - Supports check mode, in which it reads and writes nothing.
"""

EXAMPLES = r"""
- name: Collect what is known of a stack
  llm_d.multi_engine.support_bundle:
    stack: llm-d
    namespaces: [llm-d]
    dest: /tmp
"""

RETURN = r"""
path:
  description: Path of the archive.
  returned: always
  type: str
files:
  description: Names of the files in it.
  returned: always
  type: list
  elements: str
missing:
  description: What is not in it, with the reason.
  returned: always
  type: list
  elements: str
"""

import os
import re
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ansible_collections.kubernetes.core.plugins.module_utils.args_common import AUTH_ARG_SPEC
from ansible_collections.kubernetes.core.plugins.module_utils.k8s.core import AnsibleK8SModule
from ansible_collections.llm_d.multi_engine.plugins.module_utils import documents, support
from ansible_collections.llm_d.multi_engine.plugins.module_utils.cluster import (
    METADATA_ONLY,
    Cluster,
    ClusterError,
    Forbidden,
    Unreachable,
)
from ansible_collections.llm_d.multi_engine.plugins.module_utils.manifests import name_of
from ansible_collections.llm_d.multi_engine.plugins.module_utils.marks import STACK_LABEL, selecting
from ansible_collections.llm_d.multi_engine.plugins.module_utils.redact import Redactor, secret_values

ARGUMENTS = {
    "stack": {"type": "str", "required": True},
    "namespaces": {"type": "list", "elements": "str", "required": True},
    "dest": {"type": "path", "required": True},
    "resolved": {"type": "dict", "default": {}},
    "findings": {"type": "str", "default": ""},
    "inputs": {"type": "dict", "default": {}},
    "versions": {"type": "dict", "default": {}},
    "secrets": {"type": "list", "elements": "str", "default": [], "no_log": True},
    "log_lines": {"type": "int", "default": 2000},
    "log_bytes": {"type": "int", "default": 1 << 20},
}
#: Requests at the same time.
WORKERS = 8
#: Groups whose definitions concern inference.
GROUPS = (
    "gateway.networking.k8s.io",
    "inference.networking.k8s.io",
    "inference.networking.x-k8s.io",
    "leaderworkerset.x-k8s.io",
    "llm-d.ai",
    "monitoring.coreos.com",
)
#: Read another way, for what they hold; Endpoints are EndpointSlices once more.
NOT_LISTED = ("CustomResourceDefinition", "Endpoints", "Event", "Secret")
#: Groups of measurements, whose servers are often away.
NOT_ASKED = ("metrics.k8s.io", "custom.metrics.k8s.io", "external.metrics.k8s.io")
#: Resources and groups of what controllers make from others.
MADE = (
    ("pods", ""),
    ("services", ""),
    ("serviceaccounts", ""),
    ("persistentvolumeclaims", ""),
    ("endpointslices", "discovery.k8s.io"),
    ("deployments", "apps"),
    ("replicasets", "apps"),
    ("statefulsets", "apps"),
    ("jobs", "batch"),
    ("horizontalpodautoscalers", "autoscaling"),
    ("poddisruptionbudgets", "policy"),
)
#: Bytes that the API server may send of a log; the last of its lines may be cut then.
LOG_LIMIT = 16 << 20
ISTIOD = "app=istiod"


def main() -> None:
    module = AnsibleK8SModule(argument_spec={**AUTH_ARG_SPEC, **ARGUMENTS}, supports_check_mode=True)
    try:
        module.exit_json(**run(module))
    except ClusterError as error:
        module.fail_json(msg=str(error))


def run(module) -> dict:
    """Write the archive and return the module's result."""
    params, now = module.params, time.time()
    top = f"support-bundle-{params['stack']}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(now))}"
    path = os.path.join(params["dest"], f"{top}.tar.gz")
    if module.check_mode:
        return {"changed": True, "path": path, "files": [], "missing": []}
    try:
        temporary = _temporary(params["dest"])
    except OSError as error:
        raise ClusterError(f"{params['dest']}: nothing can be written there: {error.strerror}.") from error
    try:
        found = look(module)
        files, missing = compose(found, params, now)
        with open(temporary, "wb") as file:
            file.write(support.archive(files, top, now))
        os.replace(temporary, path)
    except BaseException as error:
        os.unlink(temporary)
        if isinstance(error, OSError):
            raise ClusterError(f"{path} cannot be written: {error.strerror}.") from error
        raise
    return {"changed": True, "path": path, "files": sorted(files), "missing": missing}


def _temporary(folder: str) -> str:
    """Return a new file in ``folder`` that only its owner can read."""
    os.makedirs(folder, exist_ok=True)
    handle, path = tempfile.mkstemp(dir=folder, prefix=".support-bundle-")
    os.close(handle)
    return path


def look(module) -> Found:
    """Return what can be read of the cluster.

    :raises Unreachable: if no API server answers.
    """
    found = Found(sorted(set(module.params["namespaces"])))
    try:
        cluster = Cluster(module)
    except Unreachable:
        raise
    except ClusterError as error:  # an answer, such as to credentials that are too old
        found.missing.append(f"everything of the cluster: {error}")
        return found
    found.server = cluster.server
    Reader(cluster, module.params, found).all()
    return found


class Found:
    """What was read, secrets included.

    :ivar objects: those of the stack, and what was made from them.
    :ivar logs: by name of the file.
    :ivar events: by namespace; of nodes under an empty name.
    :ivar nodes: those of the cluster, None where they are not to be seen.
    :ivar placed: pods of the whole cluster, None where they are not to be seen.
    :ivar secrets: Secrets of the stack, or named by its pods, with their values.
    :ivar values: values of all Secrets of its namespaces.
    :ivar absent: Secrets that pods need and that do not exist.
    :ivar missing: what could not be read, with the reason.
    """

    def __init__(self, namespaces: list[str]) -> None:
        self.namespaces = namespaces
        self.server = ""
        self.version: dict = {}
        self.objects: list[dict] = []
        self.istio: list[dict] = []
        self.secrets: list[dict] = []
        self.values: set[str] = set()
        self.absent: list[str] = []
        self.events: dict[str, list[dict]] = {}
        self.logs: dict[str, str] = {}
        self.nodes: list[dict] | None = None
        self.placed: list[dict] | None = None
        self.definitions: list[dict] = []
        self.missing: list[str] = []


@dataclass(frozen=True)
class Kind:
    """A kind that the API server lists."""

    api_version: str
    kind: str
    resource: str
    namespaced: bool

    @property
    def group(self) -> str:
        """API group, empty for the core one."""
        return self.api_version.rpartition("/")[0]

    @property
    def name(self) -> str:
        """What kubectl calls it: ``deployments.apps``."""
        return f"{self.resource}.{self.group}".rstrip(".")

    def path(self, namespace: str = "") -> str:
        """Return the path of its list."""
        root = f"/apis/{self.api_version}" if self.group else f"/api/{self.api_version}"
        return f"{root}/namespaces/{namespace}/{self.resource}" if namespace else f"{root}/{self.resource}"

    def items(self, answer: dict | None) -> list[dict]:
        """Return the items of a list, each with what it is."""
        told = {"apiVersion": self.api_version, "kind": self.kind}
        return [{**told, **item} for item in (answer or {}).get("items") or []]


class Reader:
    """Reads what it may, and notes down what it may not."""

    def __init__(self, cluster: Cluster, params: dict, found: Found) -> None:
        self._cluster, self._params, self._found = cluster, params, found

    def all(self) -> None:
        """Read everything into what was found.

        :raises Unreachable: if no API server answers.
        """
        found = self._found
        try:
            found.version = self._cluster.raw("get", "/version") or {}
        except Unreachable:
            raise
        except ClusterError as error:
            if getattr(error.__cause__, "status", None) == 401:
                found.missing.append(f"everything of the cluster: {error}")
                return
            found.missing.append(f"version of Kubernetes: {error}")
        with ThreadPoolExecutor(WORKERS) as pool:
            kinds = self._kinds(pool)
            chosen = self._labelled(pool, kinds)
            places = {item["metadata"].get("namespace") for item in chosen} - {None}
            found.namespaces = sorted({*found.namespaces, *places})
            found.objects = support.with_made(chosen, self._candidates(pool, kinds))
            self._secrets()
            self._events(pool)
            self._nodes()
            self._definitions(kinds)
            found.istio = self._istio()
            self._logs(pool, found.objects + found.istio)

    def _get(self, what: str, path: str, **query: str) -> dict | None:
        """Return an answer; None, with a note, where there is none to be had."""
        try:
            return self._cluster.raw("get", path, **query)
        except ClusterError as error:
            self._found.missing.append(f"{what}: {error}")
            return None

    def _kinds(self, pool: ThreadPoolExecutor) -> list[Kind]:
        """Return every kind that can be listed, in the version that the API server prefers."""
        versions = ["v1"]
        for group in (self._get("kinds", "/apis") or {}).get("groups") or []:
            if group["name"] not in NOT_ASKED:
                every = [group.get("preferredVersion"), *(group.get("versions") or [])]
                versions += dict.fromkeys(version["groupVersion"] for version in every if version)
        answers = pool.map(lambda version: self._get(f"kinds of {version}", _root(version)), versions)
        kinds: dict[tuple[str, str], Kind] = {}
        for version, answer in zip(versions, answers, strict=True):
            for resource in (answer or {}).get("resources") or []:
                if "/" in resource["name"] or "list" not in resource["verbs"] or resource["kind"] in NOT_LISTED:
                    continue
                kind = Kind(version, resource["kind"], resource["name"], resource["namespaced"])
                kinds.setdefault((kind.group, kind.resource), kind)
        return list(kinds.values())

    def _labelled(self, pool: ThreadPoolExecutor, kinds: list[Kind]) -> list[dict]:
        """Return the objects with the stack's label."""
        labels = f"{STACK_LABEL}={self._params['stack']}"
        results = list(pool.map(lambda kind: self._list(kind, labels), kinds))
        refused: dict[str, list[str]] = {}
        for kind, (_items, places) in zip(kinds, results, strict=True):
            for place in places:
                refused.setdefault(place, []).append(kind.name)
        for place, names in refused.items():
            where = f"in namespace {place}" if place else "in the whole cluster"
            self._found.missing.append(f"no permission to list {where}: {', '.join(sorted(names))}")
        return [item for items, _places in results for item in items]

    def _list(self, kind: Kind, labels: str) -> tuple[list[dict], list[str]]:
        """Return objects of a kind, and the namespaces where they may not be seen (an empty one: all of them)."""
        try:
            return kind.items(self._cluster.raw("get", kind.path(), labelSelector=labels)), []
        except Forbidden:
            if not kind.namespaced:
                return [], [""]
        except ClusterError as error:
            self._found.missing.append(f"{kind.name}: {error}")
            return [], []
        items, refused = [], []
        for namespace in self._found.namespaces:
            try:
                items += kind.items(self._cluster.raw("get", kind.path(namespace), labelSelector=labels))
            except Forbidden:
                refused.append(namespace)
            except ClusterError as error:
                self._found.missing.append(f"{kind.name} in namespace {namespace}: {error}")
        return items, refused

    def _candidates(self, pool: ThreadPoolExecutor, kinds: list[Kind]) -> list[dict]:
        """Return everything that may have been made from objects of the stack."""
        wanted = [
            (kind, namespace)
            for kind in kinds
            if (kind.resource, kind.group) in MADE
            for namespace in self._found.namespaces
        ]

        def items(place: tuple[Kind, str]) -> list[dict]:
            kind, namespace = place
            try:
                return kind.items(self._cluster.raw("get", kind.path(namespace)))
            except Forbidden:  # which was told of the labelled ones
                return []
            except ClusterError as error:
                self._found.missing.append(f"{kind.name} in namespace {namespace}: {error}")
                return []

        return [item for found in pool.map(items, wanted) for item in found]

    def _secrets(self) -> None:
        """Read the Secrets of the namespaces: their values are what must not be in the archive."""
        found = self._found
        pods = [item for item in found.objects if item["kind"] == "Pod"]
        kind = Kind("v1", "Secret", "secrets", True)
        for namespace in found.namespaces:
            # Helm's records of releases are large, and nothing repeats them.
            answer = self._get(
                f"Secrets of namespace {namespace}, whose values could not be looked for therefore",
                kind.path(namespace),
                fieldSelector="type!=helm.sh/release.v1",
            )
            if answer is None:
                continue
            secrets = {secret["metadata"]["name"]: secret for secret in kind.items(answer)}
            found.values.update(*map(secret_values, secrets.values()))
            needed: dict[str, bool] = {}
            for pod in pods:
                if pod["metadata"]["namespace"] == namespace:
                    for name, required in support.needed_secrets(pod).items():
                        needed[name] = needed.get(name, False) or required
            found.secrets += [
                secret
                for name, secret in secrets.items()
                if name in needed or (secret["metadata"].get("labels") or {}).get(STACK_LABEL) == self._params["stack"]
            ]
            found.absent += [
                f"Secret {namespace}/{name}: does not exist, and pods name it"
                for name, required in needed.items()
                if required and name not in secrets
            ]

    def _events(self, pool: ThreadPoolExecutor) -> None:
        names = self._found.namespaces
        paths = [f"/api/v1/namespaces/{name}/events" for name in names]
        answers = pool.map(lambda name, path: self._get(f"events of namespace {name}", path), names, paths)
        for name, answer in zip(names, answers, strict=True):
            self._found.events[name] = (answer or {}).get("items") or []
        selector = "involvedObject.kind=Node"
        answer = self._get("events of nodes", "/api/v1/namespaces/default/events", fieldSelector=selector)
        self._found.events[""] = (answer or {}).get("items") or []

    def _nodes(self) -> None:
        answer = self._get("nodes", "/api/v1/nodes")
        if answer is not None:
            pods = self._get("devices in use, by pods of the whole cluster", "/api/v1/pods")
            self._found.nodes = answer["items"] or []
            self._found.placed = None if pods is None else pods["items"] or []

    def _definitions(self, kinds: list[Kind]) -> None:
        path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
        answer = self._get("definitions", path, accept=METADATA_ONLY)
        for item in (answer or {}).get("items") or []:
            name = item["metadata"]["name"]
            _resource, _dot, group = name.partition(".")
            if group in GROUPS or group.endswith(".istio.io"):
                metadata = item["metadata"]
                self._found.definitions.append(
                    {
                        "name": name,
                        # As the API server serves it; a definition that is not served has none.
                        "version": next((kind.api_version for kind in kinds if kind.name == name), None),
                        "created": metadata.get("creationTimestamp"),
                        "labels": metadata.get("labels") or {},
                        "annotations": metadata.get("annotations") or {},
                    }
                )

    def _istio(self) -> list[dict]:
        """Return Istio's control planes and their pods."""
        deployments = Kind("apps/v1", "Deployment", "deployments", True)
        pods, result = Kind("v1", "Pod", "pods", True), []
        answer = self._get("Istio's control plane", deployments.path(), labelSelector=ISTIOD)
        for deployment in deployments.items(answer):
            namespace = deployment["metadata"]["namespace"]
            labels = deployment["spec"]["selector"]["matchLabels"]
            selector = selecting(labels)
            what = f"pods of {name_of(deployment)}"
            result += [deployment, *pods.items(self._get(what, pods.path(namespace), labelSelector=selector))]
        return result

    def _logs(self, pool: ThreadPoolExecutor, objects: list[dict]) -> None:
        runs = {
            (item["metadata"]["namespace"], item["metadata"]["name"], container, previous): None
            for item in objects
            if item["kind"] == "Pod"
            for container, previous in support.container_runs(item)
        }
        for found in pool.map(self._log, runs):
            self._found.logs.update(found)

    def _log(self, run: tuple[str, str, str, bool]) -> dict[str, str]:
        namespace, pod, container, previous = run
        query = {"container": container, "tailLines": str(self._params["log_lines"]), "timestamps": "true"}
        query |= {"limitBytes": str(LOG_LIMIT), **({"previous": "true"} if previous else {})}
        try:
            text = self._cluster.text(f"/api/v1/namespaces/{namespace}/pods/{pod}/log", **query)
        except ClusterError as error:
            which = "log of the previous run" if previous else "log"
            self._found.missing.append(f"{which} of pod {namespace}/{pod}, container {container}: {error}")
            return {}
        if len(text.encode()) >= LOG_LIMIT:
            # Half of a secret would not be known for one.
            text = text.rpartition("\n")[0] + "\n"
        suffix = ".previous.log" if previous else ".log"
        return {support.file_name("logs", namespace, pod, container + suffix): text}


def _root(version: str) -> str:
    """Return the path that tells of the kinds of an API version."""
    return f"/apis/{version}" if "/" in version else f"/api/{version}"


def compose(found: Found, params: dict, now: float) -> tuple[dict[str, str], list[str]]:
    """Return the files of the archive by name, without secrets, and what is missing."""
    everything = found.objects + found.istio
    public = {params["stack"], *found.namespaces, *(item["metadata"]["name"] for item in everything + found.secrets)}
    public |= {name for item in everything if item["kind"] == "Pod" for name, _run in support.container_runs(item)}
    redactor = Redactor([*params["secrets"], *found.values], public)
    # At first only to learn what is secret: it may be in what comes before it.
    for item in everything:
        redactor.object(item)
    redactor.value(params["inputs"])

    files = {
        "versions.yaml": _yaml(redactor, [_versions(found, params)]),
        "inventory/inputs.yaml": _yaml(redactor, [params["inputs"]]),
        "inventory/resolved.yaml": _yaml(redactor, [params["resolved"]]),
        "inventory/findings.txt": redactor.text(params["findings"] + "\n") if params["findings"] else "",
        "nodes.yaml": _yaml(redactor, support.node_facts(found.nodes or [], found.placed)),
        "definitions.yaml": _yaml(redactor, found.definitions),
        **_objects(redactor, found),
    }
    for namespace, events in found.events.items():
        name = support.file_name("events", f"{namespace}.txt") if namespace else "events-of-nodes.txt"
        files[name] = redactor.text(support.events_text(events))
    for name, text in found.logs.items():
        files[name] = support.tail(redactor.text(text), params["log_bytes"])

    files, left_out = support.sealed({name: text for name, text in files.items() if text}, redactor)
    missing = [redactor.text(line) for line in [*found.missing, *(f"{name}: {_LEAK}" for name in left_out)]]
    index, leak = support.sealed({support.INDEX: _index(redactor, found, params, now, files, missing)}, redactor)
    if leak:
        missing.append(f"{support.INDEX}: {_LEAK}")
        index = {support.INDEX: f"# Support bundle\n\nThis file was left out: {_LEAK}.\n"}
    return {**index, **files}, missing


_LEAK = "a secret could not be taken out of it"
_ABOUT = """Secrets were taken out, and the place of each says (hidden). Look through the files before you hand \
them on all the same: names of hosts and models are in them, and logs of engines and gateways may hold what \
clients sent."""


def _yaml(redactor: Redactor, items: list[dict]) -> str:
    return documents.dump([redactor.value(item) for item in items if item])


def _versions(found: Found, params: dict) -> dict:
    istio = {
        name_of(item): item["spec"]["template"]["spec"]["containers"][0].get("image")
        for item in found.istio
        if item["kind"] == "Deployment"
    }
    release = params["resolved"].get("release") or {}
    return {
        "kubernetes": found.version,
        "istio": istio,
        "release": release.get("name") if isinstance(release, dict) else None,
        "controller": params["versions"],
    }


def _objects(redactor: Redactor, found: Found) -> dict[str, str]:
    """Return objects as YAML, in a file for each namespace and kind."""
    groups: dict[str, list[dict]] = {}
    for item in found.objects:
        groups.setdefault(_file_of(item), []).append(redactor.object(item))
    for item in found.istio:
        groups.setdefault(f"istio/{_file_of(item).partition('/')[2]}", []).append(redactor.object(item))
    for item in found.secrets:
        groups.setdefault(_file_of(item), []).append(redactor.secret(item))
    return {name: documents.dump(items) for name, items in groups.items()}


def _file_of(item: dict) -> str:
    group = item["apiVersion"].rpartition("/")[0]
    kind = f"{item['kind']}.{group}".rstrip(".")
    return support.file_name("objects", item["metadata"].get("namespace") or "(cluster)", f"{kind}.yaml")


def _index(
    redactor: Redactor, found: Found, params: dict, now: float, files: dict[str, str], missing: list[str]
) -> str:
    """Return the first file to read."""
    events = [event for of_one in found.events.values() for event in of_one]
    pods = [item for item in found.objects + found.istio if item["kind"] == "Pod"]
    broken = found.absent + support.not_ready(found.objects + found.istio, events, found.nodes, found.placed)
    when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    version = found.version.get("gitVersion", "of unknown version")
    count = len(found.objects) + len(found.secrets)
    head = (
        f"# Support bundle of stack {params['stack']}\n\n"
        f"Made {when}. Kubernetes {version} at {found.server or 'an unknown address'}; "
        f"namespaces {', '.join(found.namespaces)}; {count} objects.\n\n{_ABOUT}\n\n"
    )
    parts = [
        head,
        support.section("Not ready", broken, "Everything that was read is ready."),
        support.section("The inventory", _findings(params["findings"]), "It resolves, and nothing speaks against it."),
        support.section("Containers that were started again", support.restarts(pods), "None."),
        support.section("Last warnings", support.warnings(events), "None."),
        support.section("Missing", missing, "Nothing."),
        support.section("Files", [f"{name} ({len(text.encode())} bytes)" for name, text in files.items()], "None."),
    ]
    return "".join(redactor.text(part) for part in parts)


def _findings(text: str) -> list[str]:
    """Return the lines of a message, those of its list below the first."""
    return [re.sub(r"^- ", "  ", line) for line in text.splitlines()]


if __name__ == "__main__":
    main()
