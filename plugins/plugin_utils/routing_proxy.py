# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""llm-d's routing proxy: the sidecar in front of an engine that hands requests to a prefill pod first.

Clients can send the header that names the prefill pod themselves. The proxy therefore asks only
pods of the model's own pool, for which it reads the pool and its pods from the API server.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .findings import Finding, listing
from .objects import Object, labels, make, without_empty
from .placeholders import fill_text
from .profiles import merge

NAME = "routing-proxy"
PORT_NAME = "proxy"
CREDENTIALS = "routing-proxy-credentials"
_POOL = "{pool}"
#: Settings of a model that only a proxy reads.
_ONLY_WITH_PROXY = ("connector", "engine_port", "proxy_image", "proxy_args", "proxy_resources")
_RULES = [
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]},
    {"apiGroups": ["inference.networking.k8s.io"], "resources": ["inferencepools"], "verbs": ["get", "list", "watch"]},
]


def resolve(
    entry: Mapping[str, Any],
    where: str,
    wanted: bool,
    facts: Mapping[str, Any],
    release: Mapping[str, Any],
    namespace: str,
    findings: list[Finding],
) -> dict[str, Any] | None:
    """Return the proxy of a model, or None when it has none.

    :param entry: a checked model.
    :param wanted: whether there is to be one.
    :param facts: effective profile of its engine.
    :returns: ``connector``, ``image``, ``args``, ``env``, ``resources``, ``port`` (of the proxy)
        and ``engine_port``.
    """
    if not wanted:
        for name in _ONLY_WITH_PROXY:
            if entry.get(name):
                remedy = "Set routing_proxy: true, or leave it out."
                problem = "set, but the model has no routing proxy."
                findings.append(Finding("routing-proxy", f"{where}.{name}", problem, remedy))
        return None
    if not facts.get("connector"):
        problem = f"{facts['title']} speaks no connector, as far as its profile knows."
        findings.append(Finding("routing-proxy", f"{where}.routing_proxy", problem, "Leave it out for this engine."))
        return None
    port = entry.get("port") or facts["ports"]["engine"]
    engine_port = entry.get("engine_port") or facts["ports"]["behind_proxy"]
    if port == engine_port:
        problem = f"{engine_port} is the port of the routing proxy, {where}.port, too."
        findings.append(Finding("routing-proxy", f"{where}.engine_port", problem, "Give them different ports."))
    data = release["routing_proxy"]
    connector = _connector(entry, where, facts, release, findings)
    values = {
        "port": port,
        "engine_port": engine_port,
        "connector": connector,
        "namespace": namespace,
        # Filled in when it is composed: which pool it is, is up to a rollout.
        "pool": _POOL,
        "bootstrap_port": facts["connector"]["bootstrap_port"],
    }
    return {
        "connector": connector,
        "image": entry.get("proxy_image") or data["image"],
        "args": [fill_text(argument, values) for argument in data["arguments"]] + entry["proxy_args"],
        "env": {name: fill_text(value, values) for name, value in facts["connector"]["proxy_env"].items()},
        "resources": merge(data["resources"], entry["proxy_resources"]),
        "port": port,
        "engine_port": engine_port,
    }


def _connector(entry: Mapping, where: str, facts: Mapping, release: Mapping, findings: list[Finding]) -> str:
    own, place = facts["connector"], f"{where}.connector"
    connector = entry.get("connector") or own["default"]
    if connector not in own["speaks"]:
        problem = f"{facts['title']} does not speak {connector!r}."
        others = own["speaks"][1:] if own["speaks"][0] == own["default"] else own["speaks"]
        also = f" It also speaks {listing(others)}." if others else ""
        remedy = f"Use {own['default']}, which is the default.{also}"
        findings.append(Finding("connector", place, problem, remedy, overridable=True))
    elif connector not in release["routing_proxy"]["connectors"]:
        problem = f"the routing proxy of release {release['name']} has no {connector!r}."
        remedy = f"It has {listing(release['routing_proxy']['connectors'])}."
        findings.append(Finding("connector-release", place, problem, remedy, overridable=True))
    return connector


def container(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sidecar of a resolved ``model``: an init container that stays."""
    proxy = model["proxy"]
    return without_empty(
        {
            "name": NAME,
            "image": proxy["image"],
            "imagePullPolicy": model["image_pull_policy"],
            # It starts before the engine, and goes after it.
            "restartPolicy": "Always",
            "args": [argument.replace(_POOL, model["pool"]) for argument in proxy["args"]],
            "ports": [{"name": PORT_NAME, "containerPort": proxy["port"], "protocol": "TCP"}],
            "env": [{"name": name, "value": value} for name, value in proxy["env"].items()],
            # It listens once it has seen its pool's pods.
            "readinessProbe": {"tcpSocket": {"port": PORT_NAME}, "periodSeconds": 5},
            "resources": proxy["resources"],
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "capabilities": {"drop": ["ALL"]},
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "volumeMounts": [] if model.get("service_account") else [_MOUNT],
        }
    )


_MOUNT = {"name": CREDENTIALS, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": True}


def volumes(model: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the credentials for the proxy alone; an account of the user's is mounted everywhere anyway."""
    if not model["proxy"] or model.get("service_account"):
        return []
    sources = [
        {"serviceAccountToken": {"path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
    ]
    return [{"name": CREDENTIALS, "projected": {"sources": sources}}]


def account(model: Mapping[str, Any]) -> str | None:
    """Return the service account of the pods, None for the namespace's default."""
    return model.get("service_account") or (model["workload"] if model["proxy"] else None)


def objects(stack: str, role: str, component: str, namespace: str, model: Mapping[str, Any]) -> list[Object]:
    """Return what lets the proxy read its pool and the pods in it."""
    if not model["proxy"]:
        return []
    name, common = model["workload"], labels(stack, role, component)
    result = []
    if not model.get("service_account"):
        result.append(make("v1", "ServiceAccount", name, namespace, common, automountServiceAccountToken=False))
    api = "rbac.authorization.k8s.io"
    return [
        *result,
        make(f"{api}/v1", "Role", name, namespace, common, rules=_RULES),
        make(
            f"{api}/v1",
            "RoleBinding",
            name,
            namespace,
            common,
            roleRef={"apiGroup": api, "kind": "Role", "name": name},
            subjects=[{"kind": "ServiceAccount", "name": account(model), "namespace": namespace}],
        ),
    ]
