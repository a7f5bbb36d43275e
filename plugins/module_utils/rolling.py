# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Takes one step of a change from one workload of a model to another while requests come in.

A step is done from what is there, and may be done again: whoever was interrupted takes it once more.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.llm_d.multi_engine.plugins.module_utils import beside, scaling
from ansible_collections.llm_d.multi_engine.plugins.module_utils.adopted import Adopted, difference
from ansible_collections.llm_d.multi_engine.plugins.module_utils.adoption import is_adopted
from ansible_collections.llm_d.multi_engine.plugins.module_utils.applying import Apply
from ansible_collections.llm_d.multi_engine.plugins.module_utils.cluster import (
    Cluster,
    ClusterError,
    Conflict,
    Forbidden,
    Unauthorized,
    Unreachable,
)
from ansible_collections.llm_d.multi_engine.plugins.module_utils.manifests import awaited_first, in_order, name_of
from ansible_collections.llm_d.multi_engine.plugins.module_utils.marks import (
    ENGINE_LABELS,
    REVISION,
    STACK_LABEL,
    TRACK_LABEL,
    is_server,
    labels_of,
)
from ansible_collections.llm_d.multi_engine.plugins.module_utils.pods import is_overdue
from ansible_collections.llm_d.multi_engine.plugins.module_utils.proving import LOOK_EVERY, Progress, Proof, Worse
from ansible_collections.llm_d.multi_engine.plugins.module_utils.serving import backend_of
from ansible_collections.llm_d.multi_engine.plugins.module_utils.sides import Sides, pod_labels, was_taken_over
from ansible_collections.llm_d.multi_engine.plugins.module_utils.waiting import Pending, wait

#: As in role model_service: weights are there before an engine starts.
READY_FIRST = {"Deployment": ["Job", "DaemonSet"], "LeaderWorkerSet": ["Job", "DaemonSet"]}
OLD, BOTH, NEW = "old", "both", "new"


