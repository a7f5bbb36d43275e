"""Facts of hosts, read from made-up trees."""

from __future__ import annotations

import gzip
import lzma
from pathlib import Path

import pytest
from ansible_collections.llm_d.multi_engine.plugins.module_utils.gpu_host import devices, pci, runtime, system
from ansible_collections.llm_d.multi_engine.plugins.module_utils.gpu_host.driver import upstream
from ansible_collections.llm_d.multi_engine.tests.unit import hosts
from ansible_collections.llm_d.multi_engine.tests.unit.hosts import KERNEL, Host


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_a_recorded_guest_with_an_h200(tmp_path: Path) -> None:
    facts = hosts.h200_guest(tmp_path).facts()
    (gpu,) = facts["gpus"]
    assert gpu["address"] == "0000:00:06.0"
    assert (gpu["vendor"], gpu["name"], gpu["architecture"]) == ("nvidia", "NVIDIA H200", "hopper")
    assert (gpu["driver"], gpu["uuid"], gpu["numa_node"]) == ("nvidia", "GPU-0", None)
    assert facts["driver"]["loaded"] == {"version": "580.159.04", "flavour": "open"}
    assert facts["nvswitches"] == []
    # virtio's, on the same host bridge.
    assert gpu["nics"] == {"0000:00:03.0": "PHB"}


def test_hgx_a100(tmp_path: Path) -> None:
    facts = hosts.a100(tmp_path).facts()
    assert [gpu["architecture"] for gpu in facts["gpus"]] == ["ampere"] * 8
    assert facts["gpus"][0]["name"] == "NVIDIA A100-SXM4-80GB"
    assert facts["gpus"][0]["bar_bytes"] == 128 * hosts.GIB
    assert [switch["kind"] for switch in facts["nvswitches"]] == ["nvswitch"] * 6
    driver = facts["driver"]
    assert driver["loaded"] == {"version": "535.183.06", "flavour": "proprietary"}
    assert driver["next_kernel"]["flavour"] == "proprietary"
    assert driver["fabric_manager"] == "535.183.06"
    assert driver["installs"] == ["packages"]
    assert driver["libraries"] == ["535.183.06"]
    # Removed, with its configuration left.
    assert "nvidia-utils-580" not in driver["packages"]


def test_affinity_on_hgx(tmp_path: Path) -> None:
    facts = hosts.a100(tmp_path).facts()
    near = facts["gpus"][0]["nics"]
    assert near["0000:04:00.0"] == "PIX"
    assert near["0000:14:00.0"] == "NODE"
    assert near["0000:74:00.0"] == "SYS"
    nic = facts["nics"][0]
    assert nic["interfaces"] == ["ib0"]
    assert nic["rdma"] == [
        {"name": "mlx5_0", "link_layer": "InfiniBand", "state": "active", "rate": "400 Gb/sec (4X NDR)"}
    ]


def test_hgx_b200(tmp_path: Path) -> None:
    facts = hosts.b200(tmp_path).facts()
    assert {gpu["architecture"] for gpu in facts["gpus"]} == {"blackwell"}
    assert [switch["kind"] for switch in facts["nvswitches"]] == ["nvlink5"] * 4
    # Ports that manage NVSwitches carry no traffic of models.
    assert len(facts["nics"]) == 8


def test_mig(tmp_path: Path) -> None:
    host = hosts.h200_guest(tmp_path)
    for instance in (1, 2):
        host.write(f"/proc/driver/nvidia/capabilities/gpu0/mig/gi{instance}/access", "x")
    assert host.facts()["gpus"][0]["mig_instances"] == 2


def test_amd(tmp_path: Path) -> None:
    facts = hosts.amd(tmp_path).facts()
    assert [gpu["vendor"] for gpu in facts["gpus"]] == ["amd", "amd"]
    assert facts["gpus"][0]["name"] == "1002:74a1"
    assert facts["gpus"][0]["architecture"] is None


def test_no_gpu_but_a_screen(host: Host) -> None:
    facts = host.pci("0000:00:02.0", 0x1A03, 0x2000, hosts.VGA, driver="ast").facts()
    assert facts["gpus"] == []
    assert facts["driver"]["loaded"] is None
    assert facts["driver"]["installs"] == []


