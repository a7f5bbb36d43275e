# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Pure functions that turn what was read of a cluster into the files of a support bundle."""

from __future__ import annotations

import io
import re
import tarfile
from collections import Counter
from collections.abc import Iterable

from ansible_collections.llm_d.multi_engine.plugins.module_utils import events as told
from ansible_collections.llm_d.multi_engine.plugins.module_utils.explain import WORKLOADS, explain, pods_of
from ansible_collections.llm_d.multi_engine.plugins.module_utils.manifests import name_of
from ansible_collections.llm_d.multi_engine.plugins.module_utils.pods import troubles
from ansible_collections.llm_d.multi_engine.plugins.module_utils.readiness import judge
from ansible_collections.llm_d.multi_engine.plugins.module_utils.redact import Redactor
from ansible_collections.llm_d.multi_engine.plugins.module_utils.scheduling import has_ended, requests

INDEX = "index.md"
#: Warnings that the index repeats.
WARNINGS = 20
_SERVICE_OF_SLICE = "kubernetes.io/service-name"


def with_made(chosen: list[dict], candidates: list[dict]) -> list[dict]:
    """Return ``chosen`` and those of ``candidates`` that were made from them, or from what was made from them.

    Endpoint slices belong to their Service, claims to the pods that mount them.
    """
    found = {item["metadata"]["uid"]: item for item in chosen}
    left = [item for item in candidates if item["metadata"]["uid"] not in found]
    while True:
        services = {_place(item) for item in found.values() if item["kind"] == "Service"}
        claims = {claim for item in found.values() if item["kind"] == "Pod" for claim in _claims(item)}
        new = [item for item in left if _is_made(item, found, services, claims)]
        if not new:
            return list(found.values())
        found.update({item["metadata"]["uid"]: item for item in new})
        left = [item for item in left if item["metadata"]["uid"] not in found]


def _place(item: dict, name: str = "") -> tuple[str, str]:
    return item["metadata"].get("namespace", ""), name or item["metadata"]["name"]


def _claims(pod: dict) -> list[tuple[str, str]]:
    volumes = [volume.get("persistentVolumeClaim") for volume in pod["spec"].get("volumes") or []]
    return [_place(pod, claim["claimName"]) for claim in volumes if claim]


def _is_made(item: dict, owners: Iterable[str], services: set, claims: set) -> bool:
    metadata = item["metadata"]
    if any(owner["uid"] in owners for owner in metadata.get("ownerReferences") or []):
        return True
    if item["kind"] == "EndpointSlice":
        return _place(item, (metadata.get("labels") or {}).get(_SERVICE_OF_SLICE, "")) in services
    return item["kind"] == "PersistentVolumeClaim" and _place(item) in claims


def needed_secrets(pod: dict) -> dict[str, bool]:
    """Return names of the Secrets that ``pod`` names, and whether it does not start without."""
    spec = pod["spec"]
    references = []
    for volume in spec.get("volumes") or []:
        secret = volume.get("secret") or {}
        references.append((secret.get("secretName"), secret))
        references += [_reference(part.get("secret")) for part in (volume.get("projected") or {}).get("sources") or []]
    for container in (spec.get("initContainers") or []) + (spec.get("containers") or []):
        references += [_reference(source.get("secretRef")) for source in container.get("envFrom") or []]
        references += [
            _reference((entry.get("valueFrom") or {}).get("secretKeyRef")) for entry in container.get("env") or []
        ]
    needed = {entry.get("name"): False for entry in spec.get("imagePullSecrets") or []}
    for name, reference in references:
        needed[name] = needed.get(name, False) or not reference.get("optional", False)
    return {name: required for name, required in needed.items() if name}


def _reference(reference: dict | None) -> tuple[str | None, dict]:
    return (reference or {}).get("name"), reference or {}


def node_facts(nodes: list[dict], pods: list[dict] | None) -> list[dict]:
    """Return what concerns inference of each node.

    :param pods: all of the cluster, None when they are not to be seen.
    """
    return [_node(node, pods) for node in nodes]


def _node(node: dict, pods: list[dict] | None) -> dict:
    metadata, spec, status = node["metadata"], node.get("spec") or {}, node.get("status") or {}
    about = status.get("nodeInfo") or {}
    facts = {
        "name": metadata["name"],
        "labels": metadata.get("labels") or {},
        "unschedulable": spec.get("unschedulable", False),
        "taints": spec.get("taints") or [],
        "capacity": status.get("capacity") or {},
        "allocatable": status.get("allocatable") or {},
        "conditions": status.get("conditions") or [],
        "versions": {
            key: about[key]
            for key in ("kubeletVersion", "containerRuntimeVersion", "kernelVersion", "osImage", "architecture")
            if key in about
        },
    }
    if pods is not None:
        facts["devices_in_use"] = dict(_devices(metadata["name"], pods))
    return facts


def _devices(node: str, pods: list[dict]) -> Counter:
    """Count what pods on a node take of resources that are counted, such as nvidia.com/gpu."""
    used: Counter = Counter()
    for pod in pods:
        if pod["spec"].get("nodeName") != node or has_ended(pod):
            continue
        used.update({key: int(value) for key, value in requests(pod).items() if "/" in key})
    return used


def moment(event: dict) -> str:
    """Return when an event happened last."""
    series = event.get("series") or {}
    return (
        event.get("lastTimestamp")
        or series.get("lastObservedTime")
        or event.get("eventTime")
        or event["metadata"].get("creationTimestamp")
        or ""
    )


