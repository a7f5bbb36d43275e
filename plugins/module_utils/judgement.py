# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Whether a canary does as well as what it is to replace: pure functions on what was read of metrics.

What is compared is read twice, at the beginning and at the end of a hold (:func:`reading` of each page of metrics),
and kept as plain data in between, so that a rollout can be interrupted::

    old: {pod: {requests, errors, latency: {sum, count, buckets}, restarts}}   # those that serve, by name
    new: {pod: ...}
    picker: {requests, errors, latency}      # of the pool that both are in, or of the new one's own

The rules, the first that applies decides:

1. A pod of the new one was restarted: worse. The engine crashed, and its counters with it.
2. The user's query of Prometheus gives more than its limit: worse.
3. The endpoint picker counts more failures than ``max_error_ratio``, and more than before the hold: worse.
4. The engine counts more than ``max_error_ratio``, and more than the old one has: worse.
5. The new one finished fewer than ``min_requests``: unknown, see :func:`decide`.
6. Its latency is more than ``max_latency_ratio`` times that of the old one: worse.
7. It is at least a tenth faster: better. Otherwise: same.

"More" is what chance does not explain: clients hang up on every engine, and engines count that, too. Latency is
the 95th percentile where both have the same buckets, and the mean where they have not, for then percentiles tell more
of the buckets than of the engines.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ansible_collections.llm_d.multi_engine.plugins.module_utils import prometheus

#: What may be said of a canary.
BETTER, SAME, WORSE, UNKNOWN = "better", "same", "worse", "unknown"
#: Standard deviations from which on a difference is no chance: one in a hundred is.
_Z = 2.33
#: A tenth: less is not worth a word.
_FASTER = 0.9

Reading = Mapping[str, Any]
Scrape = Mapping[str, Any]


@dataclass(frozen=True)
class Limits:
    """What a canary has to keep to.

    :ivar max_error_ratio: failed requests of all, 0 to 1.
    :ivar max_latency_ratio: latency of the new one divided by that of the old one.
    :ivar min_requests: finished requests without which nothing is said.
    :ivar on_unknown: ``continue`` or ``back``, when no hold brought enough requests.
    :ivar max_holds: how often a hold is repeated for want of requests before ``on_unknown`` decides.
    """

    max_error_ratio: float = 0.01
    max_latency_ratio: float = 1.5
    min_requests: int = 20
    on_unknown: str = "continue"
    max_holds: int = 3


@dataclass(frozen=True)
class Verdict:
    """What is said of a canary.

    :ivar outcome: ``better``, ``same``, ``worse`` or ``unknown``.
    :ivar words: why, in a sentence.
    :ivar figures: what it was judged by, for the report and the history.
    """

    outcome: str
    words: str
    figures: dict[str, Any] = field(default_factory=dict)


