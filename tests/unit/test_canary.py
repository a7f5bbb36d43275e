"""A canary on a cluster that is a dictionary: it is judged by what its pods and the picker tell, step by step."""

from __future__ import annotations

import pickle
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.llm_d.multi_engine.plugins.module_utils import canary
from ansible_collections.llm_d.multi_engine.plugins.module_utils.prometheus import QueryError
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils import changes
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.timeline import counted, phases, read_events
from ansible_collections.llm_d.multi_engine.tests.unit import shipped, test_rolling
from ansible_collections.llm_d.multi_engine.tests.unit.test_rolling import (
    Plugin,
    change,
    live_serving,
    made,
    servers,
    stack,
)

quick = test_rolling.quick
SETTINGS = {"strategy": "canary", "hold_seconds": 5, "steps": [50, 100], "max_holds": 2}

#: What each engine, and the picker, calls what is counted.
PAGES = {
    "sglang": (
        "sglang:num_requests_total {requests}\n"
        "sglang:num_aborted_requests_total {errors}\n"
        "sglang:e2e_request_latency_seconds_sum {seconds}\n"
        "sglang:e2e_request_latency_seconds_count {requests}\n"
    ),
    "vllm": (
        'vllm:request_success_total{{finished_reason="stop"}} {done}\n'
        'vllm:request_success_total{{finished_reason="error"}} {errors}\n'
        "vllm:e2e_request_latency_seconds_sum {seconds}\n"
        "vllm:e2e_request_latency_seconds_count {requests}\n"
    ),
    "epp": (
        "llm_d_epp_request_total {requests}\n"
        "llm_d_epp_request_error_total {errors}\n"
        "llm_d_epp_request_duration_seconds_sum {seconds}\n"
        "llm_d_epp_request_duration_seconds_count {requests}\n"
    ),
}


class Traffic:
    """Counts requests at each look at a page, as if they had come in since the one before.

    :param requests: of each engine between two looks.
    :param errors: how many of a hundred requests of ``vllm`` fail.
    :param seconds: latency of a request of ``vllm``; that of the others is 0.1.
    """

    def __init__(self, requests: int = 100, errors: int = 0, seconds: float = 0.1) -> None:
        self.requests, self.errors, self.seconds = requests, errors, seconds
        self.looks: Counter[str] = Counter()
        self.ports: dict[str, set[tuple[int, str]]] = {}

    def page(self, _cluster: Any, pod: dict, port: int, path: str) -> str:
        name = pod["metadata"]["name"]
        kind = next(kind for kind in ("epp", "sglang", "vllm") if f"-{kind}-" in name)
        self.ports.setdefault(kind, set()).add((port, path))
        self.looks[name] += 1
        # Testers, who have a picker of their own, ask little.
        count = (5 if "-canary-epp-" in name else self.requests) * self.looks[name]
        errors = count * self.errors // 100 if kind == "vllm" else 0
        seconds = count * (self.seconds if kind == "vllm" else 0.1)
        return PAGES[kind].format(requests=count, errors=errors, done=count - errors, seconds=seconds)


def rolled(monkeypatch: pytest.MonkeyPatch, traffic: Traffic, devices: int = 4, **settings: Any) -> tuple:
    """Return the cluster after a canary of vllm, and the result."""
    monkeypatch.setattr(canary, "page", traffic.page)
    cluster = made(devices)
    result = change(cluster, stack(engine="vllm", rollout={**SETTINGS, **settings}))
    assert result is not None
    return cluster, result


def test_one_that_does_as_well_takes_over_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    traffic = Traffic()
    cluster, result = rolled(monkeypatch, traffic)
    assert not result.get("failed"), result["msg"]
    assert result["strategy"] == "canary"
    # As they are at the end of a step: it is noted down when it begins, too.
    ends = {entry["step"]: (entry["step"], entry["serve"], entry["ready"]["new"]) for entry in result["timeline"]}
    assert list(ends.values()) == [(1, "old", 1), (2, "both", 1), (3, "both", 2), (4, "new", 2), (5, "new", 2)]
    assert [note.partition("; judge after 5 s: ")[2][:17] for note in result["notes"]] == ["same: 100 request"] + [
        "same: 200 request"
    ] * 2
    assert servers(cluster) == [("qwen-vllm", 2)]
    assert cluster.least == 2
    assert traffic.ports == {kind: {(8000, "/metrics")} for kind in ("sglang", "vllm")} | {"epp": {(9090, "/metrics")}}


def test_the_timeline_tells_what_pickers_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canary, "page", Traffic(requests=40, errors=0).page)
    cluster, wanted = made(4), stack(engine="vllm")
    (one,) = changes.wanted(wanted, live_serving(cluster), shipped.GAIE_OPTIONS, shipped.MODEL_OPTIONS)
    result = Plugin(cluster, one, observe=True).go()
    (events,) = read_events(result["timeline"]).values()
    # Each step as it begins and as it ends; the first look has none before it.
    assert [event.requests for event in events] == [None, None, None, 40, None, 40, None, 40]
    assert {event.latency_ms for event in events[3::2]} == {100.0}
    found = phases(events, counted(events))
    assert [phase.serve for phase in found] == ["old", "both", "new", "new"]
    assert sum(phase.requests or 0 for phase in found) == 120


def test_without_room_one_goes_for_each_that_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, result = rolled(monkeypatch, Traffic(), devices=2)
    assert not result.get("failed"), result["msg"]
    assert servers(cluster) == [("qwen-vllm", 2)]
    assert cluster.least == 1


