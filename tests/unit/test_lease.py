"""One run at a time, and what becomes of a claim that was not renewed in time."""

from __future__ import annotations

import time

import pytest
from ansible_collections.llm_d.multi_engine.plugins.module_utils import lease
from ansible_collections.llm_d.multi_engine.plugins.module_utils.cluster import ClusterError, Conflict, Unreachable
from ansible_collections.llm_d.multi_engine.plugins.module_utils.lease import RunLease
from ansible_collections.llm_d.multi_engine.tests.unit.fake_cluster import FakeCluster

KEY = ("Lease", "llm-d-gaie")


def claim(cluster: FakeCluster) -> RunLease:
    return RunLease(cluster, "llm-d", "gaie", "llm-d", "llm-d-gaie")


def test_it_is_taken_and_let_go() -> None:
    cluster = FakeCluster()
    with claim(cluster) as held:
        assert cluster.live[KEY]["spec"]["holderIdentity"] == held.holder
        held.check()
    assert cluster.live[KEY]["spec"]["holderIdentity"] == ""


def test_modules_of_one_run_hand_it_on_and_others_stay_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease.time, "sleep", lambda _seconds: cluster.renew())
    cluster, place = FakeCluster(), ("llm-d", "gaie", "llm-d", "llm-d-gaie")
    with RunLease(cluster, *place, "alice/1", 30):
        since = cluster.live[KEY]["spec"]["acquireTime"]
    assert cluster.live[KEY]["spec"]["holderIdentity"] == "alice/1"
    with pytest.raises(ClusterError, match="Another run is changing role gaie of stack llm-d: alice/1"):
        claim(cluster).__enter__()
    with RunLease(cluster, *place, "alice/1", 30) as held:
        assert held.waited is None
        assert cluster.live[KEY]["spec"]["acquireTime"] == since
        held.last = True
    assert cluster.live[KEY]["spec"]["holderIdentity"] == ""


def test_a_claim_that_was_not_renewed_in_time_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = FakeCluster()
    with claim(cluster) as held:
        held._renewed_at -= lease.DURATION
        held.check()
        cluster.live[KEY]["spec"]["holderIdentity"] = "bob@desk/2"
        held.check()  # known to be ours a moment ago
        held._renewed_at -= lease.DURATION
        with pytest.raises(ClusterError, match=r"Another run is changing role gaie of stack llm-d: bob@desk/2"):
            held.check()
    # It is bob's now.
    assert cluster.live[KEY]["spec"]["holderIdentity"] == "bob@desk/2"


@pytest.mark.parametrize("error", [Unreachable("away"), Conflict("modified")])
def test_renewing_goes_on_after_an_error(monkeypatch: pytest.MonkeyPatch, error: ClusterError) -> None:
    monkeypatch.setattr(lease, "RENEWAL", 0.01)
    cluster = FakeCluster()
    with claim(cluster) as held:
        write, get = cluster.write, cluster.get

        def broken(*_args: object) -> dict:
            raise error

        cluster.write = cluster.get = broken
        held._stop.wait(0.1)
        cluster.write, cluster.get = write, get
        before, deadline = held._renewed_at, time.monotonic() + 20
        while held._renewed_at == before and time.monotonic() < deadline:
            held._stop.wait(0.05)
        assert held._renewed_at > before
        held.check()
