# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""What decides whether a node may leave service, has left it, and may come back."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any
from xml.etree import ElementTree

from ansible_collections.llm_d.multi_engine.plugins.module_utils.marks import MODEL_LABEL
from ansible_collections.llm_d.multi_engine.plugins.module_utils.pods import stays_ready
from ansible_collections.llm_d.multi_engine.plugins.module_utils.scheduling import has_ended, quantity

from . import host_reboot
from .findings import listing
from .objects import POD_ROLE_LABEL

Object = Mapping[str, Any]
#: Label that LeaderWorkerSet gives to all pods of one group.
_GROUP = "leaderworkerset.sigs.k8s.io/group-key"
_MIRROR = "kubernetes.io/config.mirror"
#: What the fabric of a GPU says of itself where there is none, and where it is up.
_NO_FABRIC, _FABRIC_UP = "N/A", {"state": "Completed", "status": "Success"}


def last_replicas(pods: Iterable[Object], nodes: Collection[str], movable: bool = False) -> list[str]:
    """Return which models would be left without a ready replica if ``nodes`` went.

    :param pods: of model servers, those on other nodes included.
    :param nodes: names of nodes that go at the same time.
    :param movable: leave out models with several ready replicas there: one can stay while another one moves.
    """
    told = []
    for (namespace, model, role), going in _losses(pods, nodes):
        if not (movable and len(going) > 1):
            names = listing(_name(pod) for members in going for pod in members)
            told.append(f"model {model}{f' ({role})' if role else ''} of namespace {namespace}: {names}")
    return told


def held_back(pods: Iterable[Object], nodes: Collection[str]) -> list[dict[str, str]]:
    """Return the pods (``namespace``, ``name``) that stay until their model has a ready replica elsewhere.

    They are those of one replica of each model whose ready replicas are all on ``nodes``.
    """
    return [
        {"namespace": pod["metadata"]["namespace"], "name": _name(pod)}
        for _kind, going in _losses(pods, nodes)
        for pod in going[0]
    ]


def _losses(pods: Iterable[Object], nodes: Collection[str]) -> list[tuple[tuple[str, str, str], list[list[Object]]]]:
    """Return the models (namespace, name, kind of pods) whose ready replicas are all on ``nodes``, with those.

    A model that is split counts per kind of pods (prefill, decode): it needs one of each. A group of pods over
    several nodes is one replica, and gone with any of its pods. What is not ready now is nobody's loss.
    """
    found: dict[tuple[str, str, str], dict[str, list[Object]]] = {}
    for pod in sorted(pods, key=_name):
        labels = pod["metadata"].get("labels") or {}
        if MODEL_LABEL in labels:
            kind = (pod["metadata"]["namespace"], labels[MODEL_LABEL], labels.get(POD_ROLE_LABEL, ""))
            found.setdefault(kind, {}).setdefault(labels.get(_GROUP, _name(pod)), []).append(pod)
    losses = []
    for kind, replicas in sorted(found.items()):
        ready = [members for members in replicas.values() if all(map(stays_ready, members))]
        going = [members for members in ready if any(_node(pod) in nodes for pod in members)]
        if going and len(going) == len(ready):
            losses.append((kind, going))
    return losses


def left(pods: Iterable[Object]) -> list[str]:
    """Return the pods that a drained node still has: all but those of DaemonSets, of files, and ended ones."""
    return sorted(
        f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
        for pod in pods
        if not has_ended(pod)
        and _MIRROR not in (pod["metadata"].get("annotations") or {})
        and not any(owner["kind"] == "DaemonSet" for owner in pod["metadata"].get("ownerReferences") or [])
    )


def devices(node: Object) -> dict[str, str]:
    """Return the devices that a node offers: resources of somebody's domain, such as ``nvidia.com/gpu``."""
    offered = (node.get("status") or {}).get("allocatable") or {}
    return {name: str(count) for name, count in sorted(offered.items()) if "/" in name and quantity(count)}


