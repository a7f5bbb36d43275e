#!/usr/bin/python
# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_facts
short_description: What a host offers to model servers on GPUs
version_added: "0.1.0"
author: the llm_d.multi_engine authors (@llm-d)
description:
  - Reads GPUs, NVSwitches, network cards, driver, kernels, container runtime and space of a host.
    Writes nothing, loads nothing and needs no program of NVIDIA.
  - What cannot be known is null; files that exist and cannot be read are listed as C(unreadable).
options:
  root:
    description:
      - Folder that is taken for the root of the host, such as a mounted image or a made-up tree.
      - Programs (C(modinfo), C(rpm), C(containerd)) are those below it.
    type: path
    default: /
  image_root:
    description: Where containerd keeps images.
    type: path
    default: /var/lib/containerd
  kubelet_root:
    description: Where the kubelet keeps pods.
    type: path
    default: /var/lib/kubelet
requirements:
  - python >= 3.9
notes:
  - Supports check mode; changes nothing.
  - Without root, ACS of bridges, images in store and limits of other users' processes stay unknown.
"""

EXAMPLES = r"""
- name: Look at the host
  llm_d.multi_engine.gpu_facts:

- name: Show its GPUs
  ansible.builtin.debug:
    msg: "{{ ansible_facts.llm_d_gpu_host.gpus | map(attribute='name') }}"
