"""What serves is changed while requests come in: those who ask do not notice, nor when the new one is not fit."""

from __future__ import annotations

import copy
import re

import pytest
import yaml
from ansible_collections.llm_d.multi_engine.molecule.site.tests.tools import ROOT, Traffic

VARIABLES = yaml.safe_load((ROOT / "molecule/site/stand_ins/group_vars/all.yml").read_text())
SWIFT, ROBIN, *OTHERS = VARIABLES["llm_d_models"]
IMAGE = "localhost/llm-d-multi-engine/stand-in-{}:1"
# SGLang serves no adapters on a CPU.
SGLANG = {"engine": "sglang", "engine_version": "0.5.23", "image": IMAGE.format("sglang"), "lora_adapters": []}
HOLD = {"hold_seconds": 3}


class LongTraffic(Traffic):
    """Requests for as long as a whole change takes on a busy machine."""

    SECONDS = 400


@pytest.fixture
def traffic(stand_ins) -> LongTraffic:
    # Some outlive the change of whom they were sent to.
    long = {"max_tokens": 300, "stream": True}
    return LongTraffic(
        stand_ins.client,
        stand_ins.swift,
        stand_ins.robin,
        {**stand_ins.swift, "max_tokens": 64},
        {**stand_ins.robin, "max_tokens": 64},
        *({**target, **long} for target in (stand_ins.swift, stand_ins.robin)),
    )


def models(**robin: object) -> list[dict]:
    """Return the stack's models: one with other arguments, the other with what is given."""
    swift = {**copy.deepcopy(SWIFT), "context_length": 2048, "rollout": HOLD}
    return [swift, {**copy.deepcopy(ROBIN), "rollout": HOLD, **robin}, *OTHERS]


def serving(kube) -> dict[str, list[str]]:
    """Return by model the workloads of its ready pods, which have to be all that there are."""
    found: dict[str, list[str]] = {}
    for model in ("swift", "robin"):
        pods = kube.pods("stand-ins", model=model)
        assert all(pod["status"]["containerStatuses"][0]["ready"] for pod in pods)
        found[model] = [pod["metadata"]["name"].rsplit("-", 2)[0] for pod in pods]
    return found


def diffs(run) -> set[str]:
    """Return what a run shows differences of."""
    results = [one for _name, result in run.results for one in (result, *result.get("results", []))]
    found = [entry for one in results if isinstance(one.get("diff"), list) for entry in one["diff"]]
    return {entry["after_header"] for entry in found if "after_header" in entry}


def past(run, model: str) -> dict:
    """Return what the status says of what served ``model`` before."""
    (status,) = [result["status"] for _name, result in run.results if "status" in result]
    return next(entry["history"] for entry in status["models"] if entry["name"] == model)


BEFORE = {"swift": ["swift-sglang"] * 2, "robin": ["robin-vllm"] * 2}
AFTER = {"swift": ["swift-sglang-canary"] * 2, "robin": ["robin-sglang"] * 2}


def test_another_engine_and_other_arguments_and_back(ansible, kube, traffic, tmp_path) -> None:
    assert serving(kube) == BEFORE
    wanted = models(**SGLANG)
    with traffic as requests:
        shown = ansible("stand-ins", "models", options="--check --diff", llm_d_models=wanted).ok(changed=True)
        assert {"Model robin", "Deployment stand-ins/robin-sglang", "InferencePool stand-ins/robin"} <= diffs(shown)
        plans = [result for name, result in shown.results if name.endswith("One model after the other")]
        words = "\n".join(line for result in plans[0]["results"] for line in result["words"])
        assert (
            "Model robin: vllm (localhost/llm-d-multi-engine/stand-in-vllm:1) -> sglang 0.5.23, strategy surge" in words
        )
        assert serving(kube) == BEFORE

        ansible("stand-ins", "models", llm_d_models=wanted).ok(changed=True)
        assert serving(kube) == AFTER
        ansible("stand-ins", "models", llm_d_models=wanted).ok(changed=False)
        ansible("stand-ins", "verify", llm_d_models=wanted).ok()
        ansible("stand-ins", "status", llm_d_models=wanted).ok()

        # One that is never ready, of the engine before.
        unfit = models(image="localhost/llm-d-multi-engine/nothing:1")
        message = ansible("stand-ins", "models", llm_d_models=unfit, rollout_timeout=5).failed()
        assert "Model robin stays on sglang (localhost/llm-d-multi-engine/stand-in-sglang:1)" in message
        assert "Deployment stand-ins/robin-vllm: 0 of 2 pods are ready" in message
        assert serving(kube) == AFTER
        # Alone, roles take nothing away that serves.
        alone = ansible("stand-ins", "models", options="--tags model_service", llm_d_models=unfit).failed()
        assert "model robin is served by robin-sglang, and the inventory asks for another engine" in alone
        other = models(**SGLANG, context_length=512)
        alone = ansible("stand-ins", "models", options="--tags model_service", llm_d_models=other).failed()
        assert "model robin is served by robin-sglang, and the inventory asks for other pods" in alone
        assert serving(kube) == AFTER

        # Back to what served before, which needs no inventory.
        reason = past(ansible("stand-ins", "status", llm_d_models=wanted).ok(), "robin")["failure"]["reason"]
        assert "Deployment stand-ins/robin-vllm: 0 of 2 pods are ready" in reason
        assert "Several models can go back" in ansible("stand-ins", "rollback").failed()
        back = {"rollback_model": "robin", "llm_d_models": ["broken"]}
        ansible("stand-ins", "rollback", options="--check", **back).ok(changed=True)
        assert serving(kube) == AFTER
        ansible("stand-ins", "rollback", rollout_report_dir=str(tmp_path), **back).ok(changed=True)
        (timeline,) = tmp_path.glob("birds-*.html")
        # With what the picker has counted.
        (count,) = re.findall(r"<dt>Requests</dt><dd>(\d+)</dd>", timeline.read_text())
        assert int(count) > 5
        assert "<h2>robin</h2>" in timeline.read_text()
        assert serving(kube) == {**AFTER, "robin": BEFORE["robin"]}
        after = ansible("stand-ins", "status", llm_d_models=wanted)
        assert "another engine or version runs: robin" in after.failed()
        assert past(after, "robin")["revisions"][-1]["back_from"]["engine"] == "sglang"

        ansible("stand-ins", "models").ok(changed=True)
        assert serving(kube) == BEFORE
    requests.unharmed()
    ansible("stand-ins", "site").ok(changed=False)
