from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.arguments import (
    flag_name,
    from_settings,
    text,
    with_user_flags,
)

TEMPLATES = {
    "model": ["{value}"],
    "size": ["--size={value}"],
    "parser": ["--auto", "--parser={value}"],
    "trust": ["--trust"],
}


@pytest.mark.parametrize(
    ("settings", "arguments"),
    [
        ({}, []),
        ({"size": 2, "model": "a/b"}, ["a/b", "--size=2"]),
        ({"size": None, "parser": ""}, []),
        ({"size": 0}, ["--size=0"]),
        ({"size": 0.9}, ["--size=0.9"]),
        ({"parser": "qwen"}, ["--auto", "--parser=qwen"]),
        ({"trust": True}, ["--trust"]),
        ({"trust": False}, []),
        ({"model": "{value}"}, ["{value}"]),
        ({"unknown": 1}, []),
    ],
)
def test_from_settings(settings: dict[str, Any], arguments: list[str]) -> None:
    assert from_settings(TEMPLATES, settings) == arguments


@pytest.mark.parametrize(
    ("flags", "arguments"),
    [
        ({}, ["model", "--size=2", "--metrics"]),
        ({"speed": 0.3}, ["model", "--size=2", "--metrics", "--speed=0.3"]),
        ({"size": 4}, ["model", "--metrics", "--size=4"]),
        ({"--size": 4}, ["model", "--metrics", "--size=4"]),
        ({"metrics": False}, ["model", "--size=2"]),
        ({"metrics": None}, ["model", "--size=2"]),
        ({"eager": True}, ["model", "--size=2", "--metrics", "--eager"]),
        ({"files": ["a", 1]}, ["model", "--size=2", "--metrics", "--files", "a", "1"]),
        ({"config": {"b": True, "a": 1}}, ["model", "--size=2", "--metrics", '--config={"a": 1, "b": true}']),
        ({1: 2}, ["model", "--size=2", "--metrics", "--1=2"]),
        ({"siz": 4}, ["model", "--size=2", "--metrics", "--siz=4"]),
    ],
)
def test_with_user_flags(flags: dict[Any, Any], arguments: list[str]) -> None:
    assert with_user_flags(["model", "--size=2", "--metrics"], flags) == arguments


@pytest.mark.parametrize(
    ("flags", "arguments"),
    [
        ({"size": 4}, ["model", "--metrics", "--layers", "9", "--size", "4"]),
        ({"layers": False}, ["model", "--size", "2", "--metrics"]),
        ({"metrics": False}, ["model", "--size", "2", "--layers", "9"]),
        ({"eager": True}, ["model", "--size", "2", "--metrics", "--layers", "9", "--eager"]),
        ({"files": ["a", 1]}, ["model", "--size", "2", "--metrics", "--layers", "9", "--files", "a", "1"]),
    ],
)
def test_values_behind_their_flags(flags: dict[Any, Any], arguments: list[str]) -> None:
    composed = ["model", "--size", "2", "--metrics", "--layers", "9"]
    assert with_user_flags(composed, flags, separate=True) == arguments


@pytest.mark.parametrize(
    ("argument", "name"),
    [("--tp-size=2", "tp-size"), ("--trust", "trust"), ("a/b", "a/b"), ("tp-size", "tp-size"), ("--a=b=c", "a")],
)
def test_flag_name(argument: str, name: str) -> None:
    assert flag_name(argument) == name


@pytest.mark.parametrize(
    ("value", "said"),
    [(2.0, "2"), (0.9, "0.9"), (True, "true"), ("a b", "a b"), (7, "7"), ([1], "[1]"), ({"a": None}, '{"a": null}')],
)
def test_text(value: Any, said: str) -> None:
    assert text(value) == said