def test_no_driver(host: Host) -> None:
    facts = host.pci("0000:01:00.0", 0x10DE, 0x2330, hosts.GPU).facts()
    (gpu,) = facts["gpus"]
    assert (gpu["driver"], gpu["name"]) == (None, "NVIDIA H100 80GB HBM3")
    assert facts["driver"]["next_kernel"] is None


def test_the_network_cards_driver(host: Host) -> None:
    assert host.facts()["mlx5_core"] is None
    # The kernel's own is loaded, and DOCA-OFED's was installed since.
    host.write("/sys/module/mlx5_core/srcversion", "0A1B\n")
    file = "updates/dkms/mlx5_core.ko"
    host.write(f"/lib/modules/{KERNEL}/modules.dep", f"kernel/drivers/net/mlx5_ib.ko:\n{file}: mlx_compat.ko\n")
    host.write(f"/lib/modules/{KERNEL}/{file}", "\x7fELF\0version=24.10-0.7.0\0srcversion=2C3D\0license=Dual BSD/GPL\0")
    builds = host.facts()["mlx5_core"]
    assert builds["loaded"] == {"version": None, "srcversion": "0A1B"}
    assert builds["next_kernel"] == {"version": "24.10-0.7.0", "srcversion": "2C3D"}
    # Of a module that is gone from the disk nothing is known.
    host.write(f"/lib/modules/{KERNEL}/modules.dep", "")
    assert host.facts()["mlx5_core"]["next_kernel"] is None


def test_broken_files(host: Host) -> None:
    for path in ("/proc/driver/nvidia/version", "/proc/swaps", "/etc/os-release", "/var/lib/dpkg/status"):
        host.write(path, b"\xff\xfe\0 : = [\n'")
    host.write(f"/lib/modules/{KERNEL}/modules.dep", b"\xffnvidia.ko.xz:\nextra/nvidia.ko.xz: \n")
    host.write(f"/lib/modules/{KERNEL}/extra/nvidia.ko.xz", "no archive")
    host.write("/etc/containerd/config.toml", "version = 'x'\nimports = 3\n[[[\n")
    host.write("/sys/bus/pci/devices/0000:01:00.0/vendor", "")
    host.write("/sys/bus/pci/devices/nonsense/vendor", "0x10de\n")
    host.pci("0000:02:00.0", 0x10DE, 0x2330, hosts.GPU).write(
        "/sys/devices/pci0000:00/0000:02:00.0/resource", "x y z\n"
    )
    # A folder where a file should be.
    host.write("/proc/driver/nvidia/gpus/0000:02:00.0/information/x")
    facts = host.facts()
    assert [gpu["address"] for gpu in facts["gpus"]] == ["0000:02:00.0"]
    assert facts["gpus"][0]["bar_bytes"] is None
    assert facts["driver"]["loaded"] is None
    assert facts["driver"]["next_kernel"]["version"] is None
    assert facts["containerd"]["config"] == {"version": None, "imports": [], "disabled_plugins": []}
    assert facts["swap"]["active"] == {}
    assert set(facts["unreadable"]) == {
        f"/lib/modules/{KERNEL}/extra/nvidia.ko.xz",
        "/proc/driver/nvidia/gpus/0000:02:00.0/information",
    }


