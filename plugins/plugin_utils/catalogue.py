# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Whether an engine profile or a release says everything that the other functions read.

Files of the catalogue are shipped, but an engine or a release may be the user's own: what is missing
there has to be told as a finding and not as a traceback in the middle of a play.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.llm_d.multi_engine.plugins.module_utils import prometheus

from . import profiles, schema
from .findings import Finding
from .versions import VersionError, is_version, matches

Spec = dict[str, Any]


def _dict(**options: Spec) -> Spec:
    return {"type": "dict", "required": True, "options": options}


_TEXT: Spec = {"type": "str", "required": True}
_OPTIONAL_TEXT: Spec = {"type": "str"}
_NUMBER: Spec = {"type": "int", "required": True, "minimum": 0}
_OPTIONAL_NUMBER: Spec = {"type": "int"}
_FLAG: Spec = {"type": "bool", "required": True}
_FREE: Spec = {"type": "dict", "required": True}
_TEXTS: Spec = {"type": "list", "elements": "str", "required": True}
_LIST: Spec = {"type": "list", "elements": "raw", "required": True}
_SECONDS: Spec = {"type": "str", "required": True, "pattern": r"\d+s", "allowed": "seconds such as 3600s"}

#: Settings of a model that profiles may map to flags.
NEUTRAL = (
    "context_length", "memory_fraction", "max_running_requests", "page_size", "kv_cache_dtype",
    "dtype", "quantization", "chat_template", "tool_call_parser", "reasoning_parser",
    "trust_remote_code", "lora_max_rank", "lora_max_active",
)  # fmt: skip
#: What else becomes an argument.
_DECIDED = (
    "model", "repository", "revision", "served_name", "host", "port",
    "tensor_parallel", "pipeline_parallel", "data_parallel",
)  # fmt: skip
_ARGUMENTS: Spec = {
    "type": "dict",
    "required": True,
    "options": {
        name: {"type": "list", "elements": "str", "required": name in ("model", "port")}
        for name in (*_DECIDED, *NEUTRAL)
    },
}

