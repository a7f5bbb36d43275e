# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Which models of a stack have to change under traffic, and everything that module ``rollout`` needs for it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from ansible_collections.llm_d.multi_engine.plugins.module_utils.marks import (
    CONFIG_HASH,
    MODEL_LABEL,
    REVISION,
    is_server,
)

from . import composing, questions, rollout, testers
from .objects import Object

_ASKED = ("served_name", "port", "api_key")


def wanted(
    resolved: Mapping[str, Any],
    serving: Mapping[str, Any],
    gaie_options: Mapping[str, Any],
    model_options: Mapping[str, Any],
    prune: bool = True,
) -> list[dict[str, Any]]:
    """Return the changes of the ``resolved`` stack.

    :param serving: by model what serves it, see :mod:`serving` of module_utils.
    :param gaie_options: of role ``gaie``.
    :param model_options: of role ``model_service``.
    :param prune: whether what has been replaced is to go.
    :returns: per model ``model`` (its name), ``plan`` (a ``rollout.Change`` as a dict), ``target`` (see
        :func:`rollout.change`), ``servers`` and ``routing`` (objects of the new one as JSON), ``testers`` (the same of
        what leads theirs to it, nothing where nobody tests), ``question``, ``metrics`` (of ``old``, ``new`` and
        ``picker``, what tells of their requests) and ``drain`` (what tells when the requests of one that was taken over
        are finished).
    :raises patches.PatchError: when a patch does not fit.
    """
    there = [model for model in resolved["models"] if _is_there(serving.get(model["name"]) or {})]
    composed = composing.model_servers({**resolved, "models": there}, model_options, serving)
    found = []
    for model in there:
        name, live = model["name"], serving[model["name"]]
        revision = revision_of(composed[name])
        if not rollout.is_needed(model, live, revision, prune):
            continue
        alone = {**resolved, "models": [model]}
        picker = picker_of(composing.routing(alone, gaie_options, {name: live})[name])
        change, target = rollout.change(model, live, revision, picker)
        place = {name: target}
        # Both behind one pool, for otherwise there is no canary.
        tested = bool(model["rollout"].get("testers") and change.old and not change.apart)
        if tested:
            change = replace(change, testers=testers.headers(resolved, model))
        found.append(
            {
                "model": name,
                "plan": asdict(change),
                "target": target,
                "servers": json.dumps(composing.model_servers(alone, model_options, place)[name]),
                "routing": json.dumps(composing.routing(alone, gaie_options, place)[name]),
                "testers": json.dumps(testers.compose(resolved, model, gaie_options, target)) if tested else "",
                "question": question_of(alone),
                "metrics": _metrics(resolved, model, change),
                "drain": _drain(resolved, model),
            }
        )
    return found


def _is_there(live: Mapping[str, Any]) -> bool:
    return bool(live.get("workloads") or live.get("adopted"))


def question_of(alone: Mapping[str, Any]) -> dict[str, Any]:
    """Return how to ask a pod of the only model of a stack."""
    (question,) = questions.questions(alone)
    return {key: question[key] for key in _ASKED}


def pending(resolved: Mapping[str, Any], serving: Mapping[str, Any], objects: Sequence[Object] = ()) -> list[str]:
    """Return why roles that only apply would take away, replace or miss what serves a model.

    :param objects: model servers that are to be applied, none where there are none among what is.
    """
    revisions = {
        item["metadata"]["labels"][MODEL_LABEL]: item["metadata"]["annotations"][REVISION]
        for item in objects
        if is_server(item)
    }
    reasons = [
        rollout.stuck(model, serving.get(model["name"]), revisions.get(model["name"], ""))
        for model in resolved["models"]
    ]
    return [reason for reason in reasons if reason]


def _metrics(resolved: Mapping[str, Any], model: Mapping[str, Any], change: rollout.Change) -> dict[str, Any]:
    """Return what tells of the requests of old, new and their pickers; nothing of an engine that nobody knows any more."""
    old = change.old["engine"] if change.old else ""
    own = metrics_of(resolved, model)
    return {**own, "old": own["new"] if old == model["engine"] else _traffic(resolved["metrics"].get(old, {}))}


def metrics_of(resolved: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, Any]:
    """Return what tells of the requests of ``model`` (``new``) and of its picker."""
    picker = resolved["release"]["endpoint_picker"]
    return {
        "new": _traffic(model["metrics"]),
        "picker": {**picker["traffic"], "port": picker["ports"]["metrics"]},
    }


def _drain(resolved: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, Any]:
    """Return what counts the requests of any engine, and for how many seconds their end is waited for.

    Labels do not tell the engine of what was taken over.
    """
    known = [model["metrics"], *resolved["metrics"].values()]
    busy = [metrics[name] for metrics in known for name in ("running_requests", "queued_requests") if metrics.get(name)]
    seconds = model["drain"]["pre_stop_seconds"] + model["drain"]["requests_seconds"]
    return {"seconds": seconds, "path": model["metrics"]["path"], "busy": list(dict.fromkeys(busy))}


def _traffic(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {name: metrics[name] for name in ("path", "requests", "errors", "latency") if name in metrics}


def revision_of(objects: Sequence[Object]) -> str:
    """Return the revision of a model by its objects of role ``model_service``."""
    return next(item["metadata"]["annotations"][REVISION] for item in objects if is_server(item))


def picker_of(objects: Sequence[Object]) -> dict[str, Any]:
    """Return what tells whether one pool and its picker will do for old and new."""
    (pool,) = [item["spec"] for item in objects if item["kind"] == "InferencePool"]
    (template,) = [item["spec"]["template"] for item in objects if item["kind"] == "Deployment"]
    return {
        "port": pool["targetPorts"][0]["number"],
        "protocol": pool["appProtocol"],
        "config_hash": template["metadata"]["annotations"][CONFIG_HASH],
    }
