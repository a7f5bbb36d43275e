# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""What runs containers on a host, and what they may use of it."""

from __future__ import annotations

import re

from .tree import Tree

CONFIG = "/etc/containerd/config.toml"
#: Kubernetes distributions that bring a containerd of their own.
DISTRIBUTIONS = {"k3s": "/var/lib/rancher/k3s", "rke2": "/var/lib/rancher/rke2"}
UNIT_FOLDERS = (
    "/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/usr/local/lib/systemd/system",
    "/run/systemd/system",
    "/etc/systemd/system",
)
#: Units whose limits pods inherit.
UNITS = ("containerd", "kubelet", "k3s", "k3s-agent", "rke2-server", "rke2-agent")
_IMPORTS = re.compile(r"^\s*imports\s*=\s*\[(.*?)\]", re.MULTILINE | re.DOTALL)
_DISABLED = re.compile(r"^\s*disabled_plugins\s*=\s*\[(.*?)\]", re.MULTILINE | re.DOTALL)
_VERSION = re.compile(r"^\s*version\s*=\s*(\d+)", re.MULTILINE)
_STRING = re.compile(r"[\"']([^\"']*)[\"']")


def containerd(tree: Tree) -> dict:
    """Return ``programs`` (path and version) and ``config`` of containerd, and a ``distribution`` that brings its own."""
    inside = [name for name, folder in DISTRIBUTIONS.items() if tree.exists(folder)]
    places = tree.programs("containerd")
    for name in inside:
        places += [
            f"{DISTRIBUTIONS[name]}/data/{item}/bin/containerd"
            for item in tree.names(f"{DISTRIBUTIONS[name]}/data")
            if item != "current" and tree.exists(f"{DISTRIBUTIONS[name]}/data/{item}/bin/containerd")
        ]
    return {
        "programs": [{"path": path, "version": version(tree.output(path, "--version"))} for path in places],
        "config": config(tree.text(CONFIG)),
        "distribution": inside[0] if inside else None,
    }


def version(text: str | None) -> str | None:
    """Return ``2.1.3`` of ``containerd github.com/containerd/containerd/v2 v2.1.3 abc``."""
    words = (text or "").split()
    return words[2].removeprefix("v") if len(words) > 2 else None


def config(text: str | None) -> dict | None:
    """Return what decides how a configuration is merged: ``version``, ``imports``, ``disabled_plugins``.

    TOML's tables come after the values of the root, so the first table ends what is looked at.
    ``version`` is None where the file has none.
    """
    if text is None:
        return None
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    ends = [index for index, line in enumerate(lines) if re.match(r"\s*\[[^\]]*\]\s*(#|$)", line) and "=" not in line]
    # A list over several lines may have such a line too, and then ends with a bracket of its own.
    root = "\n".join(lines[: ends[0]] if ends else lines)
    number = _VERSION.search(root)
    return {
        "version": int(number[1]) if number else None,
        "imports": _strings(_IMPORTS, root),
        "disabled_plugins": _strings(_DISABLED, root),
    }


def cgroup_version(tree: Tree) -> int | None:
    """Return 2 of the unified hierarchy, 1 of the old one, hybrid included."""
    if tree.exists("/sys/fs/cgroup/cgroup.controllers"):
        return 2
    return 1 if tree.exists("/sys/fs/cgroup/memory") or tree.exists("/sys/fs/cgroup/unified") else None


def swap(tree: Tree) -> dict:
    """Return swap that is ``active`` (name to KiB) and swap that the next boot turns on (``configured``)."""
    active = {}
    for line in (tree.text("/proc/swaps") or "").splitlines()[1:]:
        words = line.split()
        if len(words) >= 3 and words[2].isdigit():
            active[words[0]] = int(words[2])
    configured = []
    for line in (tree.text("/etc/fstab") or "").splitlines():
        words = line.split()
        if len(words) >= 3 and not words[0].startswith("#") and words[2] == "swap":
            configured.append(words[0])
    return {"active": active, "configured": configured}


def memlock(tree: Tree) -> dict[str, dict]:
    """Return per unit the limit of locked memory as ``configured`` and as its process has it (``running``)."""
    running = _processes(tree)
    found = {}
    for unit in UNITS:
        configured, exists = _limit(tree, unit)
        if exists or unit in running:
            found[unit] = {"configured": configured, "running": running.get(unit)}
    return found


def stored(tree: Tree, root: str) -> int:
    """Return the bytes of compressed image layers in containerd's store at ``root``."""
    blobs = f"{root}/io.containerd.content.v1.content/blobs/sha256"
    return sum(tree.size(f"{blobs}/{name}") for name in tree.names(blobs))


def _strings(pattern: re.Pattern, text: str) -> list[str]:
    match = pattern.search(text)
    return _STRING.findall(match[1]) if match else []


def _limit(tree: Tree, unit: str) -> tuple[str | None, bool]:
    """Return the last LimitMEMLOCK of a unit and its drop-ins, and whether the unit exists."""
    files = [f"{folder}/{unit}.service" for folder in UNIT_FOLDERS if tree.exists(f"{folder}/{unit}.service")]
    # A unit replaces one of the same name in an earlier folder; so does a drop-in.
    drop_ins = {
        name: f"{folder}/{unit}.service.d/{name}"
        for folder in UNIT_FOLDERS
        for name in tree.names(f"{folder}/{unit}.service.d")
    }
    limit = None
    for file in [*files[-1:], *(drop_ins[name] for name in sorted(drop_ins) if name.endswith(".conf"))]:
        for line in (tree.text(file) or "").splitlines():
            key, sign, value = line.partition("=")
            if sign and key.strip() == "LimitMEMLOCK":
                limit = value.strip() or None
    return limit, bool(files)


def _processes(tree: Tree) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for process in tree.names("/proc"):
        if not process.isdigit():
            continue
        name = tree.line(f"/proc/{process}/comm")
        if name in UNITS and name not in found:
            match = re.search(r"^Max locked memory\s+(\S+)", tree.text(f"/proc/{process}/limits") or "", re.MULTILINE)
            found[name] = match[1] if match else None
    return found
