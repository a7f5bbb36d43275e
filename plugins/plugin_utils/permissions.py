# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""What a play does in the cluster, asked for beforehand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import autoscaling
from .objects import workload_kind, workloads_of

_VERBS = ("get", "list", "create", "patch", "delete")
_ALWAYS = (
    ("apps", "deployments"),
    ("", "configmaps"),
    ("", "services"),
    ("", "serviceaccounts"),
    ("rbac.authorization.k8s.io", "roles"),
    ("rbac.authorization.k8s.io", "rolebindings"),
    ("inference.networking.k8s.io", "inferencepools"),
    ("gateway.networking.k8s.io", "httproutes"),
    ("networking.istio.io", "destinationrules"),
)
_BUDGETS = (("policy", "poddisruptionbudgets"),)
_GROUPS = (("leaderworkerset.x-k8s.io", "leaderworkersets"),)
_PREFETCHING = (("batch", "jobs"), ("apps", "daemonsets"))
_AUTOSCALERS = {
    autoscaling.KEDA: ("keda.sh", "scaledobjects"),
    autoscaling.HPA: ("autoscaling", "horizontalpodautoscalers"),
}
_FILTERS = (("networking.istio.io", "envoyfilters"),)


def needed(resolved: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the permissions that the ``resolved`` stack takes, as module ``cluster_facts`` asks for them."""
    models = resolved["models"]
    pods = [item for model in models for item in (model, *model["roles"])]
    resources = [
        *_ALWAYS,
        *(_BUDGETS if any(model["disruption_budget"] for model in models) else ()),
        *(_GROUPS if any(_is_group(item) for model in models for item in workloads_of(model)) else ()),
        *(_PREFETCHING if any(item["prefetch"] for item in pods) else ()),
        *(
            _AUTOSCALERS[by]
            for by in sorted({str(model["autoscaling"].get("by")) for model in models} & _AUTOSCALERS.keys())
        ),
        *(_FILTERS if resolved["body_routing"] else ()),
    ]
    place = {"namespace": resolved["namespace"]}
    return [
        *({"verbs": list(_VERBS), "group": group, "resource": resource, **place} for group, resource in resources),
        # One run at a time.
        {"verbs": ["get", "create", "update"], "group": "coordination.k8s.io", "resource": "leases", **place},
    ]


def _is_group(pods: Mapping[str, Any]) -> bool:
    return workload_kind(pods) == "LeaderWorkerSet"
