# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""One model: from its entry of the inventory, already checked, to a plain dict with every decision made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import (
    api_keys,
    arguments,
    autoscaling,
    compatibility,
    disaggregated,
    images,
    lora,
    multi_node,
    patches,
    precise_prefix,
    prefetch,
    profiles,
    rdma,
    routing_proxy,
    tracks,
    weights,
)
from .catalogue import NEUTRAL
from .findings import Finding, did_you_mean, listing
from .objects import workloads_of
from .versions import is_version, matches

#: Header that llm-d and GAIE route by; GAIE's body-based router sets it too.
MODEL_HEADER = "X-Gateway-Base-Model-Name"
#: What a probe may do.
_HANDLERS = ("httpGet", "tcpSocket", "exec", "grpc")


def resolve(
    entry: dict[str, Any],
    where: str,
    settings: Mapping,
    catalogue: Mapping,
    release: Mapping,
    findings: list[Finding],
) -> dict[str, Any] | None:
    """Return ``entry`` with every decision made, or None when the engine cannot be known.

    The result has the checked keys of ``entry`` and, decided here: ``where``, ``roles`` (its kinds
    of pods where there are several, each like the model itself; what the model then says of pods
    is what is true of those that clients reach), ``track`` and ``pool`` (see :mod:`tracks`),
    ``workload`` (name of its Deployment or LeaderWorkerSet),
    ``worker`` (in what the pods of a replica that do not answer differ, None where there are none),
    ``engine``, ``engine_version``, ``image`` and ``image_source`` (from
    where it is pulled, and where upstream has it), ``image_pull_secrets``, ``accelerator``,
    ``devices`` (Kubernetes resource to count), ``rdma_devices`` and ``rdma_count`` (see :mod:`rdma`), ``command``,
    ``args``, ``port`` (of the pod),
    ``proxy`` (see :mod:`routing_proxy`), ``engine_port``, ``served_name``,
    ``weights`` (volume and path), ``env``, ``api_key`` (Secret and variable, or None), ``probes``, ``drain`` (seconds), ``shm_size``,
    ``cache_path``, ``metrics``, ``http``, ``request_timeout``, ``route``, ``picker_values`` (for
    the endpoint picker's configuration), ``lora`` (see :mod:`lora`) and ``facts`` (what the compatibility rules compare).
    """
    engine = entry.get("engine") or settings.get("engine")
    if not engine:
        remedy = (
            f"Set inference_engine for all models or engine for this one. "
            f"Known engines: {listing(sorted(catalogue['engines']))}."
        )
        findings.append(Finding("engine", f"{where}.engine", "no engine.", remedy))
        return None
    if engine not in catalogue["engines"]:
        if entry.get("engine"):
            check_engine(engine, f"{where}.engine", catalogue, findings)
        return None
    profile = catalogue["engines"][engine]
    version = _engine_version(entry, where, engine, profile, release, findings)
    accelerator = _accelerator(entry, where, engine, profile, settings, findings)
    variant = _variant(entry, where, version, profile, findings)
    _check_routing(entry, where, catalogue, release, findings)
    given = disaggregated.check(entry, where, catalogue["model_schema"], findings)
    if not version or not accelerator or not all(item.overridable for item in findings):
        return None
    facts = profiles.effective(profile, version, accelerator, variant)
    if variant and "{variant}" not in facts["image"]["tag"]:
        problem = f"{variant!r}, but the image for accelerator {accelerator} has no variants."
        findings.append(Finding("image-variant", f"{where}.image_variant", problem, "Leave it out, or set image."))
    model = {**entry, "where": where, "engine": engine, "engine_version": version, "accelerator": accelerator}
    model |= {"track": tracks.STABLE, "pool": entry["name"]}
    model["image_source"] = entry.get("image") or profiles.image(facts, version, variant)
    model["image"] = entry.get("image") or images.mirrored(model["image_source"], *mirror(settings))
    model["image_pull_secrets"] = entry["image_pull_secrets"] or settings["image_pull_secrets"]
    model["weights"] = weights.resolve(entry, *mirror(settings))
    model["served_name"] = entry.get("served_name") or model["weights"]["id"]
    model["vendor"] = facts.get("vendor") or accelerator
    model["command"] = entry.get("command") or list(facts["command"])
    model["pod_ip_env"] = facts.get("pod_ip_env")
    model["cache_path"] = facts["cache_path"]
    model["metrics"] = facts["metrics"]
    model["http"] = facts["http"]
    model["checks_model_name"] = facts["checks_model_name"]
    model["request_timeout"] = entry.get("request_timeout") or facts["http"]["request_timeout"]
    model["lora"] = lora.resolve(model, where, facts, findings)
    model["route"] = _route(entry, model)
    model["patches"] = placed(entry["patches"], f"{where}.patches", findings)
    model["facts"] = _facts(model, release, facts)
    model["autoscaling"] = autoscaling.resolve(entry, where, release, settings, findings)
    model["picker_values"] = {}
    if entry["routing"] == precise_prefix.ROUTING:
        model |= precise_prefix.resolve(model, where, facts, release, settings, findings)
    if entry["topology"] == disaggregated.TOPOLOGY:
        _disaggregate(model, entry, where, given, facts, settings, catalogue, release, findings)
    else:
        name = f"{entry['name']}-{engine}"
        wanted = bool(entry.get("routing_proxy"))
        extra = model.get("event_arguments", [])
        model |= _pods(model, where, name, facts, extra, wanted, settings, catalogue, release, findings)
        model["roles"] = []
    for pods in workloads_of(model):
        pods["disruption_budget"] = _disruption_budget(entry, pods, findings)
        findings += precise_prefix.check(model, pods, facts)
        autoscaling.check_start(pods, findings)
    findings += compatibility.judge(catalogue["rules"], model["facts"], where)
    return model


