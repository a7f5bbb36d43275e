# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Kubernetes objects of role ``model_service``: the model servers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.llm_d.multi_engine.plugins.module_utils.marks import LEADER_WORKER_SET

from . import autoscaling, lora, multi_node, network_policies, precise_prefix, prefetch, routing_proxy, weights
from .gaie import picker_name
from .objects import (
    POD_ROLE_LABEL,
    SERVING_LABEL,
    Object,
    env_entries,
    labels,
    make,
    model_labels,
    without_empty,
    workload_kind,
    workloads_of,
)

ROLE = "model_service"
COMPONENT = "model-server"
PORT_NAME = "http"
#: llm-d's name for a pod that does prefill and decode.
AGGREGATED = "prefill-decode"


def compose(stack: str, namespace: str, model: Mapping[str, Any], options: Mapping[str, Any]) -> list[Object]:
    """Return the objects that serve one resolved ``model``.

    :param options: ``hf_token_secret`` (dict with ``name`` and ``key``, or empty), ``pod_monitor``
        (bool: the cluster knows that kind), ``network_policies`` (bool),
        ``prefetch_script`` (str) and what :func:`network_policies.compose` reads.
    """
    objects = prefetch.objects(stack, ROLE, namespace, model, _token(model, options), options["prefetch_script"])
    for pods in workloads_of(model):
        objects += routing_proxy.objects(stack, ROLE, COMPONENT, namespace, pods)
        workload = _WORKLOADS[workload_kind(pods)](stack, namespace, pods, options)
        objects.append(autoscaling.released(workload, pods))
        objects += autoscaling.objects(stack, ROLE, COMPONENT, namespace, pods, _sources(model))
        if options["pod_monitor"]:
            objects.append(_pod_monitor(stack, namespace, pods))
        if pods["disruption_budget"]:
            objects.append(_disruption_budget(stack, namespace, pods))
    if options["network_policies"]:
        objects.append(network_policies.compose(stack, ROLE, COMPONENT, namespace, model, options))
    objects += precise_prefix.objects(
        stack, ROLE, namespace, model, _leaders(stack, model), PORT_NAME, _token(model, options)
    )
    return objects


def _sources(model: Mapping) -> dict[str, str]:
    """Return whose metrics say how much is asked of ``model``."""
    return {"pool": model["pool"], "picker": picker_name(model)}


def _selector(stack: str, model: Mapping) -> dict[str, str]:
    """Return the labels that tell pods of one workload from all others."""
    role = model.get("pod_role")
    return {**model_labels(stack, model), **({POD_ROLE_LABEL: role} if role else {})}


def _leaders(stack: str, model: Mapping) -> dict[str, str]:
    """Return the labels of those pods of a workload that answer requests: all, where none is a worker."""
    return {**_selector(stack, model), **({SERVING_LABEL: "true"} if model["worker"] else {})}


def _template(stack: str, model: Mapping, options: Mapping) -> dict[str, Any]:
    return {
        "metadata": without_empty(
            {
                "labels": {
                    **model["pod_labels"],
                    **labels(stack, ROLE, COMPONENT),
                    **_selector(stack, model),
                    SERVING_LABEL: "true",
                    POD_ROLE_LABEL: model.get("pod_role") or AGGREGATED,
                },
                "annotations": model["pod_annotations"],
            }
        ),
        "spec": _pod_spec(model, options),
    }


def _worker_template(stack: str, model: Mapping, options: Mapping) -> dict[str, Any]:
    """Return the template of the pods of a group that compute for their leader, and answer no requests."""
    worker = model["worker"]
    template = _template(stack, {**model, "proxy": None, "args": worker["args"], "probes": worker["probes"]}, options)
    # The InferencePool selects by it.
    del template["metadata"]["labels"][SERVING_LABEL]
    container = template["spec"]["containers"][0]
    if not worker["probes"]:
        # No server, no port.
        del container["ports"]
    if worker["pre_stop"]:
        container["lifecycle"] = {"preStop": {"exec": {"command": worker["pre_stop"]}}}
    return template


