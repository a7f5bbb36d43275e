"""The parts of the benchmarks that need no cluster and no clock."""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
from ansible_collections.llm_d.multi_engine.benchmarks.figures import (
    Figure,
    chosen,
    growth,
    number,
    ratio,
    requests,
    server_seconds,
    table,
)

METRICS = """
# HELP apiserver_request_total [STABLE] Counter of apiserver requests
# TYPE apiserver_request_total counter
apiserver_request_total{code="200",resource="deployments",scope="resource",subresource="",verb="APPLY",version="v1"} 3
apiserver_request_total{code="201",resource="deployments",scope="resource",subresource="",verb="APPLY",version="v1"} 2
apiserver_request_total{code="200",resource="deployments",scope="namespace",subresource="",verb="LIST"} 1.2e+01
apiserver_request_total{code="200",resource="",scope="",subresource="/apis",verb="GET"} 4
apiserver_request_total{code="200",resource="",scope="",subresource="/readyz",verb="GET"} 100
apiserver_request_total{code="200",resource="deployments",scope="resource",subresource="",verb="PUT"} 100
apiserver_request_total{code="200",resource="deployments",scope="resource",subresource="status",verb="PATCH"} 100
apiserver_request_total{code="200",resource="leases",scope="resource",subresource="",verb="GET"} 100
apiserver_request_total{code="200",resource="secrets",scope="cluster",subresource="",verb="WATCH"} 100
apiserver_request_total{code="200",resource="a\\"}b",scope="resource",subresource="",verb="DELETE"} 1
apiserver_request_terminations_total{resource="secrets",verb="GET"} 100
"""


def figure(tool: str, seconds: float, count: int = 10) -> Figure:
    return Figure(tool, "gaie", "first", count, seconds, seconds / 2)


def test_requests_of_controllers_are_not_counted() -> None:
    assert requests(METRICS) == Counter(LIST=12, APPLY=5, GET=4, DELETE=1)
    assert requests("") == Counter()
    assert requests(METRICS.replace(" 3\n", " 7\n")) - requests(METRICS) == Counter(APPLY=4)


def test_processor_time_of_the_api_server() -> None:
    assert server_seconds("# TYPE process_cpu_seconds_total counter\nprocess_cpu_seconds_total 12.5\n") == 12.5
    assert server_seconds(METRICS) == 0


def test_ratio() -> None:
    figures = [figure("ours", 2), figure("helm", 60), figure("kubectl diff", 3), figure("kubectl apply", 7)]
    assert ratio(figures, ["helm"], ["ours"]) == 30
    assert ratio(figures, ["kubectl diff", "kubectl apply"], ["ours"]) == 5
    assert ratio(figures, ["helm"], ["other"]) is None
    assert ratio([*figures, figure("nothing", 0)], ["helm"], ["nothing"]) is None


def test_growth_is_that_of_the_last_two() -> None:
    figures = [figure("ours", 3.0, 100), figure("ours", 1.5, 1), figure("ours", 2.1, 10)]
    assert growth(figures) == pytest.approx(10)
    assert growth(figures[:1]) is None
    assert growth([]) is None


def test_chosen() -> None:
    figures = [figure("ours", 1), figure("ours", 1, 100), figure("helm", 1)]
    assert chosen(figures, tool="ours", count=100) == [figures[1]]
    assert chosen(figures) == figures


def test_table() -> None:
    rows = [["ours", number(1.26), number(None)], ["longer", number(12.0, 0, " s"), "x"]]
    assert table(["", "first", "b"], rows) == "           first   b\n  ours       1.3   -\n  longer    12 s   x"
    assert table(["", "first"], []) == ""


@pytest.fixture
def apply(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Give the program itself, which finds its neighbours as Python starts it."""
    folder = Path(__file__).resolve().parents[2] / "benchmarks"
    monkeypatch.syspath_prepend(str(folder))
    spec = importlib.util.spec_from_file_location("benchmark_of_apply", folder / "apply.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    # Its dataclass asks for it.
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def test_one_model_changes_in_the_last_phase(apply: ModuleType) -> None:
    first, same, last = (apply.inventory(3, phase) for phase in apply.PHASES)
    assert first == same
    assert [one == other for one, other in zip(first, last, strict=True)] == [False, True, True]
    assert apply.chart_values(first[0]) != apply.chart_values(last[0])
    assert apply.chart_values(first[1]) == apply.chart_values(last[1])


def test_the_report_has_every_measured_ratio(apply: ModuleType) -> None:
    seconds = {"ours": 2, "ours, check": 1, "helm": 60, "kubectl 1.37 diff": 3, "kubectl 1.37 apply": 7}
    figures = [
        apply.Figure(tool, scope, phase, count, spent * count / 10, spent * count / 20, Counter(GET=spent), spent / 2)
        for count in (10, 100)
        for scope in ("gaie", "whole")
        for phase in apply.PHASES
        for tool, spent in seconds.items()
        if (tool, scope) != ("helm", "whole")
    ]
    said = apply.calls({"plays": [{"tasks": [{"hosts": {"a": {"calls": {"list": 2}}, "b": {"changed": True}}}] * 2}]})
    floor = apply.Seconds(0.5)
    floor.processor = 0.4
    lines = apply.report(figures, {("gaie", "first"): said}, {"no task": floor}).splitlines()
    rows = [" ".join(line.split()) for line in lines]
    for expected in (
        "helm / ours 30.0 (30.0)",
        "kubectl 1.37 apply / ours 3.5 (3.5)",
        "kubectl 1.37 diff + kubectl 1.37 apply / ours 5.0 (5.0)",
        "kubectl 1.37 diff / ours, check 3.0 (3.0)",
    ):
        assert f"100 models, {expected} {' '.join(expected.split()[-2:] * 2)}" in rows
    assert lines[0] == "floor: ansible-playbook with no task: 0.50 (0.40) s"
    assert "100 models, helm 30.0 30.0 30.0" in rows
    assert "helm 6000 (3000) 6000 (3000) 6000 (3000)" in rows
    assert "helm, first 60 0 0 0 0 0 0 60" in rows
    assert "  ours, first, calls of the modules: {'list': 4}" in lines


def test_the_report_of_an_interrupted_run(apply: ModuleType) -> None:
    assert apply.report([], {}) == ""
    rows = apply.report([apply.Figure("ours", "whole", "first", 1, 2.0, 1.0)], {}).splitlines()
    assert "  1 models, ours   2.0 (1.0)           -            -" in rows
