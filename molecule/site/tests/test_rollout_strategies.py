"""A model is changed by each of the strategies while requests come in, and goes back by itself from what is worse."""

from __future__ import annotations

import json
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from ansible_collections.llm_d.multi_engine.molecule.site.tests.test_rollouts_interrupted import (
    VLLM,
    engines,
    models,
    pool,
)
from ansible_collections.llm_d.multi_engine.molecule.site.tests.tools import ROOT, Answer, Run, eventually
from ansible_collections.llm_d.multi_engine.plugins.module_utils import judgement
from ansible_collections.llm_d.multi_engine.tests.load.load import Load, told

#: Some of each kind, for a canary is judged by their number.
TARGETS = [{"model": "birds/swift", "stream": stream} for stream in (False, True)] * 4
CANARY = {
    "strategy": "canary",
    "hold_seconds": 3,
    "steps": [50],
    "limits": {"max_error_ratio": 0.01, "max_latency_ratio": 2.0, "min_requests": 6},
}
SGLANG_ONLY = ({"sglang": 2}, "sglang")
MODEL_HEADER = "X-Gateway-Base-Model-Name"
TESTERS = {"header": "X-Canary", "value": "yes", "hold_seconds": 6}
#: The model takes all requests that no other one does, and another one is found by its header.
TESTER = {"X-Canary": "yes", MODEL_HEADER: "birds/swift"}
PICKER = yaml.safe_load((ROOT / "roles/inference_engine/vars/releases/gaie-1.5.yml").read_text())["gaie-1.5"][
    "endpoint_picker"
]


@pytest.fixture
def load(stand_ins) -> Load:
    """Requests, from when the test begins with them."""
    return Load(f"http://{stand_ins.client.address}", TARGETS)


@pytest.fixture
def on_sglang(stand_ins, ansible, kube) -> None:
    """The model as it was installed."""
    if (engines(kube), pool(kube)) != SGLANG_ONLY:
        ansible("stand-ins", "models", llm_d_models=models()).ok()
    assert (engines(kube), pool(kube)) == SGLANG_ONLY


def written(folder: Path) -> str:
    """Return the only report in ``folder``."""
    (path,) = folder.glob("*.html")
    return path.read_text()


def picked(kube, pool: str) -> int:
    """Return how many requests the picker of ``pool`` has counted."""
    labels = f"app.kubernetes.io/name={pool}-epp"
    (pod,) = json.loads(kube("get", "pods", "-n", "stand-ins", "-l", labels, "-o", "json"))["items"]
    page = kube.through(pod, PICKER["traffic"]["path"], PICKER["ports"]["metrics"])
    return judgement.reading(page, PICKER["traffic"])["requests"] or 0


class Somebody:
    """Who sends the header of testers.

    :ivar elsewhere: how many requests with it the model's own picker got.
    """

    def __init__(self, client, kube) -> None:
        self._client, self._kube = client, kube
        self.elsewhere = 0

    def ask(self, headers: dict[str, str] | None = None, model: str = "birds/swift", **more: object) -> Answer:
        answer = self._client.complete(model, headers=TESTER if headers is None else headers, **more)
        assert answer.status == 200, answer
        return answer

    def waits(self, play: Future[Run]) -> None:
        """Ask until the new engine answers, which nobody else reaches yet."""
        while not is_vllm(self.ask()):
            self.elsewhere += 1
            assert not play.done(), play.result().output[-3000:]
            time.sleep(0.2)
        assert pool(self._kube) == "sglang"

    def tests(self) -> list[Answer]:
        """Ask many times, and see which picker was asked; return the answers."""
        with ThreadPoolExecutor(4) as threads:
            # Without the model's header it is what anybody sends, who does not reach the new engine yet.
            others = [threads.submit(self.ask, {"X-Canary": "yes"}) for _number in range(4)]
            assert {is_vllm(answer.result()) for answer in others} == {False}
            self.elsewhere += len(others)
            before = {name: picked(self._kube, name) for name in ("swift-canary", "robin")}
            asked = [threads.submit(self.ask, stream=number % 2 == 0) for number in range(20)]
            # And to another model it is of that one.
            headers = {"X-Canary": "yes", MODEL_HEADER: "birds/robin"}
            robin = [threads.submit(self.ask, headers, "birds/robin") for _number in range(3)]
        assert {answer.result().json["model"] for answer in robin} == {"birds/robin"}
        after = {name: picked(self._kube, name) for name in before}
        assert after == {"swift-canary": before["swift-canary"] + 20, "robin": before["robin"] + 3}
        return [answer.result() for answer in asked]


