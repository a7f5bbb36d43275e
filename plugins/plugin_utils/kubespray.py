# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""What kubespray has to know so that its cluster can serve: its own variables, made from the inventory's.

kubespray writes containerd's configuration anew each time, so NVIDIA's runtime has to be among its variables.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from .findings import Finding, listing
from .versions import is_version, matches, parse

COLLECTION = "kubernetes_sigs.kubespray"
#: Its playbooks that make or grow a cluster; others take something away.
PLAYBOOKS = ("cluster", "scale", "upgrade_cluster")
#: Files that tell what an installed collection is, by what they tell.
FILES = {
    "manifest": "MANIFEST.json",
    "galaxy": "galaxy.yml",
    "runtime": "meta/runtime.yml",
    "checksums": "roles/kubespray_defaults/vars/main/checksums.yml",
}
#: Groups that both need, and those that ours has to be in.
_GROUPS = ("kube_control_plane", "kube_node")
_PROXIES = {"http_proxy": "http_proxy", "https_proxy": "https_proxy", "no_proxy": "additional_no_proxy"}


def described(files: Mapping[str, str | None]) -> dict[str, Any]:
    """Return ``version``, ``requires_ansible`` and ``kubernetes`` (versions that it can install, the newest first).

    :param files: text of each of :data:`FILES`, None where there is none. What cannot be read is empty.
    """
    manifest = _yaml(files.get("manifest")).get("collection_info") or _yaml(files.get("galaxy"))
    sums = _yaml(files.get("checksums")).get("kubelet_checksums") or {}
    known = {version for versions in sums.values() for version in versions}
    return {
        "version": str(manifest.get("version") or ""),
        "requires_ansible": str(_yaml(files.get("runtime")).get("requires_ansible") or ""),
        "kubernetes": sorted(filter(is_version, known), key=parse, reverse=True),
    }