def node_faults(node: Object, before: Mapping[str, str]) -> list[str]:
    """Return what a node lacks to take pods again.

    :param before: what :func:`devices` returned before it left service.
    """
    status = node.get("status") or {}
    ready = next((item for item in status.get("conditions") or [] if item["type"] == "Ready"), {})
    faults = []
    if ready.get("status") != "True":
        faults.append(f"it is not Ready: {ready.get('message') or 'its kubelet has said nothing'}")
    offered = status.get("allocatable") or {}
    for name, count in before.items():
        if quantity(offered.get(name, 0)) < quantity(count):
            faults.append(f"{name} is {offered.get(name, 0)}, before it was {count}")
    return faults


def host_faults(facts: Mapping[str, Any], gpus: int, report: str = "", rebooted: bool = False) -> list[str]:
    """Return what a host lacks to serve again, by its facts and by the driver's own word.

    :param facts: what module ``gpu_facts`` returns.
    :param gpus: how many GPUs it had.
    :param report: what ``nvidia-smi -q -x`` prints; empty where there is none.
    :param rebooted: whether it was rebooted, so that everything should be as its files say.
    """
    kernel, driver = facts["kernel"], facts["driver"]
    faults = []
    if len(facts["gpus"]) < gpus:
        faults.append(f"{len(facts['gpus'])} GPUs are on the PCI bus, before there were {gpus}")
    if rebooted and kernel["running"] != kernel["next"]:
        faults.append(f"kernel {kernel['running']} runs, {kernel['next']} should")
    if rebooted and facts["nouveau"]["loaded"] and facts["nouveau"]["blacklisted"]:
        faults.append("nouveau is loaded again; make the initramfs anew")
    if rebooted and (reasons := host_reboot.network(facts)):
        faults.append(f"{reasons[0]}, and this one did not; make the initramfs anew")
    wanted, loaded = driver["running_kernel"], driver["loaded"]
    if wanted and not loaded:
        faults.append(f"driver {wanted['version']} is installed and not loaded; the kernel's log tells why")
    elif wanted and wanted["version"] and wanted["version"] != loaded["version"]:
        faults.append(f"driver {loaded['version']} is loaded, installed is {wanted['version']}")
    return faults + (_reported(facts, report) if report and loaded else [])


def _reported(facts: Mapping[str, Any], report: str) -> list[str]:
    try:
        root = ElementTree.fromstring(report)
    except ElementTree.ParseError:
        return [f"nvidia-smi tells nothing of the GPUs: {report.strip()[:300]}"]
    cards = root.findall("gpu")
    there = sum(card["vendor"] == "nvidia" for card in facts["gpus"])
    faults = []
    if len(cards) < there:
        faults.append(f"the driver answers for {len(cards)} of {there} GPUs")
    for card in cards:
        faults += [f"GPU {card.get('id')}: {fault}" for fault in _card_faults(card)]
    return faults


def _card_faults(card: ElementTree.Element) -> list[str]:
    faults = []
    for name, wanted in _FABRIC_UP.items():
        said = card.findtext(f"fabric/{name}", _NO_FABRIC)
        if said not in (_NO_FABRIC, wanted):
            faults.append(f"{name} of its fabric is {said}, not {wanted}: see the Fabric Manager's log")
    volatile = card.findall("ecc_errors/volatile/*")
    errors = sum(
        int(item.text or 0) for item in volatile if "uncorrectable" in item.tag and (item.text or "").isdigit()
    )
    if errors:
        faults.append(f"{errors} memory errors that could not be corrected since it was started")
    if card.findtext("remapped_rows/remapped_row_failure") == "Yes":
        faults.append("its memory has no spare rows any more; it has to be replaced")
    if card.findtext("remapped_rows/remapped_row_pending") == "Yes":
        faults.append("rows of its memory wait to be remapped; it needs another reset")
    return faults


def _name(pod: Object) -> str:
    return pod["metadata"]["name"]


def _node(pod: Object) -> str | None:
    return (pod.get("spec") or {}).get("nodeName")
