"""A real SGLang gives way to another engine while requests come in. It is the last test: nothing brings it back."""

from __future__ import annotations

import copy

import yaml
from ansible_collections.llm_d.multi_engine.molecule.site.tests.tools import ROOT, Traffic

MODEL = "tiny-qwen3"
LONG = {"max_tokens": 400, "stream": True, "ignore_eos": True}


class LongTraffic(Traffic):
    """Requests for as long as a whole change takes on a busy machine."""

    SECONDS = 300


def on_a_stand_in() -> list[dict]:
    """Return the models of the first stack, on vLLM's stand-in."""
    (tiny,) = yaml.safe_load((ROOT / "inventories/local/group_vars/all/main.yml").read_text())["llm_d_models"]
    image = "localhost/llm-d-multi-engine/stand-in-vllm:1"
    return [
        {
            **copy.deepcopy(tiny),
            "image": image,
            "engine_version": "0.32.0",
            "env": {"STAND_IN_TOKEN_SECONDS": 0.02},
            "rollout": {"hold_seconds": 3},
        }
    ]


def test_it_is_replaced_without_a_failed_request(ansible, kube, gateway) -> None:
    wanted = on_a_stand_in()
    # The variable that a user changes.
    change = {"inference_engine": "vllm", "llm_d_models": wanted}
    with LongTraffic(gateway, {"model": MODEL}, {"model": MODEL, **LONG}) as requests:
        run = ansible("local", "models", **change).ok(changed=True)
    requests.unharmed()
    (change_of_tiny,) = next(
        result["results"] for name, result in run.results if name.endswith("One model after the other")
    )
    assert change_of_tiny["strategy"] == "surge"
    assert change_of_tiny["words"][0].startswith("Model tiny: sglang (docker.io/lmsysorg/sglang:")
    (pod,) = kube.pods("llm-d", model="tiny")
    assert pod["metadata"]["labels"]["llm-d.ai/engine-type"] == "vllm"
    ansible("local", "verify", **change).ok()
    ansible("local", "models", **change).ok(changed=False)
