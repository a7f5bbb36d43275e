# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""What happened during a rollout, by phases: the numbers of the report that ``timeline_page`` draws.

An event is what was seen at one moment of the rollout of one model, as plain data::

    at: 2026-11-29T12:00:03Z     # UTC, or seconds since the epoch
    model: qwen3-32b
    step: 2                      # of the plan; a new number begins a phase
    words: both serve            # what the step does
    serve: both                  # who gets requests from this moment on: old, both or new
    ready: {old: 2, new: 2}      # replicas that are ready at this moment
    requests: 118                # answered since the model's event before; null where nobody could count them
    failures: 0                  # of these
    latency_ms: 41.5             # mean of these, in milliseconds; null without requests

``traffic`` is optional, and what clients saw, a record a second or so: ``{at, ok, failed, latency_ms}``. Where it is
there it is drawn, since it knows more than the counters of pickers: what never came back.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

SERVES = ("old", "both", "new")
#: Bars in a picture; more of them cannot be told from each other.
BARS = 160


class TimelineError(ValueError):
    """An event or a record that is not as the documentation has it."""


@dataclass(frozen=True)
class Event:
    """One moment; ``at`` in seconds since the epoch, otherwise as in the documentation of this file."""

    at: float
    model: str
    step: int
    words: str
    serve: str
    old: int
    new: int
    requests: int | None
    failures: int | None
    latency_ms: float | None


@dataclass(frozen=True)
class Span:
    """Requests between two moments, in seconds since the epoch."""

    begin: float
    end: float
    requests: int
    failures: int
    latency_ms: float | None


@dataclass(frozen=True)
class Phase:
    """One step of the plan, from its first event to the first of the next one.

    :ivar old: replicas of the old one that are ready at its end, as ``new`` of the new one.
    :ivar requests: ``None`` where nobody could count them, as ``failures``.
    """

    step: int
    words: str
    serve: str
    begin: float
    end: float
    old: int
    new: int
    requests: int | None
    failures: int | None
    latency_ms: float | None


def read_events(events: Iterable[Mapping[str, Any]]) -> dict[str, list[Event]]:
    """Return the events of each model in the order of time; models in that of their first events.

    :raises TimelineError: says which event lacks what.
    """
    found: dict[str, list[Event]] = {}
    for index, item in enumerate(events):
        event = _event(item, f"events[{index}]")
        found.setdefault(event.model, []).append(event)
    return {model: sorted(items, key=lambda event: event.at) for model, items in found.items()}


def read_traffic(records: Iterable[Mapping[str, Any]]) -> list[Span]:
    """Return what clients saw, each record until the next one.

    :raises TimelineError: says which record lacks what.
    """
    places = [(record, f"traffic[{index}]") for index, record in enumerate(records)]
    rows = sorted(
        (
            _moment(_field(record, "at", place), place),
            _count(_field(record, "ok", place), f"{place}.ok") or 0,
            _count(_field(record, "failed", place), f"{place}.failed") or 0,
            _number(record.get("latency_ms"), f"{place}.latency_ms"),
        )
        for record, place in places
    )
    ends = [row[0] for row in rows[1:]] + [rows[-1][0] + 1.0] if rows else []
    return [
        Span(at, end, ok + failed, failed, latency if ok else None)
        for (at, ok, failed, latency), end in zip(rows, ends, strict=True)
    ]


def phases(events: Sequence[Event], spans: Sequence[Span]) -> list[Phase]:
    """Return the phases that the ``events`` of one model make, each with the requests that began in it.

    The last one ends with the last request that is known.
    """
    starts = [index for index, event in enumerate(events) if index == 0 or event.step != events[index - 1].step]
    found: list[Phase] = []
    for start, after in zip(starts, [*starts[1:], len(events)], strict=True):
        first, last = events[start], events[after - 1]
        if after < len(events):
            end = events[after].at
            inside = [span for span in spans if first.at <= span.begin < end]
        else:
            inside = [span for span in spans if first.at <= span.begin]
            end = max([last.at, *(span.end for span in inside)])
        found.append(
            Phase(
                first.step,
                first.words,
                first.serve,
                first.at,
                end,
                last.old,
                last.new,
                sum(span.requests for span in inside) if inside else None,
                sum(span.failures for span in inside) if inside else None,
                mean_latency(inside),
            )
        )
    return found


