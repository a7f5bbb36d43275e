"""The shipped engines and releases are whole, fit each other, and everything that they allow can be composed."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils import gaie, gateway, model_service, precise_prefix
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.catalogue import check_profile, check_release
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.placeholders import fill
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.versions import is_version, matches, parse
from ansible_collections.llm_d.multi_engine.tests.unit import shipped
from ansible_collections.llm_d.multi_engine.tests.unit.flags import versions

CATALOGUE = shipped.catalogue()
ENGINES, RELEASES = CATALOGUE["engines"], CATALOGUE["releases"]


def clauses(spec: str) -> list[str]:
    return [clause.lstrip("<>=!") for clause in spec.split(",") if clause]


def boundaries(engine: str) -> list[str]:
    """Return the versions where the profile changes, with a version below each."""
    profile = ENGINES[engine]
    specs = [profile["versions"], *(block["versions"] for block in profile["by_version"])]
    pinned = [release["engines"][engine] for release in RELEASES.values() if engine in release["engines"]]
    specs += [pin["versions"] for pin in pinned]
    specs += [variant.get("versions", "") for variant in profile["variants"].values()]
    edges = {version for spec in specs for version in clauses(spec)} | set(versions(engine))
    edges |= {pin["default"] for pin in pinned}
    return sorted((version for version in edges if matches(version, profile["versions"])), key=parse)


#: Every topology and routing of every release with every engine, at all versions where its profile changes.
COMBINATIONS = [
    (release, engine, version, accelerator, topology, routing)
    for release, engine in itertools.product(sorted(RELEASES), sorted(ENGINES))
    for version in boundaries(engine)
    if matches(version, RELEASES[release]["engines"].get(engine, {"versions": ""})["versions"])
    for accelerator in ENGINES[engine]["accelerators"]
    for topology, configs in RELEASES[release]["endpoint_picker"]["config"].items()
    for routing in configs
    if routing != precise_prefix.ROUTING or ENGINES[engine]["kv_events"]
]


@pytest.mark.parametrize(("release", "engine", "version", "accelerator", "topology", "routing"), COMBINATIONS)
def test_what_is_allowed_can_be_composed(
    release: str, engine: str, version: str, accelerator: str, topology: str, routing: str
) -> None:
    given = {"engine_version": version, "topology": topology, "routing": routing}
    rules = [rule["name"] for rule in CATALOGUE["rules"]]
    stack = shipped.resolved(given, engine=engine, release=release, accelerator=accelerator, overrides=rules)
    (model,) = stack["models"]
    objects = [
        *gaie.compose("llm-d", "llm-d", model, stack["release"], shipped.GAIE_OPTIONS),
        *model_service.compose("llm-d", "llm-d", model, shipped.MODEL_OPTIONS),
        *gateway.compose("llm-d", stack["engines"], shipped.GATEWAY_OPTIONS),
    ]
    rendered = (2 - ENGINES[engine]["kv_events"]["renders"]) if routing == "precise-prefix" else 0
    assert len(objects) == {"aggregated": 11, "disaggregated": 15}[topology] + rendered
    # No place was left unfilled.
    assert not re.search(r"\{[a-z_]+\}", repr(objects))
    assert model["image"].split(":")[1].startswith(f"v{version}")


def test_every_release_default_is_among_them() -> None:
    tested = {combination[:3] for combination in COMBINATIONS}
    assert tested >= {
        (release, engine, data["engines"][engine]["default"])
        for release, data in RELEASES.items()
        for engine in data["engines"]
    }


@pytest.mark.parametrize("name", sorted(ENGINES))
def test_shipped_profiles_are_whole(name: str) -> None:
    assert check_profile(name, ENGINES[name]) == []


@pytest.mark.parametrize("name", sorted(RELEASES))
def test_shipped_releases_are_whole(name: str) -> None:
    assert check_release(name, RELEASES[name]) == []
    assert RELEASES[name]["evidence"]


@pytest.mark.parametrize("name", sorted(RELEASES))
def test_releases_pin_engines_within_what_their_profiles_know(name: str) -> None:
    assert RELEASES[name]["engines"]
    assert RELEASES[name]["engines"].keys() <= ENGINES.keys()
    for engine, pinned in RELEASES[name]["engines"].items():
        for version in (pinned["default"], *clauses(pinned["versions"])):
            assert matches(version, ENGINES[engine]["versions"])


def test_releases_and_profiles_have_the_same_keys() -> None:
    assert len({frozenset(data) for data in RELEASES.values()}) == 1
    assert len({frozenset(data["endpoint_picker"]) for data in RELEASES.values()}) == 1
    assert len({frozenset(data) for data in ENGINES.values()}) == 1
    assert len({frozenset(data["arguments"]) for data in ENGINES.values()}) == 1


def test_files_are_named_after_what_they_hold() -> None:
    for folder in ("engines", "releases"):
        for path in (shipped.VARS / folder).iterdir():
            assert list(shipped.load(folder, path.name)) == [path.stem]


@pytest.mark.parametrize("name", sorted(RELEASES))
def test_plugins_of_a_profile_are_declared(name: str) -> None:
    picker = RELEASES[name]["endpoint_picker"]
    for config in (config for configs in picker["config"].values() for config in configs.values()):
        config = fill(config, {"decider": {"type": "always"}, "decider_name": "always"})
        declared = {plugin.get("name", plugin["type"]) for plugin in config["plugins"]}
        for profile in config["schedulingProfiles"]:
            assert {plugin["pluginRef"] for plugin in profile["plugins"]} <= declared


@pytest.mark.parametrize("name", sorted(RELEASES))
def test_versions_of_a_release_agree(name: str) -> None:
    release = RELEASES[name]
    assert matches(release["istio"]["version"], release["istio"]["existing"])
    for bundle in (release["gateway_api"], release["gaie"]):
        assert f"/v{bundle['version']}/" in bundle["manifest"]
    assert is_version(release["endpoint_picker"]["image"].rpartition(":")[2])


def changed(data: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Return ``data`` with another value at ``path``, or without it for ``...``."""
    *parents, last = path.split(".")
    place: Any = data
    for part in parents:
        place = place[int(part) if isinstance(place, list) else part]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return data


