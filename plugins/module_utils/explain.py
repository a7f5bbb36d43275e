# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Tells why the pods of a workload are not ready, and whether waiting for them can help."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ansible_collections.llm_d.multi_engine.plugins.module_utils import events as told
from ansible_collections.llm_d.multi_engine.plugins.module_utils.cluster import Cluster, ClusterError
from ansible_collections.llm_d.multi_engine.plugins.module_utils.marks import PROGRESS, labels_of, selecting
from ansible_collections.llm_d.multi_engine.plugins.module_utils.pods import Trouble, troubles, unscheduled
from ansible_collections.llm_d.multi_engine.plugins.module_utils.scheduling import quantity, verdict

#: Kinds whose pods can be told about.
WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet", "LeaderWorkerSet", "Job")
GROUP_NAME = "leaderworkerset.sigs.k8s.io/name"
#: Seconds for which a pod must be without a node before that counts as final, and where nodes may still come or
#: announce what they offer: an autoscaler takes a while to say so, a device plugin to start.
GRACE = 10
LONG_GRACE = 60
#: Events of autoscalers that add a node for a pod.
_NODES_COME = ("TriggeredScaleUp", "Nominated")
#: Refusals of a pod that pass by themselves: their controllers are a moment late.
_PASSING_REFUSALS = ("error looking up service account", "status unknown for quota")
#: Troubles that are told, and logs that are read.
_TOLD, _LOGS = 8, 3
_QUOTA = re.compile(r"exceeded quota: [^,]+, requested: (?P<requested>\S+), used: \S+, limited: (?P<limited>\S+)")
_REVISIONS = {
    "StatefulSet": "controller-revision-hash",
    "LeaderWorkerSet": "leaderworkerset.sigs.k8s.io/template-revision-hash",
}


@dataclass(frozen=True)
class Explanation:
    """Why a workload is not ready.

    :ivar lines: what is wrong, in Kubernetes' words where it has some.
    :ivar final: whether waiting cannot help.
    :ivar logs: containers whose last log lines tell more: pod, container, whether those of its previous run.
    """

    lines: tuple[str, ...] = ()
    final: bool = False
    logs: tuple[tuple[str, str, bool], ...] = ()


def pods_of(workload: dict, replica_sets: list[dict], pods: list[dict]) -> list[dict]:
    """Return which of ``pods`` are of the newest revision: what is wrong with older ones may be mended by it.

    :param replica_sets: where the workload is a Deployment.
    :param pods: those that its selector matches.
    """
    if not _observed(workload):
        return []
    kind, name = workload["kind"], workload["metadata"]["name"]
    there = [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]
    if kind == "LeaderWorkerSet":
        owned = [pod for pod in there if labels_of(pod).get(GROUP_NAME) == name]
    else:
        owners = {name}
        if kind == "Deployment":
            owners = {one["metadata"]["name"] for one in _newest(workload, replica_sets)}
        owned = [pod for pod in there if _owners(pod) & owners]
    return _of_newest_revision(workload, owned) if kind in _REVISIONS else owned


def _of_newest_revision(workload: dict, pods: list[dict]) -> list[dict]:
    label = _REVISIONS[workload["kind"]]
    newest = (workload.get("status") or {}).get("updateRevision")
    if not newest and pods:
        newest = labels_of(max(pods, key=lambda pod: pod["metadata"].get("creationTimestamp") or "")).get(label)
    # A StatefulSet in order waits for an old pod before it makes a new one.
    return [pod for pod in pods if labels_of(pod).get(label) == newest] or pods


def explain(
    workload: dict,
    pods: Sequence[dict],
    events: Sequence[dict],
    nodes: Sequence[dict] | None,
    *,
    replica_sets: Sequence[dict] = (),
    placed: Sequence[dict] | None = None,
    since: float | None = None,
    now: float | None = None,
) -> Explanation:
    """Return why ``workload`` is not ready.

    :param pods: those of its newest revision.
    :param events: of its namespace.
    :param nodes: all of the cluster, None when they are not to be seen.
    :param replica_sets: of a Deployment.
    :param placed: pods that take room: on the nodes, and in the namespace's quota.
    :param since: time before which nothing counts as final: a change elsewhere may have mended it.
    :param now: time at which the rest was read.
    """
    if not _observed(workload):
        return Explanation()
    now = time.time() if now is None else now
    lines: list[str] = []
    final, logs = False, []
    for found in _refusals(workload, pods, events, replica_sets, placed, since):
        lines.append(found.text)
        final = final or found.final
    groups: dict[str, list[tuple[dict, Trouble]]] = {}
    for pod in sorted(pods, key=lambda pod: pod["metadata"]["name"]):
        own = told.about(events, pod)
        for found in troubles(pod, own, since):
            if workload["kind"] == "Job":
                # It has its own limit of tries, and its own word for having reached it.
                found = dataclasses.replace(found, final=found.final and not found.container)
            anonymous = found.text.replace(pod["metadata"]["name"], "")
            groups.setdefault(anonymous, []).append((pod, found))
            final = final or found.final
    for alike in list(groups.values())[:_TOLD]:
        pod, found = alike[0]
        lines.append(found.text + (f" (so with {len(alike) - 1} more)" if len(alike) > 1 else ""))
        if unscheduled(pod):
            more, never = _unscheduled(pod, told.about(events, pod), events, nodes, placed, now)
            lines += [f"  {line}" for line in more]
            final = final or never
        if found.container:
            logs.append((pod["metadata"]["name"], found.container, found.previous))
    if len(groups) > _TOLD:
        lines.append(f"and {len(groups) - _TOLD} more reasons")
    return Explanation(tuple(lines), final, tuple(logs[:_LOGS]))


