"""What would keep a host from serving, from facts of made-up and recorded hosts."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.llm_d.multi_engine.plugins.module_utils.gpu_host.devices import ARCHITECTURES
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.host_gate import host_report
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.host_table import host_table
from ansible_collections.llm_d.multi_engine.tests.unit import hosts, shipped

ROLE = shipped.ROOT / "roles/gpu_node"
VARS = yaml.safe_load((ROLE / "vars/main.yml").read_text())
KNOWLEDGE = {name: VARS[f"__gpu_node_{name}"] for name in ("operating_systems", "architectures")}
DEFAULTS = yaml.safe_load((ROLE / "defaults/main.yml").read_text())
SETTINGS = {
    "driver": DEFAULTS["gpu_node_driver"],
    "branch": DEFAULTS["gpu_node_driver_branch"],
    "labels": DEFAULTS["gpu_node_labels"],
    "image_gib": DEFAULTS["gpu_node_image_gib"],
    "kubelet_gib": DEFAULTS["gpu_node_kubelet_gib"],
    "overrides": [],
    "mends": [],
}
NEW = {"name": "new", "engine_version": "0.5.20"}
OLD = {"name": "old", "served_name": "old", "engine_version": "0.5.10"}
NIC = {
    "address": "0000:aa:00.0",
    "virtual_function": False,
    "rdma": [{"name": "mlx5_0", "state": "active", "link_layer": "InfiniBand"}],
}
NVSWITCH = [{"address": "0000:f0:00.0", "kind": "nvswitch"}]
SIGNED = {"path": "x", "version": "580.159.04", "flavour": "open", "signer": "somebody"}
NOT_LOADED = {"driver.loaded": None, "driver.next_kernel": None, "driver.running_kernel": None}


def good() -> dict[str, Any]:
    """Return the facts of a host on which everything is well: eight H200."""
    card = {
        "driver": "nvidia",
        "vendor": "nvidia",
        "name": "NVIDIA H200",
        "architecture": "hopper",
        "iommu": "identity",
        "mig_instances": 0,
        "nics": {},
    }
    return {
        "os": {"id": "ubuntu", "version": "24.04", "name": "Ubuntu 24.04.3 LTS"},
        "machine": "x86_64",
        "tools": {"systemctl": True, "modprobe": True},
        "kernel": {
            "running": "6.8.0-45-generic",
            "next": "6.8.0-45-generic",
            "next_by": "newest",
            "running_headers": True,
            "next_headers": True,
        },
        "secure_boot": False,
        "nouveau": {"loaded": False, "blacklisted": True},
        "iommu": {"enabled": False, "options": {}, "acs_bridges": []},
        "gpus": [{**card, "address": f"0000:{index}3:00.0"} for index in range(8)],
        "nvswitches": [],
        "nics": [],
        "driver": {
            "loaded": {"version": "580.159.04", "flavour": "open"},
            "running_kernel": {**SIGNED, "signer": None},
            "next_kernel": {**SIGNED, "signer": None},
            "libraries": ["580.159.04"],
            "installs": ["packages"],
            "dkms": [],
            "fabric_manager": None,
        },
        "containerd": {"programs": [], "config": None, "distribution": None},
        "cgroup_version": 2,
        "swap": {"active": {}, "configured": []},
        "memlock": {},
        "disks": {
            "images": {"path": "/var/lib/containerd", "total": 900 * 2**30, "free": 500 * 2**30, "stored": 0},
            "kubelet": {"path": "/var/lib/kubelet", "total": 900 * 2**30, "free": 500 * 2**30},
        },
    }


def changed(**changes: Any) -> dict[str, Any]:
    """Return the facts of the good host with some replaced, ``a.b`` being ``b`` inside of ``a``."""
    facts = copy.deepcopy(good())
    for path, value in changes.items():
        place, *rest = path.split(".")
        target = facts
        while rest:
            target, place, *rest = target[place], *rest
        target[place] = value
    return facts


def report(facts: dict[str, Any], *models: dict[str, Any], **settings: Any) -> dict[str, Any]:
    stack = shipped.resolved(*(models or (NEW,)))
    return host_report("gpu-1", facts, stack, KNOWLEDGE, {**SETTINGS, **settings})


def refused(facts: dict[str, Any], *models: dict[str, Any], **settings: Any) -> list[str]:
    """Return the names of the rules that refuse a host."""
    found = report(facts, *models, **settings)["findings"]
    return [re.findall(r"add '([^']+)' to llm_d_overrides", text)[0] for text in found]


def cards(**changes: Any) -> list[dict[str, Any]]:
    return [{**card, **changes} for card in good()["gpus"]]


def test_a_good_host() -> None:
    result = report(good())
    assert result["findings"] == result["notes"] == []
    assert result["offers"]["gpus"] == "8 x NVIDIA H200"
    assert result["needs"] == {"driver": ">=580", "images": ["docker.io/lmsysorg/sglang:v0.5.20"], "space_gib": 40}


@pytest.mark.parametrize(
    ("facts", "rules"),
    [
        ({"gpus": []}, ["no-gpu"]),
        ({"gpus": cards(vendor="amd", architecture=None)}, ["gpu-vendor"]),
        ({"gpus": cards(driver="nouveau")}, ["nouveau"]),
        ({"nouveau": {"loaded": True, "blacklisted": False}}, ["nouveau"]),
        ({"gpus": cards(architecture=None)}, []),
        ({"os": {"id": "ubuntu", "version": "20.04", "name": None}}, ["operating-system"]),
        ({"os": {"id": None, "version": None, "name": None}}, ["operating-system"]),
        ({"os": {"id": "rocky", "version": "9.7", "name": "Rocky"}}, []),
        ({"os": {"id": "rocky", "version": "90", "name": "Rocky"}}, ["operating-system"]),
        ({"os": {"id": "debian", "version": "13", "name": "Debian"}, "machine": "aarch64"}, ["operating-system"]),
        (NOT_LOADED, ["driver-missing"]),
        ({"driver.loaded": None}, ["driver-missing"]),
        ({"driver.loaded": None, "driver.running_kernel": None}, ["driver-missing"]),
        ({"driver.libraries": ["580.173.02"]}, ["driver-libraries"]),
        ({"driver.libraries": []}, []),
        ({"driver.next_kernel": None}, ["driver-next-boot"]),
        ({"driver.next_kernel": None, "kernel.next_by": "running"}, []),
        ({"driver.next_kernel": None, "driver.installs": ["operator"]}, []),
        ({"driver.loaded": {"version": "570.1", "flavour": "open"}, "driver.libraries": []}, ["cuda13-driver"]),
        # The next boot brings an older one.
        ({"driver.next_kernel": {**SIGNED, "version": "570.1"}}, ["cuda13-driver"]),
        ({"gpus": cards(architecture="blackwell")}, []),
        ({"gpus": cards(architecture="volta")}, ["module-flavour"]),
        (
            {"gpus": cards(architecture="pascal"), "driver.loaded": {"version": "595.1", "flavour": "open"}},
            ["driver-libraries", "driver-too-new", "module-flavour", "module-flavour"],
        ),
        ({"driver.loaded": {"version": "580.159.04", "flavour": "proprietary"}}, []),
        (
            {
                "gpus": cards(architecture="blackwell"),
                "driver.loaded": {"version": "580.159.04", "flavour": "proprietary"},
            },
            ["module-flavour"],
        ),
        ({"driver.installs": ["packages", "run"]}, ["foreign-driver"]),
        ({"driver.installs": []}, []),
        ({"nvswitches": NVSWITCH, "driver.fabric_manager": "580.159.04"}, []),
        ({"nvswitches": NVSWITCH, "driver.fabric_manager": "580.159.03"}, ["fabric-manager"]),
        ({"nvswitches": NVSWITCH}, ["fabric-manager"]),
        # Installed by something that packages do not know; so may be the Fabric Manager.
        ({"nvswitches": NVSWITCH, "driver.installs": ["run"]}, []),
        ({"secure_boot": True}, []),
        ({"secure_boot": True, "driver.loaded": None}, ["driver-missing", "secure-boot"]),
        ({"secure_boot": True, "driver.loaded": None, "driver.next_kernel": SIGNED}, ["driver-missing"]),
        ({"disks.images": {"path": "/x", "free": 39 * 2**30, "stored": 0}}, ["disk-space"]),
        ({"disks.images": {"path": "/x", "free": 10 * 2**30, "stored": 10 * 2**30}}, []),
        ({"disks.images": {"path": "/x", "free": None, "stored": 0}}, []),
        ({"disks.kubelet": {"path": "/x", "free": 2**30}}, ["disk-space"]),
        ({"swap": {"active": {"/dev/zram0": 1}, "configured": []}}, ["swap"]),
        ({"kernel.running_headers": False, "kernel.next_headers": False}, []),
    ],
)
def test_existing_driver(facts: dict[str, Any], rules: list[str]) -> None:
    assert refused(changed(**facts)) == rules
    assert refused(changed(**facts), overrides=rules) == []


@pytest.mark.parametrize(
    ("mode", "facts", "rules"),
    [
        ("managed", {}, []),
        ("managed", NOT_LOADED, []),
        ("managed", {"driver.installs": ["run"]}, ["foreign-driver"]),
        ("managed", {"driver.installs": []}, ["foreign-driver"]),
        ("managed", {**NOT_LOADED, "driver.installs": []}, []),
        ("managed", {"kernel.running_headers": False, "kernel.next_headers": False}, ["kernel-headers"]),
        ("managed", {"kernel.next": "6.14", "kernel.next_headers": False}, ["kernel-headers"]),
        ("managed", {"secure_boot": True}, ["secure-boot"]),
        ("operator", {"driver.installs": ["operator"]}, []),
        ("operator", {**NOT_LOADED, "driver.installs": []}, []),
        ("operator", {}, ["foreign-driver"]),
        ("operator", {"driver.installs": ["operator"], "secure_boot": True}, ["secure-boot"]),
    ],
)
def test_driver_to_come(mode: str, facts: dict[str, Any], rules: list[str]) -> None:
    assert refused(changed(**facts), driver=mode, branch="580") == rules


@pytest.mark.parametrize(
    ("branch", "architecture", "rules"),
    [
        ("580", "hopper", []),
        ("595", "blackwell", []),
        ("570", "hopper", ["cuda13-driver"]),
        ("570", "blackwell-ultra", ["driver-too-old", "cuda13-driver"]),
        ("595", "volta", ["driver-too-new", "module-flavour"]),
        ("", "blackwell-ultra", []),
    ],
)
def test_branch_to_come(branch: str, architecture: str, rules: list[str]) -> None:
    facts = changed(gpus=cards(architecture=architecture))
    assert refused(facts, driver="managed", branch=branch) == rules


OLD_DRIVER = {
    "driver.loaded": {"version": "550.54.15", "flavour": "open"},
    "driver.libraries": [],
    "kernel.next_by": "running",
}


@pytest.mark.parametrize(
    ("models", "labels", "needed", "rules"),
    [
        # CUDA 12 alone is content; with both the stricter one counts.
        ([OLD], {}, ">=525", []),
        ([OLD, NEW], {}, ">=580", ["cuda13-driver"]),
        # A model that cannot run here asks for nothing here.
        ([OLD, {**NEW, "gpus": 16}], {}, ">=525", []),
        ([OLD, {**NEW, "node_selector": {"pool": "b"}}], {"pool": "a"}, ">=525", []),
        ([OLD, {**NEW, "node_selector": {"pool": "b"}}], {}, ">=580", ["cuda13-driver"]),
        ([{**NEW, "gpus": 16}], {}, ">=525", ["no-model-fits"]),
        ([{**NEW, "accelerator": "cpu"}], {}, ">=525", []),
    ],
)
def test_the_strictest_model_that_may_run_here(models: list, labels: dict, needed: str, rules: list[str]) -> None:
    facts = changed(**OLD_DRIVER, **{"driver.next_kernel": None})
    assert report(facts, *models, labels=labels)["needs"]["driver"] == needed
    assert refused(facts, *models, labels=labels) == rules


def test_models_on_cards_of_another_vendor() -> None:
    facts = changed(gpus=cards(vendor="amd", driver="amdgpu", architecture=None))
    model = {"name": "new", "accelerator": "amd-mi30x", "gpus": 8}
    assert report(facts, model)["models"][0]["why"] is None
    assert "gpu-vendor" not in refused(facts, model)
    assert refused(changed(), model) == ["gpu-vendor"]


def test_mig_offers_instances() -> None:
    facts = changed(gpus=cards(mig_instances=0)[:1])
    assert report(facts, {**NEW, "gpus": 2})["models"][0]["why"] == "needs 2 of 1 GPUs"
    facts["gpus"][0]["mig_instances"] = 7
    assert report(facts, {**NEW, "gpus": 2})["models"][0]["why"] is None


def test_everything_is_told_at_once() -> None:
    facts = changed(
        **{
            "os": {"id": "arch", "version": None, "name": "Arch"},
            "driver.loaded": {"version": "535.1", "flavour": "proprietary"},
            "gpus": cards(architecture="blackwell", name="NVIDIA B200"),
            "nvswitches": NVSWITCH,
            "swap": {"active": {"/swap": 1}, "configured": []},
            "disks.images": {"path": "/x", "free": 0, "stored": 0},
        }
    )
    assert refused(facts) == [
        "operating-system",
        "driver-libraries",
        "driver-too-old",
        "module-flavour",
        "cuda13-driver",
        "fabric-manager",
        "disk-space",
        "swap",
    ]
    texts = report(facts)["findings"]
    assert (
        "gpu-1 (the loaded driver): 535.1 is older than branch 570, the first one for NVIDIA B200 (blackwell). "
        "Upgrade it to 570 or later. To go on regardless, add 'driver-too-old' to llm_d_overrides."
    ) in texts


@pytest.mark.parametrize(
    ("facts", "note"),
    [
        ({"kernel.next": "6.14"}, "Kernel 6.8.0-45-generic runs, the next boot takes 6.14."),
        (
            {"driver.next_kernel": {**SIGNED, "version": "595.1"}},
            "Driver 580.159.04 is loaded, the next boot takes 595.1.",
        ),
        ({"secure_boot": None}, "Whether Secure Boot is on could not be told."),
        ({"cgroup_version": 1}, "The host uses cgroup v1, which Kubernetes refuses from 1.35 on."),
        ({"gpus": cards(architecture=None, name="10de:9999")}, "Which drivers know 10de:9999 is not known here."),
        ({"gpus": [*cards()[:1], *cards(name="NVIDIA L4")[:1]]}, "The GPUs differ: NVIDIA H200, NVIDIA L4."),
        (
            {"gpus": cards(iommu="DMA-FQ")},
            "The IOMMU translates the GPUs' addresses; iommu=pt lets them talk directly.",
        ),
        (
            {"iommu": {"enabled": True, "options": {}, "acs_bridges": ["a", "b"]}},
            (
                "2 PCIe bridges send traffic between devices by way of the processor (ACS): GPUs and network cards talk "
                "slowly or hang."
            ),
        ),
        (
            {
                "nics": [NIC],
                "memlock": {"containerd": {"configured": None, "running": "65536"}},
            },
            "Locked memory is limited for containerd; RDMA needs LimitMEMLOCK=infinity.",
        ),
        (
            {"containerd.programs": [{"path": "/a", "version": "1.7.1"}, {"path": "/b", "version": None}]},
            "There are several containerd: /a 1.7.1, /b of unknown version.",
        ),
        (
            {"containerd.config": {"version": 2, "imports": [], "disabled_plugins": ["cri"]}},
            "containerd's configuration turns its plugin cri off; the kubelet needs it.",
        ),
    ],
)
def test_notes(facts: dict[str, Any], note: str) -> None:
    result = report(changed(**facts))
    assert result["notes"] == [note]
    assert result["findings"] == []


def test_an_image_of_unknown_cuda_is_told() -> None:
    (note,) = report(good(), {"engine": "vllm"})["notes"]
    assert note.startswith("Nobody told which CUDA these images are built for")


def test_recorded_hosts(tmp_path: Path) -> None:
    recorded = json.loads((hosts.DATA / "h100-guest.json").read_text())
    assert report(recorded)["findings"] == []
    assert report(recorded)["offers"]["gpus"] == "1 x NVIDIA H100 80GB HBM3"


def test_made_up_hosts(tmp_path: Path) -> None:
    expected = {
        hosts.a100: ["cuda13-driver"],
        hosts.b200: [],
        hosts.amd: ["gpu-vendor"],
        hosts.Host: ["no-gpu"],
    }
    for make, rules in expected.items():
        facts = make(tmp_path / make.__name__).facts()
        assert refused(facts, overrides=["disk-space"]) == rules


def test_every_architecture_is_known() -> None:
    assert {name for _first, _last, name in ARCHITECTURES} == KNOWLEDGE["architectures"].keys()
    for entry in KNOWLEDGE["architectures"].values():
        assert entry["modules"]
        assert entry.keys() <= {"first", "last", "modules"}


def test_what_runs_containers_and_how_gpus_are_split() -> None:
    split = changed(gpus=[{**card, "mig_instances": 7} for card in cards()])
    split["containerd"] = {"programs": [{"path": "x", "version": "2.1.5"}], "config": None, "distribution": "k3s"}
    offers = report(split, NEW)["offers"]
    assert offers["gpus"] == "8 x NVIDIA H200 in 7 MIG instances"
    assert offers["runtime"] == "k3s, containerd 2.1.5"
    assert report(good(), NEW)["offers"]["runtime"] == "none"


def test_table() -> None:
    small = changed(gpus=cards()[:1], swap={"active": {"/swap": 1}, "configured": []})
    reports = [
        report(good(), NEW, {"name": "two", "served_name": "two", "engine": "vllm", "gpus": 2}),
        {**report(small, NEW), "host": "gpu-2"},
    ]
    text = host_table(reports)
    lines = text.splitlines()
    assert re.split(r"  +", lines[0]) == [
        "HOST",
        "GPUS",
        "DRIVER",
        "NEEDED",
        "RUNTIME",
        "NVSWITCHES",
        "RDMA",
        "GIB FOR IMAGES",
        "RESULT",
    ]
    assert re.split(r"  +", lines[1])[-1] == "ready"
    assert re.split(r"  +", lines[2])[0::8] == ["gpu-2", "1 to mend"]
    assert "Refused:\n  gpu-1 (memory): swap is on: /swap." in text
    assert lines[-1] == "1 of 2 hosts cannot serve as they are: gpu-2."


def test_table_of_models_that_fit_nowhere() -> None:
    text = host_table([report(good(), {**NEW, "gpus": 16})])
    assert re.search(r"^new +16 +13 +none: needs 16 of 8 GPUs +docker.io/lmsysorg/sglang:v0.5.20$", text, re.MULTILINE)
    assert host_table([report(good())]).endswith("\n\nEvery host can serve.")


def test_what_the_role_mends_itself_refuses_nothing() -> None:
    facts = changed(**{"swap.active": {"/swap.img": 99}, "kernel.running_headers": False, "kernel.next_headers": False})
    settings = {"driver": "managed", "branch": "580"}
    assert refused(facts, **settings) == ["kernel-headers", "swap"]
    mended = report(facts, **settings, mends=["swap", "kernel-headers"])
    assert mended["findings"] == []
    assert "Swap is on: /swap.img. It is going to be mended." in mended["notes"]
