"""Routing by KV events: what engines are told, what the picker is told, and which versions do not go together."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils import gaie, model_service
from ansible_collections.llm_d.multi_engine.tests.unit.shipped import (
    GAIE_OPTIONS,
    MODEL_OPTIONS,
    findings,
    one,
    resolved,
)

WHERE = "llm_d_models[0] (qwen)"
PRECISE = {"routing": "precise-prefix"}
#: The newest SGLang whose events the router is known to read.
SGLANG = {**PRECISE, "engine": "sglang", "engine_version": "0.5.19"}
VLLM = {**PRECISE, "engine": "vllm"}
SECRET = {"name": "token", "key": "HF_TOKEN"}


def picker(model: dict[str, Any], **changed: Any) -> dict[str, Any]:
    """Return the parameters of the picker's plugins by their type."""
    stack = resolved(model, **changed)
    objects = gaie.compose("llm-d", "llm-d", stack["models"][0], stack["release"], GAIE_OPTIONS)
    (text,) = [item["data"]["config.yaml"] for item in objects if item["kind"] == "ConfigMap"]
    return {plugin["type"]: plugin.get("parameters", {}) for plugin in yaml.safe_load(text)["plugins"]}


def served(model: dict[str, Any], release: str = "llm-d-0.10", **options: Any) -> dict[tuple[str, str], dict[str, Any]]:
    objects = model_service.compose("llm-d", "llm-d", one(model, release=release), {**MODEL_OPTIONS, **options})
    return {(item["kind"], item["metadata"]["name"]): item for item in objects}


def test_engines_publish_where_the_picker_listens() -> None:
    events = '"publisher":"zmq","endpoint":"tcp://*:5556"'
    topic = '"topic":"kv@$(POD_IP):8000@Qwen/Qwen3-32B"}'
    assert f"--kv-events-config={{{events},{topic}" in one(SGLANG)["args"]
    (argument,) = [argument for argument in one(VLLM)["args"] if argument.startswith("--kv-events-config")]
    assert argument.startswith('--kv-events-config={"enable_kv_cache_events":true,')
    assert argument.endswith(topic)
    assert one(SGLANG)["extra_ports"] == {"kv-events": 5556}
    assert one(VLLM)["extra_ports"] == {"kv-events": 5556, "kv-replay": 5559}


@pytest.mark.parametrize(("model", "engine"), [(SGLANG, "sglang"), (VLLM, "vllm")])
@pytest.mark.parametrize("size", [None, 16])
def test_one_page_size_for_both(model: dict[str, Any], engine: str, size: int | None) -> None:
    model = {**model, "page_size": size} if size else model
    flag = {"sglang": "--page-size", "vllm": "--block-size"}[engine]
    assert f"{flag}={size or 64}" in one(model)["args"]
    parameters = picker(model)["precise-prefix-cache-producer"]
    assert parameters["tokenProcessorConfig"] == {"blockSizeTokens": size or 64}
    assert parameters["kvEventsConfig"]["engineType"] == engine


def test_the_topic_is_the_port_that_the_picker_knows() -> None:
    model = one({**SGLANG, "routing_proxy": True, "port": 9000})
    assert any("kv@$(POD_IP):9000@" in argument for argument in model["args"])


def test_only_what_the_engine_can_replay_is_asked_for() -> None:
    def discovery(model: dict[str, Any]) -> dict[str, int]:
        return picker(model)["precise-prefix-cache-producer"]["kvEventsConfig"]["podDiscoveryConfig"]

    assert discovery(SGLANG) == {"socketPort": 5556}
    assert discovery(VLLM) == {"socketPort": 5556, "replaySocketPort": 5559}


