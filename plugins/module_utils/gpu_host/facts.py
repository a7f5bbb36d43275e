# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Everything that is told of a host before it serves models."""

from __future__ import annotations

import os

from . import driver, modules, pci, runtime, system
from .tree import Tree


def collect(tree: Tree, image_root: str, kubelet_root: str, machine: str | None = None) -> dict:
    """Return the facts that module ``gpu_facts`` documents.

    :param image_root: where containerd keeps images.
    :param kubelet_root: where the kubelet keeps pods.
    :param machine: architecture of the processor.
    """
    found = pci.scan(tree)
    switches = pci.nvswitches(tree, found)
    cards = pci.gpus(tree, found)
    networks = pci.nics(tree, found, [item["address"] for item in switches])
    for card in cards:
        card["nics"] = {item["address"]: pci.affinity(card, item) for item in networks}
    kernels = system.kernels(tree)
    facts = {
        "os": system.operating_system(tree),
        "machine": machine or os.uname().machine,
        "tools": system.tools(tree),
        "kernel": kernels,
        "secure_boot": system.secure_boot(tree),
        "nouveau": system.nouveau(tree),
        "iommu": {**system.iommu(tree), "acs_bridges": pci.acs(tree, found)},
        "gpus": cards,
        "nvswitches": switches,
        "nics": networks,
        "driver": driver.driver(tree, kernels["running"], kernels["next"]),
        "mlx5_core": modules.loaded_and_next(tree, kernels["next"], "mlx5_core"),
        "containerd": runtime.containerd(tree),
        # Every kubelet makes this folder when it starts for the first time.
        "kubelet": tree.exists(f"{kubelet_root}/pods"),
        "cgroup_version": runtime.cgroup_version(tree),
        "swap": runtime.swap(tree),
        "memlock": runtime.memlock(tree),
        "disks": {
            "images": {
                **(tree.space(image_root) or {"path": image_root, "total": None, "free": None}),
                "stored": runtime.stored(tree, image_root),
            },
            "kubelet": tree.space(kubelet_root) or {"path": kubelet_root, "total": None, "free": None},
        },
    }
    return {**facts, "unreadable": dict(sorted(tree.unreadable.items()))}
