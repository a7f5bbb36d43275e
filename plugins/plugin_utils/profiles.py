# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Engine profiles: what one engine needs at one version, on one accelerator."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from .placeholders import fill_text
from .versions import matches

Profile = dict[str, Any]


def merge(base: Any, *layers: Any) -> Any:
    """Return a copy of ``base`` with ``layers`` laid over it: dicts are merged by key, everything else is replaced."""
    for over in layers:
        base = _laid_over(base, over)
    # Once, and not for each layer: most of what it costs to resolve a model.
    return copy.deepcopy(base)


def _laid_over(base: Any, over: Any) -> Any:
    if not isinstance(base, Mapping) or not isinstance(over, Mapping):
        return over
    return {**base, **{key: _laid_over(base[key], value) if key in base else value for key, value in over.items()}}


def effective(profile: Mapping[str, Any], version: str, accelerator: str, variant: str = "") -> Profile:
    """Return ``profile`` as it is at ``version`` of the engine on ``accelerator``.

    Laid over each other in this order: the profile, its matching ``by_version`` blocks, the
    image variant, the accelerator. The result has no such blocks any more.

    :param profile: one engine's profile as in ``roles/inference_engine/vars/engines``.
    :param version: version of the engine, such as ``0.5.20``.
    :param accelerator: a key of the profile's ``accelerators``.
    :param variant: suffix of the image's tag, such as ``-runtime``.
    :raises VersionError: when a version or a range cannot be read.
    """
    layers: list[Mapping[str, Any]] = [
        block["set"] for block in profile.get("by_version", []) if matches(version, block["versions"])
    ]
    layers.append(profile.get("variants", {}).get(variant, {}).get("set", {}))
    layers.append(profile["accelerators"][accelerator])
    base = {key: value for key, value in profile.items() if key not in ("by_version", "variants", "accelerators")}
    return merge(base, *layers)


def image(profile: Profile, version: str, variant: str = "") -> str:
    """Return the image reference that an effective ``profile`` composes."""
    parts = {"version": version, "variant": variant, **(profile["image"].get("parts") or {})}
    tag = fill_text(profile["image"]["tag"], parts)
    return f"{profile['image']['repository']}:{tag}"


def devices(engines: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the Kubernetes resources that ``engines`` (name to profile) know accelerators by."""
    accelerators = [facts for profile in engines.values() for facts in profile["accelerators"].values()]
    return sorted({facts["resource"] for facts in accelerators if facts.get("resource")})
