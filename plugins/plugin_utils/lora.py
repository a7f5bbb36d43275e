# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""LoRA adapters of a model: served beside it, under a name that is the same on every engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import arguments, weights
from .findings import Finding, listing
from .placeholders import fill_text

RULE = "lora"
#: Where volumes of adapters are mounted, by number.
PATH = "/lora"
#: Of a route, besides the model's own.
_MOST = 63
#: What stands between a model and its adapter, an adapter and its path, and two adapters.
_SEPARATORS = ":=,"
_ONLY_WITH_ADAPTERS = ("lora_max_rank", "lora_max_active")


def resolve(model: Mapping[str, Any], where: str, facts: Mapping[str, Any], findings: list[Finding]) -> dict[str, Any]:
    """Return the adapters of ``model``: ``adapters`` (``served_name``, ``source``), ``arguments``, ``volumes``, ``mounts``.

    :param model: a model whose ``served_name`` and ``weights`` are known.
    :param facts: effective profile of its engine.
    """
    result: dict[str, Any] = {"adapters": [], "arguments": [], "volumes": [], "mounts": []}
    given, own, place = model["lora_adapters"], facts.get("lora"), f"{where}.lora_adapters"
    if not given:
        for name in _ONLY_WITH_ADAPTERS:
            if model.get(name):
                problem = f"set, but {place} is empty."
                findings.append(Finding(RULE, f"{where}.{name}", problem, "List adapters, or leave it out."))
        return result
    if not own:
        problem = f"{model['engine']} of {where}.engine, or of inference_engine, serves no adapters"
        remedy = "Leave them out, or choose another engine."
        problem += f" on {model['accelerator']}, as far as its profile knows."
        findings.append(Finding(RULE, place, problem, remedy))
        return result
    _check(model, where, own, findings)
    volumes: dict[str, int] = {}
    for adapter in given:
        at = _place(adapter, model, volumes, result)
        served = f"{model['served_name']}:{adapter['name']}"
        values = {"name": adapter["name"], "served_name": served, "path": at}
        result["adapters"].append({"served_name": served, "source": adapter["source"]})
        result["arguments"].append(fill_text(own["adapter"], values))
    result["arguments"] = [*own["arguments"], own["flag"], *result["arguments"]]
    return result


def from_hub(model: Mapping[str, Any]) -> bool:
    """Whether anything of ``model`` is downloaded from Hugging Face."""
    sources = [model["source"], *(adapter["source"] for adapter in model["lora_adapters"])]
    return any(weights.scheme_of(source) == weights.HUB for source in sources)


def _place(adapter: Mapping, model: Mapping, volumes: dict[str, int], result: dict[str, Any]) -> str:
    """Return where the engine finds ``adapter``; mount its volume unless it is there already."""
    found = weights.resolve({**model, "source": adapter["source"]}, "", {})
    volume = found["volume"]
    if not volume or volume == model["weights"]["volume"]:
        return found["path"]
    number = volumes.setdefault(repr(volume), len(volumes))
    mount = {"name": f"lora-{number}", "mountPath": f"{PATH}/{number}", "readOnly": True}
    if mount not in result["mounts"]:
        result["volumes"].append({"name": mount["name"], **volume})
        result["mounts"].append(mount)
    return mount["mountPath"] + found["path"].removeprefix(weights.PATH)


def _check(model: Mapping, where: str, own: Mapping, findings: list[Finding]) -> None:
    given, place = model["lora_adapters"], f"{where}.lora_adapters"
    names: dict[str, int] = {}
    for index, adapter in enumerate(given):
        first = names.setdefault(adapter["name"], index)
        if first != index:
            problem = f"{adapter['name']!r} is the name of {place}[{first}], too."
            findings.append(Finding(RULE, f"{place}[{index}].name", problem, "Give them different names."))
    if len(given) > _MOST:
        findings.append(Finding(RULE, place, f"{len(given)} adapters.", f"A route has room for {_MOST}."))
    if set(model["served_name"]) & set(_SEPARATORS):
        problem = (
            f"{model['served_name']!r} has one of {' '.join(_SEPARATORS)}, which set apart what is said of {place}."
        )
        findings.append(Finding(RULE, f"{where}.served_name", problem, "Set served_name to one without."))
    if model["topology"] != "aggregated":
        problem = f"adapters were not seen to work with {where}.topology {model['topology']}."
        findings.append(Finding("lora-topology", place, problem, "Use topology aggregated.", overridable=True))
    ours = {arguments.flag_name(flag) for flag in (*own["arguments"], own["flag"])}
    flags = model["engine_args"].get(model["engine"])
    for flag in flags if isinstance(flags, Mapping) else {}:
        if arguments.flag_name(str(flag)).replace("_", "-") in ours:
            problem = f"{place} sets it, too."
            remedy = f"Keep one of them; ours are {listing(sorted(ours))}."
            findings.append(Finding(RULE, f"{where}.engine_args.{model['engine']}.{flag}", problem, remedy))
