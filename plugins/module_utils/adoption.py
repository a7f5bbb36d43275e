# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Deployments that llm-d's charts or guides have made: finding all that belongs to one, and taking it over.

An InferencePool is where to begin: its selector tells the model servers, its reference the endpoint
picker, and routes name it. What else came by the same Helm releases belongs to them.

To take over is to put our labels on, and nothing else: no pod template changes, so no pod does.
Helm reads from its own record what an uninstall deletes, and does not ask the objects (Helm 3 does
not even look whose they are): so that record is put out of its sight, and stays where it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ansible_collections.llm_d.multi_engine.plugins.module_utils.cluster import Cluster, ClusterError, Forbidden
from ansible_collections.llm_d.multi_engine.plugins.module_utils.manifests import name_of
from ansible_collections.llm_d.multi_engine.plugins.module_utils.marks import (
    ADOPTED,
    FIELD_MANAGER,
    MANAGED_BY,
    MANAGED_BY_LABEL,
    MODEL_LABEL,
    MODEL_SERVERS,
    ROLE_LABEL,
    STACK_LABEL,
    labels_of,
)

POOL, ROUTE = "InferencePool", "HTTPRoute"
#: Kinds that charts and guides make of a deployment, and the API version that each is read in.
KINDS = {
    **MODEL_SERVERS,
    POOL: "inference.networking.k8s.io/v1",
    ROUTE: "gateway.networking.k8s.io/v1",
    "DestinationRule": "networking.istio.io/v1",
    "Service": "v1",
    "ServiceAccount": "v1",
    "ConfigMap": "v1",
    "Role": "rbac.authorization.k8s.io/v1",
    "RoleBinding": "rbac.authorization.k8s.io/v1",
    "PodMonitor": "monitoring.coreos.com/v1",
    "ServiceMonitor": "monitoring.coreos.com/v1",
}
#: Annotations by which Helm knows its objects, and what tells its records.
RELEASE, RELEASE_NAMESPACE = "meta.helm.sh/release-name", "meta.helm.sh/release-namespace"
RECORD_OWNER, HELM = "owner", "helm"


class Deployments:
    """What runs behind the InferencePools of one namespace.

    :param stack: stack that takes over.
    """

    def __init__(self, cluster: Cluster, namespace: str, stack: str) -> None:
        self._cluster, self._namespace, self._stack = cluster, namespace, stack
        #: Kinds that the credentials may not read, with the API server's words.
        self.forbidden: dict[str, str] = {}
        self._objects: dict[str, list[dict]] = {kind: self._read(kind) for kind in KINDS}

    def all(self) -> list[dict]:
        """Return every deployment that this collection did not make.

        :returns: per InferencePool ``pool``, ``picker`` (may be None), ``servers`` and ``routes`` (live objects),
            ``releases`` (names of Helm releases), ``objects`` (all that belongs to it) and ``taken`` (whether this
            stack has taken it over).
        """
        return [self._behind(pool) for pool in self._objects[POOL] if self._is_of_interest(pool)]

    def _read(self, kind: str) -> list[dict]:
        try:
            return self._cluster.list(KINDS[kind], kind, self._namespace)
        except Forbidden as error:
            self.forbidden[kind] = str(error)
            return []

    def _is_of_interest(self, item: dict) -> bool:
        """Whether somebody else made ``item``, also when we have taken it over since."""
        return labels_of(item).get(MANAGED_BY_LABEL) != MANAGED_BY or ADOPTED in labels_of(item)

    def _behind(self, pool: dict) -> dict:
        selector = selector_of(pool)
        servers = [item for kind in MODEL_SERVERS for item in self._objects[kind] if selects(selector, item)]
        service = self._one("Service", (pool["spec"].get("endpointPickerRef") or {}).get("name"))
        picker = self._picker(service)
        # Ours may lead to it, too, while a rollout goes back.
        routes = [route for route in self._objects[ROUTE] if pool["metadata"]["name"] in backends(route)]
        routes = list(filter(self._is_of_interest, routes))
        rules = [rule for rule in self._objects["DestinationRule"] if service and is_about(rule, service)]
        core = [pool, *servers, *([service] if service else []), *([picker] if picker else []), *routes, *rules]
        releases = sorted({name for item in core if (name := release_of(item))})
        along = [
            item
            for items in self._objects.values()
            for item in items
            if release_of(item) in releases and item not in core
        ]
        return {
            "pool": pool,
            "picker": picker,
            "servers": servers,
            "routes": routes,
            "releases": releases,
            "objects": core + along,
            "taken": labels_of(pool).get(STACK_LABEL) == self._stack,
        }

    def _one(self, kind: str, name: str | None) -> dict | None:
        return next((item for item in self._objects[kind] if item["metadata"]["name"] == name), None)

    def _picker(self, service: dict | None) -> dict | None:
        selector = ((service or {}).get("spec") or {}).get("selector")
        return next((item for item in self._objects["Deployment"] if selector and selects(selector, item)), None)


