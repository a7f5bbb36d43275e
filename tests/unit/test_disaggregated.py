"""Prefill and decode in pods of their own: what differs, what has to agree, and every way to say it wrong."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils import gaie, model_service
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.catalogue import check_profile
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.gate import stack_findings
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.questions import questions
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.resolve import resolve
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.status import wanted_models
from ansible_collections.llm_d.multi_engine.tests.unit.shipped import (
    GAIE_OPTIONS,
    MODEL_OPTIONS,
    catalogue,
    findings,
    one,
    resolved,
    settings,
)

WHERE = "llm_d_models[0] (qwen)"
PD = {"topology": "disaggregated"}


def sides(model: dict[str, Any], **changed: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the resolved prefill and decode pods of ``model``."""
    prefill, decode = one({**PD, **model}, **changed)["roles"]
    return prefill, decode


def deployments(model: dict[str, Any], **changed: Any) -> dict[str, dict[str, Any]]:
    objects = model_service.compose("llm-d", "llm-d", one({**PD, **model}, **changed), MODEL_OPTIONS)
    return {item["metadata"]["name"]: item for item in objects if item["kind"] == "Deployment"}


def test_two_workloads_that_select_their_own_pods() -> None:
    both = deployments({"prefill": {"replicas": 4}, "decode": {"replicas": 2}})
    assert {name: item["spec"]["replicas"] for name, item in both.items()} == {
        "qwen-sglang-prefill": 4,
        "qwen-sglang-decode": 2,
    }
    selectors = [item["spec"]["selector"]["matchLabels"] for item in both.values()]
    assert [selector["llm-d.ai/role"] for selector in selectors] == ["prefill", "decode"]


def test_the_proxy_is_on_decode_pods_only() -> None:
    prefill, decode = sides({})
    assert prefill["proxy"] is None
    assert decode["proxy"]["connector"] == "sglang"
    # The picker sends requests to one port, wherever they go.
    assert prefill["port"] == decode["port"] == 8000
    assert (prefill["engine_port"], decode["engine_port"]) == (8000, 8200)


@pytest.mark.parametrize("port", [None, 9998])
def test_the_bootstrap_port_is_everywhere_the_same(port: int | None) -> None:
    prefill, decode = sides({"disaggregation": {"bootstrap_port": port}} if port else {})
    flag = f"--disaggregation-bootstrap-port={port or 8998}"
    assert flag in prefill["args"]
    assert flag in decode["args"]
    assert decode["proxy"]["env"] == {"SGLANG_BOOTSTRAP_PORT": str(port or 8998)}
    assert prefill["extra_ports"] == {"bootstrap": port or 8998}


@pytest.mark.parametrize("backend", ["nixl", "mooncake", "mooncake_tcp"])
def test_backends_of_sglang(backend: str) -> None:
    for side, mode in zip(sides({"disaggregation": {"backend": backend}}), ("prefill", "decode"), strict=True):
        assert f"--disaggregation-transfer-backend={backend}" in side["args"]
        assert f"--disaggregation-mode={mode}" in side["args"]


def test_backends_of_vllm() -> None:
    prefill, decode = sides({}, engine="vllm")
    for side in (prefill, decode):
        assert '--kv-transfer-config={"kv_connector":"NixlConnector","kv_role":"kv_both"}' in side["args"]
        assert side["env"]["VLLM_NIXL_SIDE_CHANNEL_HOST"] == "$(POD_IP)"
    assert decode["proxy"]["connector"] == "nixlv2"
    model = {"disaggregation": {"backend": "mooncake"}, "image": "own/vllm:1", "engine_version": "0.30.0"}
    prefill, decode = sides(model, engine="vllm")
    assert '"kv_role":"kv_producer"' in "".join(prefill["args"])
    assert '"kv_role":"kv_consumer"' in "".join(decode["args"])
    assert decode["proxy"]["connector"] == "mooncake"
    assert decode["proxy"]["env"] == {"MOONCAKE_BOOTSTRAP_PORT": "8998"}
    assert prefill["env"]["VLLM_MOONCAKE_BOOTSTRAP_PORT"] == "8998"


