"""Events of a namespace, in their order and by what they are about."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.llm_d.multi_engine.plugins.module_utils.events import about, at, fresh, last, seconds


def event(reason: str = "Failed", uid: str = "u1", **more: Any) -> dict[str, Any]:
    return {"reason": reason, "involvedObject": {"uid": uid}, "message": reason, **more}


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        (None, None),
        ("", None),
        ("1970-01-01T00:01:00Z", 60),
        ("1970-01-01T00:01:00.500000Z", 60.5),
    ],
)
def test_seconds(time: str | None, expected: float | None) -> None:
    assert seconds(time) == expected


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ({}, 0),
        ({"firstTimestamp": "1970-01-01T00:00:01Z", "lastTimestamp": "1970-01-01T00:00:09Z"}, 9),
        # As the scheduler writes them.
        ({"lastTimestamp": None, "eventTime": "1970-01-01T00:00:02.250000Z"}, 2.25),
        ({"eventTime": "1970-01-01T00:00:02Z", "series": {"lastObservedTime": "1970-01-01T00:00:07Z"}}, 7),
    ],
)
def test_at(times: dict[str, Any], expected: float) -> None:
    assert at(event(**times)) == expected


def test_events_about_an_object_are_in_their_order() -> None:
    late, early = event("Late", lastTimestamp="1970-01-01T00:00:09Z"), event("Early")
    assert about([late, event(uid="u2"), early], {"metadata": {"uid": "u1"}}) == [early, late]
    assert about([late], {"metadata": {}}) == []


def test_last() -> None:
    events = [event("A", message="one"), event("A", message="two"), event("B", message=None)]
    assert last(events, "A") == events[1]
    assert last(events, "A", "B") == events[2]
    assert last(events, "A", word="one") == events[0]
    assert last(events, "A", container="model-server") is None
    assert last(events, "C") is None


@pytest.mark.parametrize(
    ("since", "times", "expected"),
    [(None, (5,), True), (5, (), True), (5, (None,), True), (5.9, (5,), True), (5, (4,), False), (5, (4, 6), True)],
)
def test_fresh(since: float | None, times: tuple, expected: bool) -> None:
    assert fresh(since, *times) is expected
