"""Back to what served before: on a cluster that is a dictionary, by the objects that were kept of it."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
from ansible_collections.llm_d.multi_engine.plugins.module_utils import history
from ansible_collections.llm_d.multi_engine.plugins.module_utils.marks import MODEL_SERVERS
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils import rollback
from ansible_collections.llm_d.multi_engine.tests.unit import shipped, test_rolling
from ansible_collections.llm_d.multi_engine.tests.unit.test_rolling import LiveCluster, Plugin, stack

OPTIONS = (shipped.GAIE_OPTIONS, shipped.MODEL_OPTIONS)
# Nothing takes any time.
quick = test_rolling.quick


class Kept:
    """Remembers as the modules do."""

    def __init__(self) -> None:
        self.record, self.clock = history.Record(), 0

    def remember(self, resolved: dict[str, Any]) -> str:
        (one,) = rollback.wanted(resolved, *OPTIONS)
        noted = rollback.entry(resolved, *OPTIONS, one)
        self.clock += 1
        entry = {**noted["entry"], "since": f"2026-01-0{self.clock}"}
        self.record = history.served(self.record, entry, noted["objects"])
        return one["revision"]

    def ways(self, cluster: LiveCluster, **given: str) -> dict[str, Any]:
        record = self.record
        known = {"qwen": {"revisions": record.revisions, "failure": record.failure, "returning": record.returning}}
        return rollback.ways(known, {"qwen": self.record.objects}, test_rolling.live_serving(cluster), **given)

    def go(self, cluster: LiveCluster, **given: str) -> dict[str, Any]:
        found = self.ways(cluster, **given)
        assert found["refusals"] == []
        (change,) = found["changes"]
        self.record = history.goes_back(self.record, change["plan"]["new"]["revision"])
        result = Plugin(cluster, change).go()
        if not result.get("failed"):
            self.record = history.went_back(self.record, change["plan"]["new"]["revision"], "later")
        return result


def installed(devices: int = 4) -> tuple[LiveCluster, Kept]:
    cluster, kept = test_rolling.made(devices), Kept()
    kept.remember(stack())
    return cluster, kept


def changed(cluster: LiveCluster, kept: Kept, **model: Any) -> dict[str, Any]:
    """Change what serves and remember it, as the playbook models does."""
    wanted = stack(**model)
    result = test_rolling.change(cluster, wanted)
    assert result is not None
    assert not result.get("failed"), result["msg"]
    test_rolling.install(cluster, wanted)
    kept.remember(wanted)
    return wanted


def templates(cluster: LiveCluster) -> list[dict[str, Any]]:
    """Return what the containers of the model servers run."""
    return [
        item["spec"]["template"]["spec"]["containers"]
        for item in cluster.list("apps/v1", "Deployment")
        if not item["metadata"]["name"].endswith("-epp")
    ]


#: Devices, what was changed, the workload that serves after the way back, and its pool.
CASES = {
    "another engine": (4, {"engine": "vllm"}, "qwen-sglang", "qwen"),
    "other arguments": (4, {"context_length": 4096}, "qwen-sglang", "qwen"),
    "a pool of its own": (4, {"engine": "vllm", "port": 9000}, "qwen-sglang", "qwen"),
    "without room for both": (2, {"engine": "vllm"}, "qwen-sglang", "qwen"),
}


@pytest.mark.parametrize("case", CASES)
def test_there_and_back(case: str) -> None:
    devices, model, name, pool = CASES[case]
    cluster, kept = installed(devices)
    before = templates(cluster)
    wanted = changed(cluster, kept, **model)
    assert templates(cluster) != before
    assert cluster.least is not None
    cluster.least = 2
    result = kept.go(cluster)
    assert not result.get("failed"), result["msg"]
    assert result["strategy"] == ("in_place" if devices == 2 else "surge")
    assert test_rolling.servers(cluster) == [(name, 2)]
    assert templates(cluster) == before
    assert test_rolling.live_serving(cluster)["qwen"]["pool"] == pool
    assert cluster.least >= (1 if devices == 2 else 2)
    assert kept.record.revisions[-1]["back_from"]["engine"] == wanted["models"][0]["engine"]
    # The inventory still asks for the other one, and the next run makes the change again.
    assert test_rolling.change(cluster, wanted) is not None
    # The one before is what a second rollback leads to.
    kept.remember(wanted)
    assert kept.ways(cluster)["changes"][0]["plan"]["new"]["label"].startswith("sglang")


def test_to_an_older_one_whose_place_is_taken() -> None:
    cluster, kept = installed()
    first = kept.record.revisions[0]["revision"]
    before = templates(cluster)
    changed(cluster, kept, engine="vllm")
    changed(cluster, kept, context_length=4096)
    assert test_rolling.servers(cluster) == [("qwen-sglang", 2)]
    assert kept.ways(cluster)["changes"][0]["plan"]["new"]["label"].startswith("vllm")
    kept.go(cluster, to=first[:6])
    assert test_rolling.servers(cluster) == [("qwen-sglang-canary", 2)]

    def places(found: Any) -> str:
        return json.dumps(found, sort_keys=True).replace("qwen-sglang-canary", "qwen-sglang")

    assert places(templates(cluster)) == places(before)
    # Role model_service finds nothing to do for whoever asks for that one.
    cluster.writes = 0
    assert test_rolling.change(cluster, stack()) is None


@pytest.mark.parametrize("case", ["surge to another engine", "surge to a pool of its own"])
def test_out_of_a_change_that_was_interrupted_at_any_moment(case: str) -> None:
    beside = 0
    for fatal, cluster in enumerate(test_rolling.killed(case)):
        kept = Kept()
        kept.remember(stack())
        beside += len(test_rolling.servers(cluster)) == 2
        if kept.ways(cluster)["changes"]:
            result = kept.go(cluster)
            assert not result.get("failed"), (fatal, result["msg"])
        assert test_rolling.servers(cluster) == [("qwen-sglang", 2)], fatal
        assert cluster.least == 2, fatal
    assert beside > 2


@pytest.mark.parametrize("case", CASES)
def test_one_that_was_interrupted_at_any_moment_goes_on(case: str) -> None:
    devices, model, name, pool = CASES[case]
    cluster, kept = installed(devices)
    changed(cluster, kept, **model)
    cluster.kept = []
    before = kept.record
    assert not kept.go(cluster).get("failed")
    moments = [*cluster.kept, test_rolling.frozen(cluster)]
    assert len(moments) > 4
    for number, moment in enumerate(moments):
        there: LiveCluster = pickle.loads(moment)
        # It was noted down where it leads, and not that it is there.
        kept.record = history.goes_back(before, kept.record.revisions[-1]["revision"])
        (servers,) = [json.loads(change["servers"]) for change in kept.ways(there)["changes"]]
        result = kept.go(there)
        assert not result.get("failed"), (number, result["msg"])
        # Its last replicas the role makes, with what scales them.
        for item in servers:
            if item["kind"] in MODEL_SERVERS:
                there.apply(item, False, False)
        assert test_rolling.servers(there) == [(name, 2)], number
        assert test_rolling.live_serving(there)["qwen"]["pool"] == pool
        assert kept.record.revisions[-1]["back_from"]["engine"] == model.get("engine", "sglang")
        assert not kept.record.returning
    # Somebody who names another one gets that.
    kept.record = history.goes_back(before, before.revisions[0]["revision"])
    changed(cluster, kept, **model)
    assert not kept.record.returning


def test_nothing_goes_back_by_a_canary_unless_it_is_asked_for() -> None:
    cluster, kept = test_rolling.made(4), Kept()
    kept.remember(stack(rollout={"strategy": "canary", "hold_seconds": 0, "steps": [50]}))
    changed(cluster, kept, engine="vllm")
    assert [change["plan"]["settings"]["strategy"] for change in kept.ways(cluster)["changes"]] == ["auto"]


def test_one_that_is_not_fit_any_more_leaves_what_serves() -> None:
    cluster, kept = installed()
    changed(cluster, kept, engine="vllm")
    ((container, *_others),) = kept_containers(kept)
    cluster.broken.add(container["image"])
    result = kept.go(cluster)
    assert result["failed"]
    assert result["msg"].startswith("Model qwen stays on vllm")
    assert test_rolling.servers(cluster) == [("qwen-vllm", 2)]
    assert "back_from" not in kept.record.revisions[-1]


def kept_containers(kept: Kept) -> list[list[dict[str, Any]]]:
    """Return the containers of the first revision that is kept."""
    packed = kept.record.objects[kept.record.revisions[0]["revision"]]
    objects = history.unpack(packed)["places"]["stable qwen"]["servers"]
    return [item["spec"]["template"]["spec"]["containers"] for item in objects if item["kind"] == "Deployment"]


def test_the_strategy_can_be_another_one() -> None:
    cluster, kept = installed(2)
    changed(cluster, kept, engine="vllm", rollout={"strategy": "recreate", "hold_seconds": 0})
    assert kept.go(cluster, strategy="surge")["msg"].startswith("Nothing was changed.\nModel qwen: old and new beside")
    assert kept.go(cluster, strategy="recreate")["strategy"] == "recreate"


def test_no_secret_is_kept() -> None:
    kept = Kept()
    kept.remember(stack(api_key={"secret": "keys", "key": "qwen"}))
    content = history.unpack(next(iter(kept.record.objects.values())))
    kinds = {item["kind"] for place in content["places"].values() for objects in place.values() for item in objects}
    assert {"Deployment", "InferencePool", "HTTPRoute"} <= kinds
    assert "Secret" not in kinds
    assert rollback._without_secrets([{"kind": "Secret"}, {"kind": "Service"}]) == [{"kind": "Service"}]


def refusal(cluster: LiveCluster, kept: Kept, **given: str) -> str:
    found = kept.ways(cluster, **given)
    assert found["changes"] == []
    (reason,) = found["refusals"]
    return reason


def test_refused_with_what_is_known() -> None:
    cluster, kept = installed()
    (only,) = kept.record.revisions
    known = f"Known of model qwen: sglang {only['version']} (revision {only['revision']}, served since 2026-01-01)."
    assert refusal(cluster, kept) == f"No model has a revision to go back to.\n- {known}"
    assert refusal(cluster, kept, model="qwen") == f"Model qwen has no revision before the one that serves.\n{known}"
    assert refusal(cluster, kept, model="other") == (
        "Nothing is known of what served model other. Models with a history: qwen."
    )
    assert refusal(cluster, kept, model="qwen", to=only["revision"]).startswith(
        f"rollback_to is '{only['revision']}', which is not one revision that model qwen can go back to.\nKnown of"
    )
    # One that a rollback was to lead to, and that is not kept any more.
    kept.record = history.goes_back(kept.record, "gone")
    assert refusal(cluster, kept, model="qwen") == f"Model qwen has no revision before the one that serves.\n{known}"
    kept.record = history.failed(kept.record, "2026-01-02", "b", "vllm 0.30.0", "no")
    assert refusal(cluster, kept).endswith("Last failed change: 2026-01-02, to vllm 0.30.0.")


def test_refused_where_objects_are_lost() -> None:
    cluster, kept = installed()
    changed(cluster, kept, engine="vllm")
    first = kept.record.revisions[0]["revision"]
    for packed, words in ((None, "were not kept: they are too large"), ("AAAA", "cannot be read")):
        objects = {**kept.record.objects, first: packed}
        kept.record = history.Record(kept.record.revisions, None, objects)
        assert words in refusal(cluster, kept)


def test_refused_where_an_older_version_has_kept_less() -> None:
    cluster, kept = installed()
    changed(cluster, kept, engine="vllm")
    first = kept.record.revisions[0]["revision"]
    content = history.unpack(kept.record.objects[first])
    del content["model"]["replicas"]
    objects = {**kept.record.objects, first: history.pack(content)}
    kept.record = history.Record(kept.record.revisions, None, objects)
    assert "another version of this collection has kept it, without 'replicas'" in refusal(cluster, kept)


def test_refused_where_nothing_serves_or_nobody_may_look() -> None:
    _cluster, kept = installed()
    kept.remember(stack(engine="vllm"))
    known = {"qwen": {"revisions": kept.record.revisions, "failure": None}}
    assert rollback.ways(known, {}, None)["refusals"][0].startswith("The credentials may not read what serves")
    assert rollback.ways(known, {}, {}, "qwen")["refusals"][0].startswith("Nothing serves model qwen")
    assert rollback.ways({}, {}, {})["refusals"] == ["No model has a revision to go back to.\nNothing is known of any."]


def test_several_models_are_not_guessed_at() -> None:
    cluster, kept = installed()
    changed(cluster, kept, engine="vllm")
    one = {"revisions": kept.record.revisions, "failure": None}
    live = test_rolling.live_serving(cluster)
    (reason,) = rollback.ways({"qwen": one, "swan": one}, {}, {**live, "swan": live["qwen"]})["refusals"]
    assert reason.startswith("Several models can go back; say which one by rollback_model.\n- qwen: to sglang")


def test_what_is_said_of_it() -> None:
    cluster, kept = installed()
    changed(cluster, kept, engine="vllm")
    first, second = kept.ways(cluster)["words"]
    assert first.startswith("Model qwen: sglang ")
    assert "the next run of the playbook models makes the change again" in second