def _disaggregate(
    model: dict[str, Any],
    entry: Mapping,
    where: str,
    given: Mapping,
    facts: Mapping,
    settings: Mapping,
    catalogue: Mapping,
    release: Mapping,
    findings: list[Finding],
) -> None:
    """Give ``model`` its two kinds of pods."""
    model["roles"] = []
    transfer = disaggregated.transfer(entry, where, model["engine_version"], facts, findings)
    if not transfer:
        return
    facts = {**facts, "connector": transfer["connector"]}
    model["picker_values"] |= disaggregated.decider(entry, where, facts, release, findings)
    found: list[Finding] = []
    for role in disaggregated.ROLES:
        own: list[Finding] = []
        place, side = f"{where}.{role}", transfer[role]
        pods = {**disaggregated.laid_over(model, role, given[role], side), "where": place, "roles": []}
        if role != disaggregated.DECODE:
            # Told of decode pods already, where there is a proxy.
            pods |= {
                "connector": None,
                "engine_port": None,
                "proxy_image": None,
                "proxy_args": [],
                "proxy_resources": {},
            }
        name = f"{model['name']}-{model['engine']}-{role}"
        wanted = role == disaggregated.DECODE
        extra = side["arguments"] + model.get("event_arguments", [])
        pods |= _pods(pods, place, name, facts, extra, wanted, settings, catalogue, release, own)
        model["roles"].append(pods)
        found += disaggregated.relocated(own, where, role, given[role])
    # What is wrong with the model itself is wrong with both.
    findings += dict.fromkeys(found)
    prefill, decode = model["roles"]
    sides = dict(zip(disaggregated.ROLES, model["roles"], strict=True))
    findings += disaggregated.disagreements(sides, where, given, facts)
    model |= {**decode, "where": where, "roles": [prefill, decode]}