def counted(events: Sequence[Event]) -> list[Span]:
    """Return what was counted between each two of ``events``, where it was: what an event tells happened before it."""
    return [
        Span(before.at, after.at, after.requests, after.failures or 0, after.latency_ms)
        for before, after in itertools.pairwise(events)
        if after.requests is not None
    ]


def mean_latency(spans: Iterable[Span]) -> float | None:
    """Return the mean latency of all requests of ``spans`` in milliseconds; ``None`` without any."""
    rows = [(span.requests - span.failures, span.latency_ms) for span in spans if span.latency_ms is not None]
    answered = sum(count for count, _latency in rows)
    return sum(count * latency for count, latency in rows) / answered if answered else None


def bars(spans: Sequence[Span], limit: int = BARS) -> list[Span]:
    """Return ``spans``, neighbours put together until there are at most ``limit``; nothing is lost on the way."""
    size = -(-len(spans) // limit)
    if size <= 1:
        return list(spans)
    groups = [spans[start : start + size] for start in range(0, len(spans), size)]
    return [
        Span(
            group[0].begin,
            group[-1].end,
            sum(span.requests for span in group),
            sum(span.failures for span in group),
            mean_latency(group),
        )
        for group in groups
    ]


def clock(at: float) -> str:
    """Return a moment as ``2026-11-29 12:00:03``, in UTC."""
    return datetime.fromtimestamp(at, timezone.utc).strftime("%Y-%m-%d %H:%M:%S")


def duration(seconds: float) -> str:
    """Return ``4.2 s``, ``1 min 05 s`` or ``2 h 03 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _event(item: Any, place: str) -> Event:
    if not isinstance(item, Mapping):
        raise TimelineError(f"{place}: {item!r} is not a dict.")
    serve, ready = _field(item, "serve", place), _field(item, "ready", place)
    if serve not in SERVES:
        raise TimelineError(f"{place}.serve: {serve!r} is not one of {', '.join(SERVES)}.")
    if not isinstance(ready, Mapping):
        raise TimelineError(f"{place}.ready: {ready!r} is not {{old: replicas, new: replicas}}.")
    return Event(
        at=_moment(_field(item, "at", place), place),
        model=str(_field(item, "model", place)),
        step=_count(_field(item, "step", place), f"{place}.step") or 0,
        words=str(item.get("words") or ""),
        serve=serve,
        old=_count(ready.get("old"), f"{place}.ready.old") or 0,
        new=_count(ready.get("new"), f"{place}.ready.new") or 0,
        requests=_count(item.get("requests"), f"{place}.requests"),
        failures=_count(item.get("failures"), f"{place}.failures"),
        latency_ms=_number(item.get("latency_ms"), f"{place}.latency_ms"),
    )


def _field(item: Mapping[str, Any], key: str, place: str) -> Any:
    if item.get(key) is None:
        raise TimelineError(f"{place}.{key}: missing.")
    return item[key]


def _moment(value: Any, place: str) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    try:
        # Before Python 3.11 it does not know the Z.
        moment = datetime.fromisoformat(str(value).replace("Z", "+00:00"))
    except ValueError:
        message = f"{place}.at: {value!r} is neither a time such as 2026-11-29T12:00:03Z nor seconds since the epoch."
        raise TimelineError(message) from None
    # A time without a zone is UTC, wherever the report is made.
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()


def _number(value: Any, place: str) -> float | None:
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TimelineError(f"{place}: {value!r} is not a number.") from None
    # Neither less than nothing, nor what is not a number to compare.
    if not 0 <= number < float("inf"):
        raise TimelineError(f"{place}: {value!r} is not a number from 0 on.")
    return number


def _count(value: Any, place: str) -> int | None:
    number = _number(value, place)
    return None if number is None else int(number)
