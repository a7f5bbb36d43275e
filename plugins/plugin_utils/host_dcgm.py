# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Which packages of NVIDIA's Data Center GPU Manager (DCGM) a GPU host gets."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .findings import Finding, listing
from .host_packages import branch_of, plan_repository
from .versions import matches

_VERSION = re.compile(r"^\d+\.\d+\.\d+(-\d+)?$")


def dcgm_plan(
    facts: Mapping[str, Any], host: str, settings: Mapping, knowledge: Mapping, driver: Mapping
) -> dict[str, Any]:
    """Return ``repository``, ``format``, ``names``, ``install`` and ``service`` of DCGM, and ``findings``.

    :param settings: ``version`` of DCGM (empty for the newest) and ``origin`` of the driver (``existing``,
        ``managed`` or ``operator``), whose ``driver`` has ``branch``, ``version``, ``repository``, ``key`` and
        ``fingerprint``: DCGM comes from the same repository.
    :param knowledge: what is known of DCGM; ``driver`` of the driver's packages.
    """
    branch = _branch(facts, settings)
    findings = [*_origin(settings, branch, host), *_old(facts, knowledge, host), *_version(settings, branch, knowledge)]
    form, repository, problems = plan_repository("driver", facts, settings["driver"], driver, host)
    if not form:
        problem = f"no packages of DCGM are known for {facts['os']['name']}."
        findings.append(Finding("dcgm", f"{host} (DCGM)", problem, "Set gpu_node_dcgm: false for this host."))
    findings += problems
    if findings:
        return {"findings": [str(item) for item in findings]}
    names = next(item["names"] for item in knowledge["packages"] if matches(branch, item["branches"]))
    return {
        "format": form,
        "repository": repository,
        "names": list(names),
        "install": [_exact(name, knowledge["exact"][form], settings["version"]) for name in names],
        "service": knowledge["service"],
        "findings": [],
    }


def _branch(facts: Mapping, settings: Mapping) -> str:
    """Return the branch of the driver that DCGM is to watch; empty where nobody knows."""
    if settings["origin"] == "managed":
        return branch_of(settings["driver"])
    loaded = facts["driver"]["loaded"] or facts["driver"]["next_kernel"] or {}
    return (loaded.get("version") or "").partition(".")[0]


def _exact(name: str, pattern: str, version: str) -> str:
    if not version:
        return name
    return pattern.format(name=name, version=version if "-" in version else f"{version}-1")


def _origin(settings: Mapping, branch: str, host: str) -> list[Finding]:
    where = "gpu_node_dcgm"
    if settings["origin"] == "operator":
        problem = f"the driver of {host} is in the GPU operator's container, where DCGM on the host does not find it."
        remedy = "Leave it false: the operator's exporter has a DCGM of its own."
        return [Finding("dcgm", where, problem, remedy)]
    if not branch:
        problem = f"{host} has no driver, whose CUDA decides which packages of DCGM fit."
        return [Finding("dcgm", where, problem, "Install a driver first, or set gpu_node_driver: managed.")]
    return []


def _old(facts: Mapping, knowledge: Mapping, host: str) -> list[Finding]:
    found = [name for name in knowledge["old"] if name in facts["driver"]["packages"]]
    if not found:
        return []
    told = listing(f"{name} {facts['driver']['packages'][name]}" for name in found)
    problem = f"{told} is installed, beside which DCGM 4 cannot be."
    return [Finding("dcgm", f"{host} (DCGM)", problem, f"Remove it: {listing(found)}.")]


def _version(settings: Mapping, branch: str, knowledge: Mapping) -> list[Finding]:
    version, where = settings["version"], "gpu_node_dcgm_version"
    if not version:
        return []
    if not _VERSION.match(version):
        return [Finding("dcgm-version", where, f"{version!r} is no version.", "Write one such as 4.6.0.")]
    for item in knowledge["least"]:
        if branch and matches(branch, item["branches"]) and not matches(version, f">={item['version']}"):
            problem = f"{version} does not know drivers of branch {branch}."
            return [Finding("dcgm-version", where, problem, f"Use {item['version']} or later.")]
    return []
