# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""How objects of this collection are told from all others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Value of the label app.kubernetes.io/managed-by.
MANAGED_BY = "llm_d.multi_engine"
MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
#: Labels of ours that no upstream component reads.
STACK_LABEL = "multi-engine.llm-d.ai/stack"
ROLE_LABEL = "multi-engine.llm-d.ai/role"
TRACK_LABEL = "multi-engine.llm-d.ai/track"
#: Labels that llm-d's components read.
MODEL_LABEL = "llm-d.ai/model"
SERVING_LABEL = "llm-d.ai/inference-serving"
#: Endpoint pickers choose metric names by one of these: GAIE's own and old ones of llm-d read
#: only the second. Without it an SGLang pod looks idle.
ENGINE_LABELS = ("llm-d.ai/engine-type", "inference.networking.k8s.io/engine-type")
#: Groups of pods over several nodes.
LEADER_WORKER_SET = "leaderworkerset.x-k8s.io/v1"
#: API version of the kinds that model servers are.
MODEL_SERVERS = {"Deployment": "apps/v1", "LeaderWorkerSet": LEADER_WORKER_SET}
#: Owner of fields in server-side apply.
FIELD_MANAGER = "llm-d-multi-engine"
#: Owner of a workload's replicas from when we leave them to an autoscaler until it writes them first.
REPLICAS_MANAGER = f"{FIELD_MANAGER}-replicas"
#: Annotation of a workload whose replicas an autoscaler writes: how many it starts with.
INITIAL_REPLICAS = "multi-engine.llm-d.ai/initial-replicas"
#: API version of the kinds that scale a workload.
AUTOSCALERS = {"ScaledObject": "keda.sh/v1alpha1", "HorizontalPodAutoscaler": "autoscaling/v2"}
#: Annotation with a digest of what was asked for. Managed fields do not tell what is inside of a value
#: that Kubernetes takes as one, a node selector for example.
ASKED = "multi-engine.llm-d.ai/asked"
#: Annotation of a model server: a digest of what its pods run, whatever it is called.
REVISION = "multi-engine.llm-d.ai/revision"
#: Annotation of a model server: its replicas as they are asked for, whatever a rollout lets it have for a while.
REPLICAS = "multi-engine.llm-d.ai/replicas"
#: Annotation of an endpoint picker's pod: a digest of the configuration that it has read.
CONFIG_HASH = "multi-engine.llm-d.ai/config-hash"
#: Annotation of an endpoint picker's Deployment: the release that it belongs to.
RELEASE = "multi-engine.llm-d.ai/release"
#: Label of what somebody else made and this collection has taken over: how it came.
ADOPTED = "multi-engine.llm-d.ai/adopted-from"
#: In the place of an engine and of a track, where what was taken over serves a model.
ADOPTED_SIDE = "adopted"
#: Annotation of a pod: the container whose last log line says how far it is.
PROGRESS = "multi-engine.llm-d.ai/progress"


def selector(stack: str, role: str | None = None) -> str:
    """Return the label selector of what a stack, or one role of it, has made."""
    labels = {MANAGED_BY_LABEL: MANAGED_BY, STACK_LABEL: stack, **({ROLE_LABEL: role} if role else {})}
    return selecting(labels)


def selecting(labels: Mapping[str, str]) -> str:
    """Return the label selector of what has ``labels``."""
    return ",".join(f"{key}={value}" for key, value in labels.items())


def labels_of(item: Mapping[str, Any]) -> dict[str, str]:
    """Return the labels of an object."""
    return item["metadata"].get("labels") or {}


def is_server(item: Mapping[str, Any]) -> bool:
    """Whether an object is a workload of a model."""
    return item["kind"] in MODEL_SERVERS and MODEL_LABEL in labels_of(item)
