# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Labels and taints of nodes, of which only some are ours.

A node belongs to its cluster, and its taints are one list that others write too. So an annotation says which
labels and taints this collection put there; nothing else is ever changed or taken back.
"""

from __future__ import annotations

import json

#: Annotation of a node: what this collection put there, as JSON.
NOTE = "multi-engine.llm-d.ai/node-marks"


class Taken(Exception):
    """A label or a taint has another value, which somebody else gave it; the text says which."""


def note_of(node: dict) -> dict:
    """Return the ``stack`` that marked ``node``, and the names of the ``labels`` and the ``taints`` (key and effect)."""
    text = (node["metadata"].get("annotations") or {}).get(NOTE)
    try:
        note = json.loads(text) if text else {}
    except ValueError:
        note = {}
    return {
        "stack": note.get("stack"),
        "labels": list(note.get("labels") or []),
        "taints": [tuple(entry) for entry in note.get("taints") or []],
    }


def patch_of(node: dict, stack: str, labels: dict, taints: list[dict], force: bool = False) -> dict | None:
    """Return the merge patch that gives ``node`` these labels and taints and takes back ours of before, or None.

    It holds the node's version, so that it fails where somebody else was faster.

    :param stack: stack that asks for them.
    :param taints: each with ``key``, ``effect`` and maybe ``value``.
    :param force: take over what has another value.
    :raises Taken: where something has another value that is not ours.
    """
    metadata, live = node["metadata"], node["metadata"].get("labels") or {}
    note, there = note_of(node), node["spec"].get("taints") or []
    wanted = {_place(taint): taint for taint in taints}
    if note["stack"] not in (None, stack):
        if _is_as_asked(live, labels, there, wanted):
            return None
        if not force:
            raise Taken(f"stack {note['stack']} looks after its labels and taints")
    if not force:
        _refuse_taken(live, labels, note, there, wanted)
    # What was there before us with our value is not ours: it would be taken back some day.
    mine = sorted(name for name in labels if name in note["labels"] or live.get(name) != labels[name])
    changes = {name: value for name, value in labels.items() if live.get(name) != value}
    changes.update({name: None for name in note["labels"] if name not in labels and name in live})
    kept = [taint for taint in there if _place(taint) in wanted or _place(taint) not in note["taints"]]
    kept = [_with_value(taint, wanted.get(_place(taint))) for taint in kept]
    places = [_place(taint) for taint in kept]
    after = kept + [_with_value(taint, taint) for place, taint in wanted.items() if place not in places]
    ours = sorted(place for place in wanted if place in note["taints"] or place not in map(_place, there))
    patch: dict = {"metadata": {}}
    if changes:
        patch["metadata"]["labels"] = changes
    if after != there:
        patch["spec"] = {"taints": after or None}
    said = _said(stack, mine, ours)
    if said != (metadata.get("annotations") or {}).get(NOTE):
        patch["metadata"]["annotations"] = {NOTE: said}
    if not patch["metadata"] and "spec" not in patch:
        return None
    patch["metadata"]["resourceVersion"] = metadata["resourceVersion"]
    return patch


def shown(node: dict) -> dict:
    """Return what of ``node`` a difference is shown of."""
    return {
        "labels": dict(sorted((node["metadata"].get("labels") or {}).items())),
        "taints": [_text(taint) for taint in node["spec"].get("taints") or []],
    }


def patched(node: dict, patch: dict) -> dict:
    """Return ``node`` as it is after ``patch``."""
    labels = {**(node["metadata"].get("labels") or {}), **patch["metadata"].get("labels", {})}
    labels = {name: value for name, value in labels.items() if value is not None}
    taints = patch["spec"]["taints"] or [] if "spec" in patch else node["spec"].get("taints") or []
    return {"metadata": {**node["metadata"], "labels": labels}, "spec": {**node["spec"], "taints": taints}}


def _refuse_taken(live: dict, labels: dict, note: dict, there: list[dict], wanted: dict) -> None:
    for name, value in labels.items():
        if name in live and live[name] != value and name not in note["labels"]:
            raise Taken(f"label {name} is {live[name]!r}, not {value!r}, and somebody else put it there")
    for taint in there:
        place = _place(taint)
        asked = wanted.get(place)
        if asked and (taint.get("value") or "") != (asked.get("value") or "") and place not in note["taints"]:
            raise Taken(f"taint {_text(taint)} is not {_text(asked)}, and somebody else put it there")


def _is_as_asked(live: dict, labels: dict, there: list[dict], wanted: dict) -> bool:
    values = {_place(taint): taint.get("value") or "" for taint in there}
    return labels.items() <= live.items() and all(
        values.get(place) == (taint.get("value") or "") for place, taint in wanted.items()
    )


def _place(taint: dict) -> tuple[str, str]:
    """Return what there is one taint of."""
    return taint["key"], taint["effect"]


def _with_value(taint: dict, asked: dict | None) -> dict:
    """Return a taint with the value that is asked for; when it was put there stays."""
    if asked is None:
        return taint
    rest = {key: value for key, value in taint.items() if key != "value" and value is not None}
    return {**rest, **({"value": asked["value"]} if asked.get("value") else {})}


def _text(taint: dict) -> str:
    value = f"={taint['value']}" if taint.get("value") else ""
    return f"{taint['key']}{value}:{taint['effect']}"


def _said(stack: str, labels: list[str], taints: list[tuple[str, str]]) -> str | None:
    if not labels and not taints:
        return None
    return json.dumps({"stack": stack, "labels": labels, "taints": [list(place) for place in taints]}, sort_keys=True)
