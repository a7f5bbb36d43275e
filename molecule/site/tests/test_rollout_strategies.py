"""A model is changed by each of the strategies while requests come in, and goes back by itself from what is worse."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from ansible_collections.llm_d.multi_engine.molecule.site.tests.test_rollouts_interrupted import (
    VLLM,
    engines,
    models,
    pool,
)
from ansible_collections.llm_d.multi_engine.molecule.site.tests.tools import eventually
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
    ansible, kube, load, on_sglang, tmp_path
) -> None:
    with load as requests:
        slow = models(**VLLM, rollout=CANARY, env={"STAND_IN_TOKEN_SECONDS": 0.12})
        message = ansible("stand-ins", "models", llm_d_models=slow, rollout_report_dir=str(tmp_path / "slow")).failed()
        assert "Model swift stays on sglang" in message
        assert "on the old one, allowed is 2 times as much" in message
        assert (engines(kube), pool(kube)) == SGLANG_ONLY
        assert "worse" in written(tmp_path / "slow")

        good = {"llm_d_models": models(**VLLM, rollout=CANARY), "rollout_report_dir": str(tmp_path / "good")}
        ansible("stand-ins", "models", **good).ok(changed=True)
        assert (engines(kube), pool(kube)) == ({"vllm": 2}, "vllm")
        assert "ms on the old one" in written(tmp_path / "good")
    requests.unharmed(100)


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