_SIDE: Spec = {
    "type": "dict",
    "options": {
        "arguments": {"type": "list", "elements": "str"},
        "env": {"type": "dict"},
        "ports": {"type": "dict"},
    },
}
_TENSOR_PARALLEL: Spec = {
    "type": "dict",
    "options": {
        "compare": {"type": "str", "required": True, "choices": ["equal", "decode-not-smaller"]},
        "unless_env": _OPTIONAL_TEXT,
        "reason": _TEXT,
    },
}
#: A pod without a server has none.
_SOME_PROBES: Spec = {
    "type": "dict",
    "required": True,
    "options": {name: {"type": "dict"} for name in ("startup", "readiness", "liveness")},
}
#: What an effective profile holds.
_PROFILE = _dict(
    title=_TEXT,
    versions=_TEXT,
    # Of models where neither they nor the release say a version.
    default_version=_OPTIONAL_TEXT,
    # Parts are filled into the tag, as version and variant are.
    image=_dict(repository=_TEXT, tag=_TEXT, parts={"type": "dict", "values": "str"}),
    command=_TEXTS,
    arguments=_ARGUMENTS,
    # Flags take a value as the argument behind them only.
    separate_values={"type": "bool"},
    fixed_arguments=_TEXTS,
    reserved_arguments={"type": "dict", "required": True, "values": _TEXTS},
    env=_FREE,
    pod_ip_env=_OPTIONAL_TEXT,
    cache_path=_TEXT,
    # Of an image that has huggingface_hub.
    python={"type": "list", "elements": "str"},
    shm_size=_TEXT,
    ports=_dict(engine=_NUMBER, behind_proxy=_NUMBER),
    startup_seconds=_NUMBER,
    probes=_dict(startup=_FREE, readiness=_FREE, liveness=_FREE),
    drain=_dict(pre_stop_seconds=_NUMBER, requests_seconds=_NUMBER, margin_seconds=_NUMBER, arguments=_TEXTS),
    metrics=_dict(
        path=_TEXT,
        queued_requests=_TEXT,
        running_requests=_TEXT,
        kv_cache_usage=_OPTIONAL_TEXT,
        lora=_OPTIONAL_TEXT,
        page_size=_OPTIONAL_TEXT,
        pages=_OPTIONAL_TEXT,
        # What rollouts judge by; without them they know of restarts only.
        requests=_OPTIONAL_TEXT,
        errors=_OPTIONAL_TEXT,
        latency=_OPTIONAL_TEXT,
    ),
    # Of an engine that cannot, there is nothing of this.
    lora={"type": "dict", "options": {"arguments": _TEXTS, "flag": _TEXT, "adapter": _TEXT}},
    api_key={
        "type": "dict",
        "options": {"env": _TEXT, "arguments": _TEXTS, "guards": _TEXTS, "open": _TEXTS},
    },
    connector={
        "type": "dict",
        "options": {
            "default": _TEXT,
            "speaks": _TEXTS,
            "bootstrap_port": _OPTIONAL_NUMBER,
            "proxy_env": _FREE,
        },
    },
    disaggregation={
        "type": "dict",
        "options": {
            "default": _TEXT,
            "backends": _FREE,
            "prefill": {**_SIDE, "required": True},
            "decode": {**_SIDE, "required": True},
            "agree": _TEXTS,
            "agree_reason": _TEXT,
            "tensor_parallel": _TENSOR_PARALLEL,
            "decode_alone": _FLAG,
        },
    },
    # Of an engine that uses none, there is nothing.
    rdma={"type": "dict", "options": {"env": _FREE, "one_per_gpu": _FREE, "disaggregated": _TEXTS}},
    multi_node={
        "type": "dict",
        "options": {
            "arguments": _TEXTS,
            "worker": _dict(arguments=_TEXTS, probes=_SOME_PROBES, pre_stop=_TEXTS),
            # Setting of a model to the reason why it does not go with it.
            "lacks": {"type": "dict", "required": True, "values": "str"},
        },
    },
    kv_events={
        "type": "dict",
        "options": {
            "encoding": {"type": "str", "required": True, "choices": ["array", "map"]},
            "engine_type": _TEXT,
            "page_size": _NUMBER,
            "port": _NUMBER,
            "replay_port": _OPTIONAL_NUMBER,
            "arguments": _TEXTS,
            "renders": _FLAG,
        },
    },
    checks_model_name=_FLAG,
    http=_dict(protocol=_TEXT, request_timeout=_TEXT, idle_timeout=_SECONDS),
    cuda={"type": "dict", "options": {"major": _NUMBER}},
    resource=_OPTIONAL_TEXT,
    # Of its devices, as hosts know it. Default is the accelerator's name.
    vendor=_OPTIONAL_TEXT,
    # Whether a model may ask for devices all the same.
    ignores_gpus={"type": "bool"},
)

