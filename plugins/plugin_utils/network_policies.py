# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Who may reach the engines: engines check no certificate, and most run without a key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import tracks
from .gaie import picker_name
from .objects import MODEL_LABEL, STACK_LABEL, Object, labels, make, model_labels
from .plain import as_list

#: Label of the pods that Istio makes for a Gateway.
_GATEWAY_LABEL = "gateway.networking.k8s.io/gateway-name"
_NAMESPACE_LABEL = "kubernetes.io/metadata.name"


def compose(
    stack: str, role: str, component: str, namespace: str, model: Mapping[str, Any], options: Mapping[str, Any]
) -> Object:
    """Return the policy that lets only the gateway, the picker, the model's own pods and monitoring reach its pods.

    All ports are open to those: engines of one model meet on ports that they choose. Probes come
    from the node, which no policy keeps out.

    :param options: ``gateway_name``, ``gateway_namespace`` (str), ``network_policy_namespaces``
        (list of names) and ``network_policy_peers`` (list, as in Kubernetes).
    """
    pickers = [picker_name(model)]
    if model["rollout"].get("testers"):
        # Theirs has a pool of its own, and reads the same pods' metrics.
        pickers.append(picker_name({"pool": tracks.other_pool(model["name"], model["pool"])}))
    peers: list[dict[str, Any]] = [
        {
            "namespaceSelector": _labels({_NAMESPACE_LABEL: options["gateway_namespace"]}),
            "podSelector": _labels({_GATEWAY_LABEL: options["gateway_name"]}),
        },
        *(
            {"podSelector": _labels({"app.kubernetes.io/name": name, "app.kubernetes.io/part-of": stack})}
            for name in pickers
        ),
        # The other engine of the model, too, while one takes the place of the other.
        {"podSelector": _labels({STACK_LABEL: stack, MODEL_LABEL: model["name"]})},
    ]
    peers += [
        {"namespaceSelector": _labels({_NAMESPACE_LABEL: name})}
        for name in as_list(options["network_policy_namespaces"])
    ]
    spec = {
        "podSelector": _labels(model_labels(stack, model)),
        "policyTypes": ["Ingress"],
        "ingress": [{"from": peers + list(options["network_policy_peers"])}],
    }
    name = model["workload"]
    return make("networking.k8s.io/v1", "NetworkPolicy", name, namespace, labels(stack, role, component), spec=spec)


def _labels(match: Mapping[str, str]) -> dict[str, Any]:
    return {"matchLabels": dict(match)}
