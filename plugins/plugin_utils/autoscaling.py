# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""How many replicas a model has where that is left to an autoscaler: decisions, objects, and what a cluster lacks for it.

KEDA scales by what the endpoint picker sees of the engines, which Prometheus has read from it. A
HorizontalPodAutoscaler scales by metrics that the user names and the cluster serves already.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.llm_d.multi_engine.plugins.module_utils.marks import (
    AUTOSCALERS,
    INITIAL_REPLICAS,
    MODEL_SERVERS,
)

from .disaggregated import TOPOLOGY as DISAGGREGATED
from .findings import Finding, listing
from .objects import Object, labels, make, without_empty, workload_kind
from .placeholders import fill_text

RULE = "autoscaling"
KEDA, HPA, EXISTING = "keda", "hpa", "existing"
#: Definition that says that the cluster has KEDA.
CRD = "scaledobjects.keda.sh"
PROMETHEUS = "llm_d_prometheus"
#: Seconds between two looks at Prometheus, and until the last replica goes, as in llm-d's guide.
_POLLING, _IDLE = 15, 300
#: Requests that wait in a pod's engine from which on pickers call it saturated (GAIE v1.5.0, source).
_QUEUED = 5
#: What only one of them reads.
_READ_BY = {
    "queued_requests": KEDA,
    "running_requests": KEDA,
    "idle_seconds": KEDA,
    "authentication": KEDA,
    "metrics": HPA,
}
#: Type of a metric to the API that serves it, and where its name is.
_APIS = {
    "Resource": "metrics.k8s.io",
    "ContainerResource": "metrics.k8s.io",
    "Pods": "custom.metrics.k8s.io",
    "Object": "custom.metrics.k8s.io",
    "External": "external.metrics.k8s.io",
}


def resolve(
    entry: Mapping[str, Any],
    where: str,
    release: Mapping[str, Any],
    settings: Mapping[str, Any],
    findings: list[Finding],
) -> dict[str, Any]:
    """Return the autoscaling of a model with every decision made, nothing where there is none.

    :param entry: the model, checked.
    :param settings: those of the stack; ``prometheus`` is read.
    :returns: ``by``, ``min``, ``max``, ``behavior``, ``metrics``, ``authentication``,
        ``prometheus``, ``idle_seconds``, ``gates`` (of the picker's configuration) and ``triggers``
        (``name``, ``query`` with places for names, and ``threshold``).
    """
    own = entry["autoscaling"]
    if not own:
        return {}
    place = f"{where}.autoscaling"
    fewest = own.get("min_replicas", entry["replicas"])
    result = {
        "by": own["by"],
        "min": fewest,
        "max": own["max_replicas"],
        "behavior": own["behavior"],
        "metrics": own.get("metrics", []),
        "authentication": own.get("authentication"),
        "idle_seconds": own.get("idle_seconds", _IDLE),
        "prometheus": settings["prometheus"],
        "gates": [],
        "triggers": [],
    }
    if fewest > result["max"]:
        problem = f"{result['max']}, but there are at least {fewest} replicas."
        findings.append(Finding(RULE, f"{place}.max_replicas", problem, f"Use {fewest} or more."))
    for name, reader in _READ_BY.items():
        if name in own and own["by"] != reader:
            problem, remedy = f"set, but {place}.by is {own['by']}.", f"Only {reader} reads it: leave it out."
            findings.append(Finding(RULE, f"{place}.{name}", problem, remedy))
    if own["by"] == KEDA:
        _by_load(own, result, entry, place, release, findings)
    elif own["by"] == HPA:
        _check_metrics(result["metrics"], f"{place}.metrics", findings)
    if not fewest:
        _from_zero(result, entry, place, release, findings)
    return result


def check_start(pods: Mapping[str, Any], findings: list[Finding]) -> None:
    """Say when a new workload would start with a number of replicas that its autoscaler changes at once."""
    fewest, most = extremes(pods)
    if fewest <= most and not fewest <= pods["replicas"] <= most:
        problem = f"{pods['replicas']}, but autoscaling keeps {fewest} to {most}."
        findings.append(
            Finding(RULE, f"{pods['where']}.replicas", problem, "A new workload starts with it: stay within.")
        )


