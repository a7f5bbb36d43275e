# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Which entry of an inventory describes model servers that somebody else has made.

What the engine's profile would say anyway is left out, so that the entry reads as a person would write it.
What has no setting is told in words.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from . import profiles
from .arguments import flag_name
from .command_line import flags_of, plain, settings_by_flag
from .disaggregated import DECODE, PREFILL
from .objects import POD_ROLE_LABEL
from .status import version_of
from .versions import VersionError

Facts = Mapping[str, Any]

#: What llm-d's modelservice chart sets for scripts of its images; engines do not read it.
_OF_CHART = {"DP_SIZE", "TP_SIZE", "DP_SIZE_LOCAL"}
_TOKENS = {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"}
#: What Kubernetes assumes of a probe.
_PROBE = {"initialDelaySeconds": 0, "periodSeconds": 10, "timeoutSeconds": 1, "failureThreshold": 3}
#: Field of a pod to the setting of a model, and what Kubernetes fills in.
_POD = {
    "nodeSelector": ("node_selector", None),
    "tolerations": ("tolerations", None),
    "affinity": ("affinity", None),
    "topologySpreadConstraints": ("topology_spread", None),
    "priorityClassName": ("priority_class", None),
    "runtimeClassName": ("runtime_class", None),
    "schedulerName": ("scheduler", "default-scheduler"),
}


def entry_of(
    servers: Sequence[Mapping], pool: Mapping, routes: Sequence[Mapping], catalogue: Mapping, release: Mapping
) -> tuple[dict[str, Any], list[str]]:
    """Return the entry of ``llm_d_models`` that describes ``servers``, and what it cannot say.

    :param servers: live workloads behind ``pool``.
    :param release: release that the stack would have.
    """
    notes: list[str] = []
    sides = {_role(server): _pods(server, catalogue, release, notes) for server in servers}
    if {PREFILL, DECODE} <= sides.keys():
        model = _disaggregated(sides[PREFILL], sides[DECODE])
    else:
        model = next(iter(sides.values()))
        if len(servers) > 1:
            notes.append(f"{len(servers)} workloads serve it; the entry describes the first of them.")
    source = model.pop("source", None) or "hf://ORG/NAME"
    identity = model.get("served_name") or source.rstrip("/").rpartition("/")[2]
    model |= _route(routes, pool["metadata"]["name"], notes)
    return {"name": slug(identity.rpartition("/")[2] or identity), "source": source, **model}, notes


def slug(text: str) -> str:
    """Return ``qwen2-5-0-5b-instruct`` of ``Qwen2.5-0.5B-Instruct``."""
    name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    return re.sub(r"^[^a-z]+", "", name)[:40].rstrip("-") or "model"


def release_like(picker: Mapping | None, releases: Mapping[str, Any], default: str) -> str:
    """Return the release whose endpoint picker runs already; ``default`` where none is like it."""
    image = picker["spec"]["template"]["spec"]["containers"][0]["image"] if picker else ""
    for same in (lambda known: known == image, lambda known: _repository(known) == _repository(image)):
        found = [name for name, release in releases.items() if same(release["endpoint_picker"]["image"])]
        if found and default not in found:
            return found[0]
        if found:
            return default
    return default


def engine_of(container: Mapping, engines: Mapping[str, Any]) -> str | None:
    """Return the engine whose image or command a container has."""
    line = [*(container.get("command") or []), *(container.get("args") or [])]
    for name, profile in engines.items():
        images = [profile["image"], *(facts.get("image") or {} for facts in profile["accelerators"].values())]
        if any(_repository(image.get("repository", "")) == _repository(container["image"]) for image in images):
            return name
    for name, profile in engines.items():
        if line[: len(profile["command"])] == list(profile["command"]):
            return name
    return None


def proxy_of(spec: Mapping, releases: Mapping[str, Any]) -> Mapping | None:
    """Return the container that is llm-d's routing proxy, in front of the engine."""
    known = {_repository(release["routing_proxy"]["image"]) for release in releases.values()}
    for container in [*(spec.get("initContainers") or []), *spec["containers"]]:
        if container["name"] == "routing-proxy" or _repository(container["image"]) in known:
            return container
    return None


def engine_container(spec: Mapping, catalogue: Mapping) -> Mapping:
    """Return the container that is the engine: the first one that an engine's profile knows."""
    proxy = proxy_of(spec, catalogue["releases"])
    others = [container for container in spec["containers"] if container is not proxy]
    return next((one for one in others if engine_of(one, catalogue["engines"])), others[0])


def template_of(server: Mapping) -> Mapping:
    """Return the template of the pods that answer."""
    spec = server["spec"]
    group = spec.get("leaderWorkerTemplate") or {}
    return spec.get("template") or group.get("leaderTemplate") or group["workerTemplate"]


def token_of(container: Mapping) -> Mapping[str, str] | None:
    """Return Secret and key of the token for Hugging Face that a container has, if it has one."""
    for entry in container.get("env") or []:
        reference = (entry.get("valueFrom") or {}).get("secretKeyRef")
        if entry["name"] in _TOKENS and reference:
            return reference
    return None


def _role(server: Mapping) -> str:
    labels = (template_of(server).get("metadata") or {}).get("labels") or {}
    return labels.get(POD_ROLE_LABEL, "")


def _disaggregated(prefill: dict[str, Any], decode: dict[str, Any]) -> dict[str, Any]:
    """Return a model with what both kinds of pods have, and what only one of them has."""
    both = {key: value for key, value in decode.items() if prefill.get(key) == value}
    own = ("routing_proxy", "connector", "port", "engine_port", "source", "engine", "engine_version", "image")
    shared = {key: value for key, value in decode.items() if key in own and key != "routing_proxy"}
    sides = {
        name: {key: value for key, value in pods.items() if key not in both and key not in own}
        for name, pods in ((PREFILL, prefill), (DECODE, decode))
    }
    return {**both, **shared, "topology": "disaggregated", **{name: side for name, side in sides.items() if side}}


def _pods(server: Mapping, catalogue: Mapping, release: Mapping, notes: list[str]) -> dict[str, Any]:
    """Return what one workload says in keys of a model."""
    spec = template_of(server)["spec"]
    container = engine_container(spec, catalogue)
    name = engine_of(container, catalogue["engines"])
    if not name:
        notes.append(
            f"{container['image']} is none of the engines that are known: describe it in a profile of its own."
        )
        return {"replicas": server["spec"].get("replicas", 1)}
    profile = catalogue["engines"][name]
    accelerator, gpus, rest = _devices(container, profile)
    model, facts = _versions(container["image"], name, profile, accelerator, release, notes)
    model = {"engine": name, **model, "replicas": server["spec"].get("replicas", 1), **gpus}
    if accelerator != next(iter(profile["accelerators"])):
        model["accelerator"] = accelerator
    proxy = proxy_of(spec, catalogue["releases"])
    mounts = _mounts(spec, container)
    model |= _arguments(container, facts, mounts, name, gpus.get("gpus", 1), notes)
    model |= _ports(container, proxy, facts, model.pop("listens", None))
    model |= _environment(container, facts, mounts)
    model |= _storage(spec, mounts, container, model, notes)
    model |= {"resources": rest} if rest else {}
    model |= _probes(container, facts, notes)
    for field, (key, filled) in _POD.items():
        if spec.get(field) and spec[field] != filled:
            model[key] = spec[field]
    if spec.get("imagePullSecrets"):
        model["image_pull_secrets"] = [secret["name"] for secret in spec["imagePullSecrets"]]
    return model


def _versions(
    image: str, name: str, profile: Mapping, accelerator: str, release: Mapping, notes: list[str]
) -> tuple[dict[str, Any], Facts]:
    """Return how an image is asked for, and the engine's profile at its version."""
    version = version_of(image)
    pinned = (release.get("engines") or {}).get(name) or {}
    if not version:
        notes.append(f"{image} does not tell the engine's version: set engine_version.")
        facts = profiles.effective(profile, pinned.get("default") or "0", accelerator)
        return {"image": image, "engine_version": pinned.get("default")}, facts
    tag = image.partition("@")[0].rpartition(":")[2]
    variant = tag.removeprefix("v").removeprefix(version)
    asked = {} if pinned.get("default") == version else {"engine_version": version}
    try:
        facts = profiles.effective(profile, version, accelerator, variant)
    except VersionError:
        return {"image": image, "engine_version": version}, profiles.effective(profile, "0", accelerator)
    if profiles.image(facts, version, variant) == image:
        return {**asked, **({"image_variant": variant} if variant else {})}, facts
    return {"image": image, "engine_version": version}, facts


def _devices(container: Mapping, profile: Mapping) -> tuple[str, dict[str, int], dict[str, Any]]:
    """Return accelerator, count of its devices and the other resources of a container."""
    resources = container.get("resources") or {}
    limits = {**(resources.get("requests") or {}), **(resources.get("limits") or {})}
    by_resource: dict[str, str] = {}
    for name, facts in profile["accelerators"].items():
        if facts.get("resource"):
            by_resource.setdefault(facts["resource"], name)
    found = next((resource for resource in by_resource if resource in limits), None)
    rest = {
        side: {name: value for name, value in (resources.get(side) or {}).items() if name != found}
        for side in ("requests", "limits")
    }
    rest = {side: values for side, values in rest.items() if values}
    if found:
        return by_resource[found], {"gpus": int(limits[found])}, rest
    without = [name for name, facts in profile["accelerators"].items() if not facts.get("resource")]
    return (without or list(profile["accelerators"]))[0], {}, rest


def _arguments(
    container: Mapping, facts: Facts, mounts: Mapping[str, Mapping], engine: str, gpus: int, notes: list[str]
) -> dict[str, Any]:
    """Return what the command line says: settings, and as ``engine_args`` what only this engine knows."""
    line = [*(container.get("command") or []), *(container.get("args") or [])]
    head = list(facts["command"])
    if line[: len(head)] != head:
        if container.get("command"):
            notes.append("Its command is a script or another program: it is kept as command and args, as it is.")
            return {"command": container["command"], "args": container.get("args") or []}
        head = []
    flags, rest = flags_of(line[len(head) :])
    settings, known = settings_by_flag(facts), {flag_name(flag) for flag in facts["fixed_arguments"]}
    model: dict[str, Any] = {}
    own: dict[str, Any] = {}
    for flag, value in flags.items():
        setting = settings.get(flag.replace("_", "-"))
        if setting:
            model[setting] = plain(value)
        elif flag not in known:
            own[flag] = plain(value)
    path = model.pop("model", None) or (rest[0] if rest else None)
    if path:
        model["source"] = _source(str(path), mounts)
    for ignored in ("host", "revision"):
        model.pop(ignored, None)
    if int(model.get("tensor_parallel") or 1) == gpus:
        model.pop("tensor_parallel", None)
    if model.get("served_name") == model.get("source", "").removeprefix("hf://"):
        model.pop("served_name", None)
    listens = model.pop("port", None)
    return {**model, **({"engine_args": {engine: own}} if own else {}), "listens": listens and int(listens)}


def _source(path: str, mounts: Mapping[str, Mapping]) -> str:
    """Return the source of weights at ``path`` of the container."""
    if not path.startswith("/"):
        return f"hf://{path}"
    for place in sorted(mounts, key=len, reverse=True):
        if path == place or path.startswith(f"{place.rstrip('/')}/"):
            inside = "/".join(part for part in (mounts[place]["sub"], path[len(place) :].strip("/")) if part)
            volume = mounts[place]["volume"]
            if "persistentVolumeClaim" in volume:
                return f"pvc://{volume['persistentVolumeClaim']['claimName']}/{inside}".rstrip("/")
            if "hostPath" in volume:
                return f"host://{volume['hostPath']['path'].rstrip('/')}/{inside}".rstrip("/")
    return f"host://{path}"


def _mounts(spec: Mapping, container: Mapping) -> dict[str, dict[str, Any]]:
    """Return the volumes of a container by where they are mounted."""
    volumes = {volume["name"]: volume for volume in spec.get("volumes") or []}
    return {
        mount["mountPath"]: {"volume": volumes.get(mount["name"], {}), "sub": mount.get("subPath", ""), "mount": mount}
        for mount in container.get("volumeMounts") or []
    }


def _ports(container: Mapping, proxy: Mapping | None, facts: Facts, listens: int | None) -> dict[str, Any]:
    ports = [port["containerPort"] for port in container.get("ports") or []]
    engine = listens or (ports[0] if ports else facts["ports"]["engine"])
    if not proxy:
        return {} if engine == facts["ports"]["engine"] else {"port": engine}
    flags, _rest = flags_of(proxy.get("args") or [])
    outside = int(flags.get("port") or facts["ports"]["engine"])
    connector = flags.get("kv-connector") or flags.get("connector")
    return {
        "routing_proxy": True,
        **({} if outside == facts["ports"]["engine"] else {"port": outside}),
        **({} if engine == facts["ports"]["behind_proxy"] else {"engine_port": engine}),
        **({} if connector in (None, (facts.get("connector") or {}).get("default")) else {"connector": connector}),
    }


def _environment(container: Mapping, facts: Facts, mounts: Mapping[str, Mapping]) -> dict[str, Any]:
    """Return the environment without what profiles, charts and volumes say."""
    kept = {}
    for entry in container.get("env") or []:
        name, value = entry["name"], entry.get("valueFrom") or entry.get("value", "")
        of_volume = isinstance(value, str) and any(value.startswith(place) for place in mounts)
        given = name in facts["env"] and (facts["env"][name] == value or of_volume)
        if not given and name not in _OF_CHART | _TOKENS and name != facts.get("pod_ip_env"):
            kept[name] = value
    return {"env": kept} if kept else {}


def _storage(
    spec: Mapping, mounts: Mapping[str, Mapping], container: Mapping, model: Mapping, notes: list[str]
) -> dict[str, Any]:
    """Return shared memory, the cache and further volumes of a container."""
    home = {entry["name"]: entry.get("value") or "" for entry in container.get("env") or []}.get("HF_HOME", "")
    result: dict[str, Any] = {}
    volumes, further = [], []
    for place, found in mounts.items():
        volume, empty = found["volume"], found["volume"].get("emptyDir")
        if place == "/dev/shm":
            if (empty or {}).get("sizeLimit"):
                result["shm_size"] = empty["sizeLimit"]
        elif home and (home == place or home.startswith(f"{place.rstrip('/')}/")):
            result |= _cache(volume)
        elif empty is None and not _is_weights(volume, model.get("source", "")):
            volumes.append(volume)
            further.append(found["mount"])
    if volumes:
        result |= {"volumes": list({volume["name"]: volume for volume in volumes}.values()), "volume_mounts": further}
    if spec.get("serviceAccountName") not in (None, "default"):
        notes.append(f"Pods have service account {spec['serviceAccountName']}; engines need none, and ours have none.")
    return result


def _cache(volume: Mapping) -> dict[str, Any]:
    if "persistentVolumeClaim" in volume:
        return {"cache": {"claim": volume["persistentVolumeClaim"]["claimName"]}}
    if "hostPath" in volume:
        return {"cache": {"host_path": volume["hostPath"]["path"]}}
    size = (volume.get("emptyDir") or {}).get("sizeLimit")
    return {"cache": {"size": size}} if size else {}


def _is_weights(volume: Mapping, source: str) -> bool:
    claim = (volume.get("persistentVolumeClaim") or {}).get("claimName")
    path = (volume.get("hostPath") or {}).get("path")
    return bool((claim and source.startswith(f"pvc://{claim}")) or (path and source.startswith(f"host://{path}")))


def _probes(container: Mapping, facts: Facts, notes: list[str]) -> dict[str, Any]:
    """Return in what the probes of a container differ from those of the profile."""
    result: dict[str, Any] = {}
    for name, ours in facts["probes"].items():
        theirs = container.get(f"{name}Probe")
        if not theirs:
            notes.append(f"It has no {name} probe; ours has.")
            continue
        differing: dict[str, Any] = {}
        path = (theirs.get("httpGet") or {}).get("path")
        if path and path != (ours.get("httpGet") or {}).get("path"):
            differing["httpGet"] = {"path": path}
        # How long starting takes is told by startup_seconds of the profile, which leaves more time.
        skipped = {"failureThreshold", "periodSeconds", "initialDelaySeconds"} if name == "startup" else set()
        for key, filled in _PROBE.items():
            if key not in skipped and theirs.get(key, filled) != ours.get(key, filled) and differing:
                differing[key] = theirs.get(key, filled)
        if differing:
            result[name] = differing
    return {"probes": result} if result else {}


def _route(routes: Sequence[Mapping], pool: str, notes: list[str]) -> dict[str, Any]:
    """Return by what requests find the model, where that is one match."""
    matches = [
        match
        for route in routes
        for rule in route["spec"].get("rules") or []
        if any(backend["name"] == pool for backend in rule.get("backendRefs") or [])
        for match in rule.get("matches") or [{}]
    ]
    if not matches:
        notes.append("No route leads to it.")
        return {}
    if len(matches) > 1:
        notes.append(f"Its routes have {len(matches)} matches; the entry has the first.")
    headers, path = matches[0].get("headers") or [], (matches[0].get("path") or {}).get("value", "/")
    result: dict[str, Any] = {}
    if headers:
        result["header"] = {"name": headers[0]["name"], "value": headers[0]["value"]}
    if path != "/":
        result["path"] = path.rstrip("/")
    return {"route": result or {"default": True}}


def _repository(image: str) -> str:
    """Return an image without registry and tag: mirrors keep what is between."""
    name = image.partition("@")[0]
    head, colon, tag = name.rpartition(":")
    name = head if colon and "/" not in tag else name
    first, slash, rest = name.partition("/")
    return rest if slash and ("." in first or ":" in first) else name
