# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Takes one step of a change from one workload of a model to another while requests come in.

A step is done from what is there, and may be done again: whoever was interrupted takes it once more.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.llm_d.multi_engine.plugins.module_utils import beside, canary, capacity, scaling, trying
from ansible_collections.llm_d.multi_engine.plugins.module_utils.applying import Apply
from ansible_collections.llm_d.multi_engine.plugins.module_utils.cluster import (
    Cluster,
    ClusterError,
    Conflict,
    Forbidden,
    Unauthorized,
    Unreachable,
)
from ansible_collections.llm_d.multi_engine.plugins.module_utils.explain import why_not_ready
from ansible_collections.llm_d.multi_engine.plugins.module_utils.manifests import awaited_first, in_order, name_of
from ansible_collections.llm_d.multi_engine.plugins.module_utils.marks import (
    ENGINE_LABELS,
    MODEL_LABEL,
    MODEL_SERVERS,
    REVISION,
    SERVING_LABEL,
    STACK_LABEL,
    TRACK_LABEL,
)
from ansible_collections.llm_d.multi_engine.plugins.module_utils.pods import stays_ready
from ansible_collections.llm_d.multi_engine.plugins.module_utils.readiness import judge
from ansible_collections.llm_d.multi_engine.plugins.module_utils.serving import backend_of
from ansible_collections.llm_d.multi_engine.plugins.module_utils.waiting import Pending, wait

#: As in role model_service: weights are there before an engine starts.
READY_FIRST = {"Deployment": ["Job", "DaemonSet"], "LeaderWorkerSet": ["Job", "DaemonSet"]}
OLD, BOTH, NEW = "old", "both", "new"
#: Seconds for which a new one that serves may be unready: probes of a busy node fail now and then.
_ILL_SECONDS = 20.0
#: Seconds between two looks at pods.
_LOOK_EVERY = 1.0


class Worse(ClusterError):
    """The new one is not fit to serve: the old one has to."""


