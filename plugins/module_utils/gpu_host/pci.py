# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""PCI devices of a host from sysfs: GPUs, NVSwitches, network cards, and how near they are."""

from __future__ import annotations

import re
import struct

from . import devices
from .tree import Tree

PCI = "/sys/bus/pci/devices"
_BUS = re.compile(r"^pci[0-9a-f]{4}:[0-9a-f]{2}$")
_ADDRESS = re.compile(r"^[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$")
#: PCI Express extended capability "Access Control Services".
_ACS = 0x000D
#: Bits of ACS that send traffic between devices by way of the root: request and completion redirect,
#: egress control, and source validation, which firmware sets together with them.
_ACS_DETOURS = 0b0010_1101


def scan(tree: Tree) -> list[dict]:
    """Return what concerns us of every PCI device; one that cannot be read is left out."""
    found = []
    for address in tree.names(PCI):
        path = f"{PCI}/{address}"
        numbers = [tree.number(f"{path}/{name}", 16) for name in ("vendor", "device", "class")]
        if not _ADDRESS.match(address) or None in numbers:
            continue
        vendor, device, kind = numbers
        numa = tree.number(f"{path}/numa_node")
        found.append(
            {
                "address": address,
                "vendor_id": vendor,
                "device_id": device,
                "class": kind >> 8,
                "driver": tree.target(f"{path}/driver"),
                "numa_node": numa if numa is not None and numa >= 0 else None,
                "way": way(tree, path),
            }
        )
    return found


def way(tree: Tree, path: str) -> list[str]:
    """Return the host bridge and the bridges between it and a device, from the top."""
    parts = tree.parts(path)
    roots = [index for index, part in enumerate(parts) if _BUS.match(part)]
    return parts[roots[0] : -1] if roots else []


def gpus(tree: Tree, found: list[dict]) -> list[dict]:
    """Return the GPUs among the devices of :func:`scan`."""
    result = []
    for item in found:
        if item["class"] not in devices.GPU_CLASSES.get(item["vendor_id"], ()):
            continue
        path = f"{PCI}/{item['address']}"
        told = _information(tree, item["address"])
        group = tree.target(f"{path}/iommu_group")
        result.append(
            {
                **_common(item),
                "vendor": devices.vendor(item["vendor_id"]),
                "name": told.get("Model") or devices.name(item["vendor_id"], item["device_id"]),
                "architecture": devices.architecture(item["vendor_id"], item["device_id"]),
                "uuid": told.get("GPU UUID"),
                "bar_bytes": largest_bar(tree.text(f"{path}/resource")),
                "iommu": tree.line(f"/sys/kernel/iommu_groups/{group}/type") if group else None,
            }
        )
    return _with_mig(tree, result)


def nvswitches(tree: Tree, found: list[dict]) -> list[dict]:
    """Return NVSwitches: PCI devices up to Hopper, management ports of network cards from Blackwell on."""
    seen = [
        {"address": item["address"], "kind": "nvswitch"}
        for item in found
        if item["vendor_id"] == devices.NVIDIA and item["class"] == devices.NVSWITCH_CLASS
    ]
    for item in found:
        if item["vendor_id"] != devices.MELLANOX or item["class"] not in devices.NETWORK_CLASSES:
            continue
        # Binary data that may lack an end; only this mark in it matters.
        if b"SW_MNG" in (tree.bytes(f"{PCI}/{item['address']}/vpd", 4096) or b""):
            seen.append({"address": item["address"], "kind": "nvlink5"})
    return seen


def nics(tree: Tree, found: list[dict], apart: list[str]) -> list[dict]:
    """Return network cards.

    :param apart: addresses of cards that are none, being the management ports of NVSwitches.
    """
    result = []
    for item in found:
        if item["class"] not in devices.NETWORK_CLASSES or item["address"] in apart:
            continue
        path = f"{PCI}/{item['address']}"
        result.append(
            {
                **_common(item),
                # virtio puts one more folder between.
                "interfaces": tree.names(f"{path}/net")
                or [
                    name
                    for part in tree.names(path)
                    if part.startswith("virtio")
                    for name in tree.names(f"{path}/{part}/net")
                ],
                "virtual_function": tree.exists(f"{path}/physfn"),
                "rdma": [_rdma(tree, path, name) for name in tree.names(f"{path}/infiniband")],
            }
        )
    return result