def reading(page: str, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return what ``page`` says of requests, as plain data.

    :param metrics: ``requests``, ``errors`` and ``latency`` of an engine profile or a release: a selector, or several,
        of which the first that the page has counts. A name that is missing is unknown.
    """
    found = prometheus.samples(page)
    return {
        "requests": _first(found, metrics.get("requests"), prometheus.total),
        "errors": _first(found, metrics.get("errors"), prometheus.total),
        "latency": _first(found, metrics.get("latency"), prometheus.histogram),
    }


def traffic(before: Reading | None, after: Reading | None) -> dict[str, Any]:
    """Return ``requests``, ``failures`` and ``latency_ms`` between two readings, as a timeline's event has them."""
    if not after or after.get("requests") is None:
        return {"requests": None, "failures": None, "latency_ms": None}
    grown = _grown(before or {}, after)
    latency = grown.latency
    return {
        "requests": round(grown.requests),
        "failures": round(grown.errors),
        "latency_ms": round(1000 * latency["sum"] / latency["count"], 1) if latency and latency["count"] else None,
    }


def judge(begin: Scrape, end: Scrape, limits: Limits, query: tuple[float, float] | None = None) -> Verdict:
    """Return what the hold between two scrapes says of the new one.

    :param query: what the user's query gave at the end of the hold, and its limit.
    """
    old = _track(begin, end, "old")
    new = _without(_track(begin, end, "new"), _track(begin, end, "testers"))
    picker = _grown(begin.get("picker") or {}, end.get("picker") or {})
    figures = {"old": old.figures(), "new": new.figures(), "picker": picker.figures()}
    if query:
        figures["query"] = query[0]
    outcome, words = _rule(old, new, picker, begin.get("picker") or {}, limits, query)
    return Verdict(outcome, words, figures)


def decide(verdict: Verdict, holds: int, limits: Limits) -> str:
    """Return what follows: ``on``, ``hold`` (once more) or ``back``.

    Too little traffic proves nothing. It is waited for, up to ``max_holds`` holds; then ``on_unknown`` says: to go on
    is the default, since the new one has answered a completion and its pods have not restarted.

    :param holds: how many holds this step had.
    """
    if verdict.outcome == WORSE:
        return "back"
    if verdict.outcome == UNKNOWN:
        if holds < limits.max_holds:
            return "hold"
        return "back" if limits.on_unknown == "back" else "on"
    return "on"


@dataclass(frozen=True)
class _Grown:
    """What was counted between two readings; ``counts`` and ``counts_errors`` whether anything was."""

    requests: float = 0.0
    errors: float = 0.0
    latency: dict[str, Any] | None = None
    counts: bool = False
    counts_errors: bool = False
    restarted: tuple[str, ...] = ()

    def figures(self) -> dict[str, Any]:
        latency = self.latency if self.latency and self.latency["count"] else None
        p95 = prometheus.quantile(latency["buckets"], 0.95) if latency else None
        return {
            "requests": round(self.requests) if self.counts else None,
            "errors": round(self.errors) if self.counts_errors else None,
            "mean_ms": round(1000 * latency["sum"] / latency["count"], 1) if latency else None,
            "p95_ms": None if p95 is None else round(1000 * p95, 1),
            "restarted": list(self.restarted),
        }


def _rule(
    old: _Grown,
    new: _Grown,
    picker: _Grown,
    before: Reading,
    limits: Limits,
    query: tuple[float, float] | None,
) -> tuple[str, str]:
    if new.restarted:
        return WORSE, f"pods of the new one were restarted while it served: {', '.join(new.restarted)}"
    if query and query[0] > query[1]:
        return WORSE, f"the query of Prometheus gives {query[0]:g}, allowed are {query[1]:g}"
    baseline = before.get("errors") or 0.0, before.get("requests") or 0.0
    if _too_many((picker.errors, picker.requests), baseline, limits):
        return WORSE, f"the endpoint picker counts {_share(picker)} requests as failed, {_part(*baseline)} before"
    if _too_many((new.errors, new.requests), (old.errors, old.requests), limits):
        return (
            WORSE,
            f"{_share(new)} requests ended without their answer, {_part(old.errors, old.requests)} on the old one",
        )
    if not new.counts:
        return UNKNOWN, "the new one's metrics do not tell how many requests it finished"
    if new.requests < limits.min_requests:
        return (
            UNKNOWN,
            f"the new one finished {new.requests:.0f} requests, fewer than the {limits.min_requests} that say something",
        )
    return _by_latency(old, new, limits)


def _by_latency(old: _Grown, new: _Grown, limits: Limits) -> tuple[str, str]:
    done = f"{new.requests:.0f} requests, {new.errors:.0f} without their answer"
    if not (old.latency and new.latency and min(old.latency["count"], new.latency["count"]) >= limits.min_requests):
        return SAME, f"{done}; latency was not compared, for too little is known of one of them without testers"
    kind, before, after = _latencies(old.latency, new.latency)
    words = f"{done}; {kind} {1000 * after:.0f} ms, {1000 * before:.0f} ms on the old one"
    if after > before * limits.max_latency_ratio:
        return WORSE, f"{words}, allowed is {limits.max_latency_ratio:g} times as much"
    return (BETTER if after <= before * _FASTER else SAME), words


def _latencies(old: dict[str, Any], new: dict[str, Any]) -> tuple[str, float, float]:
    """Return what is compared, and its values in seconds."""
    if old["buckets"].keys() == new["buckets"].keys():
        before, after = prometheus.quantile(old["buckets"], 0.95), prometheus.quantile(new["buckets"], 0.95)
        if before is not None and after is not None:
            return "95th percentile", before, after
    return "mean latency", old["sum"] / old["count"], new["sum"] / new["count"]


def _too_many(seen: tuple[float, float], usual: tuple[float, float], limits: Limits) -> bool:
    """Whether there are more errors than allowed, and more than usual by more than chance explains.

    Both are errors and requests. The test is that of two proportions.
    """
    (errors, requests), (usual_errors, usual_requests) = seen, usual
    # What fails may not be counted as finished.
    requests, usual_requests = max(requests, errors), max(usual_requests, usual_errors)
    if not requests or errors / requests <= limits.max_error_ratio:
        return False
    if not usual_requests:
        # Nothing to compare with: one failure alone is no sign.
        return errors > 1
    both = (errors + usual_errors) / (requests + usual_requests)
    spread = math.sqrt(both * (1 - both) * (1 / requests + 1 / usual_requests))
    difference = errors / requests - usual_errors / usual_requests
    return difference > _Z * spread


def _track(begin: Scrape, end: Scrape, track: str) -> _Grown:
    """Return what the pods of a track counted together."""
    before, after = begin.get(track) or {}, end.get(track) or {}
    # A pod of which the second page could not be read counts nothing: it may be gone.
    pods = {name: _grown(before.get(name) or {}, pod) for name, pod in after.items()}
    restarted = [
        name
        for name, pod in after.items()
        # A pod that is new has restarted when it has at all.
        if (pod.get("restarts") or 0) > ((before.get(name) or {}).get("restarts") or 0)
    ]
    latencies = [grown.latency for grown in pods.values() if grown.latency]
    return _Grown(
        requests=sum(grown.requests for grown in pods.values()),
        errors=sum(grown.errors for grown in pods.values()),
        latency=_added(latencies) if latencies else None,
        counts=any(grown.counts for grown in pods.values()),
        counts_errors=any(grown.counts_errors for grown in pods.values()),
        restarted=tuple(sorted(restarted)),
    )


def _without(new: _Grown, testers: _Grown) -> _Grown:
    """Return what the new one counted of others than testers, who ask for what they like.

    How long theirs took cannot be taken off: not every picker measures a stream to its end, as engines do.
    """
    if not testers.requests:
        return new
    requests, errors = max(0.0, new.requests - testers.requests), max(0.0, new.errors - testers.errors)
    return replace(new, requests=requests, errors=errors, latency=None)


def _grown(before: Reading, after: Reading) -> _Grown:
    requests, errors = after.get("requests"), after.get("errors")
    latency, earlier = after.get("latency"), before.get("latency") or {}
    return _Grown(
        requests=_more(before.get("requests"), requests),
        errors=_more(before.get("errors"), errors),
        latency=_histogram(earlier, latency) if latency else None,
        counts=requests is not None,
        counts_errors=errors is not None,
    )


def _histogram(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    # All parts begin anew when one does.
    if after["count"] < (before.get("count") or 0):
        before = {}
    buckets = before.get("buckets") or {}
    return {
        "sum": after["sum"] - (before.get("sum") or 0),
        "count": after["count"] - (before.get("count") or 0),
        "buckets": {bound: count - (buckets.get(bound) or 0) for bound, count in after["buckets"].items()},
    }


def _added(latencies: list[dict[str, Any]]) -> dict[str, Any]:
    bounds = latencies[0]["buckets"].keys()
    # Without the same bounds there is no common histogram, but still a mean.
    alike = all(latency["buckets"].keys() == bounds for latency in latencies)
    return {
        "sum": sum(latency["sum"] for latency in latencies),
        "count": sum(latency["count"] for latency in latencies),
        "buckets": {bound: sum(latency["buckets"][bound] for latency in latencies) for bound in bounds}
        if alike
        else {},
    }


def _more(before: float | None, after: float | None) -> float:
    """Return how much a counter has grown; it begins anew with its program."""
    if after is None:
        return 0.0
    return after - before if before is not None and after >= before else after


def _first(page: list[prometheus.Sample], names: Any, read: Any) -> Any:
    for name in [names] if isinstance(names, str) else names or []:
        value = read(page, prometheus.selector(name))
        if value is not None:
            return value
    return None


def _share(grown: _Grown) -> str:
    return _part(grown.errors, grown.requests)


def _part(errors: float, requests: float) -> str:
    return f"{errors:.0f} of {max(requests, errors):.0f}"
