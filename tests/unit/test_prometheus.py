"""Pages of metrics, selectors of their samples, histograms, and what Prometheus answers."""

from __future__ import annotations

import json
import math
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest
from ansible_collections.llm_d.multi_engine.plugins.module_utils.prometheus import (
    QueryError,
    SelectorError,
    histogram,
    quantile,
    queried,
    samples,
    selector,
    total,
)
from ansible_collections.llm_d.multi_engine.plugins.module_utils.prometheus_query import ask

PAGE = r"""
# HELP vllm:request_success_total Count of successfully processed requests.
# TYPE vllm:request_success_total counter
vllm:request_success_total{engine="0",finished_reason="stop",model_name="a"} 7.0
vllm:request_success_total{engine="0",finished_reason="length",model_name="a"} 3 1795953600000
vllm:request_success_total{engine="0",finished_reason="abort",model_name="a"} 2.0
vllm:request_success_total{engine="1",finished_reason="error",model_name="say \"a}\", \\ or\nb"} 1e0
plain_total 4
not_a_number NaN
endless +Inf
this is no sample
broken{label="x} 3
vllm:e2e_bucket{engine="0",le="0.5"} 4
vllm:e2e_bucket{engine="0",le="1"} 8
vllm:e2e_bucket{engine="0",le="+Inf"} 9
vllm:e2e_bucket{engine="1",le="0.5"} 1
vllm:e2e_bucket{engine="1",le="1.0"} 1
vllm:e2e_bucket{engine="1",le="+Inf"} 1
vllm:e2e_sum{engine="0"} 6.5
vllm:e2e_sum{engine="1"} 0.25
vllm:e2e_count{engine="0"} 9
vllm:e2e_count{engine="1"} 1
vllm:e2e_created{engine="0"} 1.7e9
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("vllm:request_success_total", 13),
        ('vllm:request_success_total{finished_reason="stop"}', 7),
        ('vllm:request_success_total{finished_reason=~"abort|error"}', 3),
        # A whole expression, as in PromQL.
        ('vllm:request_success_total{finished_reason=~"ab"}', None),
        ('vllm:request_success_total{ finished_reason = "abort" , engine="0" }', 2),
        (r'vllm:request_success_total{model_name="say \"a}\", \\ or\nb"}', 1),
        # A label that is not there is an empty one.
        ('plain_total{engine=""}', 4),
        ("plain_total", 4),
        ("plain", None),
        ("not_a_number", None),
        ("endless", None),
    ],
)
def test_totals(text: str, expected: float | None) -> None:
    assert total(samples(PAGE), selector(text)) == expected


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "'' is not a metric such as name or name{label=\"value\"}"),
        ("1x", "'1x' is not a metric"),
        ("a b", "'a b' is not a metric"),
        ("rate(a[5m])", "'rate(a[5m])' is not a metric"),
        ("a{b}", "'b' in 'a{b}' is not label=\"value\" or label=~\"expression\""),
        ('a{b!="c"}', "'b!=\"c\"' in "),
        ('a{b="c" d="e"}', "is not label="),
        ('a{b=~"("}', "'(' in 'a{b=~\"(\"}' is not a regular expression"),
    ],
)
def test_bad_selectors(text: str, complaint: str) -> None:
    with pytest.raises(SelectorError, match=re.escape(complaint)):
        selector(text)


def test_histograms_of_several_engines_are_one() -> None:
    found = histogram(samples(PAGE), selector("vllm:e2e"))
    assert found == {"sum": 6.75, "count": 10, "buckets": {"0.5": 5, "1": 9, "+Inf": 10}}
    assert histogram(samples(PAGE), selector('vllm:e2e{engine="1"}')) == {
        "sum": 0.25,
        "count": 1,
        "buckets": {"0.5": 1, "1": 1, "+Inf": 1},
    }
    assert histogram(samples(PAGE), selector("plain_total")) is None


@pytest.mark.parametrize(
    ("buckets", "share", "expected"),
    [
        ({"1": 50, "2": 100, "+Inf": 100}, 0.5, 1.0),
        ({"1": 50, "2": 100, "+Inf": 100}, 0.75, 1.5),
        ({"1": 0, "2": 100, "+Inf": 100}, 0.95, 1.95),
        ({"10": 100, "2": 40, "+Inf": 100}, 0.2, 1.0),
        # Above the last bound nobody knows how far.
        ({"1": 50, "+Inf": 100}, 0.95, 1.0),
        ({"1": 0, "+Inf": 0}, 0.95, None),
        ({"1": 3}, 0.95, None),
        ({"+Inf": 3}, 0.95, None),
        ({}, 0.95, None),
    ],
)
def test_quantiles(buckets: dict[str, float], share: float, expected: float | None) -> None:
    assert quantile(buckets, share) == (None if expected is None else pytest.approx(expected))


def answer(kind: str, result: Any) -> dict[str, Any]:
    return {"status": "success", "data": {"resultType": kind, "result": result}}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (answer("scalar", [1.0, "0.5"]), 0.5),
        (answer("vector", [{"metric": {}, "value": [1.0, "0.25"]}]), 0.25),
        (answer("vector", [{"value": [1.0, "1"]}, {"value": [1.0, "3"]}, {"value": [1.0, "NaN"]}]), 3.0),
        (answer("vector", [{"value": [1.0, "+Inf"]}]), math.inf),
    ],
)
def test_answers_of_prometheus(given: Any, expected: float) -> None:
    assert queried(given) == expected


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (answer("vector", []), "nothing matches it, or nothing was counted yet"),
        (answer("vector", [{"value": [1.0, "NaN"]}]), "nothing matches it"),
        (answer("matrix", []), "the query gives a matrix; write one that gives a single number"),
        ({"status": "error", "error": "parse error: unexpected end"}, "refused the query: parse error: unexpected end"),
        ("<html>", "it says no reason"),
        (None, "it says no reason"),
    ],
)
def test_answers_without_a_number(given: Any, complaint: str) -> None:
    with pytest.raises(QueryError, match=re.escape(complaint)):
        queried(given)


class Handler(BaseHTTPRequestHandler):
    """Prometheus, as far as a query goes."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        (query,) = parse_qs(url.query).get("query", [""])
        self.asked.append(f"{url.path} {query} {self.headers.get('Authorization', '')}")
        status, body = {
            "up": (200, json.dumps(answer("scalar", [1.0, "0.5"]))),
            "sum(": (400, json.dumps({"status": "error", "error": "parse error"})),
            "login": (401, "no"),
        }.get(query, (200, "<html>"))
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Handler) as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.01,))
        thread.start()
        yield f"127.0.0.1:{made.server_port}"
        made.shutdown()
        thread.join()


