# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Where a model's weights come from, and the cache that keeps what was downloaded."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from . import images
from .findings import Finding
from .objects import workloads_of

RULE = "weights"
#: Where a volume with weights is mounted.
PATH = "/model"
HUB = "hf"
#: What keeps a cache beyond its pod; one of them.
_LASTING = ("claim", "host_path")
_ENDPOINT = re.compile(r"https?://[^\s/?#]+(/[^\s?#]*[^\s?#/])?")


def scheme_of(source: str) -> str:
    """Return ``hf``, ``pvc``, ``host`` or ``oci``."""
    return source.split("://", 1)[0]


def resolve(model: Mapping[str, Any], registry: str, replaced: Mapping[str, str]) -> dict[str, Any]:
    """Return what a model's ``source`` means: the engine's ``path``, a short ``id`` and the ``volume``.

    :param registry: mirror of images, as :func:`images.mirrored` takes it, and ``replaced``.
    """
    scheme, rest = model["source"].split("://", 1)
    if scheme == HUB:
        repository, _sep, revision = rest.partition("@")
        return {"path": repository, "id": repository, "revision": revision or None, "volume": None}
    if scheme == "pvc":
        claim, _sep, path = rest.partition("/")
        volume = {"persistentVolumeClaim": {"claimName": claim, "readOnly": True}}
        return _mounted(path, claim, volume)
    if scheme == "oci":
        reference, _sep, path = rest.partition("#")
        image = images.mirrored(reference, registry, replaced)
        volume = {"image": {"reference": image, "pullPolicy": model["image_pull_policy"]}}
        return _mounted(path, images.split(reference)[0].rsplit("/", 1)[-1], volume)
    path = "/" + rest.strip("/")
    return _mounted("", path.rsplit("/", 1)[-1], {"hostPath": {"path": path, "type": "Directory"}})


def _mounted(path: str, name: str, volume: dict[str, Any]) -> dict[str, Any]:
    """Return weights in the directory ``path`` of a volume, which is called ``name`` if that is its root."""
    path = path.strip("/")
    inside = f"{PATH}/{path}" if path else PATH
    return {"path": inside, "id": path.rsplit("/", 1)[-1] or name, "revision": None, "volume": volume}


def image_source(source: str) -> str | None:
    """Return the image with the weights as upstream calls it, if they come in one."""
    return source.removeprefix("oci://").partition("#")[0] if source.startswith("oci://") else None


def check_hub(settings: Mapping[str, Any], findings: list[Finding]) -> None:
    """Append what is wrong with the stack's way to Hugging Face."""
    endpoint = settings["hf_endpoint"]
    if endpoint and not _ENDPOINT.fullmatch(endpoint):
        remedy = "Write it like https://hf.example.com, without trailing slash."
        findings.append(Finding(RULE, "llm_d_hf_endpoint", f"{endpoint!r} is not an address.", remedy))


def hub_env(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the environment that tells Hugging Face's library where to download from, or not to."""
    env = {"HF_ENDPOINT": settings["hf_endpoint"], "HF_HUB_OFFLINE": "1" if settings["hf_offline"] else ""}
    return {name: value for name, value in env.items() if value}


def lasting(cache: Mapping[str, Any]) -> list[str]:
    """Return which keys of ``cache`` name a volume that outlives its pod."""
    return [name for name in _LASTING if cache.get(name)]


def check_cache(pods: Mapping[str, Any], where: str, settings: Mapping[str, Any], findings: list[Finding]) -> None:
    """Append where the cache of a kind of pods contradicts itself or the rest, with both places."""
    cache, place = pods["cache"], f"{where}.cache"
    kept = lasting(cache)
    if len(kept) > 1:
        problem = f"{cache['claim']!r}, but {place}.host_path is {cache['host_path']!r}."
        findings.append(Finding(RULE, f"{place}.claim", problem, "One volume keeps the cache: leave one of them out."))
    if kept and cache.get("size"):
        problem = f"{cache['size']!r}, but {place}.{kept[0]} is {cache[kept[0]]!r}."
        remedy = "It limits the emptyDir that is used without the other two: leave one of them out."
        findings.append(Finding(RULE, f"{place}.size", problem, remedy))
    if settings["hf_offline"] and scheme_of(pods["source"]) == HUB and not kept:
        problem = f"true, but {where}.source is {pods['source']!r}, and {place} is an emptyDir that starts empty."
        remedy = "Name a claim or a host_path that has the weights, or use pvc://, host:// or oci://."
        findings.append(Finding(RULE, "llm_d_hf_offline", problem, remedy))


def check_owners(models: Sequence[Mapping[str, Any]], findings: list[Finding]) -> None:
    """Append a finding where models that share a directory of the nodes run as different users."""
    seen: dict[str, tuple[str, Any]] = {}
    for pods in (pods for model in models for pods in workloads_of(model)):
        path, user = (pods["cache"].get("host_path") or "").rstrip("/"), owner(pods)
        if not path:
            continue
        place, other = seen.setdefault(path, (pods["where"], user))
        if other != user:
            problem = f"{_words(user)}, but {place}.run_as is {_words(other)}, and both keep their cache in {path}."
            remedy = "Let them run as the same user, or give each a host_path of its own."
            findings.append(Finding(RULE, f"{pods['where']}.run_as", problem, remedy))


def owner(pods: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return user and group that the engine runs as, None where its image decides."""
    given = pods["run_as"]
    if not given:
        return None
    return given["user"], given.get("group", given["user"])


def _words(user: tuple[int, int] | None) -> str:
    return f"{user[0]}:{user[1]}" if user else "the image's own"


def cache_volume(cache: Mapping[str, Any]) -> dict[str, Any]:
    """Return the volume that keeps downloads and compiled kernels, without its name."""
    if cache.get("claim"):
        return {"persistentVolumeClaim": {"claimName": cache["claim"]}}
    if cache.get("host_path"):
        return {"hostPath": {"path": cache["host_path"], "type": "DirectoryOrCreate"}}
    return {"emptyDir": {"sizeLimit": cache["size"]} if cache.get("size") else {}}


def security_context(pods: Mapping[str, Any]) -> dict[str, Any]:
    """Return as whom a container of the engine's image runs."""
    user = owner(pods)
    return {
        **({"runAsUser": user[0], "runAsGroup": user[1]} if user else {}),
        "allowPrivilegeEscalation": False,
    }


def pod_security_context(pods: Mapping[str, Any]) -> dict[str, Any]:
    """Return what gives the user of an engine its volumes, where Kubernetes can; a hostPath it cannot."""
    user = owner(pods)
    return {"fsGroup": user[1], "fsGroupChangePolicy": "OnRootMismatch"} if user else {}


def owning_containers(pods: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what gives a directory of the node to the user of the engine: the kubelet makes it for root."""
    user = owner(pods)
    if not user or not pods["cache"].get("host_path"):
        return []
    return [
        {
            "name": "cache-owner",
            "image": pods["image"],
            "imagePullPolicy": pods["image_pull_policy"],
            "command": ["chown", "--recursive", f"{user[0]}:{user[1]}", pods["cache_path"]],
            "securityContext": {
                "runAsUser": 0,
                "runAsNonRoot": False,
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"], "add": ["CHOWN", "DAC_OVERRIDE"]},
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "volumeMounts": [{"name": "cache", "mountPath": pods["cache_path"]}],
        }
    ]
