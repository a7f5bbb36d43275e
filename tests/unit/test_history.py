"""What served a model before is kept, within bounds, and no write is half a write."""

from __future__ import annotations

import json
import random
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.llm_d.multi_engine.plugins.module_utils import history
from ansible_collections.llm_d.multi_engine.plugins.module_utils.cluster import ClusterError, Forbidden, Unreachable
from ansible_collections.llm_d.multi_engine.plugins.module_utils.history import Record
from ansible_collections.llm_d.multi_engine.plugins.modules import rollout_history
from ansible_collections.llm_d.multi_engine.tests.unit.fake_cluster import FakeCluster

NAME = ("ConfigMap", "llm-d-rollout-qwen")


class Cluster(FakeCluster):
    """Lists metadata, as the module asks for it."""

    def raw(self, _method: str, _path: str, accept: str, **query: str) -> dict:
        assert "PartialObjectMetadataList" in accept
        self.calls["raw"] += 1
        return {
            "items": [{"metadata": item["metadata"]} for item in self.list("", "ConfigMap", "", query["labelSelector"])]
        }


def entry(revision: str, since: str = "1", **more: str) -> dict[str, str]:
    about = {"engine": "sglang", "version": "0.5.20", "image": "x", "release": "llm-d-0.10"}
    return {"revision": revision, "asked": f"asked {revision}", "since": since, **about, **more}


def after(*revisions: str, size: int = 10) -> Record:
    record = Record()
    for number, revision in enumerate(revisions):
        record = history.served(record, entry(revision, str(number)), revision * size)
    return record


def names(record: Record) -> str:
    assert set(record.objects) <= {item["revision"] for item in record.revisions}
    return "".join(item["revision"] for item in record.revisions)


def test_at_most_five_are_kept_and_the_oldest_goes_first() -> None:
    record = after(*"abcdefg")
    assert names(record) == "cdefg"
    assert sorted(record.objects) == list("cdefg")
    assert record.asked == "asked g"


@pytest.mark.parametrize(
    ("size", "kept", "objects"),
    [
        (140_000, "abcde", "abcde"),
        (140_001, "bcde", "bcde"),
        (350_000, "de", "de"),
        (350_001, "e", "e"),
        (700_001, "e", ""),
    ],
)
def test_they_are_kept_within_a_size(size: int, kept: str, objects: str) -> None:
    record = after(*"abcde", size=size)
    assert (names(record), "".join(record.objects)) == (kept, "".join(reversed(objects)))
    assert sum(map(len, record.objects.values())) <= history.MOST_BYTES


def test_one_that_serves_again_is_the_last_one_and_kept_once() -> None:
    record = history.served(after("a", "b"), entry("a", "7"), "new")
    assert names(record) == "ba"
    assert record.revisions[-1]["since"] == "7"
    assert record.objects["a"] == "new"


def test_other_replicas_are_the_same_revision() -> None:
    record = history.failed(after("a", "b"), "5", "c", "vllm 1", "no")
    later = history.served(record, entry("b", "9", asked="other"), "more")
    assert names(later) == "ab"
    # It serves since it began to, and nothing has come of the other change since.
    assert (later.revisions[-1]["since"], later.asked, later.objects["b"]) == ("1", "other", "more")
    assert later.failure == record.failure
    assert history.served(later, entry("b", "10", asked="other"), "more") == later


def test_a_rollback_says_where_it_came_from() -> None:
    back = history.went_back(after("a", "b", "c"), "a", "8")
    assert names(back) == "bca"
    assert back.revisions[-1]["back_from"] == {"revision": "c", "engine": "sglang", "version": "0.5.20"}
    assert (back.asked, back.revisions[-1]["since"], back.objects["a"]) == ("asked a", "8", "a" * 10)
    assert history.went_back(back, "a", "9") == back
    assert history.went_back(back, "unknown", "9") == back
    assert history.went_back(Record(), "a", "9") == Record()
    # Whoever gets there by the inventory has not gone back.
    assert "back_from" not in history.served(history.served(back, entry("c"), "c"), entry("a"), "a").revisions[-1]


def test_a_failure_is_kept_until_something_else_serves() -> None:
    record = history.failed(after("a"), "5", "b", "vllm 0.30.0", "It was not ready")
    assert record.failure == {"at": "5", "revision": "b", "wanted": "vllm 0.30.0", "reason": "It was not ready"}
    assert names(record) == "a"
    assert history.served(record, entry("b"), "b").failure is None


