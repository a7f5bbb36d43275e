"""Whose replicas are: what is sent for them, on a server that keeps owners of that one field as Kubernetes does."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from ansible_collections.llm_d.multi_engine.plugins.module_utils import scaling
from ansible_collections.llm_d.multi_engine.plugins.module_utils.cluster import Owned
from ansible_collections.llm_d.multi_engine.plugins.module_utils.marks import (
    FIELD_MANAGER,
    INITIAL_REPLICAS,
    REPLICAS_MANAGER,
)

HPA = "kube-controller-manager"


class Server:
    """A Deployment, and who owns its replicas. They are reset to 1 when their last owner sends them no more.

    :ivar history: every number that the replicas ever were.
    """

    def __init__(self, replicas: int, *owners: str) -> None:
        self.replicas, self.owners, self.history = replicas, set(owners), [replicas]

    def apply(self, item: dict, force: bool, dry_run: bool, manager: str = FIELD_MANAGER) -> dict[str, Any]:
        assert not dry_run
        asked = item.get("spec", {}).get("replicas")
        if asked is None:
            self.owners.discard(manager)
            self._set(self.replicas if self.owners else 1)
        else:
            others = self.owners - {manager}
            if asked != self.replicas and others and not force:
                raise Owned(f"conflict with {others}", by_hand=False, fields=frozenset({scaling.FIELD}))
            self.owners = {manager} if asked != self.replicas else self.owners | {manager}
            self._set(asked)
        return self.live()

    def scale(self, replicas: int) -> None:
        """Write replicas as an autoscaler does: they are its own from then on."""
        self.owners = {HPA}
        self._set(replicas)

    def _set(self, replicas: int) -> None:
        self.replicas = replicas
        if self.history[-1] != replicas:
            self.history.append(replicas)

    def live(self, **annotations: str) -> dict[str, Any]:
        fields = [
            {
                "manager": owner,
                "operation": "Update" if owner == HPA else "Apply",
                "fieldsV1": {"f:spec": {"f:replicas": {}}},
            }
            for owner in sorted(self.owners)
        ]
        return {
            **workload(**annotations),
            "metadata": {**META, "managedFields": fields},
            "spec": {"replicas": self.replicas},
        }


META = {"name": "a", "namespace": "n"}
SCALED = {INITIAL_REPLICAS: "2"}


def workload(replicas: int | None = None, **annotations: str) -> dict[str, Any]:
    spec = {} if replicas is None else {"replicas": replicas}
    metadata = {**META, "annotations": annotations}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}


def send(server: Server, item: dict[str, Any], live: dict[str, Any] | None) -> dict[str, Any]:
    """Apply ``item`` as :class:`Apply` does."""
    sent = scaling.released(server, item, live, dry_run=False)
    try:
        after = server.apply(sent, False, False)
    except Owned as error:
        if not scaling.taken_back(item, live, error):
            raise
        after = server.apply(sent, True, False)
    return scaling.forgotten(server, item, scaling.started(server, item, live, after))


@pytest.mark.parametrize("replicas", [1, 2, 5])
def test_left_to_an_autoscaler(replicas: int) -> None:
    server = Server(replicas, FIELD_MANAGER)
    send(server, workload(**SCALED), server.live())
    assert (server.history, server.owners) == ([replicas], {REPLICAS_MANAGER})
    # Again, and after it was scaled: nothing is ours any more.
    send(server, workload(**SCALED), server.live(**SCALED))
    server.scale(7)
    send(server, workload(**SCALED), server.live(**SCALED))
    assert (server.history, server.owners) == (list(dict.fromkeys([replicas, 7])), {HPA})


@pytest.mark.parametrize(
    ("scaled", "wanted", "history"), [(5, 5, [5]), (5, 3, [5, 3]), (None, 2, [2]), (None, 3, [2, 3])]
)
def test_taken_back(scaled: int | None, wanted: int, history: list[int]) -> None:
    server = Server(scaled or 2, HPA if scaled else REPLICAS_MANAGER)
    live = server.live()
    live["metadata"]["annotations"] = SCALED
    send(server, workload(wanted), live)
    assert server.history == history
    assert server.owners - {HPA} == {FIELD_MANAGER}


def test_a_new_workload_starts_with_its_replicas() -> None:
    server = Server(1)
    after = send(server, workload(**SCALED), None)
    assert (after["spec"]["replicas"], server.owners) == (2, {REPLICAS_MANAGER})


def test_an_autoscaler_that_was_faster() -> None:
    server = Server(3, FIELD_MANAGER)
    seen = server.live()
    server.scale(9)
    send(server, workload(**SCALED), seen)
    assert (server.history, server.owners) == ([3, 9], {HPA})


def test_in_check_mode_nothing_is_handed_over() -> None:
    server = Server(3, FIELD_MANAGER)
    item = workload(**SCALED)
    sent = scaling.released(server, item, server.live(), dry_run=True)
    assert sent["spec"] == {"replicas": 3}
    assert (item["spec"], server.owners) == ({}, {FIELD_MANAGER})


def test_what_others_own_is_not_taken() -> None:
    conflict = Owned("conflict", by_hand=False, fields=frozenset({scaling.FIELD}))
    more = Owned("conflict", by_hand=False, fields=frozenset({scaling.FIELD, ".spec.template"}))
    was = copy.deepcopy(workload(**SCALED))
    assert scaling.taken_back(workload(2), was, conflict)
    assert not scaling.taken_back(workload(2), was, more)
    assert not scaling.taken_back(workload(2), workload(1), conflict)
    assert "say so with the model's autoscaling" in str(scaling.explained(conflict))
    assert scaling.explained(more) is more
