"""LoRA adapters: loaded, named alike on every engine, routed, and refused where they cannot be."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils import gaie, model_service
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.questions import questions
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.resolve import resolve
from ansible_collections.llm_d.multi_engine.tests.unit.shipped import (
    GAIE_OPTIONS,
    MODEL_OPTIONS,
    ROOT,
    catalogue,
    findings,
    one,
    resolved,
    settings,
)

SQL = {"name": "sql", "source": "pvc://adapters/sql/v2"}
CHAT = {"name": "chat", "source": "pvc://adapters/chat"}
HUB = {"name": "hub", "source": "hf://a/b"}
HOST = {"name": "host", "source": "host:///srv/adapters/x"}
WHERE = "llm_d_models[0] (qwen)"
OWN_ENGINE = ROOT / "inventories/engines/llama-cpp.yml"


def behind(flag: str, args: list[str]) -> list[str]:
    """Return the values of a flag that takes several."""
    values = args[args.index(flag) + 1 :]
    return values[: next((place for place, value in enumerate(values) if value.startswith("--")), None)]


@pytest.mark.parametrize(
    ("engine", "flag", "sql"),
    [
        ("sglang", "--lora-paths", "sql=/lora/0/sql/v2"),
        ("vllm", "--lora-modules", "Qwen/Qwen3-32B:sql=/lora/0/sql/v2"),
    ],
)
def test_engines_load_them(engine: str, flag: str, sql: str) -> None:
    model = one({"engine": engine, "lora_adapters": [SQL, CHAT, HUB, HOST], "lora_max_rank": 32})
    loaded = behind(flag, model["args"])
    assert loaded[0] == sql
    assert [value.partition("=")[2] for value in loaded] == ["/lora/0/sql/v2", "/lora/0/chat", "a/b", "/lora/1"]
    assert {"--enable-lora", "--max-lora-rank=32"} <= set(model["args"])


def pod(model: dict[str, Any], **options: Any) -> dict[str, Any]:
    objects = model_service.compose("llm-d", "llm-d", model, {**MODEL_OPTIONS, **options})
    return next(item for item in objects if item["kind"] == "Deployment")["spec"]["template"]["spec"]


def test_volumes_are_mounted_once() -> None:
    spec = pod(one({"lora_adapters": [SQL, CHAT, HOST]}))
    volumes = {volume.pop("name"): volume for volume in spec["volumes"]}
    mounts = {mount["name"]: mount for mount in spec["containers"][0]["volumeMounts"]}
    assert volumes["lora-0"] == {"persistentVolumeClaim": {"claimName": "adapters", "readOnly": True}}
    assert volumes["lora-1"] == {"hostPath": {"path": "/srv/adapters/x", "type": "Directory"}}
    assert mounts["lora-0"] == {"name": "lora-0", "mountPath": "/lora/0", "readOnly": True}
    assert "lora-2" not in volumes


def test_a_claim_that_has_the_model_too() -> None:
    model = one({"source": "pvc://adapters/qwen", "served_name": "qwen", "lora_adapters": [SQL]})
    assert behind("--lora-paths", model["args"]) == ["sql=/model/sql/v2"]
    assert not [volume for volume in pod(model)["volumes"] if volume["name"].startswith("lora")]


def test_what_comes_from_hugging_face_needs_its_token() -> None:
    token = {"hf_token_secret": {"name": "t", "key": "k"}}
    for adapter, wanted in ((HUB, True), (SQL, False)):
        model = one({"source": "pvc://a/b", "lora_adapters": [adapter]}, hf_endpoint="https://hf.example.com")
        (container,) = pod(model, **token)["containers"]
        assert ({"HF_TOKEN", "HF_ENDPOINT"} <= {entry["name"] for entry in container["env"]}) == wanted


def test_they_are_routed_and_asked() -> None:
    stack = resolved({"lora_adapters": [SQL]}, {"name": "b", "served_name": "b"})
    objects = gaie.compose("llm-d", "llm-d", stack["models"][0], stack["release"], GAIE_OPTIONS)
    (rule,) = next(item for item in objects if item["kind"] == "HTTPRoute")["spec"]["rules"]
    values = [match["headers"][0]["value"] for match in rule["matches"]]
    assert values == ["Qwen/Qwen3-32B", "Qwen/Qwen3-32B:sql"]
    assert [question["adapters"] for question in questions(stack)] == [["Qwen/Qwen3-32B:sql"], []]


@pytest.mark.parametrize("release", ["gaie-1.5", "llm-d-0.6", "llm-d-0.9", "llm-d-0.10"])
@pytest.mark.parametrize(
    ("engine", "adapters", "scored"), [("vllm", [SQL], True), ("vllm", [], False), ("sglang", [SQL], False)]
)
def test_pickers_prefer_pods_that_have_the_adapter(release: str, engine: str, adapters: list, scored: bool) -> None:
    """Only vLLM tells which ones a pod has."""
    given = {"engine": engine, "lora_adapters": adapters, **({"engine_version": "0.30.0"} if engine == "vllm" else {})}
    stack = resolved(given, release=release)
    objects = gaie.compose("llm-d", "llm-d", stack["models"][0], stack["release"], GAIE_OPTIONS)
    text = next(item for item in objects if item["kind"] == "ConfigMap")["data"]["config.yaml"]
    config = yaml.safe_load(text)
    assert ({"type": "lora-affinity-scorer"} in config["plugins"]) == scored
    for profile in config["schedulingProfiles"]:
        assert ({"pluginRef": "lora-affinity-scorer", "weight": 1} in profile["plugins"]) == scored


@pytest.mark.parametrize(
    ("model", "found"),
    [
        ({"lora_adapters": [{"name": "a"}]}, "lora_adapters[0].source: missing. Allowed: hf://ORG/NAME, pvc://"),
        ({"lora_adapters": [{**HUB, "source": "hf://a/b@main"}]}, "lora_adapters[0].source: 'hf://a/b@main' is not "),
        (
            {"lora_adapters": [{**SQL, "source": "pvc://a/b=c"}]},
            "lora_adapters[0].source: 'pvc://a/b=c' is not valid. ",
        ),
        ({"lora_adapters": [{**SQL, "name": "a=b"}]}, "lora_adapters[0].name: 'a=b' is not valid. Allowed: letters, "),
        (
            {"lora_adapters": [SQL, CHAT, {**HUB, "name": "sql"}]},
            f"lora_adapters[2].name: 'sql' is the name of {WHERE}.lora_adapters[0], too. ",
        ),
        ({"lora_max_rank": 8}, f"lora_max_rank: set, but {WHERE}.lora_adapters is empty. List adapters, "),
        (
            {"lora_adapters": [SQL], "served_name": "a:b"},
            f"served_name: 'a:b' has one of : = ,, which set apart what is said of {WHERE}.lora_adapters. ",
        ),
        (
            {"lora_adapters": [SQL], "engine_args": {"sglang": {"lora_paths": ["x=y"]}}},
            f"engine_args.sglang.lora_paths: {WHERE}.lora_adapters sets it, too. Keep one of them; ours are ",
        ),
        (
            {"lora_adapters": [SQL], "topology": "disaggregated"},
            f"lora_adapters: adapters were not seen to work with {WHERE}.topology disaggregated. ",
        ),
        (
            {"lora_adapters": [{**SQL, "name": f"a{number}"} for number in range(64)]},
            "lora_adapters: 64 adapters. A route has room for 63.",
        ),
    ],
)
def test_what_is_refused(model: dict[str, Any], found: str) -> None:
    (message,) = findings(model)
    assert message.startswith(f"{WHERE}.{found}")


def test_an_engine_without_adapters_is_named_with_its_place() -> None:
    given = settings({"engine": "llama-cpp", "lora_adapters": [SQL]})
    (message,) = resolve(given, catalogue(OWN_ENGINE))["findings"]
    assert message == (
        f"{WHERE}.lora_adapters: llama-cpp of {WHERE}.engine, or of inference_engine, serves no adapters on nvidia, as far "
        "as its profile knows. Leave them out, or choose another engine."
    )
    (message,) = findings({"lora_adapters": [SQL]}, accelerator="cpu")
    assert "sglang of" in message
    assert "serves no adapters on cpu" in message


def test_the_name_of_an_adapter_is_taken() -> None:
    taken = {"name": "b", "served_name": "Qwen/Qwen3-32B:sql"}
    (message,) = findings({"lora_adapters": [SQL]}, taken)
    assert message.startswith(
        "llm_d_models[1] (b).served_name: 'x-gateway-base-model-name: Qwen/Qwen3-32B:sql' is that of "
        "llm_d_models[0] (qwen).lora_adapters, too. "
    )