_BUNDLE = _dict(version=_TEXT, manifest=_TEXT, bundle_annotation=_TEXT, crds=_TEXTS)
_EVIDENCE: Spec = {
    "type": "dict",
    "required": True,
    "options": {"kind": {"type": "str", "required": True, "choices": ["run", "source", "docs"]}, "note": _TEXT},
}
#: What a release holds; ``evidence`` is checked for each of :data:`_FACTS`.
_RELEASE = _dict(
    title=_TEXT,
    kubernetes=_TEXT,
    gateway_api=_BUNDLE,
    gaie=_BUNDLE,
    istio=_dict(version=_TEXT, existing=_TEXT, repository=_TEXT, hub=_TEXT),
    endpoint_picker=_dict(
        image=_TEXT,
        # Version of llm-d's router, nothing of another picker.
        router=_OPTIONAL_TEXT,
        arguments=_TEXTS,
        ports=_dict(ext_proc=_NUMBER, health=_NUMBER, metrics=_NUMBER),
        health_service=_TEXT,
        response_header=_TEXT,
        rules={"type": "list", "elements": "dict", "required": True},
        resources=_FREE,
        # What scores pods by the adapters that they hold, where the engine tells.
        lora_scorer={"type": "dict", "options": {"plugin": _dict(type=_TEXT), "weight": _NUMBER}},
        metrics=_dict(built_in=_TEXTS, plugins=_LIST, config=_FREE),
        # What it counts itself, for rollouts.
        traffic={
            "type": "dict",
            "options": {"path": _TEXT, "requests": _TEXTS, "errors": _TEXTS, "latency": _TEXTS},
        },
        # Of a picker whose metrics were not read, there is nothing.
        load={
            "type": "dict",
            "options": {
                "queued": _TEXT,
                "running": _TEXT,
                # Of one that turns requests down where there is no pod, neither.
                "from_zero": {"type": "dict", "options": {"gates": _TEXTS, "held": _TEXT}},
                "evidence": _EVIDENCE,
            },
        },
        # By topology, then by routing.
        config=_dict(aggregated=_FREE, disaggregated={"type": "dict"}),
        deciders=_FREE,
        # Why a topology or a routing is not among them.
        lacks={"type": "dict", "required": True, "values": "str"},
    ),
    renderer=_dict(
        image=_TEXT,
        command=_TEXTS,
        arguments=_TEXTS,
        port=_NUMBER,
        health=_TEXT,
        replicas=_NUMBER,
        cache_path=_TEXT,
        env=_FREE,
        resources=_FREE,
    ),
    # What models over several nodes need in the cluster.
    leader_worker_set=_dict(versions=_TEXT, chart=_TEXT, crd=_TEXT),
    # Of a release that has none, there is nothing.
    body_router={
        "type": "dict",
        "options": {
            "image": _TEXT,
            "arguments": _TEXTS,
            "ports": _dict(ext_proc=_NUMBER, health=_NUMBER),
            "header": _TEXT,
            "names_label": _FREE,
            "rules": {"type": "list", "elements": "dict", "required": True},
            "replicas": _NUMBER,
            "resources": _FREE,
        },
    },
    routing_proxy=_dict(image=_TEXT, connectors=_TEXTS, arguments=_TEXTS, resources=_FREE),
    engines=_FREE,
    # Of a release that the user wrote nobody asks for it.
    evidence={"type": "dict"},
)
_FACTS = (
    "kubernetes",
    "gateway_api",
    "gaie",
    "istio",
    "endpoint_picker",
    "renderer",
    "leader_worker_set",
    "routing_proxy",
)


def check_profile(name: str, data: Any) -> list[Finding]:
    """Return what is wrong with the engine profile ``name``.

    Each version range and each accelerator is laid over the rest, and the result has to be whole.
    """
    findings: list[Finding] = []
    if not isinstance(data, Mapping):
        return [Finding("profile", name, f"{data!r} is not a dict.", "Describe the engine as the shipped files do.")]
    layers = _check_layers(name, data, findings)
    if findings:
        return findings
    base = {key: value for key, value in data.items() if key not in ("by_version", "variants", "accelerators")}
    schema.check(base, _PROFILE, name, findings)
    if findings:
        return findings
    _check_range(data["versions"], f"{name}.versions", findings)
    _check_selectors(data["metrics"], f"{name}.metrics", findings)
    if data.get("default_version"):
        pinned = {"default": data["default_version"], "versions": data["versions"]}
        _check_default(pinned, f"{name}.default_version", findings)
    for where, layer in layers:
        found: list[Finding] = []
        schema.check(profiles.merge(base, layer), _PROFILE, f"{name}.{where}", found)
        if not found:
            _check_selectors(profiles.merge(base, layer)["metrics"], f"{name}.{where}.metrics", found)
        findings += found
    return findings


def check_release(name: str, data: Any) -> list[Finding]:
    """Return what is wrong with the release ``name``."""
    findings: list[Finding] = []
    schema.check(data, _RELEASE, name, findings)
    if findings:
        return findings
    for key in ("gateway_api", "gaie", "istio"):
        _check_version(data[key]["version"], f"{name}.{key}.version", findings)
    _check_range(data["kubernetes"], f"{name}.kubernetes", findings)
    _check_range(data["istio"]["existing"], f"{name}.istio.existing", findings)
    _check_range(data["leader_worker_set"]["versions"], f"{name}.leader_worker_set.versions", findings)
    for engine, pinned in data["engines"].items():
        _check_engine(pinned, f"{name}.engines.{engine}", findings)
    _check_selectors(data["endpoint_picker"].get("traffic") or {}, f"{name}.endpoint_picker.traffic", findings)
    evidence = data.get("evidence")
    facts = [*_FACTS, *(f"engines.{engine}" for engine in data["engines"])] if evidence is not None else []
    facts += ["body_router"] if facts and data["body_router"] else []
    for fact in facts:
        schema.check(evidence.get(fact), _EVIDENCE, f"{name}.evidence.{fact}", findings)
    for topology, configs in data["endpoint_picker"]["config"].items():
        for routing, config in (configs or {}).items():
            _check_config(config, f"{name}.endpoint_picker.config.{topology}.{routing}", findings)
    for decider, content in data["endpoint_picker"]["deciders"].items():
        options = {"plugin": _dict(type=_TEXT, parameters={"type": "dict"}), "skips_prefill": {"type": "bool"}}
        schema.check(content, _dict(**options), f"{name}.endpoint_picker.deciders.{decider}", findings)
    return findings