def affinity(gpu: dict, other: dict) -> str:
    """Return how near two devices are, in the words of ``nvidia-smi topo``.

    ``PIX`` is one bridge or switch between them, ``PXB`` several, ``PHB`` the host bridge, ``NODE``
    the same NUMA node, ``SYS`` anything farther.
    """
    one, two = gpu["way"], other["way"]
    shared = 0
    while shared < min(len(one), len(two)) and one[shared] == two[shared]:
        shared += 1
    if shared > 1:
        return "PIX" if max(len(one), len(two)) - shared <= 1 else "PXB"
    if shared == 1:
        return "PHB"
    return "NODE" if gpu["numa_node"] is not None and gpu["numa_node"] == other["numa_node"] else "SYS"


def largest_bar(resource: str | None) -> int | None:
    """Return the size of a device's largest window: ``resource`` has start, end and flags a line."""
    sizes = []
    for line in (resource or "").splitlines():
        try:
            start, end = (int(word, 16) for word in line.split()[:2])
        except ValueError:
            return None
        sizes.append(end - start + 1 if end > start else 0)
    return max(sizes, default=0) or None


def acs(tree: Tree, found: list[dict]) -> list[str] | None:
    """Return the bridges that send traffic between devices by way of the root.

    None when that cannot be told: only root may read more than 64 bytes of the configuration.
    """
    bridges = [item for item in found if item["class"] == devices.BRIDGE_CLASS]
    configs = {item["address"]: tree.bytes(f"{PCI}/{item['address']}/config", 4096) or b"" for item in bridges}
    if bridges and all(len(config) < 256 for config in configs.values()):
        return None
    return [address for address, config in configs.items() if acs_control(config) & _ACS_DETOURS]


def acs_control(config: bytes) -> int:
    """Return the ACS control register of a device's configuration space; 0 without one."""
    offset, seen = 0x100, set()
    while offset and offset not in seen and offset + 8 <= len(config):
        seen.add(offset)
        header, _capability, control = struct.unpack_from("<IHH", config, offset)
        if header & 0xFFFF == _ACS:
            return control
        offset = header >> 20
    return 0


def _common(item: dict) -> dict:
    kept = {key: item[key] for key in ("address", "driver", "numa_node", "way")}
    return {**kept, "vendor_id": f"{item['vendor_id']:04x}", "device_id": f"{item['device_id']:04x}"}


def _information(tree: Tree, address: str) -> dict[str, str]:
    """Return what the loaded driver says of a GPU."""
    lines = (tree.text(f"/proc/driver/nvidia/gpus/{address}/information") or "").splitlines()
    pairs = [line.partition(":") for line in lines if ":" in line]
    return {name.strip(): value.strip() for name, _colon, value in pairs}


def _with_mig(tree: Tree, cards: list[dict]) -> list[dict]:
    """Add the number of MIG's GPU instances, which the driver counts by minor numbers."""
    for card in cards:
        minor = _information(tree, card["address"]).get("Device Minor")
        folder = f"/proc/driver/nvidia/capabilities/gpu{minor}/mig"
        card["mig_instances"] = len([name for name in tree.names(folder) if re.match(r"gi\d+$", name)])
    return cards


def _rdma(tree: Tree, path: str, name: str) -> dict:
    port = f"{path}/infiniband/{name}/ports/1"
    state = tree.line(f"{port}/state") or ""
    return {
        "name": name,
        "link_layer": tree.line(f"{port}/link_layer"),
        # "4: ACTIVE"
        "state": state.partition(":")[2].strip().lower() or None,
        "rate": tree.line(f"{port}/rate"),
    }
