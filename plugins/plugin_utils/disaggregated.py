# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Prefill and decode in pods of their own: what each kind needs, and what both have to agree on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from . import schema
from .arguments import value_of
from .findings import Finding, did_you_mean, listing
from .placeholders import fill, fill_text
from .profiles import merge
from .versions import matches

TOPOLOGY = "disaggregated"
#: llm-d's names for the kinds of pods; endpoint pickers tell them apart by these.
PREFILL, DECODE = ROLES = ("prefill", "decode")
RULE = "disaggregation"
#: Settings of a kind of pods that add to the model's; the others replace them.
_MERGED = ("engine_args", "env", "resources", "probes", "pod_labels", "pod_annotations")
#: How the parallel sizes of prefill (first) and decode have to compare.
_COMPARE = {
    "equal": (lambda prefill, decode: prefill == decode, "the same"),
    "decode-not-smaller": (lambda prefill, decode: prefill <= decode, "at least as much for decode"),
}


def check(entry: Mapping[str, Any], where: str, model_schema: Mapping[str, Any], findings: list[Finding]) -> dict:
    """Return the settings of each kind of pods, checked; say which other ones contradict the topology."""
    wanted = entry["topology"] == TOPOLOGY
    if wanted and entry.get("routing_proxy") is False:
        problem = f"false, but {where}.topology is {TOPOLOGY}."
        remedy = "Decode pods need the routing proxy: leave it out."
        findings.append(Finding(RULE, f"{where}.routing_proxy", problem, remedy))
    given = {}
    for name in (*ROLES, "disaggregation"):
        if entry[name] and not wanted:
            problem = f"set, but {where}.topology is {entry['topology']}."
            findings.append(
                Finding(RULE, f"{where}.{name}", problem, f"Set topology: {TOPOLOGY}, or leave {name} out.")
            )
    for role in ROLES:
        options = model_schema["options"]
        own = {
            name: {key: value for key, value in options[name].items() if key != "default"}
            for name in options[role]["of_model"]
        }
        given[role] = schema.check(entry[role], {"type": "dict", "options": own}, f"{where}.{role}", findings) or {}
    return given


def transfer(
    entry: Mapping[str, Any], where: str, version: str, facts: Mapping[str, Any], findings: list[Finding]
) -> dict[str, Any] | None:
    """Return how KV caches travel from prefill to decode, or None when the engine cannot.

    :param facts: effective profile of the engine.
    :returns: ``name``, ``connector``, ``bootstrap_port`` (may be None), ``proxy_env``, and for
        each kind of pods ``arguments``, ``env`` and ``ports`` (name to number).
    """
    own, given = facts.get("disaggregation"), entry["disaggregation"]
    if not own:
        problem = f"{facts['title']} {version} cannot be disaggregated, as far as its profile knows."
        findings.append(Finding(RULE, f"{where}.topology", problem, "Use aggregated."))
        return None
    name = given.get("backend") or own["default"]
    place, known = f"{where}.disaggregation.backend", own["backends"]
    if name not in known:
        remedy = f"{did_you_mean(name, known)}{facts['title']} has {listing(known)}."
        findings.append(Finding(RULE, place, f"unknown backend {name!r}.", remedy))
        return None
    backend = known[name]
    if not matches(version, backend.get("versions", "")):
        problem = f"{facts['title']} {version} has no {name!r}."
        remedy = f"It exists for {backend['versions']}."
        findings.append(Finding("backend-version", place, problem, remedy, overridable=True))
    if backend.get("not_in_image") and not entry.get("image"):
        problem = f"{backend['not_in_image']}."
        remedy = "Set image to one that has it, with engine_version."
        findings.append(Finding("backend-image", place, problem, remedy, overridable=True))
    connector = merge(facts["connector"], backend.get("connector") or {})
    if given.get("bootstrap_port"):
        if connector["bootstrap_port"] is None:
            problem = f"backend {name!r} of {facts['title']} has no such port."
            findings.append(Finding(RULE, f"{where}.disaggregation.bootstrap_port", problem, "Leave it out."))
        connector["bootstrap_port"] = given["bootstrap_port"]
    wanted = entry.get("connector")
    if wanted in connector["speaks"] and wanted != connector["default"]:
        problem = f"{wanted!r}, but {place} {name!r} goes with {connector['default']!r}."
        remedy = "Leave it out, or choose the other's backend."
        findings.append(Finding("connector", f"{where}.connector", problem, remedy, overridable=True))
    values = {"bootstrap_port": connector["bootstrap_port"], "backend": name}
    sides = {role: _side([own[role], backend.get(role) or {}], values) for role in ROLES}
    return {"name": name, "connector": connector, **sides}