@dataclass
class Progress:
    """How far a step is.

    :ivar done: whether it is.
    :ivar waited: seconds waited for the new one in this step.
    :ivar held: seconds for which the new one has been well without a break since it got requests.
    :ivar ill: seconds for which it has not been ready since.
    :ivar restarts: of the new one's containers when it got them; None before.
    :ivar tried: pods that have given a completion.
    :ivar begin: what old, new and pickers had counted when the new one got requests, where it is judged by that.
    :ivar holds: how often it has been judged.
    :ivar said: what came of it the last time.
    :ivar pending: what is waited for.
    """

    done: bool = False
    waited: float = 0
    held: float = 0
    ill: float = 0
    restarts: int | None = None
    tried: list[str] = field(default_factory=list)
    begin: dict[str, Any] | None = None
    holds: int = 0
    said: str = ""
    pending: list[Pending] = field(default_factory=list)


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
        self._servers, self._routing = self._settled(servers), routing
        self._workloads = [item for item in self._servers if _is_server(item)]
        (self._pool,) = [item for item in routing if item["kind"] == "InferencePool"]
        (self._route,) = [item for item in routing if item["kind"] == "HTTPRoute"]
        old = params["old"]
        #: Whether the new one has a pool and a picker of its own.
        self._apart = bool(old) and old["pool"] != self._pool["metadata"]["name"]
        #: What routes some requests to the new one alone; its route is the last.
        self._beside = self._by_revision(routing) if self._apart else testers
        #: What was changed: objects with their diffs, as module apply returns them.
        self.results: list[dict] = []
        self.diffs: list[dict] = []
        self.warnings: list[str] = []

    def _by_revision(self, routing: list[dict]) -> list[dict]:
        return beside.by_revision(routing, self._model, self._params["new"]["revision"])

    def _settled(self, servers: list[dict]) -> list[dict]:
        """Return ``servers`` without what scales them, which comes when they serve: two would write their replicas."""
        old = self._params["old"]
        scaled = any(scaling.is_autoscaler(item) or scaling.start_of(item) is not None for item in servers)
        live = self._live(self._labels(old)) if old and scaled else []
        most = max((workload["spec"].get("replicas", 1) for workload in live), default=0)
        return [scaling.fixed(item, most) for item in servers if not scaling.is_autoscaler(item)]

    # --- looking ----------------------------------------------------------------------------

    def room(self) -> dict[str, Any]:
        """Return what the cluster has for the new one beside everything else, as ``rollout.Room`` takes it."""
        replicas = capacity.pods_of(self._workloads)
        needed = capacity.devices(replicas)
        try:
            nodes = self._cluster.list("v1", "Node")
            placed = [pod for pod in self._cluster.list("v1", "Pod") if not self._gives_way(pod)]
        except Forbidden:
            return {"fits": None, "missing": len(replicas), "needed": needed, "free": {}}
        first = replicas[0][0]
        return {
            "fits": capacity.room(replicas, nodes, placed),
            "missing": len(replicas),
            "needed": needed,
            "free": {resource: capacity.free(resource, first, nodes, placed) for resource in needed},
        }

    def _gives_way(self, pod: dict) -> bool:
        """Whether ``pod`` is of the model, and not of the one that serves: it is the new one's, or goes before it."""
        labels, old = pod["metadata"].get("labels") or {}, self._params["old"]
        ours = (
            pod["metadata"].get("namespace") == self._namespace
            and {
                STACK_LABEL: self._stack,
                MODEL_LABEL: self._model,
            }.items()
            <= labels.items()
        )
        return ours and not (old and self._labels(old).items() <= labels.items())

    def ready(self) -> dict[str, int]:
        """Return how many pods of each answer."""
        counts = {OLD: 0, NEW: 0}
        old, new = self._params["old"], self._labels(self._params["new"])
        for pod in self._pods({}):
            labels = pod["metadata"]["labels"]
            if not stays_ready(pod):
                continue
            if new.items() <= labels.items():
                counts[NEW] += 1
            elif old and self._labels(old).items() <= labels.items():
                counts[OLD] += 1
        return counts

    def _labels(self, side: Mapping[str, Any]) -> dict[str, str]:
        return {TRACK_LABEL: side["track"], **dict.fromkeys(ENGINE_LABELS, side["engine"])}

    def _of_model(self) -> dict[str, str]:
        return {STACK_LABEL: self._stack, MODEL_LABEL: self._model}

    def _pods(self, labels: Mapping[str, str]) -> list[dict]:
        """Return the pods of the model with ``labels``, those that go included."""
        return self._cluster.list("v1", "Pod", self._namespace, _text({**self._of_model(), **labels}))

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
        if step["old"] is not None and not self._old(step, progress, deadline):
            return
        if step["new"] == 0:
            # Whoever waits to be told why need not wait for its end, too, unless testers wait for their answers.
            tested = bool(self._beside) and not self._apart
            gone = self._removed([self._params["new"]], progress, deadline if tested else 0)
            if gone or not tested:
                self._remove_beside()
                progress.pending, progress.done = [], True
            return
        if step["new"] is not None and not self._raised(step, progress, deadline):
            return
        if step["attempt"]:
            self._try(progress)
        if step["testers"]:
            self._apply("gaie", self._beside[-1:])
        if step["serve"] != OLD:
            self._serve(step["serve"])
        if step["judge"]:
            progress.done = self._proven(step["hold"], progress, deadline)
        else:
            progress.done = not step["hold"] or self._held(step["hold"], progress, deadline)

    def _old(self, step: Mapping[str, Any], progress: Progress, deadline: float) -> bool:
        """Let the old one have as many replicas as ``step`` says; return whether that is so."""
        old = self._params["old"]
        if step["old"] == 0:
            gone = self._removed([old], progress, deadline)
            if gone and not self._apart:
                self._remove_beside()
            return gone
        for workload in self._live(self._labels(old)):
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
        if not _is_server(item) or len(self._workloads) > 1:
            return item
        return {**item, "spec": {**item["spec"], "replicas": count}}

    def _try(self, progress: Progress) -> None:
        """Let each pod of the new one give a completion, or say which one does not."""
        if self._apart:
            self._ask_by_gateway("is ready and does not answer as it should")
            return
        for pod in self._serving_pods():
            name = pod["metadata"]["name"]
            if name in progress.tried:
                continue
            try:
                trying.ask_pod(self._cluster, self._namespace, pod, self._params["question"])
            except trying.Failed as error:
                raise Worse(f"Pod {name} is ready and does not answer as it should: {error}") from error
            progress.tried.append(name)

    def _held(self, seconds: float, progress: Progress, deadline: float) -> bool:
        """Watch the new one while it serves; return whether it was well for long enough."""
        while True:
            well = self._is_well(progress)
            left = seconds - progress.held
            pause = min(_LOOK_EVERY, max(left, 0.1), deadline - time.monotonic())
            over = well and left <= 0
            if well and (over or pause <= 0):
                self._ask_again()
            if over or pause <= 0:
                return over
            time.sleep(pause)
            progress.held, progress.ill = (progress.held + pause, 0) if well else (0, progress.ill + pause)

    def _ask_by_gateway(self, words: str) -> None:
        """Let the new one give a completion: prefill and decode pods answer together, by a picker that is new, too.

        :raises Worse: when it does not, with ``words``.
        """
        headers = {beside.TRY_HEADER: self._params["new"]["revision"]}
        gateway = {**self._route["spec"]["parentRefs"][0], "headers": headers}
        try:
            trying.ask_gateway(self._cluster, gateway, self._namespace, self._params["question"])
        except trying.Failed as error:
            raise Worse(f"The new one {words}: {error}") from error

    def _ask_again(self) -> None:
        """Let each pod of the new one that serves give one more completion; one of them, behind a pool of its own.

        Counters do not tell of all that fails: an engine counts what it has begun, and a picker what it has sent.

        :raises Worse: when a pod that is ready does not give one.
        """
        if self._apart:
            way = self._beside[-1]
            # Role gaie removes it when all is done, or when it was run alone in the middle.
            if self._cluster.get(way["apiVersion"], way["kind"], way["metadata"]["name"], self._namespace):
                self._ask_by_gateway("serves and does not answer as it should any more")
            return
        for pod in self._serving_pods():
            name = pod["metadata"]["name"]
            try:
                trying.ask_pod(self._cluster, self._namespace, pod, self._params["question"])
            except trying.Failed as error:
                # One that has gone meanwhile is missed by others.
                if name in [other["metadata"]["name"] for other in self._serving_pods()]:
                    raise Worse(f"Pod {name} serves and does not answer as it should any more: {error}") from error

    def _serving_pods(self) -> list[dict]:
        """Return the pods of the new one that answer requests."""
        labels = {**self._labels(self._params["new"]), SERVING_LABEL: "true"}
        return [pod for pod in self._pods(labels) if stays_ready(pod)]

    def _proven(self, seconds: float, progress: Progress, deadline: float) -> bool:
        """Watch the new one while it serves, and compare it with the old one; return whether it may go on.

        :raises Worse: when it does worse, or too little is known and the model goes back then.
        """
        if progress.begin is None:
            progress.begin = self._counted()
        while self._held(seconds, progress, deadline):
            progress.holds += 1
            follows, progress.said = canary.judged(
                progress.begin, self._counted(), self._params["settings"], progress.holds
            )
            if follows == "on":
                return True
            if follows == "back":
                raise Worse(f"The new one was judged after {progress.holds} holds of {seconds} s. {progress.said}")
            progress.held = 0
        return False

    def _counted(self) -> dict[str, Any]:
        """Return what the pods of old and new, and their pickers, have counted."""
        old, new, metrics = self._params["old"], self._params["new"], self._params["metrics"]
        sides = {OLD: old, NEW: {**new, "port": self._params["question"]["port"]}}
        return {
            **{
                name: canary.readings(
                    self._cluster,
                    self._pods({**self._labels(side), SERVING_LABEL: "true"}),
                    side["port"],
                    metrics.get(name, {}),
                )
                for name, side in sides.items()
                if side
            },
            "pickers": self.pickers(),
        }

    def pickers(self) -> dict[str, dict]:
        """Return by pod what the pickers of both have counted."""
        pools = [side["pool"] for side in (self._params["old"], self._params["new"]) if side]
        return canary.pickers(self._cluster, self._namespace, pools, self._params["metrics"].get("picker", {}))

    def _is_well(self, progress: Progress) -> bool:
        """Whether the new one is ready.

        :raises Worse: when it is not for too long, or a container of it has restarted since it got requests.
        """
        restarts = sum(
            status.get("restartCount", 0)
            for pod in self._pods(self._labels(self._params["new"]))
            for status in (pod.get("status") or {}).get("containerStatuses") or []
        )
        if progress.restarts is None:
            progress.restarts = restarts
        live = self._live_new()
        ill = [item for item in live if not judge(item).ready]
        if restarts <= progress.restarts and progress.ill < (_ILL_SECONDS if ill else float("inf")):
            return not ill
        reasons = []
        for item in ill or live:
            lines, _final = why_not_ready(self._cluster, item)
            reasons.append("\n  ".join([f"{name_of(item)}: {judge(item).reason or 'it has restarted'}", *lines]))
        raise Worse("\n".join(["The new one did not stay well when it got requests:", *reasons]))

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
        if who == OLD:
            name = route["metadata"]["name"]
            live = self._cluster.get(route["apiVersion"], route["kind"], name, self._namespace)
            if not live or backend_of(live) == old["pool"]:
                return
            route = beside.with_backend(route, old["pool"], old["port"])
        # All of the pool, for nothing of it was made beside where the old one had to make room.
        self._apply(
            "gaie", [*(item for item in self._routing if item is not self._route), route] if who == NEW else [route]
        )

    def _ahead(self, step: Mapping[str, Any]) -> list[dict]:
        """Return what of the routing has to be there before the new one is started: pickers before engines."""
        if self._apart:
            return self._beside if step["serve"] == OLD else []
        # Who is selected, and by which requests, is the matter of other steps.
        ahead = [item for item in self._routing if item is not self._pool and item is not self._route]
        if not step["testers"]:
            return ahead
        *routing, way = self._beside
        there = self._cluster.get(way["apiVersion"], way["kind"], way["metadata"]["name"], self._namespace)
        # Gateways take a pool when a route leads to it, and refuse what is led to one before.
        return [*ahead, *(routing if there else self._by_revision(self._beside))]

    def _is_stale(self) -> bool:
        """Whether what is in the place of the new one is something else, as a change that was given up leaves it."""
        revision = self._params["new"]["revision"]
        return any((item["metadata"].get("annotations") or {}).get(REVISION) != revision for item in self._live_new())

    def _end_testing(self) -> None:
        """Send testers where everybody is sent, whoever had let them try something."""
        if not self._apart:
            self._remove([{**self._route, "metadata": {"name": beside.route_name(self._model)}}])

    def _remove_beside(self) -> None:
        """Delete what was made beside, and leads nobody to what serves."""
        self._remove(reversed(in_order(self._beside)))

    def _remove(self, objects: Iterable[dict]) -> None:
        """Delete ``objects`` of the stack, where they are there."""
        for item in objects:
            live = self._cluster.get(item["apiVersion"], item["kind"], item["metadata"]["name"], self._namespace)
            if live and (live["metadata"].get("labels") or {}).get(STACK_LABEL) == self._stack:
                with contextlib.suppress(Conflict):
                    self._cluster.delete(live, dry_run=False)
                    self._remember(live, "removed")

    def _select(self, who: str) -> None:
        labels = dict(self._pool["spec"]["selector"]["matchLabels"])
        old = self._params["old"]
        if who == OLD:
            labels.update(self._labels(old))
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
        labels = [self._labels(side) for side in sides]
        for own in labels:
            for workload in self._live(own):
                if not workload["metadata"].get("deletionTimestamp"):
                    with contextlib.suppress(Conflict):  # somebody made it anew
                        self._cluster.delete(workload, dry_run=False)
                        self._remember(workload, "removed")
        while True:
            left = [pod["metadata"]["name"] for own in labels for pod in self._pods(own)]
            if not left:
                return True
            pause = min(_LOOK_EVERY, deadline - time.monotonic())
            if pause <= 0:
                reason = f"{len(left)} pods finish their requests: {', '.join(sorted(left)[:3])}"
                progress.pending = [Pending(f"Model {self._model}", reason)]
                return False
            time.sleep(pause)

    def _remember(self, workload: dict, action: str) -> None:
        self.results.append({"name": name_of(workload), "action": action, "checked": True})

    def _live(self, labels: Mapping[str, str]) -> list[dict]:
        text = _text({**self._of_model(), **labels})
        return [
            item for kind, api in MODEL_SERVERS.items() for item in self._cluster.list(api, kind, self._namespace, text)
        ]

    def _live_new(self) -> list[dict]:
        return self._live(self._labels(self._params["new"]))


def _is_server(item: Mapping[str, Any]) -> bool:
    return item["kind"] in MODEL_SERVERS and MODEL_LABEL in (item["metadata"].get("labels") or {})


def _text(labels: Mapping[str, str]) -> str:
    return ",".join(f"{key}={value}" for key, value in labels.items())