def _by_load(own: Mapping, result: dict, entry: Mapping, place: str, release: Mapping, findings: list[Finding]) -> None:
    """Give ``result`` the queries by which KEDA scales, or say why there are none."""
    if entry["topology"] == DISAGGREGATED:
        problem = (
            f"{KEDA}, but {place.removesuffix('.autoscaling')}.topology is {DISAGGREGATED}: the picker's metrics are "
            "averages over prefill and decode pods together, and do not tell which of them are too few."
        )
        findings.append(
            Finding(RULE, f"{place}.by", problem, f"Leave it out, or scale both elsewhere: by: {EXISTING}.")
        )
        return
    load = release["endpoint_picker"].get("load") if release else None
    if release and not load:
        problem = f"{KEDA}, but release {release['name']} does not say which metrics its endpoint picker has."
        findings.append(Finding(RULE, f"{place}.by", problem, f"Name endpoint_picker.load there, or use {HPA}."))
    if not result["prometheus"]:
        problem = "missing: KEDA asks Prometheus what the endpoint picker has told it."
        remedy = "Set its address as KEDA reaches it, such as http://prometheus-operated.monitoring.svc:9090."
        findings.append(Finding(RULE, PROMETHEUS, problem, remedy))
    if not load:
        return
    result["triggers"].append(_trigger("queued-requests", load["queued"], own.get("queued_requests", _QUEUED)))
    if own.get("running_requests"):
        result["triggers"].append(_trigger("running-requests", load["running"], own["running_requests"]))
    if result["min"]:
        return
    if not own.get("running_requests"):
        problem = "missing, with min_replicas 0: nothing else tells an idle model from one that works on its requests."
        findings.append(Finding(RULE, f"{place}.running_requests", problem, "Set it: 16 in llm-d's guide."))
    if load.get("from_zero"):
        # One that waits is reason enough.
        result["triggers"].append(_trigger("held-requests", load["from_zero"]["held"], 1))


def _from_zero(result: dict, entry: Mapping, place: str, release: Mapping, findings: list[Finding]) -> None:
    """Let the picker hold requests back while no pod is there, or say why it would turn them down."""
    where, held = f"{place}.min_replicas", ((release.get("endpoint_picker") or {}).get("load") or {}).get("from_zero")
    if result["by"] == HPA:
        problem = (
            "0, but Kubernetes scales to zero by a HorizontalPodAutoscaler only behind its alpha gate HPAScaleToZero."
        )
        findings.append(Finding(RULE, where, problem, f"Use 1, or by: {KEDA}."))
    elif entry["topology"] == DISAGGREGATED:
        problem = f"0, but {place.removesuffix('.autoscaling')}.topology is {DISAGGREGATED}: it serves with both kinds of pods only."
        findings.append(Finding(RULE, where, problem, "Use 1."))
    elif release and not held:
        problem = f"0, but the endpoint picker of release {release['name']} has no pod to choose then, and refuses."
        findings.append(Finding(RULE, where, problem, "Use 1."))
    elif held:
        result["gates"] = list(held["gates"])


def _trigger(name: str, query: str, threshold: int) -> dict[str, Any]:
    return {"name": name, "query": query, "threshold": threshold}


def _check_metrics(metrics: Sequence[Mapping], place: str, findings: list[Finding]) -> None:
    if not metrics:
        findings.append(Finding(RULE, place, "missing.", "Write them as in a HorizontalPodAutoscaler's spec.metrics."))
    for index, metric in enumerate(metrics):
        if metric.get("type") not in _APIS:
            problem = f"{metric.get('type')!r} is no type of a metric."
            findings.append(Finding(RULE, f"{place}[{index}].type", problem, f"Allowed: {listing(_APIS)}."))
        elif not _name(metric):
            problem = f"names no metric of type {metric['type']}."
            findings.append(Finding(RULE, f"{place}[{index}]", problem, "Write it as Kubernetes does."))


def _name(metric: Mapping[str, Any]) -> str | None:
    """Return the name of a metric in the API that serves it."""
    kind = metric["type"]
    block = metric.get(kind[:1].lower() + kind[1:])
    if not isinstance(block, Mapping):
        return None
    name = block.get("name") if kind.endswith("Resource") else (block.get("metric") or {}).get("name")
    return str(name) if name else None


def extremes(pods: Mapping[str, Any]) -> tuple[int, int]:
    """Return the least and the most replicas that resolved ``pods`` may have."""
    own = pods["autoscaling"]
    return (own["min"], own["max"]) if own else (pods["replicas"], pods["replicas"])


def released(item: Object, pods: Mapping[str, Any]) -> Object:
    """Return the workload of ``pods`` without a number of replicas where somebody else says it."""
    if not pods["autoscaling"]:
        return item
    spec = {key: value for key, value in item["spec"].items() if key != "replicas"}
    annotations = {**(item["metadata"].get("annotations") or {}), INITIAL_REPLICAS: str(pods["replicas"])}
    return {**item, "metadata": {**item["metadata"], "annotations": annotations}, "spec": spec}


def objects(
    stack: str, role: str, component: str, namespace: str, pods: Mapping[str, Any], names: Mapping[str, str]
) -> list[Object]:
    """Return what scales the workload of ``pods``.

    :param names: ``pool`` and ``picker`` whose metrics say how much is asked.
    """
    own = pods["autoscaling"]
    if not own or own["by"] == EXISTING:
        return []
    kind = workload_kind(pods)
    target = {"apiVersion": MODEL_SERVERS[kind], "kind": kind, "name": pods["workload"]}
    if own["by"] == HPA:
        made, spec = "HorizontalPodAutoscaler", _horizontal(own, target)
    else:
        made, spec = "ScaledObject", _scaled_object(own, target, {**names, "namespace": namespace})
    name = pods["workload"]
    return [make(AUTOSCALERS[made], made, name, namespace, labels(stack, role, component), spec=spec)]