def test_settings_of_one_kind_of_pods() -> None:
    prefill, decode = sides(
        {
            "env": {"A": "1", "B": "1"},
            "engine_args": {"sglang": {"log-level": "info"}},
            "resources": {"limits": {"cpu": "8"}},
            "node_selector": {"pool": "all"},
            "prefill": {
                "env": {"A": "2"},
                "engine_args": {"sglang": {"chunked-prefill-size": 8192}},
                "resources": {"limits": {"memory": "16Gi"}},
                "node_selector": {"kind": "prefill"},
            },
            "decode": {"drain_seconds": 600},
        }
    )
    assert {name: prefill["env"][name] for name in "AB"} == {"A": "2", "B": "1"}
    assert prefill["args"][-2:] == ["--log-level=info", "--chunked-prefill-size=8192"]
    assert decode["args"][-1] == "--log-level=info"
    assert prefill["resources"] == {"requests": {}, "limits": {"cpu": "8", "memory": "16Gi"}}
    assert (prefill["node_selector"], decode["node_selector"]) == ({"kind": "prefill"}, {"pool": "all"})
    assert (prefill["drain"]["requests_seconds"], decode["drain"]["requests_seconds"]) == (300, 600)


def pool_and_plugins(model: dict[str, Any], **changed: Any) -> tuple[dict[str, Any], list[str]]:
    stack = resolved({**PD, **model}, **changed)
    objects = gaie.compose("llm-d", "llm-d", stack["models"][0], stack["release"], GAIE_OPTIONS)
    by_kind = {item["kind"]: item for item in objects}
    text = by_kind["ConfigMap"]["data"]["config.yaml"]
    return by_kind["InferencePool"]["spec"], text


@pytest.mark.parametrize("release", ["llm-d-0.9", "llm-d-0.10"])
def test_the_picker(release: str) -> None:
    pool, text = pool_and_plugins({}, release=release)
    # Without the picker a request could go to a prefill pod.
    assert pool["endpointPickerRef"]["failureMode"] == "FailClose"
    assert "llm-d.ai/role" not in pool["selector"]["matchLabels"]
    assert "prefill: always-disagg-pd-decider" in text
    decider = {"decider": "prefix-based", "non_cached_tokens": 32}
    _pool, text = pool_and_plugins({"disaggregation": decider}, release=release, engine="vllm")
    assert "nonCachedTokens: 32" in text
    assert "prefill: prefix-based-pd-decider" in text


def test_clients_and_people_see_both_workloads() -> None:
    stack = resolved({**PD, "gpus": 2, "prefill": {"replicas": 4}, "decode": {"replicas": 2}})
    workloads = [{"kind": "Deployment", "name": f"qwen-sglang-{role}"} for role in ("prefill", "decode")]
    assert questions(stack)[0]["workloads"] == workloads
    (wanted,) = wanted_models(stack)
    assert (wanted["replicas"], wanted["devices"], wanted["workloads"]) == (6, {"nvidia.com/gpu": 12}, workloads)


def test_the_cluster_has_to_have_the_devices_of_each() -> None:
    stack = resolved({**PD, "decode": {"gpus": 8}}, engine="vllm")
    nodes = [{"name": "gpu-1", "schedulable": True, "allocatable": {"nvidia.com/gpu": "4"}}]
    cluster = {"version": "1.35.4", "denied": [], "nodes": nodes, "definitions": None}
    (finding,) = stack_findings(stack, cluster, [])
    assert finding.startswith(f"{WHERE}.decode.gpus: a node offers at most 4 nvidia.com/gpu, ")


