"""Ansible's values as Python's."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.plain import as_list, stack_of


@pytest.mark.parametrize(
    ("value", "expected"),
    [([], []), (["a", "b"], ["a", "b"]), ("", []), ("registry", ["registry"]), ("a, b,", ["a", "b"])],
)
def test_text_is_a_list_where_ansible_says_so(value: Any, expected: list[str]) -> None:
    assert as_list(value) == expected


def test_the_text_of_a_stack_goes_before_its_structure() -> None:
    assert stack_of({"stack": "walked"}) == {"stack": "walked"}
    assert stack_of({"stack": "walked", "text": '{"stack": "read"}'}) == {"stack": "read"}
    assert stack_of({}) == {}