def _horizontal(own: Mapping, target: Mapping) -> dict[str, Any]:
    return without_empty(
        {
            "scaleTargetRef": dict(target),
            "minReplicas": own["min"],
            "maxReplicas": own["max"],
            "metrics": own["metrics"],
            "behavior": own["behavior"],
        }
    )


def _scaled_object(own: Mapping, target: Mapping, names: Mapping[str, str]) -> dict[str, Any]:
    return {
        "scaleTargetRef": dict(target),
        "minReplicaCount": own["min"],
        "maxReplicaCount": own["max"],
        "pollingInterval": _POLLING,
        **({} if own["min"] else {"cooldownPeriod": own["idle_seconds"]}),
        "advanced": {
            "horizontalPodAutoscalerConfig": without_empty({"name": target["name"], "behavior": own["behavior"]})
        },
        "triggers": [_prometheus(own, trigger, names) for trigger in own["triggers"]],
    }


def _prometheus(own: Mapping, trigger: Mapping, names: Mapping[str, str]) -> dict[str, Any]:
    access = own["authentication"]
    return without_empty(
        {
            "type": "prometheus",
            "name": trigger["name"],
            # The threshold is each replica's share.
            "metricType": "AverageValue",
            "metadata": {
                "serverAddress": own["prometheus"],
                "query": fill_text(trigger["query"], names),
                "threshold": str(trigger["threshold"]),
                # A picker that nobody reads is not an idle one: replicas stay as they are.
                "ignoreNullValues": "false",
                **({"authModes": "bearer"} if access else {}),
            },
            "authenticationRef": {"name": access} if access else {},
        }
    )


def cluster_findings(pods: Mapping[str, Any], cluster: Mapping[str, Any]) -> list[Finding]:
    """Return what ``cluster`` lacks to scale ``pods``; what could not be seen lacks nothing."""
    own, place = pods["autoscaling"], f"{pods['where']}.autoscaling"
    if not own:
        return []
    definitions, findings = cluster["definitions"], []
    if own["by"] == KEDA and definitions is not None and CRD not in definitions:
        problem = f"{KEDA}, but the cluster has no KEDA ({CRD})."
        remedy = f"Install it, for example its chart, use by: {HPA}, or leave autoscaling out."
        findings.append(Finding(RULE, f"{place}.by", problem, remedy))
    served = cluster.get("metrics")
    if own["by"] == HPA and served is not None:
        findings += _unserved(own["metrics"], served, f"{place}.metrics")
    return findings + _too_many(pods, cluster)


def _unserved(metrics: Sequence[Mapping], served: Mapping[str, Sequence[str] | None], place: str) -> list[Finding]:
    findings = []
    for index, metric in enumerate(metrics):
        api, name = _APIS[metric["type"]], _name(metric)
        where = f"{place}[{index}]"
        if api not in served:
            problem = f"a metric of type {metric['type']}, but nothing in the cluster serves {api}."
            remedy = f"Install what does, such as an adapter for Prometheus, or use by: {KEDA}."
            findings.append(Finding(RULE, where, problem, remedy))
            continue
        known = served[api]
        # metrics.k8s.io lists pods and nodes, and serves cpu and memory of each.
        names = {"cpu", "memory"} if api == "metrics.k8s.io" else {entry.rpartition("/")[2] for entry in known or ()}
        if known is not None and name not in names:
            problem = f"the cluster's {api} does not serve {name!r}."
            findings.append(Finding(RULE, where, problem, f"It serves {listing(sorted(names)) or 'nothing'}."))
    return findings


def _too_many(pods: Mapping[str, Any], cluster: Mapping[str, Any]) -> list[Finding]:
    """Return whether all nodes together offer fewer devices than the most replicas take."""
    nodes, most = cluster["nodes"], pods["autoscaling"]["max"]
    findings = []
    for resource, count in pods["devices"].items() if nodes is not None else ():
        offered = sum(int(node["allocatable"].get(resource, 0)) for node in nodes if node["schedulable"])
        each = count * pods["nodes"]
        # That there are none at all is told of gpus.
        if 0 < offered < most * each:
            problem = f"{most} replicas take {most * each} {resource}, all nodes together offer {offered}."
            remedy = f"Use at most {offered // each}; others may have taken some of them."
            place = f"{pods['where']}.autoscaling.max_replicas"
            findings.append(Finding("no-devices", place, problem, remedy, overridable=True))
    return findings
