# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""What a revision is kept as, and the way back to it: pure functions.

Objects are kept as they were composed, at every place that a model can be on, so that a rollback composes nothing:
neither another inventory nor another version of this collection makes something else of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ansible_collections.llm_d.multi_engine.plugins.module_utils import history

from . import changes, composing, rollout, tracks
from .objects import Object, digest


def wanted(
    resolved: Mapping[str, Any], gaie_options: Mapping[str, Any], model_options: Mapping[str, Any]
) -> list[dict[str, str]]:
    """Return for each model of the ``resolved`` stack ``model``, ``revision`` and ``asked``, a digest of its objects."""
    servers = composing.model_servers(resolved, model_options)
    routing = composing.routing(resolved, gaie_options)
    return [
        {
            "model": name,
            "revision": changes.revision_of(servers[name]),
            "asked": digest([servers[name], routing[name]]),
        }
        for name in (model["name"] for model in resolved["models"])
    ]


def entry(
    resolved: Mapping[str, Any],
    gaie_options: Mapping[str, Any],
    model_options: Mapping[str, Any],
    one: Mapping[str, str],
) -> dict[str, Any]:
    """Return what is kept of a model that serves, as module ``rollout_history`` takes it.

    :param one: of :func:`wanted`.
    """
    name = one["model"]
    (model,) = [model for model in resolved["models"] if model["name"] == name]
    alone = {**resolved, "models": [model]}
    places = {}
    for track in tracks.TRACKS:
        for pool in (name, tracks.other_pool(name, name)):
            place = {name: {"engine": model["engine"], "track": track, "pool": pool}}
            places[f"{track} {pool}"] = {
                "servers": _without_secrets(composing.model_servers(alone, model_options, place)[name]),
                "routing": _without_secrets(composing.routing(alone, gaie_options, place)[name]),
            }
    content = {
        "model": model,
        "question": changes.question_of(alone),
        "metrics": changes.metrics_of(resolved, model),
        "places": places,
    }
    about = {
        "engine": model["engine"],
        "version": model["engine_version"],
        "image": model["image"],
        "release": resolved["release"]["name"],
    }
    said = {"revision": one["revision"], "asked": one["asked"], **about}
    return {"model": name, "entry": said, "objects": history.pack(content)}


def _without_secrets(objects: Sequence[Object]) -> list[Object]:
    return [item for item in objects if item["kind"] != "Secret"]


def ways(
    known: Mapping[str, Any],
    objects: Mapping[str, Mapping[str, str]],
    serving: Mapping[str, Any] | None,
    model: str = "",
    to: str = "",
    strategy: str = "",
) -> dict[str, Any]:
    """Return the changes that lead back.

    :param known: by model its ``revisions``, ``failure`` and ``returning``.
    :param objects: by model and revision its packed objects.
    :param serving: by model what serves it, see :mod:`serving` of module_utils.
    :param model: the model; empty where only one has a revision to go back to.
    :param to: the revision, or its first letters; empty for the one that served before.
    :param strategy: in the place of the one that was kept.
    :returns: ``changes``, see :func:`changes.wanted`, ``refusals`` and ``words``: what the user should know of
        afterwards.
    """
    if serving is None:
        return _refused("The credentials may not read what serves. Use others by llm_d_kubeconfig.")
    candidates = {name: _candidates(one, serving.get(name)) for name, one in known.items()}
    if not model:
        able = [name for name, found in candidates.items() if found]
        if len(able) > 1:
            found = "\n".join(f"- {name}: to {label(candidates[name][-1])}" for name in sorted(able))
            return _refused(f"Several models can go back; say which one by rollback_model.\n{found}")
        if not able:
            told = "\n".join(f"- {_known(name, one)}" for name, one in sorted(known.items()))
            return _refused("\n".join(["No model has a revision to go back to.", told or "Nothing is known of any."]))
        (model,) = able
    if model not in known:
        names = ", ".join(sorted(known)) or "none"
        return _refused(f"Nothing is known of what served model {model}. Models with a history: {names}.")
    live, told = serving.get(model), _known(model, known[model])
    if not live or not live["workloads"]:
        return _refused(f"Nothing serves model {model}: there is nothing to go back from. Run models.\n{told}")
    found = [item for item in candidates[model] if item["revision"].startswith(to)]
    if to and len(found) != 1:
        return _refused(f"rollback_to is {to!r}, which is not one revision that model {model} can go back to.\n{told}")
    # One that was interrupted goes on, rather than back.
    going = [item for item in known[model]["revisions"] if item["revision"] == known[model].get("returning") and not to]
    if not found and not going:
        return _refused(f"Model {model} has no revision before the one that serves.\n{told}")
    target = (found + going)[-1]
    try:
        change = _change(model, live, target, objects.get(model, {}).get(target["revision"]), strategy)
    except (history.HistoryError, KeyError) as error:
        if isinstance(error, KeyError):
            error = f"another version of this collection has kept it, without {error}"
        return _refused(f"Model {model} cannot go back to {label(target)}: {error}.\n{told}")
    return {"changes": [change], "refusals": [], "words": _words(model, target)}


def _candidates(one: Mapping[str, Any], live: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """Return the revisions to go back to, the best one last.

    What served last is among them while a change from it is under way.
    """
    there = {item["revision"] for item in (live or {}).get("workloads") or []}
    alone = there.pop() if len(there) == 1 else None
    return [item for item in one["revisions"] if item["revision"] != alone]


def _change(
    name: str, live: Mapping[str, Any], target: Mapping[str, Any], packed: str | None, strategy: str
) -> dict[str, Any]:
    kept = history.unpack(packed)
    model = kept["model"]
    if not strategy and model["rollout"]["strategy"] == rollout.CANARY:
        # It is known to work, and whoever goes back is in a hurry.
        strategy = rollout.AUTO
    if strategy:
        model = {**model, "rollout": {**model["rollout"], "strategy": strategy}}
    here = tracks.placement(model, live)
    picker = changes.picker_of(_place(kept, here)["routing"])
    change, place = rollout.change(model, live, target["revision"], picker)
    there = _place(kept, place)
    return {
        "model": name,
        "plan": asdict(change),
        "target": place,
        "servers": json.dumps(there["servers"]),
        "routing": json.dumps(there["routing"]),
        "question": kept["question"],
        # For the timeline; what the other engine's pods count is not kept.
        "metrics": kept.get("metrics", {}),
    }


def _place(kept: Mapping[str, Any], place: Mapping[str, Any]) -> Mapping[str, Any]:
    found = kept["places"].get(f"{place['track']} {place['pool']}")
    if not found:
        raise history.HistoryError(f"it serves behind pool {place['pool']}, which this collection has not made")
    return found


def label(item: Mapping[str, Any]) -> str:
    """Return a revision in words."""
    return f"{item['engine']} {item['version']} (revision {item['revision']}, served since {item['since']})"


def _known(name: str, one: Mapping[str, Any]) -> str:
    revisions = "; ".join(label(item) for item in reversed(one["revisions"])) or "no revision"
    failure = one["failure"]
    failed = f" Last failed change: {failure['at']}, to {failure['wanted']}." if failure else ""
    return f"Known of model {name}: {revisions}.{failed}"


def _words(name: str, target: Mapping[str, Any]) -> list[str]:
    warning = (
        "The inventory is as it was. Unless it asks for the same, the next run of the playbook models makes the change "
        "again, and until then the playbook status shows what differs."
    )
    return [f"Model {name}: {label(target)}, release {target['release']}, image {target['image']}.", warning]


def _refused(reason: str) -> dict[str, Any]:
    return {"changes": [], "refusals": [reason], "words": []}
