"""What is said of a canary, by the metrics that were read of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.llm_d.multi_engine.plugins.module_utils.judgement import (
    Limits,
    Verdict,
    decide,
    judge,
    reading,
    traffic,
)
from ansible_collections.llm_d.multi_engine.tests.unit import shipped

CATALOGUE = shipped.catalogue()
ENGINES, RELEASES = CATALOGUE["engines"], CATALOGUE["releases"]
NOTHING: dict[str, Any] = {"requests": 0, "errors": 0, "latency": {"sum": 0, "count": 0, "buckets": {}}, "restarts": 0}


def pod(requests: float, mean: float = 0.1, errors: float = 0, restarts: int = 0, **more: Any) -> dict[str, Any]:
    """What a pod tells that has finished ``requests``, without buckets."""
    latency = {"sum": requests * mean, "count": requests, "buckets": {}}
    return {"requests": requests, "errors": errors, "latency": latency, "restarts": restarts, **more}


def spread(requests: int, fast: int, bounds: tuple[str, ...] = ("0.1", "1", "+Inf")) -> dict[str, Any]:
    """A pod with buckets; ``fast`` of its requests are in the first one, the others in the second."""
    counts = dict(zip(bounds, (fast, requests, requests), strict=True))
    return pod(requests, latency={"sum": requests * 0.2, "count": requests, "buckets": counts})


def hold(old: dict, new: dict, picker: dict | None = None, before: dict | None = None) -> tuple[dict, dict]:
    """The scrapes of a hold in which one pod of each track counted what is given."""
    begin = {"old": {"a": NOTHING}, "new": {"b": NOTHING}, "picker": before or pod(0)}
    return begin, {"old": {"a": old}, "new": {"b": new}, "picker": picker or before or pod(0)}


LIMITS = Limits()
#: Name, what both did in the hold, outcome, and part of the words.
TABLE = [
    ("alike", hold(pod(100), pod(100)), "same", "100 requests, 0 without their answer; mean latency 100 ms, 100 ms on"),
    ("faster", hold(pod(100), pod(100, 0.08)), "better", "mean latency 80 ms, 100 ms on the old one"),
    ("hardly faster", hold(pod(100), pod(100, 0.095)), "same", ""),
    ("slower, but within the limit", hold(pod(100), pod(100, 0.149)), "same", ""),
    (
        "too slow",
        hold(pod(100), pod(100, 0.16)),
        "worse",
        "160 ms, 100 ms on the old one, allowed is 1.5 times as much",
    ),
    (
        "restarted",
        hold(pod(100), pod(100, restarts=1)),
        "worse",
        "pods of the new one were restarted while it served: b",
    ),
    ("the old one restarted", hold(pod(100, restarts=3), pod(100)), "same", ""),
    ("all fail", hold(pod(100), pod(30, errors=30)), "worse", "30 of 30 requests ended without their answer, 0 of 100"),
    ("all fail and none is finished", hold(pod(100), pod(0, errors=30)), "worse", "30 of 30 requests"),
    ("a tenth fails", hold(pod(100), pod(100, errors=10)), "worse", "10 of 100 requests"),
    ("one client hung up", hold(pod(30), pod(30, errors=1)), "same", "30 requests, 1 without their answer"),
    ("clients hang up on both", hold(pod(200, errors=10), pod(200, errors=12)), "same", ""),
    ("the old one fails", hold(pod(100, errors=50), pod(100, errors=2)), "same", ""),
    ("no traffic", hold(pod(0), pod(0)), "unknown", "finished 0 requests, fewer than the 20"),
    ("little traffic", hold(pod(500), pod(19)), "unknown", "finished 19 requests"),
    ("little traffic, but it crashed", hold(pod(500), pod(2, restarts=1)), "worse", "restarted"),
    ("an engine that counts nothing", hold(pod(500), {"restarts": 0}), "unknown", "do not tell how many requests"),
    ("an old one that counts nothing", hold({"restarts": 0}, pod(100, 9)), "same", "latency was not compared"),
    (
        "the old one is idle",
        hold(pod(3), pod(100, 9)),
        "same",
        "latency was not compared, for too little is known of one of them",
    ),
    (
        "the picker sees failures",
        hold(pod(100), pod(100), pod(1220, errors=31), before=pod(1000, errors=1)),
        "worse",
        "the endpoint picker counts 30 of 220 requests as failed, 1 of 1000 before",
    ),
    (
        "it saw as many before",
        hold(pod(100), pod(100), pod(1200, errors=60), before=pod(1000, errors=50)),
        "same",
        "",
    ),
    (
        "the same buckets, the same percentile",
        hold(spread(100, 50), spread(100, 50)),
        "same",
        "95th percentile 910 ms, 910 ms on the old one",
    ),
    ("a slow tail", hold(spread(100, 100), spread(100, 50)), "worse", "95th percentile 910 ms, 95 ms"),
    (
        "other buckets: the mean",
        hold(spread(100, 100), spread(100, 50, ("0.2", "2", "+Inf"))),
        "same",
        "mean latency 200 ms, 200 ms",
    ),
]


@pytest.mark.parametrize(("scrapes", "outcome", "words"), [case[1:] for case in TABLE], ids=[case[0] for case in TABLE])
def test_verdicts(scrapes: tuple[dict, dict], outcome: str, words: str) -> None:
    verdict = judge(*scrapes, LIMITS)
    assert (verdict.outcome, words in verdict.words) == (outcome, True), verdict.words
    # Kept in the cluster and shown in a report.
    json.dumps(verdict.figures)


def test_a_query_beyond_its_limit_is_worse() -> None:
    begin, end = hold(pod(100), pod(100, 0.05))
    assert judge(begin, end, LIMITS, (0.04, 0.05)).outcome == "better"
    verdict = judge(begin, end, LIMITS, (0.06, 0.05))
    assert (verdict.outcome, verdict.words) == ("worse", "the query of Prometheus gives 0.06, allowed are 0.05")
    assert verdict.figures["query"] == 0.06


def test_only_the_hold_counts() -> None:
    begin = {"old": {"a": pod(1000, 5.0, errors=9)}, "new": {"b": pod(500, 5.0, errors=99)}, "picker": None}
    end = {
        "old": {"a": {**pod(1100), "latency": {"sum": 5010.0, "count": 1100, "buckets": {}}, "errors": 9}},
        "new": {"b": {**pod(600), "latency": {"sum": 2510.0, "count": 600, "buckets": {}}, "errors": 99}},
        "picker": None,
    }
    verdict = judge(begin, end, LIMITS)
    assert verdict.outcome == "same"
    wanted = {"requests": 100, "errors": 0, "mean_ms": 100.0, "p95_ms": None, "restarted": []}
    assert verdict.figures["old"] == verdict.figures["new"] == wanted


@pytest.mark.parametrize(
    ("testers", "outcome", "words"),
    [
        # 20 long streams of theirs, which their picker has not measured to their end.
        (pod(20, 0.1), "same", "60 requests, 0 without their answer; latency was not compared"),
        # The same 20 streams of others.
        (pod(0), "worse", "80 requests, 0 without their answer; mean latency 3850 ms"),
        # Nearly all of it was theirs.
        (pod(70, 4.3), "unknown", "finished 10 requests"),
        (pod(90, 3.4), "unknown", "finished 0 requests"),
    ],
)
def test_what_testers_ask_for_is_no_sign(testers: dict, outcome: str, words: str) -> None:
    both = pod(80, (60 * 0.1 + 20 * 15.1) / 80)
    begin, end = hold(pod(100), both)
    verdict = judge({**begin, "testers": {"t": NOTHING}}, {**end, "testers": {"t": testers}}, LIMITS)
    assert verdict.outcome == outcome, verdict.words
    assert words in verdict.words


def test_pods_come_and_go() -> None:
    begin = {"old": {"a": pod(700), "gone": pod(900)}, "new": {}, "picker": None}
    end = {"old": {"a": pod(800)}, "new": {"b": pod(40), "c": pod(60)}, "picker": None}
    figures = judge(begin, end, LIMITS).figures
    assert (figures["old"]["requests"], figures["new"]["requests"]) == (100, 100)
    # One that crashed before it was seen for the first time.
    end["new"]["c"]["restarts"] = 2
    assert judge(begin, end, LIMITS).words.endswith(": c")


def test_counters_begin_anew_with_their_program() -> None:
    begin = {"picker": pod(1000, 0.5, errors=40)}
    after = pod(80, 0.1, errors=0)
    assert traffic(begin["picker"], after) == {"requests": 80, "failures": 0, "latency_ms": 100.0}


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (None, None, (None, None, None)),
        (pod(3), None, (None, None, None)),
        (pod(3), {"requests": None}, (None, None, None)),
        (None, pod(10, 0.04, errors=1), (10, 1, 40.0)),
        (pod(10, 0.1), pod(10, 0.1), (0, 0, None)),
        (pod(10, 0.1), {**pod(15), "latency": None, "errors": None}, (5, 0, None)),
    ],
)
def test_traffic_between_two_readings(before: Any, after: Any, expected: tuple) -> None:
    assert tuple(traffic(before, after).values()) == expected


@pytest.mark.parametrize(
    ("outcome", "holds", "on_unknown", "expected"),
    [
        ("better", 1, "continue", "on"),
        ("same", 1, "back", "on"),
        ("worse", 1, "continue", "back"),
        ("unknown", 1, "continue", "hold"),
        ("unknown", 2, "back", "hold"),
        ("unknown", 3, "continue", "on"),
        ("unknown", 3, "back", "back"),
    ],
)
def test_what_follows(outcome: str, holds: int, on_unknown: str, expected: str) -> None:
    assert decide(Verdict(outcome, ""), holds, Limits(on_unknown=on_unknown)) == expected


@pytest.mark.parametrize("name", sorted(RELEASES))
def test_releases_say_what_their_pickers_count(name: str) -> None:
    assert RELEASES[name]["endpoint_picker"]["traffic"].keys() == {"path", "requests", "errors", "latency"}


@pytest.mark.parametrize("name", sorted(ENGINES))
def test_profiles_say_what_their_engines_count(name: str) -> None:
    assert {"requests", "errors", "latency"} <= ENGINES[name]["metrics"].keys()


def test_the_first_name_that_is_there_counts() -> None:
    metrics = {"requests": ["new_total", "old_total"], "errors": ["none"], "latency": None}
    assert reading("old_total 3\n", metrics) == {"requests": 3.0, "errors": None, "latency": None}
    assert reading("old_total 3\nnew_total 4\n", metrics)["requests"] == 4.0
    assert reading("", {}) == {"requests": None, "errors": None, "latency": None}