def _check_config(config: Any, where: str, findings: list[Finding]) -> None:
    # Whatever else the picker takes is its own.
    known = {"apiVersion": _TEXT, "kind": _TEXT, "plugins": _LIST, "schedulingProfiles": _LIST}
    given = {key: value for key, value in config.items() if key in known} if isinstance(config, Mapping) else config
    schema.check(given, _dict(**known), where, findings)


def _check_layers(name: str, data: Mapping, findings: list[Finding]) -> list[tuple[str, Any]]:
    """Return what is laid over the profile, each with its place."""
    accelerators = schema.check(data.get("accelerators"), _FREE, f"{name}.accelerators", findings) or {}
    blocks = {"type": "list", "elements": "dict", "options": {"versions": _TEXT, "set": _FREE}}
    by_version = schema.check(data.get("by_version") or [], blocks, f"{name}.by_version", findings) or []
    variants = schema.check(data.get("variants") or {}, {"type": "dict"}, f"{name}.variants", findings) or {}
    layers = [(f"accelerators.{key}", value) for key, value in accelerators.items()]
    for index, block in enumerate(by_version):
        if block and block.keys() == {"versions", "set"}:
            _check_range(block["versions"], f"{name}.by_version[{index}].versions", findings)
            layers.append((f"by_version[{index}]", block["set"]))
    options = {"versions": _OPTIONAL_TEXT, "set": {"type": "dict", "default": {}}}
    for key, value in variants.items():
        where = f"{name}.variants.{key}"
        variant = schema.check(value, {"type": "dict", "options": options}, where, findings)
        if variant is not None:
            _check_range(variant.get("versions", ""), f"{where}.versions", findings)
            layers.append((f"variants.{key}", variant.get("set")))
    for where, layer in layers:
        schema.check(layer, {"type": "dict"}, f"{name}.{where}", findings)
    return layers


def _check_engine(pinned: Any, where: str, findings: list[Finding]) -> None:
    own: list[Finding] = []
    schema.check(pinned, _dict(default=_TEXT, versions=_TEXT), where, own)
    if not own:
        _check_range(pinned["versions"], f"{where}.versions", own)
        _check_default(pinned, f"{where}.default", own)
    findings += own


def _check_default(pinned: Mapping, where: str, findings: list[Finding]) -> None:
    """The default version has to be one, and one of those allowed."""
    if not is_version(str(pinned["default"])):
        _check_version(pinned["default"], where, findings)
        return
    try:
        allowed = matches(pinned["default"], pinned["versions"])
    except VersionError:
        # Told of the range.
        return
    if not allowed:
        problem = f"{pinned['default']} is not in {pinned['versions']}."
        findings.append(Finding("version", where, problem, "Choose one of the allowed versions."))


def _check_selectors(metrics: Mapping, where: str, findings: list[Finding]) -> None:
    """What rollouts read has to be names of metrics, or selectors of their samples."""
    for key in ("requests", "errors", "latency"):
        texts = metrics.get(key) or []
        for text in [texts] if isinstance(texts, str) else texts:
            try:
                prometheus.selector(text)
            except prometheus.SelectorError as error:
                findings.append(Finding("metrics", f"{where}.{key}", f"{error}.", "Write it as in PromQL."))


def _check_version(version: Any, where: str, findings: list[Finding]) -> None:
    if not is_version(str(version)):
        findings.append(Finding("version", where, f"{version!r} is not a version.", "Write it like 0.5.20."))


def _check_range(spec: Any, where: str, findings: list[Finding]) -> None:
    try:
        matches("0", str(spec))
    except VersionError as error:
        findings.append(Finding("version", where, f"{error}.", "Write it like >=0.5.20,<0.6."))
