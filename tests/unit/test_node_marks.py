"""Labels and taints of nodes: ours come and go, those of others stay."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import pytest
from ansible_collections.llm_d.multi_engine.plugins.module_utils.cluster import ClusterError, Conflict, Forbidden
from ansible_collections.llm_d.multi_engine.plugins.module_utils.node_marks import NOTE, Taken, patch_of, patched
from ansible_collections.llm_d.multi_engine.plugins.modules import node_marks

UNREACHABLE = {"key": "node.kubernetes.io/unreachable", "effect": "NoSchedule", "timeAdded": "2026-01-01T00:00:00Z"}
GPU = {"key": "nvidia.com/gpu", "effect": "NoSchedule"}


def node(name: str = "gpu-1", taints: tuple[dict, ...] = (), note: dict | None = None, **labels: str) -> dict[str, Any]:
    metadata = {"name": name, "resourceVersion": "7", "labels": labels}
    metadata["annotations"] = {NOTE: json.dumps(note)} if note else {}
    return {"metadata": metadata, "spec": {"taints": list(taints)} if taints else {}}


def marked(found: dict, patch: dict) -> dict:
    """Return a node after a patch, as the API server keeps it."""
    after = patched(found, patch)
    notes = {**found["metadata"]["annotations"], **patch["metadata"].get("annotations", {})}
    after["metadata"] = {**after["metadata"], "annotations": {k: v for k, v in notes.items() if v is not None}}
    return after


def test_what_is_asked_for_comes_and_goes_and_the_rest_stays() -> None:
    before = node(taints=(UNREACHABLE,), zone="a")
    patch = patch_of(before, "mine", {"pool": "x"}, [GPU])
    assert patch["metadata"]["resourceVersion"] == "7"
    after = marked(before, patch)
    assert after["metadata"]["labels"] == {"zone": "a", "pool": "x"}
    # When a controller put its taint there is still known.
    assert after["spec"]["taints"] == [UNREACHABLE, GPU]
    assert patch_of(after, "mine", {"pool": "x"}, [GPU]) is None

    gone = marked(after, patch_of(after, "mine", {}, []))
    assert (gone["metadata"]["labels"], gone["spec"]["taints"]) == ({"zone": "a"}, [UNREACHABLE])
    assert gone["metadata"]["annotations"] == {}
    assert patch_of(gone, "mine", {}, []) is None


def test_what_was_there_before_is_not_taken_back() -> None:
    before = node(taints=(GPU,), pool="x")
    assert patch_of(before, "mine", {"pool": "x"}, [GPU]) is None
    more = marked(before, patch_of(before, "mine", {"pool": "x", "tier": "gpu"}, [GPU]))
    less = marked(more, patch_of(more, "mine", {}, []))
    assert (less["metadata"]["labels"], less["spec"]["taints"]) == ({"pool": "x"}, [GPU])


def test_a_value_of_ours_may_change() -> None:
    before = node()
    first = marked(before, patch_of(before, "mine", {"pool": "x"}, [{**GPU, "value": "a"}]))
    second = marked(first, patch_of(first, "mine", {"pool": "y"}, [{**GPU, "value": "b"}]))
    assert second["metadata"]["labels"] == {"pool": "y"}
    assert second["spec"]["taints"] == [{**GPU, "value": "b"}]


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (node(pool="y"), "label pool is 'y', not 'x', and somebody else put it there"),
        (node(taints=({**GPU, "value": "theirs"},)), "taint nvidia.com/gpu=theirs:NoSchedule is not nvidia.com/gpu:NoSchedule"),
        (node(note={"stack": "other", "labels": ["pool"], "taints": []}, pool="y"), "stack other looks after its labels"),
    ],
)  # fmt: skip
def test_what_belongs_to_others_is_refused_and_can_be_taken_over(found: dict, why: str) -> None:
    with pytest.raises(Taken) as refused:
        patch_of(found, "mine", {"pool": "x"}, [GPU])
    assert str(refused.value).startswith(why)
    after = marked(found, patch_of(found, "mine", {"pool": "x"}, [GPU], force=True))
    assert (after["metadata"]["labels"], after["spec"]["taints"]) == ({"pool": "x"}, [GPU])


def test_what_another_stack_asks_for_too_is_fine() -> None:
    note = {"stack": "other", "labels": ["pool"], "taints": [["nvidia.com/gpu", "NoSchedule"]]}
    assert patch_of(node(taints=(GPU,), note=note, pool="x"), "mine", {"pool": "x"}, [GPU]) is None


class Nodes:
    """A cluster of nodes.

    :param conflicts: how many writes find that somebody was faster.
    """

    def __init__(self, *nodes: dict, conflicts: int = 0) -> None:
        self.live = {item["metadata"]["name"]: item for item in nodes}
        self.conflicts, self.written = conflicts, []

    def list(self, _api_version: str, _kind: str) -> list[dict]:
        return list(self.live.values())

    def raw(self, _method: str, path: str) -> dict:
        return self.live[path.rpartition("/")[2]]

    def patch(self, path: str, body: dict) -> None:
        if self.conflicts:
            self.conflicts -= 1
            raise Conflict("the object has been modified")
        name = path.rpartition("/")[2]
        self.written.append(name)
        self.live[name] = marked(self.live[name], body)


def run(cluster: Nodes, check_mode: bool = False, **nodes: dict) -> dict:
    params = {
        "stack": "mine",
        "nodes": {name.replace("_", "-"): wanted for name, wanted in nodes.items()},
        "force": False,
    }
    return node_marks.run(cluster, params, check_mode)


def test_a_node_that_is_not_asked_for_any_more_loses_what_is_ours() -> None:
    cluster = Nodes(node("gpu-1"), node("gpu-2"), node("other", zone="a"))
    wanted = {"labels": {"pool": "x"}, "taints": [GPU]}
    first = run(cluster, gpu_1=wanted, gpu_2=wanted)
    assert first["nodes"] == ["gpu-1", "gpu-2"]
    assert first["diff"][0]["after"] == "labels:\n  pool: x\ntaints:\n- nvidia.com/gpu:NoSchedule\n"
    assert run(cluster, gpu_1=wanted, gpu_2=wanted)["changed"] is False
    assert run(cluster, gpu_1=wanted)["nodes"] == ["gpu-2"]
    assert run(cluster)["nodes"] == ["gpu-1"]
    assert all(item["metadata"]["annotations"] == {} for item in cluster.live.values())
    assert "other" not in cluster.written


def test_check_mode_changes_nothing() -> None:
    cluster = Nodes(node())
    assert run(cluster, check_mode=True, gpu_1={"labels": {"pool": "x"}})["nodes"] == ["gpu-1"]
    assert cluster.written == []


def test_somebody_who_is_faster_is_taken_into_account() -> None:
    cluster = Nodes(node(), conflicts=2)
    run(cluster, gpu_1={"taints": [GPU]})
    assert cluster.live["gpu-1"]["spec"]["taints"] == [GPU]
    with pytest.raises(Conflict):
        run(Nodes(node(), conflicts=9), gpu_1={"taints": [GPU]})


def test_nothing_is_changed_when_one_node_cannot_be() -> None:
    cluster = Nodes(node("gpu-1"), node("gpu-2", pool="theirs"))
    with pytest.raises(ClusterError, match=r"Node gpu-2: label pool is 'theirs'.*take it over with force"):
        run(cluster, gpu_1={"labels": {"pool": "x"}}, gpu_2={"labels": {"pool": "x"}})
    with pytest.raises(ClusterError, match="the cluster has no gpu-9"):
        run(cluster, gpu_9={})
    assert cluster.written == []


def test_who_may_not_see_nodes_has_marked_none(monkeypatch: pytest.MonkeyPatch) -> None:
    said: dict[str, Any] = {}

    class Module:
        check_mode = False
        params: ClassVar[dict[str, Any]] = {"stack": "mine", "nodes": {}, "force": False}

        def __init__(self, **_options: Any) -> None:
            pass

        def warn(self, text: str) -> None:
            said["warning"] = text

        def exit_json(self, **result: Any) -> None:
            said.update(result)

    def forbidden(_module: object) -> None:
        raise Forbidden("No permission to list nodes.")

    monkeypatch.setattr(node_marks, "AnsibleK8SModule", Module)
    monkeypatch.setattr(node_marks, "Cluster", forbidden)
    node_marks.main()
    assert said["changed"] is False
    assert said["warning"].startswith("No permission to list nodes. Labels and taints")
