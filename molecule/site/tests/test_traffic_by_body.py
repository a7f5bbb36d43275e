"""Routing by the name of the model in a request's body: GAIE's own router before the gateway.

It stays in place for the tests of test_uninstall.py, where a model goes, and then the router itself.
"""

from __future__ import annotations

import pytest
from ansible_collections.llm_d.multi_engine.molecule.site.tests.test_stand_ins import ADAPTER, ROBIN, SWIFT, answers
from ansible_collections.llm_d.multi_engine.molecule.site.tests.tools import PICKED, Traffic

HEADER = "X-Gateway-Base-Model-Name"
#: The model that answers a request without a header or a path, by the name in its body.
BY_NAME = {SWIFT: "swift", ROBIN: "robin"}


@pytest.fixture(scope="module")
def by_body(stand_ins, ansible):
    """What became of switching it on, while others ask on."""
    with Traffic(stand_ins.client, stand_ins.swift, stand_ins.robin) as requests:
        run = ansible("stand-ins", "site", options="--tags gaie,smoke_test", llm_d_body_routing=True)
    requests.unharmed()
    return run.ok(changed=True)


def asked(stand_ins, kube, model: str, **more) -> tuple:
    """Return the answer to a request without a path, and which models have counted one."""
    before = {name: sum(answers(kube, name).values()) for name in BY_NAME.values()}
    answer = stand_ins.client.complete(model, **more)
    after = {name: sum(answers(kube, name).values()) for name in BY_NAME.values()}
    return answer, [name for name in after if after[name] > before[name]]


def test_the_name_says_nothing_before(stand_ins, kube) -> None:
    answer, counted = asked(stand_ins, kube, ROBIN)
    # SGLang answers under any name.
    assert (answer.status, counted) == (200, ["swift"])


def test_the_smoke_test_asked_so(by_body) -> None:
    (shown,) = [result["msg"] for name, result in by_body.results if name.endswith("Show the answers")]
    assert [entry["model"] for entry in shown] == ["swift", "robin", "kestrel"]


@pytest.mark.parametrize("model", [*BY_NAME, ADAPTER])
@pytest.mark.parametrize("headers", [{}, {HEADER: "birds/nobody"}])
def test_the_name_leads_to_the_model(by_body, stand_ins, kube, model: str, headers: dict) -> None:
    answer, counted = asked(stand_ins, kube, model, headers=headers)
    assert answer.status == 200, answer
    assert answer.json["model"] == model
    assert answer.headers[PICKED] == "true"
    assert counted == [BY_NAME.get(model, "robin")]


def test_streams_pass(by_body, stand_ins) -> None:
    answer = stand_ins.client.complete(ROBIN, max_tokens=30, stream=True)
    assert answer.events[-1] == "[DONE]"
    assert answer.arrivals[0] < answer.arrivals[-1] / 2


def test_a_long_prompt_passes_whole(by_body, stand_ins) -> None:
    words = "one two three " * 60
    assert stand_ins.client.complete(ROBIN, prompt=words).json["usage"]["prompt_tokens"] == len(words)


@pytest.mark.parametrize("headers", [{}, {HEADER: ROBIN}])
def test_a_name_that_nobody_has_leads_to_the_default(by_body, stand_ins, kube, headers: dict) -> None:
    answer, counted = asked(stand_ins, kube, "birds/nobody", headers=headers)
    assert (answer.status, counted) == (200, ["swift"])


def test_what_is_no_object_is_refused(by_body, stand_ins) -> None:
    answer = stand_ins.client.ask("/v1/completions", ["model", ROBIN])
    assert answer.status == 400, answer


def test_paths_and_requests_without_a_body_go_their_way(by_body, stand_ins, kube) -> None:
    answer, counted = asked(stand_ins, kube, ROBIN, path="/robin")
    assert (answer.status, counted) == (200, ["robin"])
    assert [entry["id"] for entry in stand_ins.client.ask("/robin/v1/models").json["data"]] == [ROBIN, ADAPTER]
    assert [entry["id"] for entry in stand_ins.client.ask("/v1/models").json["data"]] == [SWIFT]


def test_a_second_run_would_change_nothing(by_body, ansible) -> None:
    run = ansible("stand-ins", "status", llm_d_body_routing=True).ok(changed=False)
    (status,) = [result["status"] for _name, result in run.results if "status" in result]
    assert (status["ok"], status["drift"]) == (True, [])
