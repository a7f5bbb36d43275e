"""The report of a rollout: the numbers of its phases, and the page byte by byte."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from ansible_collections.llm_d.multi_engine.plugins.action.rollout_report import report, write
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.timeline import (
    Span,
    TimelineError,
    bars,
    counted,
    duration,
    mean_latency,
    phases,
    read_events,
    read_traffic,
)
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.timeline_page import page
from ansible_collections.llm_d.multi_engine.tests.unit import shipped

GOLDEN = shipped.ROOT / "tests/golden/rollout.html"
NOON = 1795953600


def event(at: int, step: int, serve: str, old: int, new: int, requests: int | None = None, **more: Any) -> dict:
    """An event ``at`` seconds after noon."""
    moment = f"2026-11-29T12:{at // 60:02d}:{at % 60:02d}Z"
    counts = {} if requests is None else {"requests": requests, "failures": 0, "latency_ms": 40.0}
    ready = {"old": old, "new": new}
    return {"at": moment, "model": "finch", "step": step, "serve": serve, "ready": ready, **counts, **more}


SURGE = [
    event(0, 1, "old", 2, 0, words="2 of the new one beside the old one"),
    event(40, 1, "old", 2, 1, 160),
    event(66, 2, "both", 2, 2, 104, words="both serve"),
    event(96, 3, "new", 2, 2, 125, failures=5, latency_ms=60.0, words="the new one serves"),
    event(126, 4, "new", 2, 2, 118, words="the old one goes"),
    event(150, 5, "new", 0, 2, 93, words="done"),
]


def summary(events: list[dict], traffic: list[dict] | None = None) -> list[tuple]:
    ((_model, items),) = read_events(events).items()
    found = phases(items, read_traffic(traffic) if traffic else counted(items))
    return [(p.step, p.begin - NOON, p.end - NOON, p.old, p.new, p.requests, p.failures, p.latency_ms) for p in found]


def test_phases_have_what_was_counted_in_them() -> None:
    assert summary(SURGE) == [
        (1, 0, 66, 2, 1, 264, 0, 40.0),
        (2, 66, 96, 2, 2, 125, 5, 60.0),
        (3, 96, 126, 2, 2, 118, 0, 40.0),
        (4, 126, 150, 2, 2, 93, 0, 40.0),
        (5, 150, 150, 0, 2, None, None, None),
    ]


def test_clients_know_better_than_counters() -> None:
    traffic = [{"at": NOON + second, "ok": 4, "failed": int(second == 97), "latency_ms": 30} for second in range(160)]
    found = summary(SURGE, traffic)
    assert [row[5] for row in found] == [264, 120, 121, 96, 40]
    assert [row[6] for row in found] == [0, 0, 1, 0, 0]
    # What clients met after the last event is not lost.
    assert found[-1][2] == 160


def test_what_nobody_counted_is_unknown() -> None:
    silent = [{**item, "requests": None} for item in SURGE]
    assert {row[5:] for row in summary(silent)} == {(None, None, None)}
    assert "Requests: not counted." in page("x", silent)


def test_one_event_is_a_report() -> None:
    text = page("x", SURGE[:1])
    assert "finch" in text
    assert "nan" not in text


def test_no_event_is_a_report() -> None:
    assert "no model had to change" in page("x", [])


def test_models_are_told_apart() -> None:
    text = page("x", [*SURGE, *({**item, "model": "wren"} for item in SURGE)], [{"at": NOON, "ok": 1, "failed": 9}])
    assert text.count("<svg") == 2
    # Whose requests they were nobody knows.
    assert "counted by clients" not in text


def test_order_of_events_does_not_matter() -> None:
    assert page("x", SURGE) == page("x", SURGE[:1] + SURGE[:0:-1])


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"at": "noon"}, "events[0].at: 'noon' is neither a time such as 2026-11-29T12:00:03Z nor seconds"),
        ({"at": None}, "events[0].at: missing."),
        ({"at": True}, "events[0].at: True is neither"),
        ({"model": None}, "events[0].model: missing."),
        ({"step": "one"}, "events[0].step: 'one' is not a number."),
        ({"serve": "canary"}, "events[0].serve: 'canary' is not one of old, both, new."),
        ({"ready": 2}, "events[0].ready: 2 is not {old: replicas, new: replicas}."),
        ({"ready": {"old": -1}}, "events[0].ready.old: -1 is not a number from 0 on."),
        ({"requests": float("nan")}, "events[0].requests: nan is not a number from 0 on."),
        ({"latency_ms": float("inf")}, "events[0].latency_ms: inf is not a number from 0 on."),
    ],
)
def test_bad_events_are_named(changed: dict, complaint: str) -> None:
    with pytest.raises(TimelineError, match=re.escape(complaint)):
        page("x", [{**SURGE[0], **changed}])
    with pytest.raises(TimelineError, match=re.escape("events[1]: 'x' is not a dict.")):
        page("x", [SURGE[0], "x"])


def test_bad_records_are_named() -> None:
    with pytest.raises(TimelineError, match=re.escape("traffic[1].ok: missing.")):
        page("x", SURGE, [{"at": 1, "ok": 1, "failed": 0}, {"at": 2, "failed": 0}])


@pytest.mark.parametrize("count", [0, 1, 160, 161, 4000])
def test_bars_lose_nothing(count: int) -> None:
    spans = [Span(at, at + 1, 4, int(at == count - 1), 40.0) for at in range(count)]
    drawn = bars(spans)
    assert len(drawn) <= 160
    assert (sum(bar.requests for bar in drawn), sum(bar.failures for bar in drawn)) == (4 * count, int(count > 0))
    assert mean_latency(drawn) == (pytest.approx(40.0) if count else None)


def test_latency_is_that_of_requests_with_an_answer() -> None:
    spans = [Span(0, 1, 10, 0, 10.0), Span(1, 2, 40, 10, 50.0), Span(2, 3, 7, 7, None)]
    assert mean_latency(spans) == pytest.approx(40.0)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0, "0.0 s"), (59.94, "59.9 s"), (60, "1 min 00 s"), (3599, "59 min 59 s"), (7380, "2 h 03 min")],
)
def test_durations(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected


class Tags(HTMLParser):
    """Collects the tags and attributes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _value in attrs}