def test_an_empty_root(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    host = Host(tmp_path / "host")
    host.root = tmp_path / "root"
    facts = host.facts()
    assert facts["os"]["id"] is None
    assert facts["kernel"]["next"] is None
    assert facts["cgroup_version"] is None
    assert facts["secure_boot"] is False


@pytest.mark.parametrize(
    ("device", "architecture"),
    [
        (0x1B38, "pascal"),
        (0x1DB6, "volta"),
        (0x1EB8, "turing"),
        (0x20B5, "ampere"),
        (0x2235, "ampere"),
        (0x2331, "hopper"),
        (0x2342, "grace-hopper"),
        (0x26B9, "ada"),
        (0x2901, "blackwell"),
        (0x2BB5, "blackwell"),
        (0x3182, "blackwell-ultra"),
        (0x9999, None),
    ],
)
def test_architectures(device: int, architecture: str | None) -> None:
    assert devices.architecture(devices.NVIDIA, device) == architecture
    assert devices.architecture(devices.AMD, device) is None


@pytest.mark.parametrize(
    ("one", "two", "word"),
    [
        (["pci0000:00", "a", "b", "c"], ["pci0000:00", "a", "b", "d"], "PIX"),
        (["pci0000:00", "a"], ["pci0000:00", "a"], "PIX"),
        (["pci0000:00", "a", "b", "c"], ["pci0000:00", "a", "d", "e"], "PXB"),
        (["pci0000:00", "a"], ["pci0000:00", "b"], "PHB"),
        (["pci0000:00"], ["pci0000:00"], "PHB"),
        (["pci0000:00"], ["pci0000:80"], "SYS"),
        ([], [], "SYS"),
    ],
)
def test_affinity(one: list[str], two: list[str], word: str) -> None:
    assert pci.affinity({"way": one, "numa_node": None}, {"way": two, "numa_node": None}) == word


@pytest.mark.parametrize(
    ("config", "control"),
    [(hosts.acs_config(0x1D), 0x1D), (hosts.acs_config(0), 0), (b"", 0), (b"\xff" * 4096, 0), (b"\0" * 256, 0)],
)
def test_acs_of_a_bridge(config: bytes, control: int) -> None:
    assert pci.acs_control(config) == control


@pytest.mark.parametrize(
    ("config", "bridges"), [(hosts.acs_config(0x1D), ["0000:00:01.0"]), (hosts.acs_config(0), []), (b"\0" * 64, None)]
)
def test_acs(host: Host, config: bytes, bridges: list[str] | None) -> None:
    host.pci("0000:00:01.0", 0x8086, 1, hosts.BRIDGE, config=config)
    assert host.facts()["iommu"]["acs_bridges"] == bridges


@pytest.mark.parametrize(("pack", "suffix"), [(lambda data: data, ""), (lzma.compress, ".xz"), (gzip.compress, ".gz")])
def test_module_of_the_next_kernel(host: Host, pack, suffix: str) -> None:
    newest = "6.8.0-110-generic"
    host.kernel(newest, headers=False).module(KERNEL, "570.1.2")
    host.write(f"/lib/modules/{newest}/modules.dep", f"extra/nvidia.ko{suffix}:\n")
    data = pack(b"\0license=NVIDIA\0version=580.159.04\0")
    facts = host.write(f"/lib/modules/{newest}/extra/nvidia.ko{suffix}", data).facts()
    assert (facts["kernel"]["running"], facts["kernel"]["next"], facts["kernel"]["next_by"]) == (
        KERNEL,
        newest,
        "newest",
    )
    assert (facts["kernel"]["running_headers"], facts["kernel"]["next_headers"]) == (True, False)
    assert facts["driver"]["running_kernel"]["version"] == "570.1.2"
    assert facts["driver"]["running_kernel"]["flavour"] == "open"
    module = facts["driver"]["next_kernel"]
    assert (module["version"], module["flavour"]) == ("580.159.04", "proprietary")


def test_modinfo_tells_more(host: Host) -> None:
    host.module(KERNEL, "1.2")
    host.program("/usr/sbin/modinfo", "filename: x\nversion:   580.1.2\nlicense:  Dual MIT/GPL\nsigner:  Canonical\n")
    module = host.facts()["driver"]["next_kernel"]
    assert (module["version"], module["flavour"], module["signer"]) == ("580.1.2", "open", "Canonical")


def test_a_kernel_chosen_in_grub(host: Host) -> None:
    host.kernel("6.8.0-9-generic").write("/boot/grub2/grubenv", f"# GRUB\nsaved_entry=abc-{KERNEL}\n####")
    host.kernel("6.11.0-1-generic")
    facts = host.facts()["kernel"]
    assert (facts["next"], facts["next_by"]) == (KERNEL, "grubenv")
    assert [item["release"] for item in facts["installed"]] == ["6.8.0-9-generic", KERNEL, "6.11.0-1-generic"]


def test_leftovers_of_a_removed_kernel_are_none(host: Host) -> None:
    host.kernel("6.14.0-1-generic", installed=False)
    assert host.facts()["kernel"]["next"] == KERNEL


@pytest.mark.parametrize(
    ("files", "state"),
    [
        ({}, False),
        ({system.SECURE_BOOT: b"\x06\0\0\0\1"}, True),
        ({system.SECURE_BOOT: b"\x06\0\0\0\0"}, False),
        ({system.SECURE_BOOT: b"\x06"}, None),
        ({"/sys/firmware/efi/efivars/Boot0000-x": b"1"}, False),
        ({"/sys/firmware/efi/fw_platform_size": b"64"}, None),
    ],
)
def test_secure_boot(host: Host, files: dict[str, bytes], state: bool | None) -> None:
    for path, content in files.items():
        host.write(path, content)
    assert host.facts()["secure_boot"] is state


@pytest.mark.parametrize(
    ("files", "blacklisted"),
    [
        ({}, False),
        ({"/etc/modprobe.d/x.conf": "# blacklist nouveau\n"}, False),
        ({"/etc/modprobe.d/x.conf": "blacklist nouveau\n"}, True),
        ({"/usr/lib/modprobe.d/x.conf": "a b\noptions nouveau modeset=0\n"}, True),
        ({"/etc/modprobe.d/x.conf.bak": "blacklist nouveau\n"}, False),
        ({"/proc/cmdline": "quiet modprobe.blacklist=a,nouveau\n"}, True),
        ({"/proc/cmdline": "nouveau.modeset=0\n"}, True),
    ],
)
def test_nouveau(host: Host, files: dict[str, str], blacklisted: bool) -> None:
    for path, content in files.items():
        host.write(path, content)
    assert host.facts()["nouveau"] == {"loaded": False, "blacklisted": blacklisted}


def test_iommu(host: Host) -> None:
    host.write("/sys/class/iommu/dmar0/x").write("/proc/cmdline", "intel_iommu=on iommu=pt quiet\n")
    facts = host.facts()["iommu"]
    assert (facts["enabled"], facts["options"]) == (True, {"iommu": "pt", "intel_iommu": "on"})


def test_installs(host: Host) -> None:
    host.write("/usr/bin/nvidia-uninstall").write("/run/nvidia/driver/usr/bin/x").package("nvidia-open", "595.91.07-1")
    host.write("/var/lib/dkms/nvidia/595.91.07/6.8.0-45-generic/x86_64/module/nvidia.ko")
    host.write("/var/lib/dkms/nvidia/595.91.07/source/dkms.conf").write("/var/lib/dkms/drbd/9/x")
    facts = host.facts()["driver"]
    assert facts["installs"] == ["packages", "run", "operator"]
    assert facts["dkms"] == [{"name": "nvidia", "version": "595.91.07", "kernels": [KERNEL]}]


@pytest.mark.parametrize("name", ["nvidia-driver-pinning-595", "nvidia-kernel-common-580", "libnvidia-ml1"])
def test_packages_that_are_no_driver(host: Host, name: str) -> None:
    assert host.package(name, "595.1").facts()["driver"]["installs"] == []


def test_rpm(host: Host) -> None:
    host.program("/usr/bin/rpm", "bash 5.1\nkmod-nvidia-open-dkms 595.91.07\nnvidia-fabric-manager 595.91.07\n")
    facts = host.facts()["driver"]
    assert facts["packages"] == {"kmod-nvidia-open-dkms": "595.91.07", "nvidia-fabric-manager": "595.91.07"}
    assert (facts["installs"], facts["fabric_manager"]) == (["packages"], "595.91.07")


@pytest.mark.parametrize(
    ("version", "expected"), [("1:580.159.04-1ubuntu1", "580.159.04"), ("580.1", "580.1"), ("", "")]
)
def test_upstream_version(version: str, expected: str) -> None:
    assert upstream(version) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("containerd github.com/containerd/containerd/v2 v2.1.3 c787fb98", "2.1.3"),
        ("containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+b1", "1.6.20~ds1"),
        ("containerd containerd.io 1.7.22 7f7fdf5", "1.7.22"),
        ("error", None),
        (None, None),
    ],
)
def test_containerd_version(text: str | None, expected: str | None) -> None:
    assert runtime.version(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, None),
        ("", {"version": None, "imports": [], "disabled_plugins": []}),
        (
            "# version = 1\nversion = 3\nimports = [\n  \"/etc/containerd/conf.d/*.toml\",\n  '/x.toml'\n]\n[plugins]\nversion = 9\n",
            {"version": 3, "imports": ["/etc/containerd/conf.d/*.toml", "/x.toml"], "disabled_plugins": []},
        ),
        (
            'disabled_plugins = ["cri"]\n[plugins."io.containerd.grpc.v1.cri"]\n  version = 4\n',
            {"version": None, "imports": [], "disabled_plugins": ["cri"]},
        ),
    ],
)
def test_containerd_config(text: str | None, expected: dict | None) -> None:
    assert runtime.config(text) == expected


