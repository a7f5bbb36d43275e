# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""PCI ids: which devices matter, and of what architecture a GPU is.

Device ids of one chip lie next to each other, so ranges also know cards that came later. Sources:
the table in the README of NVIDIA/open-gpu-kernel-modules, and envytools for older chips.
"""

from __future__ import annotations

NVIDIA, AMD, MELLANOX, BROADCOM = 0x10DE, 0x1002, 0x15B3, 0x14E4
VENDORS = {NVIDIA: "nvidia", AMD: "amd"}

#: Classes of PCI devices, as the upper two bytes.
VGA, DISPLAY_3D, DISPLAY_OTHER, ACCELERATOR = 0x0300, 0x0302, 0x0380, 0x1200
GPU_CLASSES = {NVIDIA: (VGA, DISPLAY_3D), AMD: (VGA, DISPLAY_3D, DISPLAY_OTHER, ACCELERATOR)}
NVSWITCH_CLASS = 0x0680
BRIDGE_CLASS = 0x0604
NETWORK_CLASSES = (0x0200, 0x0207)

#: First and last device id of NVIDIA's chips, and their architecture.
ARCHITECTURES = (
    (0x0FC0, 0x103F, "kepler"),
    (0x1180, 0x12BF, "kepler"),
    (0x1340, 0x143F, "maxwell"),
    (0x1600, 0x17FF, "maxwell"),
    (0x15F0, 0x15FF, "pascal"),
    (0x1B00, 0x1D7F, "pascal"),
    (0x1D80, 0x1DFF, "volta"),
    (0x1E00, 0x1FFF, "turing"),
    (0x2180, 0x21FF, "turing"),
    (0x2080, 0x20FF, "ampere"),
    (0x2200, 0x228F, "ampere"),
    (0x2400, 0x25FF, "ampere"),
    (0x2300, 0x233F, "hopper"),
    (0x2340, 0x237F, "grace-hopper"),
    (0x2680, 0x28FF, "ada"),
    (0x2900, 0x29FF, "blackwell"),
    (0x2B80, 0x2DFF, "blackwell"),
    (0x2F00, 0x2F7F, "blackwell"),
    (0x3180, 0x31FF, "blackwell-ultra"),
)

#: Names of data centre cards, for hosts without a driver that would tell.
NAMES = {
    0x1DB1: "Tesla V100-SXM2-16GB",
    0x1DB4: "Tesla V100-PCIE-16GB",
    0x1DB5: "Tesla V100-SXM2-32GB",
    0x1EB8: "Tesla T4",
    0x20B0: "A100-SXM4-40GB",
    0x20B2: "A100-SXM4-80GB",
    0x20B5: "A100 80GB PCIe",
    0x20B7: "A30",
    0x20F1: "A100-PCIE-40GB",
    0x20F3: "A800-SXM4-80GB",
    0x2235: "A40",
    0x2236: "A10",
    0x2237: "A10G",
    0x2321: "H100 NVL",
    0x2322: "H800 PCIe",
    0x2324: "H800",
    0x2329: "H20",
    0x2330: "H100 80GB HBM3",
    0x2331: "H100 PCIe",
    0x2335: "H200",
    0x2342: "GH200",
    0x26B5: "L40",
    0x26B9: "L40S",
    0x27B8: "L4",
    0x2901: "B200",
    0x2941: "GB200",
    0x3182: "B300 SXM6 AC",
    0x31C2: "GB300",
}


def vendor(number: int) -> str:
    """Return ``nvidia``, ``amd``, or the number as text."""
    return VENDORS.get(number, f"{number:04x}")


def architecture(vendor_id: int, device_id: int) -> str | None:
    """Return the architecture of a GPU of NVIDIA; None when this table does not know it."""
    if vendor_id != NVIDIA:
        return None
    return next((name for first, last, name in ARCHITECTURES if first <= device_id <= last), None)


def name(vendor_id: int, device_id: int) -> str:
    """Return the name of a device, or its ids."""
    known = NAMES.get(device_id) if vendor_id == NVIDIA else None
    return f"NVIDIA {known}" if known else f"{vendor_id:04x}:{device_id:04x}"
