# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""What hosts offer and models need, as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .findings import listing
from .network_cards import named
from .status_table import aligned

Report = Mapping[str, Any]
_HOSTS = ("HOST", "GPUS", "DRIVER", "NEEDED", "RUNTIME", "NVSWITCHES", "RDMA", "GIB FOR IMAGES", "RESULT")
_MODELS = ("MODEL", "GPUS", "CUDA", "FITS ON", "IMAGE")


def host_table(reports: Sequence[Report]) -> str:
    """Return the reports of :func:`host_gate.host_report`, for a person to read."""
    sections = [
        aligned([_HOSTS, *map(_host, reports)]),
        _models(reports),
        _section("Refused:", (text for report in reports for text in report["findings"])),
        _section("Worth knowing:", _shared(reports)),
        [_verdict(reports)],
    ]
    return "\n\n".join("\n".join(lines) for lines in sections if lines)


def _host(report: Report) -> tuple[str, ...]:
    offers, needs = report["offers"], report["needs"]
    room = "unknown" if offers["image_gib"] is None else str(offers["image_gib"])
    wrong = len(report["findings"])
    return (
        report["host"],
        offers["gpus"],
        offers["driver"],
        needs["driver"] or "-",
        offers["runtime"],
        str(offers["nvswitches"] or "-"),
        _rdma(offers),
        f"{room}, needs {needs['space_gib']}",
        f"{wrong} to mend" if wrong else "ready",
    )


def _rdma(offers: Mapping[str, Any]) -> str:
    """Return the network cards beside GPUs, and of how many active ones."""
    if not offers["rdma_devices"]:
        return str(offers["rdma"] or "-")
    more = "" if offers["rdma"] == len(offers["rdma_devices"]) else f" of {offers['rdma']}"
    return f"{named(offers['rdma_devices'])}{more}"


def _models(reports: Sequence[Report]) -> list[str]:
    """Return a line a model: on how many hosts it can run, or why on none."""
    rows: dict[str, tuple[Mapping, list[str], list[str]]] = {}
    for report in reports:
        for model in report["models"]:
            _model, hosts, reasons = rows.setdefault(model["name"], (model, [], []))
            if model["why"]:
                reasons.append(model["why"])
            else:
                hosts.append(report["host"])
    lines = [
        (
            name,
            str(model["gpus"]),
            str(model["cuda"] or "unknown"),
            f"{len(hosts)} of {len(reports)}" if hosts else f"none: {listing(dict.fromkeys(reasons))}",
            model["image"],
        )
        for name, (model, hosts, reasons) in rows.items()
    ]
    return aligned([_MODELS, *lines]) if lines else ["No model asks for GPUs."]


def _shared(reports: Sequence[Report]) -> list[str]:
    """Return each note once, with the hosts that it is about."""
    hosts: dict[str, list[str]] = {}
    for report in reports:
        for note in report["notes"]:
            hosts.setdefault(note, []).append(report["host"])
    return [f"{listing(names)}: {note}" for note, names in hosts.items()]


def _section(title: str, texts: Iterable[str]) -> list[str]:
    lines = [f"  {text}" for text in texts]
    return [title, *lines] if lines else []


def _verdict(reports: Sequence[Report]) -> str:
    bad = [report["host"] for report in reports if report["findings"]]
    if bad:
        return f"{len(bad)} of {len(reports)} hosts cannot serve as they are: {listing(bad)}."
    return "Every host can serve."