"""

RETURN = r"""
ansible_facts:
  description: Facts of the host.
  returned: always
  type: dict
  contains:
    llm_d_gpu_host:
      description: The facts.
      type: dict
      contains:
        os:
          description: Distribution, as C(/etc/os-release) tells it.
          type: dict
          contains:
            id: {description: Such as V(ubuntu)., type: str}
            like: {description: Distributions that it is like., type: list, elements: str}
            version: {description: Such as V(24.04)., type: str}
            name: {description: For people., type: str}
        machine: {description: Architecture of the processor., type: str, sample: x86_64}
        tools: {description: "Whether programs are there without which a host cannot be changed (C(systemctl), C(modprobe)).", type: dict}
        kernel:
          description: Kernels.
          type: dict
          contains:
            running: {description: Release of the running kernel., type: str}
            next: {description: Release that the next boot takes., type: str}
            next_by:
              description: >-
                How that is known, V(grubenv) for a chosen one, V(newest) for the newest installed one,
                V(running) where none is installed.
              type: str
            installed: {description: Release of each installed kernel and whether its headers are there., type: list, elements: dict}
            running_headers: {description: Whether modules can be built for the running kernel., type: bool}
            next_headers: {description: Whether modules can be built for the next one., type: bool}
        secure_boot: {description: Whether the firmware lets only signed code start., type: bool}
        nouveau:
          description: The kernel's own driver.
          type: dict
          contains:
            loaded: {description: Whether it is loaded., type: bool}
            blacklisted: {description: Whether it is kept from loading at the next boot., type: bool}
        iommu:
          description: What stands between devices that talk to each other.
          type: dict
          contains:
            enabled: {description: Whether an IOMMU is at work., type: bool}
            options: {description: What the kernel was told about it., type: dict}
            acs_bridges:
              description: Bridges that send traffic between devices by way of the processor.
              type: list
              elements: str
        gpus:
          description: GPUs of NVIDIA and AMD, by address.
          type: list
          elements: dict
          contains:
            address: {description: Address on the PCI bus., type: str, sample: "0000:1b:00.0"}
            vendor: {description: V(nvidia) or V(amd)., type: str}
            vendor_id: {description: PCI vendor., type: str}
            device_id: {description: PCI device., type: str}
            name: {description: As the driver calls it; without one by its ids., type: str}
            architecture: {description: Such as V(hopper); null when its id is not known., type: str}
            uuid: {description: As the driver tells it., type: str}
            driver: {description: Kernel driver that holds it., type: str}
            numa_node: {description: NUMA node., type: int}
            way: {description: Host bridge and bridges above it., type: list, elements: str}
            bar_bytes: {description: Its largest window into memory., type: int}
            iommu: {description: V(identity) when the IOMMU translates nothing., type: str}
            mig_instances: {description: Number of MIG's GPU instances., type: int}
            nics:
              description: >-
                Address of each network card to its distance, in the words of C(nvidia-smi topo), V(PIX), V(PXB),
                V(PHB), V(NODE) or V(SYS).
              type: dict
        nvswitches:
          description: Address and kind of each, V(nvswitch) or, from Blackwell on, V(nvlink5).
          type: list
          elements: dict
        nics:
          description: >-
            Network cards with address, ids, driver, NUMA node, interfaces, and per RDMA device its name, link
            layer, state and rate.
          type: list
          elements: dict
        driver:
          description: NVIDIA's driver.
          type: dict
          contains:
            loaded: {description: Version and flavour (V(open) or V(proprietary)) of the loaded module., type: dict}
            running_kernel:
              description: Path, version, flavour and signer of the module that is installed for the running kernel.
              type: dict
            next_kernel: {description: The same for the kernel that the next boot takes., type: dict}
            libraries: {description: Versions of NVML., type: list, elements: str}
            installs: {description: "Who installed it, V(packages), V(run) (NVIDIA's installer) or V(operator).", type: list, elements: str}
            packages: {description: Packages of the driver to their upstream version., type: dict}
            dkms: {description: "Name and version of modules that DKMS builds, and for which kernels.", type: list, elements: dict}
            fabric_manager: {description: Version of the Fabric Manager., type: str}
        mlx5_core:
          description: >-
            Driver of NVIDIA's network cards, null where it is not loaded; builds tell DOCA-OFED's from the kernel's own.
          type: dict
          contains:
            loaded: {description: "Its V(version), null for the kernel's own, and V(srcversion), as far as they are known.", type: dict}
            next_kernel: {description: The same of the module that the next boot takes; null where it cannot be read., type: dict}
        containerd:
          description: What runs containers.
          type: dict
          contains:
            programs: {description: Path and version of each containerd., type: list, elements: dict}
            config: {description: "Version, imports and disabled plugins of its configuration.", type: dict}
            distribution: {description: "Kubernetes that brings its own, V(k3s) or V(rke2).", type: str}
        kubelet: {description: "Whether a kubelet has run here, so that the host is, or was, a node.", type: bool}
        cgroup_version: {description: 1 or 2., type: int}
        swap:
          description: Swap.
          type: dict
          contains:
            active: {description: Name to KiB., type: dict}
            configured: {description: What C(/etc/fstab) turns on., type: list, elements: str}
        memlock:
          description: Limit of locked memory, per unit whose limits pods inherit, as configured and as it runs.
          type: dict
        disks:
          description: >-
            Path, total and free bytes of the filesystems for C(images) and for the C(kubelet), and for images the
            bytes of compressed layers that are stored already.
          type: dict
        unreadable: {description: "Paths that exist and could not be read, with the reason.", type: dict}
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.llm_d.multi_engine.plugins.module_utils.gpu_host.facts import collect
from ansible_collections.llm_d.multi_engine.plugins.module_utils.gpu_host.tree import Tree

ARGUMENTS = {
    "root": {"type": "path", "default": "/"},
    "image_root": {"type": "path", "default": "/var/lib/containerd"},
    "kubelet_root": {"type": "path", "default": "/var/lib/kubelet"},
}


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    root = module.params["root"]
    if not os.path.isdir(root):
        module.fail_json(msg=f"root: {root} is not a folder. Name the root of a host, usually /.")

    def run(command: list) -> str | None:
        """Return what a program prints; one that fails tells nothing."""
        try:
            code, output, _errors = module.run_command(command, handle_exceptions=False, environ_update={"LC_ALL": "C"})
        except OSError:
            return None
        return output if code == 0 else None

    facts = collect(Tree(root, run), module.params["image_root"], module.params["kubelet_root"])
    module.exit_json(changed=False, ansible_facts={"llm_d_gpu_host": facts})


if __name__ == "__main__":
    main()