#: name of the case, model, settings of the stack, the finding
REFUSED: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    (
        "a picker that cannot",
        PD,
        {"release": "gaie-1.5"},
        (
            f"{WHERE}.topology: release gaie-1.5 has no 'disaggregated': GAIE's own endpoint picker has no plugins that "
            "choose a prefill and a decode pod. Use aggregated, or one of the releases llm-d-0.10, llm-d-0.9."
        ),
    ),
    *(
        (
            f"{name} of an aggregated model",
            {name: value},
            {},
            (
                f"{WHERE}.{name}: set, but {WHERE}.topology is aggregated. "
                f"Set topology: disaggregated, or leave {name} out."
            ),
        )
        for name, value in (
            ("prefill", {"replicas": 2}),
            ("decode", {"replicas": 2}),
            ("disaggregation", {"backend": "nixl"}),
        )
    ),
    (
        "no proxy",
        {**PD, "routing_proxy": False},
        {},
        f"{WHERE}.routing_proxy: false, but {WHERE}.topology is disaggregated. Decode pods need the routing proxy: ",
    ),
    (
        "mistyped key",
        {**PD, "prefill": {"replcas": 2}},
        {},
        f"{WHERE}.prefill.replcas: unknown key. Did you mean 'replicas'? Allowed: ",
    ),
    ("key of models only", {**PD, "decode": {"engine": "vllm"}}, {}, f"{WHERE}.decode.engine: unknown key. "),
    ("no replicas", {**PD, "prefill": {"replicas": 0}}, {}, f"{WHERE}.prefill.replicas: 0 is too small. "),
    ("text for pods", {**PD, "prefill": "two"}, {}, f"{WHERE}.prefill: 'two' is not of type dict. "),
    (
        "gpus of one kind",
        {**PD, "decode": {"gpus": 4, "tensor_parallel": 1}},
        {},
        f"{WHERE}.decode.gpus: tensor x pipeline x data parallel = 1, but gpus is 4. ",
    ),
    (
        "gpus of both, said once",
        {**PD, "gpus": 4, "tensor_parallel": 1},
        {},
        f"{WHERE}.gpus: tensor x pipeline x data parallel = 1, but gpus is 4. ",
    ),
    (
        "a reserved argument of both, said once",
        {**PD, "engine_args": {"sglang": {"disaggregation-mode": "null"}}},
        {},
        f"{WHERE}.engine_args.sglang.disaggregation-mode: other objects depend on this value. Set topology of ",
    ),
    (
        "page size",
        {**PD, "page_size": 64, "decode": {"page_size": 32}},
        {},
        (
            f"{WHERE}.prefill.page_size: 64, but {WHERE}.decode.page_size is 32: prefill and decode pods of SGLang refuse "
            "each other otherwise. Give both the same. "
            "To go on regardless, add 'disaggregation-page-size' to llm_d_overrides."
        ),
    ),
    (
        "page size in arguments",
        {**PD, "prefill": {"engine_args": {"sglang": {"page-size": 128}}}},
        {},
        f"{WHERE}.prefill.page_size: 128, but {WHERE}.decode.page_size is the engine's own: ",
    ),
    (
        "data type of the KV cache",
        {**PD, "decode": {"kv_cache_dtype": "fp8"}},
        {"engine": "vllm"},
        f"{WHERE}.prefill.kv_cache_dtype: the engine's own, but {WHERE}.decode.kv_cache_dtype is fp8: vLLM checks in ",
    ),
    (
        "tensor parallelism of SGLang",
        {**PD, "prefill": {"gpus": 1}, "decode": {"gpus": 4}},
        {},
        f"{WHERE}.prefill.gpus: 1, but {WHERE}.decode.gpus is 4: models without MLA need staging buffers ",
    ),
    (
        "tensor parallelism of vLLM",
        {**PD, "prefill": {"gpus": 4}},
        {"engine": "vllm"},
        f"{WHERE}.prefill.gpus: 4, but {WHERE}.decode.tensor_parallel is 1: vLLM's connector asserts it ",
    ),
    (
        "unknown backend",
        {**PD, "disaggregation": {"backend": "nixel"}},
        {},
        (
            f"{WHERE}.disaggregation.backend: unknown backend 'nixel'. Did you mean 'nixl'? "
            "SGLang has nixl, mooncake, mooncake_tcp."
        ),
    ),
    (
        "backend of other versions",
        {**PD, "disaggregation": {"backend": "mooncake_tcp"}, "engine_version": "0.5.10.post1"},
        {},
        f"{WHERE}.disaggregation.backend: SGLang 0.5.10.post1 has no 'mooncake_tcp'. It exists for >=0.5.16. To go on ",
    ),
    (
        "backend that the image lacks",
        {**PD, "disaggregation": {"backend": "mooncake"}},
        {"engine": "vllm"},
        f"{WHERE}.disaggregation.backend: vLLM's image lacks mooncake-transfer-engine. Set image to one that has it, ",
    ),
    (
        "bootstrap port that nobody needs",
        {**PD, "disaggregation": {"bootstrap_port": 8998}},
        {"engine": "vllm"},
        f"{WHERE}.disaggregation.bootstrap_port: backend 'nixl' of vLLM has no such port. Leave it out.",
    ),
    (
        "connector of another backend",
        {**PD, "connector": "mooncake"},
        {"engine": "vllm"},
        f"{WHERE}.connector: 'mooncake', but {WHERE}.disaggregation.backend 'nixl' goes with 'nixlv2'. Leave it out, ",
    ),
    (
        "connector of another engine",
        {**PD, "connector": "nixlv2"},
        {},
        f"{WHERE}.connector: SGLang does not speak 'nixlv2'. Use sglang, which is the default. ",
    ),
    (
        "unknown decider",
        {**PD, "disaggregation": {"decider": "allways"}},
        {},
        (
            f"{WHERE}.disaggregation.decider: unknown decider 'allways'. Did you mean 'always'? "
            "Release llm-d-0.10 has always, prefix-based."
        ),
    ),
    (
        "decode pods that cannot alone",
        {**PD, "disaggregation": {"decider": "prefix-based"}},
        {},
        (
            f"{WHERE}.disaggregation.decider: 'prefix-based' sends some requests to decode pods only, which SGLang refuses "
            "there. Use always. To go on regardless, add 'decider' to llm_d_overrides."
        ),
    ),
    (
        "ports",
        {**PD, "engine_port": 8000},
        {},
        f"{WHERE}.engine_port: 8000 is the port of the routing proxy, ",
    ),
]


