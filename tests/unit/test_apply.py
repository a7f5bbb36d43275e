"""What module ``apply`` does with objects, on a cluster that is a dictionary."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.llm_d.multi_engine.plugins.module_utils import applying, lease
from ansible_collections.llm_d.multi_engine.plugins.module_utils.applying import Apply
from ansible_collections.llm_d.multi_engine.plugins.module_utils.applyset import PART_OF, set_id
from ansible_collections.llm_d.multi_engine.plugins.module_utils.cluster import ClusterError, Conflict, Unreachable
from ansible_collections.llm_d.multi_engine.plugins.module_utils.documents import as_json
from ansible_collections.llm_d.multi_engine.plugins.module_utils.manifests import presentable, with_digest
from ansible_collections.llm_d.multi_engine.plugins.modules.apply import load, wanted_objects
from ansible_collections.llm_d.multi_engine.tests.unit.fake_cluster import FakeCluster

LABELS = {"app.kubernetes.io/managed-by": "llm_d.multi_engine", "multi-engine.llm-d.ai/stack": "llm-d"}
PARAMS: dict[str, Any] = {
    "objects": [],
    "sources": [],
    "source_labels": {},
    "upgrade_sources": False,
    "secret_data": {},
    "stack": "llm-d",
    "role": None,
    "prune": True,
    "allow_empty": False,
    "namespace": None,
    "force_conflicts": False,
    "adopt": False,
    "wait_timeout": 300,
}


def item(kind: str = "ConfigMap", name: str = "a", namespace: str | None = "llm-d", **content: Any) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name, "labels": dict(LABELS)}
    if namespace:
        metadata["namespace"] = namespace
    return {"apiVersion": "v1", "kind": kind, "metadata": metadata, **content}


NAMESPACE = item("Namespace", "llm-d", None)


def run(cluster: FakeCluster, *objects: dict[str, Any], dry_run: bool = False, **params: Any) -> Apply:
    apply = Apply(cluster, {**PARAMS, **params}, dry_run)
    apply.all(list(objects))
    return apply


def actions(apply: Apply) -> list[tuple[str, str, bool]]:
    return [(entry["name"], entry["action"], entry["checked"]) for entry in apply.results]


def test_wanted_objects_have_a_namespace_and_secrets_their_values() -> None:
    wanted = wanted_objects(
        {
            **PARAMS,
            "objects": [item("HTTPRoute"), item("Secret", "token")],
            "secret_data": {"token": {"TOKEN": "hf_secret"}, "a": {"x": "y"}},
            "namespace": "llm-d",
        }
    )
    route, secret, namespace = wanted
    assert namespace["metadata"] == {"name": "llm-d", "labels": LABELS}
    assert secret["data"] == {"TOKEN": "aGZfc2VjcmV0"}
    assert "data" not in route


@pytest.mark.parametrize(
    "given",
    [
        [item("HTTPRoute"), item("Secret")],
        [as_json({"first": [item("HTTPRoute")], "second": [item("Secret")]})],
        [[item("HTTPRoute")], as_json({"first": [item("Secret")]})],
        # What templates of older versions make of such a text.
        [json.loads(as_json({"first": [item("HTTPRoute"), item("Secret")]}))],
    ],
)
def test_objects_come_as_structures_and_as_texts(given: list) -> None:
    wanted = wanted_objects({**PARAMS, "objects": given, "secret_data": {}, "namespace": None})
    assert wanted == [item("HTTPRoute"), item("Secret")]


@pytest.mark.parametrize("given", ["[", "3", '["a"]', '[{"kind": "Secret"}]', {"kind": "Secret"}])
def test_what_is_no_object(given: Any) -> None:
    with pytest.raises(ClusterError, match=r"Nothing was changed. objects: "):
        wanted_objects({**PARAMS, "objects": [given], "secret_data": {}, "namespace": None})


def test_a_source_that_is_not_there() -> None:
    with pytest.raises(ClusterError, match=r"/nowhere.yaml cannot be read: .* Name a mirror or a local file instead."):
        load("/nowhere.yaml")


def definition(labels: dict[str, str], **spec: Any) -> dict[str, Any]:
    spec = {"group": "example.com", "names": {"kind": "Thing"}, **spec}
    metadata = {"name": "things.example.com", "labels": labels}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": metadata,
        "spec": spec,
    }


def from_source(cluster: FakeCluster, dry_run: bool = False, **params: Any) -> Apply:
    """Apply a definition that a manifest brings."""
    apply = Apply(cluster, {**PARAMS, "source_labels": LABELS, **params}, dry_run)
    apply.all([], [definition({"a": "b"}, x=2)])
    return apply


def test_a_source_is_read_without_what_is_not_for_applying(tmp_path: Path) -> None:
    file = tmp_path / "crds.yaml"
    file.write_text("---\n---\nkind: CustomResourceDefinition\nmetadata: {name: crd, labels: {a: b}}\nstatus: {x: 1}\n")
    assert load(str(file)) == [{"kind": "CustomResourceDefinition", "metadata": {"name": "crd", "labels": {"a": "b"}}}]


def test_new_sources_get_our_labels_and_those_of_others_are_left_alone() -> None:
    # Only shown: nothing here would establish a new definition.
    new = from_source(FakeCluster(), dry_run=True)
    assert actions(new)[0][1] == "created"
    assert "managed-by: llm_d.multi_engine" in new.diffs[0]["after"]
    theirs = FakeCluster(definition({}, x=1))
    assert actions(from_source(theirs)) == []
    assert theirs.applied == []


def test_sources_of_others_are_upgraded_when_asked_and_stay_theirs() -> None:
    theirs = FakeCluster(definition({"their": "label"}, x=1))
    assert actions(from_source(theirs, upgrade_sources=True))[0][1] == "changed"
    after = theirs.live["CustomResourceDefinition", "things.example.com"]
    assert after["spec"]["x"] == 2
    assert "app.kubernetes.io/managed-by" not in after["metadata"]["labels"]


def test_created_then_unchanged_then_changed() -> None:
    cluster = FakeCluster(NAMESPACE)
    first = run(cluster, item(data={"x": "1"}))
    assert actions(first) == [("ConfigMap llm-d/a", "created", True)]
    assert first.diffs == [
        {
            "before_header": "ConfigMap llm-d/a",
            "after_header": "ConfigMap llm-d/a",
            "before": "",
            "after": applying._dump(item(data={"x": "1"})),
        }
    ]
    second = run(cluster, item(data={"x": "1"}))
    assert (actions(second), second.diffs) == ([("ConfigMap llm-d/a", "unchanged", True)], [])
    third = run(cluster, item(data={"x": "2"}))
    assert actions(third) == [("ConfigMap llm-d/a", "changed", True)]
    assert "defaulted" not in third.diffs[0]["after"]
    assert third.diffs[0]["after"] == third.diffs[0]["before"].replace("'1'", "'2'")


def test_a_changed_secret_is_told_and_not_shown() -> None:
    cluster = FakeCluster(NAMESPACE)
    run(cluster, item("Secret", data={"TOKEN": "hf_old"}))
    assert actions(run(cluster, item("Secret", data={"TOKEN": "hf_old"})))[0][1] == "unchanged"
    changed = run(cluster, item("Secret", data={"TOKEN": "hf_new"}))
    assert actions(changed)[0][1] == "changed"
    assert changed.diffs[0]["before"] != changed.diffs[0]["after"]
    assert "hf_" not in repr(changed.diffs)


@pytest.mark.parametrize("labels", [{}, {**LABELS, "multi-engine.llm-d.ai/stack": "other"}])
def test_what_is_foreign_is_refused(labels: dict[str, str]) -> None:
    theirs = item()
    theirs["metadata"]["labels"] = labels
    cluster = FakeCluster(NAMESPACE, theirs)
    # The first one is not written either.
    with pytest.raises(ClusterError, match=r"Nothing was changed. ConfigMap llm-d/a: it .* Choose other names"):
        run(cluster, item(name="new"), item())
    assert cluster.applied == []
    assert actions(run(cluster, item(), adopt=True))[0][1] == "changed"


def test_an_existing_namespace_is_left_alone() -> None:
    theirs = item("Namespace", "llm-d", None)
    theirs["metadata"]["labels"] = {}
    cluster = FakeCluster(theirs)
    assert actions(run(cluster, NAMESPACE)) == [("Namespace llm-d", "unchanged", True)]
    assert cluster.applied == []


def test_check_mode_where_nothing_is_installed() -> None:
    cluster = FakeCluster(unknown=("HTTPRoute",))
    objects = NAMESPACE, item(), item("HTTPRoute")
    assert actions(run(cluster, *objects, dry_run=True)) == [
        ("Namespace llm-d", "created", True),
        ("ConfigMap llm-d/a", "created", False),
        ("HTTPRoute llm-d/a", "created", False),
    ]
    assert cluster.applied == [("Namespace", True)]


def test_check_mode_where_an_earlier_task_would_make_the_namespace() -> None:
    cluster = FakeCluster()
    assert [entry[2] for entry in actions(run(cluster, item(), item(name="b"), dry_run=True))] == [False, False]


def test_an_unknown_kind_and_a_refusal_end_the_module() -> None:
    cluster = FakeCluster(NAMESPACE, unknown=("HTTPRoute",))
    with pytest.raises(ClusterError, match=r"^Nothing was changed. The cluster does not know HTTPRoute"):
        run(cluster, item(), item("HTTPRoute"))
    assert cluster.applied == []
    with pytest.raises(ClusterError, match=r'^ConfigMap llm-d/a: namespaces "llm-d" not found$'):
        run(FakeCluster(), item())


def test_dump() -> None:
    assert applying._dump({}) == ""
    assert applying._dump({"b": 1, "a": "x\ny\n"}) == "b: 1\na: |\n  x\n  y\n"


SET = {"role": "model_service", "namespace": "llm-d"}
PARENT = "ConfigMap llm-d/llm-d-model-service"


def ours(kind: str = "ConfigMap", name: str = "a", **content: Any) -> dict[str, Any]:
    found = item(kind, name, **content)
    found["metadata"]["labels"]["multi-engine.llm-d.ai/role"] = "model_service"
    return found


def settled(cluster: FakeCluster, *objects: dict[str, Any], **params: Any) -> list[tuple[str, str]]:
    """Apply, remove what is not wanted any more, and return what became of what."""
    apply = run(cluster, *objects, **{**SET, **params})
    if apply.unwanted():
        apply.prune()
    return [(name, action) for name, action, _checked in actions(apply) if action != "unchanged"]


def test_a_set_remembers_its_members_and_removes_those_that_are_not_wanted() -> None:
    cluster = FakeCluster(NAMESPACE, item(name="bystander"))
    first = settled(cluster, ours(name="a"), ours(name="b"), ours("Service", "c"))
    assert first == [
        ("ConfigMap llm-d/a", "created"),
        ("ConfigMap llm-d/b", "created"),
        (PARENT, "created"),
        ("Service llm-d/c", "created"),
    ]
    identity = set_id("llm-d-model-service", "llm-d")
    assert cluster.live["ConfigMap", "a"]["metadata"]["labels"][PART_OF] == identity
    annotations = cluster.live["ConfigMap", "llm-d-model-service"]["metadata"]["annotations"]
    assert annotations["applyset.kubernetes.io/contains-group-kinds"] == "ConfigMap,Service"
    assert annotations["applyset.kubernetes.io/tooling"] == "llm_d.multi_engine/v1"

    second = settled(cluster, ours(name="a"))
    assert sorted(second) == [("ConfigMap llm-d/b", "removed"), (PARENT, "changed"), ("Service llm-d/c", "removed")]
    assert annotations_of(cluster)["applyset.kubernetes.io/contains-group-kinds"] == "ConfigMap"
    assert ("ConfigMap", "bystander") in cluster.live
    assert settled(cluster, ours(name="a")) == []


def annotations_of(cluster: FakeCluster) -> dict[str, str]:
    return cluster.live["ConfigMap", "llm-d-model-service"]["metadata"]["annotations"]


def test_check_mode_shows_what_would_be_removed_and_removes_nothing() -> None:
    cluster = FakeCluster(NAMESPACE)
    settled(cluster, ours(name="a"), ours("Service", "c"))
    before = copy.deepcopy(cluster.live)
    apply = run(cluster, ours(name="a"), dry_run=True, **SET)
    assert ("Service llm-d/c", "removed", True) in actions(apply)
    (diff,) = [diff for diff in apply.diffs if diff["before_header"] == "Service llm-d/c"]
    assert (diff["before"][:15], diff["after"]) == ("apiVersion: v1\n", "")
    assert cluster.live == before


def test_nothing_is_removed_when_told_so_and_the_set_does_not_forget() -> None:
    cluster = FakeCluster(NAMESPACE)
    settled(cluster, ours(name="a"), ours("Service", "c"))
    assert settled(cluster, ours(name="a"), prune=False) == []
    assert ("Service", "c") in cluster.live
    assert sorted(settled(cluster, ours(name="a"))) == [(PARENT, "changed"), ("Service llm-d/c", "removed")]


def test_what_is_copied_or_of_another_role_or_stack_is_not_removed() -> None:
    cluster = FakeCluster(NAMESPACE)
    settled(cluster, ours(name="a"), ours(name="b"))
    identity = set_id("llm-d-model-service", "llm-d")
    for name, change in (
        ("copied", {"app.kubernetes.io/managed-by": "somebody"}),
        ("other-stack", {"multi-engine.llm-d.ai/stack": "other"}),
        ("other-role", {"multi-engine.llm-d.ai/role": "gaie"}),
    ):
        copied = ours(name=name)
        copied["metadata"]["labels"] |= {PART_OF: identity, **change}
        cluster.live["ConfigMap", name] = copied
    assert settled(cluster, ours(name="a")) == [("ConfigMap llm-d/b", "removed")]


def test_a_list_that_is_suddenly_empty_is_refused() -> None:
    cluster = FakeCluster(NAMESPACE)
    settled(cluster, ours(name="a"))
    cluster.applied.clear()
    with pytest.raises(
        ClusterError, match=r"^Nothing was changed. .* removed: ConfigMap llm-d/a. .* llm_d_allow_empty"
    ):
        run(cluster, NAMESPACE, **SET)
    with pytest.raises(ClusterError):
        run(cluster, NAMESPACE, dry_run=True, **SET)
    assert cluster.applied == []
    assert ("ConfigMap llm-d/a", "removed") in settled(cluster, NAMESPACE, allow_empty=True)
    # It never was anything else here.
    assert settled(FakeCluster(NAMESPACE), NAMESPACE) == [(PARENT, "created")]


def test_a_token_alone_does_not_make_a_list_full() -> None:
    cluster = FakeCluster(NAMESPACE)
    settled(cluster, ours(name="a"), ours("Secret", "token"))
    with pytest.raises(ClusterError, match=r"Nothing is asked for any more"):
        run(cluster, NAMESPACE, ours("Secret", "token"), **SET)


def test_what_another_run_has_asked_for_since_is_not_removed() -> None:
    cluster = FakeCluster(NAMESPACE)
    settled(cluster, ours(name="a"), ours(name="old"))
    waiting = run(cluster, ours(name="a"), **SET)
    assert [live["metadata"]["name"] for live in waiting.unwanted()] == ["old"]
    settled(cluster, ours(name="a"), ours(name="old"), ours(name="new"))
    with pytest.raises(ClusterError, match=r"Another run has changed role model_service of stack llm-d since"):
        waiting.prune()
    assert {("ConfigMap", "old"), ("ConfigMap", "new")} <= cluster.live.keys()
    # So with a call of its own, after a long wait.
    later = Apply(cluster, {**PARAMS, **SET}, dry_run=False)
    with pytest.raises(ClusterError, match="nothing was removed"):
        later.prune([ours(name="a")])
    later = Apply(cluster, {**PARAMS, **SET}, dry_run=False)
    later.prune([ours(name="a"), ours(name="old"), ours(name="new")])
    assert {entry["action"] for entry in later.results} == {"unchanged"}


def test_a_later_call_only_removes() -> None:
    cluster = FakeCluster(NAMESPACE)
    settled(cluster, ours(name="a", data={"x": "1"}), ours(name="old"))
    run(cluster, ours(name="a", data={"x": "2"}), **SET)
    cluster.live["ConfigMap", "a"]["data"] = {"x": "by hand"}
    later = Apply(cluster, {**PARAMS, **SET}, dry_run=False)
    later.prune([ours(name="a", data={"x": "2"})])
    assert ("ConfigMap", "old") not in cluster.live
    assert cluster.live["ConfigMap", "a"]["data"] == {"x": "by hand"}


@pytest.mark.parametrize(
    ("kind", "before", "after"),
    [
        ("Service", {"spec": {"selector": {"a": "1", "b": "2"}}}, {"spec": {"selector": {"a": "1"}}}),
        ("Role", {"rules": [{"verbs": ["get"], "resourceNames": ["x"]}]}, {"rules": [{"verbs": ["get"]}]}),
        ("HTTPRoute", {"spec": {"rules": [{"timeouts": {"request": "1s"}}]}}, {"spec": {"rules": [{}]}}),
    ],
)
def test_what_is_taken_out_of_a_value_that_kubernetes_takes_as_one(kind: str, before: dict, after: dict) -> None:
    cluster = FakeCluster(NAMESPACE, as_asked=True)
    settled(cluster, ours(kind, **before))
    fields = cluster.live[kind, "a"]["metadata"]["managedFields"][0]["fieldsV1"]
    for key in ("f:spec", "f:rules"):
        # As the API server writes atomic values down.
        if key in fields:
            fields[key] = {"f:selector": {}} if kind == "Service" else {} if kind == "Role" else {"f:rules": {}}
    assert settled(cluster, ours(kind, **before)) == []
    assert (f"{kind} llm-d/a", "changed") in settled(cluster, ours(kind, **after))
    assert after.items() <= cluster.live[kind, "a"].items()


def test_a_digest_tells_nothing_of_a_secret_and_is_not_shown() -> None:
    one, other = (ours("Secret", "token", data={"TOKEN": value}) for value in ("b25l", "b3RoZXI="))
    assert with_digest(one)["metadata"]["annotations"] == with_digest(other)["metadata"]["annotations"]
    assert with_digest(ours(data={"x": "1"})) != with_digest(ours(data={"x": "2"}))
    assert presentable(with_digest(one)) == presentable(one)


def test_an_api_server_that_went_away_is_told_once() -> None:
    cluster = FakeCluster(NAMESPACE)
    tries = []

    def away(item: dict, _force: bool, _dry_run: bool) -> dict:
        tries.append(item["metadata"]["name"])
        raise Unreachable("No Kubernetes API answers")

    cluster.apply = away
    with pytest.raises(ClusterError) as caught:
        run(cluster, *(ours(name=f"a{number}") for number in range(500)), namespace="llm-d")
    assert str(caught.value) == "No Kubernetes API answers"
    # One for each thread that was under way.
    assert len(tries) <= applying._WORKERS


def test_a_set_of_another_tool_is_left_to_it() -> None:
    theirs = item(name="llm-d-model-service")
    theirs["metadata"]["annotations"] = {"applyset.kubernetes.io/tooling": "kubectl/v1.35"}
    with pytest.raises(ClusterError, match=r"is an ApplySet that kubectl/v1.35 keeps"):
        run(FakeCluster(NAMESPACE, theirs), ours(), **SET)


def test_another_run_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease.time, "sleep", lambda _seconds: cluster.renew())
    spec = {"holderIdentity": "ann@desk/1", "renewTime": "1", "acquireTime": "0", "leaseDurationSeconds": 15}
    busy = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "spec": spec}
    busy["metadata"] = {"name": "llm-d-model-service", "namespace": "llm-d", "resourceVersion": "7"}
    cluster = FakeCluster(NAMESPACE, busy)
    with pytest.raises(ClusterError, match=r"Another run is changing role model_service of stack llm-d: ann@desk/1"):
        run(cluster, ours(), **SET)
    assert cluster.applied == []


def test_a_run_that_was_killed_is_waited_for_and_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr(lease.time, "sleep", lambda _seconds: None)
    monkeypatch.setattr(lease.time, "monotonic", lambda: float(next(clock)))
    spec = {"holderIdentity": "ann@desk/1", "renewTime": "1", "leaseDurationSeconds": 15, "leaseTransitions": 3}
    dead = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "spec": spec}
    dead["metadata"] = {"name": "llm-d-model-service", "namespace": "llm-d", "resourceVersion": "7"}
    cluster = FakeCluster(NAMESPACE, dead)
    assert ("ConfigMap llm-d/a", "created") in settled(cluster, ours())
    after = cluster.live["Lease", "llm-d-model-service"]["spec"]
    assert (after["holderIdentity"], after["leaseTransitions"]) == ("", 4)
    assert next(clock) > 15


def test_a_run_that_lost_its_claim_removes_nothing() -> None:
    cluster = FakeCluster(NAMESPACE)
    settled(cluster, ours(name="a"), ours(name="b"))
    apply = run(cluster, ours(name="a"), **SET)

    class Lost(lease.RunLease):
        def _acquire(self) -> None:
            self.lost = "Another run is changing it"

    applying.RunLease, kept = Lost, applying.RunLease
    try:
        with pytest.raises(ClusterError, match="Another run"):
            apply.prune()
    finally:
        applying.RunLease = kept
    assert ("ConfigMap", "b") in cluster.live


def test_what_is_being_deleted_is_waited_for_and_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    leaving = ours(name="a")
    leaving["metadata"] |= {"deletionTimestamp": "2026-01-01T00:00:00Z", "uid": "old", "finalizers": ["x.io/hold"]}
    cluster = FakeCluster(NAMESPACE, leaving)
    monkeypatch.setattr(applying.time, "sleep", lambda _seconds: cluster.live.pop(("ConfigMap", "a")))
    assert ("ConfigMap llm-d/a", "created") in settled(cluster, ours(name="a"))

    monkeypatch.setattr(applying, "_PROMPT", -1)
    with pytest.raises(ClusterError, match=r"ConfigMap llm-d/a was deleted at 2026.* waits for finalizers x.io/hold"):
        settled(FakeCluster(NAMESPACE, leaving), ours(name="a"))


def test_a_failure_says_how_far_it_came_and_keeps_what_was_done() -> None:
    cluster = FakeCluster(NAMESPACE, refused=("Service",))
    apply = Apply(cluster, {**PARAMS, **SET}, dry_run=False)
    with pytest.raises(ClusterError, match=r"Service llm-d/s: no such luck\nBefore that, 2 of 3 objects were created"):
        apply.all([ours(name="a"), ours("Service", "s")])
    assert [name for name, action, _ in actions(apply) if action == "created"] == ["ConfigMap llm-d/a", PARENT]
    # The set knew before what it was about to hold, and the claim was let go.
    assert annotations_of(cluster)["applyset.kubernetes.io/contains-group-kinds"] == "ConfigMap,Service"
    assert cluster.live["Lease", "llm-d-model-service"]["spec"]["holderIdentity"] == ""


def test_a_conflict_of_two_claims_is_tried_again() -> None:
    cluster = FakeCluster(NAMESPACE)
    cluster.conflicts = 1
    assert ("ConfigMap llm-d/a", "created") in settled(cluster, ours())
    assert isinstance(Conflict("x"), ClusterError)


def test_an_unchanged_set_is_not_written() -> None:
    cluster = FakeCluster(NAMESPACE, as_asked=True)
    settled(cluster, ours(name="a"), ours("Service", "c"))
    cluster.applied.clear()
    cluster.written.clear()
    assert settled(cluster, ours(name="a"), ours("Service", "c")) == []
    assert (cluster.applied, cluster.written) == ([], [])


def test_a_stack_that_has_moved_to_another_namespace() -> None:
    role = {"role": "gaie", "namespace": "llm-d"}
    left = item("ConfigMap", "llm-d-gaie", "earlier")
    left["metadata"]["labels"]["multi-engine.llm-d.ai/role"] = "gaie"
    moved = run(FakeCluster(NAMESPACE, left), item(), dry_run=True, **role)
    assert "\n".join(moved.warnings) == (
        "Stack llm-d has objects of role gaie in namespace earlier too. They stay. To be rid of them, run the playbook "
        "uninstall with llm_d_namespace=earlier."
    )
    assert run(FakeCluster(NAMESPACE), item(), dry_run=True, **role).warnings == []


FINISHED = {"conditions": [{"type": "Complete", "status": "True"}]}
FAILED = {"conditions": [{"type": "Failed", "status": "True", "reason": "PodFailurePolicy", "message": "exit code 78"}]}
JOB = item("Job", spec={})


def held_back(cluster: FakeCluster, *objects: dict[str, Any], dry_run: bool = False) -> list[str]:
    apply = Apply(cluster, PARAMS, dry_run)
    return [
        held["kind"] for held in apply.all(list(objects), ready_first={"Deployment": ["Job"], "HTTPRoute": ["Job"]})
    ]


def test_what_comes_behind_a_job_waits_for_it() -> None:
    objects = [item("Deployment"), JOB, item("ConfigMap"), NAMESPACE]
    cluster = FakeCluster(as_asked=True)
    # Nothing is waited for where nothing is changed.
    assert held_back(cluster, *objects, dry_run=True) == []
    assert held_back(cluster, *objects) == ["Deployment"]
    assert ("Deployment", "a") not in cluster.live
    assert held_back(cluster, *objects) == ["Deployment"]
    cluster.live["Job", "a"]["status"] = FINISHED
    assert held_back(cluster, *objects) == []
    assert ("Deployment", "a") in cluster.live


def test_what_need_not_change_is_not_held_back() -> None:
    objects = [NAMESPACE, JOB, item("Deployment"), item("HTTPRoute")]
    cluster = FakeCluster(as_asked=True)
    run(cluster, *objects)
    assert held_back(cluster, *objects) == []
    changed = [NAMESPACE, item("Job", "new", spec={}), item("Deployment"), item("HTTPRoute", spec={"x": 1})]
    assert held_back(cluster, *changed) == ["HTTPRoute"]


def test_a_job_that_failed_is_made_anew() -> None:
    cluster = FakeCluster(as_asked=True)
    run(cluster, NAMESPACE, JOB)
    assert actions(run(cluster, NAMESPACE, JOB))[1] == ("Job llm-d/a", "unchanged", True)
    cluster.live["Job", "a"]["status"] = FAILED
    assert actions(run(cluster, NAMESPACE, JOB, dry_run=True))[1] == ("Job llm-d/a", "created", True)
    assert cluster.live["Job", "a"]["status"] == FAILED
    assert held_back(cluster, NAMESPACE, JOB, item("Deployment")) == ["Deployment"]
    assert cluster.live["Job", "a"]["status"] == {}


def of_model(thing: dict[str, Any], model: str) -> dict[str, Any]:
    thing["metadata"]["labels"]["llm-d.ai/model"] = model
    return thing


def test_only_what_is_of_the_same_model_waits() -> None:
    cluster = FakeCluster(as_asked=True)
    objects = [NAMESPACE, of_model(item("Job", "a", spec={}), "a"), of_model(item("Deployment", "a"), "a")]
    others = [of_model(item("Deployment", "b"), "b"), item("Deployment", "none")]
    assert held_back(cluster, *objects, *others) == ["Deployment"]
    assert {name for kind, name in cluster.live if kind == "Deployment"} == {"b", "none"}


def test_a_job_that_the_api_server_writes_otherwise_is_ready_too() -> None:
    class Rewriting(FakeCluster):
        def apply(self, item: dict, force: bool, dry_run: bool) -> dict:
            after = super().apply(item, force, dry_run)
            if item["kind"] == "Job" and not dry_run:
                self.live["Job", "a"]["spec"]["cpu"] = "1"
            return after

    job = item("Job", spec={"cpu": "1000m"})
    cluster = Rewriting(as_asked=True)
    assert held_back(cluster, NAMESPACE, job, item("Deployment")) == ["Deployment"]
    cluster.live["Job", "a"]["status"] = FINISHED
    assert held_back(cluster, NAMESPACE, job, item("Deployment")) == []


def test_changes_that_nobody_wants_to_see() -> None:
    apply = Apply(FakeCluster(), PARAMS, dry_run=False, show=False)
    apply.all([NAMESPACE])
    assert actions(apply) == [("Namespace llm-d", "created", True)]
    assert apply.diffs == []
