# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Pure functions that tell which nodes could hold a pod, and why the others cannot."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

_SUFFIXES = {
    **{f"{letter}i": Decimal(1024) ** power for power, letter in enumerate("KMGTPE", 1)},
    **{letter: Decimal(1000) ** power for power, letter in enumerate("kMGTPE", 1)},
    "m": Decimal("0.001"),
    "u": Decimal("0.000001"),
    "n": Decimal("0.000000001"),
}
#: Beginnings of taints that come and go by themselves.
_PASSING = (
    "node.kubernetes.io/",
    "node.cloudprovider.kubernetes.io/",
    "ToBeDeletedByClusterAutoscaler",
    "DeletionCandidateOfClusterAutoscaler",
    "karpenter.sh/",
)
#: Nodes named in a line, and pods.
_NAMED = 3


@dataclass(frozen=True)
class Obstacle:
    """Why a node does not take a pod.

    :ivar text: what is in the way.
    :ivar lasting: whether it stays, however many other pods end.
    :ivar taken: resource that other pods have too much of, if that is it.
    """

    text: str
    lasting: bool
    taken: str | None = None


def quantity(text: str | float) -> Decimal:
    """Return the number that a Kubernetes quantity stands for."""
    text = str(text)
    for suffix, factor in _SUFFIXES.items():
        if text.endswith(suffix):
            return Decimal(text[: -len(suffix)]) * factor
    return Decimal(text)


def shown(resource: str, value: Decimal) -> str:
    """Return an amount of ``resource`` for people."""
    if resource in ("memory", "ephemeral-storage"):
        return f"{value / Decimal(1024) ** 3:.1f}Gi".replace(".0Gi", "Gi")
    return f"{value.normalize():f}"


def requests(pod: dict) -> dict[str, Decimal]:
    """Return what ``pod`` asks its node for, as the scheduler counts it."""
    spec = pod.get("spec") or {}
    steady: dict[str, Decimal] = defaultdict(Decimal)
    for container in spec.get("containers") or []:
        _add(steady, _asked(container))
    # Sidecars run on; what else runs first needs its own share and that of the sidecars before it.
    sidecars: dict[str, Decimal] = defaultdict(Decimal)
    highest: dict[str, Decimal] = {}
    for container in spec.get("initContainers") or []:
        asked = _asked(container)
        if container.get("restartPolicy") == "Always":
            _add(sidecars, asked)
            _add(steady, asked)
            asked = {}
        for resource in {*asked, *sidecars}:
            needed = sidecars.get(resource, Decimal(0)) + asked.get(resource, Decimal(0))
            highest[resource] = max(highest.get(resource, Decimal(0)), needed)
    total = {key: max(steady.get(key, Decimal(0)), highest.get(key, Decimal(0))) for key in {*steady, *highest}}
    # Requests of the pod as a whole replace the sums.
    total.update(_asked(spec))
    _add(total, {key: quantity(value) for key, value in (spec.get("overhead") or {}).items()})
    return {"pods": Decimal(1), **{key: value for key, value in total.items() if value}}


def _asked(holder: dict) -> dict[str, Decimal]:
    return {key: quantity(value) for key, value in ((holder.get("resources") or {}).get("requests") or {}).items()}


def _add(total: dict[str, Decimal], more: dict[str, Decimal]) -> None:
    for key, value in more.items():
        total[key] = total.get(key, Decimal(0)) + value


def obstacles(pod: dict, node: dict, neighbours: Sequence[dict] | None) -> list[Obstacle]:
    """Return why ``node`` does not take ``pod``; nothing when nothing is known.

    :param neighbours: pods on the node, None when they are not to be seen.
    """
    found = [*_selection(pod, node), *_taints(pod, node)]
    if (node.get("spec") or {}).get("unschedulable"):
        found.append(Obstacle("is cordoned", lasting=False))
    return found + _room(pod, node, neighbours)


def _selection(pod: dict, node: dict) -> list[Obstacle]:
    spec, labels = pod.get("spec") or {}, node["metadata"].get("labels") or {}
    found = [
        Obstacle(f"has no label {key}={value}", lasting=True)
        for key, value in (spec.get("nodeSelector") or {}).items()
        if labels.get(key) != value
    ]
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    terms = required.get("nodeSelectorTerms")
    fields = {"metadata.name": node["metadata"]["name"]}
    if terms is not None and not any(_matches(term, labels, fields) for term in terms):
        wanted = " or ".join(_readable(term) for term in terms)
        found.append(Obstacle(f"does not match the node affinity ({wanted})", lasting=True))
    return found


def _matches(term: dict, labels: dict, fields: dict) -> bool:
    expressions, of_fields = term.get("matchExpressions") or [], term.get("matchFields") or []
    # A term that asks for nothing matches no node.
    return bool(expressions or of_fields) and all(
        [
            *(_holds(expression, labels) for expression in expressions),
            *(_holds(expression, fields) for expression in of_fields),
        ]
    )


def _holds(expression: dict, labels: dict) -> bool:
    key, operator, values = expression["key"], expression["operator"], expression.get("values") or []
    label = labels.get(key)
    if operator == "In":
        return label in values
    if operator == "NotIn":
        return label not in values
    if operator == "Exists":
        return label is not None
    if operator == "DoesNotExist":
        return label is None
    try:
        number, bound = int(label or ""), int(values[0])
    except ValueError:
        return False
    return number > bound if operator == "Gt" else number < bound


