"""The routing proxy in front of aggregated engines: connectors, ports, credentials."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.model_service import compose
from ansible_collections.llm_d.multi_engine.tests.unit.shipped import (
    MODEL_OPTIONS,
    catalogue,
    findings,
    one,
)

WHERE = "llm_d_models[0] (qwen)"
PROXY = {"routing_proxy": True}


def objects(model: dict[str, Any], **changed: Any) -> dict[str, Any]:
    """Return the objects of ``model`` by kind."""
    return {item["kind"]: item for item in compose("llm-d", "llm-d", one({**PROXY, **model}, **changed), MODEL_OPTIONS)}


def pod(model: dict[str, Any], **changed: Any) -> dict[str, Any]:
    return objects(model, **changed)["Deployment"]["spec"]["template"]["spec"]


@pytest.mark.parametrize(
    ("release", "engine", "arguments"),
    [
        ("llm-d-0.10", "sglang", ["--port=8000", "--model-server-port=8200", "--kv-connector=sglang"]),
        ("llm-d-0.9", "vllm", ["--port=8000", "--model-server-port=8200", "--kv-connector=nixlv2"]),
        ("gaie-1.5", "sglang", ["--port=8000", "--vllm-port=8200", "--kv-connector=sglang"]),
    ],
)
def test_dialect_of_the_release_and_connector_of_the_engine(release: str, engine: str, arguments: list[str]) -> None:
    (proxy,) = pod({}, release=release, engine=engine)["initContainers"]
    assert proxy["args"][:3] == arguments
    assert proxy["args"][3:5] == ["--secure-proxy=false", "--enable-ssrf-protection"]
    assert "--inference-pool=llm-d/qwen" in proxy["args"]
    assert proxy["restartPolicy"] == "Always"
    assert proxy["image"] == catalogue()["releases"][release]["routing_proxy"]["image"]


def test_the_bootstrap_port_is_the_engines() -> None:
    assert pod({})["initContainers"][0]["env"] == [{"name": "SGLANG_BOOTSTRAP_PORT", "value": "8998"}]
    assert "env" not in pod({}, engine="vllm")["initContainers"][0]


@pytest.mark.parametrize("engine", ["sglang", "vllm"])
def test_the_engine_listens_and_is_probed_behind_it(engine: str) -> None:
    spec = pod({}, engine=engine)
    (container,) = spec["containers"]
    assert "--port=8200" in container["args"]
    assert container["ports"] == [{"name": "http", "containerPort": 8200, "protocol": "TCP"}]
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[name]["httpGet"]["port"] == "http"
    assert one(PROXY, engine=engine)["port"] == 8000


@pytest.mark.parametrize(
    ("model", "ports"),
    [
        ({}, (8000, 8200)),
        ({"port": 8200, "engine_port": 8000}, (8200, 8000)),
        ({"engine_port": 9000}, (8000, 9000)),
    ],
)
def test_ports(model: dict[str, Any], ports: tuple[int, int]) -> None:
    spec = pod(model)
    listening = [container["ports"][0]["containerPort"] for container in spec["initContainers"] + spec["containers"]]
    assert tuple(listening) == ports


def test_only_the_proxy_gets_credentials() -> None:
    spec = pod({})
    assert (spec["serviceAccountName"], spec["automountServiceAccountToken"]) == ("qwen-sglang", False)
    (mount,) = spec["initContainers"][0]["volumeMounts"]
    assert mount["name"] in [volume["name"] for volume in spec["volumes"] if "projected" in volume]
    assert mount["name"] not in [mount["name"] for mount in spec["containers"][0]["volumeMounts"]]
    made = objects({})
    assert made["RoleBinding"]["subjects"] == [
        {"kind": "ServiceAccount", "name": made["ServiceAccount"]["metadata"]["name"], "namespace": "llm-d"}
    ]


def test_an_account_of_the_users_is_used() -> None:
    made = objects({"service_account": "own"})
    assert "ServiceAccount" not in made
    assert made["RoleBinding"]["subjects"][0]["name"] == "own"
    spec = made["Deployment"]["spec"]["template"]["spec"]
    assert (spec["serviceAccountName"], spec["automountServiceAccountToken"]) == ("own", True)
    assert "volumeMounts" not in spec["initContainers"][0]


def test_without_a_proxy_there_is_nothing_of_it() -> None:
    for model in ({}, {"routing_proxy": False}):
        (deployment,) = compose("llm-d", "llm-d", one(model), MODEL_OPTIONS)
        assert "initContainers" not in deployment["spec"]["template"]["spec"]


REFUSED = [
    (
        {**PROXY, "connector": "nixlv2"},
        {},
        (
            f"{WHERE}.connector: SGLang does not speak 'nixlv2'. Use sglang, which is the default. "
            "To go on regardless, add 'connector' to llm_d_overrides."
        ),
    ),
    (
        {**PROXY, "connector": "sglang", "engine": "vllm"},
        {},
        f"{WHERE}.connector: vLLM does not speak 'sglang'. Use nixlv2, which is the default. It also speaks ",
    ),
    (
        {**PROXY, "connector": "mooncake", "engine": "vllm"},
        {"release": "gaie-1.5"},
        f"{WHERE}.connector: the routing proxy of release gaie-1.5 has no 'mooncake'. It has nixlv2, ",
    ),
    (
        {**PROXY, "port": 8200},
        {},
        f"{WHERE}.engine_port: 8200 is the port of the routing proxy, {WHERE}.port, too. Give them different ports.",
    ),
    *(
        (
            {name: value},
            {},
            f"{WHERE}.{name}: set, but the model has no routing proxy. Set routing_proxy: true, or leave it out.",
        )
        for name, value in (
            ("connector", "sglang"),
            ("engine_port", 8200),
            ("proxy_image", "a/b:c"),
            ("proxy_args", ["--a"]),
            ("proxy_resources", {"limits": {"cpu": 1}}),
        )
    ),
    ({"routing_proxy": "maybe"}, {}, f"{WHERE}.routing_proxy: 'maybe' is not of type bool. "),
    ({**PROXY, "engine_port": 0}, {}, f"{WHERE}.engine_port: 0 is too small. "),
    ({**PROXY, "proxy_resources": {"limit": {}}}, {}, f"{WHERE}.proxy_resources.limit: unknown key. "),
]


@pytest.mark.parametrize(("model", "changed", "finding"), REFUSED)
def test_refused(model: dict[str, Any], changed: dict[str, Any], finding: str) -> None:
    (found,) = findings(model, **changed)
    assert found.startswith(finding)


def test_a_connector_can_be_forced() -> None:
    model = one({**PROXY, "connector": "nixlv2"}, overrides=["connector"])
    assert "--kv-connector=nixlv2" in model["proxy"]["args"]
