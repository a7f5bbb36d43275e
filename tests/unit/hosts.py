"""Made-up hosts: folders with the files of /sys, /proc and /etc that facts are read from."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

from ansible_collections.llm_d.multi_engine.plugins.module_utils.gpu_host.facts import collect
from ansible_collections.llm_d.multi_engine.plugins.module_utils.gpu_host.tree import Tree

DATA = Path(__file__).parent / "data" / "gpu_host"
KERNEL = "6.8.0-45-generic"
OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {}  Release Build  (dvs-builder@)  "
PROPRIETARY = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {}  Tue Mar  3 10:10:10 UTC 2026"
UBUNTU = 'ID=ubuntu\nID_LIKE=debian\nVERSION_ID="24.04"\nPRETTY_NAME="Ubuntu 24.04.2 LTS"\n'
GPU, NVSWITCH, NIC, BRIDGE, VGA = 0x030200, 0x068000, 0x020700, 0x060400, 0x030000
GIB = 2**30


class Host:
    """A host's root that grows by calls; what a program prints stands in ``outputs``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.outputs: dict[str, str] = {}
        self.write("/proc/sys/kernel/osrelease", KERNEL + "\n")
        self.write("/proc/cmdline", "BOOT_IMAGE=/vmlinuz root=/dev/sda1 ro quiet\n")
        self.write("/etc/os-release", UBUNTU)
        self.write("/proc/swaps", "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n")
        self.write("/sys/fs/cgroup/cgroup.controllers", "cpu memory\n")
        self.kernel(KERNEL)

    def write(self, path: str, content: str | bytes = "") -> Host:
        place = self.root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content if isinstance(content, bytes) else content.encode())
        return self

    def link(self, path: str, target: str) -> Host:
        place = self.root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(target)
        return self

    def kernel(self, release: str, headers: bool = True, installed: bool = True) -> Host:
        if installed:
            self.write(f"/boot/vmlinuz-{release}")
        (self.root / f"lib/modules/{release}").mkdir(parents=True, exist_ok=True)
        if headers:
            # As distributions have it: the link is absolute.
            self.link(f"/lib/modules/{release}/build", f"/usr/src/linux-headers-{release}")
            self.write(f"/usr/src/linux-headers-{release}/Makefile")
        return self

    def module(self, release: str, version: str, licence: str = "Dual MIT/GPL") -> Host:
        self.write(f"/lib/modules/{release}/modules.dep", "kernel/fs/ext4.ko: \nupdates/dkms/nvidia.ko: kernel/x.ko\n")
        content = f"\x7fELF\0license={licence}\0alias=x\0version={version}\0supported=external\0"
        return self.write(f"/lib/modules/{release}/updates/dkms/nvidia.ko", content)

    def loaded(self, version: str, line: str = OPEN) -> Host:
        return self.write("/proc/driver/nvidia/version", line.format(version) + "\nGCC version:  gcc 13\n")

    def program(self, path: str, output: str) -> Host:
        self.write(path, "#!/bin/sh\n")
        (self.root / path.lstrip("/")).chmod(0o755)
        self.outputs[path] = output
        return self

    def package(self, name: str, version: str, status: str = "install ok installed") -> Host:
        file = self.root / "var/lib/dpkg/status"
        before = file.read_text() if file.exists() else "Package: bash\nStatus: install ok installed\nVersion: 5.2\n\n"
        return self.write(
            "/var/lib/dpkg/status",
            f"{before}Package: {name}\nStatus: {status}\nVersion: {version}\nDescription: nvidia\n\n",
        )

    def pci(
        self,
        address: str,
        vendor: int,
        device: int,
        kind: int,
        *,
        way: str = "pci0000:00",
        driver: str | None = None,
        numa: int = 0,
        bar: int = 0,
        config: bytes | None = None,
    ) -> Host:
        """Add a device; ``way`` names the bridges above it, from the host bridge on."""
        real = f"/sys/devices/{way}/{address}"
        for name, value in (("vendor", vendor), ("device", device)):
            self.write(f"{real}/{name}", f"0x{value:04x}\n")
        self.write(f"{real}/class", f"0x{kind:06x}\n").write(f"{real}/numa_node", f"{numa}\n")
        if bar:
            zero = "0x0000000000000000"
            self.write(
                f"{real}/resource",
                f"{zero} {zero} {zero}\n0x{2**40:016x} 0x{2**40 + bar - 1:016x} 0x000000000014220c\n",
            )
        if driver:
            self.link(f"{real}/driver", f"../../../bus/pci/drivers/{driver}")
        if config is not None:
            self.write(f"{real}/config", config)
        return self.link(f"/sys/bus/pci/devices/{address}", f"../../..{real.removeprefix('/sys')}")

    def rdma(self, address: str, name: str, way: str, interface: str) -> Host:
        port = f"/sys/devices/{way}/{address}/infiniband/{name}/ports/1"
        self.write(f"{port}/state", "4: ACTIVE\n").write(f"{port}/link_layer", "InfiniBand\n")
        self.write(f"{port}/rate", "400 Gb/sec (4X NDR)\n")
        return self.write(f"/sys/devices/{way}/{address}/net/{interface}/operstate", "up\n")

    def facts(self) -> dict[str, Any]:
        def run(command: list[str]) -> str | None:
            return self.outputs.get(command[0].removeprefix(str(self.root)))

        return collect(Tree(str(self.root), run), "/var/lib/containerd", "/var/lib/kubelet", "x86_64")


