"""Every flag that we render exists in the version of the engine that gets it: an unknown one ends the server."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.arguments import flag_name
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.profiles import effective
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.versions import matches
from ansible_collections.llm_d.multi_engine.tests.unit.flags import load_flags, versions
from ansible_collections.llm_d.multi_engine.tests.unit.shipped import catalogue, one

PROFILES = catalogue()["engines"]
#: A value for every neutral setting, in the spelling of the engines where they have one.
EVERYTHING: dict[str, Any] = {
    "source": "hf://Qwen/Qwen3-32B@main",
    "gpus": 8,
    "tensor_parallel": 2,
    "pipeline_parallel": 2,
    "data_parallel": 2,
    "context_length": 32768,
    "memory_fraction": 0.9,
    "max_running_requests": 128,
    "page_size": 16,
    "kv_cache_dtype": "auto",
    "dtype": "bfloat16",
    "quantization": "fp8",
    "chat_template": "/templates/qwen.jinja",
    "tool_call_parser": "hermes",
    "reasoning_parser": "qwen3",
    "trust_remote_code": True,
    "lora_adapters": [{"name": "sql", "source": "pvc://adapters/sql"}, {"name": "chat", "source": "hf://a/b"}],
    "lora_max_rank": 32,
    "lora_max_active": 2,
}
#: Spellings of one engine only, laid over the above.
OWN = {"sglang": {"tool_call_parser": "qwen25"}}
VERSIONS = [(engine, version) for engine in sorted(PROFILES) for version in versions(engine)]


def arguments(engine: str, version: str, accelerator: str = "nvidia") -> list[str]:
    model = {**EVERYTHING, **OWN.get(engine, {}), "engine": engine, "engine_version": version}
    if accelerator == "cpu":
        model |= {"gpus": None}
    if not effective(PROFILES[engine], version, accelerator)["lora"]:
        model |= {"lora_adapters": [], "lora_max_rank": None, "lora_max_active": None}
    return one(model, accelerator=accelerator, overrides=["engine-version-release"])["args"]


def faults(engine: str, version: str, rendered: list[str]) -> list[str]:
    """Return which of the ``rendered`` arguments the engine would refuse."""
    known = load_flags(engine, version)
    found = []
    for argument, behind in itertools.zip_longest(rendered, rendered[1:], fillvalue="--"):
        if not argument.startswith("--"):
            continue
        flag, separator, value = argument.partition("=")
        record = known.get(flag)
        if not record:
            found.append(f"{flag} does not exist")
        elif separator and not record["takes_value"]:
            found.append(f"{flag} takes no value")
        elif not separator and record["nargs"] not in (0, "?", "*") and behind.startswith("--"):
            found.append(f"{flag} needs a value")
        elif separator and value not in map(str, record.get("choices", [value])):
            found.append(f"{flag} does not take {value}")
    return found


def test_everything_is_set() -> None:
    settings = {name for profile in PROFILES.values() for name in profile["arguments"]}
    decided = {"model", "revision", "served_name", "host", "port"}
    assert settings - decided <= EVERYTHING.keys()
    for engine, profile in PROFILES.items():
        rendered = {flag_name(argument) for argument in arguments(engine, versions(engine)[-1])}
        for parts in profile["arguments"].values():
            assert all(part == "{value}" or flag_name(part) in rendered for part in parts)


ACCELERATORS = [
    (engine, version, accelerator) for engine, version in VERSIONS for accelerator in PROFILES[engine]["accelerators"]
]


@pytest.mark.parametrize(("engine", "version", "accelerator"), ACCELERATORS)
def test_rendered_flags_exist(engine: str, version: str, accelerator: str) -> None:
    assert faults(engine, version, arguments(engine, version, accelerator)) == []


@pytest.mark.parametrize(("engine", "version"), [item for item in VERSIONS if PROFILES[item[0]]["multi_node"]])
def test_flags_over_several_nodes_exist(engine: str, version: str) -> None:
    model = {"engine": engine, "engine_version": version, "gpus": 8, "nodes": 2}
    pods = one(model, overrides=["engine-version-release"])
    for rendered in (pods["args"], pods["worker"]["args"]):
        assert "--nnodes=2" in rendered
        assert faults(engine, version, rendered) == []


@pytest.mark.parametrize(("engine", "version"), [item for item in VERSIONS if PROFILES[item[0]]["kv_events"]])
def test_flags_of_kv_events_exist(engine: str, version: str) -> None:
    model = {"engine": engine, "engine_version": version, "routing": "precise-prefix"}
    rules = ["engine-version-release", "kv-events-router-0.11"]
    rendered = one(model, overrides=rules)["args"]
    assert "--kv-events-config" in {argument.partition("=")[0] for argument in rendered}
    assert faults(engine, version, rendered) == []


BACKENDS = [
    (engine, version, backend)
    for engine, version in VERSIONS
    for backend, data in PROFILES[engine]["disaggregation"]["backends"].items()
    if matches(version, data.get("versions", ""))
]


@pytest.mark.parametrize(("engine", "version", "backend"), BACKENDS)
def test_flags_of_prefill_and_decode_exist(engine: str, version: str, backend: str) -> None:
    model = {
        "engine": engine,
        "engine_version": version,
        "topology": "disaggregated",
        "disaggregation": {"backend": backend},
        "rdma": {"devices": ["mlx5_0"]},
    }
    for pods in one(model, overrides=["engine-version-release", "backend-image"])["roles"]:
        assert faults(engine, version, pods["args"]) == []


@pytest.mark.parametrize(("engine", "version"), VERSIONS)
def test_required_flags_are_rendered(engine: str, version: str) -> None:
    rendered = {argument.split("=")[0] for argument in one({"engine": engine, "engine_version": version})["args"]}
    for record in load_flags(engine, version).values():
        if record.get("required"):
            assert rendered & {record["name"], *record["aliases"]}


@pytest.mark.parametrize(("engine", "version"), VERSIONS)
def test_reserved_arguments_exist_and_have_no_other_name(engine: str, version: str) -> None:
    """A flag under another name would slip through the check."""
    known = load_flags(engine, version)
    reserved = {
        f"--{flag}"
        for flags in effective(PROFILES[engine], version, "nvidia")["reserved_arguments"].values()
        for flag in flags
    }
    for flag in reserved & known.keys():
        spellings = {spelling for spelling in known if known[spelling] is known[flag]}
        # What users write gets two dashes.
        assert {spelling for spelling in spellings if spelling.startswith("--")} <= reserved
    rendered = {
        argument.split("=")[0]
        for argument in one({"engine": engine, "engine_version": version, "source": "hf://a/b@c"})["args"]
    }
    decided = {"--model-path", "--revision", "--served-model-name", "--host", "--port"} & rendered
    assert decided <= reserved


@pytest.mark.parametrize(
    ("argument", "fault"),
    [
        ("--no-such-flag=1", "--no-such-flag does not exist"),
        ("--tensor-parallel-size=2", None),
        ("--enable-metrics=true", "--enable-metrics takes no value"),
        ("--port", "--port needs a value"),
        ("--dtype=int3", "--dtype does not take int3"),
    ],
)
def test_faults_are_found(argument: str, fault: str | None) -> None:
    found = faults("sglang", versions("sglang")[-1], [argument])
    assert found == ([fault] if fault else [])


@pytest.mark.parametrize("engine", sorted(PROFILES))
def test_there_are_lists_on_both_sides_of_each_boundary(engine: str) -> None:
    """Where arguments change with the version, a list below and one above have to exist."""
    listed = versions(engine)
    assert listed
    assert all(matches(version, PROFILES[engine]["versions"]) for version in listed)
    for block in PROFILES[engine]["by_version"]:
        if block["set"].keys() & {"arguments", "fixed_arguments", "drain"}:
            inside = [matches(version, block["versions"]) for version in listed]
            assert any(inside)
            assert not all(inside)