def test_a_query_is_asked(server: str) -> None:
    assert ask(f"http://{server}/prometheus/", "up") == 0.5
    assert Handler.asked[-1] == "/prometheus/api/v1/query up "
    assert ask(f"http://me:secret@{server}", "up") == 0.5
    assert Handler.asked[-1].startswith("/api/v1/query up Basic ")


@pytest.mark.parametrize(
    ("query", "complaint"),
    [
        ("sum(", "Prometheus refused the query: parse error"),
        ("login", "http://{server} answers 401"),
        ("other", "http://{server} does not answer as Prometheus does"),
    ],
)
def test_a_query_without_a_number(server: str, query: str, complaint: str) -> None:
    with pytest.raises(QueryError) as caught:
        ask(f"http://me:secret@{server}", query)
    assert str(caught.value) == complaint.format(server=server)


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("prometheus:9090", "prometheus:9090 is not an address such as http://"),
        ("file:///etc/passwd", "file:///etc/passwd is not an address"),
        ("http://me:secret@127.0.0.1:1", "http://127.0.0.1:1 does not answer: "),
    ],
)
def test_a_prometheus_that_is_not_there(url: str, complaint: str) -> None:
    with pytest.raises(QueryError) as caught:
        ask(url, "up")
    assert str(caught.value).startswith(complaint)