def _pods(
    model: Mapping,
    where: str,
    name: str,
    facts: Mapping,
    extra: list[str],
    proxied: bool,
    settings: Mapping,
    catalogue: Mapping,
    release: Mapping,
    findings: list[Finding],
) -> dict[str, Any]:
    """Return what is decided for each kind of pods of a model.

    :param model: the model as these pods see it.
    :param name: what to call their workload.
    :param extra: arguments that its topology needs.
    :param proxied: whether a routing proxy stands in front of the engine.
    """
    pods: dict[str, Any] = {"workload": name, "port": model.get("port") or facts["ports"]["engine"]}
    pods["nodes"] = model["nodes"]
    pods["proxy"] = routing_proxy.resolve(model, where, proxied, facts, release, settings["namespace"], findings)
    pods["engine_port"] = pods["proxy"]["engine_port"] if pods["proxy"] else pods["port"]
    pods["devices"] = _devices(model, where, model["accelerator"], facts, findings)
    several = model["topology"] == disaggregated.TOPOLOGY
    network = rdma.resolve({**model, **pods}, where, several, facts, settings["hosts"], findings)
    pods |= {key: network[key] for key in ("resources", "capabilities", "rdma_devices", "rdma_count")}
    drain = {**facts["drain"]}
    if model.get("drain_seconds") is not None:
        drain["requests_seconds"] = model["drain_seconds"]
    pods["drain"] = {key: drain[key] for key in ("pre_stop_seconds", "requests_seconds", "margin_seconds")}
    _check_engines_of_args(model, where, catalogue, findings)
    extra = extra + multi_node.arguments(model, where, name, facts, findings)
    extra = extra + network["arguments"] + api_keys.arguments(model, facts) + model["lora"]["arguments"]
    pods["args"] = model.get("args") or _arguments({**model, **pods}, where, facts, drain, extra, findings)
    hub = weights.hub_env(settings) if lora.from_hub(model) else {}
    pods["env"] = {**facts["env"], **hub, **network["env"], **model["env"]}
    weights.check_cache(model, where, settings, findings)
    pods["prefetch"] = prefetch.resolve({**model, **pods}, where, facts, settings["hf_offline"], findings)
    pods["probes"] = _probes(model, facts, facts["probes"], model["probes"])
    of_worker = (facts.get("multi_node") or {}).get("worker", {}).get("probes", {})
    pods["worker"] = multi_node.worker(pods, facts, _probes(model, facts, of_worker, {}))
    pods["api_key"] = api_keys.resolve({**model, "probes": pods["probes"]}, where, facts, findings)
    pods["shm_size"] = model.get("shm_size") or facts["shm_size"]
    return pods


def _engine_version(
    entry: Mapping, where: str, engine: str, profile: Mapping, release: Mapping, findings: list[Finding]
) -> str | None:
    place = f"{where}.engine_version"
    pinned = release.get("engines", {}).get(engine)
    version = entry.get("engine_version")
    default = pinned["default"] if pinned else profile.get("default_version")
    if entry.get("image") and not version:
        remedy = "Its tag may say anything: flags, probes and metrics follow engine_version. Set it to the engine's version in the image."
        findings.append(Finding("engine-version", place, f"missing, with image {entry['image']!r}.", remedy))
        return None
    if not version and not default:
        if release:
            problem = f"release {release['name']} names no default version of {engine}."
            findings.append(Finding("engine-version", place, problem, f"Known: {profile['versions']}."))
        return None
    version = version or default
    if not is_version(version):
        remedy = f"Known versions of {engine}: {profile['versions']}."
        findings.append(Finding("engine-version", place, f"{version!r} is not a version.", remedy))
        return None
    version = str(version).removeprefix("v")
    if not matches(version, profile["versions"]):
        problem = f"{engine} {version} is unknown to its profile."
        remedy = f"Known versions: {profile['versions']}."
        findings.append(Finding("engine-version-unknown", place, problem, remedy, overridable=True))
    elif pinned and not matches(version, pinned["versions"]):
        problem = f"release {release['name']} does not allow {engine} {version}."
        remedy = f"Allowed: {pinned['versions']}; its default is {pinned['default']}."
        findings.append(Finding("engine-version-release", place, problem, remedy, overridable=True))
    return version


def _accelerator(
    entry: Mapping, where: str, engine: str, profile: Mapping, settings: Mapping, findings: list[Finding]
) -> str | None:
    accelerator = entry.get("accelerator") or settings["accelerator"]
    known = profile["accelerators"]
    if accelerator in known:
        return accelerator
    place = f"{where}.accelerator" if entry.get("accelerator") else "llm_d_accelerator"
    remedy = f"{did_you_mean(accelerator, known)}{engine} knows: {listing(known)}."
    findings.append(Finding("accelerator", place, f"unknown accelerator {accelerator!r}.", remedy))
    return None


