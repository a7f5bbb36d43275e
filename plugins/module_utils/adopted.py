# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""What was taken over and serves a model: found, led away from or back to, and removed when ours serves.

All of it carries three labels: the stack, the model, and where it came from. Nothing without them is written here. Its
pods carry none of ours, for their templates were left as they were: its InferencePool tells them, and goes last.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ansible_collections.llm_d.multi_engine.plugins.module_utils import canary, documents, prometheus
from ansible_collections.llm_d.multi_engine.plugins.module_utils.adoption import (
    KINDS,
    POOL,
    ROUTE,
    Taken,
    backends,
    is_adopted,
    rules_of,
    selector_of,
    selects,
    taken,
    templates_of,
)
from ansible_collections.llm_d.multi_engine.plugins.module_utils.cluster import (
    Cluster,
    ClusterError,
    Conflict,
    Forbidden,
)
from ansible_collections.llm_d.multi_engine.plugins.module_utils.manifests import name_of, presentable
from ansible_collections.llm_d.multi_engine.plugins.module_utils.marks import (
    MANAGED_BY,
    MANAGED_BY_LABEL,
    MODEL_LABEL,
    MODEL_SERVERS,
    STACK_LABEL,
    labels_of,
    selecting,
)
from ansible_collections.llm_d.multi_engine.plugins.module_utils.pods import stays_ready

#: Seconds for the end of requests, where nobody says how long an answer may take.
_PATIENCE = 300
#: Looks without a request, a second each, after which it has finished them: gateways learn a moment later.
QUIET_LOOKS = 3
#: How often a route that others write, too, is read anew.
_TRIES = 5
#: What a route without a match takes.
_EVERYTHING = {"path": {"type": "PathPrefix", "value": "/"}}


