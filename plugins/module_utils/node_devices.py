# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Pure functions that tell which nodes offer devices to pods, and why others do not yet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from ansible_collections.llm_d.multi_engine.plugins.module_utils import events as told
from ansible_collections.llm_d.multi_engine.plugins.module_utils.pods import troubles

#: Nodes that are told of, and logs that are read.
TOLD, LOGS = 8, 2


@dataclass(frozen=True)
class Late:
    """A node that does not offer what it should.

    :ivar node: its name.
    :ivar lines: why, as far as the pods on it say.
    :ivar final: whether waiting cannot help.
    :ivar logs: pod, container and whether those of its previous run tell more.
    """

    node: str
    lines: tuple[str, ...]
    final: bool = False
    logs: tuple[tuple[str, str, bool], ...] = ()


def offered(node: dict, patterns: Iterable[str]) -> dict[str, int]:
    """Return what ``node`` offers of the resources whose names fit ``patterns`` (as of a shell), if any."""
    allocatable = (node.get("status") or {}).get("allocatable") or {}
    found = {
        name: int(count) for name, count in allocatable.items() if any(fnmatchcase(name, item) for item in patterns)
    }
    return {name: count for name, count in found.items() if count}


def why_late(
    node: dict | None,
    name: str,
    pods: Sequence[dict],
    events: Sequence[dict],
    daemon_sets: Sequence[dict],
    since: float,
) -> Late:
    """Return why a node offers nothing.

    :param pods: those of the namespace of what gives devices to pods, on whichever node.
    :param daemon_sets: those of that namespace.
    :param since: time before which nothing counts as final.
    """
    if node is None:
        return Late(name, ("the cluster has no such node",), final=True)
    here = [pod for pod in pods if (pod["spec"].get("nodeName") or _meant_for(pod)) == name]
    lines, logs, final = [], [], False
    if not _ready(node):
        lines.append("the node is not ready")
    for pod in here:
        for trouble in troubles(pod, told.about(events, pod), since):
            lines.append(trouble.text)
            final = final or trouble.final
            if trouble.container:
                logs.append((pod["metadata"]["name"], trouble.container, trouble.previous))
    if not here:
        lines += _no_pod(daemon_sets, pods, events, since)
    elif not lines:
        names = ", ".join(pod["metadata"]["name"] for pod in here)
        lines.append(
            f"{names} {'runs' if len(here) == 1 else 'run'} and found no GPU, or the kubelet does not know it yet"
        )
        logs += [(pod["metadata"]["name"], pod["spec"]["containers"][0]["name"], False) for pod in here]
    return Late(name, tuple(lines), final, tuple(logs))


def failure(
    late: Sequence[Late], logs: dict[tuple, str], patterns: Iterable[str], spent: float, timed_out: bool
) -> str:
    """Return the message of a wait that failed.

    :param logs: last lines by pod, container and run.
    """
    why = f"after {spent:.0f} s" if timed_out else f"given up after {spent:.0f} s, waiting cannot help"
    lines = [f"{len(late)} node(s) offer no {' or '.join(patterns)} ({why}):"]
    for item in late[:TOLD]:
        lines.append(f"- {item.node}: {'; '.join(item.lines)}")
        for key in item.logs:
            if logs.get(key):
                lines.append(f"  last log lines of pod {key[0]}, container {key[1]}:")
                lines += [f"    {line}" for line in logs[key].splitlines()]
    if len(late) > TOLD:
        lines.append(f"- and {len(late) - TOLD} more: {', '.join(item.node for item in late[TOLD:])}")
    return "\n".join(lines)


def _no_pod(daemon_sets: Sequence[dict], pods: Sequence[dict], events: Sequence[dict], since: float) -> list[str]:
    """Return why there is no pod on a node: its DaemonSet does not want one there, or what makes it is broken."""
    broken = [trouble.text for pod in pods for trouble in troubles(pod, told.about(events, pod), since)]
    if not daemon_sets:
        return ["no DaemonSet is there that would run on it", *broken[:1]]
    names = ", ".join(item["metadata"]["name"] for item in daemon_sets)
    refused = [
        told.message(event)
        for item in daemon_sets
        for event in told.about(events, item)
        if event.get("reason") == "FailedCreate"
    ]
    return [f"no pod of {names} is on it: its labels or taints keep them away", *refused[-1:], *broken[:1]]


def _meant_for(pod: dict) -> str | None:
    """Return the node that a DaemonSet made a pod for, before the scheduler has put it there."""
    affinity = (pod["spec"].get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    for term in required.get("nodeSelectorTerms") or []:
        for field in term.get("matchFields") or []:
            if field.get("key") == "metadata.name":
                return next(iter(field.get("values") or []), None)
    return None


def _ready(node: dict) -> bool:
    conditions = (node.get("status") or {}).get("conditions") or []
    return all(item["status"] == "True" for item in conditions if item["type"] == "Ready")
