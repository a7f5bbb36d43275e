# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Two workloads of one model beside each other: what each is called, and what tells whether they run the same.

A model's workload is on a *track*, and behind a *pool*. A change goes from one to the other, so that neither says
which one serves: the route and the selector of its pool do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.llm_d.multi_engine.plugins.module_utils.marks import (
    ADOPTED_SIDE,
    REPLICAS,
    REVISION,
    is_server,
)

from .objects import Object, digest

STABLE, CANARY = TRACKS = ("stable", "canary")
#: Ends of names that rollouts give to pools and routes.
RESERVED = (CANARY, "try")


def other(track: str) -> str:
    """Return the other track."""
    return CANARY if track == STABLE else STABLE


def other_pool(model: str, pool: str) -> str:
    """Return the name of the other pool of ``model``."""
    return f"{model}-{CANARY}" if pool == model else model


def placed(model: Mapping[str, Any], track: str, pool: str) -> dict[str, Any]:
    """Return a resolved ``model`` on ``track``, behind ``pool``."""

    def on(pods: Mapping[str, Any]) -> dict[str, Any]:
        name = neutral_name(model, pods["workload"])
        own = f"{model['name']}-{model['engine']}"
        if track != STABLE:
            name = f"{own}-{track}{name.removeprefix(own)}"
        return {**pods, "track": track, "pool": pool, "workload": name}

    result = {**on(model), "roles": [on(pods) for pods in model["roles"]]}
    renderer = model.get("renderer")
    if renderer:
        # Each pool's picker asks its own.
        name = f"{pool}-render"
        result["renderer"] = {**renderer, "name": name}
        result["picker_values"] = {**model["picker_values"], "render_url": f"http://{name}:{renderer['port']}"}
    return result


def neutral_name(model: Mapping[str, Any], name: str) -> str:
    """Return what the object called ``name`` is called on track ``stable``, behind the model's first pool."""
    for own in (f"{model['name']}-{model['engine']}", model["name"]):
        marked = f"{own}-{CANARY}"
        if name == marked or name.startswith(f"{marked}-"):
            return own + name.removeprefix(marked)
    return name


def is_neutral(model: Mapping[str, Any]) -> bool:
    """Whether ``model`` is where it is without a rollout."""
    return model["track"] == STABLE and model["pool"] == model["name"]


def placement(model: Mapping[str, Any], serving: Mapping[str, Any] | None) -> dict[str, str]:
    """Return ``track`` and ``pool`` of a resolved ``model``: those that serve, where they serve its engine.

    :param serving: what serves the model, see :mod:`serving` of module_utils; None when nothing is known to.
    """
    serving = serving or {}
    if serving.get("track") == ADOPTED_SIDE:
        # Its pool is not ours.
        return {"track": STABLE, "pool": other_pool(model["name"], serving["pool"])}
    track = serving.get("track") if serving.get("engine") == model["engine"] else None
    return {"track": track or STABLE, "pool": serving.get("pool") or model["name"]}


def overlaid(resolved: Mapping[str, Any], serving: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the ``resolved`` stack with each model where it serves."""
    models = [
        placed(model, **placement(model, serving[model["name"]])) if (serving or {}).get(model["name"]) else model
        for model in resolved["models"]
    ]
    return {**resolved, "models": models}


def revision(objects: Sequence[Object]) -> str:
    """Return a digest of what the pods of a model run.

    :param objects: of the model, on track ``stable`` and behind its first pool.
    """
    return digest({item["metadata"]["name"]: _templates(item) for item in objects if is_server(item)})


def stamped(objects: Sequence[Object], of: str) -> list[Object]:
    """Return ``objects`` with revision ``of`` on those that are model servers, and how often they are asked for."""
    return [_annotated(item, of) if is_server(item) else item for item in objects]


def _annotated(item: Object, of: str) -> Object:
    metadata, replicas = item["metadata"], item["spec"].get("replicas")
    noted = {REVISION: of, **({} if replicas is None else {REPLICAS: str(replicas)})}
    return {**item, "metadata": {**metadata, "annotations": {**(metadata.get("annotations") or {}), **noted}}}


def _templates(item: Object) -> Any:
    spec = item["spec"]
    return spec.get("leaderWorkerTemplate") or spec.get("template")