def _readable(term: dict) -> str:
    return ", ".join(
        " ".join(
            [expression["key"], expression["operator"], *filter(None, [", ".join(expression.get("values") or [])])]
        )
        for expression in (term.get("matchExpressions") or []) + (term.get("matchFields") or [])
    )


def _taints(pod: dict, node: dict) -> list[Obstacle]:
    tolerations = (pod.get("spec") or {}).get("tolerations") or []
    found = []
    for taint in (node.get("spec") or {}).get("taints") or []:
        key = taint["key"]
        if taint["effect"] == "PreferNoSchedule" or any(_tolerates(one, taint) for one in tolerations):
            continue
        if key == "node.kubernetes.io/unschedulable":  # told as cordoned
            continue
        value = f"={taint['value']}" if taint.get("value") else ""
        passing = key.startswith(_PASSING) or key.endswith("not-ready")
        found.append(Obstacle(f"taint {key}{value}:{taint['effect']} is not tolerated", lasting=not passing))
    return found


def _tolerates(toleration: dict, taint: dict) -> bool:
    if toleration.get("effect") not in (None, "", taint["effect"]):
        return False
    if toleration.get("operator") == "Exists":
        return toleration.get("key") in (None, "", taint["key"])
    return toleration.get("key") == taint["key"] and toleration.get("value", "") == (taint.get("value") or "")


def _room(pod: dict, node: dict, neighbours: Sequence[dict] | None) -> list[Obstacle]:
    status = node.get("status") or {}
    allocatable, capacity = status.get("allocatable") or {}, status.get("capacity") or {}
    used: dict[str, Decimal] = {}
    for one in neighbours or ():
        _add(used, requests(one))
    found = []
    for resource, wanted in sorted(requests(pod).items()):
        offered = quantity(allocatable.get(resource, "0"))
        # A device plugin that restarts or finds a device ill takes back what is allocatable, not the capacity.
        most = max(offered, quantity(capacity.get(resource, "0"))) if "/" in resource else offered
        text, amount = f"{shown(resource, wanted)} {resource} asked for", shown(resource, offered)
        if wanted > offered:
            at_most = f" ({shown(resource, most)} in all)" if most > offered else ""
            found.append(Obstacle(f"{text}, {amount} offered{at_most}", lasting=wanted > most))
        elif wanted > offered - used.get(resource, Decimal(0)):
            free = max(offered - used[resource], Decimal(0))
            found.append(Obstacle(f"{text}, {shown(resource, free)} of {amount} free", lasting=False, taken=resource))
    return found


@dataclass(frozen=True)
class Verdict:
    """Which nodes could hold a pod.

    :ivar lines: why the nodes do not take it, nodes with the same reasons together.
    :ivar never: whether none of the nodes ever can.
    :ivar absent: a resource that no node offers at all, if any.
    """

    lines: tuple[str, ...]
    never: bool
    absent: str | None = None


def verdict(pod: dict, nodes: Sequence[dict], placed: Iterable[dict] | None) -> Verdict:
    """Return why none of ``nodes`` takes ``pod``.

    :param placed: pods that have a node, None when they are not to be seen.
    """
    on_node = None if placed is None else by_node(placed)
    alike: dict[tuple[str, ...], list[str]] = defaultdict(list)
    possible, taken = False, set()
    for node in nodes:
        name = node["metadata"]["name"]
        found = obstacles(pod, node, None if on_node is None else on_node.get(name, []))
        possible = possible or not any(one.lasting for one in found)
        taken.update(one.taken for one in found if one.taken)
        alike[tuple(one.text for one in found)].append(name)
    groups = sorted(alike.items(), key=lambda group: -len(group[1]))
    lines = [f"{_nodes(names)}: {'; '.join(texts)}" for texts, names in groups if texts]
    # Every pod uses some memory and CPU: a list of them tells nothing.
    lines += [_users(resource, on_node or {}) for resource in sorted(taken) if "/" in resource]
    absent = [one for one in sorted(requests(pod)) if not any(_offers(node, one) for node in nodes)]
    return Verdict(tuple(lines), bool(nodes) and not possible, absent[0] if nodes and absent else None)


def has_ended(pod: Mapping[str, Any]) -> bool:
    """Whether a pod has run to its end, and holds nothing any more."""
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def by_node(placed: Iterable[dict]) -> dict[str, list[dict]]:
    """Return by node the pods that hold something of it."""
    found = defaultdict(list)
    for pod in placed:
        node = (pod.get("spec") or {}).get("nodeName")
        if node and not has_ended(pod):
            found[node].append(pod)
    return found


def _offers(node: dict, resource: str) -> bool:
    status = node.get("status") or {}
    return any(quantity((status.get(key) or {}).get(resource, "0")) > 0 for key in ("allocatable", "capacity"))


def _nodes(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{'node' if len(names) == 1 else 'nodes'} {', '.join(sorted(names)[:_NAMED])}{more}"


def _users(resource: str, on_node: dict[str, list[dict]]) -> str:
    users = {
        f"{pod['metadata'].get('namespace')}/{pod['metadata']['name']}": amount
        for pods in on_node.values()
        for pod in pods
        if (amount := requests(pod).get(resource))
    }
    largest = sorted(users.items(), key=lambda user: (-user[1], user[0]))
    more = f" and {len(largest) - _NAMED} more" if len(largest) > _NAMED else ""
    named = ", ".join(f"{name} ({shown(resource, amount)})" for name, amount in largest[:_NAMED])
    return f"{resource} is used by pods {named}{more}"
