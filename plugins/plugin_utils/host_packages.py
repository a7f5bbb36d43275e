# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Which repository and which packages a GPU host gets, and in which version.

``facts`` is what module ``gpu_facts`` returns, ``knowledge`` a data file of role ``gpu_node``.
A package's version is written as the package manager has it (``595.91.07-1``); what counts for
the driver is upstream's part of it (``595.91.07``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .findings import Finding, listing
from .versions import matches, parse

Facts = Mapping[str, Any]
_DRIVER_VERSION = re.compile(r"^\d{3}\.\d+(\.\d+)?$")
#: What leaves a part out.
_SWITCHES = {"driver": "gpu_node_driver: existing", "toolkit": "gpu_node_toolkit: false"}
_FINGERPRINT = re.compile(r"^[0-9A-F]{40}$")


def upstream(version: str) -> str:
    """Return ``595.91.07`` of ``1:595.91.07-1ubuntu1``."""
    return re.split(r"[-~+]", version.rpartition(":")[2])[0]


def branch_of(settings: Mapping) -> str:
    """Return the branch that is asked for, by its number or by a whole version."""
    return str(settings["branch"]) or settings["version"].partition(".")[0]


def host_plan(facts: Facts, host: str, settings: Mapping, driver: Mapping, toolkit: Mapping) -> dict[str, Any]:
    """Return what is going to be installed, ``driver`` and ``toolkit``, and all ``findings`` against it.

    :param settings: ``root``, ``memlock``, and ``driver`` and ``toolkit`` (None where it is not installed).
    """
    findings = [*_settings(settings), *_tools(facts, host), *_vendors(facts, settings, host)]
    plans: dict[str, Any] = {"driver": None, "toolkit": None}
    if settings["driver"]:
        plans["driver"] = plan_driver(facts, settings["driver"], driver, host)
    if settings["toolkit"]:
        form = format_of(facts, driver)
        if form:
            plans["toolkit"] = plan_toolkit(facts, {**settings["toolkit"], "format": form}, toolkit, host)
        else:
            problem = f"no packages of the container toolkit are known for {facts['os']['name']}."
            remedy = "Install it yourself and set gpu_node_toolkit: false."
            findings.append(Finding("toolkit-packages", f"{host} (container runtime)", problem, remedy))
    first, second = ((plan or {}).get("repository") for plan in plans.values())
    if first and second and first["index"] == second["index"]:
        plans["toolkit"]["repository"] = first
    for plan in filter(None, plans.values()):
        findings += plan.pop("findings")
    return {**plans, "findings": [str(item) for item in findings]}


def plan_driver(facts: Facts, settings: Mapping, knowledge: Mapping, host: str) -> dict[str, Any]:
    """Return what the driver needs on this host, before any repository is asked.

    :param settings: ``branch``, ``version``, ``repository``, ``key`` and ``fingerprint``.
    :returns: ``branch``, ``repository``, ``names``, ``headers``, ``pin`` and ``findings``.
    """
    findings = [*_branch(settings, knowledge, host)]
    found = of_system(knowledge["repositories"], facts)
    if not found:
        problem = f"no packages of the driver are known for {facts['os']['name']}."
        remedy = "Install the driver and set gpu_node_driver: existing, or leave it to the GPU operator (operator)."
        findings.append(Finding("driver-packages", f"{host} (driver)", problem, remedy))
    if findings or not found:
        return {"findings": findings}
    branch = branch_of(settings)
    machine = knowledge["machines"][facts["machine"]]
    url = knowledge["url"].format(folder=found["folder"], machine=machine)
    repository, problems = repository_of(
        "driver", found["format"], url, found["key"], found["fingerprint"], settings, host
    )
    entry = next(
        item for item in _all_of_system(knowledge["packages"], facts) if matches(branch, item.get("branches", ""))
    )
    names = [name.format(branch=branch) for name in entry["names"]]
    return {
        "branch": branch,
        "format": found["format"],
        "repository": repository,
        "names": names + _switches(facts, found["format"], branch, knowledge),
        "headers": [knowledge["headers"][found["format"]].format(kernel=kernel) for kernel in without_headers(facts)],
        "pin": entry["pin"],
        "pinning_package": knowledge["pinning_package"].format(branch=branch),
        "stream": knowledge["stream"].format(branch=branch),
        "fabric_manager": bool(facts["nvswitches"]),
        "findings": problems,
    }


