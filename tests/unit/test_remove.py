"""What module ``remove`` deletes, on a cluster that is a dictionary."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.llm_d.multi_engine.plugins.module_utils import lease
from ansible_collections.llm_d.multi_engine.plugins.module_utils.cluster import ClusterError, Forbidden
from ansible_collections.llm_d.multi_engine.plugins.modules import remove
from ansible_collections.llm_d.multi_engine.tests.unit.fake_cluster import FakeCluster

LABELS = {
    "app.kubernetes.io/managed-by": "llm_d.multi_engine",
    "multi-engine.llm-d.ai/stack": "llm-d",
    "multi-engine.llm-d.ai/role": "gaie",
}
PARAMS = {
    "kinds": ["v1 Service", "v1 ConfigMap", "coordination.k8s.io/v1 Lease"],
    "namespace": "llm-d",
    "role": "gaie",
    "stack": "llm-d",
    "definitions": [],
    "wait_timeout": 1,
}


class Recording(FakeCluster):
    """Remembers in which order objects went."""

    def __init__(self, *live: dict[str, Any]) -> None:
        super().__init__(*live)
        self.deleted: list[str] = []

    def delete(self, item: dict, dry_run: bool) -> None:
        self.deleted.append(f"{item['kind']} {item['metadata']['name']}")
        super().delete(item, dry_run)


def item(kind: str, name: str, **content: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "llm-d", "uid": name, "labels": LABELS}
    return {"apiVersion": "v1", "kind": kind, "metadata": metadata, **content}


def guard(holder: str) -> dict[str, Any]:
    found = item("Lease", "llm-d-gaie", spec={"holderIdentity": holder, "renewTime": "t", "leaseDurationSeconds": 0})
    found["metadata"]["resourceVersion"] = "1"
    return found


def run(
    monkeypatch: pytest.MonkeyPatch,
    cluster: FakeCluster,
    check_mode: bool = False,
    warned: list[str] | None = None,
    **params: Any,
) -> dict:
    warned = [] if warned is None else warned
    monkeypatch.setattr(remove, "Cluster", lambda _module: cluster)
    return remove.run(SimpleNamespace(params={**PARAMS, **params}, check_mode=check_mode, warn=warned.append))


def test_what_guards_them_goes_last(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Recording(guard(""), item("ConfigMap", "a"), item("Service", "b"))
    assert run(monkeypatch, cluster)["removed"] == ["Service llm-d/b", "ConfigMap llm-d/a", "Lease llm-d/llm-d-gaie"]
    assert cluster.deleted == ["Service b", "ConfigMap a", "Lease llm-d-gaie"]
    assert not cluster.live


def test_another_run_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Recording(guard("somebody"), item("ConfigMap", "a"))
    # A Lease that is never out of date, and that its holder renews.
    cluster.live["Lease", "llm-d-gaie"]["spec"]["leaseDurationSeconds"] = 60
    monkeypatch.setattr(lease.time, "sleep", lambda _seconds: cluster.renew())
    with pytest.raises(ClusterError, match=r"Another run is changing role gaie of stack llm-d: somebody"):
        run(monkeypatch, cluster)
    assert not cluster.deleted


def test_check_mode_takes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Recording(guard("somebody"), item("ConfigMap", "a"))
    before = dict(cluster.live)
    assert run(monkeypatch, cluster, check_mode=True)["changed"]
    assert cluster.live == before
    assert not cluster.written


def test_nothing_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, Recording()) == {"changed": False, "removed": [], "kept": [], "diff": []}


class Secretive(Recording):
    """Does not let some kinds be listed."""

    hidden: tuple[str, ...] = ()

    def list(self, api_version: str, kind: str, namespace: str | None = None, labels: str = "") -> list[dict]:
        if kind in self.hidden:
            raise Forbidden(f"No permission: to list {kind}")
        return super().list(api_version, kind, namespace, labels)


@pytest.mark.parametrize("check_mode", [False, True])
@pytest.mark.parametrize(("namespace", "where"), [("llm-d", "in namespace llm-d"), (None, "in all namespaces")])
@pytest.mark.parametrize(
    ("hidden", "removed"),
    [
        (("Lease",), ["Service llm-d/b", "ConfigMap llm-d/a"]),
        (("Service",), ["ConfigMap llm-d/a", "Lease llm-d/llm-d-gaie"]),
        (("Service", "ConfigMap", "Lease"), []),
    ],
)
def test_kinds_that_may_not_be_listed_stay(
    monkeypatch: pytest.MonkeyPatch,
    hidden: tuple[str, ...],
    removed: list[str],
    namespace: str | None,
    where: str,
    check_mode: bool,
) -> None:
    cluster = Secretive(guard(""), item("ConfigMap", "a"), item("Service", "b"))
    cluster.hidden = hidden
    warned: list[str] = []
    result = run(monkeypatch, cluster, check_mode, warned, namespace=namespace)
    assert (result["removed"], result["changed"]) == (removed, bool(removed))
    assert (
        result["kept"]
        == warned
        == [f"{kind}: no permission to list it {where}; objects of this kind stay" for kind in hidden]
    )
    assert {kind for kind, _name in cluster.live} >= set(hidden)
    assert check_mode or not {kind for kind, _name in cluster.live} - set(hidden)
