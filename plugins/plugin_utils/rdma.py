# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""What pods get that talk to each other by RDMA: a resource of the node, locked memory, and the names of network cards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from . import network_cards
from .findings import Finding
from .placeholders import fill_text
from .profiles import merge

RULE = "rdma"
#: Network cards read and write memory that is locked.
CAPABILITY = "IPC_LOCK"


def asks_hosts(models: Any, defaults: Any) -> bool:
    """Whether some model leaves it to the GPU hosts which network cards it uses.

    :param models: the models and what is true of all, as the inventory has them and not checked yet.
    """
    for model in models if isinstance(models, (list, tuple)) else ():
        given = model.get("rdma", _own(defaults)) if isinstance(model, Mapping) else None
        if isinstance(given, Mapping) and given and "devices" not in given:
            return True
    return False


def _own(defaults: Any) -> Any:
    return defaults.get("rdma") if isinstance(defaults, Mapping) else None


def resolve(
    pods: Mapping[str, Any],
    where: str,
    disaggregated: bool,
    facts: Mapping[str, Any],
    hosts: Sequence[Mapping[str, Any]],
    findings: list[Finding],
) -> dict[str, Any]:
    """Return ``resources``, ``capabilities``, ``env`` and ``arguments`` of pods, changed for RDMA where they ask for it.

    :param pods: the model as these pods see it, with ``vendor`` and ``devices``; its ``resources`` and ``env`` win.
    :param facts: effective profile of its engine.
    :param hosts: GPU hosts, see :func:`network_cards.host`; none when nobody knows them.
    :returns: also ``rdma_devices``, the network cards (may be empty: the engine chooses), and ``rdma_count``, how
        much of which resource (dict) a node has to offer.
    """
    result = {
        "resources": pods["resources"],
        "capabilities": pods["capabilities"],
        "env": {},
        "arguments": [],
        "rdma_devices": [],
        "rdma_count": {},
    }
    given = pods["rdma"]
    if not given:
        return result
    result["capabilities"] = list(dict.fromkeys([*pods["capabilities"], CAPABILITY]))
    if given.get("resource"):
        count = given.get("count") or 1
        result["rdma_count"] = {given["resource"]: count}
        # Kubernetes wants the same of an extended resource in both.
        wanted = {given["resource"]: str(count)}
        result["resources"] = merge({"requests": wanted, "limits": wanted}, pods["resources"])
    elif given.get("count"):
        problem = f"{given['count']}, but {where}.rdma.resource is not set."
        findings.append(
            Finding(RULE, f"{where}.rdma.count", problem, "Set what the RDMA device plugin offers, such as rdma/ib.")
        )
    names = given["devices"] if "devices" in given else _of_hosts(pods, where, hosts, findings)
    own = facts.get("rdma")
    if not names or not own:
        return result
    values = {
        "devices": ",".join(name.partition(":")[0] for name in names),
        "ports": ",".join(name if ":" in name else f"{name}:1" for name in names),
    }
    env = dict(own["env"])
    if len(names) == sum(pods["devices"].values()):
        env |= own["one_per_gpu"]
    arguments = own["disaggregated"] if disaggregated else []
    return {
        **result,
        "rdma_devices": list(names),
        "env": {name: fill_text(value, values) for name, value in env.items()},
        "arguments": [fill_text(argument, values) for argument in arguments],
    }


def _of_hosts(
    pods: Mapping[str, Any], where: str, hosts: Sequence[Mapping[str, Any]], findings: list[Finding]
) -> list[str]:
    """Return the network cards that all hosts have which may run these pods; say when there is no such list."""
    gpus = sum(pods["devices"].values())
    able = [item for item in hosts if network_cards.may_run(item, pods["vendor"], gpus, pods["node_selector"])]
    problem = network_cards.problem_of(able)
    if problem:
        findings.append(Finding("rdma-hosts", f"{where}.rdma.devices", *problem, overridable=True))
        return []
    return [card["name"] for card in able[0]["cards"]] if able else []