def test_vllm_makes_the_tokens_itself() -> None:
    objects = served(VLLM)
    service = objects["Service", "qwen-render"]
    pods = objects["Deployment", "qwen-vllm"]["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= pods.items()
    assert ("Deployment", "qwen-render") not in objects
    assert picker(VLLM)["token-producer"] == {
        "modelName": "Qwen/Qwen3-32B",
        "vllm": {"url": "http://qwen-render:8000"},
    }


def test_for_sglang_pods_of_their_own_do() -> None:
    objects = served({**SGLANG, "served_name": "q"}, hf_token_secret=SECRET)
    service, deployment = objects["Service", "qwen-render"], objects["Deployment", "qwen-render"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    # The model's pool does not select them.
    engine = objects["Deployment", "qwen-sglang"]["spec"]["selector"]["matchLabels"]
    assert not engine.items() <= labels.items()
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "docker.io/vllm/vllm-openai-cpu:v0.30.0"
    assert container["args"] == ["Qwen/Qwen3-32B", "--port=8000"]
    assert {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": SECRET}} in container["env"]
    assert picker({**SGLANG, "served_name": "q"})["token-producer"]["modelName"] == "Qwen/Qwen3-32B"


def test_weights_of_a_volume_are_there_for_the_renderer() -> None:
    objects = served({**SGLANG, "source": "pvc://claim/qwen"}, hf_token_secret=SECRET)
    spec = objects["Deployment", "qwen-render"]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert container["args"][0] == "/model/qwen"
    assert {"name": "model", "mountPath": "/model", "readOnly": True} in container["volumeMounts"]
    assert "HF_TOKEN" not in [entry["name"] for entry in container["env"]]


@pytest.mark.parametrize("release", ["llm-d-0.9", "llm-d-0.10"])
@pytest.mark.parametrize(("model", "tokens"), [(SGLANG, "qwen-render"), (VLLM, "qwen-vllm-decode")])
def test_prefill_pods_are_chosen_by_their_caches(release: str, model: dict[str, Any], tokens: str) -> None:
    model = {**model, "topology": "disaggregated"}
    prefill, decode = one(model, release=release)["roles"]
    for pods in (prefill, decode):
        (events,) = [argument for argument in pods["args"] if argument.startswith("--kv-events-config")]
        # The pool's port, wherever the engine listens: by it the picker knows a pod.
        assert "kv@$(POD_IP):8000@" in events
        assert pods["extra_ports"]["kv-events"] == 5556
    assert {"bootstrap", "nixl"} & prefill["extra_ports"].keys()
    plugins = picker(model, release=release)
    assert plugins["precise-prefix-cache-producer"]["tokenProcessorConfig"] == {"blockSizeTokens": 64}
    assert {"prefill-filter", "decode-filter", "disagg-profile-handler"} <= plugins.keys()
    objects = served(model, release=release)
    labels = objects["Deployment", tokens]["spec"]["template"]["metadata"]["labels"]
    assert objects["Service", "qwen-render"]["spec"]["selector"].items() <= labels.items()


def test_one_kind_of_pods_with_other_pages() -> None:
    prefill = {"prefill": {"page_size": 32}, "decode": {"page_size": 32}}
    found = findings({**SGLANG, **prefill, "topology": "disaggregated"})
    assert [message.split(":")[0] for message in found] == [f"{WHERE}.{role}.page_size" for role in prefill]
    assert all("but the endpoint picker counts in 64 tokens" in message for message in found)


@pytest.mark.parametrize("release", ["gaie-1.5", "llm-d-0.9", "llm-d-0.10"])
def test_by_load_alone(release: str) -> None:
    assert set(picker({"routing": "load-aware"}, release=release)) == {"queue-scorer", "kv-cache-utilization-scorer"}
    assert not any("kv-events" in argument for argument in one({"routing": "load-aware"}, release=release)["args"])


@pytest.mark.parametrize(
    ("model", "changed", "finding"),
    [
        (
            PRECISE,
            {},
            (
                f"{WHERE}: kv_events is map, needed is array: that llm-d's router v0.11 reads the KV events of SGLang from "
                "0.5.20 on was not seen; v0.10.0 rejects them (https://github.com/llm-d/llm-d-router/issues/2944). "
                "Use engine_version 0.5.19 or older, or routing approximate-prefix. "
                "To go on regardless, add 'kv-events-router-0.11' to llm_d_overrides."
            ),
        ),
        (
            {**PRECISE, "engine_version": "0.5.20"},
            {"release": "llm-d-0.9"},
            f"{WHERE}: kv_events is map, needed is array: llm-d's router v0.10.0 rejects every batch of KV events ",
        ),
        (
            PRECISE,
            {"release": "gaie-1.5"},
            (
                f"{WHERE}.routing: release gaie-1.5 has no routing 'precise-prefix': GAIE's own endpoint picker has no "
                "plugins that read the engines' KV events. Allowed: approximate-prefix, load-aware."
            ),
        ),
        (
            {**PRECISE, "topology": "disaggregated"},
            {"release": "gaie-1.5"},
            f"{WHERE}.topology: release gaie-1.5 has no 'disaggregated': GAIE's own endpoint picker has no plugins ",
        ),
        (
            {**PRECISE, "topology": "disaggregated"},
            {},
            f"{WHERE}: kv_events is map, needed is array: that llm-d's router v0.11 reads the KV events of SGLang from ",
        ),
        (
            {**SGLANG, "engine_args": {"sglang": {"page-size": 16}}},
            {},
            (
                f"{WHERE}.page_size: 16 on the command line of qwen-sglang, but the endpoint picker counts in 64 tokens. "
                f"Set {WHERE}.page_size, for both. To go on regardless, add 'kv-events-page-size' to llm_d_overrides."
            ),
        ),
    ],
)
def test_refused(model: dict[str, Any], changed: dict[str, Any], finding: str) -> None:
    (found,) = findings(model, **changed)
    assert found.startswith(finding)


@pytest.mark.parametrize(
    ("model", "changed"),
    [
        # The release's own default.
        (PRECISE, {"release": "llm-d-0.9"}),
        (SGLANG, {}),
        ({**VLLM, "engine_version": "0.32.0"}, {}),
        ({**VLLM, "engine_version": "0.32.0"}, {"release": "llm-d-0.9"}),
        (PRECISE, {"overrides": ["kv-events-router-0.11"]}),
        # Without events their encoding does not matter.
        ({"routing": "load-aware"}, {}),
    ],
)
def test_not_refused(model: dict[str, Any], changed: dict[str, Any]) -> None:
    assert findings(model, **changed) == []
