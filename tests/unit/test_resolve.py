"""What the inventory says turned into decisions, and every way to say it wrong."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.resolve import resolve
from ansible_collections.llm_d.multi_engine.tests.unit.shipped import (
    MODEL,
    catalogue,
    findings,
    one,
    resolved,
    settings,
)

WHERE = "llm_d_models[0] (qwen)"


def test_a_model_of_two_keys() -> None:
    model = one()
    decided = {
        "engine": "sglang",
        "engine_version": "0.5.20",
        "workload": "qwen-sglang",
        "image": "docker.io/lmsysorg/sglang:v0.5.20",
        "accelerator": "nvidia",
        "devices": {"nvidia.com/gpu": 1},
        "command": ["python3", "-m", "sglang.launch_server"],
        "port": 8000,
        "served_name": "Qwen/Qwen3-32B",
        "weights": {"path": "Qwen/Qwen3-32B", "id": "Qwen/Qwen3-32B", "revision": None, "volume": None},
        "replicas": 1,
        "topology": "aggregated",
        "routing": "approximate-prefix",
        "request_timeout": "0s",
        "drain": {"pre_stop_seconds": 15, "requests_seconds": 300, "margin_seconds": 15},
    }
    assert {key: model[key] for key in decided} == decided
    assert model["args"] == [
        "--model-path=Qwen/Qwen3-32B",
        "--served-model-name=Qwen/Qwen3-32B",
        "--host=0.0.0.0",
        "--port=8000",
        "--tp-size=1",
        "--enable-metrics",
    ]


def test_the_stack() -> None:
    stack = resolved({}, {"name": "llama", "source": "hf://a/b", "engine": "vllm"})
    assert (stack["stack"], stack["namespace"], stack["release"]["name"]) == ("llm-d", "llm-d", "llm-d-0.10")
    assert set(stack["engines"]) == {"sglang", "vllm"}
    assert stack["notes"] == [
        "Model llama names its own engine vllm; inference_engine=sglang does not change it.",
    ]


def test_a_stack_without_models_has_its_default_engine() -> None:
    stack = resolved()
    assert (stack["models"], set(stack["engines"])) == ([], {"sglang"})


def test_neutral_settings_survive_a_change_of_engine() -> None:
    neutral = {"gpus": 2, "context_length": 32768, "memory_fraction": 0.9, "tool_call_parser": "hermes"}
    assert one(neutral)["args"][4:] == [
        "--tp-size=2",
        "--context-length=32768",
        "--mem-fraction-static=0.9",
        "--tool-call-parser=hermes",
        "--enable-metrics",
    ]
    assert one(neutral, engine="vllm")["args"][4:] == [
        "--tensor-parallel-size=2",
        "--max-model-len=32768",
        "--gpu-memory-utilization=0.9",
        "--enable-auto-tool-choice",
        "--tool-call-parser=hermes",
        "--shutdown-timeout=300",
    ]


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ({"source": "hf://a/b@main"}, {"path": "a/b", "id": "a/b", "revision": "main", "volume": None}),
        (
            {"source": "pvc://claim/models/qwen/"},
            {
                "path": "/model/models/qwen",
                "id": "qwen",
                "revision": None,
                "volume": {"persistentVolumeClaim": {"claimName": "claim", "readOnly": True}},
            },
        ),
        (
            {"source": "pvc://claim"},
            {
                "path": "/model",
                "id": "claim",
                "revision": None,
                "volume": {"persistentVolumeClaim": {"claimName": "claim", "readOnly": True}},
            },
        ),
        (
            {"source": "host:///srv/models/qwen"},
            {
                "path": "/model",
                "id": "qwen",
                "revision": None,
                "volume": {"hostPath": {"path": "/srv/models/qwen", "type": "Directory"}},
            },
        ),
    ],
)
def test_sources(model: dict[str, Any], expected: dict[str, Any]) -> None:
    assert one(model)["weights"] == expected


@pytest.mark.parametrize(
    ("model", "key", "value"),
    [
        ({"served_name": "q"}, "served_name", "q"),
        ({"port": "8080"}, "port", 8080),
        ({"command": ["run"]}, "command", ["run"]),
        ({"args": ["--all"]}, "args", ["--all"]),
        ({"engine_version": "v0.5.19"}, "engine_version", "0.5.19"),
        ({"engine_version": "0.5.19"}, "image", "docker.io/lmsysorg/sglang:v0.5.19"),
        ({"image_variant": "-runtime"}, "image", "docker.io/lmsysorg/sglang:v0.5.20-runtime"),
        ({"image": "mirror/sglang:mine", "engine_version": "0.5.20"}, "image", "mirror/sglang:mine"),
        ({"accelerator": "cpu"}, "devices", {}),
        ({"gpus": "4"}, "devices", {"nvidia.com/gpu": 4}),
        ({"request_timeout": "300s"}, "request_timeout", "300s"),
        ({"shm_size": "1Gi"}, "shm_size", "1Gi"),
        ({"drain_seconds": 0}, "drain", {"pre_stop_seconds": 15, "requests_seconds": 0, "margin_seconds": 15}),
    ],
)
def test_overrides_of_a_model(model: dict[str, Any], key: str, value: Any) -> None:
    assert one(model)[key] == value


@pytest.mark.parametrize(
    ("model", "sizes"),
    [
        ({"gpus": 8}, ["--tp-size=8"]),
        ({"gpus": 8, "data_parallel": 2}, ["--tp-size=4", "--dp-size=2"]),
        ({"gpus": 8, "data_parallel": 2, "pipeline_parallel": 4}, ["--tp-size=1", "--pp-size=4", "--dp-size=2"]),
        ({"gpus": 8, "tensor_parallel": 8}, ["--tp-size=8"]),
        ({"gpus": 8, "tensor_parallel": 4, "pipeline_parallel": 2}, ["--tp-size=4", "--pp-size=2"]),
        ({"accelerator": "cpu"}, []),
        ({"accelerator": "cpu", "tensor_parallel": 2}, ["--tp-size=2"]),
    ],
)
def test_parallel_sizes(model: dict[str, Any], sizes: list[str]) -> None:
    assert [argument for argument in one(model)["args"] if argument.split("=")[0].endswith("p-size")] == sizes


def test_only_the_engines_own_arguments_count() -> None:
    model = {"engine_args": {"sglang": {"schedule-conservativeness": 0.3}, "vllm": {"enforce-eager": True}}}
    assert one(model)["args"][-1] == "--schedule-conservativeness=0.3"
    assert one(model, engine="vllm")["args"][-1] == "--enforce-eager"


def test_drain_time_reaches_the_engine() -> None:
    assert "--shutdown-timeout=42" in one({"drain_seconds": 42}, engine="vllm")["args"]


@pytest.mark.parametrize(
    ("model", "route"),
    [
        ({}, {"header": {"name": "X-Gateway-Base-Model-Name", "value": "Qwen/Qwen3-32B"}, "path": None}),
        ({"route": {"path": "/qwen"}}, {"header": None, "path": "/qwen"}),
        (
            {"route": {"header": {"name": "X-Model", "value": "q"}, "path": "/qwen"}},
            {"header": {"name": "X-Model", "value": "q"}, "path": "/qwen"},
        ),
    ],
)
def test_routes(model: dict[str, Any], route: dict[str, Any]) -> None:
    assert one(model)["route"] == {**route, "adapters": [], "default": True}
    first, second = resolved(model, {"name": "other", "source": "hf://a/b"})["models"]
    assert first["route"] == {**route, "adapters": [], "default": False}
    assert second["route"]["default"] is False


def test_the_default_route_can_be_declined_and_given() -> None:
    assert one({"route": {"default": False}})["route"]["default"] is False
    models = resolved({"route": {"default": True}}, {"name": "other", "source": "hf://a/b"})["models"]
    assert [model["route"]["default"] for model in models] == [True, False]


@pytest.mark.parametrize(
    ("probes", "name", "expected"),
    [
        ({}, "startup", {"httpGet": {"path": "/ready"}, "failureThreshold": 360}),
        ({"startup": {"periodSeconds": "5"}}, "startup", {"periodSeconds": 5, "failureThreshold": 720}),
        ({"startup": {"failureThreshold": 3}}, "startup", {"failureThreshold": 3}),
        ({"readiness": {"httpGet": {"path": "/x"}}}, "readiness", {"httpGet": {"path": "/x"}, "periodSeconds": 5}),
        ({"liveness": {"exec": {"command": ["true"]}}}, "liveness", {"exec": {"command": ["true"]}}),
    ],
)
def test_probes(probes: dict[str, Any], name: str, expected: dict[str, Any]) -> None:
    probe = one({"probes": probes})["probes"][name]
    assert {key: probe[key] for key in expected} == expected
    assert len(probe.keys() & {"httpGet", "exec", "tcpSocket", "grpc"}) == 1


def test_the_startup_budget_is_spread_over_the_period() -> None:
    model = one({"startup_seconds": 601, "probes": {"startup": {"periodSeconds": 10}}})
    assert model["probes"]["startup"]["failureThreshold"] == 61


def test_defaults_of_all_models() -> None:
    models = resolved(
        {}, {"name": "other", "source": "hf://a/b", "gpus": 2}, model_defaults={"gpus": 8, "dtype": "bfloat16"}
    )["models"]
    assert [model["devices"] for model in models] == [{"nvidia.com/gpu": 8}, {"nvidia.com/gpu": 2}]
    assert all("--dtype=bfloat16" in model["args"] for model in models)


ENGINES = "Known engines: sglang, simulator, vllm."
REFUSED: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    # name of the case, model, settings, the finding
    (
        "unknown engine of all",
        {},
        {"engine": "sglagn"},
        f"inference_engine: unknown engine 'sglagn'. Did you mean 'sglang'? {ENGINES}",
    ),
    (
        "unknown engine of one",
        {"engine": "vlm"},
        {},
        f"{WHERE}.engine: unknown engine 'vlm'. Did you mean 'vllm'? {ENGINES}",
    ),
    (
        "no engine",
        {},
        {"engine": ""},
        f"{WHERE}.engine: no engine. Set inference_engine for all models or engine for this one. {ENGINES}",
    ),
    (
        "unknown release",
        {},
        {"release": "llm-d-0.11"},
        (
            "llm_d_release: unknown release 'llm-d-0.11'. Did you mean 'llm-d-0.10'? "
            "Known releases: gaie-1.5, llm-d-0.10, llm-d-0.6, llm-d-0.9."
        ),
    ),
    (
        "unknown accelerator of all",
        {},
        {"accelerator": "nvida"},
        "llm_d_accelerator: unknown accelerator 'nvida'. Did you mean 'nvidia'? sglang knows: nvidia, amd-mi30x, amd-mi35x, cpu.",
    ),
    (
        "unknown accelerator of one",
        {"accelerator": "amd"},
        {},
        f"{WHERE}.accelerator: unknown accelerator 'amd'. sglang knows: nvidia, amd-mi30x, amd-mi35x, cpu.",
    ),
    (
        "unknown topology",
        {"topology": "disagregated"},
        {},
        f"{WHERE}.topology: 'disagregated' is not allowed. ",
    ),
    (
        "unknown routing",
        {"routing": "aproximate-prefix"},
        {},
        (
            f"{WHERE}.routing: release llm-d-0.10 has no routing 'aproximate-prefix'. "
            "Did you mean 'approximate-prefix'? Allowed: approximate-prefix"
        ),
    ),
    (
        "no name",
        {"name": None},
        {},
        "llm_d_models[0].name: missing. Allowed: a lower-case DNS label of at most 40 characters, such as qwen3-32b.",
    ),
    ("no source", {"source": None}, {}, f"{WHERE}.source: missing. Allowed: hf://ORG/NAME[@REVISION], "),
    (
        "unknown source",
        {"source": "Qwen/Qwen3"},
        {},
        f"{WHERE}.source: 'Qwen/Qwen3' is not valid. Allowed: hf://ORG/NAME[@REVISION], ",
    ),
    ("name with capitals", {"name": "Qwen"}, {}, "llm_d_models[0] (Qwen).name: 'Qwen' is not valid. Allowed: "),
    (
        "name with a dot",
        {"name": "qwen-2.5"},
        {},
        "llm_d_models[0] (qwen-2.5).name: 'qwen-2.5' is not valid. Allowed: ",
    ),
    (
        "name too long",
        {"name": "a" * 41},
        {},
        f"llm_d_models[0] ({'a' * 41}).name: '{'a' * 41}' is not valid. Allowed: a lower-case DNS label of at most 40 ",
    ),
    (
        "engine version unknown to the profile",
        {"engine_version": "0.4.9"},
        {},
        (
            f"{WHERE}.engine_version: sglang 0.4.9 is unknown to its profile. Known versions: >=0.5.5.post1,<=0.5.23. "
            "To go on regardless, add 'engine-version-unknown' to llm_d_overrides."
        ),
    ),
    (
        "engine version not allowed by the release",
        {"engine": "vllm", "engine_version": "0.33.0"},
        {"release": "llm-d-0.9"},
        (
            f"{WHERE}.engine_version: release llm-d-0.9 does not allow vllm 0.33.0. Allowed: >=0.26.0,<=0.32.0; "
            "its default is 0.26.0. To go on regardless, add 'engine-version-release' to llm_d_overrides."
        ),
    ),
    (
        "engine version that is none",
        {"engine_version": "latest"},
        {},
        f"{WHERE}.engine_version: 'latest' is not a version. Known versions of sglang: >=0.5.5.post1,<=0.5.23.",
    ),
    (
        "image without engine_version",
        {"image": "mirror/sglang:mine"},
        {},
        f"{WHERE}.engine_version: missing, with image 'mirror/sglang:mine'. Its tag may say anything: ",
    ),
    (
        "variant of an image without",
        {"image_variant": "-runtime", "accelerator": "amd-mi30x"},
        {},
        (
            f"{WHERE}.image_variant: '-runtime', but the image for accelerator amd-mi30x has no variants. Leave it "
            "out, or set image."
        ),
    ),
    (
        "unknown variant",
        {"image_variant": "-cu12"},
        {},
        f"{WHERE}.image_variant: unknown variant '-cu12'. Did you mean '-cu129'? Known: -cu129, ",
    ),
    (
        "variant of other versions",
        {"image_variant": "-cu129"},
        {},
        (
            f"{WHERE}.image_variant: version 0.5.20 has no variant '-cu129'. It exists for <=0.5.19. "
            "To go on regardless, add 'image-variant' to llm_d_overrides."
        ),
    ),
    (
        "zero replicas",
        {"replicas": 0},
        {},
        f"{WHERE}.replicas: 0 is too small. Allowed: a whole number, at least 1.",
    ),
    (
        "negative replicas",
        {"replicas": -1},
        {},
        f"{WHERE}.replicas: -1 is too small. Allowed: a whole number, at least 1.",
    ),
    ("zero gpus", {"gpus": 0}, {}, f"{WHERE}.gpus: 0 is too small. Allowed: a whole number, at least 1."),
    ("half a gpu", {"gpus": 0.5}, {}, f"{WHERE}.gpus: 0.5 is not of type int. Allowed: a whole number, at least 1."),
    (
        "gpus that others do not divide",
        {"gpus": 8, "pipeline_parallel": 3},
        {},
        f"{WHERE}.gpus: pipeline_parallel x data_parallel = 3 does not divide 8 gpus. Use a multiple of 3.",
    ),
    (
        "gpus that are not what is used",
        {"gpus": 8, "tensor_parallel": 4},
        {},
        (
            f"{WHERE}.gpus: tensor x pipeline x data parallel = 4, but gpus is 8. "
            "Make them equal, or leave tensor_parallel out."
        ),
    ),
    (
        "gpus on cpu",
        {"gpus": 1, "accelerator": "cpu"},
        {},
        f"{WHERE}.gpus: accelerator 'cpu' has no devices. Remove it, or choose another accelerator.",
    ),
    (
        "mistyped key",
        {"replcas": 2},
        {},
        f"{WHERE}.replcas: unknown key. Did you mean 'replicas'? Allowed: accelerator, affinity, ",
    ),
    (
        "mistyped key in a dict",
        {"cache": {"claims": "x"}},
        {},
        f"{WHERE}.cache.claims: unknown key. Did you mean 'claim'? Allowed: claim, host_path, prefetch, size, weights_size.",
    ),
    (
        "mistyped key of a probe",
        {"probes": {"startup": {"periodSecond": 1}}},
        {},
        f"{WHERE}.probes.startup.periodSecond: unknown key. Did you mean 'periodSeconds'? Allowed: ",
    ),
    (
        "reserved argument",
        {"engine_args": {"sglang": {"--port": 1}}},
        {},
        f"{WHERE}.engine_args.sglang.--port: other objects depend on this value. Set port of the model instead.",
    ),
    (
        "reserved argument by another name",
        {"engine_args": {"sglang": {"model": "a"}}},
        {},
        f"{WHERE}.engine_args.sglang.model: other objects depend on this value. Set source of the model instead.",
    ),
    (
        "arguments as text",
        {"engine_args": {"sglang": "--a --b"}},
        {},
        f"{WHERE}.engine_args.sglang: '--a --b' is not a dict. Write flag: value, one a line.",
    ),
    (
        "arguments of a mistyped engine",
        {"engine_args": {"sglan": {"a": 1}}},
        {},
        f"{WHERE}.engine_args.sglan: unknown engine 'sglan'. Did you mean 'sglang'? {ENGINES}",
    ),
    (
        "mistyped default of all models",
        {},
        {"model_defaults": {"gpu": 8}},
        "llm_d_model_defaults.gpu: unknown key. Did you mean 'gpus'? Allowed: ",
    ),
    (
        "namespace",
        {},
        {"namespace": "LLM"},
        "llm_d_namespace: 'LLM' is not a DNS label. Allowed: lower-case letters, ",
    ),
    ("stack", {}, {"stack": "a" * 64}, f"llm_d_stack: '{'a' * 64}' is not a DNS label. Allowed: "),
    (
        "overrides as text",
        {},
        {"overrides": "cuda13-driver"},
        "llm_d_overrides: 'cuda13-driver' is not of type list. Allowed: a list.",
    ),
]


@pytest.mark.parametrize(
    ("model", "changed", "finding"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED]
)
def test_refused(model: dict[str, Any], changed: dict[str, Any], finding: str) -> None:
    found = findings(model, **changed)
    assert len(found) == 1
    assert found[0].startswith(finding)


@pytest.mark.parametrize(
    ("models", "finding"),
    [
        (
            {"name": "qwen"},
            "llm_d_models: {'name': 'qwen'} is not a list. Allowed: a list of models, each with name and source.",
        ),
        ("qwen", "llm_d_models: 'qwen' is not a list. Allowed: a list of models, each with name and source."),
        (["qwen"], "llm_d_models[0]: 'qwen' is not of type dict. Allowed: a dict."),
        ([None], "llm_d_models[0]: None is not of type dict. Allowed: a dict."),
    ],
)
def test_models_that_are_none(models: Any, finding: str) -> None:
    assert resolve(settings() | {"models": models}, catalogue())["findings"] == [finding]


OTHER = {"name": "other", "source": "hf://a/b"}


@pytest.mark.parametrize(
    ("first", "second", "finding"),
    [
        (
            {},
            MODEL | {"served_name": "x"},
            "llm_d_models[1].name: name 'qwen' is taken by llm_d_models[0]. Names are unique in a stack.",
        ),
        (
            {},
            OTHER | {"name": "qwen-canary"},
            (
                "llm_d_models[1].name: 'qwen-canary' is what a rollout of llm_d_models[0] (qwen) calls objects of its own."
                " Choose another name."
            ),
        ),
        (
            {},
            {"name": "other"},
            (
                "llm_d_models[1] (other).served_name: 'x-gateway-base-model-name: Qwen/Qwen3-32B' is that of "
                "llm_d_models[0] (qwen).served_name, too. Give one of them another served_name, route.header or route.path."
            ),
        ),
        (
            {"route": {"path": "/a"}},
            OTHER | {"route": {"path": "/a"}},
            "llm_d_models[1] (other).route.path: '/a' is that of llm_d_models[0] (qwen).route.path, too. Give one of them ",
        ),
        (
            {"route": {"header": {"name": "X-Model", "value": "a"}}},
            OTHER | {"route": {"header": {"name": "x-model", "value": "a"}}},
            "llm_d_models[1] (other).route.header: 'x-model: a' is that of llm_d_models[0] (qwen).route.header, too. Give ",
        ),
        (
            {"route": {"default": True}},
            OTHER | {"route": {"default": True}},
            (
                "llm_d_models[1] (other).route.default: true, as llm_d_models[0] (qwen).route.default. "
                "Set it for at most one model."
            ),
        ),
    ],
)
def test_clashes(first: dict[str, Any], second: dict[str, Any], finding: str) -> None:
    found = findings(first, second)
    assert len(found) == 1
    assert found[0].startswith(finding)


def test_a_setting_that_the_engine_lacks() -> None:
    known = catalogue()
    del known["engines"]["sglang"]["arguments"]["reasoning_parser"]
    assert resolve(settings({"reasoning_parser": "qwen3"}), known)["findings"] == [
        f"{WHERE}.reasoning_parser: engine sglang 0.5.20 has no such setting. Leave it out for this engine.",
    ]


def test_a_release_without_a_version_of_the_engine() -> None:
    known = catalogue()
    del known["releases"]["llm-d-0.10"]["engines"]["sglang"]
    assert resolve(settings({}), known)["findings"] == [
        (
            f"{WHERE}.engine_version: release llm-d-0.10 names no default version of sglang. "
            "Known: >=0.5.5.post1,<=0.5.23."
        ),
    ]
    assert resolve(settings({"engine_version": "0.5.20"}), known)["findings"] == []


def test_a_release_of_the_users_own() -> None:
    known = catalogue()
    own = known["releases"]["mine"] = known["releases"].pop("llm-d-0.10")
    del own["evidence"]
    assert resolve(settings({}, release="mine"), known)["findings"] == []
    del own["istio"]
    assert resolve(settings({}, release="mine"), known)["findings"] == [
        "mine (llm_d_release).istio: missing. Allowed: a dict.",
    ]


@pytest.mark.parametrize(
    ("rule", "model", "changed", "image"),
    [
        ("engine-version-unknown", {"engine_version": "0.5.99"}, {}, "docker.io/lmsysorg/sglang:v0.5.99"),
        (
            "engine-version-release",
            {"engine": "vllm", "engine_version": "0.33.0"},
            {"release": "llm-d-0.9"},
            "docker.io/vllm/vllm-openai:v0.33.0",
        ),
        ("image-variant", {"image_variant": "-mine"}, {}, "docker.io/lmsysorg/sglang:v0.5.20-mine"),
        ("image-variant", {"image_variant": "-cu129"}, {}, "docker.io/lmsysorg/sglang:v0.5.20-cu129"),
    ],
)
def test_waved_through(rule: str, model: dict[str, Any], changed: dict[str, Any], image: str) -> None:
    assert len(findings(model, **changed)) == 1
    assert findings(model, overrides=["another"], **changed) == findings(model, **changed)
    assert one(model, overrides=[rule], **changed)["image"] == image


def test_what_is_not_overridable_stays() -> None:
    assert findings({"replicas": 0}, overrides=["schema"]) == findings({"replicas": 0})


def test_every_model_is_looked_at() -> None:
    found = findings({"replicas": 0}, {"name": "b", "gpus": 0}, {"name": "c", "engine": "x", "served_name": "c"})
    assert [text.split(":")[0] for text in found] == [
        "llm_d_models[0] (qwen).replicas",
        "llm_d_models[1] (b).gpus",
        "llm_d_models[2] (c).engine",
    ]


def test_the_input_is_not_changed() -> None:
    given, known = settings({"gpus": "2", "engine_args": {"sglang": {"a": 1}}}), catalogue()
    before = repr(given), repr(known)
    resolve(given, known)
    assert (repr(given), repr(known)) == before
