"""Waiting for many objects, on a cluster that is a dictionary."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from ansible_collections.llm_d.multi_engine.plugins.module_utils import looking, waiting
from ansible_collections.llm_d.multi_engine.plugins.module_utils.cluster import ClusterError, Unreachable
from ansible_collections.llm_d.multi_engine.plugins.module_utils.waiting import Pending, wait

STATUS = {"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "availableReplicas": 1}


def deployment(name: str, ready: bool) -> dict[str, Any]:
    status = STATUS if ready else {"observedGeneration": 1}
    metadata = {"name": name, "namespace": "llm-d", "generation": 1}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata,
        "spec": {"replicas": 1},
        "status": status,
    }


class Watched:
    """Shows one state after the other of the objects of a kind; an error where a state is one."""

    def __init__(self, *states: list[dict] | Exception, hopeless: bool = False) -> None:
        self.states, self.hopeless = list(states), hopeless

    def impatient(self) -> Watched:
        return self

    def watch(self, _api_version: str, _kind: str, _namespace: str | None, _seconds: float) -> Iterator[dict]:
        while self.states:
            state = self.states.pop(0)
            if isinstance(state, Exception):
                raise state
            yield {item["metadata"]["name"]: item for item in state}
        # As a watch on which nothing happens any more.
        waiting.time.sleep(0.05)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "_PAUSE", 0.01)
    why = ["pod a is not scheduled: no GPU"]
    monkeypatch.setattr(looking, "why_not_ready", lambda cluster, *_args: (why, cluster.hopeless))


def test_it_ends_when_all_is_ready() -> None:
    cluster = Watched([deployment("a", ready=False)], [deployment("a", ready=True)])
    assert wait(cluster, [deployment("a", ready=True), {"kind": "ConfigMap"}], 60) == []
    assert wait(cluster, [], 0) == []


def test_it_ends_early_when_it_is_hopeless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "_EXPLAIN_EVERY", 0)
    cluster = Watched([deployment("a", ready=True), deployment("b", ready=False)], hopeless=True)
    with pytest.raises(ClusterError) as caught:
        wait(cluster, [deployment("a", ready=True), deployment("b", ready=True)], 60)
    assert str(caught.value) == (
        "Given up after 0 s, waiting cannot help:\n"
        "Deployment llm-d/b: 0 of 1 pods are ready\n"
        "  pod a is not scheduled: no GPU"
    )


def test_it_has_a_deadline_and_counts_what_was_waited_before() -> None:
    with pytest.raises(ClusterError, match=r"^Not ready after 40 s:\nDeployment llm-d/a: does not exist$"):
        wait(Watched([]), [deployment("a", ready=True)], 0, waited=40)


def test_a_slice_ends_without_a_failure() -> None:
    pending = wait(Watched([deployment("a", ready=False)]), [deployment("a", ready=True)], 60, 0)
    said = "Deployment llm-d/a: 0 of 1 pods are ready\n  pod a is not scheduled: no GPU"
    assert pending == [Pending("Deployment llm-d/a", said)]


def test_an_api_server_that_comes_back_is_enough() -> None:
    cluster = Watched(Unreachable("away"), Unreachable("away"), [deployment("a", ready=True)])
    assert wait(cluster, [deployment("a", ready=True)], 60) == []


def test_an_api_server_that_stays_away_is_the_reason() -> None:
    cluster = Watched(*[Unreachable("No Kubernetes API answers")] * 1000)
    pending = wait(cluster, [deployment("a", ready=True)], 60, 0)
    assert pending[0].reason.endswith("cannot be read: No Kubernetes API answers")