def _side(parts: Sequence[Mapping], values: Mapping) -> dict[str, Any]:
    """Return what the engine's profile says of one kind of pods, filled in."""
    return {
        "arguments": [fill_text(argument, values) for part in parts for argument in part.get("arguments", [])],
        "env": {name: fill_text(value, values) for part in parts for name, value in part.get("env", {}).items()},
        "ports": {name: int(fill(port, values)) for part in parts for name, port in part.get("ports", {}).items()},
    }


def laid_over(model: Mapping[str, Any], role: str, given: Mapping[str, Any], side: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``model`` as its pods of kind ``role`` are to be.

    :param given: what the user says of these pods.
    :param side: what the engine needs there, see :func:`transfer`.
    """
    ports = {**model.get("extra_ports", {}), **side["ports"]}
    result = {**model, **given, "pod_role": role, "extra_ports": ports}
    for name in _MERGED:
        result[name] = merge(model[name], given.get(name) or {})
    result["env"] = {**side["env"], **result["env"]}
    return result


def relocated(found: Sequence[Finding], where: str, role: str, given: Mapping[str, Any]) -> list[Finding]:
    """Return ``found`` on the pods of ``role`` with the place where the user wrote the value."""
    result = []
    for finding in found:
        inside = finding.where.removeprefix(f"{where}.{role}.")
        if inside != finding.where and inside.split(".")[0] not in given:
            finding = replace(finding, where=f"{where}.{inside}")
        result.append(finding)
    return result


def disagreements(
    sides: Mapping[str, Mapping[str, Any]],
    where: str,
    given: Mapping[str, Mapping[str, Any]],
    facts: Mapping[str, Any],
) -> list[Finding]:
    """Return where prefill and decode differ in what they have to agree on, with both places.

    What counts is the command line: a value may come from a setting, from ``engine_args`` or from
    ``args``.

    :param sides: prefill and decode pods, resolved.
    """
    own, found = facts["disaggregation"], []
    for setting in own["agree"]:
        values = {role: value_of(sides[role]["args"], setting, facts) for role in ROLES}
        if values[PREFILL] != values[DECODE]:
            found.append(_finding(setting, values, where, given, f"{own['agree_reason']}.", "Give both the same."))
    rule = own.get("tensor_parallel")
    if not rule:
        return found
    sizes = {role: int(value_of(sides[role]["args"], "tensor_parallel", facts) or 1) for role in ROLES}
    compare, words = _COMPARE[rule["compare"]]
    switch = rule.get("unless_env")
    if not compare(sizes[PREFILL], sizes[DECODE]) and not (
        switch and all(sides[role]["env"].get(switch) for role in ROLES)
    ):
        remedy = f"Use {words}" + (f", or set env {switch} of the model." if switch else ".")
        found.append(_finding("tensor_parallel", sizes, where, given, f"{rule['reason']}.", remedy))
    return found


def _finding(setting: str, values: Mapping, where: str, given: Mapping, reason: str, remedy: str) -> Finding:
    places = {role: _place(setting, role, where, given[role]) for role in ROLES}
    said = {role: "the engine's own" if value is None else value for role, value in values.items()}
    problem = f"{said[PREFILL]}, but {places[DECODE]} is {said[DECODE]}: {reason}"
    return Finding(f"{RULE}-{setting.replace('_', '-')}", places[PREFILL], problem, remedy, overridable=True)


def _place(setting: str, role: str, where: str, given: Mapping) -> str:
    # Tensor parallelism follows the number of devices.
    names = (setting, "gpus") if setting == "tensor_parallel" else (setting,)
    written = next((name for name in names if name in given), None)
    return f"{where}.{role}.{written or setting}"


def decider(
    entry: Mapping[str, Any], where: str, facts: Mapping[str, Any], release: Mapping[str, Any], findings: list[Finding]
) -> dict[str, Any]:
    """Return what the endpoint picker's configuration needs: the plugin that decides about prefill pods."""
    given, known = entry["disaggregation"], release["endpoint_picker"]["deciders"]
    name = given.get("decider") or next(iter(known))
    place = f"{where}.disaggregation.decider"
    if name not in known:
        remedy = f"{did_you_mean(name, known)}Release {release['name']} has {listing(known)}."
        findings.append(Finding(RULE, place, f"unknown decider {name!r}.", remedy))
        return {}
    if known[name].get("skips_prefill") and not facts["disaggregation"]["decode_alone"]:
        able = [other for other, data in known.items() if not data.get("skips_prefill")]
        problem = f"{name!r} sends some requests to decode pods only, which {facts['title']} refuses there."
        findings.append(Finding("decider", place, problem, f"Use {listing(able)}.", overridable=True))
    plugin = fill(known[name]["plugin"], {"non_cached_tokens": given.get("non_cached_tokens") or 16})
    return {"decider": plugin, "decider_name": plugin["type"]}
