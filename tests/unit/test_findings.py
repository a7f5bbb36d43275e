from __future__ import annotations

import pytest
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.findings import Finding, did_you_mean, listing


@pytest.mark.parametrize(
    ("word", "allowed", "said"),
    [
        ("sglagn", ["sglang", "vllm"], "Did you mean 'sglang'? "),
        ("vlm", ["sglang", "vllm"], "Did you mean 'vllm'? "),
        ("tensorrt", ["sglang", "vllm"], ""),
        (7, ["sglang"], ""),
        ("x", [], ""),
    ],
)
def test_did_you_mean(word: str, allowed: list[str], said: str) -> None:
    assert did_you_mean(word, allowed) == said


def test_text_of_a_finding() -> None:
    assert str(Finding("rule", "variable", "problem.", "Remedy.")) == "variable: problem. Remedy."
    assert str(Finding("rule", "variable", "problem.", "Remedy.", overridable=True)) == (
        "variable: problem. Remedy. To go on regardless, add 'rule' to llm_d_overrides."
    )


def test_listing() -> None:
    assert listing([1, "a"]) == "1, a"