def choose_driver(
    plan: Mapping, available: Mapping[str, Sequence[str]], facts: Facts, version: str, host: str
) -> dict[str, Any]:
    """Return the one version that all packages of the driver get.

    An installed driver of the right branch stays, for an upgrade ends what runs on the GPUs; a
    whole ``version`` that is asked for changes it.

    :param available: versions that the package manager can install, by name, the newest first.
    :returns: ``version``, ``install`` (names with versions), ``findings``.
    """
    # nvlsm and the like have versions of their own.
    names = [name for name in plan["names"] if _driver_versioned(name)]
    others = [name for name in plan["names"] if name not in names]
    wanted = version or _installed(plan, facts)
    if wanted and all(facts["driver"]["packages"].get(name) == wanted for name in names):
        # Nothing to ask of a repository, which may have dropped this version by now.
        return {"version": wanted, "install": others, "findings": []}
    candidates = [wanted] if wanted else _of_branch(names[0], available, plan["branch"])
    complete = [item for item in candidates if all(_exact(available, name, item) for name in names)]
    if not complete:
        problem = _incomplete(names, available, wanted or f"branch {plan['branch']}", host)
        return {"version": wanted, "install": [], "findings": [problem]}
    sign = "=" if plan["format"] == "apt" else "-"
    install = [f"{name}{sign}{_exact(available, name, complete[0])}" for name in names]
    return {"version": complete[0], "install": install + others, "findings": []}


def available(lines: Iterable[str]) -> dict[str, list[str]]:
    """Return versions by name, of lines ``name | version | ...`` as ``apt-cache madison`` writes them."""
    found: dict[str, list[str]] = {}
    for line in lines:
        words = [word.strip() for word in line.split("|")]
        if len(words) >= 2 and words[1] not in found.setdefault(words[0], []):
            found[words[0]].append(words[1])
    return found


def plan_toolkit(facts: Facts, settings: Mapping, knowledge: Mapping, host: str) -> dict[str, Any]:
    """Return ``repository`` and ``install`` of the container toolkit, and ``findings``.

    :param settings: ``version``, ``repository``, ``key``, ``fingerprint`` and the ``format`` of packages.
    """
    version, form = settings["version"], settings["format"]
    url = knowledge["urls"][form].format(machine=knowledge["machines"][form][facts["machine"]])
    repository, findings = repository_of(
        "toolkit", form, url, knowledge["key"], knowledge["fingerprint"], settings, host
    )
    try:
        old = not matches(version, f">={knowledge['least']}")
    except ValueError:
        problem, remedy = f"{version!r} is no version.", "Write one such as 1.20.0."
        return {"findings": [*findings, Finding("toolkit-version", "gpu_node_toolkit_version", problem, remedy)]}
    if old:
        problem = f"{version} lets a container take over its host (CVE-2025-23266)."
        remedy = f"Use {knowledge['least']} or later."
        findings.append(Finding("toolkit-version", "gpu_node_toolkit_version", problem, remedy))
    sign = "=" if form == "apt" else "-"
    release = version if "-" in version else f"{version}-1"
    return {
        "format": form,
        "repository": repository,
        "names": list(knowledge["names"]),
        "install": [f"{name}{sign}{release}" for name in knowledge["names"]],
        "findings": findings,
    }


def format_of(facts: Facts, knowledge: Mapping) -> str | None:
    """Return the format of a host's packages, ``apt`` or ``dnf``."""
    found = of_system(knowledge["repositories"], facts)
    return found["format"] if found else None


def plan_repository(
    what: str, facts: Facts, settings: Mapping, knowledge: Mapping, host: str
) -> tuple[str | None, dict[str, Any] | None, list[Finding]]:
    """Return the format of a host's packages, its repository of the driver, and what is wrong with that.

    :param settings: ``repository``, ``key`` and ``fingerprint``.
    """
    found = of_system(knowledge["repositories"], facts)
    if not found:
        return None, None, []
    url = knowledge["url"].format(folder=found["folder"], machine=knowledge["machines"][facts["machine"]])
    return found["format"], *repository_of(
        what, found["format"], url, found["key"], found["fingerprint"], settings, host
    )