def _yaml(text: str | None) -> Mapping[str, Any]:
    try:
        data = yaml.load(text or "", Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError:
        return {}
    return data if isinstance(data, Mapping) else {}


def why_not(kubespray: Mapping[str, Any] | None, ansible: str) -> str | None:
    """Return why kubespray cannot be started from here; None when it can.

    :param kubespray: see :func:`described`; None where it is not installed.
    :param ansible: version of ansible-core.
    """
    if kubespray is None:
        return f"The collection {COLLECTION} is not installed here."
    if not matches(ansible, kubespray["requires_ansible"]):
        return f"{COLLECTION} {kubespray['version']} needs ansible-core {kubespray['requires_ansible']}, this is {ansible}."
    return None


def handed_over(
    host: str,
    groups: Mapping[str, Sequence[str]],
    settings: Mapping[str, Any],
    given: Mapping[str, Any],
    kubespray: Mapping[str, Any] | None,
    knowledge: Mapping[str, Any],
) -> dict[str, Any]:
    """Return ``variables`` of kubespray for a host, and ``findings`` (list of str).

    What the inventory says itself, it keeps: only NVIDIA's runtime is added to runtimes that are there.

    :param settings: ``version`` and ``supported`` (range) of Kubernetes, ``release`` (name), ``registry``,
        ``environment``, ``gpu_runtime`` (bool), ``default_runtime``, ``systemd_cgroup`` (bool), ``memlock``, ``labels``.
    :param given: variables of kubespray that the inventory has, to their values.
    :param kubespray: see :func:`described`; None where it is not installed.
    :param knowledge: ``runtime`` (an additional runtime of kubespray) and ``registries`` (names of variables).
    """
    findings = _check_groups(host, groups)
    version = str(given.get("kube_version") or settings["version"])
    version, found = _version(version, "kube_version" in given, settings, kubespray)
    findings += found
    variables: dict[str, Any] = {
        "kube_version": version,
        "containerd_use_systemd_cgroup": settings["systemd_cgroup"],
        **dict.fromkeys(knowledge["registries"] if settings["registry"] else (), settings["registry"]),
        **_proxies(settings["environment"]),
    }
    if settings["labels"]:
        variables["node_labels"] = {str(key): str(value) for key, value in settings["labels"].items()}
    if host in groups.get("gpu_nodes", ()):
        variables |= _of_gpus(settings, given, knowledge)
    merged = "containerd_additional_runtimes"
    return {
        "variables": {name: value for name, value in variables.items() if name not in given or name == merged},
        "findings": [str(item) for item in findings],
    }


def _of_gpus(settings: Mapping, given: Mapping, knowledge: Mapping) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if settings["memlock"]:
        found["containerd_limit_mem_lock"] = str(settings["memlock"])
    if not settings["gpu_runtime"]:
        return found
    there = list(given.get("containerd_additional_runtimes") or [])
    runtime = knowledge["runtime"]
    if not any(item.get("name") == runtime["name"] for item in there):
        # kubespray's template writes text: a YAML boolean would become "True" in quotes.
        options = {**runtime["options"], "SystemdCgroup": "true" if settings["systemd_cgroup"] else "false"}
        found["containerd_additional_runtimes"] = [*there, {**runtime, "options": options}]
    if settings["default_runtime"] != "runc":
        found["containerd_default_runtime"] = settings["default_runtime"]
    return {**found, "enable_cdi": True}


def _proxies(environment: Mapping[str, Any]) -> dict[str, str]:
    lower = {str(name).lower(): str(value) for name, value in environment.items()}
    return {variable: lower[name] for name, variable in _PROXIES.items() if lower.get(name)}


def _version(
    version: str, given: bool, settings: Mapping, kubespray: Mapping[str, Any] | None
) -> tuple[str, list[Finding]]:
    """Return the version of Kubernetes to install, and what is wrong with it."""
    where = "kube_version" if given else "kubernetes_version"
    supported, known = settings["supported"], (kubespray or {}).get("kubernetes") or []
    fitting = [item for item in known if matches(item, supported)]
    told = f"Release {settings['release']} supports {supported}."
    if known:
        told += f" Of these kubespray {kubespray['version']} knows {listing(fitting[:4]) or 'none'}."
    if not version:
        if fitting:
            return fitting[0], []
        problem = "it is empty, and kubespray is not here to tell which versions it knows."
        if known:
            problem = f"kubespray {kubespray['version']} knows no version that the release supports."
            told += " Choose another release of kubespray, or another llm_d_release."
        return "", [Finding("kubernetes-version", where, problem, told)]
    if not is_version(version):
        return "", [Finding("kubernetes-version", where, f"{version!r} is not a version.", told)]
    version = version.removeprefix("v")
    if not matches(version, supported):
        problem = f"release {settings['release']} does not support Kubernetes {version}."
        return version, [Finding("kubernetes-version", where, problem, told)]
    if known and version not in known:
        problem = f"kubespray {kubespray['version']} does not know Kubernetes {version}."
        return version, [Finding("kubernetes-version", where, problem, told)]
    return version, []


def _check_groups(host: str, groups: Mapping[str, Sequence[str]]) -> list[Finding]:
    findings = []
    empty = [name for name in _GROUPS if not groups.get(name)]
    if empty:
        remedy = "kubespray needs kube_control_plane, kube_node and etcd; inventories/bare_metal shows how."
        findings.append(Finding("groups", listing(empty), "no host is in this group of the inventory.", remedy))
    if host in groups.get("gpu_nodes", ()) and host not in groups.get("kube_node", ()):
        remedy = "Make gpu_nodes a child of kube_node, or add the host there."
        findings.append(Finding("groups", f"gpu_nodes: {host}", "it is not in kube_node.", remedy))
    return findings


def inventory(hosts: Mapping[str, Mapping[str, Any]], gpu_nodes: Sequence[str]) -> dict[str, Any]:
    """Return an inventory that gives each host its variables, at the group where they are the same for all.

    :param hosts: name to variables.
    :param gpu_nodes: names of the hosts of that group.
    """
    members = [name for name in gpu_nodes if name in hosts]
    everywhere = _common(list(hosts.values()))
    there = _common([hosts[name] for name in members])
    of_gpus = {name: value for name, value in there.items() if name not in everywhere}
    own = {
        host: {
            name: value
            for name, value in variables.items()
            if name not in everywhere and not (host in members and name in of_gpus)
        }
        for host, variables in hosts.items()
    }
    children = {"k8s_cluster": {"vars": everywhere}, "gpu_nodes": {"vars": of_gpus}}
    found = {
        "hosts": {host: variables for host, variables in own.items() if variables},
        "children": {name: group for name, group in children.items() if group["vars"]},
    }
    return {"all": {name: value for name, value in found.items() if value}}


def _common(of_hosts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    if not of_hosts:
        return {}
    first, *others = of_hosts
    return {
        name: value for name, value in first.items() if all(name in item and item[name] == value for item in others)
    }


def dumped(hosts: Mapping[str, Mapping[str, Any]], gpu_nodes: Sequence[str]) -> str:
    """Return :func:`inventory` as a file."""
    head = (
        "# Written by the Ansible role llm_d.multi_engine.kubernetes; changes are lost.\n"
        "# Variables of kubespray for the hosts of another inventory, which wins where it says more.\n"
    )
    plain = json.loads(json.dumps(inventory(hosts, gpu_nodes)))
    return head + yaml.safe_dump(plain, sort_keys=True, width=1000)