def _refusals(
    workload: dict,
    pods: Sequence[dict],
    events: Sequence[dict],
    replica_sets: Sequence[dict],
    placed: Sequence[dict] | None,
    since: float | None,
) -> Iterable[Trouble]:
    """Yield why pods that should be there are not made."""
    kind, name = workload["kind"], workload["metadata"]["name"]
    makers = {name}
    if kind == "Deployment":
        makers = {one["metadata"]["name"] for one in _newest(workload, replica_sets)}
    elif kind == "LeaderWorkerSet":
        # The workers of a group are a StatefulSet of their leader's name.
        makers |= {pod["metadata"]["name"] for pod in pods}
    if kind in ("Deployment", "StatefulSet") and len(pods) >= workload["spec"].get("replicas", 1):
        return
    seen = set()
    for maker in sorted(makers):
        own = [
            event
            for event in sorted(events, key=told.at)
            if event["involvedObject"].get("name") == maker and event["involvedObject"].get("kind") != "Pod"
        ]
        failed, made = told.last(own, "FailedCreate"), told.last(own, "SuccessfulCreate")
        if failed and (not made or told.at(made) <= told.at(failed)):
            yield _refusal(told.message(failed), told.at(failed), workload, placed, since)
            seen.add(maker)
    if kind == "Deployment":
        for one in _newest(workload, replica_sets):
            if one["metadata"]["name"] in seen:
                continue
            for condition in (one.get("status") or {}).get("conditions") or []:
                if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
                    at = told.seconds(condition.get("lastTransitionTime"))
                    yield _refusal(condition.get("message") or "", at, workload, placed, since)


def _refusal(
    message: str, at: float | None, workload: dict, placed: Sequence[dict] | None, since: float | None
) -> Trouble:
    """Return what is wrong when a pod of ``workload`` is refused with ``message``."""
    message = re.sub(r"^(Error creating: |[Cc]reate Pod \S+ in StatefulSet \S+ failed error: )", "", message)
    denied = ("forbidden:" in message or "denied the request" in message) and not any(
        phrase in message for phrase in _PASSING_REFUSALS
    )
    quota = _QUOTA.search(message)
    if quota and not _more_than_all(quota["requested"], quota["limited"]):
        # Pods that are going give back what they have; old ones go when new ones are ready.
        namespace, status = workload["metadata"]["namespace"], workload.get("status") or {}
        going = any(
            pod["metadata"].get("deletionTimestamp") and pod["metadata"].get("namespace") == namespace
            for pod in placed or ()
        )
        denied = not going and status.get("replicas", 0) <= status.get("updatedReplicas", 0)
    return Trouble(f"a pod cannot be made: {message}", final=denied and told.fresh(since, at))


def _more_than_all(requested: str, limited: str) -> bool:
    """Whether a pod asks for more than its quota has when nobody uses it."""
    limits = dict(part.split("=", 1) for part in limited.split(","))
    asked = dict(part.split("=", 1) for part in requested.split(","))
    return any(quantity(value) > quantity(limits[key]) for key, value in asked.items() if key in limits)


def _unscheduled(
    pod: dict,
    own: Sequence[dict],
    events: Sequence[dict],
    nodes: Sequence[dict] | None,
    placed: Sequence[dict] | None,
    now: float,
) -> tuple[list[str], bool]:
    """Return more about why ``pod`` has no node, and whether it never can have one."""
    condition = next(one for one in pod["status"]["conditions"] if one["type"] == "PodScheduled")
    if condition.get("reason") != "Unschedulable":
        # It is held back on purpose, by a scheduling gate.
        return [], False
    found = verdict(pod, nodes or (), placed)
    lines = [*found.lines, *_claims(pod, events)]
    scaling = told.last(own, *_NODES_COME)
    refused = told.last(own, "NotTriggerScaleUp")
    if scaling or refused:
        event = scaling or refused
        lines.append(f"{event['reason']}: {told.message(event)}")
    waited = now - (told.seconds(condition.get("lastTransitionTime")) or now)
    growing = any((node.get("spec") or {}).get("providerID") for node in nodes or ())
    grace = LONG_GRACE if growing or found.absent else GRACE
    coming = scaling or pod["status"].get("nominatedNodeName")
    return lines, found.never and not coming and waited >= grace


