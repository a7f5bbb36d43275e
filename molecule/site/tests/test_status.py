"""Two stacks that work: all is ready, and as the inventory wants it."""

from __future__ import annotations

import pytest
from ansible_collections.llm_d.multi_engine.molecule.site.tests.tools import Run
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.status_table import table


def seen(run: Run) -> dict:
    """What the run says of the stack."""
    (status,) = [result["status"] for _name, result in run.results if "status" in result]
    return status


@pytest.mark.parametrize(
    ("stack", "models"),
    [
        ("local", ["tiny sglang 0.5.23 sglang 0.5.23 (1) 1/1"]),
        (
            "stand-ins",
            [
                "swift sglang 0.5.23 sglang 0.5.23 (2) 2/2",
                "robin vllm 0.32.0 vllm 0.32.0 (2) 2/2",
                "kestrel falcon 1 falcon 1 (1) 1/1",
            ],
        ),
    ],
)
def test_a_healthy_stack(ansible, stand_ins, stack: str, models: list[str]) -> None:
    run = ansible(stack, "status").ok(changed=False)
    status = seen(run)
    assert (status["ok"], status["failing"]) == (True, [])
    assert (status["drift"], status["others"], status["unknown"]) == ([], [], [])
    assert status["gateway"]["addresses"]
    # How wide a column is depends on what else is in it.
    lines = [" ".join(line.split()) for line in table(status).splitlines()]
    assert lines[-1] == "Ready, and as wanted."
    for model in models:
        assert any(line.startswith(model) and line.endswith("yes") for line in lines), lines


def test_other_objects_than_those_of_the_inventory(ansible) -> None:
    """What a change of the inventory would mean is seen before it is made."""
    run = ansible("local", "status", inference_engine="vllm", llm_d_overrides=["engine-version"])
    assert run.failed().startswith("Stack llm-d: not ready: tiny; not as the inventory wants it: ")
    (model,) = seen(run)["models"]
    assert model["wanted"]["engine"] == "vllm"
    assert [(group["engine"], group["version"], group["as_wanted"]) for group in model["running"]] == [
        ("sglang", "0.5.23", False)
    ]
    assert run.message.endswith("another engine or version runs: tiny.")