def event_line(event: dict) -> str:
    """Return an event as one line."""
    about = event.get("involvedObject") or {}
    count = event.get("count") or (event.get("series") or {}).get("count") or 1
    times = f" ({count} times)" if count > 1 else ""
    place = "/".join(part for part in (about.get("namespace"), about.get("name")) if part)
    message = " ".join(told.message(event).split())
    return f"{moment(event)} {event.get('type')} {event.get('reason')} {about.get('kind')} {place}: {message}{times}"


def events_text(events: list[dict]) -> str:
    """Return events as lines, the last one at the end."""
    return "".join(f"{event_line(event)}\n" for event in sorted(events, key=told.at))


def warnings(events: list[dict]) -> list[str]:
    """Return the last warnings, the last one first."""
    found = [event for event in events if event.get("type") == "Warning"]
    return [event_line(event) for event in sorted(found, key=told.at, reverse=True)[:WARNINGS]]


def not_ready(
    objects: list[dict], events: list[dict], nodes: list[dict] | None, placed: list[dict] | None
) -> list[str]:
    """Return which objects are not ready, and why, as lines; what belongs to a line is indented below it.

    :param nodes: all of the cluster, None when they are not to be seen.
    :param placed: pods of the whole cluster, None when they are not to be seen.
    """
    pods = [item for item in objects if item["kind"] == "Pod"]
    replica_sets = [item for item in objects if item["kind"] == "ReplicaSet"]
    lines, explained = [], set()
    for item in objects:
        state = judge(item)
        if state.ready:
            continue
        lines.append(f"{name_of(item)}: {state.reason}")
        if item["kind"] in WORKLOADS:
            owned = [one for one in replica_sets if _owns(item, one)]
            mine = pods_of(item, owned, [pod for pod in pods if _place(pod)[0] == _place(item)[0]])
            near = [event for event in events if event["involvedObject"].get("namespace") == _place(item)[0]]
            found = explain(item, mine, near, nodes, replica_sets=owned, placed=placed)
            lines += [f"  {line}" for line in found.lines]
            explained |= {pod["metadata"]["uid"] for pod in mine}
    for pod in pods:
        if pod["metadata"]["uid"] not in explained:
            lines += [found.text for found in troubles(pod, told.about(events, pod))]
    return lines


def _owns(owner: dict, owned: dict) -> bool:
    references = owned["metadata"].get("ownerReferences") or []
    return any(reference["uid"] == owner["metadata"]["uid"] for reference in references)


def container_runs(pod: dict) -> list[tuple[str, bool]]:
    """Return the containers of ``pod`` whose logs can be had, and whether those of the run before."""
    status = pod.get("status") or {}
    restarts = {
        container["name"]: container.get("restartCount", 0)
        for kind in ("initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses")
        for container in status.get(kind) or []
    }
    names = [
        container["name"]
        for kind in ("initContainers", "containers", "ephemeralContainers")
        for container in pod["spec"].get(kind) or []
    ]
    return [(name, previous) for name in names for previous in ((False, True) if restarts.get(name) else (False,))]


def restarts(pods: list[dict]) -> list[str]:
    """Return which containers were started again, and how they had ended."""
    lines = []
    for pod in pods:
        for container in (pod.get("status") or {}).get("containerStatuses") or []:
            if container.get("restartCount"):
                ended = (container.get("lastState") or {}).get("terminated") or {}
                how = f", last with exit code {ended.get('exitCode')} ({ended.get('reason')})" if ended else ""
                lines.append(f"{name_of(pod)}, container {container['name']}: {container['restartCount']} times{how}")
    return lines


def tail(text: str, size: int) -> str:
    """Return the last lines of ``text`` that fit into ``size`` bytes."""
    data = text.encode()
    if len(data) <= size:
        return text
    kept = data[-size:].partition(b"\n")[2]
    return f"({len(data) - len(kept)} bytes before this were left out)\n{kept.decode(errors='replace')}"


def file_name(*parts: str) -> str:
    """Return a path inside of the bundle; names of objects hold nothing odd, and whatever does is replaced."""
    return "/".join(re.sub(r"[^\w.()-]", "_", part).lstrip(".") or "_" for part in parts)


def sealed(files: dict[str, str], redactor: Redactor) -> tuple[dict[str, str], list[str]]:
    """Return the files in which no known secret is left, and the names of the others.

    What was learned from one file is looked for in all.
    """
    safe, left_out = {}, []
    for name, text in files.items():
        clean = redactor.scrub(text)
        if redactor.leaks(clean) or redactor.leaks(name):
            left_out.append(redactor.scrub(name))
        else:
            safe[name] = clean
    return safe, left_out


def section(title: str, lines: list[str], nothing: str) -> str:
    """Return a part of the index: lines as a list, indented ones below the line before them."""
    items = [f"{line[: len(line) - len(line.lstrip())]}- {' '.join(line.split())}" for line in lines]
    return f"## {title}\n\n" + ("\n".join(items) or nothing) + "\n\n"


def archive(files: dict[str, str], top: str, when: float) -> bytes:
    """Return a compressed tar of ``files`` in a directory ``top``."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name in sorted(files, key=lambda name: (name != INDEX, name)):
            data = files[name].encode(errors="replace")
            member = tarfile.TarInfo(f"{top}/{name}")
            member.size, member.mode, member.mtime = len(data), 0o600, int(when)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()
