"""Testers of a canary: how they are told from others, what leads them to the new one alone, and that nothing of it stays."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
from ansible_collections.llm_d.multi_engine.plugins.module_utils import beside, canary, rolling
from ansible_collections.llm_d.multi_engine.plugins.module_utils.documents import dump
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils import changes, composing, rollout, testers
from ansible_collections.llm_d.multi_engine.tests.unit import shipped, test_canary, test_rolling, test_rollout
from ansible_collections.llm_d.multi_engine.tests.unit.test_rolling import (
    LiveCluster,
    Plugin,
    change,
    install,
    live_serving,
    made,
    servers,
    stack,
)
from ansible_collections.llm_d.multi_engine.tests.unit.test_rollout import BOTH, NEW, OLD, ROOM, a_change

quick = test_rolling.quick
GOLDEN = shipped.ROOT / "tests/golden/testers.yaml"
TESTERS = {"header": "X-Canary", "value": "yes"}
ROLLOUT = {"strategy": "canary", "testers": TESTERS}
WHERE = "llm_d_models[0] (qwen).rollout.testers"
PLACE = {"engine": "sglang", "track": "canary", "pool": "qwen"}
OTHER = {"name": "other", "source": "hf://a/b"}


# --- what is refused ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"value": "yes"}, f"{WHERE}.header: missing."),
        ({"header": "X-Canary"}, f"{WHERE}.value: missing."),
        ({**TESTERS, "header": "X Canary"}, f"{WHERE}.header: 'X Canary' is not valid. Allowed: a header's name of"),
        ({**TESTERS, "header": ":path"}, f"{WHERE}.header: ':path' is not valid."),
        # What YAML makes of yes.
        (
            {**TESTERS, "value": True},
            f"{WHERE}.value: True is not of type str. Put it in quotes to have it read as text. Allowed: at most 128 characters of ASCII, ",
        ),
        ({**TESTERS, "value": " yes"}, f"{WHERE}.value: ' yes' is not valid."),
        ({**TESTERS, "value": ""}, f"{WHERE}.value: '' is not valid."),
        ({**TESTERS, "hold_seconds": -1}, f"{WHERE}.hold_seconds: -1 is too small."),
        ({**TESTERS, "weight": 10}, f"{WHERE}.weight: unknown key."),
        (
            {**TESTERS, "header": "x-gateway-base-model-name"},
            f"{WHERE}.header: 'x-gateway-base-model-name' is taken: requests find their model by it. Choose a header that",
        ),
        ({**TESTERS, "header": "X-Multi-Engine-Revision"}, f"{WHERE}.header: 'X-Multi-Engine-Revision' is taken: roll"),
        (
            {**TESTERS, "header": "Authorization"},
            f"{WHERE}.header: 'Authorization' is taken: its values are credentials",
        ),
        (
            {**TESTERS, "header": "x-bird"},
            f"{WHERE}.header: 'x-bird' is taken: llm_d_models[1] (other).route.header has",
        ),
    ],
)
def test_refused(given: dict[str, Any], said: str) -> None:
    other = {**OTHER, "route": {"header": {"name": "X-Bird", "value": "yes"}}}
    (found,) = shipped.findings({"rollout": {**ROLLOUT, "testers": given}}, other)
    assert found.startswith(said)


@pytest.mark.parametrize("strategy", ["auto", "surge", "in_place", "recreate"])
def test_only_a_canary_has_testers(strategy: str) -> None:
    (found,) = shipped.findings({"rollout": {**ROLLOUT, "strategy": strategy}})
    assert found == (
        f"{WHERE}: given, but rollout.strategy is {strategy}, which lets nobody try the new one for long. "
        "Set rollout.strategy: canary, or leave testers out."
    )


# --- what is composed -----------------------------------------------------------------------


def composed(*models: dict[str, Any], **settings: Any) -> list[dict[str, Any]]:
    """Return the objects of the testers of the first one of ``models``."""
    resolved = shipped.resolved(*({"rollout": ROLLOUT, **model} for model in models), **settings)
    return testers.compose(resolved, resolved["models"][0], shipped.GAIE_OPTIONS, PLACE)


MODEL = ("X-Gateway-Base-Model-Name", "Qwen/Qwen3-32B")
ADAPTER = (MODEL[0], f"{MODEL[1]}:sql")
CANARY = ("X-Canary", "yes")


@pytest.mark.parametrize(
    ("models", "headers", "matches"),
    [
        pytest.param([{}], "X-Canary: yes", [("/", CANARY)], id="alone"),
        pytest.param(
            [{}, OTHER],
            "X-Canary: yes",
            [("/", MODEL, CANARY)],
            id="one of two",
        ),
        # By the header of testers alone the older one of two routes would win, whichever model is asked for.
        pytest.param(
            [{"route": {"default": True}}, OTHER],
            "X-Canary: yes and X-Gateway-Base-Model-Name: Qwen/Qwen3-32B",
            [("/", MODEL, CANARY)],
            id="the one that takes all others",
        ),
        pytest.param(
            [{"route": {"default": True}}, {**OTHER, "route": {"path": "/other"}}],
            "X-Canary: yes",
            [("/", CANARY)],
            id="beside one that is found by its path",
        ),
        pytest.param(
            [{"route": {"default": True, "path": "/qwen"}}, OTHER],
            "X-Canary: yes",
            [("/qwen", CANARY)],
            id="by path beside one that is found by its header",
        ),
        pytest.param(
            [{"lora_adapters": [{"name": "sql", "source": "hf://a/sql"}]}, OTHER],
            "X-Canary: yes",
            [("/", MODEL, CANARY), ("/", ADAPTER, CANARY)],
            id="adapters",
        ),
        pytest.param(
            [{"route": {"path": "/qwen", "header": {"name": "x-bird", "value": "owl"}}}, OTHER],
            "X-Canary: yes",
            [("/", ("x-bird", "owl"), CANARY), ("/qwen", CANARY)],
            id="path and header",
        ),
    ],
)
def test_the_rules_of_the_model_and_the_header(
    models: list[dict[str, Any]], headers: str, matches: list[tuple[Any, ...]]
) -> None:
    resolved = shipped.resolved(*({"rollout": ROLLOUT, **model} for model in models))
    assert testers.headers(resolved, resolved["models"][0]) == headers
    *routing, route = composed(*models)
    assert (route["kind"], route["metadata"]["name"]) == ("HTTPRoute", "qwen-try")
    found = [match for rule in route["spec"]["rules"] for match in rule["matches"]]
    told = [
        (match["path"]["value"], *((header["name"], header["value"]) for header in match["headers"])) for match in found
    ]
    assert told == matches
    # One pool a rule, and the pool's own picker.
    backends = [[backend["name"] for backend in rule["backendRefs"]] for rule in route["spec"]["rules"]]
    assert backends == [["qwen-canary"]] * len(route["spec"]["rules"])
    # The rest of each rule is the model's: a path is taken off, the timeouts stay.
    own = composing.routing(resolved, shipped.GAIE_OPTIONS)["qwen"][-1]["spec"]["rules"][-1]
    last = route["spec"]["rules"][-1]
    assert {key: last.get(key) for key in ("filters", "timeouts")} == {
        key: own.get(key) for key in ("filters", "timeouts")
    }
    (pool,) = [item for item in routing if item["kind"] == "InferencePool"]
    labels = pool["spec"]["selector"]["matchLabels"]
    assert labels["multi-engine.llm-d.ai/track"] == "canary"
    assert pool["spec"]["endpointPickerRef"]["name"] == "qwen-canary-epp"


def test_where_the_first_pool_is_the_other_one() -> None:
    resolved = shipped.resolved({"rollout": ROLLOUT})
    *_routing, route = testers.compose(
        resolved, resolved["models"][0], shipped.GAIE_OPTIONS, {**PLACE, "pool": "qwen-canary"}
    )
    assert route["spec"]["rules"][0]["backendRefs"][0]["name"] == "qwen"
    assert route["metadata"]["name"] == "qwen-try"


def test_patches_reach_them() -> None:
    patch = {"target": {"kind": "HTTPRoute", "name": "qwen"}, "merge": {"spec": {"hostnames": ["a.example"]}}}
    assert composed({"patches": [patch]})[-1]["spec"]["hostnames"] == ["a.example"]


def test_golden(request: pytest.FixtureRequest) -> None:
    text = dump(composed({"route": {"path": "/qwen", "header": {"name": MODEL[0], "value": MODEL[1]}}}, OTHER))
    if request.config.getoption("--update-golden"):
        GOLDEN.write_text(text, encoding="utf-8")
    assert text == GOLDEN.read_text(encoding="utf-8"), "see --update-golden"


def test_both_pickers_may_read_the_metrics_of_pods() -> None:
    options = {**shipped.MODEL_OPTIONS, "network_policies": True}

    def pickers(model: dict[str, Any]) -> list[str]:
        resolved = shipped.resolved(model)
        objects = composing.model_servers(resolved, options)["qwen"]
        (policy,) = [item for item in objects if item["kind"] == "NetworkPolicy"]
        labels = [peer["podSelector"]["matchLabels"] for peer in policy["spec"]["ingress"][0]["from"]]
        return [found["app.kubernetes.io/name"] for found in labels if "app.kubernetes.io/name" in found]

    assert pickers({}) == ["qwen-epp"]
    assert pickers({"rollout": ROLLOUT}) == ["qwen-epp", "qwen-canary-epp"]


# --- what is planned ------------------------------------------------------------------------


def test_a_plan_says_by_which_header_and_has_a_step_of_their_own() -> None:
    def planned(**changed: Any) -> rollout.Plan:
        settings = test_rollout.canary(testers={**TESTERS, "hold_seconds": 60})
        return rollout.plan(a_change(settings=settings, testers="X-Canary: yes", **changed), ROOM)

    plan = planned()
    steps = [(step.serve, step.testers, step.hold, step.judge) for step in plan.steps]
    assert steps == [
        (OLD, True, 0, False),
        (OLD, True, 60, False),
        (BOTH, True, 10, True),
        (BOTH, True, 10, True),
        (NEW, False, 10, True),
        (NEW, False, 0, False),
    ]
    assert "then requests with X-Canary: yes go to it alone" in plan.words[1]
    assert plan.words[2] == "2. let testers alone use it, for 60 s"
    assert not any(step.testers for step in plan.back)
    # Others use it already: nobody has it for himself.
    assert [step.serve for step in planned(serve=BOTH, new_replicas=1).steps] == [BOTH, BOTH, NEW, NEW]


def test_without_a_hold_there_is_no_step_of_their_own() -> None:
    settings = test_rollout.canary(testers={**TESTERS, "hold_seconds": 0})
    plan = rollout.plan(a_change(settings=settings, testers="X-Canary: yes"), ROOM)
    steps = [(step.serve, step.new, step.testers) for step in plan.steps]
    assert steps == [(OLD, 1, True), (BOTH, 1, True), (BOTH, 2, True), (NEW, 2, False), (NEW, None, False)]


# --- what is done ---------------------------------------------------------------------------

SETTINGS = {**test_canary.SETTINGS, "hold_seconds": 1, "testers": {**TESTERS, "hold_seconds": 1}}
#: Of roles: what lists all that they have applied.
KEPT = {("ConfigMap", "llm-d-gaie"), ("ConfigMap", "llm-d-model-service")}


def asked(**model: Any) -> dict[str, Any]:
    return stack(**{"engine": "vllm", "rollout": SETTINGS, **model})


def reached(cluster: LiveCluster) -> list[str]:
    """Return the pods that requests of testers go to, none where no rule is theirs."""
    route = cluster.live.get(("HTTPRoute", "qwen-try"))
    if not route:
        return []
    (rule,) = route["spec"]["rules"]
    (header,) = [header["name"] for match in rule["matches"] for header in match["headers"]]
    if header == beside.TRY_HEADER:
        # Nobody sends it: a gateway takes the pool before testers are led to it.
        return []
    assert header == "X-Canary"
    pool = cluster.live["InferencePool", rule["backendRefs"][0]["name"]]
    assert ("Deployment", pool["spec"]["endpointPickerRef"]["name"]) in cluster.live
    labels = test_rolling.text(pool["spec"]["selector"]["matchLabels"])
    return [pod["metadata"]["name"] for pod in cluster.list("v1", "Pod", None, labels)]


class Watched(LiveCluster):
    """Notes down after each write whom others and testers reach, as engines."""

    def _settle(self) -> None:
        super()._settle()
        if ("HTTPRoute", "qwen") in self.live:
            state = tuple(sorted({name.split("-")[1] for name in who}) for who in (self.answering(), reached(self)))
            self.states = getattr(self, "states", [])
            if state not in self.states[-1:]:
                self.states.append(state)


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> Iterator[test_canary.Traffic]:
    traffic = test_canary.Traffic()
    monkeypatch.setattr(canary, "page", traffic.page)
    return traffic


def watched(devices: int = 4) -> Watched:
    cluster = made(devices)
    cluster.__class__ = Watched
    return cluster  # type: ignore[return-value]


def nothing_left(cluster: LiveCluster) -> bool:
    return not [key for key in cluster.live if key[1].startswith(("qwen-try", "qwen-canary"))]


def test_testers_reach_the_new_one_alone_until_only_it_serves(pages: test_canary.Traffic) -> None:
    cluster = watched()
    result = change(cluster, asked())
    assert result
    assert not result.get("failed"), result["msg"]
    assert cluster.states == [
        (["sglang"], []),
        (["sglang"], ["vllm"]),
        (["sglang", "vllm"], ["vllm"]),
        (["sglang", "vllm"], []),
        (["vllm"], []),
    ]
    assert nothing_left(cluster)
    assert cluster.least == 2
    # It is judged by what others send.
    assert {name.partition("-epp")[0] for name in pages.looks if "-epp-" in name} == {"qwen", "qwen-canary"}
    assert all("same: 95 request" in note or "same: 195 request" in note for note in result["notes"][:2]), result[
        "notes"
    ]


@pytest.mark.parametrize("wanted_by_now", ["it", "the old one", "another one", "it without testers"])
def test_killed_at_any_moment_nothing_stays(pages: test_canary.Traffic, wanted_by_now: str) -> None:
    wanted = {
        "it": asked(),
        "the old one": stack(),
        "another one": asked(context_length=4096),
        "it without testers": asked(rollout={"strategy": "surge", "hold_seconds": 0}),
    }[wanted_by_now]
    cluster = watched()
    cluster.kept = []
    change(cluster, asked())
    # Most writes are of a picker that nobody asks yet: where something else is wanted some of them will do.
    for fatal in range(0, len(cluster.kept), 1 if wanted_by_now == "it" else 3):
        left: Watched = pickle.loads(cluster.kept[fatal])
        before = left.tried
        result = change(left, wanted)
        if result is not None:
            assert not result.get("failed"), (fatal, result["msg"])
            assert ("HTTPRoute", "qwen-try") not in left.live, fatal
        # Before the first pod there is nothing to change back, and role gaie removes what leads nobody anywhere.
        assert not reached(left), fatal
        assert left.tried >= before
        assert left.least == 2, fatal
    assert fatal > 15


def test_what_another_change_has_left_is_not_shown_to_testers(pages: test_canary.Traffic) -> None:
    """A run was killed while testers used one; the pods of the next one come under its name."""
    cluster = watched()
    cluster.kept = []
    change(cluster, asked())
    left = next(
        left for left in map(pickle.loads, cluster.kept) if left.answering() and ("HTTPRoute", "qwen-try") in left.live
    )
    untried: list[set[str]] = []
    settle = LiveCluster._settle

    def settled(self: LiveCluster) -> None:
        settle(self)
        if not any("vllm" in name for name in self.answering()):
            untried.append(set(reached(self)) - self.tried)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Watched, "_settle", settled)
        assert not change(left, asked(context_length=4096)).get("failed")
    assert len(untried) > 5
    assert not any(untried)


@pytest.mark.parametrize("fault", ["never ready", "mute", "worse"])
def test_one_that_is_not_fit_takes_their_way_with_it(
    monkeypatch: pytest.MonkeyPatch, pages: test_canary.Traffic, fault: str
) -> None:
    cluster = watched()
    image = f"example.com/engine:{'mute' if fault == 'mute' else 'bad'}"
    if fault == "never ready":
        cluster.broken.add(image)
    if fault == "worse":
        monkeypatch.setattr(canary, "page", test_canary.Traffic(seconds=0.5).page)
    result = change(cluster, asked(image=image, engine_version="0.32.0"))
    assert result
    assert result["msg"].startswith("Model qwen stays on sglang (")
    assert ("and lost no request. " in result["msg"]) is (fault != "worse")
    assert servers(cluster) == [("qwen-sglang", 2)]
    assert nothing_left(cluster)
    if fault != "worse":
        assert not [state for state in cluster.states if state[1]], "somebody was sent to one that was not tried"


def test_one_that_falls_ill_while_testers_use_it_gets_no_other_request(
    monkeypatch: pytest.MonkeyPatch, pages: test_canary.Traffic
) -> None:
    cluster = watched()
    apply, led = rolling.Rolling._apply, []

    def falls_ill(self: rolling.Rolling, role: str, objects: list[dict], *more: Any) -> list[dict]:
        held_back = apply(self, role, objects, *more)
        if any(item["metadata"]["name"] == "qwen-try" for item in objects):
            led.append(len(led))
        if len(led) == 3:
            # In the step that is theirs.
            cluster.broken.add("example.com/engine:ill")
            cluster._settle()
        return held_back

    monkeypatch.setattr(rolling.Rolling, "_apply", falls_ill)
    settings = {**SETTINGS, "testers": {**TESTERS, "hold_seconds": 30}}
    result = change(cluster, asked(image="example.com/engine:ill", engine_version="0.32.0", rollout=settings))
    assert result
    assert ", and lost no request but those of testers. The new one did not stay well" in result["msg"]
    assert {entry["serve"] for entry in result["timeline"]} == {"old"}
    assert servers(cluster) == [("qwen-sglang", 2)]
    assert nothing_left(cluster)


def test_a_rollback_has_no_testers_and_ends_theirs(pages: test_canary.Traffic) -> None:
    """Its change has been kept without them."""
    cluster = watched()
    cluster.kept = []
    change(cluster, asked())
    left = [left for left in map(pickle.loads, cluster.kept) if ("HTTPRoute", "qwen-try") in left.live][-1]
    (one,) = changes.wanted(stack(), live_serving(left), shipped.GAIE_OPTIONS, shipped.MODEL_OPTIONS)
    del one["testers"]
    assert not Plugin(left, one).go().get("failed")
    assert ("HTTPRoute", "qwen-try") not in left.live
    assert servers(left) == [("qwen-sglang", 2)]


def test_where_both_cannot_be_behind_one_pool_nothing_of_it_is_composed() -> None:
    cluster = made(4)
    install(cluster, stack())
    (one,) = changes.wanted(asked(port=9000), live_serving(cluster), shipped.GAIE_OPTIONS, shipped.MODEL_OPTIONS)
    assert (one["testers"], one["plan"]["testers"]) == ("", "")
    (one,) = changes.wanted(asked(), live_serving(cluster), shipped.GAIE_OPTIONS, shipped.MODEL_OPTIONS)
    assert json.loads(one["testers"])[-1]["metadata"]["name"] == "qwen-try"
    assert one["plan"]["testers"] == "X-Canary: yes"
