"""Repositories and packages per system and branch."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils import host_packages, host_reboot
from ansible_collections.llm_d.multi_engine.tests.unit import shipped
from ansible_collections.llm_d.multi_engine.tests.unit.test_host_gate import good

KNOWN = yaml.safe_load((shipped.ROOT / "roles/gpu_node/vars/driver.yml").read_text())
DRIVER, TOOLKIT = KNOWN["__gpu_node_driver_knowledge"], KNOWN["__gpu_node_toolkit_knowledge"]
SYSTEMS = yaml.safe_load((shipped.ROOT / "roles/gpu_node/vars/main.yml").read_text())["__gpu_node_operating_systems"]
SETTINGS = {"branch": "595", "version": "", "repository": "", "key": "", "fingerprint": ""}
TOOLKIT_SETTINGS = {"version": "1.20.0", "repository": "", "key": "", "fingerprint": "", "format": "apt"}
NVSWITCHES = [{"address": "0000:05:00.0", "kind": "nvswitch"}]
FINGERPRINT = "A" * 40


def host(system: str = "ubuntu 24.04", machine: str = "x86_64", **changed: Any) -> dict[str, Any]:
    name, version = system.split()
    facts = {**good(), "os": {"id": name, "version": version, "name": system}, "machine": machine, **changed}
    facts["driver"] = {**facts["driver"], "packages": changed.get("packages", {})}
    return facts


def plan(facts: dict[str, Any], **settings: Any) -> dict[str, Any]:
    return host_packages.plan_driver(facts, {**SETTINGS, **settings}, DRIVER, "gpu-1")


def refused(facts: dict[str, Any], **settings: Any) -> list[str]:
    return [str(item) for item in plan(facts, **settings)["findings"]]


@pytest.mark.parametrize(
    ("system", "branch", "names", "pin"),
    [
        ("ubuntu 22.04", "535", ["libnvidia-compute-535", "nvidia-dkms-535-open", "nvidia-utils-535"], "preferences"),
        ("ubuntu 24.04", "580", ["libnvidia-compute-580", "nvidia-dkms-580-open", "nvidia-utils-580"], "preferences"),
        ("ubuntu 24.04", "590", ["libnvidia-compute", "nvidia-dkms-open"], "package"),
        ("ubuntu 24.04", "620", ["libnvidia-compute", "nvidia-dkms-open"], "package"),
        ("debian 12", "580", ["nvidia-driver-cuda", "nvidia-kernel-open-dkms"], "preferences"),
        ("debian 13", "595", ["nvidia-driver-cuda", "nvidia-kernel-open-dkms"], "package"),
        ("rhel 9.6", "595", ["nvidia-driver-cuda", "kmod-nvidia-open-dkms"], "stream"),
        ("rocky 10.1", "595", ["nvidia-driver-cuda", "kmod-nvidia-open-dkms"], "lock"),
    ],
)
def test_names(system: str, branch: str, names: list[str], pin: str) -> None:
    found = plan(host(system), branch=branch, fingerprint=FINGERPRINT)
    assert (found["findings"], found["names"], found["pin"]) == ([], names, pin)


@pytest.mark.parametrize(
    ("system", "branch", "kind", "names"),
    [
        ("ubuntu 24.04", "535", "nvswitch", ["nvidia-fabricmanager-535"]),
        ("rhel 9.6", "535", "nvswitch", ["nvidia-fabric-manager"]),
        ("rhel 9.6", "580", "nvswitch", ["nvidia-fabricmanager"]),
        ("ubuntu 24.04", "580", "nvswitch", ["nvidia-fabricmanager"]),
        ("ubuntu 24.04", "595", "nvlink5", ["nvidia-fabricmanager", "nvlsm", "infiniband-diags"]),
    ],
)
def test_nvswitches(system: str, branch: str, kind: str, names: list[str]) -> None:
    with_switches = plan(host(system, nvswitches=[{"address": "x", "kind": kind}]), branch=branch)
    assert with_switches["names"] == plan(host(system), branch=branch)["names"] + names
    assert with_switches["fabric_manager"]


@pytest.mark.parametrize(
    ("system", "machine", "url", "key"),
    [
        ("ubuntu 22.04", "x86_64", "ubuntu2204/x86_64/", "3bf863cc.pub"),
        ("ubuntu 24.04", "aarch64", "ubuntu2404/sbsa/", "3bf863cc.pub"),
        ("debian 13", "x86_64", "debian13/x86_64/", "8793F200.pub"),
        ("almalinux 9.6", "x86_64", "rhel9/x86_64/", "D42D0685.pub"),
    ],
)
def test_repositories(system: str, machine: str, url: str, key: str) -> None:
    repository = plan(host(system, machine))["repository"]
    url = f"https://developer.download.nvidia.com/compute/cuda/repos/{url}"
    assert repository["key"] == url + key
    assert repository["fingerprint"].endswith(key.removesuffix(".pub").upper())
    assert repository["index"].startswith(url)
    assert url in repository["content"]
    assert repository["key_path"] in repository["content"]


def test_every_supported_system_has_packages_for_every_branch() -> None:
    for name, system in SYSTEMS.items():
        for version in system["versions"]:
            for machine in system["machines"]:
                for branch in DRIVER["branches"]:
                    facts = host(f"{name} {version}", machine, nvswitches=NVSWITCHES)
                    found = plan(facts, branch=str(branch), fingerprint=FINGERPRINT)
                    assert found["findings"] == []
                    assert len(found["names"]) >= 3


def test_a_mirror_with_a_key_of_its_own() -> None:
    mirror = {"repository": "file:///srv/nvidia", "key": "/home/me/key.asc", "fingerprint": "aaaa " * 10}
    repository = plan(host(), **mirror)["repository"]
    assert "URIs: file:///srv/nvidia/\n" in repository["content"]
    assert repository["index"] == "file:///srv/nvidia/InRelease"
    assert (repository["key"], repository["fingerprint"]) == ("/home/me/key.asc", FINGERPRINT)


def test_headers_of_the_kernels_that_have_none() -> None:
    kernel = {"running": "6.8.0-1", "next": "6.8.0-2", "running_headers": True, "next_headers": False}
    assert plan(host(kernel=kernel))["headers"] == ["linux-headers-6.8.0-2"]
    assert plan(host("rhel 9.6", kernel=kernel))["headers"] == ["kernel-devel-6.8.0-2"]


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"branch": ""}, "gpu_node_driver_branch: it is empty, and gpu-1 is to get a driver"),
        ({"branch": "596"}, "gpu_node_driver_branch: branch 596 is not known. Known are 535, 570, 575, 580, 590, 595"),
        ({"branch": "595.91"}, "gpu_node_driver_branch: branch 595.91 is not known."),
        ({"version": "latest"}, "gpu_node_driver_version: 'latest' is no version of the driver. Write a whole one"),
        (
            {"version": "580.95.05"},
            "gpu_node_driver_branch: 595 is not the branch of gpu_node_driver_version 580.95.05.",
        ),
        ({"fingerprint": "3BF863CC"}, "gpu_node_driver_fingerprint: '3BF863CC' is no fingerprint of 40 hexadecimal"),
    ],
)
def test_refused(settings: dict[str, str], why: str) -> None:
    (text,) = refused(host(), **settings)
    assert text.startswith(why)


def test_a_key_of_which_only_the_short_form_is_known() -> None:
    (text,) = refused(host("rhel 10.1"))
    assert "gpu_node_driver_fingerprint: it is empty, and that of the key of" in text
    assert "gpg --show-keys CDF6BA43.pub" in text


def test_a_system_without_packages() -> None:
    (text,) = refused(host("sles 15.6"))
    assert text.startswith(
        "gpu-1 (driver): no packages of the driver are known for sles 15.6. Install the driver and set"
    )


LISTED = [
    "nvidia-driver-cuda | 595.99.01-1 | file:/srv/nvidia  Packages",
    "nvidia-driver-cuda | 595.91.07-1 | file:/srv/nvidia  Packages",
    "nvidia-driver-cuda | 610.57.04-1 | file:/srv/nvidia  Packages",
    "nvidia-kernel-open-dkms | 595.99.01-1 | x",
    "nvidia-kernel-open-dkms | 595.91.07-1 | x",
    "nvidia-kernel-open-dkms | 595.58.03-1 | x",
    "nvidia-fabricmanager | 595.91.07-1 | x",
    "nvidia-fabricmanager | 610.57.04-1 | x",
]


def choose(facts: dict[str, Any], version: str = "") -> dict[str, Any]:
    return host_packages.choose_driver(plan(facts), host_packages.available(LISTED), facts, version, "gpu-1")


def test_the_newest_of_the_branch() -> None:
    choice = choose(host("debian 13"))
    assert choice["install"] == ["nvidia-driver-cuda=595.99.01-1", "nvidia-kernel-open-dkms=595.99.01-1"]


def test_the_newest_that_has_a_fabric_manager_where_there_are_nvswitches() -> None:
    choice = choose(host("debian 13", nvswitches=NVSWITCHES))
    assert choice["version"] == "595.91.07"
    assert choice["install"][-1] == "nvidia-fabricmanager=595.91.07-1"


def test_an_installed_driver_of_the_branch_stays() -> None:
    packages = {"nvidia-driver-cuda": "595.91.07", "nvidia-kernel-open-dkms": "595.91.07"}
    choice = choose(host("debian 13", packages=packages))
    assert (choice["version"], choice["install"], choice["findings"]) == ("595.91.07", [], [])
    # What came later gets its version too.
    later = choose(host("debian 13", packages=packages, nvswitches=NVSWITCHES))
    assert later["install"][-1] == "nvidia-fabricmanager=595.91.07-1"
    assert choose(host("debian 13", packages=packages), "595.99.01")["version"] == "595.99.01"


def test_a_version_without_its_fabric_manager() -> None:
    choice = choose(host("debian 13", nvswitches=NVSWITCHES), "595.99.01")
    assert choice["install"] == []
    (finding,) = map(str, choice["findings"])
    assert "driver 595.99.01 in one version" in finding
    assert "nvidia-fabricmanager: 595.91.07, 610.57.04" in finding
    assert "equal to the last digit" in finding


def toolkit(**settings: str) -> dict[str, Any]:
    return host_packages.plan_toolkit(host(), {**TOOLKIT_SETTINGS, **settings}, TOOLKIT, "gpu-1")


def test_the_toolkit_is_of_one_version() -> None:
    assert {name.partition("=")[2] for name in toolkit()["install"]} == {"1.20.0-1"}
    assert toolkit(format="dnf")["install"][0] == "libnvidia-container1-1.20.0-1"


@pytest.mark.parametrize(("version", "why"), [("1.16.2", "CVE-2025-23266"), ("new", "'new' is no version")])
def test_a_toolkit_that_is_refused(version: str, why: str) -> None:
    (finding,) = map(str, toolkit(version=version)["findings"])
    assert finding.startswith("gpu_node_toolkit_version: ")
    assert why in finding


def whole(**settings: Any) -> dict[str, Any]:
    base = {"root": "/", "memlock": "infinity", "driver": SETTINGS, "toolkit": TOOLKIT_SETTINGS}
    return host_packages.host_plan(host(), "gpu-1", {**base, **settings}, DRIVER, TOOLKIT)


def test_all_that_is_wrong_is_told_at_once() -> None:
    bad = {**SETTINGS, "branch": "1"}
    found = whole(root="/mnt", memlock="much", driver=bad, toolkit={**TOOLKIT_SETTINGS, "version": "1.0.0"})["findings"]
    assert [text.partition(":")[0] for text in found] == [
        "gpu_node_root",
        "gpu_node_memlock",
        "gpu_node_driver_branch",
        "gpu_node_toolkit_version",
    ]


def test_a_guest_without_systemd() -> None:
    facts = host(tools={"systemctl": False, "modprobe": True})
    settings = {"root": "/", "memlock": "infinity", "driver": None, "toolkit": None}
    (text,) = host_packages.host_plan(facts, "gpu-1", settings, DRIVER, TOOLKIT)["findings"]
    assert text.startswith("gpu-1 (system): it has no systemctl. Only looking is possible (gpu_node_prepare: false)")


def test_one_mirror_for_both_is_written_once() -> None:
    mirror = {"repository": "file:///srv", "fingerprint": FINGERPRINT}
    both = whole(driver={**SETTINGS, **mirror}, toolkit={**TOOLKIT_SETTINGS, **mirror})
    assert both["toolkit"]["repository"] == both["driver"]["repository"]


def test_only_what_is_asked_for() -> None:
    assert whole(driver=None, toolkit=None) == {"driver": None, "toolkit": None, "findings": []}


def test_gpus_of_another_vendor_get_nothing_of_nvidia() -> None:
    facts = host(gpus=[{"vendor": "amd"}])
    base = {"root": "/", "memlock": "infinity"}

    def found(**settings: Any) -> list[str]:
        return host_packages.host_plan(facts, "gpu-1", {**base, **settings}, DRIVER, TOOLKIT)["findings"]

    (text,) = found(driver=SETTINGS, toolkit=TOOLKIT_SETTINGS)
    assert text.startswith("gpu-1 (GPUs): its GPUs are of amd, and only packages for NVIDIA's are known.")
    assert text.endswith("Set gpu_node_driver: existing and gpu_node_toolkit: false for this host.")
    assert found(driver=None, toolkit=None) == []


def network(loaded: str | None, following: str | None, *sources: str) -> dict[str, Any]:
    """Return the facts of two builds of the network cards' driver: versions, and what of sources is known."""
    known = [*sources, None, None][:2]
    builds = (
        {"version": version, "srcversion": source} for version, source in zip((loaded, following), known, strict=True)
    )
    return {"mlx5_core": dict(zip(("loaded", "next_kernel"), builds, strict=True))}