class Adopted:
    """What was taken over for one model of one stack.

    :param drain: what tells when its requests are finished: ``seconds`` after which that is not waited for any more,
        ``path`` of metrics and ``busy``, selectors of those that count requests, of any engine.
    """

    def __init__(self, cluster: Cluster, place: tuple[str, str, str], drain: Mapping[str, Any]) -> None:
        """:param place: stack, namespace and model."""
        self._cluster, self._drain = cluster, drain
        self._stack, self._namespace, self._model = place
        #: What a person should know of what was left.
        self.warnings: list[str] = []

    def _list(self, kind: str) -> list[dict]:
        labels = f"{STACK_LABEL}={self._stack},{MODEL_LABEL}={self._model}"
        return list(filter(is_adopted, self._cluster.list(KINDS[kind], kind, self._namespace, labels)))

    def _taken(self) -> Taken:
        live = {kind: self._list(kind) for kind in (POOL, ROUTE, *MODEL_SERVERS)}
        return taken(live).get(self._model, Taken())

    # --- looking ----------------------------------------------------------------------------

    def servers(self) -> list[dict]:
        """Return its workloads."""
        return self._taken().servers

    def pods(self) -> list[dict]:
        """Return its pods, those that go included; also when their workload has gone."""
        return [pod for pool in self._list(POOL) for pod in self._behind(pool)]

    def _behind(self, pool: Mapping[str, Any]) -> list[dict]:
        text = selecting(selector_of(pool))
        # Pods of stacks say so.
        return [
            pod for pod in self._cluster.list("v1", "Pod", self._namespace, text) if STACK_LABEL not in labels_of(pod)
        ]

    def finished(self, waited: float, deadline: float) -> tuple[float, list[str] | None]:
        """Wait until it answers no request any more, or that took too long.

        Nobody knows what its pods do with requests when they are told to end.

        :param waited: seconds of earlier calls.
        :param deadline: when to return, on the monotonic clock.
        :returns: seconds so far, and the pods that are waited for; None when it is over.
        :raises ClusterError: when requests would go on to come.
        """
        self.refuse_other_routes()
        quiet = 0
        while quiet < QUIET_LOOKS and waited < (self._drain.get("seconds") or _PATIENCE):
            busy = self.busy()
            quiet = 0 if busy else quiet + 1
            pause = min(1.0, deadline - time.monotonic())
            if pause <= 0:
                return waited, busy
            time.sleep(pause)
            waited += pause
        return waited, None

    def busy(self) -> list[str]:
        """Return which of its pods answer requests, or do not say that they do not."""
        names = []
        for pool in self._list(POOL):
            port = pool["spec"]["targetPorts"][0]["number"]
            for pod in self._behind(pool):
                page = canary.page(self._cluster, pod, port, self._drain.get("path") or "/metrics")
                count = _counted(page, self._drain.get("busy") or ())
                # One that does not answer at all is not known to answer anybody.
                if count or (count is None and stays_ready(pod)):
                    names.append(pod["metadata"]["name"])
        return names

    def refuse(self, ours: Sequence[dict]) -> None:
        """Refuse what would do harm, before anything changes.

        :param ours: objects that would come beside it.
        :raises ClusterError: with the ways out.
        """
        self.refuse_other_routes()
        wanted = {(item["kind"], item["metadata"]["name"]) for item in ours}
        same = [name_of(item) for item in self._all() if (item["kind"], item["metadata"]["name"]) in wanted]
        if same:
            raise ClusterError(
                f"Model {self._model}: what was taken over has the names that ours would have: {', '.join(same)}. Both "
                f"have to be there for a while. Take it over for a model of another name (adopt_take: {{POOL: MODEL}}); "
                "what is as ours would be needs no adopt_take, but gaie_adopt, model_service_adopt and rollout_adopt: true."
            )
        for pool in self._list(POOL):
            if any(selects(selector_of(pool), item) for item in ours if item["kind"] in MODEL_SERVERS):
                labels = ", ".join(f"{key}: {value}" for key, value in selector_of(pool).items())
                raise ClusterError(
                    f"Model {self._model}: {name_of(pool)}, which was taken over, selects {{{labels}}}, and so would "
                    "send requests to pods of ours that nobody has tried. Add a label to its selector that its own "
                    f"pods alone have: {self._own_labels(pool, ours) or 'they have none, so give them one first'}."
                )

    def _own_labels(self, pool: Mapping[str, Any], ours: Iterable[dict]) -> str:
        """Return labels that all pods behind ``pool`` have, and none of ``ours``."""
        theirs = [_pod_labels(item) for item in self.servers()]
        common = set.intersection(*(set(labels.items()) for labels in theirs)) if theirs else set()
        others = {pair for item in ours if item["kind"] in MODEL_SERVERS for pair in _pod_labels(item).items()}
        return ", ".join(f"{key}: {value}" for key, value in sorted(common - others - set(selector_of(pool).items())))

    def refuse_other_routes(self) -> None:
        """Refuse to go on while a route that is not ours to change leads to it.

        :raises ClusterError: that names it.
        """
        pools = {pool["metadata"]["name"] for pool in self._list(POOL)}
        for route in self._cluster.list(KINDS[ROUTE], ROUTE, self._namespace) if pools else ():
            labels = labels_of(route)
            mine = labels.get(STACK_LABEL) == self._stack and labels.get(MANAGED_BY_LABEL) == MANAGED_BY
            if not mine and (names := sorted(pools & backends(route))):
                raise ClusterError(
                    f"{name_of(route)} leads to InferencePool {', '.join(names)} and was not taken over with it: its "
                    "requests would be lost. Take it over, too, by the playbook adopt with the same adopt_take, or "
                    "let it lead elsewhere."
                )

    def _all(self) -> list[dict]:
        """Return all of it that the credentials may see, routes first and pools last."""
        found: dict[str, list[dict]] = {}
        for kind in KINDS:
            try:
                found[kind] = self._list(kind)
            except Forbidden:
                self.warnings.append(f"{kind}: no permission to list it; what was taken over of this kind stays")
                found[kind] = []
        between = [item for kind in KINDS if kind not in (ROUTE, POOL) for item in found[kind]]
        return [*found[ROUTE], *between, *found[POOL]]

    # --- who serves -------------------------------------------------------------------------

    def lead(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[tuple[dict, dict]]:
        """Let its routes lead to another pool, where they lead to ``before``: these backends, and nothing else of them.

        :param before: ``pool`` and ``port``.
        :param after: the same.
        :returns: each route that was another, and what has become of it.
        """
        for route in self._list(ROUTE):
            for left in reversed(range(_TRIES)):
                if before["pool"] not in backends(route):
                    break
                try:
                    yield route, self._cluster.write(_led(route, before, after))
                    break
                except Conflict:
                    if not left:
                        raise
                    # Controllers write of its state.
                    place = route["apiVersion"], route["kind"], route["metadata"]["name"], self._namespace
                    if not (route := self._cluster.get(*place)):
                        break

    def clear(self, ours: Sequence[dict]) -> Iterator[dict]:
        """Delete what is left of it when ours serves: routes that ours takes the place of, then all that it had.

        :param ours: all objects that serve. What they refer to stays.
        :returns: each object that was deleted.
        """
        (own,) = [item for item in ours if item["kind"] == ROUTE]
        used = set(_texts([item.get("spec") for item in ours if item["kind"] in MODEL_SERVERS]))
        for item in self._all():
            if item["metadata"].get("deletionTimestamp"):
                continue
            reason = not_replaced(item, own) if item["kind"] == ROUTE else ""
            if item["kind"] in ("ConfigMap", "ServiceAccount", "Service") and item["metadata"]["name"] in used:
                reason = "pods of ours use it"
            if reason:
                self.warnings.append(f"{name_of(item)} stays, which was taken over: {reason}.")
                continue
            with contextlib.suppress(Conflict):  # somebody made it anew
                self._cluster.delete(item, dry_run=False)
                yield item


def difference(before: dict, after: dict) -> dict[str, str]:
    """Return how an object was changed, as Ansible shows it."""
    header = name_of(before)
    sides = {"before": presentable(before), "after": presentable(after, before)}
    dumped = {side: documents.dump([item], explicit_start=False) for side, item in sides.items()}
    return {"before_header": header, "after_header": header, **dumped}


def not_replaced(theirs: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    """Return why requests would be lost or go elsewhere without the route ``theirs``; nothing where ``own`` takes all.

    :param own: a route of ours, without host names.
    """
    pools = backends(dict(own))
    others = {
        backend["name"]
        for rule in rules_of(dict(theirs))
        for backend in rule.get("backendRefs") or []
        if backend["name"] not in pools
    }
    if others:
        return f"it also leads to {', '.join(sorted(others))}"
    parents = [_parent(own, parent) for parent in own["spec"]["parentRefs"]]
    for parent in theirs["spec"].get("parentRefs") or []:
        *gateway, listener = _parent(theirs, parent)
        if not any(gateway == one and which in (None, listener) for *one, which in parents):
            return f"it belongs to Gateway {'/'.join(gateway)}, and ours does not"
    for rule in rules_of(dict(theirs)):
        alike = [one for one in rules_of(dict(own)) if (one.get("filters") or []) == (rule.get("filters") or [])]
        matches = [match for one in alike for match in one.get("matches") or [_EVERYTHING]]
        for match in rule.get("matches") or [_EVERYTHING]:
            if not any(_covers(one, match) for one in matches):
                return f"requests come by it that ours does not take (path {_path(match)[1]}); see route of the model"
    return ""


def _parent(route: Mapping[str, Any], parent: Mapping[str, Any]) -> tuple:
    return parent.get("namespace") or route["metadata"].get("namespace"), parent["name"], parent.get("sectionName")


def _covers(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether each request that match ``other`` takes would be taken by match ``one``."""
    (kind, path), (other_kind, other_path) = _path(one), _path(other)
    if kind == "PathPrefix":
        place = path.rstrip("/")
        inside = other_kind != "RegularExpression" and (other_path == place or other_path.startswith(f"{place}/"))
        # Expressions may match anything.
        within = inside or not place
    else:
        within = (kind, path) == (other_kind, other_path)
    return (
        within
        and one.get("method") in (None, other.get("method"))
        and all(_conditions(one, name) <= _conditions(other, name) for name in ("headers", "queryParams"))
    )


def _path(match: Mapping[str, Any]) -> tuple[str, str]:
    path = {**_EVERYTHING["path"], **(match.get("path") or {})}
    return path["type"], path["value"]


def _conditions(match: Mapping[str, Any], name: str) -> set[tuple[str, str, str]]:
    found = match.get(name) or []
    return {(one["name"].lower(), one["value"], one.get("type") or "Exact") for one in found}


def _led(route: Mapping[str, Any], before: Mapping[str, Any], after: Mapping[str, Any]) -> dict:
    """Return ``route`` with the backends that were pool ``before``, and with its port where they name one."""

    def moved(backend: dict) -> dict:
        if backend.get("kind") != POOL or backend["name"] != before["pool"]:
            return backend
        return {**backend, "name": after["pool"], **({"port": after["port"]} if "port" in backend else {})}

    rules = [{**rule, "backendRefs": [moved(one) for one in rule.get("backendRefs") or []]} for rule in rules_of(route)]
    return {**route, "spec": {**route["spec"], "rules": rules}}


def _pod_labels(workload: dict) -> dict[str, str]:
    return next(((template.get("metadata") or {}).get("labels") or {} for template in templates_of(workload)), {})


def _counted(page: str | None, selectors: Sequence[str]) -> float | None:
    """Return how many requests ``page`` counts; None where it does not say."""
    samples = prometheus.samples(page) if page is not None else []
    counts = [prometheus.total(samples, prometheus.selector(text)) for text in selectors]
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def _texts(value: Any) -> Iterator[str]:
    """Return all texts inside of ``value``."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _texts(one)
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _texts(one)