@pytest.mark.parametrize(
    ("model", "changed", "finding"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED]
)
def test_refused(model: dict[str, Any], changed: dict[str, Any], finding: str) -> None:
    found = findings(model, **changed)
    assert len(found) == 1, found
    assert found[0].startswith(finding)


@pytest.mark.parametrize(
    ("model", "changed"),
    [
        ({"page_size": 64, "kv_cache_dtype": "fp8_e5m2"}, {}),
        # Said in two ways, and the same.
        ({"page_size": 64, "decode": {"engine_args": {"sglang": {"page-size": 64}}}}, {}),
        # llm-d's guide.
        ({"prefill": {"gpus": 1}, "decode": {"gpus": 4}}, {"engine": "vllm"}),
        ({"env": {"SGLANG_DISAGG_STAGING_BUFFER": "1"}, "decode": {"gpus": 4}}, {}),
        ({"decode": {"gpus": 4}}, {"overrides": ["disaggregation-tensor-parallel"]}),
        ({"disaggregation": {"decider": "prefix-based"}}, {"engine": "vllm"}),
        ({"routing_proxy": True, "connector": "sglang", "proxy_args": ["--zap-log-level=1"]}, {}),
    ],
)
def test_not_refused(model: dict[str, Any], changed: dict[str, Any]) -> None:
    assert findings({**PD, **model}, **changed) == []


def test_an_engine_that_cannot() -> None:
    given = catalogue()
    del given["engines"]["vllm"]["disaggregation"]
    assert check_profile("vllm", given["engines"]["vllm"]) == []
    (finding,) = resolve(settings(PD, engine="vllm"), given)["findings"]
    assert finding.startswith(f"{WHERE}.topology: vLLM 0.30.0 cannot be disaggregated, as far as its profile knows. ")


@pytest.mark.parametrize(
    ("path", "value", "finding"),
    [
        ("agree", "page_size", "sglang.disaggregation.agree: 'page_size' is not of type list. "),
        ("tensor_parallel", {"compare": "less"}, "sglang.disaggregation.tensor_parallel.compare: 'less' is not "),
        ("decode", {"args": []}, "sglang.disaggregation.decode.args: unknown key. Did you mean 'arguments'? "),
    ],
)
def test_faults_of_a_profile(path: str, value: Any, finding: str) -> None:
    profile = catalogue()["engines"]["sglang"]
    profile["disaggregation"][path] = value
    assert any(str(found).startswith(finding) for found in check_profile("sglang", profile))
