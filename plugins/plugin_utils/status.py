# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""How a stack is, against how it is wanted: role ``stack_status`` reports it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ansible_collections.llm_d.multi_engine.plugins.module_utils import documents

from .autoscaling import extremes
from .body_router import NAME as BODY_ROUTER
from .gaie import picker_name
from .objects import workload_kind, workloads_of
from .versions import VersionError, parse

#: Version of the structure that :func:`report` returns. It grows with each key that goes or changes its meaning.
SCHEMA = 1
#: What can be amiss.
CONDITIONS = ("unready", "drift", "version")
#: Hops of all models: they are told once and not for each model.
SHARED = ("gateway", "body-router")
#: What module ``apply`` says when the credentials lack a permission.
_DENIED = "No permission: "
#: Objects that a message names.
_TOLD = 3
#: What applying an object would do to what it is now.
_STATES = {"created": "missing", "changed": "drifted", "removed": "unwanted"}


def wanted_models(resolved: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return for each model of the ``resolved`` stack what has to run, and what its objects are called."""
    return [
        {
            "name": model["name"],
            "engine": model["engine"],
            "version": model["engine_version"],
            "image": model["image"],
            # Whoever scales it may have left that few.
            "replicas": sum(extremes(pods)[0] for pods in workloads_of(model)),
            "autoscaled": bool(model["autoscaling"]),
            "devices": _devices(workloads_of(model)),
            "workloads": [{"kind": workload_kind(pods), "name": pods["workload"]} for pods in workloads_of(model)],
            "body_router": BODY_ROUTER if resolved["body_routing"] else "",
            "picker": picker_name(model),
            "pool": model["pool"],
            "route": model["name"],
        }
        for model in resolved["models"]
    ]


def _devices(workloads: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return the devices of all pods of ``workloads``, of as many as there may be."""
    total: dict[str, int] = {}
    for pods in workloads:
        for name, count in pods["devices"].items():
            total[name] = total.get(name, 0) + count * extremes(pods)[1] * pods["nodes"]
    return total


def report(live: Mapping[str, Any], comparisons: Mapping[str, Mapping[str, Any]], time: str) -> dict[str, Any]:
    """Return what is wanted, what is there and what is amiss, in one structure.

    :param live: what module ``stack_status`` saw.
    :param comparisons: role to the result of module ``apply`` in check mode, empty when it was left out.
    :param time: when that was.
    """
    gateway = live["gateway"]
    models = [_model(model, gateway) for model in live["models"]]
    others = [{**item, "running": [_group(group, {}) for group in item["running"]]} for item in live["others"]]
    drift, unknown = _drift(comparisons)
    failing = {
        "unready": not all(item["ready"] for item in [gateway, *models]),
        # What the API server refuses to apply is not there as it is wanted.
        "drift": bool(drift or others or not all(item["denied"] for item in unknown)),
        "version": not all(model["as_wanted"] for model in models),
    }
    return {
        "schema": SCHEMA,
        "time": time,
        **{name: live[name] for name in ("server", "stack", "namespace", "release")},
        "ok": not any(failing.values()),
        "failing": [name for name in CONDITIONS if failing[name]],
        "gateway": dict(gateway),
        "models": models,
        "others": others,
        "drift": drift,
        "unknown": unknown,
    }


def _model(model: Mapping[str, Any], gateway: Mapping[str, Any]) -> dict[str, Any]:
    hops = [{name: gateway[name] for name in ("hop", "object", "ready", "reason")}, *model["hops"]]
    running = [_group(group, model["wanted"]) for group in model["running"]]
    return {
        "name": model["name"],
        "ready": all(hop["ready"] for hop in hops),
        "as_wanted": all(group["as_wanted"] for group in running),
        **{name: model[name] for name in ("wanted", "endpoints", "devices")},
        "running": running,
        "hops": hops,
        "history": model["history"],
    }


def _group(group: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return pods of one engine and image with the version of the engine.

    The inventory knows it of the image that it names, whatever its tag; of others the tag tells it.

    :param wanted: what is wanted of their model, empty when it is not in the inventory.
    """
    same_engine = group["engine"] == wanted.get("engine")
    same_image = same_engine and group["image"] == wanted["image"]
    version = wanted["version"] if same_image else version_of(group["image"])
    return {**group, "version": version, "as_wanted": same_engine and _equal(version, wanted["version"])}


def version_of(image: str) -> str:
    """Return the version in the tag of ``image``; nothing when it has none that can be read."""
    _name, colon, tag = image.partition("@")[0].rpartition(":")
    if not colon or "/" in tag:
        return ""
    # What stands behind a dash is how the image was built.
    version = tag.removeprefix("v").partition("-")[0]
    return version if _equal(version, version) else ""


def _equal(version: str, other: str) -> bool:
    """Whether both are versions, and the same."""
    try:
        return parse(version) == parse(other)
    except VersionError:
        return False


def _drift(comparisons: Mapping[str, Mapping[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return objects that are not as they are wanted, and roles of which this is not known."""
    entries: dict[str, dict[str, Any]] = {}
    unknown = []
    for role, result in comparisons.items():
        # One that fails tells what it has seen until then.
        if "msg" in result:
            unknown.append({"role": role, "denied": _DENIED in result["msg"], "reason": str(result["msg"])})
        diffs = {diff["after_header"]: diff for diff in result.get("diff") or []}
        for item in result.get("objects") or []:
            if item["action"] == "unchanged":
                continue
            state = _STATES.get(item["action"], "drifted")
            fields = changed_fields(diffs.get(item["name"], {})) if state == "drifted" else []
            # All roles make the namespace when it is missing.
            entries.setdefault(item["name"], {"object": item["name"], "role": role, "state": state, "fields": fields})
    return list(entries.values()), unknown


def changed_fields(diff: Mapping[str, str]) -> list[str]:
    """Return the paths of the fields that differ in ``diff``, without their values, which may be secret."""
    before, after = (documents.load(diff.get(side) or "") for side in ("before", "after"))
    return list(_paths(before[0] if before else {}, after[0] if after else {}, ""))


def _paths(before: Any, after: Any, path: str) -> Iterable[str]:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in dict.fromkeys([*after, *before]):
            yield from _paths(before.get(key), after.get(key), _inside(path, key))
    elif _is_objects(before) and _is_objects(after):
        named = all("name" in item for item in [*before, *after])
        befores, afters = (_by_key(items, named) for items in (before, after))
        for key in dict.fromkeys([*afters, *befores]):
            yield from _paths(befores.get(key), afters.get(key), f"{path}[{key}]")
    elif before != after:
        yield path


def _inside(path: str, key: str) -> str:
    if "." in key or "/" in key:
        return f"{path}[{key}]"
    return f"{path}.{key}" if path else key


def _is_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, Mapping) for item in value)


