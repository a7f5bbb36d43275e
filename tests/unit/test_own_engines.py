"""Engines from the user's files: what is wrong there is told with file and key, and the rest works as for ours."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils import gaie
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.resolve import resolve
from ansible_collections.llm_d.multi_engine.tests.unit.shipped import GAIE_OPTIONS, ROOT, catalogue, settings

EXAMPLE = ROOT / "inventories/engines/llama-cpp.yml"
PROFILE = yaml.safe_load(EXAMPLE.read_text())["llama-cpp"]
MINE = {"engine": "llama-cpp"}


def outcome(files: dict[str, str | None], *models: dict[str, Any], **changed: Any) -> dict[str, Any]:
    known = {**catalogue(), "engine_files": files}
    return resolve(settings(*(models or [MINE]), **{"engine": "", **changed}), known)


def written(**engines: Any) -> str:
    return yaml.safe_dump({name.replace("_", "-"): profile for name, profile in engines.items()})


def described(**changed: Any) -> str:
    """Return a file with the example, changed; ``...`` takes a key away."""
    profile = {key: value for key, value in {**PROFILE, **changed}.items() if value is not ...}
    return written(llama_cpp=profile)


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        (None, "llm_d_engine_profiles: /mine.yml is no file. Name YAML files of this machine. "),
        ("a: [", "/mine.yml: no YAML: expected the node content, but found '<stream end>' in line 1. Describe "),
        ("", "/mine.yml: not a dict of engines. Write the name of the engine as the only key, "),
        ("text", "/mine.yml: not a dict of engines. "),
        ("{}", "/mine.yml: not a dict of engines. "),
        ("llama-cpp: 1", "/mine.yml: llama-cpp: 1 is not a dict. "),
        (described(probes=...), "/mine.yml: llama-cpp.probes: missing. Allowed: a dict."),
        (described(prots={}), "/mine.yml: llama-cpp.prots: unknown key. Did you mean 'ports'? Allowed: "),
        (
            described(default_version="12"),
            "/mine.yml: llama-cpp.default_version: 12 is not in >=6000. Choose one of the allowed versions.",
        ),
        (described(default_version="b6"), "/mine.yml: llama-cpp.default_version: 'b6' is not a version. "),
        (
            described(arguments={**PROFILE["arguments"], "context": ["-c"]}),
            "/mine.yml: llama-cpp.arguments.context: unknown key. Did you mean 'context_length'? Allowed: ",
        ),
        (
            described(arguments={**PROFILE["arguments"], "port": "--port={value}"}),
            "/mine.yml: llama-cpp.arguments.port: '--port={value}' is not of type list. Allowed: a list.",
        ),
        (
            described(reserved_arguments={"source": "model"}),
            "/mine.yml: llama-cpp.reserved_arguments.source: 'model' is not of type list. Allowed: a list.",
        ),
        (
            described(kv_events={"port": 1}),
            "/mine.yml: llama-cpp.kv_events.encoding: missing. Allowed: array, map.",
        ),
        (described(versions="6"), "/mine.yml: llama-cpp.versions: '6' in '6' is not a comparison such as "),
    ],
)
def test_what_is_wrong_is_told_once_and_first(text: str | None, finding: str) -> None:
    found = outcome({"/mine.yml": text})["findings"]
    assert found[0].startswith(finding)
    # Where the file says which engine it is about, models need not repeat that it is unknown.
    assert text is None or not text.startswith("llama-cpp") or not any("unknown engine" in line for line in found)


@pytest.mark.parametrize("name", ["Llama", "llama_cpp", "a-name-that-is-too-long", "-x", 7])
def test_names_that_kubernetes_would_refuse(name: Any) -> None:
    (found,) = outcome({"/mine.yml": yaml.safe_dump({name: PROFILE})}, {"engine": "sglang"})["findings"]
    assert found.startswith(f"/mine.yml: {name!r} is no name for an engine. Allowed: lower-case letters, ")


def test_an_engine_twice_names_both_places() -> None:
    (found,) = outcome({"/a.yml": described(), "/b.yml": described()})["findings"]
    assert found == ("/b.yml: engine 'llama-cpp' stands in /a.yml, too. Keep one of /a.yml, /b.yml, or rename it.")


def test_one_of_ours_described_anew() -> None:
    known = catalogue()
    mine = {**known["engines"]["sglang"], "command": ["mine"]}
    stack = outcome({"/mine.yml": yaml.safe_dump({"sglang": mine})}, {"engine": "sglang"})
    assert stack["findings"] == []
    assert stack["models"][0]["command"] == ["mine"]


def test_versions() -> None:
    """A release pins no engine that it does not know."""
    (model,) = outcome({"/mine.yml": described()})["models"]
    assert model["engine_version"] == "6123"
    (found,) = outcome({"/mine.yml": described(default_version=...)})["findings"]
    assert found == (
        "llm_d_models[0] (qwen).engine_version: release llm-d-0.10 names no default version of llama-cpp. "
        "Known: >=6000."
    )
    (found,) = outcome({"/mine.yml": described()}, {**MINE, "engine_version": "5999"})["findings"]
    assert "5999 is unknown to its profile" in found


@pytest.mark.parametrize(
    ("model", "finding"),
    [
        ({"routing_proxy": True}, "routing_proxy: llama.cpp speaks no connector, as far as its profile knows. "),
        ({"routing": "precise-prefix"}, "routing: llama.cpp 6123 tells nobody what is in its cache. "),
        ({"topology": "disaggregated"}, "topology: llama.cpp 6123 cannot be disaggregated, "),
        ({"tool_call_parser": "hermes"}, "tool_call_parser: engine llama-cpp 6123 has no such setting. "),
        ({"source": "hf://a/b@main"}, "source: engine llama-cpp 6123 takes no revision. Leave @main out."),
        ({"engine_args": {"llama-cpp": {"alias": "x"}}}, "engine_args.llama-cpp.alias: other objects depend on "),
        (
            {"engine_args": {"llama-cp": {}}},
            "engine_args.llama-cp: unknown engine 'llama-cp'. Did you mean 'llama-cpp'",
        ),
    ],
)
def test_what_it_cannot_is_refused(model: dict[str, Any], finding: str) -> None:
    found = outcome({"/mine.yml": described()}, {**MINE, **model})["findings"]
    assert len(found) == 1
    assert found[0].startswith(f"llm_d_models[0] (qwen).{finding}")


@pytest.mark.parametrize("release", ["llm-d-0.10", "llm-d-0.9", "gaie-1.5"])
def test_a_picker_is_told_metrics_that_it_does_not_know(release: str) -> None:
    config = picker(release, "llama-cpp")[0]
    (engine,) = config["core-metrics-extractor"]["engineConfigs"]
    assert engine == {
        "name": "llama-cpp",
        "queuedRequestsSpec": "llamacpp:requests_deferred",
        "runningRequestsSpec": "llamacpp:requests_processing",
    }
    assert config["metrics-data-source"] == {"path": "/metrics"}
    assert "core-metrics-extractor" not in picker(release, "sglang")[0]


def test_an_old_picker_reads_labels_behind_a_gate() -> None:
    """It reads the names of vLLM otherwise, and ends when its flags give it others."""
    for engine, queued in ("sglang", "sglang:num_queue_reqs"), ("llama-cpp", "llamacpp:requests_deferred"):
        plugins, config = picker("llm-d-0.6", engine)
        (told,) = plugins["model-server-protocol-metrics"]["engineConfigs"]
        assert (told["name"], told["queuedRequestsSpec"]) == (engine, queued)
        assert config["featureGates"] == ["dataLayer"]
        (source,) = config["data"]["sources"]
        assert {source["pluginRef"], *(one["pluginRef"] for one in source["extractors"])} <= plugins.keys()
    plugins, config = picker("llm-d-0.6", "vllm")
    assert "model-server-protocol-metrics" not in plugins
    assert not {"featureGates", "data"} & config.keys()


def picker(release: str, engine: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the parameters of each plugin of a model's picker, by type, and the picker's whole configuration."""
    version = {"engine_version": "0.30.0"} if engine == "vllm" else {}
    stack = outcome({"/mine.yml": described()}, {"engine": engine, **version}, release=release)
    assert stack["findings"] == []
    objects = gaie.compose("llm-d", "llm-d", stack["models"][0], stack["release"], GAIE_OPTIONS)
    by_kind = {item["kind"]: item for item in objects}
    config = yaml.safe_load(by_kind["ConfigMap"]["data"]["config.yaml"])
    return {plugin["type"]: plugin.get("parameters") for plugin in config["plugins"]}, config