class Takeover:
    """Takes over deployments, one after the other.

    :param dry_run: only ask the API server what would become of them.
    """

    def __init__(self, cluster: Cluster, stack: str, dry_run: bool) -> None:
        self._cluster, self._stack, self._dry_run = cluster, stack, dry_run
        #: Objects that are, or would be, others than before, with a diff each.
        self.diffs: list[dict] = []

    def take(self, deployment: Mapping, model: str) -> None:
        """Put labels of ours on all that belongs to ``deployment``, which serves ``model``, and Helm's records aside."""
        self._refuse(deployment)
        servers = {name_of(item) for item in deployment["servers"]}
        of_servers = {release_of(item) for item in deployment["servers"]}
        for item in deployment["objects"]:
            role = "model_service" if name_of(item) in servers or release_of(item) in of_servers - {None} else "gaie"
            release = release_of(item)
            # Labels alone: an annotation would count as another generation of a Deployment.
            self._write(
                item,
                {
                    MANAGED_BY_LABEL: MANAGED_BY,
                    STACK_LABEL: self._stack,
                    ROLE_LABEL: role,
                    MODEL_LABEL: model,
                    ADOPTED: f"{HELM}.{release}" if release else "manifests",
                },
            )
        for release in deployment["releases"]:
            for record in records(self._cluster, deployment["pool"]["metadata"]["namespace"], release):
                self._write(record, {RECORD_OWNER: FIELD_MANAGER})

    def _refuse(self, deployment: Mapping) -> None:
        others = [
            f"{name_of(item)} (stack {labels_of(item)[STACK_LABEL]})"
            for item in deployment["objects"]
            if labels_of(item).get(STACK_LABEL, self._stack) != self._stack
        ]
        if others:
            raise ClusterError(f"Nothing was changed. These belong to another stack: {', '.join(others)}.")

    def _write(self, item: dict, labels: dict[str, str]) -> None:
        if labels.items() <= labels_of(item).items():
            return
        metadata = {"name": item["metadata"]["name"], "namespace": item["metadata"]["namespace"]}
        asked = {"apiVersion": item["apiVersion"], "kind": item["kind"], "metadata": {**metadata, "labels": labels}}
        # By force: we were told to, and it is about labels alone.
        after = self._cluster.apply(asked, force=True, dry_run=self._dry_run)
        self.diffs.append({"name": name_of(item), "before": _marks(item), "after": _marks(after)})


@dataclass
class Taken:
    """What was taken over for one model.

    :ivar servers: workloads whose pods are behind the pools.
    """

    pools: list[dict] = field(default_factory=list)
    routes: list[dict] = field(default_factory=list)
    servers: list[dict] = field(default_factory=list)

    @property
    def is_led_to(self) -> bool:
        """Whether a route still leads to it."""
        names = {pool["metadata"]["name"] for pool in self.pools}
        return any(names & backends(route) for route in self.routes)

    def facts(self) -> dict[str, list[str]]:
        """Return names of its pools and of its routes."""
        return {
            "pools": sorted(item["metadata"]["name"] for item in self.pools),
            "routes": sorted(item["metadata"]["name"] for item in self.routes),
        }


def is_adopted(item: dict) -> bool:
    """Whether a live object was taken over."""
    return ADOPTED in labels_of(item)


def taken(live: Mapping[str, Sequence[dict]]) -> dict[str, Taken]:
    """Return by model what was taken over for it.

    :param live: objects of a stack by kind: pools, routes and :data:`MODEL_SERVERS`.
    """
    found: dict[str, Taken] = {}
    for kind in (POOL, ROUTE, *MODEL_SERVERS):
        for item in filter(is_adopted, live[kind]):
            one = found.setdefault(labels_of(item).get(MODEL_LABEL, ""), Taken())
            if kind == POOL:
                one.pools.append(item)
            elif kind == ROUTE:
                one.routes.append(item)
            elif any(selects(selector_of(pool), item) for pool in one.pools):
                # Pools come before: others, the picker among them, serve no requests.
                one.servers.append(item)
    return found


def selector_of(pool: dict) -> dict[str, str]:
    """Return the labels of the pods behind ``pool``."""
    return pool["spec"]["selector"]["matchLabels"]


def records(cluster: Cluster, namespace: str, release: str) -> list[dict]:
    """Return what Helm has written down of each revision of ``release``."""
    return cluster.list("v1", "Secret", namespace, f"{RECORD_OWNER}={HELM},name={release}")


def _marks(item: dict) -> dict:
    """Return what is changed of an object: nothing else of it, which may be secret."""
    return {"metadata": {"labels": labels_of(item)}}


def annotations_of(item: dict) -> dict[str, str]:
    """Return the annotations of an object."""
    return item["metadata"].get("annotations") or {}


def release_of(item: dict) -> str | None:
    """Return the Helm release that made ``item``, if it is one of its own namespace."""
    annotations = annotations_of(item)
    here = annotations.get(RELEASE_NAMESPACE) == item["metadata"].get("namespace")
    return annotations.get(RELEASE) if here else None


def templates_of(workload: dict) -> list[dict]:
    """Return the templates of a workload's pods; of groups that of the leaders first."""
    spec = workload["spec"]
    group = spec.get("leaderWorkerTemplate") or {}
    found = (spec.get("template"), group.get("leaderTemplate"), group.get("workerTemplate"))
    return [template for template in found if template]


def selects(selector: Mapping[str, str], workload: dict) -> bool:
    """Whether pods of ``workload`` have the labels of ``selector``."""
    return any(
        selector.items() <= ((template.get("metadata") or {}).get("labels") or {}).items()
        for template in templates_of(workload)
    )


def backends(route: dict) -> set[str]:
    """Return the InferencePools that a route leads to."""
    return {
        backend["name"] for rule in rules_of(route) for backend in rule.get("backendRefs") or [] if is_pool(backend)
    }


def rules_of(route: dict) -> Iterable[dict]:
    """Return the rules of a route."""
    return route["spec"].get("rules") or []


def is_pool(backend: dict) -> bool:
    """Whether a route's backend is an InferencePool."""
    return backend.get("kind") == POOL


def is_about(rule: dict, service: dict) -> bool:
    """Whether a DestinationRule says how to reach ``service``."""
    name, namespace = service["metadata"]["name"], service["metadata"]["namespace"]
    host = rule["spec"].get("host", "")
    return host == name or host.startswith(f"{name}.{namespace}.") or host == f"{name}.{namespace}"