def _variant(entry: Mapping, where: str, version: str | None, profile: Mapping, findings: list[Finding]) -> str:
    variant = entry.get("image_variant") or ""
    if not variant or not version:
        return ""
    place, known = f"{where}.image_variant", profile.get("variants", {})
    if variant not in known:
        remedy = f"{did_you_mean(variant, known)}Known: {listing(known) or 'none'}."
        findings.append(Finding("image-variant", place, f"unknown variant {variant!r}.", remedy, overridable=True))
    elif not matches(version, known[variant].get("versions", "")):
        remedy = f"It exists for {known[variant]['versions']}."
        problem = f"version {version} has no variant {variant!r}."
        findings.append(Finding("image-variant", place, problem, remedy, overridable=True))
    return variant


def _check_routing(entry: Mapping, where: str, catalogue: Mapping, release: Mapping, findings: list[Finding]) -> None:
    """The release's endpoint picker has to have a configuration for topology and routing."""
    if not release:
        return
    topology, routing = entry["topology"], entry["routing"]
    picker = release["endpoint_picker"]
    known = picker["config"].get(topology) or {}
    if not known:
        able = [name for name, data in catalogue["releases"].items() if _picker_config(data).get(topology)]
        problem = (
            f"release {release['name']} has no {topology!r}: {picker['lacks'].get(topology) or 'it says no more'}."
        )
        remedy = f"Use {listing(name for name, configs in picker['config'].items() if configs)}" + (
            f", or one of the releases {listing(able)}." if able else "."
        )
        findings.append(Finding("topology", f"{where}.topology", problem, remedy))
    elif routing not in known:
        reason = picker["lacks"].get(routing)
        problem = f"release {release['name']} has no routing {routing!r}{f': {reason}' if reason else ''}."
        if topology != "aggregated":
            problem = f"{problem[:-1]} for {where}.topology {topology}."
        # What others have is not mistyped.
        configs = [configs for data in catalogue["releases"].values() for configs in _picker_config(data).values()]
        hint = "" if any(routing in (others or {}) for others in configs) else did_you_mean(routing, known)
        remedy = f"{hint}Allowed: {listing(known)}."
        findings.append(Finding("routing", f"{where}.routing", problem, remedy))


def _picker_config(release: Any) -> Mapping[str, Any]:
    """Return a release's configurations; one that nobody has chosen may be the user's and broken."""
    picker = release.get("endpoint_picker") if isinstance(release, Mapping) else None
    config = picker.get("config") if isinstance(picker, Mapping) else None
    return config if isinstance(config, Mapping) else {}


