# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""The objects of roles ``gaie`` and ``model_service`` by model, as they are applied: where they serve, and patched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import body_router, gaie, model_service, patches, prefetch, tracks
from .objects import Object

ByModel = dict[str, list[Object]]


def model_servers(
    resolved: Mapping[str, Any], options: Mapping[str, Any], serving: Mapping[str, Any] | None = None
) -> ByModel:
    """Return the objects of role ``model_service``.

    :param options: of the role, see :func:`model_service.compose`.
    :param serving: by model what serves it, see :func:`tracks.placement`.
    :raises patches.PatchError: when a patch does not fit.
    """
    stack = tracks.overlaid(resolved, serving)
    composed = _model_servers(stack, options)
    elsewhere = {model["name"] for model in stack["models"] if not tracks.is_neutral(model)}
    neutral = composed
    if elsewhere:
        models = [model for model in resolved["models"] if model["name"] in elsewhere]
        neutral = {**composed, **_model_servers({**resolved, "models": models}, options)}
    return {name: tracks.stamped(objects, tracks.revision(neutral[name])) for name, objects in composed.items()}


def _model_servers(resolved: Mapping[str, Any], options: Mapping[str, Any]) -> ByModel:
    by_model = {
        model["name"]: model_service.compose(resolved["stack"], resolved["namespace"], model, options)
        for model in resolved["models"]
    }
    patched = patches.laid_over(by_model, resolved)
    return {name: prefetch.named_by_content(objects) for name, objects in patched.items()}


def routing(
    resolved: Mapping[str, Any], options: Mapping[str, Any], serving: Mapping[str, Any] | None = None
) -> ByModel:
    """Return the objects of role ``gaie``; those of all models together are of a model that is none.

    :param options: of the role, see :func:`gaie.compose`.
    :param serving: by model what serves it, see :func:`tracks.placement`.
    :raises patches.PatchError: when a patch does not fit.
    """
    resolved = tracks.overlaid(resolved, serving)
    composed = {
        model["name"]: gaie.compose(resolved["stack"], resolved["namespace"], model, resolved["release"], options)
        for model in resolved["models"]
    }
    by_model = gaie.stamped(composed, patches.laid_over(composed, resolved))
    # Alone it would make an empty list of models look full.
    if resolved["body_routing"] and resolved["models"]:
        place = resolved["stack"], gaie.ROLE, resolved["namespace"]
        router = resolved["release"]["body_router"]
        by_model[body_router.FILE] = body_router.compose(*place, resolved["models"], router, options)
    return by_model