@pytest.mark.parametrize(
    ("path", "value", "finding"),
    [
        ("probes.startup", ..., "sglang.probes.startup: missing. Allowed: a dict."),
        ("cache_path", None, "sglang.cache_path: missing. Allowed: text."),
        (
            "ports.engine",
            "http",
            "sglang.ports.engine: 'http' is not of type int. Allowed: a whole number, at least 0.",
        ),
        ("comand", [], "sglang.comand: unknown key. Did you mean 'command'? Allowed: "),
        ("versions", "0.5", "sglang.versions: '0.5' in '0.5' is not a comparison such as >=0.5.20. Write it like "),
        ("by_version.0.versions", "<x", "sglang.by_version[0].versions: 'x' is not a version such as "),
        ("by_version.0.set", ..., "sglang.by_version[0].set: missing. Allowed: a dict."),
        ("by_version.0.set", {"prboes": {}}, "sglang.by_version[0].prboes: unknown key. Did you mean 'probes'? "),
        ("accelerators", ..., "sglang.accelerators: None is not of type dict. Allowed: a dict."),
        ("accelerators.cpu", "x", "sglang.accelerators.cpu: 'x' is not of type dict. Allowed: a dict."),
        ("accelerators.cpu.ports", {"engine": -1}, "sglang.accelerators.cpu.ports.engine: -1 is too small. "),
        ("variants.-x", {"version": ">1"}, "sglang.variants.-x.version: unknown key. Did you mean 'versions'? "),
        ("metrics.requests", "a{b}", "sglang.metrics.requests: 'b' in 'a{b}' is not label=\"value\" or label=~"),
        ("accelerators.cpu.metrics", {"errors": "-"}, "sglang.accelerators.cpu.metrics.errors: '-' is not a metric "),
        ("kv_events.encoding", "list", "sglang.kv_events.encoding: 'list' is not allowed. Allowed: array, map."),
        ("http.idle_timeout", "1h", "sglang.http.idle_timeout: '1h' is not valid. Allowed: seconds such as 3600s."),
    ],
)
def test_faults_of_a_profile(path: str, value: Any, finding: str) -> None:
    found = check_profile("sglang", changed(shipped.catalogue()["engines"]["sglang"], path, value))
    assert str(found[0]).startswith(finding)


@pytest.mark.parametrize(
    ("path", "value", "finding"),
    [
        ("istio", ..., "own.istio: missing. Allowed: a dict."),
        ("kubernetes", "1.35", "own.kubernetes: '1.35' in '1.35' is not a comparison such as "),
        ("gaie.version", "main", "own.gaie.version: 'main' is not a version. Write it like 0.5.20."),
        ("gateway_api.crds", "x", "own.gateway_api.crds: 'x' is not of type list. Allowed: a list."),
        ("endpoint_picker.port", {}, "own.endpoint_picker.port: unknown key. Did you mean 'ports'? Allowed: "),
        ("engines.sglang", "0.5.20", "own.engines.sglang: '0.5.20' is not of type dict. Allowed: a dict."),
        ("engines.sglang.default", "0.5.99", "own.engines.sglang.default: 0.5.99 is not in >=0.5.5.post1,<=0.5.23. "),
        ("evidence.istio", ..., "own.evidence.istio: None is not of type dict. Allowed: a dict."),
        ("evidence.istio.kind", "hearsay", "own.evidence.istio.kind: 'hearsay' is not allowed. Allowed: run, source, "),
        ("evidence.istio", {"kind": "docs", "note": "a", "b": None}, "own.evidence.istio.b: unknown key. "),
        (
            "endpoint_picker.config.aggregated.x",
            {"kind": "A"},
            "own.endpoint_picker.config.aggregated.x.apiVersion: missing. ",
        ),
        (
            "endpoint_picker.config.aggregated.x",
            [],
            "own.endpoint_picker.config.aggregated.x: [] is not of type dict. ",
        ),
        ("endpoint_picker.config.both", {}, "own.endpoint_picker.config.both: unknown key. Allowed: aggregated, "),
        ("endpoint_picker.deciders.x", {}, "own.endpoint_picker.deciders.x.plugin: missing. "),
        ("endpoint_picker.traffic.errors", ["a", "-"], "own.endpoint_picker.traffic.errors: '-' is not a metric such "),
        ("endpoint_picker.traffic.path", ..., "own.endpoint_picker.traffic.path: missing. Allowed: text."),
        ("endpoint_picker.lacks", [], "own.endpoint_picker.lacks: [] is not of type dict. "),
        ("routing_proxy.connectors", "sglang", "own.routing_proxy.connectors: 'sglang' is not of type list. "),
    ],
)
def test_faults_of_a_release(path: str, value: Any, finding: str) -> None:
    found = check_release("own", changed(shipped.catalogue()["releases"]["llm-d-0.10"], path, value))
    assert str(found[0]).startswith(finding)


@pytest.mark.parametrize("data", [None, [], "text", 1])
def test_what_is_no_file_of_the_catalogue(data: Any) -> None:
    assert len(check_profile("own", data)) == 1
    assert len(check_release("own", data)) == 1
