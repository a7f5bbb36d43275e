# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""What is there of a model that is changed: pods and workloads of the old one, of the new one, and room beside them.

A side is a dict with ``engine`` and ``track``, as a plan has it; what was taken over has labels of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.llm_d.multi_engine.plugins.module_utils import capacity
from ansible_collections.llm_d.multi_engine.plugins.module_utils.adopted import Adopted
from ansible_collections.llm_d.multi_engine.plugins.module_utils.cluster import Cluster, Forbidden
from ansible_collections.llm_d.multi_engine.plugins.module_utils.marks import (
    ADOPTED_SIDE,
    ENGINE_LABELS,
    MODEL_LABEL,
    MODEL_SERVERS,
    SERVING_LABEL,
    STACK_LABEL,
    TRACK_LABEL,
    labels_of,
    selecting,
)
from ansible_collections.llm_d.multi_engine.plugins.module_utils.pods import stays_ready

Side = Mapping[str, Any]


def was_taken_over(side: Side | None) -> bool:
    """Whether ``side`` is what was taken over."""
    return bool(side) and side["track"] == ADOPTED_SIDE


def pod_labels(side: Side) -> dict[str, str]:
    """Return the labels by which pods of a model are of ``side``."""
    return {TRACK_LABEL: side["track"], **dict.fromkeys(ENGINE_LABELS, side["engine"])}


class Sides:
    """The old and the new one of one model.

    :param place: stack, namespace and model.
    :param old: None where nobody serves.
    :param adopted: what was taken over for the model.
    """

    def __init__(
        self, cluster: Cluster, place: tuple[str, str, str], old: Side | None, new: Side, adopted: Adopted
    ) -> None:
        self._cluster, self._adopted = cluster, adopted
        stack, self._namespace, model = place
        self._of_model = {STACK_LABEL: stack, MODEL_LABEL: model}
        self.old, self.new = old, new

    def pods(self, side: Side) -> list[dict]:
        """Return the pods of ``side``, those that go included."""
        return self._adopted.pods() if was_taken_over(side) else self._pods(pod_labels(side))

    def serving(self, side: Side) -> list[dict]:
        """Return those of its pods that requests are for, whether they are ready or not."""
        return self._pods({**pod_labels(side), SERVING_LABEL: "true"})

    def workloads(self, side: Side) -> list[dict]:
        """Return the workloads of ``side``."""
        if was_taken_over(side):
            return self._adopted.servers()
        text = self._text(pod_labels(side))
        return [
            item for kind, api in MODEL_SERVERS.items() for item in self._cluster.list(api, kind, self._namespace, text)
        ]

    def ready(self) -> dict[str, int]:
        """Return how many pods of ``old`` and of ``new`` answer."""
        counts = {"old": 0, "new": 0}
        for pod in filter(stays_ready, self._pods({})):
            if self._is_of(pod, self.new):
                counts["new"] += 1
            elif self.old and self._is_of(pod, self.old):
                counts["old"] += 1
        if was_taken_over(self.old):
            counts["old"] = sum(map(stays_ready, self._adopted.pods()))
        return counts

    def room(self, workloads: Sequence[dict], leftovers: Sequence[Side]) -> dict[str, Any]:
        """Return what the cluster has for ``workloads`` beside everything else, as ``rollout.Room`` takes it.

        :param leftovers: sides that go before they come.
        """
        replicas = capacity.pods_of(workloads)
        needed = capacity.devices(replicas)
        try:
            nodes = self._cluster.list("v1", "Node")
            going = {_place(pod) for pod in (self._adopted.pods() if any(map(was_taken_over, leftovers)) else ())}
            placed = [
                pod for pod in self._cluster.list("v1", "Pod") if not self._gives_way(pod) and _place(pod) not in going
            ]
        except Forbidden:
            return {"fits": None, "missing": len(replicas), "needed": needed, "free": {}}
        first = replicas[0][0]
        return {
            "fits": capacity.room(replicas, nodes, placed),
            "missing": len(replicas),
            "needed": needed,
            "free": {resource: capacity.free(resource, first, nodes, placed) for resource in needed},
        }

    def _gives_way(self, pod: dict) -> bool:
        """Whether ``pod`` is of the model, and not of the one that serves: it is the new one's, or goes before it."""
        here = pod["metadata"].get("namespace") == self._namespace
        ours = here and self._of_model.items() <= labels_of(pod).items()
        return ours and not (self.old and self._is_of(pod, self.old))

    @staticmethod
    def _is_of(pod: dict, side: Side) -> bool:
        return pod_labels(side).items() <= labels_of(pod).items()

    def _pods(self, labels: Mapping[str, str]) -> list[dict]:
        return self._cluster.list("v1", "Pod", self._namespace, self._text(labels))

    def _text(self, labels: Mapping[str, str]) -> str:
        return selecting({**self._of_model, **labels})


def _place(pod: Mapping[str, Any]) -> tuple[str | None, str]:
    return pod["metadata"].get("namespace"), pod["metadata"]["name"]
