# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Routing by the model's name in a request's body: GAIE's body-based router sets the header that routes match.

Its filter stands before all of a Gateway's routes and fails closed: without the router no request passes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .findings import Finding, listing
from .objects import Object, labels, make, without_empty
from .plain import as_list

RULE = "body-routing"
VARIABLE = "llm_d_body_routing"
#: No name of a model has an underscore.
FILE = "body_router"
NAME = "body-based-router"
COMPONENT = "body-based-router"


def check(
    wanted: bool, release: Mapping[str, Any], releases: Mapping[str, Any], models: Sequence[Mapping[str, Any]]
) -> list[Finding]:
    """Return why a stack cannot be routed by bodies."""
    if not wanted or not release:
        return []
    findings = []
    if not release["body_router"]:
        able = [name for name, data in releases.items() if isinstance(data, Mapping) and data.get("body_router")]
        remedy = f"Use headers or paths, or one of the releases {listing(able)}."
        problem = f"true, but release {release['name']} of llm_d_release has no router that reads bodies."
        findings.append(Finding(RULE, VARIABLE, problem, remedy))
    header = (release["body_router"] or {}).get("header", "").lower()
    for model in models:
        given = model["route"]["header"]
        if header and given and given["name"].lower() != header:
            problem = (
                f"{given['name']!r}, but {VARIABLE} is true, and the router sets {release['body_router']['header']}."
            )
            findings.append(Finding(RULE, f"{model['where']}.route.header.name", problem, "Leave the header out."))
    return findings


def compose(
    stack: str,
    role: str,
    namespace: str,
    models: Sequence[Mapping[str, Any]],
    router: Mapping[str, Any],
    options: Mapping[str, Any],
) -> list[Object]:
    """Return the router, what it knows of ``models``, and last the filter that asks it.

    :param router: ``body_router`` of a release.
    :param options: as :func:`gaie.compose` takes them.
    """
    common = labels(stack, role, COMPONENT)
    selector = {"app.kubernetes.io/name": NAME, "app.kubernetes.io/part-of": stack}
    host = f"{NAME}.{namespace}.svc.{options['cluster_domain']}"
    group = "rbac.authorization.k8s.io"
    port = {"name": "grpc-ext-proc", "port": router["ports"]["ext_proc"], "protocol": "TCP", "appProtocol": "http2"}
    subject = {"kind": "ServiceAccount", "name": NAME, "namespace": namespace}
    # It signs its certificate itself at each start, as endpoint pickers do.
    policy = {"tls": {"mode": "SIMPLE", "insecureSkipVerify": True}, "connectionPool": options["connection_pool"]}
    return [
        *(_names(model, namespace, common, router) for model in models),
        make("v1", "ServiceAccount", NAME, namespace, common),
        make(f"{group}/v1", "Role", NAME, namespace, common, rules=router["rules"]),
        make(
            f"{group}/v1",
            "RoleBinding",
            NAME,
            namespace,
            common,
            roleRef={"apiGroup": group, "kind": "Role", "name": NAME},
            subjects=[subject],
        ),
        make("v1", "Service", NAME, namespace, common, spec={"selector": selector, "ports": [port]}),
        make(
            "apps/v1",
            "Deployment",
            NAME,
            namespace,
            {**common, **selector},
            spec=_deployment(router, selector, common, options),
        ),
        make(
            "networking.istio.io/v1",
            "DestinationRule",
            NAME,
            namespace,
            common,
            spec={"host": host, "trafficPolicy": without_empty(policy)},
        ),
        make(
            "networking.istio.io/v1alpha3",
            "EnvoyFilter",
            NAME,
            namespace,
            common,
            spec=_filter(f"outbound|{router['ports']['ext_proc']}||{host}", options["gateway_name"]),
        ),
    ]


def _names(model: Mapping, namespace: str, common: Mapping, router: Mapping) -> Object:
    """Return the names that requests may ask for, and the one that the route of ``model`` matches."""
    adapters = "".join(f"- {adapter['served_name']}\n" for adapter in model["lora"]["adapters"])
    header = model["route"]["header"]
    data = {"baseModel": header["value"] if header else model["served_name"], "adapters": adapters}
    if header and header["value"] != model["served_name"]:
        data["adapters"] = f"- {model['served_name']}\n{adapters}"
    return make(
        "v1",
        "ConfigMap",
        f"{model['name']}-served-names",
        namespace,
        {**common, **router["names_label"]},
        data=without_empty(data),
    )


def _deployment(router: Mapping, selector: Mapping, common: Mapping, options: Mapping) -> dict[str, Any]:
    ports = router["ports"]
    health = {"grpc": {"port": ports["health"]}}
    container = {
        "name": "bbr",
        "image": router["image"],
        "imagePullPolicy": "IfNotPresent",
        "args": list(router["arguments"]),
        "ports": [
            {"name": "grpc", "containerPort": ports["ext_proc"], "protocol": "TCP"},
            {"name": "grpc-health", "containerPort": ports["health"], "protocol": "TCP"},
        ],
        # It reads the names of its own namespace.
        "env": [{"name": "NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}}],
        # Its health says ready before it listens.
        "startupProbe": {"tcpSocket": {"port": ports["ext_proc"]}, "periodSeconds": 1, "failureThreshold": 120},
        "livenessProbe": {**health, "periodSeconds": 10},
        "readinessProbe": {"tcpSocket": {"port": ports["ext_proc"]}, "periodSeconds": 2},
        "resources": router["resources"],
        # Gateways need a moment to learn that it goes.
        "lifecycle": {"preStop": {"sleep": {"seconds": 15}}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    pod = without_empty(
        {
            "serviceAccountName": NAME,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": 60,
            "imagePullSecrets": [{"name": secret} for secret in as_list(options["image_pull_secrets"])],
            "nodeSelector": options["picker_node_selector"],
            "tolerations": options["picker_tolerations"],
            "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [container],
        }
    )
    return {
        "replicas": router["replicas"],
        # Without one, no request passes.
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "selector": {"matchLabels": dict(selector)},
        "template": {"metadata": {"labels": {**common, **selector}}, "spec": pod},
    }


def _filter(cluster: str, gateway: str) -> dict[str, Any]:
    """Return what puts the router before everything else of one Gateway, as GAIE's chart does.

    The chart shows it the answers, too. It does nothing with them but hold each until it is whole, and no token would be
    streamed (run).
    """
    value = {
        "name": "envoy.filters.http.ext_proc.bbr",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor",
            "failure_mode_allow": False,
            "processing_mode": {
                "request_header_mode": "SEND",
                "request_body_mode": "FULL_DUPLEX_STREAMED",
                "request_trailer_mode": "SEND",
                "response_header_mode": "SKIP",
                "response_body_mode": "NONE",
                "response_trailer_mode": "SKIP",
            },
            "grpc_service": {"envoy_grpc": {"cluster_name": cluster}},
        },
    }
    manager = {"filter": {"name": "envoy.filters.network.http_connection_manager"}}
    patch = {
        "applyTo": "HTTP_FILTER",
        "match": {"context": "GATEWAY", "listener": {"filterChain": manager}},
        "patch": {"operation": "INSERT_FIRST", "value": value},
    }
    target = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": gateway}
    return {"targetRefs": [target], "configPatches": [patch]}