def test_a_reason_is_short_and_without_credentials() -> None:
    token = "hf_" + "aB3" * 8
    reason = f"cannot load with HF_TOKEN={token}\n--api-key {token}\nAuthorization: Bearer {token}\n" + "x" * 10_000
    kept = history.failed(Record(), "5", "b", "vllm", reason).failure
    assert kept is not None
    assert token not in kept["reason"]
    assert "cannot load" in kept["reason"]
    assert len(kept["reason"]) < history.LONGEST_REASON + 10


def test_objects_come_out_as_they_went_in() -> None:
    content = {"places": [{"kind": "Deployment", "text": "ü" * 1000}]}
    packed = history.pack(content)
    assert history.unpack(packed) == content
    assert len(packed) < 200


@pytest.mark.parametrize("text", [None, "", "not base64!", "AAAA", history.pack({"a": 1})[:-8]])
def test_objects_that_cannot_be_read(text: str | None) -> None:
    with pytest.raises(history.HistoryError, match="too large" if not text else "cannot be read"):
        history.unpack(text)


def keep(cluster: FakeCluster, record: Record) -> bool:
    return history.keep(cluster, "llm-d", "llm-d", "qwen", lambda _before: record)


def test_written_and_read_again() -> None:
    cluster, record = Cluster(), history.failed(after("a", "b"), "5", "c", "vllm", "no")
    assert keep(cluster, record)
    live = cluster.live[NAME]
    assert live["metadata"]["labels"] == {
        "app.kubernetes.io/managed-by": "llm_d.multi_engine",
        "multi-engine.llm-d.ai/stack": "llm-d",
        "multi-engine.llm-d.ai/role": "rollout",
        "llm-d.ai/model": "qwen",
    }
    assert history.record_of(live) == record
    # The list has all but the objects.
    assert history.read(cluster, "llm-d", "llm-d") == {"qwen": Record(record.revisions, record.failure)}
    assert history.read(cluster, "another", "llm-d") == {}
    assert not keep(cluster, record)
    assert cluster.written == ["ConfigMap"]


def test_somebody_faster_is_not_overwritten() -> None:
    cluster = Cluster()
    cluster.conflicts = 2
    assert keep(cluster, after("a"))
    cluster.conflicts = 99
    with pytest.raises(ClusterError, match="keeps changing ConfigMap llm-d/llm-d-rollout-qwen"):
        keep(cluster, after("a", "b"))
    assert history.record_of(cluster.live[NAME]) == after("a")


def test_somebody_elses_is_left_alone() -> None:
    cluster = Cluster(
        {"kind": "ConfigMap", "metadata": {"name": NAME[1], "labels": {"mine": "yes"}}, "data": {"a": "b"}}
    )
    with pytest.raises(ClusterError, match="is not of this stack's rollouts"):
        keep(cluster, after("a"))
    assert cluster.live[NAME]["data"] == {"a": "b"}


