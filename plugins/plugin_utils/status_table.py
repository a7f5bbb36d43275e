# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""The status of a stack as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ansible_collections.llm_d.multi_engine.plugins.module_utils.readiness import judge

from .status import late_alone, late_for_all

#: What is said of a hop that is not there.
_ABSENT = judge(None).reason
_HEAD = ("MODEL", "WANTED", "RUNNING", "ENDPOINTS", "GPUS", "READY")
_STATES = {"missing": "is missing", "drifted": "drifted", "unwanted": "is not wanted any more"}


def table(status: Mapping[str, Any]) -> str:
    """Return ``status``, as :func:`status.report` makes it, for a person to read."""
    rows = [_row(model) for model in status["models"]]
    sections = [
        [_title(status), *_where(status["gateway"])],
        aligned([_HEAD, *rows]) if rows else ["The inventory has no models."],
        _section("Drift:", map(_drift, status["drift"])),
        _section("Not compared:", (f"role {item['role']}: {item['reason']}" for item in status["unknown"])),
        _section("Not in the inventory:", map(_other, status["others"])),
        _section("Not ready:", _unready(status)),
        _section("Changes:", _changes(status)),
        [_verdict(status)],
    ]
    return "\n\n".join("\n".join(lines) for lines in sections if lines)


def _title(status: Mapping[str, Any]) -> str:
    release = f", release {status['release']}" if status["release"] else ""
    return f"Stack {status['stack']} in namespace {status['namespace']} of {status['server']}{release}"


def _where(gateway: Mapping[str, Any]) -> list[str]:
    return [f"{gateway['object']} at {', '.join(gateway['addresses'])}"] if gateway["addresses"] else []


def _row(model: Mapping[str, Any]) -> tuple[str, ...]:
    wanted, endpoints = model["wanted"], model["endpoints"]
    late = [hop["hop"] for hop in model["hops"] if not hop["ready"]]
    return (
        model["name"],
        f"{wanted['engine']} {wanted['version']}",
        _running(model["running"]),
        f"{endpoints['ready']}/{endpoints['wanted']}",
        _devices(wanted["devices"], model["devices"]),
        f"no: {', '.join(late)}" if late else "yes",
    )


def _running(groups: Iterable[Mapping[str, Any]]) -> str:
    """Return ``sglang 0.5.16 (1), sglang 0.5.20 (2)``."""
    texts = [f"{group['engine']} {group['version'] or group['image']} ({group['pods']})" for group in groups]
    return ", ".join(texts) or "nothing"


def _devices(wanted: Mapping[str, int], held: Mapping[str, int]) -> str:
    """Return how many devices are held of those that are wanted, with their names where there are several kinds."""
    names = list(dict.fromkeys([*wanted, *held]))
    texts = [f"{held.get(name, 0)}/{wanted.get(name, 0)}" for name in names]
    if len(names) > 1:
        texts = [f"{name} {text}" for name, text in zip(names, texts, strict=True)]
    return ", ".join(texts) or "-"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a line a row, with columns of one width."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return list(padded)


def _section(title: str, texts: Iterable[str]) -> list[str]:
    """Return ``title`` and ``texts`` below it, nothing when there are none."""
    lines = [f"  {text}".replace("\n", "\n    ") for text in texts]
    return [title, *lines] if lines else []


def _drift(entry: Mapping[str, Any]) -> str:
    fields = f": {', '.join(entry['fields'])}" if entry["fields"] else ""
    return f"{entry['object']} {_STATES[entry['state']]}{fields}"


def _other(item: Mapping[str, Any]) -> str:
    if item["adopted"]:
        # Its pods do not say whose they are.
        return f"{item['object']}, model {item['model']}: taken over; the playbook models puts ours in its place"
    held = "".join(f", holds {count} {name}" for name, count in item["devices"].items())
    return f"{item['object']}, model {item['model']}: runs {_running(item['running'])}{held}"


def _unready(status: Mapping[str, Any]) -> list[str]:
    """Return the hops that are not ready; those that all models share once."""
    late = [f"{hop['hop']}: {hop['object']}: {hop['reason']}" for hop in late_for_all(status)]
    for model in status["models"]:
        late += [f"{model['name']}, {hop['hop']}: {hop['object']}: {hop['reason']}" for hop in late_alone(model)]
    return late


def _changes(status: Mapping[str, Any]) -> list[str]:
    """Return what a person has to know of the last changes: that one failed, or was taken back."""
    lines = []
    for model in status["models"]:
        past = model["history"] or {"revisions": [], "failure": None}
        last = past["revisions"][-1] if past["revisions"] else {}
        left, failure = last.get("back_from"), past["failure"]
        # Where the inventory asks for that by now, nobody has to know.
        if left and not status["ok"]:
            place = f"{last['engine']} {last['version']}, revision {last['revision']}"
            came = f"{left['engine']} {left['version']}, revision {left['revision']}"
            lines.append(f"{model['name']} went back to {place}, from {came}, at {last['since']}")
        if failure:
            wanted = f"{failure['wanted']}, revision {failure['revision']}"
            lines.append(f"{model['name']} could not change to {wanted}, at {failure['at']}: {failure['reason']}")
    return lines


def _verdict(status: Mapping[str, Any]) -> str:
    hops = [hop for model in status["models"] for hop in model["hops"]]
    if hops and all(hop["reason"] == _ABSENT for hop in hops):
        return "Not installed."
    if not status["ok"]:
        return f"Not as wanted: {', '.join(status['failing'])}."
    return "Ready, except for what could not be compared." if status["unknown"] else "Ready, and as wanted."
