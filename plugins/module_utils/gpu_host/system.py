# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Operating system, kernels, Secure Boot and how the host was started."""

from __future__ import annotations

import os
import re
import shlex

from .tree import Tree

SECURE_BOOT = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
MODPROBE_FOLDERS = (
    "/etc/modprobe.d",
    "/run/modprobe.d",
    "/usr/local/lib/modprobe.d",
    "/usr/lib/modprobe.d",
    "/lib/modprobe.d",
)
#: What changes a host: systemd's and kmod's programs, which a container or a small guest may lack.
TOOLS = ("systemctl", "modprobe")
_BLACKLIST = re.compile(
    r"^\s*(blacklist\s+nouveau|install\s+nouveau\s+\S*(true|false)|options\s+nouveau\s.*modeset=0)\b", re.MULTILINE
)


def tools(tree: Tree) -> dict[str, bool]:
    """Return whether the programs are there without which a host cannot be changed."""
    return {name: bool(tree.programs(name)) for name in TOOLS}


def operating_system(tree: Tree) -> dict:
    """Return ``id``, ``like``, ``version``, ``name`` of the distribution."""
    values: dict[str, str] = {}
    for line in (tree.text("/etc/os-release") or tree.text("/usr/lib/os-release") or "").splitlines():
        key, sign, value = line.partition("=")
        if sign:
            values[key.strip()] = unquoted(value)
    return {
        "id": values.get("ID"),
        "like": values.get("ID_LIKE", "").split(),
        "version": values.get("VERSION_ID"),
        "name": values.get("PRETTY_NAME"),
    }


def unquoted(value: str) -> str:
    """Return a shell-like value without its quotes."""
    try:
        return "".join(shlex.split(value))
    except ValueError:
        return value.strip().strip("\"'")


def kernels(tree: Tree) -> dict:
    """Return the running kernel, the installed ones, and the one that the next boot takes.

    ``next_by`` says how that is known: ``grubenv`` (a chosen entry), ``newest`` (what boot loaders
    take otherwise) or ``running`` (none is installed, as in a guest whose host brings the kernel).
    """
    running = tree.line("/proc/sys/kernel/osrelease")
    installed = sorted((name for name in tree.names("/lib/modules") if _bootable(tree, name)), key=newer)
    chosen = _chosen(tree, installed)
    if chosen:
        following, how = chosen, "grubenv"
    elif installed:
        following, how = installed[-1], "newest"
    else:
        following, how = running, "running"
    return {
        "running": running,
        "next": following,
        "next_by": how,
        "installed": [{"release": name, "headers": headers(tree, name)} for name in installed],
        "running_headers": headers(tree, running) if running else False,
        "next_headers": headers(tree, following) if following else False,
    }


def headers(tree: Tree, release: str) -> bool:
    """Whether modules can be built for a kernel.

    The link ``build`` is absolute, so it is followed by hand below another root.
    """
    build = f"/lib/modules/{release}/build"
    try:
        link = os.readlink(tree.at(build))
    except OSError:
        return tree.exists(f"{build}/Makefile")
    place = link if link.startswith("/") else os.path.normpath(f"/lib/modules/{release}/{link}")
    return tree.exists(f"{place}/Makefile")


def newer(release: str) -> list:
    """Return a key by which kernels are sorted as boot loaders do: numbers as numbers."""
    return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in re.findall(r"\d+|[a-z]+", release)]


def command_line(tree: Tree) -> dict[str, str]:
    """Return the options that the kernel was started with; the last of each name counts."""
    words = (tree.line("/proc/cmdline") or "").split()
    return {name: value for name, _sign, value in (word.partition("=") for word in words)}


def secure_boot(tree: Tree) -> bool | None:
    """Whether the firmware lets only signed code start; None when it cannot be told.

    The variable holds four bytes of attributes and one of value.
    """
    if not tree.exists("/sys/firmware/efi"):
        return False
    content = tree.bytes(SECURE_BOOT)
    if content is None:
        # Firmware without the variable knows no Secure Boot; without the folder nobody knows.
        return False if tree.names("/sys/firmware/efi/efivars") and SECURE_BOOT not in tree.unreadable else None
    return content[4] == 1 if len(content) == 5 else None


def nouveau(tree: Tree) -> dict:
    """Return whether the kernel's own driver is loaded, and whether it is kept from loading."""
    options = command_line(tree)
    listed = options.get("modprobe.blacklist", "") + "," + options.get("rd.driver.blacklist", "")
    by_option = "nouveau" in listed.split(",") or options.get("nouveau.modeset") == "0"
    files = [f"{folder}/{name}" for folder in MODPROBE_FOLDERS for name in tree.names(folder) if name.endswith(".conf")]
    return {
        "loaded": tree.exists("/sys/module/nouveau"),
        "blacklisted": by_option or any(_BLACKLIST.search(tree.text(file) or "") for file in files),
    }


def iommu(tree: Tree) -> dict:
    """Return whether an IOMMU is at work and what the kernel was told about it."""
    options = command_line(tree)
    names = ("iommu", "intel_iommu", "amd_iommu", "iommu.passthrough")
    return {
        "enabled": bool(tree.names("/sys/class/iommu")),
        "options": {name: options[name] for name in names if name in options},
    }


def _bootable(tree: Tree, release: str) -> bool:
    # Leftovers of removed kernels keep a folder with modules that DKMS built.
    return tree.exists(f"/boot/vmlinuz-{release}") or tree.exists(f"/lib/modules/{release}/vmlinuz")


def _chosen(tree: Tree, installed: list[str]) -> str | None:
    """Return the kernel that grub was told to start by name."""
    for path in ("/boot/grub2/grubenv", "/boot/grub/grubenv"):
        for line in (tree.text(path) or "").splitlines():
            key, _sign, value = line.partition("=")
            if key in ("next_entry", "saved_entry"):
                ends = [name for name in installed if value.endswith(name)]
                if ends:
                    return max(ends, key=len)
    return None
