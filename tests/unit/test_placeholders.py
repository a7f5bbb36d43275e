"""Places in the catalogue's data that are filled with what is known of a model."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.placeholders import fill, fill_text

VALUES = {"size": 64, "none": None, "plugin": {"type": "a"}, "name": "x"}


@pytest.mark.parametrize(
    ("data", "filled"),
    [
        ("{size}", 64),
        ("a-{size}-{name}", "a-64-x"),
        ("{unknown}", "{unknown}"),
        ("{", "{"),
        ("", ""),
        (3, 3),
        (None, None),
        (["{plugin}", {"type": "b"}], [{"type": "a"}, {"type": "b"}]),
        ({"a": "{none}", "b": None, "c": {"d": "{size}"}}, {"b": None, "c": {"d": 64}}),
        ('{"kv_role":"both","x":"{name}"}', '{"kv_role":"both","x":"x"}'),
    ],
)
def test_fill(data: Any, filled: Any) -> None:
    assert fill(data, VALUES) == filled


def test_fill_text() -> None:
    assert fill_text(8998, {}) == "8998"
    assert fill_text("--port={size}", VALUES) == "--port=64"