def test_containerd(host: Host) -> None:
    host.program("/usr/bin/containerd", "containerd containerd.io 1.7.22 x").link("/bin", "usr/bin")
    host.program("/usr/local/bin/containerd", "containerd github.com/containerd/containerd/v2 v2.1.3 x")
    host.write("/etc/containerd/config.toml", "version = 2\n").write("/var/lib/rancher/k3s/data/abc/bin/containerd")
    facts = host.facts()["containerd"]
    assert facts["programs"] == [
        {"path": "/usr/local/bin/containerd", "version": "2.1.3"},
        {"path": "/usr/bin/containerd", "version": "1.7.22"},
        {"path": "/var/lib/rancher/k3s/data/abc/bin/containerd", "version": None},
    ]
    assert (facts["config"]["version"], facts["distribution"]) == (2, "k3s")


def test_memlock(host: Host) -> None:
    host.write("/usr/lib/systemd/system/containerd.service", "[Service]\nLimitMEMLOCK=64K\n")
    host.write("/etc/systemd/system/containerd.service.d/20.conf", "[Service]\nLimitMEMLOCK=infinity\n")
    host.write("/usr/lib/systemd/system/containerd.service.d/10.conf", "[Service]\nLimitMEMLOCK=1M\n")
    host.write("/proc/77/comm", "containerd\n").write(
        "/proc/77/limits", "Max locked memory   8388608   8388608  bytes\n"
    )
    host.write("/proc/78/comm", "bash\n").write("/proc/self/comm", "kubelet\n")
    assert host.facts()["memlock"] == {"containerd": {"configured": "infinity", "running": "8388608"}}


