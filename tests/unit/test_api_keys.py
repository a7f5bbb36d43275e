"""API keys: in no manifest, and not in the way of probes, metrics and the endpoint picker."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils import model_service
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.api_keys import guards
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.profiles import effective
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.questions import questions
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.resolve import resolve
from ansible_collections.llm_d.multi_engine.tests.unit.shipped import (
    MODEL_OPTIONS,
    catalogue,
    findings,
    one,
    resolved,
    settings,
)

KEY = {"secret": "keys"}
WHERE = "llm_d_models[0] (qwen)"
READ = {"secretKeyRef": {"name": "keys", "key": "api-key"}}


def containers(model: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the engine's container of each kind of pods."""
    objects = model_service.compose("llm-d", "llm-d", model, MODEL_OPTIONS)
    templates = [item["spec"]["template"]["spec"] for item in objects if item["kind"] == "Deployment"]
    return [template["containers"][0] for template in templates]


@pytest.mark.parametrize(
    ("engine", "variable", "argument"),
    [("sglang", "API_KEY", ["--api-key=$(API_KEY)"]), ("vllm", "VLLM_API_KEY", [])],
)
def test_engines_read_it_from_the_secret(engine: str, variable: str, argument: list[str]) -> None:
    (container,) = containers(one({"engine": engine, "api_key": KEY}))
    assert {"name": variable, "valueFrom": READ} in container["env"]
    assert [part for part in container["args"] if "api-key" in part] == argument


def test_both_kinds_of_pods_have_it() -> None:
    found = containers(one({"topology": "disaggregated", "api_key": {"secret": "keys", "key": "a.b"}}))
    assert len(found) == 2
    for container in found:
        assert container["args"].count("--api-key=$(API_KEY)") == 1
        assert container["env"][-1]["valueFrom"] == {"secretKeyRef": {"name": "keys", "key": "a.b"}}


def test_all_models_have_one_and_a_model_none() -> None:
    stack = resolved({}, {"name": "b", "served_name": "b", "api_key": {}}, model_defaults={"api_key": KEY})
    assert [model["api_key"] and model["api_key"]["secret"] for model in stack["models"]] == ["keys", None]
    assert [question["api_key"] for question in questions(stack)] == [{"secret": "keys", "key": "api-key"}, None]


@pytest.mark.parametrize("version", ["0.5.23", "0.5.19"])
@pytest.mark.parametrize("engine", ["sglang", "vllm"])
def test_nothing_of_ours_needs_it(engine: str, version: str) -> None:
    """Probes and metrics are open, what clients ask for is not."""
    facts = effective(catalogue()["engines"][engine], version, "nvidia")
    paths = [probe["httpGet"]["path"] for probe in facts["probes"].values()]
    assert not [path for path in (*paths, facts["metrics"]["path"]) if guards(facts["api_key"], path)]
    assert guards(facts["api_key"], "/v1/completions")


@pytest.mark.parametrize(
    ("model", "found"),
    [
        ({"api_key": {"key": "x"}}, "api_key.secret: missing. Allowed: a Secret of the stack's namespace."),
        (
            {"api_key": {"secret": "K"}},
            "api_key.secret: 'K' is not valid. Allowed: a Secret of the stack's namespace, ",
        ),
        ({"api_key": {"secret": "k", "value": "x"}}, "api_key.value: unknown key. Allowed: key, secret."),
        (
            {"api_key": KEY, "probes": {"readiness": {"httpGet": {"path": "/v1/models"}}}},
            f"probes.readiness.httpGet.path: /v1/models needs the key of {WHERE}.api_key, and a probe would ",
        ),
        (
            {"api_key": KEY, "env": {"API_KEY": "plain"}},
            f"env.API_KEY: {WHERE}.api_key sets it, too. Keep one of them.",
        ),
        (
            {"api_key": KEY, "args": ["--model-path=x"]},
            f"args: they replace all arguments, and SGLang takes {WHERE}.api_key by one only. Add --api-key=$(API_KEY), ",
        ),
        (
            {"engine_args": {"sglang": {"api_key": "plain"}}},
            "engine_args.sglang.api_key: other objects depend on this value. Set api_key of the model instead.",
        ),
        (
            {"api_key": KEY, "engine": "vllm", "routing": "precise-prefix"},
            f"routing: the endpoint picker asks the engine for tokens at /v1/completions/render, without the key of {WHERE}",
        ),
    ],
)
def test_what_is_refused(model: dict[str, Any], found: str) -> None:
    (message,) = findings(model)
    assert message.startswith(f"{WHERE}.{found}")


def test_what_is_right_after_all() -> None:
    one({"api_key": KEY, "args": ["--model-path=x", "--api-key=$(API_KEY)"]})
    one({"api_key": KEY, "routing": "precise-prefix", "engine_version": "0.5.19"})


@pytest.mark.parametrize("topology", ["aggregated", "disaggregated"])
def test_probes_of_one_kind_of_pods_are_told_with_their_place(topology: str) -> None:
    wrong = {"probes": {"readiness": {"httpGet": {"path": "/v1/models"}}}}
    given = {"decode": wrong} if topology == "disaggregated" else wrong
    (message,) = findings({"api_key": KEY, "topology": topology, **given})
    place = f"{WHERE}.decode" if topology == "disaggregated" else WHERE
    assert message.startswith(f"{place}.probes.readiness.httpGet.path: ")


@pytest.mark.parametrize(
    ("own", "found"),
    [
        (None, "api_key: SGLang cannot be given one, as far as its profile knows. Leave it out for this engine."),
        (
            {"env": "K", "arguments": [], "guards": ["/"], "open": ["/health", "/ready"]},
            "api_key: SGLang guards /metrics, which the endpoint picker reads without a key. ",
        ),
    ],
)
def test_engines_that_cannot(own: dict[str, Any] | None, found: str) -> None:
    profile = {**catalogue()["engines"]["sglang"], "api_key": own}
    profile["by_version"] = [block for block in profile["by_version"] if "api_key" not in block["set"]]
    known = {**catalogue(), "engine_files": {"/mine.yml": yaml.safe_dump({"sglang": profile})}}
    (message,) = resolve(settings({"api_key": KEY}), known)["findings"]
    assert message.startswith(f"{WHERE}.{found}")