@pytest.mark.parametrize(
    ("changed", "reasons"),
    [
        ({}, []),
        ({"nouveau": {"loaded": True, "blacklisted": True}}, ["nouveau is loaded, the next boot leaves it out"]),
        ({"nouveau": {"loaded": True, "blacklisted": False}}, []),
        ({"kernel": {**good()["kernel"], "next": "6.9"}}, ["kernel 6.8.0-45-generic runs, the next boot takes 6.9"]),
        (network(None, None, "A"), []),
        (network("24.10-0.7.0", "24.10-0.7.0", "A", "A"), []),
        (network("24.10-0.7.0", "24.10-0.7.0"), []),
        (network(None, "24.10-0.7.0"), ["mlx5_core of the kernel is loaded, the next boot takes 24.10-0.7.0"]),
        (network("24.10-0.7.0", None), ["mlx5_core 24.10-0.7.0 is loaded, the next boot takes the kernel's own"]),
        (network(None, None, "A", "B"), ["mlx5_core of the kernel is loaded, the next boot takes another build"]),
        ({"mlx5_core": {"loaded": {"version": "1", "srcversion": None}, "next_kernel": None}}, []),
        # Another kernel has other sources.
        (
            {"kernel": {**good()["kernel"], "next": "6.9"}, **network(None, None, "A", "B")},
            ["kernel 6.8.0-45-generic runs, the next boot takes 6.9"],
        ),
    ],
)
def test_reasons_to_reboot(changed: dict[str, Any], reasons: list[str]) -> None:
    assert host_reboot.reasons({**good(), **changed}) == reasons


def test_another_driver_after_the_next_boot() -> None:
    facts = good()
    facts["driver"]["next_kernel"]["version"] = "595.91.07"
    assert host_reboot.reasons(facts) == ["driver 580.159.04 is loaded, the next boot takes 595.91.07"]
