# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Kubernetes objects of role ``gaie``: endpoint picker, InferencePool and route of a model."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from ansible_collections.llm_d.multi_engine.plugins.module_utils.marks import CONFIG_HASH, RELEASE

from .objects import Object, digest, labels, make, serving_labels, without_empty
from .placeholders import fill
from .plain import as_list
from .profiles import merge

ROLE = "gaie"
COMPONENT = "endpoint-picker"
#: What a profile says of its engine's metrics.
_METRICS = ("path", "queued_requests", "running_requests", "kv_cache_usage", "lora", "page_size", "pages")
CONFIG_FILE = "config.yaml"
#: As upstream's charts; longer where the pods of the pool take longer to finish their requests.
GRACE_SECONDS = 130


def picker_name(model: Mapping[str, Any]) -> str:
    """Return the name of the model's endpoint picker and of all that belongs to it."""
    return f"{model['pool']}-epp"


def compose(
    stack: str,
    namespace: str,
    model: Mapping[str, Any],
    release: Mapping[str, Any],
    options: Mapping[str, Any],
) -> list[Object]:
    """Return the objects that route requests to one resolved ``model``.

    :param release: a release; its ``endpoint_picker`` is read.
    :param options: ``gateway_name``, ``gateway_namespace``, ``cluster_domain`` (str),
        ``picker_image`` (str, empty for the release's), ``picker_resources`` (dict merged over
        the release's), ``picker_args``, ``picker_tolerations``, ``image_pull_secrets`` (lists),
        ``picker_node_selector`` and ``connection_pool`` (dicts), ``pod_monitor`` (``always``, ``never``, or ``auto``
        for models that KEDA scales).
    """
    picker = release["endpoint_picker"]
    name = picker_name(model)
    common = labels(stack, ROLE, COMPONENT)
    config = _config(model, picker)
    selector = {"app.kubernetes.io/name": name, "app.kubernetes.io/part-of": stack}
    monitors = [_pod_monitor(name, namespace, selector, common)] if _is_monitored(model, options) else []
    objects = [
        *monitors,
        make("v1", "ServiceAccount", name, namespace, common),
        make("rbac.authorization.k8s.io/v1", "Role", name, namespace, common, rules=picker["rules"]),
        make(
            "rbac.authorization.k8s.io/v1",
            "RoleBinding",
            name,
            namespace,
            common,
            roleRef={"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
            subjects=[{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
        ),
        make("v1", "ConfigMap", name, namespace, common, data={CONFIG_FILE: _config_text(json.dumps(config))}),
        make("v1", "Service", name, namespace, common, spec=_service(picker, selector)),
        make(
            "apps/v1",
            "Deployment",
            name,
            namespace,
            {**common, **selector},
            spec=_deployment(name, namespace, model, picker, selector, common, digest(config), options),
        ),
        make(
            "inference.networking.k8s.io/v1",
            "InferencePool",
            model["pool"],
            namespace,
            common,
            spec=_pool(stack, model, picker),
        ),
        make(
            "networking.istio.io/v1",
            "DestinationRule",
            name,
            namespace,
            common,
            spec=_destination_rule(name, namespace, options),
        ),
        make(
            "gateway.networking.k8s.io/v1",
            "HTTPRoute",
            model["name"],
            namespace,
            common,
            spec=_route(namespace, model, options),
        ),
    ]
    (deployment,) = (item for item in objects if item["kind"] == "Deployment")
    # Of the Deployment and not of its pods: a new name alone starts none anew.
    deployment["metadata"]["annotations"] = {RELEASE: release["name"]}
    return objects


def _is_monitored(model: Mapping, options: Mapping) -> bool:
    """Whether Prometheus is to read the model's picker."""
    scaled = bool(model["autoscaling"].get("triggers"))
    return options["pod_monitor"] == "always" or (options["pod_monitor"] == "auto" and scaled)


def _pod_monitor(name: str, namespace: str, selector: Mapping, common: Mapping) -> Object:
    spec = {
        "selector": {"matchLabels": dict(selector)},
        "podMetricsEndpoints": [{"port": "metrics", "path": "/metrics", "interval": "15s"}],
    }
    return make("monitoring.coreos.com/v1", "PodMonitor", name, namespace, common, spec=spec)


def _config(model: Mapping, picker: Mapping) -> dict[str, Any]:
    """Return the configuration of the model's picker, with its engine's metrics where the picker does not know them."""
    config = fill(picker["config"][model["topology"]][model["routing"]], model["picker_values"])
    if model["engine"] not in picker["metrics"]["built_in"]:
        told = fill({name: picker["metrics"][name] for name in ("plugins", "config")}, _metrics(model))
        there = {plugin["type"] for plugin in config["plugins"]}
        added = [plugin for plugin in told["plugins"] if plugin["type"] not in there]
        gates = [*config.get("featureGates", []), *told["config"].get("featureGates", [])]
        config = {**config, **told["config"], "plugins": config["plugins"] + added}
        if gates:
            config["featureGates"] = list(dict.fromkeys(gates))
    if model["autoscaling"].get("gates"):
        config["featureGates"] = [*config.get("featureGates", []), *model["autoscaling"]["gates"]]
    scorer = picker.get("lora_scorer")
    # Without a metric all pods would score the same.
    return (
        _with_scorer(config, scorer)
        if scorer and model["lora"]["adapters"] and model["metrics"].get("lora")
        else config
    )


def _with_scorer(config: Mapping, scorer: Mapping) -> dict[str, Any]:
    """Return ``config`` with a scorer in each of its profiles."""
    reference = {"pluginRef": scorer["plugin"]["type"], "weight": scorer["weight"]}
    profiles = [{**profile, "plugins": [*profile["plugins"], reference]} for profile in config["schedulingProfiles"]]
    return {**config, "plugins": [*config["plugins"], scorer["plugin"]], "schedulingProfiles": profiles}


def _metrics(model: Mapping) -> dict[str, Any]:
    return {"engine": model["engine"], **{f"metrics_{name}": model["metrics"].get(name) for name in _METRICS}}


@functools.lru_cache(maxsize=32)
def _config_text(config: str) -> str:
    """Return a picker's configuration, given as JSON, as YAML; most models share one, and YAML is slow to write."""
    return yaml.safe_dump(json.loads(config), sort_keys=False)


def stamped(
    composed: Mapping[str, Sequence[Object]], patched: Mapping[str, Sequence[Object]]
) -> dict[str, Sequence[Object]]:
    """Return ``patched`` with the hash of each configuration that differs from the one ``composed``.

    Without it a picker would go on with the configuration that it has read at its start.
    """
    for model, objects in patched.items():
        before, after = _configuration(composed[model]), _configuration(objects)
        for item in objects:
            if before != after and item["kind"] == "Deployment":
                metadata = item["spec"]["template"]["metadata"]
                metadata["annotations"] = {**(metadata.get("annotations") or {}), CONFIG_HASH: digest(after)}
    return dict(patched)


def _configuration(objects: Sequence[Object]) -> list[Any]:
    return [item.get("data") for item in objects if item["kind"] == "ConfigMap"]


def _service(picker: Mapping, selector: Mapping) -> dict[str, Any]:
    ports = picker["ports"]
    return {
        "selector": dict(selector),
        "ports": [
            # Envoy speaks gRPC to it: without the protocol it would try HTTP/1.1.
            {"name": "grpc-ext-proc", "port": ports["ext_proc"], "protocol": "TCP", "appProtocol": "http2"},
            {"name": "http-metrics", "port": ports["metrics"], "protocol": "TCP"},
        ],
    }


def _deployment(
    name: str,
    namespace: str,
    model: Mapping,
    picker: Mapping,
    selector: Mapping,
    common: Mapping,
    config_hash: str,
    options: Mapping,
) -> dict[str, Any]:
    pod_spec = without_empty(
        {
            "serviceAccountName": name,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": max(GRACE_SECONDS, sum(model["drain"].values())),
            "imagePullSecrets": [{"name": secret} for secret in as_list(options["image_pull_secrets"])],
            "nodeSelector": options["picker_node_selector"],
            "tolerations": options["picker_tolerations"],
            "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [_container(namespace, model, picker, options)],
            "volumes": [{"name": "config", "configMap": {"name": name}}],
        }
    )
    return {
        # One active picker: its view of caches and requests in flight is its own.
        "replicas": 1,
        # The next one is ready before the old one goes, so that a changed configuration leaves no
        # gap; their views differ for that moment only.
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "selector": {"matchLabels": dict(selector)},
        "template": {
            "metadata": {
                "labels": {**common, **selector},
                # The picker reads its configuration once, at its start.
                "annotations": {CONFIG_HASH: config_hash},
            },
            "spec": pod_spec,
        },
    }


def _container(namespace: str, model: Mapping, picker: Mapping, options: Mapping) -> dict[str, Any]:
    filled = {"{pool}": model["pool"], "{namespace}": namespace, "{config_file}": f"/config/{CONFIG_FILE}"}
    args = list(picker["arguments"])
    for placeholder, value in filled.items():
        args = [argument.replace(placeholder, value) for argument in args]
    ports = picker["ports"]
    health = {"grpc": {"port": ports["health"], "service": picker["health_service"]}}
    return {
        "name": "epp",
        "image": options["picker_image"] or picker["image"],
        "imagePullPolicy": "IfNotPresent",
        "args": args + as_list(options["picker_args"]),
        "ports": [
            {"name": "grpc", "containerPort": ports["ext_proc"], "protocol": "TCP"},
            {"name": "grpc-health", "containerPort": ports["health"], "protocol": "TCP"},
            {"name": "metrics", "containerPort": ports["metrics"], "protocol": "TCP"},
        ],
        "env": [
            {"name": "NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
            {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        ],
        # Its health says ready up to seconds before it listens: it makes a certificate first (run).
        "startupProbe": {"tcpSocket": {"port": ports["ext_proc"]}, "periodSeconds": 1, "failureThreshold": 120},
        "livenessProbe": {**health, "initialDelaySeconds": 5, "periodSeconds": 10},
        "readinessProbe": {**health, "periodSeconds": 2},
        "resources": merge(picker["resources"], options["picker_resources"]),
        "lifecycle": _lifecycle(model),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "config", "mountPath": "/config", "readOnly": True}],
    }


def _lifecycle(model: Mapping) -> dict[str, Any]:
    """Let a picker that is to go answer on for as long as its pods would.

    Gateways need a moment to learn of the next one, and a request whose picker does not answer is refused with 500,
    whatever the pool's failure mode. Answers pass by the picker from the first token to the last, and it cuts off
    what is left 30 seconds after SIGTERM (run).
    """
    drain = model["drain"]
    seconds = drain["pre_stop_seconds"] + drain["requests_seconds"]
    return {"preStop": {"sleep": {"seconds": seconds}}} if seconds else {}


def _pool(stack: str, model: Mapping, picker: Mapping) -> dict[str, Any]:
    return {
        "targetPorts": [{"number": model["port"]}],
        "appProtocol": model["http"]["protocol"],
        "selector": {"matchLabels": serving_labels(stack, model)},
        "endpointPickerRef": {
            "group": "",
            "kind": "Service",
            "name": picker_name(model),
            "port": {"number": picker["ports"]["ext_proc"]},
            # Where any pod can answer, requests are spread without the picker and not refused. A
            # prefill pod cannot.
            "failureMode": "FailClose" if model["roles"] else "FailOpen",
        },
    }


def _destination_rule(name: str, namespace: str, options: Mapping) -> dict[str, Any]:
    return {
        "host": f"{name}.{namespace}.svc.{options['cluster_domain']}",
        "trafficPolicy": without_empty(
            {
                # The picker serves TLS with a certificate that it signs itself at each start.
                "tls": {"mode": "SIMPLE", "insecureSkipVerify": True},
                "connectionPool": options["connection_pool"],
            }
        ),
    }


def _route(namespace: str, model: Mapping, options: Mapping) -> dict[str, Any]:
    parent = {
        "group": "gateway.networking.k8s.io",
        "kind": "Gateway",
        "name": options["gateway_name"],
        "namespace": options["gateway_namespace"],
    }
    return {"parentRefs": [parent], "rules": _rules(model)}


def _rules(model: Mapping) -> list[dict[str, Any]]:
    """Return one rule for matches as they come and one for those that lose their path prefix."""
    route = model["route"]
    everything = {"path": {"type": "PathPrefix", "value": "/"}}
    matches = []
    if route["default"]:
        matches.append(everything)
    elif route["header"]:
        for value in (route["header"]["value"], *route["adapters"]):
            header = {"type": "Exact", "name": route["header"]["name"], "value": value}
            matches.append({**everything, "headers": [header]})
    rules = [_rule(model, matches)] if matches else []
    if route["path"]:
        prefix = {"path": {"type": "PathPrefix", "value": route["path"]}}
        rewrite = {
            "type": "URLRewrite",
            "urlRewrite": {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"}},
        }
        rules.append(_rule(model, [prefix], filters=[rewrite]))
    return rules


def _rule(model: Mapping, matches: list, **content: Any) -> dict[str, Any]:
    backend = {
        "group": "inference.networking.k8s.io",
        "kind": "InferencePool",
        "name": model["pool"],
        "port": model["port"],
        "weight": 1,
    }
    timeout = model["request_timeout"]
    return {
        "matches": matches,
        **content,
        "backendRefs": [backend],
        "timeouts": {"request": timeout, "backendRequest": timeout},
    }