def test_it_needs_nothing_from_elsewhere_and_runs_nothing() -> None:
    hostile = "<script src=//x></script><img onerror=x>"
    events = [{**item, "model": hostile, "words": hostile} for item in SURGE]
    found = Tags(page(hostile, events, notes=[hostile]))
    assert not {"script", "link", "img", "iframe", "object"} & found.tags
    assert not {name for name in found.attributes if name.startswith("on") or name in ("src", "href")}
    assert "url(" not in page("x", SURGE)


def test_pictures_are_well_formed() -> None:
    traffic = [{"at": NOON + second, "ok": 4, "failed": 1, "latency_ms": 30.5} for second in range(0, 150, 3)]
    for text in (page("x", SURGE), page("x", SURGE, traffic), page("x", SURGE[:1])):
        (picture,) = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
        root = ElementTree.fromstring(picture)
        width, height = map(float, root.attrib["viewBox"].split()[2:])
        for shape in root.iter("rect"):
            x, y, w, h = (float(shape.attrib[name]) for name in ("x", "y", "width", "height"))
            assert x >= 0
            assert x + w <= width
            assert y >= 0
            assert y + h <= height
            assert min(w, h) > 0


def test_golden(request: pytest.FixtureRequest) -> None:
    text = page("finch: sglang 0.5.23 to vllm 0.32.0", SURGE, notes=["Went on after the controller was restarted."])
    if request.config.getoption("--update-golden"):
        GOLDEN.write_text(text, encoding="utf-8")
        return
    assert text == GOLDEN.read_text(encoding="utf-8"), "see --update-golden"


def test_credentials_are_hidden() -> None:
    token = "hf_" + "aBcDeFgHiJ0123456789kLmN"
    text = report(
        {
            "title": "x",
            "events": [{**SURGE[0], "words": f"HF_TOKEN={token}"}],
            "traffic": [],
            "notes": [f"Authorization: Bearer {token}"],
        }
    )
    assert token not in text


def test_the_file_is_written_into_a_new_directory(tmp_path: Path) -> None:
    path = tmp_path / "reports" / "finch.html"
    write(str(path), "text")
    assert path.read_text() == "text"
