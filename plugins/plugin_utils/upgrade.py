# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""From the release that is installed to the one that is wanted: what changes, and what upstream cannot do.

What is installed is read from the cluster. The rules are those of ``compatibility.yml`` with facts of a change:

* ``release_change``, ``istio_change``, ``gateway_api_change``: ``upgrade`` or ``downgrade``; nothing where the version
  stays or one of the two is unknown.
* ``istio_minors``: how many minor versions lie between (1 from 1.28 to 1.29), in either direction.
* ``gateway_api_channel``: ``standard`` or ``experimental``, as the definitions in the cluster say.
* ``gaie``: version of the inference extension of the wanted release.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from . import compatibility
from .findings import Finding
from .versions import is_version, parse

Release = Mapping[str, Any]
Releases = Mapping[str, Release]

#: Annotation of Gateway API's definitions.
_CHANNEL = "gateway.networking.k8s.io/channel"
#: What a release changes, in the order in which the playbooks do.
_PARTS = (
    ("definitions of Gateway API", ("gateway_api", "version")),
    ("Istio", ("istio", "version")),
    ("definitions of the inference extension", ("gaie", "version")),
    ("endpoint picker", ("endpoint_picker", "image")),
    ("routing proxy", ("routing_proxy", "image")),
)


def outline(releases: Releases, wanted: Release) -> dict[str, Any]:
    """Return what is read here of ``releases``, which are long.

    :param wanted: the one that is asked for; nothing when it is broken, and then nothing is compared.
    """
    return {
        name: {
            "gateway_api": {"version": data["gateway_api"]["version"]},
            "istio": {"version": data["istio"]["version"]},
            "gaie": {"version": data["gaie"]["version"]},
            "endpoint_picker": {key: data["endpoint_picker"].get(key) for key in ("image", "router")},
            "routing_proxy": {"image": data["routing_proxy"]["image"]},
            "engines": {engine: {"default": pinned["default"]} for engine, pinned in data["engines"].items()},
        }
        for name, data in (releases if wanted else {}).items()
    }


def installed(stack: str, pickers: Iterable[Mapping[str, Any]] | None, releases: Releases) -> list[str]:
    """Return the releases that the endpoint pickers of ``stack`` belong to: several in the middle of an upgrade.

    :param pickers: as module ``cluster_facts`` returns them; ``None`` where nobody may look.
    :param releases: name to data (see :func:`outline`), to know a picker by its image that does not say its release.
    """
    found = [
        picker["release"] or _by_image(picker["image"], releases)
        for picker in pickers or ()
        if picker["stack"] == stack
    ]
    return list(dict.fromkeys(name for name in found if name))


def words(before: Sequence[str], wanted: Release, releases: Releases) -> list[str]:
    """Return what the change to ``wanted`` changes, a line for each release that is installed and another."""
    lines = []
    for name in before:
        if name == wanted["name"]:
            continue
        if name not in releases:
            lines.append(f"Release {name} -> {wanted['name']}. What {name} was is not known here.")
            continue
        parts = [
            f"{part} {_shown(old)} -> {_shown(new)}"
            for part, path in _PARTS
            if (old := _at(releases[name], path)) != (new := _at(wanted, path))
        ]
        parts += [
            f"{engine} {old['default']} -> {new['default']} where models name no version"
            for engine, new in wanted["engines"].items()
            if (old := releases[name]["engines"].get(engine)) and old["default"] != new["default"]
        ]
        lines.append(f"Release {name} -> {wanted['name']}, in this order: {'; '.join(parts) or 'nothing differs'}.")
    return lines


def release_findings(
    before: Sequence[str], wanted: Release, releases: Releases, rules: Sequence[Mapping[str, Any]]
) -> list[Finding]:
    """Return why a stack of the releases ``before`` cannot become one of ``wanted``."""
    findings: list[Finding] = []
    for name in before:
        facts = {
            "release_change": _change(_router(releases.get(name)), _router(wanted)),
            "gaie": wanted["gaie"]["version"],
        }
        findings += compatibility.judge(rules, facts, f"llm_d_release ({name} -> {wanted['name']})")
    return list(dict.fromkeys(findings))


def istio_findings(
    planes: Iterable[Mapping[str, Any]], version: str, rules: Sequence[Mapping[str, Any]]
) -> list[Finding]:
    """Return why an Istio of ours cannot become ``version``.

    :param planes: control planes as module ``cluster_facts`` returns them; only ours are changed.
    """
    findings: list[Finding] = []
    for plane in planes:
        if not plane["ours"]:
            continue
        facts = {
            "istio_change": _change(plane["version"], version),
            "istio_minors": _minors(plane["version"], version),
        }
        where = f"istio_gateway_istio_version ({plane['namespace']}/{plane['name']} {plane['version']} -> {version})"
        findings += compatibility.judge(rules, facts, where)
    return findings


def definition_findings(
    bundle: Mapping[str, Any],
    definitions: Mapping[str, Mapping[str, Any]] | None,
    rules: Sequence[Mapping[str, Any]],
    variable: str,
) -> list[Finding]:
    """Return why definitions that are in the cluster must not be replaced by those of ``bundle``.

    :param bundle: ``gateway_api`` of a release.
    :param definitions: name to annotations, as module ``cluster_facts`` returns them.
    """
    there = [definitions[name]["annotations"] for name in bundle["crds"] if name in (definitions or {})]
    versions = [found for item in there if is_version(found := item.get(bundle["bundle_annotation"], ""))]
    if not versions:
        return []
    channels = {item[_CHANNEL] for item in there if item.get(_CHANNEL)}
    facts = {
        "gateway_api_change": _change(min(versions, key=parse), bundle["version"]),
        "gateway_api_channel": next(iter(sorted(channels - {"standard"})), "standard") if channels else None,
    }
    return compatibility.judge(rules, facts, variable)


def _change(before: str | None, after: str | None) -> str | None:
    if not (before and after and is_version(before) and is_version(after)) or parse(before) == parse(after):
        return None
    return "upgrade" if parse(before) < parse(after) else "downgrade"


def _minors(before: str, after: str) -> int | None:
    if not (is_version(before) and is_version(after)):
        return None
    (old, new) = ((*parse(version)[0], 0, 0)[:2] for version in (before, after))
    # From one major version to the next it is never the next minor.
    return abs(new[1] - old[1]) if old[0] == new[0] else 99


def _router(release: Release | None) -> str | None:
    """Return the version that tells releases of one line apart: that of llm-d's router."""
    return release["endpoint_picker"].get("router") if release else None


def _by_image(image: str, releases: Releases) -> str | None:
    """Return the release whose picker has ``image``, from whichever registry."""
    names = [name for name, data in releases.items() if _shown(data["endpoint_picker"]["image"]) == _shown(image)]
    return names[0] if len(names) == 1 else None


def _at(data: Mapping[str, Any], path: Sequence[str]) -> str:
    value: Any = data
    for key in path:
        value = value[key]
    return str(value)


def _shown(value: str) -> str:
    """Return a version as it is, and an image without its registry."""
    return value.rpartition("/")[2]
