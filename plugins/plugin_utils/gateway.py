# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Kubernetes objects and chart values of role ``istio_gateway``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from .objects import Object, labels, make, without_empty
from .profiles import merge

ROLE = "istio_gateway"
COMPONENT = "gateway"
INFERENCE_SWITCH = "ENABLE_GATEWAY_API_INFERENCE_EXTENSION"


def istiod_values(
    release: Mapping[str, Any], overrides: Mapping[str, Any], version: str = "", pull_secrets: Sequence[str] = ()
) -> dict[str, Any]:
    """Return values of Istio's istiod chart: what inference needs, with ``overrides`` on top.

    :param version: version of Istio, empty for the release's.
    :param pull_secrets: names of Secrets with credentials of registries.
    """
    ours: dict[str, Any] = {
        "global": {"hub": release["istio"]["hub"], "tag": version or release["istio"]["version"]},
        "pilot": {"env": {INFERENCE_SWITCH: "true"}},
        "meshConfig": {"defaultConfig": {"proxyMetadata": {INFERENCE_SWITCH: "true"}}},
    }
    if pull_secrets:
        ours["global"]["imagePullSecrets"] = list(pull_secrets)
    return merge(ours, overrides)


def compose(stack: str, engines: Mapping[str, Any], options: Mapping[str, Any]) -> list[Object]:
    """Return the Gateway and what belongs to it.

    :param engines: engines in use as :func:`resolve.resolve` returns them; the longest of their
        idle timeouts is kept.
    :param options: ``name``, ``namespace``, ``class``, ``service_type`` (str), ``allowed_routes``
        (``Same`` or ``All``), ``http_port`` and ``https_port`` (int), ``tls_secret`` (str, empty
        for none), ``annotations``, ``deployment`` and ``service`` (dicts laid over what Istio
        makes) and ``extra_objects`` (list of whole objects).
    """
    common = labels(stack, ROLE, COMPONENT)
    name, namespace = options["name"], options["namespace"]
    overlays = without_empty({key: options[key] for key in ("deployment", "service")})
    gateway = make(
        "gateway.networking.k8s.io/v1",
        "Gateway",
        name,
        namespace,
        # Without it Istio does not ask endpoint pickers.
        {**common, "istio.io/enable-inference-extproc": "true"},
        spec=_spec(options, engines, bool(overlays)),
    )
    gateway["metadata"]["annotations"] = {
        "networking.istio.io/service-type": options["service_type"],
        **options["annotations"],
    }
    objects = [gateway]
    if overlays:
        data = {key: yaml.safe_dump(value, sort_keys=False) for key, value in overlays.items()}
        objects.insert(0, make("v1", "ConfigMap", _overlay_name(name), namespace, common, data=data))
    return objects + _owned(options["extra_objects"], common)


def _overlay_name(name: str) -> str:
    return f"{name}-overlay"


def _owned(extra: Sequence[Mapping[str, Any]], common: Mapping[str, str]) -> list[Object]:
    """Return the user's own objects with our labels, so that ``uninstall`` finds them."""
    ours = {"metadata": {"labels": dict(common)}}
    return [merge(item, ours) for item in extra]


def _spec(options: Mapping, engines: Mapping, overlaid: bool) -> dict[str, Any]:
    routes = {"namespaces": {"from": options["allowed_routes"]}}
    listeners = [{"name": "http", "port": int(options["http_port"]), "protocol": "HTTP", "allowedRoutes": routes}]
    if options["tls_secret"]:
        certificate = {"group": "", "kind": "Secret", "name": options["tls_secret"]}
        listeners.append(
            {
                "name": "https",
                "port": int(options["https_port"]),
                "protocol": "HTTPS",
                "tls": {"mode": "Terminate", "certificateRefs": [certificate]},
                "allowedRoutes": routes,
            }
        )
    # Once there are any here, Istio copies only these to the Service and the pods, not the Gateway's.
    infrastructure: dict[str, Any] = {"annotations": dict(options["annotations"])}
    timeout = _idle_timeout(engines)
    if timeout:
        # Istio closes connections that are idle for an hour unless told otherwise.
        metadata = {"proxyMetadata": {"ISTIO_META_IDLE_TIMEOUT": timeout}}
        infrastructure["annotations"].setdefault("proxy.istio.io/config", yaml.safe_dump(metadata))
    if overlaid:
        infrastructure["parametersRef"] = {
            "group": "",
            "kind": "ConfigMap",
            "name": _overlay_name(options["name"]),
        }
    return without_empty(
        {
            "gatewayClassName": options["class"],
            "listeners": listeners,
            "infrastructure": without_empty(infrastructure),
        }
    )


def _idle_timeout(engines: Mapping[str, Any]) -> str | None:
    """Return the longest idle timeout of ``engines``, all written in seconds such as ``3600s``."""
    timeouts = [engine["http"]["idle_timeout"] for engine in engines.values()]
    return max(timeouts, key=lambda timeout: int(timeout.rstrip("s")), default=None)