def acs_config(control: int) -> bytes:
    """Return a bridge's configuration space with another capability in front of ACS."""
    config = bytearray(4096)
    struct.pack_into("<I", config, 0x100, 0x0001 | 1 << 16 | 0x140 << 20)
    struct.pack_into("<IHH", config, 0x140, 0x000D | 1 << 16, 0x1F, control)
    return bytes(config)


def from_listing(host: Host, text: str) -> Host:
    """Add the devices of a recorded list: an address and name=value a line."""
    for line in text.splitlines():
        address, *words = line.split()
        told = dict(word.split("=", 1) for word in words)
        vendor, device, kind, numa = (int(told[name], 0) for name in ("vendor", "device", "class", "numa"))
        host.pci(address, vendor, device, kind, driver=told["driver"] or None, numa=numa)
    return host


def h200_guest(root: Path) -> Host:
    """A virtual machine with one H200, as it was recorded."""
    host = from_listing(Host(root), (DATA / "h200-guest.pci").read_text())
    host.write("/proc/driver/nvidia/version", (DATA / "h200-guest.version").read_text())
    return host.write(
        "/proc/driver/nvidia/gpus/0000:00:06.0/information",
        "Model: \t\t NVIDIA H200\nIRQ:   \t\t 35\nGPU UUID: \t GPU-0\nBus Type: \t PCIe\nDevice Minor: \t 0\n",
    )


def hgx(root: Path, device: int, version: str = "580.159.04", flavour: str = OPEN) -> Host:
    """A host of eight GPUs with a network card beside each, as HGX boards have it, without NVSwitches."""
    host = Host(root).loaded(version, flavour).module(KERNEL, version)
    host.package("nvidia-dkms-open", f"{version}-1ubuntu1").package("nvidia-utils-580", "", "deinstall ok config-files")
    host.write(f"/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.{version}")
    for index in range(8):
        numa, top = index // 4, f"pci0000:{index:x}0"
        switch = f"{top}/0000:{index:x}0:01.0/0000:{index:x}1:00.0"
        host.pci(f"0000:{index:x}0:01.0", 0x8086, 0x352A, BRIDGE, way=top, numa=numa, config=acs_config(0))
        gpu_way = f"{switch}/0000:{index:x}2:00.0"
        nic_way = f"{switch}/0000:{index:x}2:01.0"
        host.pci(f"0000:{index:x}3:00.0", 0x10DE, device, GPU, way=gpu_way, driver="nvidia", numa=numa, bar=128 * GIB)
        host.pci(f"0000:{index:x}4:00.0", 0x15B3, 0x1021, NIC, way=nic_way, driver="mlx5_core", numa=numa)
        host.rdma(f"0000:{index:x}4:00.0", f"mlx5_{index}", nic_way, f"ib{index}")
    return host


def a100(root: Path) -> Host:
    """HGX A100 with its six NVSwitches."""
    host = hgx(root, 0x20B2, "535.183.06", PROPRIETARY).module(KERNEL, "535.183.06", "NVIDIA")
    for index in range(6):
        host.pci(f"0000:f{index}:00.0", 0x10DE, 0x1AF1, NVSWITCH, way="pci0000:f0", driver="nvidia-nvswitch")
    return host.package("nvidia-fabricmanager-535", "535.183.06-1")


def b200(root: Path) -> Host:
    """HGX B200: NVSwitches are told by network cards that manage them."""
    host = hgx(root, 0x2901)
    for index in range(4):
        way = "pci0000:f0"
        host.pci(f"0000:f{index}:00.0", 0x15B3, 0x1021, NIC, way=way, driver="mlx5_core")
        host.write(f"/sys/devices/{way}/0000:f{index}:00.0/vpd", b"\x82\x10\0NVLink-SW\x90V3SW_MNG\xff")
    return host.package("nvidia-fabricmanager", "580.159.04-1").package("nvlsm", "2025.06.1-1")


def amd(root: Path) -> Host:
    """Two MI300X."""
    host = Host(root)
    for index in range(2):
        host.pci(f"0000:0{index + 1}:00.0", 0x1002, 0x74A1, 0x120000, driver="amdgpu")
    return host