class Rolling:
    """One change of one model.

    :param params: parameters of module ``rollout``, and ``show``: whether somebody wants to see diffs.
    :param servers: objects of role ``model_service`` for the new one.
    :param routing: objects of role ``gaie`` for the new one.
    :param testers: the same of what leads requests of testers to it, the route last.
    """

    def __init__(
        self, cluster: Cluster, params: dict, servers: list[dict], routing: list[dict], testers: list[dict]
    ) -> None:
        self._cluster, self._params = cluster, params
        self._stack, self._namespace, self._model = params["stack"], params["namespace"], params["model"]
        place = self._stack, self._namespace, self._model
        self._adopted = Adopted(cluster, place, params.get("drain") or {})
        self._sides = Sides(cluster, place, params["old"], params["new"], self._adopted)
        self._servers, self._routing = self._settled(servers), routing
        self._workloads = [item for item in self._servers if is_server(item)]
        (self._pool,) = [item for item in routing if item["kind"] == "InferencePool"]
        (self._route,) = [item for item in routing if item["kind"] == "HTTPRoute"]
        old = params["old"]
        #: Whether the new one has a pool and a picker of its own.
        self._apart = bool(old) and old["pool"] != self._pool["metadata"]["name"]
        #: What routes some requests to the new one alone; its route is the last.
        self._beside = self._by_revision(routing) if self._apart else testers
        headers = {beside.TRY_HEADER: params["new"]["revision"]}
        gateway = {**self._route["spec"]["parentRefs"][0], "headers": headers} if self._apart else None
        self._proof = Proof(cluster, params, self._sides, gateway, lambda: self._is_there(self._beside[-1]))
        #: What was changed: objects with their diffs, as module apply returns them.
        self.results: list[dict] = []
        self.diffs: list[dict] = []
        self.warnings: list[str] = self._adopted.warnings

    def _by_revision(self, routing: list[dict]) -> list[dict]:
        return beside.by_revision(routing, self._model, self._params["new"]["revision"])

    def _settled(self, servers: list[dict]) -> list[dict]:
        """Return ``servers`` without what scales them, which comes when they serve: two would write their replicas."""
        old = self._params["old"]
        scaled = any(scaling.is_autoscaler(item) or scaling.start_of(item) is not None for item in servers)
        live = self._sides.workloads(old) if old and scaled else []
        most = max((workload["spec"].get("replicas", 1) for workload in live), default=0)
        return [scaling.fixed(item, most) for item in servers if not scaling.is_autoscaler(item)]

    # --- looking ----------------------------------------------------------------------------

    def room(self) -> dict[str, Any]:
        """Return what the cluster has for the new one beside everything else, as ``rollout.Room`` takes it.

        :raises ClusterError: when it cannot be beside what was taken over.
        """
        if was_taken_over(self._params["old"]):
            self._adopted.refuse([*self._servers, *self._routing, *self._beside])
        return self._sides.room(self._workloads, self._params["leftovers"])

    def ready(self) -> dict[str, int]:
        """Return how many pods of each answer."""
        return self._sides.ready()

    def pickers(self) -> dict[str, dict]:
        """Return by pod what the pickers of both have counted."""
        return self._proof.pickers()

    def _is_there(self, item: dict) -> bool:
        return bool(self._cluster.get(item["apiVersion"], item["kind"], item["metadata"]["name"], self._namespace))

    # --- one step ---------------------------------------------------------------------------

    def take(self, step: Mapping[str, Any], progress: Progress, seconds: float) -> None:
        """Go on with ``step`` for at most about ``seconds``.

        :param progress: how far it was; changed as things happen.
        :raises Worse: when the new one is not fit to serve.
        :raises ClusterError: when the step could not be taken for another reason.
        """
        deadline = time.monotonic() + seconds
        progress.pending = []
        if step["serve"] == OLD and self._params["old"]:
            # Before anything else that the pool might select is there.
            self._serve(OLD)
        if not step["testers"] or (step["attempt"] and self._is_stale()):
            self._end_testing()
        if step["leftovers"]:
            progress.done = self._removed(self._params["leftovers"], progress, deadline)
            return
        if step["rest"]:
            for item in self._adopted.clear([*self._servers, *self._routing]):
                self._remember(item, "removed")
            progress.done = True
            return
        if step["old"] is not None and not self._old(step, progress, deadline):
            return
        if step["new"] == 0:
            # Whoever waits to be told why need not wait for its end, too, unless its picker goes with it: others may
            # wait for their answers.
            gone = self._removed([self._params["new"]], progress, deadline if self._beside else 0)
            if gone or not self._beside:
                self._remove_beside()
                progress.pending, progress.done = [], True
            return
        if step["new"] is not None and not self._raised(step, progress, deadline):
            return
        if step["attempt"]:
            self._proof.try_first(progress)
        if step["testers"]:
            self._apply("gaie", self._beside[-1:])
        if step["serve"] != OLD:
            self._serve(step["serve"])
        if step["judge"]:
            pools = [item["metadata"]["name"] for item in self._beside if item["kind"] == "InferencePool"]
            testers = pools if step["testers"] else []
            progress.done = self._proof.judged(step["hold"], progress, deadline, testers)
        else:
            progress.done = not step["hold"] or self._proof.held(step["hold"], progress, deadline)

    def _old(self, step: Mapping[str, Any], progress: Progress, deadline: float) -> bool:
        """Let the old one have as many replicas as ``step`` says; return whether that is so."""
        old = self._params["old"]
        if step["old"] == 0:
            gone = self._removed([old], progress, deadline)
            if gone and not self._apart:
                self._remove_beside()
            return gone
        for workload in self._sides.workloads(old):
            if workload["spec"].get("replicas", 1) != step["old"]:
                self._cluster.scale(workload, step["old"])
                self._remember(workload, "changed")
        return True

    def _raised(self, step: Mapping[str, Any], progress: Progress, deadline: float) -> bool:
        """Make the new one, with as many replicas as ``step`` says; return whether it is ready."""
        objects = [self._with_replicas(item, step["new"]) for item in self._servers]
        routing = self._ahead(step)
        self._apply("gaie", routing)
        start = time.monotonic()
        while True:
            held_back = self._apply("model_service", objects, READY_FIRST)
            awaited = awaited_first(objects, READY_FIRST) if held_back else [*routing, *objects]
            left = max(0.0, self._params["timeout"] - progress.waited)
            slice_left = max(0.0, deadline - time.monotonic())
            try:
                progress.pending = wait(self._cluster, awaited, left, slice_left, progress.waited)
            except (Unreachable, Unauthorized, Forbidden):
                raise
            except ClusterError as error:
                raise Worse(str(error)) from error
            if progress.pending or not held_back:
                break
        progress.waited += time.monotonic() - start
        return not progress.pending

    def _with_replicas(self, item: dict, count: int) -> dict:
        # Roles of their own, prefill and decode, come all at once.
        if not is_server(item) or len(self._workloads) > 1:
            return item
        return {**item, "spec": {**item["spec"], "replicas": count}}

    # --- who serves -------------------------------------------------------------------------

    def _serve(self, who: str) -> None:
        """Let the pool select ``who``, or the route lead to its pool."""
        if self._apart:
            self._lead_to(who)
        elif self._params["old"]:
            self._select(who)
        else:
            # Nobody else is there: all of it as it is to be.
            self._apply("gaie", self._routing)

    def _lead_to(self, who: str) -> None:
        route, old = self._route, self._params["old"]
        rest = [item for item in self._routing if item is not route] if who == NEW else []
        # All of the pool, for nothing of it was made beside where the old one had to make room.
        self._apply("gaie", rest)
        ours = {**self._params["new"], "port": self._pool["spec"]["targetPorts"][0]["number"]}
        # Before ours, which tells who serves: what came by others is older, and a Gateway takes it.
        for before, after in self._adopted.lead(*((ours, old) if who == OLD else (old, ours))):
            self._remember(before, "changed")
            self.diffs += [difference(before, after)] if self._params["show"] else []
        if who == OLD:
            name = route["metadata"]["name"]
            live = self._cluster.get(route["apiVersion"], route["kind"], name, self._namespace)
            if not live or backend_of(live) == old["pool"]:
                return
            route = beside.with_backend(route, old["pool"], old["port"])
        self._apply("gaie", [route])

    def _ahead(self, step: Mapping[str, Any]) -> list[dict]:
        """Return what of the routing has to be there before the new one is started: pickers before engines."""
        if self._apart:
            return self._beside if step["serve"] == OLD else []
        # Who is selected, and by which requests, is the matter of other steps.
        ahead = [item for item in self._routing if item is not self._pool and item is not self._route]
        if not step["testers"]:
            return ahead
        *routing, way = self._beside
        # Gateways take a pool when a route leads to it, and refuse what is led to one before.
        return [*ahead, *(routing if self._is_there(way) else self._by_revision(self._beside))]

    def _is_stale(self) -> bool:
        """Whether what is in the place of the new one is something else, as a change that was given up leaves it."""
        revision = self._params["new"]["revision"]
        return any(
            (item["metadata"].get("annotations") or {}).get(REVISION) != revision
            for item in self._sides.workloads(self._params["new"])
        )

    def _end_testing(self) -> None:
        """Send testers where everybody is sent, whoever had let them try something."""
        if not self._apart:
            self._remove([{**self._route, "metadata": {"name": beside.route_name(self._model)}}])

    def _remove_beside(self) -> None:
        """Delete what was made beside, and leads nobody to what serves."""
        # What was taken over has routes of its own.
        route = [self._route] if was_taken_over(self._params["old"]) else []
        self._remove(reversed(in_order([*self._beside, *route])))

    def _remove(self, objects: Iterable[dict]) -> None:
        """Delete ``objects`` of the stack, where they are there."""
        for item in objects:
            live = self._cluster.get(item["apiVersion"], item["kind"], item["metadata"]["name"], self._namespace)
            ours = live and labels_of(live).get(STACK_LABEL) == self._stack
            if ours and not is_adopted(live):
                with contextlib.suppress(Conflict):
                    self._cluster.delete(live, dry_run=False)
                    self._remember(live, "removed")

    def _select(self, who: str) -> None:
        labels = dict(self._pool["spec"]["selector"]["matchLabels"])
        old = self._params["old"]
        if who == OLD:
            labels.update(pod_labels(old))
        elif who == BOTH:
            del labels[TRACK_LABEL]
            if old["engine"] != self._params["new"]["engine"]:
                for name in ENGINE_LABELS:
                    del labels[name]
        spec = {**self._pool["spec"], "selector": {"matchLabels": labels}}
        self._apply("gaie", [{**self._pool, "spec": spec}])

    # --- writing ----------------------------------------------------------------------------

    def _apply(self, role: str, objects: list[dict], ready_first: Mapping[str, list[str]] | None = None) -> list[dict]:
        """Apply ``objects`` as ``role`` would; return what is held back until others are ready."""
        if not objects:
            return []
        params = {
            **{name: self._params[name] for name in ("stack", "namespace", "adopt", "force_conflicts")},
            "role": role,
            # What serves is among what is not asked for here.
            "prune": False,
            "allow_empty": False,
            "source_labels": {},
            "upgrade_sources": False,
            "wait_timeout": self._params["timeout"],
        }
        apply = Apply(self._cluster, params, False, show=self._params["show"])
        try:
            return apply.all(objects, ready_first=ready_first)
        finally:
            parents = f"ConfigMap {self._namespace}/"
            self.results += [
                entry
                for entry in apply.results
                if entry["action"] != "unchanged" and not entry["name"].startswith(parents)
            ]
            self.diffs += apply.diffs
            self.warnings += apply.warnings

    def _removed(self, sides: Iterable[Mapping[str, Any]], progress: Progress, deadline: float) -> bool:
        """Delete the workloads of ``sides``; return whether their pods have finished their requests and are gone."""
        sides = list(sides)
        for side in sides:
            live = self._sides.workloads(side)
            if live and was_taken_over(side):
                progress.drained, busy = self._adopted.finished(progress.drained, deadline)
                if busy is not None:
                    reason = f"{len(busy)} pods answer requests, or do not say: {', '.join(sorted(busy)[:3])}"
                    progress.pending = [Pending(f"Model {self._model}", reason)]
                    return False
            for workload in live:
                if not workload["metadata"].get("deletionTimestamp"):
                    with contextlib.suppress(Conflict):  # somebody made it anew
                        self._cluster.delete(workload, dry_run=False)
                        self._remember(workload, "removed")
        while True:
            pods = {pod["metadata"]["name"]: pod for side in sides for pod in self._sides.pods(side)}
            lost = {name for name, pod in pods.items() if is_overdue(pod, time.time())}
            left = pods.keys() - lost
            if not left:
                self.warnings += [
                    f"Pod {name} is not waited for: its node, {pods[name]['spec'].get('nodeName')}, does not let it go."
                    for name in sorted(lost)
                ]
                return True
            pause = min(LOOK_EVERY, deadline - time.monotonic())
            if pause <= 0:
                reason = f"{len(left)} pods finish their requests: {', '.join(sorted(left)[:3])}"
                progress.pending = [Pending(f"Model {self._model}", reason)]
                return False
            time.sleep(pause)

    def _remember(self, workload: dict, action: str) -> None:
        self.results.append({"name": name_of(workload), "action": action, "checked": True})
