"""Whatever an inventory holds, it is answered with findings and never with a traceback."""

from __future__ import annotations

import random
from typing import Any

import pytest
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.resolve import resolve
from ansible_collections.llm_d.multi_engine.tests.unit.shipped import MODEL, catalogue, settings

CATALOGUE = catalogue()
OPTIONS = CATALOGUE["model_schema"]["options"]
SCALARS = (
    *(None, True, False, 0, 1, -1, 3, 2**70, 0.5, -0.0, 1e308, float("inf"), float("nan")),
    *("", " ", "a", "qwen", "sglang", "vllm", "0.5.20", "v1", "1e999", "=", ">=1", "/", "/a", "-", "--a", "é", "\n"),
    *("hf://a/b", "hf://a/b@c", "pvc://a", "host:////", "{value}", "x" * 300),
)


def junk(chance: random.Random, depth: int = 3) -> Any:
    """Return any value that YAML can write."""
    kind = chance.random()
    if depth == 0 or kind < 0.5:
        return chance.choice(SCALARS)
    if kind < 0.7:
        return [junk(chance, depth - 1) for _ in range(chance.randrange(4))]
    return {key(chance): junk(chance, depth - 1) for _ in range(chance.randrange(4))}


def key(chance: random.Random) -> Any:
    return chance.choice(
        [*OPTIONS, "sglang", "vllm", "startup", "httpGet", "periodSeconds", "header", "value", *SCALARS]
    )


def likely(chance: random.Random, spec: dict[str, Any]) -> Any:
    """Return a value that ``spec`` allows more often than not, for errors deeper than the first look."""
    if chance.random() < 0.15:
        return junk(chance)
    if "choices" in spec:
        return chance.choice(spec["choices"])
    if "options" in spec:
        names = chance.sample(sorted(spec["options"]), chance.randrange(len(spec["options"]) + 1))
        return {name: likely(chance, spec["options"][name]) for name in names}
    kind = spec.get("type", "str")
    if kind == "dict":
        return {key(chance): junk(chance) for _ in range(chance.randrange(3))}
    if kind == "list":
        return [likely(chance, {"type": spec["elements"]}) for _ in range(chance.randrange(3))]
    if kind == "bool":
        return chance.choice([True, False])
    if kind in ("int", "float"):
        return chance.choice([0.5, 1, 2, 8, 60])
    return chance.choice(["a", "0.5.20", "/a", "-runtime", "hf://a/b", "1Gi", "300s", "sglang", "vllm", "cpu"])


def model(chance: random.Random) -> Any:
    names = chance.sample(sorted(OPTIONS), chance.randrange(8))
    return {**MODEL, "name": chance.choice("ab"), **{name: likely(chance, OPTIONS[name]) for name in names}}


@pytest.mark.parametrize("seed", range(20))
def test_any_input_is_answered(seed: int) -> None:
    chance = random.Random(seed)
    refused = 0
    for _ in range(100):
        given = settings(*(model(chance) for _ in range(chance.randrange(3))))
        if chance.random() < 0.5:
            name = chance.choice(sorted(given))
            given[name] = junk(chance)
        answer = resolve(given, CATALOGUE)
        assert all(isinstance(finding, str) for finding in answer["findings"])
        # Nothing is left out in silence.
        if not answer["findings"]:
            assert len(answer["models"]) == len(given["models"] or [])
        refused += bool(answer["findings"])
    assert 0 < refused < 100


@pytest.mark.parametrize("seed", range(20))
def test_any_models_are_answered(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(100):
        assert resolve(settings() | {"models": [junk(chance)]}, CATALOGUE)["findings"]