def test_an_interrupted_write_leaves_what_was_there(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster()
    keep(cluster, after("a"))

    def away(_item: dict) -> dict:
        raise Unreachable("no answer")

    monkeypatch.setattr(cluster, "write", away)
    with pytest.raises(Unreachable):
        keep(cluster, after("a", "b"))
    assert history.record_of(cluster.live[NAME]) == after("a")


@pytest.mark.parametrize("text", ["", "{", "null", "[1", "7"])
def test_annotations_that_somebody_wrote_in(text: str) -> None:
    live = {"metadata": {"annotations": {history.REVISIONS: text, history.FAILURE: text}}}
    assert history.record_of(live) == Record()


def test_the_largest_history_is_one_that_kubernetes_takes() -> None:
    """An object may have 1.5 MiB, its annotations 256 KiB."""
    record = Record()
    for number in range(9):
        noise = random.Random(number).randbytes(90_000).hex()
        packed = history.pack([noise])
        record = history.served(record, entry(f"{number:016}", image="i" * 500), packed)
    record = history.failed(record, "5", "c", "vllm", "y" * 10**6)
    cluster = Cluster()
    keep(cluster, record)
    assert len(json.dumps(cluster.live[NAME])) < 800_000
    assert len(json.dumps(cluster.live[NAME]["metadata"]["annotations"])) < 50_000
    assert len(record.revisions) == 5


# --- the module -------------------------------------------------------------------------------


def run(cluster: FakeCluster, check: bool = False, **params: Any) -> dict[str, Any]:
    warnings: list[str] = []
    given = {
        "stack": "llm-d",
        "namespace": "llm-d",
        "returned": [],
        "returning": [],
        "failure": None,
        "objects": False,
        "wanted": [],
        "entries": [],
        **params,
    }
    module = SimpleNamespace(params=given, check_mode=check, warn=warnings.append)
    return {**rollout_history.run(module, cluster), "warnings": warnings}


NOTE = {"model": "qwen", "entry": {key: value for key, value in entry("a").items() if key != "since"}, "objects": "aaa"}
WANTED = [{"model": "qwen", "revision": "a", "asked": "asked a"}]


def serving(monkeypatch: pytest.MonkeyPatch, *workloads: tuple[str, int]) -> list[str]:
    """Let workloads of these revisions be there, so often ready; return who was asked for."""
    asked: list[str] = []

    def read(_cluster: Any, stack: str, _namespace: str) -> dict:
        asked.append(stack)
        return {"qwen": {"workloads": [{"revision": revision, "ready": ready} for revision, ready in workloads]}}

    monkeypatch.setattr(rollout_history.serving, "read", read)
    return asked


@pytest.mark.parametrize(
    ("workloads", "due"),
    [([("a", 1)], ["qwen"]), ([("a", 0)], []), ([("b", 1)], []), ([("a", 1), ("b", 1)], []), ([], [])],
)
def test_what_serves_as_it_is_wanted_is_due(monkeypatch: pytest.MonkeyPatch, workloads: list, due: list[str]) -> None:
    serving(monkeypatch, *workloads)
    assert run(Cluster(), wanted=WANTED)["due"] == due


def test_a_rollback_that_was_given_up_is_forgotten_with_what_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    serving(monkeypatch, ("a", 1))
    cluster = Cluster()
    run(cluster, entries=[NOTE])
    assert run(cluster, returning=[{"model": "qwen", "revision": "b"}])["history"]["qwen"]["returning"] == "b"
    assert run(cluster, wanted=WANTED)["due"] == ["qwen"]
    assert run(cluster, entries=[NOTE])["history"]["qwen"]["returning"] == ""
    assert run(cluster, wanted=WANTED)["due"] == []
    # And with one that is there.
    run(cluster, returning=[{"model": "qwen", "revision": "a"}])
    assert run(cluster, returned=[{"model": "qwen", "revision": "a"}])["history"]["qwen"]["returning"] == ""


def test_a_run_without_changes_is_one_small_read(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = serving(monkeypatch, ("a", 1))
    cluster = Cluster()
    assert run(cluster, entries=[NOTE])["changed"]
    assert not run(cluster, entries=[NOTE])["changed"]
    cluster.written, cluster.calls["raw"] = [], 0
    result = run(cluster, wanted=WANTED)
    assert (result["changed"], result["due"], asked) == (False, [], [])
    assert (cluster.written, cluster.calls["raw"]) == ([], 1)


def test_check_mode_writes_nothing() -> None:
    cluster = Cluster()
    assert not run(cluster, check=True, entries=[NOTE])["changed"]
    assert cluster.live == {}


def test_a_failure_before_anything_is_known_of_the_model() -> None:
    cluster = Cluster()
    run(cluster, failure={"model": "qwen", "revision": "b", "wanted": "vllm 1", "reason": "no"})
    found = run(cluster)["history"]["qwen"]
    assert (found["revisions"], found["failure"]["reason"]) == ([], "no")


def test_what_cannot_be_noted_down_fails_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster()

    def refuse(*_arguments: Any, **_more: Any) -> None:
        raise Forbidden("No permission: nobody may")

    monkeypatch.setattr(cluster, "write", refuse)
    result = run(cluster, entries=[NOTE])
    assert (result["changed"], result["warnings"]) == (False, ["No permission: nobody may"])
    monkeypatch.setattr(cluster, "raw", refuse)
    assert "a rollback will not know it: No permission" in run(cluster)["warnings"][0]
    with pytest.raises(Forbidden):
        run(cluster, objects=True)