def is_vllm(answer: Answer) -> bool:
    """Whether ``answer`` is one of vLLM, by the form of its identity."""
    text = answer.events[0] if answer.headers["content-type"].startswith("text/event-stream") else answer.body
    return json.loads(text)["id"].startswith("cmpl-")


def test_a_canary_that_fails_requests_is_taken_back(ansible, kube, load, on_sglang, tmp_path) -> None:
    # It gives the completion that it is tried with, and a few more.
    unfit = models(**VLLM, rollout=CANARY, env={"STAND_IN_FAIL_AFTER": 3})
    with load as requests:
        message = ansible("stand-ins", "models", llm_d_models=unfit, rollout_report_dir=str(tmp_path)).failed()
        back = time.time()
        assert "Model swift stays on sglang" in message
        assert "serves and does not answer as it should any more: POST /v1/completions is answered 500" in message
        assert (engines(kube), pool(kube)) == SGLANG_ONLY
    # What it was sent in its one hold is lost to it, and nothing else.
    failures = requests.failures()
    assert failures
    assert len(failures) < len(requests.records()) / 2
    others = [record for record in failures if record.at > back or not record.why.startswith("Wrong: 500")]
    assert not others, told(others, requests.began)


def test_a_canary_that_is_slower_goes_back_and_one_that_is_not_takes_over(
    ansible, kube, load, on_sglang, stand_ins, tmp_path
) -> None:
    before = picked(kube, "swift")
    tester = Somebody(stand_ins.client, kube)
    with load as requests, ThreadPoolExecutor(2) as threads:
        slow = models(**VLLM, rollout=CANARY, env={"STAND_IN_TOKEN_SECONDS": 0.12})
        message = ansible("stand-ins", "models", llm_d_models=slow, rollout_report_dir=str(tmp_path / "slow")).failed()
        assert "Model swift stays on sglang" in message
        assert "on the old one, allowed is 2 times as much" in message
        assert (engines(kube), pool(kube)) == SGLANG_ONLY
        assert "worse" in written(tmp_path / "slow")

        wanted = models(**VLLM, rollout={**CANARY, "testers": TESTERS})
        good = {"llm_d_models": wanted, "rollout_report_dir": str(tmp_path / "good"), "rollout_timeout": 60}
        play = threads.submit(ansible, "stand-ins", "models", **good)
        tester.waits(play)
        # It takes 3 s, while others come. One that outlives its step would make the next one look slower.
        long = threads.submit(tester.ask, stream=True, max_tokens=100)
        assert all(is_vllm(answer) for answer in tester.tests())
        told = play.result().ok(changed=True).output
        assert "then requests with X-Canary: yes and X-Gateway-Base-Model-Name: birds/swift go to it alone" in told
        assert (engines(kube), pool(kube)) == ({"vllm": 2}, "vllm")
        assert "ms on the old one" in written(tmp_path / "good")
        kinds = "httproutes,inferencepools,destinationrules,deployments,services,configmaps,serviceaccounts,roles"
        left = kube("get", "-n", "stand-ins", kinds, "-o", "name").split()
        assert not [name for name in left if name.partition("/")[2].startswith(("swift-canary", "swift-try"))]
        assert long.result().events[-1] == "[DONE]"
        assert len(long.result().events) > 100
    requests.unharmed(100)
    # All that testers did not send, and nothing of what they did.
    assert picked(kube, "swift") == before + len(requests.records()) + tester.elsewhere


def test_in_place_and_then_recreated(ansible, kube, load, stand_ins) -> None:
    # After the test before: the same engine with another argument, which goes to the other track.
    with load as requests:
        ansible("stand-ins", "models", llm_d_models=models("in_place", **VLLM, context_length=2048)).ok(changed=True)
        assert (engines(kube), pool(kube)) == ({"vllm": 2}, "vllm")
    requests.unharmed(100)

    # This interrupts the model, and is not done unless somebody asks for it.
    recreated = ansible("stand-ins", "models", llm_d_models=models("recreate")).ok(changed=True)
    words = [
        item["words"] for _name, result in recreated.results for item in result.get("results", []) if "words" in item
    ]
    assert "strategy recreate" in words[0][0]
    assert (engines(kube), pool(kube)) == SGLANG_ONLY
    eventually(lambda: stand_ins.client.complete(**stand_ins.swift).status == 200)