def test_swap(host: Host) -> None:
    host.write("/proc/swaps", "Filename Type Size Used Priority\n/dev/zram0  partition  4194300  0  100\n")
    host.write("/etc/fstab", "# /dev/sdz none swap sw 0 0\n/swap.img none swap sw 0 0\n/dev/sda1 / ext4 defaults 0 1\n")
    assert host.facts()["swap"] == {"active": {"/dev/zram0": 4194300}, "configured": ["/swap.img"]}


def test_disks(host: Host) -> None:
    host.write("/var/lib/containerd/io.containerd.content.v1.content/blobs/sha256/abc", b"x" * 100)
    disks = host.facts()["disks"]
    assert disks["images"]["stored"] == 100
    assert disks["images"]["path"] == "/var/lib/containerd"
    # The folder of the kubelet does not exist: its filesystem is that of the folder above.
    assert disks["kubelet"]["total"] == disks["images"]["total"] > disks["kubelet"]["free"] > 0


@pytest.mark.parametrize(("folder", "version"), [("memory/x", 1), ("unified/x", 1), ("cgroup.controllers", 2)])
def test_cgroup(tmp_path: Path, folder: str, version: int) -> None:
    host = Host(tmp_path)
    (tmp_path / "sys/fs/cgroup/cgroup.controllers").unlink()
    assert host.write(f"/sys/fs/cgroup/{folder}").facts()["cgroup_version"] == version
