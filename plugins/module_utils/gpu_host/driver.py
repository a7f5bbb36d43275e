# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""NVIDIA's driver on a host: what is loaded, what the next boot loads, and who installed it."""

from __future__ import annotations

import re

from . import modules
from .tree import Tree

_LOADED = re.compile(r"^NVRM version:.*?\s(\d+\.\d+(?:\.\d+)?)\s", re.MULTILINE)
_LIBRARY = re.compile(r"^libnvidia-ml\.so\.(\d+\.\d+(?:\.\d+)?)$")
_LIBRARY_FOLDERS = ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib")
#: Names of packages that concern the driver, and those among them that bring the kernel's module.
_PACKAGE = re.compile(
    r"^(lib)?nvidia-|^cuda-drivers|^linux-(modules|objects)-nvidia|^kmod-nvidia|^datacenter-gpu-manager|^nvlsm$"
)
_DRIVER_PACKAGE = re.compile(
    r"^(nvidia-(dkms|kernel|open|driver|headless)(-|$)|cuda-drivers|linux-modules-nvidia|kmod-nvidia)"
)
_NOT_A_DRIVER = re.compile(r"-(pinning|assistant|local-repo)(-|$)|^nvidia-kernel-common")
_FABRIC_MANAGER = re.compile(r"^nvidia-fabric-?manager(-\d+)?$")
#: Files that NVIDIA's .run installer leaves and that no package has.
_RUN_FILES = ("/usr/bin/nvidia-uninstall", "/usr/bin/nvidia-installer")
_OPERATOR_FOLDER = "/run/nvidia/driver"


def driver(tree: Tree, running: str | None, following: str | None) -> dict:
    """Return what is known of the driver.

    :param running: release of the running kernel.
    :param following: release of the kernel that the next boot takes.
    """
    listed = packages(tree)
    manager = [version for name, version in listed.items() if _FABRIC_MANAGER.match(name)]
    return {
        "loaded": loaded(tree),
        "running_kernel": on_disk(tree, running),
        "next_kernel": on_disk(tree, following),
        "libraries": libraries(tree),
        "installs": installs(tree, listed),
        "packages": listed,
        "dkms": dkms(tree),
        "fabric_manager": manager[0] if manager else None,
    }


def loaded(tree: Tree) -> dict | None:
    """Return ``version`` and ``flavour`` (``open`` or ``proprietary``) of the loaded module."""
    text = tree.text("/proc/driver/nvidia/version")
    match = _LOADED.search(text or "")
    if not match:
        return None
    return {"version": match[1], "flavour": "open" if "Open Kernel Module" in (text or "") else "proprietary"}


def on_disk(tree: Tree, release: str | None) -> dict | None:
    """Return ``path``, ``version``, ``flavour`` and ``signer`` of the module that a kernel would load."""
    file = modules.file_of(tree, release, "nvidia")
    if not file:
        return None
    told = modules.told(tree, file)
    licence = told.get("license")
    return {
        "path": file,
        "version": told.get("version"),
        # The open module is "Dual MIT/GPL", the other one "NVIDIA".
        "flavour": None if licence is None else "proprietary" if licence.upper() == "NVIDIA" else "open",
        "signer": told.get("signer"),
    }


def libraries(tree: Tree) -> list[str]:
    """Return the versions of NVML in the usual folders; programs need the loaded driver's."""
    found = (_LIBRARY.match(name) for folder in _LIBRARY_FOLDERS for name in tree.names(folder))
    return sorted({match[1] for match in found if match})


def packages(tree: Tree) -> dict[str, str]:
    """Return the installed packages of NVIDIA's driver, name to upstream version."""
    listed = _dpkg(tree) or _rpm(tree)
    return {name: upstream(version) for name, version in sorted(listed.items()) if _PACKAGE.match(name)}


def upstream(version: str) -> str:
    """Return ``580.159.04`` of ``1:580.159.04-1ubuntu1``."""
    return version.rpartition(":")[2].partition("-")[0]


def installs(tree: Tree, listed: dict[str, str]) -> list[str]:
    """Return who installed a driver: ``packages``, ``run`` (NVIDIA's installer), ``operator``."""
    found = []
    if any(_DRIVER_PACKAGE.match(name) and not _NOT_A_DRIVER.search(name) for name in listed):
        found.append("packages")
    if any(tree.exists(file) for file in _RUN_FILES):
        found.append("run")
    if tree.names(_OPERATOR_FOLDER):
        found.append("operator")
    return found


def dkms(tree: Tree) -> list[dict]:
    """Return the driver's versions that DKMS builds, and for which kernels it has."""
    found = []
    for name in tree.names("/var/lib/dkms"):
        if not re.match(r"nvidia(-|$)", name):
            continue
        for version in tree.names(f"/var/lib/dkms/{name}"):
            if version[:1].isdigit():
                inside = tree.names(f"/var/lib/dkms/{name}/{version}")
                kernels = [item for item in inside if item not in ("source", "build")]
                found.append({"name": name, "version": version, "kernels": kernels})
    return found


def _dpkg(tree: Tree) -> dict[str, str]:
    found = {}
    for block in (tree.text("/var/lib/dpkg/status") or "").split("\n\n"):
        if "nvidia" not in block and "cuda" not in block and "nvlsm" not in block:
            continue
        fields = dict(
            line.split(": ", 1) for line in block.splitlines() if ": " in line and not line.startswith((" ", "\t"))
        )
        if fields.get("Status", "").endswith(" installed"):
            found[fields.get("Package", "")] = fields.get("Version", "")
    return found


def _rpm(tree: Tree) -> dict[str, str]:
    for program in tree.programs("rpm")[:1]:
        text = tree.output(program, "-qa", "--queryformat", "%{NAME} %{VERSION}\\n")
        return dict(line.split(" ", 1) for line in (text or "").splitlines() if " " in line)
    return {}