def _devices(entry: Mapping, where: str, accelerator: str, facts: Mapping, findings: list[Finding]) -> dict[str, int]:
    resource = facts.get("resource")
    if not resource:
        if entry.get("gpus") and not facts.get("ignores_gpus"):
            problem = f"accelerator {accelerator!r} has no devices."
            findings.append(Finding("gpus", f"{where}.gpus", problem, "Remove it, or choose another accelerator."))
        if multi_node.is_several(entry):
            problem = f"{entry['nodes']}, but accelerator {accelerator!r} has no devices to spread a replica over."
            findings.append(Finding("nodes", f"{where}.nodes", problem, "Leave it out, or choose another accelerator."))
        return {}
    gpus, nodes = entry.get("gpus") or 1, entry["nodes"]
    all_gpus = gpus * nodes
    tensor, pipeline, data = (entry.get(f"{name}_parallel") or 1 for name in ("tensor", "pipeline", "data"))
    used = tensor * pipeline * data
    if not entry.get("tensor_parallel") and all_gpus % used:
        whole = f"{gpus} gpus" if nodes == 1 else f"{gpus} gpus x {nodes} nodes = {all_gpus}"
        problem = f"pipeline_parallel x data_parallel = {used} does not divide {whole}."
        findings.append(Finding("gpus", f"{where}.gpus", problem, f"Use a multiple of {used}."))
    elif entry.get("tensor_parallel") and used != all_gpus:
        whole = f"gpus is {gpus}" if nodes == 1 else f"gpus x nodes is {gpus} x {nodes} = {all_gpus}"
        problem = f"tensor x pipeline x data parallel = {used}, but {whole}."
        findings.append(Finding("gpus", f"{where}.gpus", problem, "Make them equal, or leave tensor_parallel out."))
    elif nodes > 1:
        multi_node.check_sizes(nodes, gpus, all_gpus // (pipeline * data), pipeline, data, where, findings)
    return {resource: gpus}


def _arguments(
    model: Mapping, where: str, facts: Mapping, drain: Mapping, extra: list[str], findings: list[Finding]
) -> list[str]:
    sizes = {name: model.get(name) for name in ("tensor_parallel", "pipeline_parallel", "data_parallel")}
    gpus = sum(model["devices"].values()) * model["nodes"]
    if gpus and not sizes["tensor_parallel"]:
        sizes["tensor_parallel"] = gpus // ((sizes["pipeline_parallel"] or 1) * (sizes["data_parallel"] or 1)) or 1
    values = {
        **_place(model["weights"], facts),
        "revision": model["weights"]["revision"],
        "served_name": model["served_name"],
        "host": "0.0.0.0",
        "port": model["engine_port"],
        **sizes,
        **{name: model.get(name) for name in NEUTRAL},
    }
    problem = f"engine {model['engine']} {model['engine_version']} has no such setting."
    for name in (*sizes, *NEUTRAL):
        if model.get(name) and name not in facts["arguments"]:
            findings.append(Finding("setting", f"{where}.{name}", problem, "Leave it out for this engine."))
    if values["revision"] and "revision" not in facts["arguments"]:
        problem = f"engine {model['engine']} {model['engine_version']} takes no revision."
        findings.append(Finding("setting", f"{where}.source", problem, f"Leave @{values['revision']} out."))
    composed = arguments.from_settings(facts["arguments"], values)
    composed += facts["fixed_arguments"] + extra
    composed += [part.replace("{value}", str(drain["requests_seconds"])) for part in drain["arguments"]]
    flags = model["engine_args"].get(model["engine"]) or {}
    if not isinstance(flags, Mapping):
        place = f"{where}.engine_args.{model['engine']}"
        findings.append(Finding("engine-args", place, f"{flags!r} is not a dict.", "Write flag: value, one a line."))
        return composed
    _check_flags(flags, model, where, facts, findings)
    return arguments.with_user_flags(composed, flags, bool(facts.get("separate_values")))


def _place(weights: Mapping, facts: Mapping) -> dict[str, Any]:
    """Return where the weights are, as a path or, for an engine that has a flag of its own for it, as a repository."""
    downloaded = not weights["volume"] and "repository" in facts["arguments"]
    return {"repository" if downloaded else "model": weights["path"]}


def _check_engines_of_args(entry: Mapping, where: str, catalogue: Mapping, findings: list[Finding]) -> None:
    """Blocks of other engines are ignored, those of engines that do not exist are mistyped."""
    for engine in entry["engine_args"]:
        check_engine(str(engine), f"{where}.engine_args.{engine}", catalogue, findings)


def _check_flags(flags: Mapping, model: Mapping, where: str, facts: Mapping, findings: list[Finding]) -> None:
    stands_for = {flag: setting for setting, names in facts["reserved_arguments"].items() for flag in names}
    for flag in flags:
        # Engines read underscores as dashes.
        setting = stands_for.get(arguments.flag_name(str(flag)).replace("_", "-"))
        if setting:
            place = f"{where}.engine_args.{model['engine']}.{flag}"
            problem = "other objects depend on this value."
            findings.append(Finding("engine-args", place, problem, f"Set {setting} of the model instead."))


def _probes(entry: Mapping, facts: Mapping, own: Mapping, over: Mapping) -> dict[str, Any]:
    """Return the engine's ``own`` probes with the user's laid ``over`` them.

    The startup probe's budget is laid over its period.
    """
    probes = {}
    for name, probe in own.items():
        given = over.get(name) or {}
        if any(handler in given for handler in _HANDLERS):
            # Kubernetes takes one of them: the user's replaces ours.
            probe = {key: value for key, value in probe.items() if key not in _HANDLERS or key in given}
        probes[name] = profiles.merge(probe, given)
    if "startup" in probes:
        budget = entry.get("startup_seconds") or facts["startup_seconds"]
        probes["startup"].setdefault("failureThreshold", -(-budget // probes["startup"].get("periodSeconds", 10)))
    return probes


def _disruption_budget(entry: Mapping, pods: Mapping, findings: list[Finding]) -> dict[str, Any]:
    """Return the budget of ``pods`` as Kubernetes writes it; refuse one that lets no node be drained."""
    given, place = entry["disruption_budget"], f"{pods['where']}.disruption_budget"
    if not given:
        return {}
    if len(given) > 1:
        problem = "both min_available and max_unavailable."
        findings.append(Finding("disruption-budget", place, problem, "Kubernetes takes one of them."))
        return {}
    ((name, text),) = given.items()
    value = int(text.rstrip("%"))
    # An autoscaler may leave that few. Without any there is nothing to drain.
    fewest = max(1, autoscaling.extremes(pods)[0])
    if name == "min_available":
        # Kubernetes rounds percentages up.
        kept = -(-value * fewest // 100) if text.endswith("%") else value
        stuck, problem = kept >= fewest, f"{text} of {fewest} replicas have to be available"
    else:
        stuck, problem = value == 0, "no replica may be unavailable"
    if stuck:
        remedy = "Use max_unavailable: 1, or more replicas."
        findings.append(Finding("disruption-budget", place, f"{problem}: no node could be drained.", remedy, True))
    if multi_node.is_several(pods):
        return {"maxUnavailable": max(0, multi_node.pods_away(given, fewest))}
    field = "minAvailable" if name == "min_available" else "maxUnavailable"
    return {field: text if text.endswith("%") else value}


def _route(entry: Mapping, model: Mapping) -> dict[str, Any]:
    given = entry["route"]
    header, adapters = given.get("header"), []
    if not header and not given.get("path"):
        header = {"name": MODEL_HEADER, "value": model["served_name"]}
        adapters = list(dict.fromkeys(adapter["served_name"] for adapter in model["lora"]["adapters"]))
    return {"header": header, "adapters": adapters, "path": given.get("path"), "default": given.get("default")}


def _facts(model: Mapping, release: Mapping, facts: Mapping) -> dict[str, Any]:
    return {
        "release": release.get("name"),
        "engine": model["engine"],
        "engine_version": model["engine_version"],
        "accelerator": model["accelerator"],
        "topology": model["topology"],
        "routing": model["routing"],
        "router": release["endpoint_picker"]["router"] if release else None,
        "kv_events": (facts.get("kv_events") or {}).get("encoding"),
        "cuda": (facts.get("cuda") or {}).get("major"),
        "source": weights.scheme_of(model["source"]),
    }


def check_engine(engine: Any, where: str, catalogue: Mapping, findings: list[Finding]) -> bool:
    """Return whether an engine is named, and say when nobody knows it."""
    engines = catalogue["engines"]
    if not engine or engine in engines or engine in catalogue["refused"]:
        return bool(engine)
    remedy = f"{did_you_mean(engine, engines)}Known engines: {listing(sorted(engines))}."
    findings.append(Finding("engine", where, f"unknown engine {engine!r}.", remedy))
    return False


def placed(given: list[dict], where: str, findings: list[Finding]) -> list[dict[str, Any]]:
    """Return patches with their place, as messages name it."""
    result = [{**patch, "where": f"{where}[{index}]"} for index, patch in enumerate(given)]
    for patch in result:
        patches.check(patch, patch["where"], findings)
    return result


def mirror(settings: Mapping) -> tuple[str, Mapping[str, str]]:
    """Return the registry that takes the place of others, and images that are elsewhere."""
    return settings["image_registry"], settings["images"]