def _claims(pod: dict, events: Sequence[dict]) -> list[str]:
    """Return what holds up the volumes that ``pod`` claims."""
    names = [
        volume["persistentVolumeClaim"]["claimName"]
        for volume in (pod.get("spec") or {}).get("volumes") or []
        if volume.get("persistentVolumeClaim")
    ]
    found = []
    for name in names:
        own = [
            event
            for event in sorted(events, key=told.at)
            if (event["involvedObject"].get("kind"), event["involvedObject"].get("name"))
            == ("PersistentVolumeClaim", name)
        ]
        event = told.last(own, "FailedBinding", "ProvisioningFailed")
        if event:
            found.append(f"PersistentVolumeClaim {name}: {event['reason']}: {told.message(event)}")
    return found


class Around:
    """What is around workloads, read once; None where it is not to be seen."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self._read = cluster, {}

    def list(self, kind: str, namespace: str | None = None) -> list[dict] | None:
        """Return all objects of a kind of the core API."""
        key = kind, namespace
        if key not in self._read:
            try:
                self._read[key] = self._cluster.list("v1", kind, namespace)
            except ClusterError:
                self._read[key] = None
        return self._read[key]


def why_not_ready(
    cluster: Cluster, workload: dict, logs: bool = True, since: float | None = None, around: Around | None = None
) -> tuple[list[str], bool]:
    """Return why ``workload`` is not ready, line by line, and whether waiting cannot help.

    :param logs: whether to read the last log lines of its containers too.
    :param since: time before which nothing counts as final.
    :param around: what was read for other workloads in the same look.
    """
    if not _observed(workload):
        return [], False
    around = around or Around(cluster)
    namespace, selector = workload["metadata"]["namespace"], _selector(workload)
    deployment = workload["kind"] == "Deployment"
    replica_sets = cluster.list("apps/v1", "ReplicaSet", namespace, selector) if deployment else []
    pods = pods_of(workload, replica_sets, cluster.list("v1", "Pod", namespace, selector))
    events, nodes, placed = around.list("Event", namespace) or [], None, None
    if any(unscheduled(pod) for pod in pods):
        nodes, placed = around.list("Node"), around.list("Pod")
    elif _meets_quota(events, replica_sets):
        placed = around.list("Pod", namespace)
    found = explain(workload, pods, events, nodes, replica_sets=replica_sets, placed=placed, since=since)
    lines = _with_progress(cluster, pods, found.lines)
    for pod, container, previous in found.logs if logs else ():
        tail = cluster.log_tail(namespace, pod, container, previous)
        if tail:
            run = " in its previous run" if previous else ""
            lines.append(f"last log lines of pod {pod}, container {container}{run}:")
            lines += [f"  {line}" for line in tail.splitlines()]
    return lines, found.final


def _with_progress(cluster: Cluster, pods: Iterable[dict], lines: Iterable[str]) -> list[str]:
    """Return ``lines`` with the last word of containers that say how far they are, instead of that they run."""
    result = list(lines)
    for pod in [pod for pod in pods if _runs_with_progress(pod)][:_LOGS]:
        name, container = pod["metadata"]["name"], pod["metadata"]["annotations"][PROGRESS]
        said = cluster.log_tail(pod["metadata"]["namespace"], name, container, False, lines=1)
        if said:
            beginning = f"pod {name}, container {container}: "
            result = [f"pod {name}: {said}", *(line for line in result if not line.startswith(beginning))]
    return result


def _runs_with_progress(pod: dict) -> bool:
    container = (pod["metadata"].get("annotations") or {}).get(PROGRESS)
    status = pod.get("status") or {}
    statuses = [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
    return any(one["name"] == container and "running" in (one.get("state") or {}) for one in statuses)


def _meets_quota(events: Iterable[dict], replica_sets: Iterable[dict]) -> bool:
    conditions = [one for item in replica_sets for one in (item.get("status") or {}).get("conditions") or []]
    return any("exceeded quota" in (one.get("message") or "") for one in [*events, *conditions])


def selector_of(workload: dict) -> dict:
    """Return the labels of the pods of ``workload``."""
    if workload["kind"] == "LeaderWorkerSet":
        return {GROUP_NAME: workload["metadata"]["name"]}
    return workload["spec"]["selector"].get("matchLabels") or {}


def _selector(workload: dict) -> str:
    return selecting(selector_of(workload))


def _observed(workload: dict) -> bool:
    """Whether the workload's controller has seen it as it is now; not all controllers say so."""
    seen = (workload.get("status") or {}).get("observedGeneration")
    if seen is None and workload["kind"] in ("Job", "LeaderWorkerSet"):
        return True
    return (seen or 0) >= workload["metadata"].get("generation", 0)


def _newest(deployment: dict, replica_sets: Iterable[dict]) -> list[dict]:
    """Return the ReplicaSet of the newest rollout, if it is there."""
    revision = _revision(deployment)
    return [one for one in replica_sets if _revision(one) == revision]


def _revision(item: dict) -> str | None:
    """Return which rollout a Deployment or ReplicaSet is of."""
    return (item["metadata"].get("annotations") or {}).get("deployment.kubernetes.io/revision")


def _owners(pod: dict) -> set[str]:
    return {owner["name"] for owner in pod["metadata"].get("ownerReferences") or []}
