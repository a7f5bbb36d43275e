from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.compatibility import judge
from ansible_collections.llm_d.multi_engine.tests.unit.shipped import catalogue

RULE = {
    "name": "rule",
    "when": {"engine": "sglang", "cuda": ">=13", "topology": ["aggregated", "disaggregated"]},
    "needs": {"driver": ">=580", "accelerator": "nvidia"},
    "reason": "because",
    "remedy": "Do something else.",
    "source": "https://example.org",
}
FACTS = {"engine": "sglang", "cuda": 13, "topology": "aggregated", "driver": "580.65.06", "accelerator": "nvidia"}


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({}, None),
        ({"driver": "570.124.06"}, "driver is 570.124.06, needed is >=580: because (https://example.org)."),
        (
            {"driver": "570.1", "accelerator": "cpu"},
            "driver is 570.1, needed is >=580; accelerator is cpu, needed is nvidia: because (https://example.org).",
        ),
        # Unknown facts refuse nothing.
        ({"driver": None}, None),
        # What cannot be compared is not what is needed.
        ({"driver": "open"}, "driver is open, needed is >=580: because (https://example.org)."),
        # The rule does not apply.
        ({"driver": "570.1", "engine": "vllm"}, None),
        ({"driver": "570.1", "cuda": 12}, None),
        ({"driver": "570.1", "cuda": None}, None),
        ({"driver": "570.1", "topology": "other"}, None),
    ],
)
def test_judge(changed: dict[str, Any], problem: str | None) -> None:
    found = judge([RULE], {**FACTS, **changed}, "somewhere")
    assert [finding.problem for finding in found] == ([problem] if problem else [])
    for finding in found:
        assert (finding.rule, finding.where, finding.remedy) == ("rule", "somewhere", "Do something else.")
        assert finding.overridable


@pytest.mark.parametrize(
    ("cuda", "driver", "refused_by"),
    [
        (13, "580.65.06", []),
        (13, "575.57.08", ["cuda13-driver"]),
        (12, "525.60.13", []),
        (12, "520.61.05", ["cuda12-driver"]),
        (None, "470.1", []),
        (13, None, []),
    ],
)
def test_shipped_rules(cuda: int | None, driver: str | None, refused_by: list[str]) -> None:
    found = judge(catalogue()["rules"], {"cuda": cuda, "driver": driver}, "somewhere")
    assert [finding.rule for finding in found] == refused_by


def test_shipped_rules_are_complete() -> None:
    rules = catalogue()["rules"]
    assert len({rule["name"] for rule in rules}) == len(rules)
    for rule in rules:
        assert rule.keys() == {"name", "when", "needs", "reason", "remedy", "source"}
