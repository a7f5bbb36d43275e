"""What a change of a model comes to: who is old and new, which strategy, which steps are left, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils import changes, composing, rollout
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.canary import shares
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.rollout import BOTH, NEW, OLD, Change, Room
from ansible_collections.llm_d.multi_engine.tests.unit import shipped

ROOM = Room(fits=2, missing=2, needed={"nvidia.com/gpu": 2}, free={"nvidia.com/gpu": 4})
FULL = Room(fits=0, missing=2, needed={"nvidia.com/gpu": 2}, free={"nvidia.com/gpu": 0})
HALF = Room(fits=1, missing=2, needed={"nvidia.com/gpu": 2}, free={"nvidia.com/gpu": 0})
BLIND = Room(fits=None, missing=2, needed={"nvidia.com/gpu": 2}, free={})


def a_change(**changed: Any) -> Change:
    place = {"pool": "qwen", "port": 8000}
    base = Change(
        model="qwen",
        old={"engine": "vllm", "track": "stable", **place, "label": "vllm (vllm:1)"},
        new={"engine": "sglang", "track": "stable", "pool": "qwen", "label": "sglang 2", "revision": "b"},
        serve=OLD,
        old_replicas=2,
        old_asked=2,
        old_ready=2,
        new_replicas=0,
        replicas=2,
        leftovers=[],
        apart=[],
        settings={"strategy": "auto", "hold_seconds": 10},
    )
    return replace(base, **changed)


def settings(**changed: Any) -> dict[str, Any]:
    return {"strategy": "auto", "hold_seconds": 10, **changed}


def canary(**changed: Any) -> dict[str, Any]:
    return settings(**{"strategy": "canary", "steps": [10, 50, 100], **changed})


def told(plan: rollout.Plan) -> list[tuple]:
    """Return of each step who serves, and the replicas of old and new that it asks for."""
    return [(step.serve, step.old, step.new) for step in plan.steps]


SURGE = [(OLD, None, 2), (BOTH, None, 2), (NEW, None, 2), (NEW, 0, None)]
IN_PLACE = [(OLD, 1, 1), (BOTH, None, 1), (NEW, None, 1), (NEW, 0, None), (NEW, None, 2)]
APART = [(OLD, None, 2), (NEW, None, 2), (NEW, 0, None)]
CANARY = [(OLD, None, 1), (BOTH, None, 1), (BOTH, None, 2), (NEW, None, 2), (NEW, 0, None)]
#: One goes for each that comes; one of the old ones stays until the new one does as well.
CANARY_IN_PLACE = [(OLD, 1, 1), (BOTH, 1, 1), (NEW, None, 1), (NEW, 0, None), (NEW, None, 2)]
RECREATE = [(OLD, 0, None), (NEW, None, 2)]


@pytest.mark.parametrize(
    ("change", "room", "strategy", "steps"),
    [
        pytest.param({}, ROOM, "surge", SURGE, id="room"),
        pytest.param({}, BLIND, "surge", SURGE, id="room is not to be seen"),
        pytest.param({}, FULL, "in_place", IN_PLACE, id="no room"),
        pytest.param({"settings": settings(strategy="in_place")}, ROOM, "in_place", IN_PLACE, id="asked for in_place"),
        pytest.param({"settings": settings(strategy="recreate")}, ROOM, "recreate", RECREATE, id="asked for recreate"),
        pytest.param(
            {"settings": settings(strategy="recreate"), "apart": ["no"]}, ROOM, "recreate", RECREATE, id="apart"
        ),
        pytest.param({"apart": ["no"]}, ROOM, "surge", APART, id="a pool of its own"),
        # Its autoscaler would give back what in_place takes away.
        pytest.param({"autoscaled": True}, ROOM, "surge", SURGE, id="autoscaled"),
        pytest.param({"settings": canary()}, ROOM, "canary", CANARY, id="canary"),
        pytest.param({"settings": canary(steps=[100])}, ROOM, "canary", SURGE, id="canary of one step"),
        pytest.param({"settings": canary()}, FULL, "canary", CANARY_IN_PLACE, id="canary without room"),
        pytest.param({"serve": NEW, "old": None, "new_replicas": 2}, FULL, "finish", [], id="done"),
        # Nobody is interrupted where nobody is answered.
        pytest.param({"old_ready": 0}, FULL, "recreate", RECREATE, id="the old one is broken"),
        pytest.param({"old_ready": 0}, ROOM, "surge", SURGE, id="the old one is broken, and there is room"),
        pytest.param({"old": None}, ROOM, "recreate", [(NEW, None, 2)], id="nothing is there"),
    ],
)
def test_strategies(change: dict[str, Any], room: Room, strategy: str, steps: list[tuple]) -> None:
    plan = rollout.plan(a_change(**change), room)
    assert (plan.strategy, told(plan), plan.refusals) == (strategy, steps, ())
    assert len(plan.words) == 1 + len(steps)


def test_the_new_one_is_tried_before_it_gets_requests() -> None:
    for room in (ROOM, FULL):
        first, *rest = rollout.plan(a_change(), room).steps
        assert first.attempt
        assert first.serve == OLD
        assert not any(step.attempt for step in rest)
    for apart, tried in ((), "try each pod"), (["another port"], "try them"):
        for times, said in (1, tried), (8, f"{tried} with 8 requests at once"):
            words = rollout.plan(a_change(apart=apart, settings=settings(trial_requests=times)), ROOM).words[1]
            assert words.endswith(f"and {said}")


@pytest.mark.parametrize(
    ("change", "room", "said"),
    [
        ({"old_asked": 1}, FULL, "need 2 nvidia.com/gpu more, and only 0 of 2 replicas find room; free where"),
        ({"settings": settings(min_ready=2)}, FULL, "set rollout.min_ready below 2 for in_place"),
        ({"settings": settings(strategy="surge")}, FULL, "use rollout.strategy: in_place, 1 replicas at a time"),
        ({"settings": settings(strategy="in_place", min_ready=2)}, ROOM, "takes away 2 - 2 = 0 replicas at a time"),
        ({"apart": ["another port"], "settings": settings(strategy="in_place")}, ROOM, "in_place: another port."),
        (
            {"apart": ["another port"], "settings": canary()},
            ROOM,
            "by a canary, for both cannot be behind one pool: anoth",
        ),
        ({"autoscaled": True, "settings": canary()}, FULL, "only 0 of 2 replicas find room"),
        ({"settings": canary(min_ready=2)}, FULL, "only 0 of 2 replicas find room"),
        ({"apart": ["another port"]}, FULL, "need 2 nvidia.com/gpu more"),
    ],
)
def test_refused_with_the_ways_out(change: dict[str, Any], room: Room, said: str) -> None:
    plan = rollout.plan(a_change(**change), room)
    assert not plan.steps
    assert not plan.back
    (refusal,) = plan.refusals
    assert said in refusal
    assert "recreate, which interrupts the model" in refusal


@pytest.mark.parametrize(
    ("change", "room", "steps"),
    [
        # Made, not ready or not tried, nobody asks it: all of it again costs nothing.
        ({"new_replicas": 2}, ROOM, SURGE),
        ({"new_replicas": 2, "serve": BOTH}, ROOM, SURGE[1:]),
        ({"new_replicas": 1}, FULL, IN_PLACE),
        ({"new_replicas": 1, "settings": canary()}, ROOM, CANARY),
        ({"new_replicas": 1, "serve": BOTH, "settings": canary()}, ROOM, CANARY[1:]),
        ({"new_replicas": 2, "serve": BOTH, "settings": canary()}, ROOM, CANARY[2:]),
        # What the new one has is what the old one gave.
        ({"new_replicas": 1, "old_replicas": 1, "serve": BOTH, "settings": canary()}, HALF, CANARY_IN_PLACE[1:]),
        ({"new_replicas": 1, "old_replicas": 2, "serve": BOTH, "settings": settings(strategy="in_place")}, FULL, None),
    ],
)
def test_what_is_done_is_not_done_again(change: dict[str, Any], room: Room, steps: list[tuple] | None) -> None:
    plan = rollout.plan(a_change(**change), room)
    assert not plan.refusals
    assert told(plan) == (steps or IN_PLACE[1:])


def test_batches_never_go_below_what_has_to_answer() -> None:
    for had in range(2, 9):
        for least in range(1, had):
            for count in range(1, 9):
                change = a_change(
                    old_replicas=had,
                    old_asked=had,
                    old_ready=had,
                    replicas=count,
                    settings=settings(strategy="in_place", min_ready=least),
                )
                old, new = had, 0
                plan = rollout.plan(change, FULL)
                assert not plan.refusals
                for step in plan.steps:
                    old = old if step.old is None else step.old
                    # Before the new ones of this step are ready.
                    answering = (old if step.serve != NEW else 0) + (new if step.serve != OLD else 0)
                    assert answering >= min(least, count) or step.old is None, (had, least, count, step)
                    new = new if step.new is None else max(new, step.new)
                    assert old + new <= max(had, count), (had, least, count, step)
                assert (old, new) == (0, count)


def test_a_canary_is_judged_in_each_step_and_never_goes_below_what_has_to_answer() -> None:
    for had in range(1, 7):
        for least in range(1, had + 1):
            for count in range(1, 7):
                for beside in (*range(count), None):
                    if beside is not None and had - least + beside < 1:
                        continue
                    found = shares([10, 50], count, had, least, beside)
                    old, new = had, 0
                    for more, left in found:
                        assert new < more <= count
                        assert 1 <= left <= old
                        assert left + new >= min(least, had)
                        assert more + left <= had + (count if beside is None else beside)
                        old, new = left, more
                    # As many as there is room for: then it may be alone.
                    assert new == count or new >= least
    steps = rollout.plan(a_change(settings=canary()), ROOM).steps
    assert [step.judge for step in steps] == [False, True, True, True, False]


def test_what_is_left_of_another_change_goes_first() -> None:
    leftovers = [{"kind": "Deployment", "name": "qwen-tgi", "engine": "tgi", "track": "stable"}]
    plan = rollout.plan(a_change(leftovers=leftovers), ROOM)
    assert plan.steps[0].leftovers
    assert told(plan)[1:] == SURGE
    assert "qwen-tgi" in plan.words[1]


def test_the_way_back_is_the_old_one_as_it_was() -> None:
    plan = rollout.plan(a_change(), FULL)
    assert [(step.serve, step.old, step.new) for step in plan.back] == [(OLD, 2, None), (OLD, None, 0)]
    assert not rollout.plan(a_change(settings=settings(strategy="recreate")), ROOM).back


# --- who is old and who is new --------------------------------------------------------------


def workload(engine: str, track: str, revision: str, created: str = "2026-01-01", **changed: Any) -> dict[str, Any]:
    name = f"qwen-{engine}" + ("-canary" if track == "canary" else "")
    return {
        "kind": "Deployment",
        "name": name,
        "model": "qwen",
        "engine": engine,
        "track": track,
        "revision": revision,
        "image": f"{engine}:1",
        "replicas": 2,
        "asked": 2,
        "ready": 2,
        "created": created,
        **changed,
    }


A = workload("sglang", "stable", "a")
B = workload("sglang", "canary", "b", "2026-02-02")
V = workload("vllm", "stable", "v", "2026-02-02")
PICKER = {"port": 8000, "protocol": "http", "config_hash": "1"}


def serving(*workloads: dict[str, Any], engine: str | None = "sglang", track: str | None = "stable") -> dict[str, Any]:
    return {"pool": "qwen", "engine": engine, "track": track, **PICKER, "workloads": list(workloads)}


def sides(model: dict[str, Any], live: dict[str, Any], revision: str) -> tuple:
    change, target = rollout.change(model, live, revision, PICKER)
    old = (change.old["engine"], change.old["track"]) if change.old else None
    return old, (target["engine"], target["track"]), change.serve, [item["name"] for item in change.leftovers]


STABLE, CANARY, VLLM = ("sglang", "stable"), ("sglang", "canary"), ("vllm", "stable")
BOTH_SERVE: dict[str, Any] = {"engine": "sglang", "track": None}


@pytest.mark.parametrize(
    ("live", "engine", "revision", "expected"),
    [
        # Another engine keeps the track, the same one takes the other.
        (serving(A), "vllm", "v", (STABLE, VLLM, OLD, [])),
        (serving(A), "sglang", "b", (STABLE, CANARY, OLD, [])),
        (serving(B, track="canary"), "sglang", "c", (CANARY, STABLE, OLD, [])),
        (serving(B, track="canary"), "vllm", "v", (CANARY, VLLM, OLD, [])),
        # Interrupted, and gone on with.
        (serving(A, B), "sglang", "b", (STABLE, CANARY, OLD, [])),
        (serving(A, B, **BOTH_SERVE), "sglang", "b", (STABLE, CANARY, BOTH, [])),
        (serving(A, V, engine=None, track=None), "vllm", "v", (STABLE, VLLM, BOTH, [])),
        # Interrupted, and wanted back.
        (serving(A, B, **BOTH_SERVE), "sglang", "a", (CANARY, STABLE, BOTH, [])),
        # Interrupted, and something else is wanted by now.
        (serving(A, B), "sglang", "c", (STABLE, CANARY, OLD, [])),
        (serving(A, B, **BOTH_SERVE), "sglang", "c", (STABLE, CANARY, OLD, [])),
        (serving(A, B), "vllm", "v", (STABLE, VLLM, OLD, ["qwen-sglang-canary"])),
        (serving(A, V), "sglang", "b", (STABLE, CANARY, OLD, ["qwen-vllm"])),
        (serving(A, V, engine=None, track=None), "sglang", "b", (STABLE, CANARY, OLD, ["qwen-vllm"])),
        # Done but for what it has replaced.
        (serving(A, B, track="canary"), "sglang", "b", (None, CANARY, NEW, ["qwen-sglang"])),
        (serving(A, V), "sglang", "a", (None, STABLE, NEW, ["qwen-vllm"])),
        # What was to be replaced is gone by itself.
        (serving(B, **BOTH_SERVE), "sglang", "b", (None, CANARY, BOTH, [])),
    ],
)
def test_old_and_new(live: dict[str, Any], engine: str, revision: str, expected: tuple) -> None:
    model = shipped.one({"engine": engine, "replicas": 2})
    assert sides(model, live, revision) == expected


@pytest.mark.parametrize(
    ("live", "engine", "revision", "needed", "stuck"),
    [
        (None, "sglang", "a", False, False),
        (serving(), "sglang", "a", False, False),
        (serving(A), "sglang", "a", False, False),
        (serving(A), "sglang", "b", True, False),
        (serving(A), "vllm", "v", True, True),
        (serving(A, B, **BOTH_SERVE), "sglang", "b", True, True),
        # Of before this collection noted it down.
        (serving({**A, "revision": ""}), "sglang", "a", False, False),
        # It never answered: nothing to be careful of.
        (serving({**A, "ready": 0}), "sglang", "b", False, False),
        # It serves, and what it has replaced is still there.
        (serving(A, B, track="canary"), "sglang", "b", True, False),
        (serving({**A, "ready": 0}), "vllm", "v", False, False),
        # Made before anything served.
        (serving(engine="vllm"), "sglang", "a", False, False),
    ],
)
def test_when_a_change_is_needed(
    live: dict[str, Any] | None, engine: str, revision: str, needed: bool, stuck: bool
) -> None:
    model = shipped.one({"engine": engine, "replicas": 2})
    assert rollout.is_needed(model, live, revision) is needed
    assert bool(rollout.stuck(model, live)) is stuck


@pytest.mark.parametrize(
    ("there", "revision", "stuck"),
    [
        (A, "a", False),
        (A, "b", True),
        # Role gaie applies no pods.
        (A, "", False),
        ({**A, "revision": ""}, "b", False),
        ({**A, "ready": 0}, "b", False),
    ],
)
def test_alone_nobody_replaces_pods_that_serve(there: dict[str, Any], revision: str, stuck: bool) -> None:
    reason = rollout.stuck(shipped.one({"engine": "sglang", "replicas": 2}), serving(there), revision)
    assert bool(reason) is stuck
    assert not reason or "asks for other pods in its place" in reason


def test_a_pool_of_its_own() -> None:
    def reasons(model: dict[str, Any], **picker: Any) -> str:
        return "; ".join(rollout.change(model, serving(A), "b", {**PICKER, **picker})[0].apart)

    assert reasons(shipped.one()) == ""
    assert "another configuration" in reasons(shipped.one(), config_hash="2")
    assert "port" in reasons(shipped.one(), port=9000)
    assert "port" in reasons(shipped.one(), protocol="kubernetes.io/h2c")
    assert "prefill" in reasons(shipped.one({"topology": "disaggregated"}))
    assert "caches" in reasons(shipped.one({"engine": "vllm", "routing": "precise-prefix"}))


# --- all of a stack -------------------------------------------------------------------------


def wanted(live: dict[str, Any], *models: Any, **changed: Any) -> list[dict[str, Any]]:
    resolved = shipped.resolved(*models, **changed)
    composed = composing.routing(resolved, shipped.GAIE_OPTIONS)
    for name, there in live.items():
        # The picker that is there will do.
        there.update(changes.picker_of(composed[name]))
    return changes.wanted(resolved, live, shipped.GAIE_OPTIONS, shipped.MODEL_OPTIONS)


def test_only_what_differs_is_changed_and_gets_all_that_it_takes() -> None:
    models = [{"name": "qwen", "replicas": 2}, {"name": "other", "route": {"path": "/other"}}]
    live = {"qwen": serving(workload("vllm", "stable", "v"), engine="vllm")}
    (change,) = wanted(live, *models)
    assert change["model"] == "qwen"
    assert change["target"] == {"engine": "sglang", "track": "stable", "pool": "qwen"}
    assert change["question"] == {"served_name": "Qwen/Qwen3-32B", "port": 8000, "api_key": None}
    assert '"name": "qwen-sglang"' in change["servers"]
    assert '"name": "other' not in change["servers"] + change["routing"]
    assert wanted({}, *models) == []


def test_a_second_run_finds_nothing_to_change_wherever_it_serves() -> None:
    live = {"qwen": serving(workload("sglang", "stable", "old"))}
    (change,) = wanted(live, {"replicas": 2})
    assert change["target"]["track"] == "canary"
    revision = change["plan"]["new"]["revision"]
    after = serving(workload("sglang", "canary", revision), track="canary")
    assert wanted({"qwen": after}, {"replicas": 2}) == []
    # How often it is there is no matter of a rollout.
    assert wanted({"qwen": after}, {"replicas": 3}) == []
    (again,) = wanted({"qwen": after}, {"replicas": 2, "context_length": 4096})
    assert again["target"]["track"] == "stable"


def test_patches_reach_the_model_wherever_it_is() -> None:
    patch = {"target": {"kind": "Deployment", "name": "qwen-sglang"}, "merge": {"spec": {"minReadySeconds": 7}}}
    (change,) = wanted({"qwen": serving(workload("sglang", "stable", "old"))}, {"patches": [patch]})
    assert '"minReadySeconds": 7' in change["servers"]


def test_an_autoscaled_model_is_not_changed_in_place() -> None:
    (why,) = rollout.plan(a_change(autoscaled=True, settings=settings(strategy="in_place")), ROOM).refusals
    assert why == (
        "Model qwen cannot change in_place: its autoscaler would give back what is taken away. Use surge, or recreate, "
        "which interrupts the model."
    )
    assert rollout.plan(a_change(autoscaled=True), FULL).refusals