def _settings(settings: Mapping) -> list[Finding]:
    findings = []
    if settings["root"] != "/":
        problem = f"the host's files are at {settings['root']}, so that only looking is possible."
        remedy = "Leave gpu_node_root at / or set gpu_node_prepare: false."
        findings.append(Finding("root", "gpu_node_root", problem, remedy))
    memlock = str(settings["memlock"])
    if memlock and memlock != "infinity" and not re.match(r"^\d+[KMGT]?$", memlock):
        problem = f"{memlock!r} is no limit."
        remedy = "Write infinity, a number of bytes (64G), or nothing to leave it."
        findings.append(Finding("memlock", "gpu_node_memlock", problem, remedy))
    return findings


def _tools(facts: Facts, host: str) -> list[Finding]:
    missing = [name for name, there in facts["tools"].items() if not there]
    if not missing:
        return []
    problem = f"it has no {listing(missing)}."
    remedy = "Only looking is possible (gpu_node_prepare: false), or install systemd and kmod."
    return [Finding("tools", f"{host} (system)", problem, remedy)]


def _vendors(facts: Facts, settings: Mapping, host: str) -> list[Finding]:
    """Only NVIDIA's packages are known; a host whose GPUs are not seen yet may have some."""
    vendors = sorted({card["vendor"] for card in facts["gpus"]})
    wanted = [variable for name, variable in _SWITCHES.items() if settings[name]]
    if not vendors or "nvidia" in vendors or not wanted:
        return []
    problem = f"its GPUs are of {listing(vendors)}, and only packages for NVIDIA's are known."
    remedy = f"Set {' and '.join(wanted)} for this host."
    return [Finding("gpu-vendor", f"{host} (GPUs)", problem, remedy)]


def _branch(settings: Mapping, knowledge: Mapping, host: str) -> list[Finding]:
    branch, version = str(settings["branch"]), settings["version"]
    known = f"Known are {listing(knowledge['branches'])}."
    if version and not _DRIVER_VERSION.match(version):
        problem = f"{version!r} is no version of the driver."
        return [Finding("driver-version", "gpu_node_driver_version", problem, "Write a whole one such as 595.91.07.")]
    if version and branch and branch != version.partition(".")[0]:
        problem = f"{branch} is not the branch of gpu_node_driver_version {version}."
        return [Finding("driver-branch", "gpu_node_driver_branch", problem, "Set one of them, or make them agree.")]
    if not branch_of(settings):
        problem = f"it is empty, and {host} is to get a driver (gpu_node_driver: managed)."
        return [Finding("driver-branch", "gpu_node_driver_branch", problem, known)]
    if branch_of(settings) not in [str(item) for item in knowledge["branches"]]:
        where = "gpu_node_driver_branch" if branch else "gpu_node_driver_version"
        return [Finding("driver-branch", where, f"branch {branch_of(settings)} is not known.", known)]
    return []


def _all_of_system(entries: Iterable[Mapping], facts: Facts) -> list[Mapping]:
    system, version = facts["os"]["id"], str(facts["os"]["version"] or "")
    return [
        item
        for item in entries
        if system in item["systems"]
        and ("version" not in item or version == item["version"] or version.startswith(f"{item['version']}."))
    ]


def of_system(entries: Iterable[Mapping], facts: Facts) -> Mapping | None:
    return next(iter(_all_of_system(entries, facts)), None)


def _switches(facts: Facts, form: str, branch: str, knowledge: Mapping) -> list[str]:
    """Return what the host's NVSwitches need; nothing where there are none, for it would not start."""
    if not facts["nvswitches"]:
        return []
    manager = next(
        item["name"].format(branch=branch)
        for item in knowledge["fabric_manager"]
        if form in item["formats"] and matches(branch, item["branches"])
    )
    late = any(item["kind"] == "nvlink5" for item in facts["nvswitches"])
    return [manager, *(knowledge["nvlink5"] if late else [])]