def _leader_worker_set(stack: str, namespace: str, model: Mapping, options: Mapping) -> Object:
    """Return groups of pods, one group a replica."""
    spec = {
        "replicas": model["replicas"],
        # Never a group more than asked for, as with Deployments.
        "rolloutStrategy": model["strategy"]
        or {"type": "RollingUpdate", "rollingUpdateConfiguration": {"maxSurge": 0, "maxUnavailable": 1}},
        # The leader waits for its workers.
        "startupPolicy": "LeaderCreated",
        "leaderWorkerTemplate": {
            "size": model["nodes"],
            # Engines do not take back a rank that was lost.
            "restartPolicy": "RecreateGroupOnPodRestart",
            "leaderTemplate": _template(stack, model, options),
            "workerTemplate": _worker_template(stack, model, options),
        },
    }
    item = make(
        LEADER_WORKER_SET,
        "LeaderWorkerSet",
        model["workload"],
        namespace,
        {**labels(stack, ROLE, COMPONENT), **_selector(stack, model)},
        spec=spec,
    )
    if model.get("exclusive_topology"):
        item["metadata"]["annotations"] = {multi_node.EXCLUSIVE_TOPOLOGY: model["exclusive_topology"]}
    return item


def _deployment(stack: str, namespace: str, model: Mapping, options: Mapping) -> Object:
    selector = _selector(stack, model)
    spec = {
        "replicas": model["replicas"],
        # Never a pod more than asked for: spare GPUs are rare, and a rollout that waits for one
        # would never end.
        "strategy": model["strategy"]
        or {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
        # Rollouts that load weights take as long as the startup probe allows.
        "progressDeadlineSeconds": _startup_budget(model) + 300,
        "selector": {"matchLabels": selector},
        "template": _template(stack, model, options),
    }
    return make(
        "apps/v1",
        "Deployment",
        model["workload"],
        namespace,
        {**labels(stack, ROLE, COMPONENT), **selector},
        spec=spec,
    )


_WORKLOADS = {"Deployment": _deployment, "LeaderWorkerSet": _leader_worker_set}


def _startup_budget(model: Mapping) -> int:
    probe = model["probes"]["startup"]
    return probe["failureThreshold"] * probe.get("periodSeconds", 10)


def _pod_spec(model: Mapping, options: Mapping) -> dict[str, Any]:
    drain = model["drain"]
    return without_empty(
        {
            # A Service named like an engine would inject variables such as SGLANG_PORT=tcp://...,
            # which engines read as numbers.
            "enableServiceLinks": False,
            "automountServiceAccountToken": bool(model.get("service_account")),
            "serviceAccountName": routing_proxy.account(model),
            "terminationGracePeriodSeconds": sum(drain.values()),
            "runtimeClassName": model.get("runtime_class"),
            "priorityClassName": model.get("priority_class"),
            "schedulerName": model.get("scheduler"),
            "nodeSelector": model["node_selector"],
            "tolerations": model["tolerations"],
            "affinity": model["affinity"],
            "topologySpreadConstraints": model["topology_spread"],
            "imagePullSecrets": [{"name": name} for name in model["image_pull_secrets"]],
            "securityContext": weights.pod_security_context(model),
            "initContainers": weights.owning_containers(model)
            + ([routing_proxy.container(model)] if model["proxy"] else []),
            "containers": [_container(model, options)],
            "volumes": _volumes(model),
        }
    )


def _container(model: Mapping, options: Mapping) -> dict[str, Any]:
    return without_empty(
        {
            "name": COMPONENT,
            "image": model["image"],
            "imagePullPolicy": model["image_pull_policy"],
            "command": model["command"],
            "args": model["args"],
            "ports": [
                {"name": name, "containerPort": port, "protocol": "TCP"}
                for name, port in {PORT_NAME: model["engine_port"], **model.get("extra_ports", {})}.items()
            ],
            "env": _env(model, options),
            "resources": _resources(model),
            "startupProbe": _probe(model, "startup"),
            "readinessProbe": _probe(model, "readiness"),
            "livenessProbe": _probe(model, "liveness"),
            "lifecycle": _lifecycle(model),
            "securityContext": {
                **weights.security_context(model),
                **({"capabilities": {"add": model["capabilities"]}} if model["capabilities"] else {}),
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "volumeMounts": _mounts(model),
        }
    )


def _env(model: Mapping, options: Mapping) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = [
        {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        *([{"name": model["pod_ip_env"], "value": "$(POD_IP)"}] if model["pod_ip_env"] else []),
    ]
    entries += env_entries(model["env"])
    key = model["api_key"]
    if key:
        entries.append({"name": key["env"], "valueFrom": {"secretKeyRef": {"name": key["secret"], "key": key["key"]}}})
    secret = _token(model, options)
    if secret and "HF_TOKEN" not in model["env"]:
        entries.append({"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": dict(secret)}})
    return entries


def _token(model: Mapping, options: Mapping) -> Mapping[str, str]:
    """Return the Secret with the token that the model's sources need, or nothing."""
    return (options["hf_token_secret"] or {}) if lora.from_hub(model) else {}


def _resources(model: Mapping) -> dict[str, Any]:
    # Kubernetes wants the same count of an extended resource in both.
    devices = {name: str(count) for name, count in model["devices"].items()}
    given = model["resources"]
    return without_empty(
        {
            "requests": {**devices, **(given.get("requests") or {})},
            "limits": {**devices, **(given.get("limits") or {})},
        }
    )


def _probe(model: Mapping, name: str) -> dict[str, Any]:
    # A worker may have none.
    probe = model["probes"].get(name) or {}
    for action in ("httpGet", "tcpSocket"):
        if action in probe:
            return {**probe, action: {"port": PORT_NAME, **probe[action]}}
    return dict(probe)


def _lifecycle(model: Mapping) -> dict[str, Any]:
    seconds = model["drain"]["pre_stop_seconds"]
    return {"preStop": {"sleep": {"seconds": seconds}}} if seconds else {}


def _volumes(model: Mapping) -> list[dict[str, Any]]:
    volumes = [
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": model["shm_size"]}},
        {"name": "cache", **weights.cache_volume(model["cache"])},
    ]
    if model["weights"]["volume"]:
        volumes.append({"name": "model", **model["weights"]["volume"]})
    return volumes + model["lora"]["volumes"] + routing_proxy.volumes(model) + model["volumes"]


def _mounts(model: Mapping) -> list[dict[str, Any]]:
    mounts: list[dict[str, Any]] = [
        {"name": "shm", "mountPath": "/dev/shm"},
        {"name": "cache", "mountPath": model["cache_path"]},
    ]
    if model["weights"]["volume"]:
        mounts.append({"name": "model", "mountPath": weights.PATH, "readOnly": True})
    return mounts + model["lora"]["mounts"] + model["volume_mounts"]


def _pod_monitor(stack: str, namespace: str, model: Mapping) -> Object:
    spec = {
        "selector": {"matchLabels": _leaders(stack, model)},
        "podMetricsEndpoints": [{"port": PORT_NAME, "path": model["metrics"]["path"], "interval": "15s"}],
    }
    return make(
        "monitoring.coreos.com/v1",
        "PodMonitor",
        model["workload"],
        namespace,
        labels(stack, ROLE, COMPONENT),
        spec=spec,
    )


def _disruption_budget(stack: str, namespace: str, model: Mapping) -> Object:
    spec = {
        **model["disruption_budget"],
        "selector": {"matchLabels": _selector(stack, model)},
        # A pod that does not serve anyway keeps no node from being drained.
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
    }
    return make(
        "policy/v1",
        "PodDisruptionBudget",
        model["workload"],
        namespace,
        labels(stack, ROLE, COMPONENT),
        spec=spec,
    )
