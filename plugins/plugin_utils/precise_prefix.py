# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Routing by what the engines say is in their caches: KV events, and a tokenizer for the endpoint picker."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from .arguments import value_of
from .findings import Finding
from .objects import Object, labels, make, without_empty
from .placeholders import fill_text
from .weights import HUB, PATH, hub_env, scheme_of

ROUTING = "precise-prefix"
COMPONENT = "renderer"
PORT_NAME = "render-http"


def resolve(
    model: Mapping[str, Any],
    where: str,
    facts: Mapping[str, Any],
    release: Mapping[str, Any],
    settings: Mapping[str, Any],
    findings: list[Finding],
) -> dict[str, Any]:
    """Return what the routing decides for ``model``: ``page_size``, ``extra_ports``, ``picker_values`` and more.

    :param model: a model whose ``served_name`` and ``weights`` are known.
    :param facts: effective profile of its engine.
    :param settings: of the stack.
    :returns: keys of the model; ``event_arguments`` are the engine's.
    """
    own, renderer = facts.get("kv_events"), release["renderer"]
    if not own or not own["arguments"]:
        problem = f"{facts['title']} {model['engine_version']} tells nobody what is in its cache."
        findings.append(Finding("routing", f"{where}.routing", problem, "Use another routing."))
        return {}
    hub = hub_env(settings) if scheme_of(model["source"]) == HUB else {}
    if "HF_HUB_OFFLINE" in hub and not own["renders"]:
        problem = f"true, but {where}.routing {ROUTING} reads the tokenizer of {model['source']!r} in pods of its own."
        remedy = "Use pvc://, host:// or oci:// for this model, or another routing."
        findings.append(Finding("routing", "llm_d_hf_offline", problem, remedy))
    page_size = model.get("page_size") or own["page_size"]
    values = {
        "kv_events_port": own["port"],
        "kv_events_replay_port": own["replay_port"],
        "pod_port": model.get("port") or facts["ports"]["engine"],
        # Inside of JSON.
        "served_name": json.dumps(model["served_name"])[1:-1],
    }
    ports = {"kv-events": own["port"], "kv-replay": own["replay_port"]}
    name = f"{model['name']}-render"
    return {
        "page_size": page_size,
        "event_arguments": [fill_text(argument, values) for argument in own["arguments"]],
        "extra_ports": {port: number for port, number in ports.items() if number},
        "picker_values": {
            **values,
            "page_size": page_size,
            "kv_events_engine": own["engine_type"],
            "render_url": f"http://{name}:{renderer['port']}",
            # An engine knows its model by the name that it serves, the renderer by where it read it.
            "render_model": model["served_name"] if own["renders"] else model["weights"]["path"],
        },
        "renderer": {**renderer, "name": name, "by_engine": own["renders"], "env": {**renderer["env"], **hub}},
    }


def check(model: Mapping[str, Any], pods: Mapping[str, Any], facts: Mapping[str, Any]) -> list[Finding]:
    """Return whether a kind of ``pods`` of ``model`` counts its cache in other pages than the endpoint picker.

    What counts is the command line: the size may come from ``engine_args``, ``args``, or settings of these pods alone.
    """
    wanted, there = model["picker_values"].get("page_size"), value_of(pods.get("args", []), "page_size", facts)
    if wanted is None or there in (None, str(wanted)):
        return []
    problem = f"{there} on the command line of {pods['workload']}, but the endpoint picker counts in {wanted} tokens."
    remedy = f"Set {model['where']}.page_size, for both."
    return [Finding("kv-events-page-size", f"{pods['where']}.page_size", problem, remedy, overridable=True)]


def objects(
    stack: str,
    role: str,
    namespace: str,
    model: Mapping[str, Any],
    engine_selector: Mapping[str, str],
    engine_port: str,
    token: Mapping[str, str],
) -> list[Object]:
    """Return what turns prompts into tokens for the endpoint picker: the engines themselves, or pods for it alone.

    :param engine_selector: labels of the engine's pods.
    :param engine_port: name of their port.
    :param token: Secret with the token for Hugging Face, ``name`` and ``key``, or empty.
    """
    renderer = model.get("renderer")
    if not renderer:
        return []
    name, common = renderer["name"], labels(stack, role, COMPONENT)
    # No label that the model's pool selects: the picker would send requests to it.
    own = {"app.kubernetes.io/name": name, "app.kubernetes.io/part-of": stack}
    by_engine = renderer["by_engine"]
    port = {"name": PORT_NAME, "port": renderer["port"], "protocol": "TCP"}
    service = make(
        "v1",
        "Service",
        name,
        namespace,
        common,
        spec={
            "selector": dict(engine_selector if by_engine else own),
            "ports": [{**port, "targetPort": engine_port if by_engine else PORT_NAME}],
        },
    )
    if by_engine:
        return [service]
    pod = {"metadata": {"labels": {**common, **own}}, "spec": _pod_spec(model, renderer, token)}
    spec = {"replicas": renderer["replicas"], "selector": {"matchLabels": own}, "template": pod}
    return [make("apps/v1", "Deployment", name, namespace, {**common, **own}, spec=spec), service]


def _pod_spec(model: Mapping, renderer: Mapping, token: Mapping) -> dict[str, Any]:
    weights = model["weights"]
    values = {"model": weights["path"], "port": renderer["port"]}
    env: list[dict[str, Any]] = [{"name": name, "value": value} for name, value in renderer["env"].items()]
    if token and not weights["volume"]:
        env.append({"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": dict(token)}})
    mounts: list[dict[str, Any]] = [{"name": "cache", "mountPath": renderer["cache_path"]}]
    volumes: list[dict[str, Any]] = [{"name": "cache", "emptyDir": {}}]
    if weights["volume"]:
        mounts.append({"name": "model", "mountPath": PATH, "readOnly": True})
        volumes.append({"name": "model", **weights["volume"]})
    health = {"httpGet": {"path": renderer["health"], "port": PORT_NAME}, "periodSeconds": 10, "timeoutSeconds": 5}
    container = {
        "name": COMPONENT,
        "image": renderer["image"],
        "imagePullPolicy": "IfNotPresent",
        "command": renderer["command"],
        "args": [fill_text(argument, values) for argument in renderer["arguments"]],
        "ports": [{"name": PORT_NAME, "containerPort": renderer["port"], "protocol": "TCP"}],
        "env": env,
        "startupProbe": {**health, "failureThreshold": 60},
        "readinessProbe": health,
        "resources": renderer["resources"],
        "securityContext": {"allowPrivilegeEscalation": False, "seccompProfile": {"type": "RuntimeDefault"}},
        "volumeMounts": mounts,
    }
    return without_empty(
        {
            "enableServiceLinks": False,
            "automountServiceAccountToken": False,
            "imagePullSecrets": [{"name": name} for name in model["image_pull_secrets"]],
            "containers": [container],
            "volumes": volumes,
        }
    )