def _by_key(items: Sequence[Mapping[str, Any]], named: bool) -> dict[str, Mapping[str, Any]]:
    return {str(item["name"]) if named else str(index): item for index, item in enumerate(items)}


def complaint(status: Mapping[str, Any], conditions: Sequence[str]) -> str:
    """Return in one sentence why ``status`` is not as it should be; nothing when it is.

    :param conditions: those of :data:`CONDITIONS` that count.
    """
    parts = [_TELL[name](status) for name in status["failing"] if name in conditions]
    return f"Stack {status['stack']}: {'; '.join(parts)}." if parts else ""


def _unready(status: Mapping[str, Any]) -> str:
    names = [hop["hop"] for hop in late_for_all(status)]
    names += [model["name"] for model in status["models"] if late_alone(model)]
    return f"not ready: {', '.join(names)}"


def late_for_all(status: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the hops of all models that are not ready, each once."""
    hops = [status["gateway"], *(hop for model in status["models"] for hop in model["hops"])]
    return list({hop["hop"]: hop for hop in hops if hop["hop"] in SHARED and not hop["ready"]}.values())


def late_alone(model: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the hops of ``model`` alone that are not ready."""
    return [hop for hop in model["hops"] if hop["hop"] not in SHARED and not hop["ready"]]


def _drifted(status: Mapping[str, Any]) -> str:
    names = [entry["object"] for entry in [*status["drift"], *status["others"]]]
    names += [f"role {item['role']} (could not be compared)" for item in status["unknown"] if not item["denied"]]
    names = list(dict.fromkeys(names))
    more = f" and {len(names) - _TOLD} more" if len(names) > _TOLD else ""
    return f"not as the inventory wants it: {', '.join(names[:_TOLD])}{more}"


def _versions(status: Mapping[str, Any]) -> str:
    names = [model["name"] for model in status["models"] if not model["as_wanted"]]
    return f"another engine or version runs: {', '.join(names)}"


_TELL = {"unready": _unready, "drift": _drifted, "version": _versions}