@pytest.mark.parametrize("devices", [2, 4])
@pytest.mark.parametrize(
    ("traffic", "settings", "said"),
    [
        (Traffic(seconds=0.2), {}, "mean latency 200 ms, 100 ms on the old one, allowed is 1.5 times as much"),
        (Traffic(errors=20), {}, "20 of 100 requests ended without their answer, 0 of"),
        (Traffic(seconds=0.13), {"limits": {"max_latency_ratio": 1.2}}, "allowed is 1.2 times as much"),
        (Traffic(requests=1), {"on_unknown": "back"}, "after 2 holds of 5 s. unknown: the new one finished 2 requests"),
    ],
)
def test_one_that_does_worse_goes(
    monkeypatch: pytest.MonkeyPatch, traffic: Traffic, settings: dict[str, Any], said: str, devices: int
) -> None:
    # Not used by the case before, too.
    traffic = Traffic(traffic.requests, traffic.errors, traffic.seconds)
    cluster, result = rolled(monkeypatch, traffic, devices, **settings)
    assert result["failed"]
    assert result["msg"].startswith("Model qwen stays on sglang (")
    assert said in result["msg"]
    assert said in result["notes"][-1]
    assert servers(cluster) == [("qwen-sglang", 2)]
    assert len(cluster.answering()) == 2
    # At the first step: half of the requests at most were its own. The way back is another phase.
    assert max(entry["ready"]["new"] for entry in result["timeline"]) == 1
    assert result["timeline"][-1]["step"] > 4


def test_too_few_requests_are_waited_for_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, result = rolled(monkeypatch, Traffic(requests=1))
    assert not result.get("failed"), result["msg"]
    assert servers(cluster) == [("qwen-vllm", 2)]
    # One step each waited twice, the last one is what counts.
    assert "unknown: the new one finished 2 requests, fewer than the 20 that say something" in result["notes"][0]


def test_without_metrics_it_is_judged_by_restarts_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canary, "page", Traffic().page)
    cluster, wanted = made(4), stack(engine="vllm", rollout={**SETTINGS, "on_unknown": "back"})
    (one,) = changes.wanted(wanted, live_serving(cluster), shipped.GAIE_OPTIONS, shipped.MODEL_OPTIONS)
    result = Plugin(cluster, {**one, "metrics": {}}, observe=True).go()
    assert "unknown: the new one's metrics do not tell how many requests it finished" in result["msg"]
    assert servers(cluster) == [("qwen-sglang", 2)]


def test_killed_between_two_steps_the_next_run_goes_on_with_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canary, "page", Traffic().page)
    wanted = stack(engine="vllm", rollout=SETTINGS)
    cluster = made(4)
    cluster.kept = []
    assert not change(cluster, wanted).get("failed")
    kept, serves = cluster.kept, []
    for frozen in kept:
        left = pickle.loads(frozen)
        assert len(left.answering()) >= 2
        result = change(left, wanted)
        if result is not None:
            assert not result.get("failed"), result["msg"]
            serves.append(result["timeline"][0]["serve"] if result["timeline"] else "done")
        assert servers(left) == [("qwen-vllm", 2)]
        assert left.least == 2
    # It never went backwards.
    ranks = [("old", "both", "new", "done").index(serve) for serve in serves]
    assert ranks == sorted(ranks)


@pytest.mark.parametrize(
    ("answer", "follows", "said"),
    [
        (0.5, "on", "same: "),
        (2.0, "back", "worse: the query of Prometheus gives 2, allowed are 1"),
        (QueryError("http://p does not answer: refused"), "hold", "unknown: http://p does not answer: refused"),
    ],
)
def test_a_query_of_prometheus_decides_too(
    monkeypatch: pytest.MonkeyPatch, answer: Any, follows: str, said: str
) -> None:
    def ask(url: str, query: str) -> float:
        assert (url, query) == ("http://p", "q")
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(canary, "ask", ask)
    begin = {"old": {"a": {"requests": 0}}, "new": {"b": {"requests": 0}}, "pickers": {}}
    end = {"old": {"a": {"requests": 99}}, "new": {"b": {"requests": 99}}, "pickers": {}}
    settings = {"prometheus": {"url": "http://p", "query": "q", "limit": 1}, "max_holds": 3}
    found = canary.judged(begin, end, settings, 1)
    assert found[0] == follows
    assert found[1].startswith(said)


def test_what_pickers_counted_between_two_looks() -> None:
    def reading(requests: int, seconds: float) -> dict[str, Any]:
        latency = {"sum": requests * seconds, "count": requests, "buckets": {}}
        return {"requests": requests, "errors": 1, "latency": latency}

    nothing = {"requests": None, "failures": None, "latency_ms": None}
    before = {"a": reading(10, 0.1)}
    assert canary.between({}, before) == nothing
    assert canary.between(before, {}) == nothing
    after = {"a": reading(20, 0.1), "b": reading(30, 0.2)}
    assert canary.between(before, after) == {"requests": 40, "failures": 1, "latency_ms": 175.0}


def test_pages_that_cannot_be_read_count_nothing() -> None:
    def forwarded(*_place: Any) -> Any:
        raise OSError("forbidden")

    pod = {
        "metadata": {"name": "a", "namespace": "b"},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    }
    assert canary.readings(SimpleNamespace(forwarded=forwarded), [pod], 1, {}) == {}