def without_headers(facts: Facts) -> list[str]:
    """Return the kernels, of now and of the next boot, for which no module can be built."""
    kernel = facts["kernel"]
    names = {kernel["running"]: kernel["running_headers"], kernel["next"]: kernel["next_headers"]}
    return [name for name, there in names.items() if name and not there]


def repository_of(
    what: str, form: str, url: str, key: str, fingerprint: str, settings: Mapping, host: str
) -> tuple[dict[str, Any], list[Finding]]:
    """Return a repository as module ``signed_repository`` takes it: of upstream, or of a mirror."""
    url = f"{(settings['repository'] or url).rstrip('/')}/"
    fingerprint = (settings["fingerprint"] or fingerprint).replace(" ", "").upper()
    findings = []
    if not _FINGERPRINT.match(fingerprint):
        variable = f"gpu_node_{what}_fingerprint"
        problem = f"{fingerprint!r} is no fingerprint of 40 hexadecimal digits."
        if not fingerprint:
            problem = f"it is empty, and that of the key of {url} is not known here."
        remedy = f"Compare with what NVIDIA publishes: gpg --show-keys {key.rpartition('/')[2]}"
        findings.append(Finding("fingerprint", variable, problem, remedy))
    key = settings["key"] or (key if "://" in key else url + key)
    name = f"llm-d-nvidia-{what}"
    # By its fingerprint: apt takes no two keys for one address, and a mirror may have both repositories.
    key_name = f"llm-d-nvidia-{fingerprint[-8:].lower()}"
    if form == "apt":
        key_path = f"/etc/apt/keyrings/{key_name}.asc"
        # A flat repository, as NVIDIA's are: no suite, so the folder itself.
        content = f"Types: deb\nURIs: {url}\nSuites: /\nSigned-By: {key_path}\n"
        path, index = f"/etc/apt/sources.list.d/{name}.sources", f"{url}InRelease"
    else:
        key_path = f"/etc/pki/rpm-gpg/RPM-GPG-KEY-{key_name}"
        content = f"[{name}]\nname={name}\nbaseurl={url}\nenabled=1\ngpgcheck=1\ngpgkey=file://{key_path}\n"
        path, index = f"/etc/yum.repos.d/{name}.repo", f"{url}repodata/repomd.xml"
    return {
        "key": key,
        "fingerprint": fingerprint,
        "key_path": key_path,
        "path": path,
        "content": content,
        "index": index,
    }, findings


def _driver_versioned(name: str) -> bool:
    return name.startswith(("nvidia-", "libnvidia-", "kmod-nvidia"))


def _installed(plan: Mapping, facts: Facts) -> str:
    """Return the version of an installed driver of the planned branch, or nothing."""
    packages = facts["driver"]["packages"]
    found = {packages[name] for name in plan["names"] if name in packages and "fabric" not in name}
    return next((version for version in sorted(found) if version.partition(".")[0] == plan["branch"]), "")


def _of_branch(name: str, available: Mapping[str, Sequence[str]], branch: str) -> list[str]:
    """Return the versions of a package that are of a branch, the newest first."""
    found = {upstream(version) for version in available.get(name, [])}
    return sorted((item for item in found if item.partition(".")[0] == branch), key=parse, reverse=True)


def _exact(available: Mapping[str, Sequence[str]], name: str, version: str) -> str | None:
    """Return the newest packaging of ``version``; package managers list the newest first."""
    return next((item for item in available.get(name, []) if upstream(item) == version), None)


def _incomplete(names: Sequence[str], available: Mapping[str, Sequence[str]], what: str, host: str) -> Finding:
    """Return why no version is there for all packages, with what is there."""
    there = {name: list(dict.fromkeys(upstream(item) for item in available.get(name, [])))[:3] for name in names}
    told = "; ".join(f"{name}: {listing(versions) or 'none'}" for name, versions in there.items())
    problem = f"the repository does not have all packages of driver {what} in one version ({told})."
    remedy = (
        "Driver and Fabric Manager have to be equal to the last digit: complete the mirror, or set "
        "gpu_node_driver_version to a version that is there for all of them."
    )
    return Finding("driver-version", f"{host} (driver)", problem, remedy)
