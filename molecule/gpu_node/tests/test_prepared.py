"""A host that has been prepared, and what happens to it afterwards."""

from __future__ import annotations

import pytest

DRIVER = ("nvidia-driver-cuda", "nvidia-kernel-open-dkms", "nvidia-persistenced", "nvidia-fabricmanager")
CONFIG = "/etc/containerd/config.toml"


def test_driver_and_fabric_manager_are_of_the_newest_version_that_both_have(gpu_host) -> None:
    versions = gpu_host.versions()
    assert {versions[name] for name in DRIVER} == {"595.91.07-1"}
    assert versions["nvidia-container-toolkit"] == "1.20.0-1"


def test_nothing_upgrades_it(gpu_host) -> None:
    held = gpu_host.run("apt-mark showhold").split()
    assert {"nvidia-driver-cuda", "nvidia-kernel-open-dkms", "nvidia-fabricmanager", "nvidia-container-toolkit"} <= set(
        held
    )
    # The repository has 595.99.01 and 610.57.04.
    assert "nvidia" not in gpu_host.run("apt-get --simulate --ignore-hold upgrade | grep ^Inst || true")


def test_services(gpu_host) -> None:
    units = "nvidia-persistenced nvidia-fabricmanager nvidia-dcgm nvidia-cdi-refresh.path"
    assert gpu_host.run(f"systemctl is-enabled {units}").split() == ["enabled"] * 4
    # As long as the driver is not loaded, they would end with an error.
    assert gpu_host.run("systemctl is-active nvidia-fabricmanager || true").strip() == "inactive"


def test_dcgm_is_for_the_cuda_of_the_driver_and_stays(gpu_host) -> None:
    listed = gpu_host.run("dpkg-query -W -f '${Package} ${Version} ${db:Status-Want}\\n' 'datacenter-gpu-manager*'")
    names = ("core", "cuda13", "proprietary", "proprietary-cuda13")
    # The repository has 4.6.0, too.
    assert sorted(listed.splitlines()) == [f"datacenter-gpu-manager-4-{name} 1:4.5.2-1 hold" for name in names]


def test_the_running_containerd_has_both_runtimes(gpu_host) -> None:
    dump = gpu_host.run("containerd config dump")
    assert 'BinaryName = "/usr/bin/nvidia-container-runtime"' in dump
    assert dump.count("SystemdCgroup = true") == 2
    # What Debian wrote there.
    assert 'bin_dir = "/usr/lib/cni"' in dump
    started = int(gpu_host.run('date +%s -d "$(systemctl show -P ActiveEnterTimestamp containerd)"'))
    assert started >= int(gpu_host.run(f"stat -c %Y {CONFIG}"))


def test_the_system(gpu_host) -> None:
    assert gpu_host.run("cat /proc/sys/net/ipv4/conf/all/rp_filter").strip() == "2"
    assert "nouveau" in gpu_host.run("cat /etc/modprobe.d/llm-d-blacklist-nouveau.conf")
    assert gpu_host.run("systemctl show -P LimitMEMLOCK containerd").strip() == str(8 << 20)


@pytest.mark.usefixtures("unchanged")
def test_check_mode_finds_nothing_to_do(gpu_host) -> None:
    assert gpu_host.playbook("--check", "--diff").ok().changed == []


@pytest.mark.usefixtures("unchanged")
def test_a_driver_without_its_fabric_manager_is_refused(gpu_host) -> None:
    run = gpu_host.playbook("--tags", "gpu_node_driver", gpu_node_gate=False, gpu_node_driver_version="595.99.01")
    assert "nvidia-fabricmanager: 610.57.04, 595.91.07, 595.58.03" in run.message
    assert "equal to the last digit" in run.message


def test_a_module_that_was_not_built_is_told(gpu_host) -> None:
    listed = gpu_host.run("ls /lib/modules/*/modules.dep").strip()
    before = gpu_host.run(f"cat {listed}")
    assert "nvidia.ko" in before
    gpu_host.write(listed, "")
    try:
        run = gpu_host.playbook("--tags", "gpu_node_driver", gpu_node_gate=False)
        assert run.rc != 0
        assert (
            f"Driver {gpu_host.versions()['nvidia-driver-cuda'].removesuffix('-1')} is installed, and for kernel "
            in run.message
        )
        assert "there is no module" in run.message
        assert "dkms status" in run.message
    finally:
        gpu_host.write(listed, before)


@pytest.mark.usefixtures("unchanged")
def test_a_configuration_that_containerd_does_not_read_is_left_alone(gpu_host) -> None:
    before = gpu_host.run(f"cat {CONFIG}")
    gpu_host.write(CONFIG, before + "[plugins\n")
    try:
        run = gpu_host.playbook("--tags", "gpu_node_runtime", gpu_node_gate=False)
        assert f"{CONFIG}: containerd does not read it: " in run.message
        assert "it was not changed" in run.message
        assert gpu_host.run(f"cat {CONFIG}") == before + "[plugins\n"
    finally:
        gpu_host.write(CONFIG, before)


def test_what_containerd_does_not_come_up_with_is_put_back(gpu_host) -> None:
    before = gpu_host.run("containerd config dump")
    root = gpu_host.run(f"cat {CONFIG}")
    # It is read, and then the service refuses it.
    unit = "/run/systemd/system/containerd.service.d/50-refuse.conf"
    gpu_host.run(f"mkdir -p {unit.rpartition('/')[0]}")
    gpu_host.write(
        unit, f"[Service]\nExecStartPre=/bin/sh -c '! grep -q \"default_runtime_name = .nvidia\" {CONFIG}'\n"
    )
    gpu_host.run("systemctl daemon-reload")
    try:
        run = gpu_host.playbook("--tags", "gpu_node_runtime", gpu_node_gate=False, gpu_node_default_runtime="nvidia")
        assert run.rc != 0
        assert f"Its configuration is again what it was: {CONFIG}" in run.message
        assert gpu_host.run(f"cat {CONFIG}") == root
        assert gpu_host.run("systemctl is-active containerd").strip() == "active"
        assert gpu_host.run("containerd config dump") == before
    finally:
        gpu_host.run(f"rm {unit}; systemctl daemon-reload")


def test_a_version_that_is_asked_for_replaces_what_is_held(gpu_host) -> None:
    """The last one: afterwards the host has another driver."""
    gpu_host.playbook("--tags", "gpu_node_driver", gpu_node_gate=False, gpu_node_driver_version="595.58.03").ok()
    versions = gpu_host.versions()
    assert {versions[name] for name in DRIVER} == {"595.58.03-1"}
    assert "nvidia-driver-cuda" in gpu_host.run("apt-mark showhold").split()
    # The branch alone does not bring back the newest: an upgrade ends what runs on the GPUs.
    assert gpu_host.playbook("--tags", "gpu_node_driver", gpu_node_gate=False).ok().changed == []
