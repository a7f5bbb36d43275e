"""RDMA on a host: what models lack there, and which packages and kernel modules bring it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import yaml
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils import host_rdma
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.host_table import host_table
from ansible_collections.llm_d.multi_engine.tests.unit import shipped
from ansible_collections.llm_d.multi_engine.tests.unit.test_host_gate import NIC, report
from ansible_collections.llm_d.multi_engine.tests.unit.test_host_gate import changed as host_with

FILE = shipped.ROOT / "roles/gpu_node/vars/rdma.yml"
KNOWLEDGE = yaml.safe_load(FILE.read_text())["__gpu_node_rdma_knowledge"]
FINGERPRINT = "0123456789ABCDEF0123456789ABCDEF01234567"
SETTINGS = {"stack": "inbox", "peermem": False, "version": "3.2.3", "repository": "", "key": "", "fingerprint": ""}
DOCA = {"stack": "doca", "fingerprint": FINGERPRINT}
HOPPER = {"vendor": "nvidia", "name": "NVIDIA H100", "architecture": "hopper"}
VOLTA = {"vendor": "nvidia", "name": "Tesla V100", "architecture": "volta"}
OPEN, PROPRIETARY = ({"version": "580.159.04", "flavour": flavour} for flavour in ("open", "proprietary"))
ASKS = {"rdma": {"resource": "rdma/ib"}}


def facts(system: str = "ubuntu 24.04", **changed: Any) -> dict[str, Any]:
    name, version = system.split()
    return {
        "os": {"id": name, "version": version, "name": f"{name} {version}"},
        "machine": "x86_64",
        "kernel": {"running": "6.8.0-45", "next": "6.8.0-45", "running_headers": True, "next_headers": True},
        "gpus": [HOPPER],
        "nics": [
            {"driver": "mlx5_core", "rdma": []},
            {"driver": "mlx5_core", "rdma": []},
            {"driver": None, "rdma": []},
        ],
        "driver": {"loaded": copy.deepcopy(OPEN)},
        **changed,
    }


def plan(settings: dict[str, Any] | None = None, **changed: Any) -> dict[str, Any]:
    return host_rdma.plan(facts(**changed), "gpu-1", {**SETTINGS, **(settings or {})}, KNOWLEDGE)


@pytest.mark.parametrize(
    ("system", "form", "names"),
    [
        ("ubuntu 22.04", "apt", ["rdma-core", "ibverbs-providers", "ibverbs-utils", "infiniband-diags"]),
        ("debian 13", "apt", ["rdma-core", "ibverbs-providers", "ibverbs-utils", "infiniband-diags"]),
        ("rocky 9.6", "dnf", ["rdma-core", "libibverbs-utils", "infiniband-diags"]),
        ("rhel 10.1", "dnf", ["rdma-core", "libibverbs-utils", "infiniband-diags"]),
    ],
)
def test_packages_of_the_distribution(system: str, form: str, names: list[str]) -> None:
    found = plan(system=system)
    assert (found["format"], found["names"], found["repository"], found["pins"]) == (form, names, None, [])
    assert found["headers"] == []
    assert found["modules"] == ["mlx5_ib", "ib_uverbs", "rdma_ucm", "ib_umad"]
    assert found["findings"] == []


@pytest.mark.parametrize(
    ("system", "machine", "address"),
    [
        ("ubuntu 24.04", "x86_64", "3.2.3/ubuntu24.04/x86_64/"),
        ("ubuntu 22.04", "aarch64", "3.2.3/ubuntu22.04/arm64-sbsa/"),
        ("almalinux 9.5", "x86_64", "3.2.3/rhel9/x86_64/"),
    ],
)
def test_doca(system: str, machine: str, address: str) -> None:
    found = plan(DOCA, system=system, machine=machine)
    assert found["findings"] == []
    assert found["names"] == ["doca-ofed"]
    assert f"https://linux.mellanox.com/public/repo/doca/{address}" in found["repository"]["content"]
    assert found["repository"]["fingerprint"] == FINGERPRINT
    assert bool(found["pins"]) is (found["format"] == "apt")


def test_doca_is_built_for_each_kernel() -> None:
    kernel = {"running": "6.8.0-45", "next": "6.8.0-50", "running_headers": True, "next_headers": False}
    assert plan(DOCA, kernel=kernel)["headers"] == ["linux-headers-6.8.0-50"]
    assert plan(DOCA, system="rocky 9.6", kernel=kernel)["headers"] == ["kernel-devel-6.8.0-50"]


def test_a_mirror() -> None:
    mirror = {**DOCA, "repository": "file:///srv/doca", "key": "file:///srv/doca/key.asc"}
    repository = plan(mirror)["repository"]
    assert (repository["index"], repository["key"]) == ("file:///srv/doca/InRelease", "file:///srv/doca/key.asc")


@pytest.mark.parametrize(
    ("nics", "modules"),
    [
        ([{"driver": "bnxt_en"}], ["bnxt_re", "ib_uverbs", "rdma_ucm", "ib_umad"]),
        ([{"driver": "virtio-pci"}, {"driver": None}], []),
        ([], []),
    ],
)
def test_modules_are_those_of_the_cards(nics: list[dict[str, Any]], modules: list[str]) -> None:
    assert plan(nics=nics)["modules"] == modules


@pytest.mark.parametrize(
    ("settings", "changed", "finding"),
    [
        (
            {"stack": "doca"},
            {},
            "gpu_node_rdma_fingerprint: it is empty, and that of the key of https://linux.mellanox.com/public/repo/doca/3.2.3/",
        ),
        ({"stack": "doca", "fingerprint": "abc"}, {}, "gpu_node_rdma_fingerprint: 'ABC' is no fingerprint"),
        (DOCA, {"system": "debian 12"}, "gpu-1 (gpu_node_rdma): no packages of DOCA-OFED are known for debian 12."),
        ({}, {"system": "sles 15"}, "gpu-1 (gpu_node_rdma): no packages of RDMA (rdma-core) are known for sles 15."),
        (
            {**DOCA, "peermem": True},
            {},
            "gpu-1 (gpu_node_rdma_peermem): nvidia-peermem is not needed: the open kernel modules and kernel 6.8.0-45",
        ),
        (
            {"peermem": True},
            {"driver": {"loaded": PROPRIETARY}},
            "gpu-1 (gpu_node_rdma_peermem): nvidia-peermem needs the modules of DOCA-OFED;",
        ),
    ],
)  # fmt: skip
def test_refusals(settings: dict[str, Any], changed: dict[str, Any], finding: str) -> None:
    (found,) = plan(settings, **changed)["findings"]
    assert found.startswith(finding)


def test_peermem_where_nothing_else_works() -> None:
    found = plan({**DOCA, "peermem": True}, driver={"loaded": PROPRIETARY})
    assert (found["peermem"], found["findings"]) == ("nvidia-peermem", [])
    assert plan(DOCA)["peermem"] is None


@pytest.mark.parametrize(
    ("changed", "lacks"),
    [
        ({}, None),
        ({"driver": {"loaded": None}}, None),
        ({"driver": {"loaded": PROPRIETARY}}, "proprietary"),
        ({"gpus": [VOLTA], "driver": {"loaded": PROPRIETARY}}, "Tesla V100 has no open kernel modules"),
        ({"kernel": {"running": "5.4.0-150-generic"}}, "kernel 5.4.0-150-generic is older than 5.12"),
        ({"kernel": {"running": "5.14.0-427.el9"}}, None),
        ({"kernel": {"running": None}}, None),
        ({"gpus": [], "driver": {"loaded": PROPRIETARY}}, None),
    ],
)
def test_dma_buf(changed: dict[str, Any], lacks: str | None) -> None:
    found = host_rdma.without_dma_buf(facts(**changed))
    assert (found is None) if lacks is None else (lacks in found)


@pytest.mark.parametrize(
    ("nics", "problem"),
    [
        ([], "qwen asks for RDMA, and the host has no RDMA device."),
        ([{**NIC, "rdma": []}], "qwen asks for RDMA, and the host has no RDMA device."),
        (
            [{**NIC, "rdma": [{"name": "mlx5_0", "state": "init", "link_layer": "InfiniBand"}]}],
            "qwen asks for RDMA, and no RDMA device is active: mlx5_0 is init.",
        ),
        ([NIC], None),
    ],
)
def test_a_host_that_models_need_rdma_on(nics: list[dict[str, Any]], problem: str | None) -> None:
    found = report(host_with(nics=nics), ASKS)
    assert len(found["findings"]) == (1 if problem else 0)
    assert not problem or found["findings"][0].startswith(f"gpu-1 (network): {problem}")
    # No other model asks for it, the role brings it, or somebody knows better.
    assert report(host_with(nics=nics), {})["findings"] == []
    assert report(host_with(nics=nics), ASKS, mends=["rdma-device"])["findings"] == []
    assert report(host_with(nics=nics), ASKS, overrides=["rdma-device"])["findings"] == []


def test_what_slows_it_is_told() -> None:
    slow = host_with(**{"nics": [NIC], "driver.loaded": PROPRIETARY})
    told = "Network cards reach the memory of GPUs by way of the processor only: the driver's kernel modules are proprietary"
    assert [note for note in report(slow, ASKS)["notes"] if note.startswith(told)]
    assert not [note for note in report(slow, {})["notes"] if note.startswith(told)]


def test_the_table_shows_the_cards_beside_gpus() -> None:
    found = report(host_with(nics=[NIC]), ASKS)
    for devices, active, shown in (
        ([f"mlx5_{index}" for index in range(8)], 9, "mlx5_[0:7] of 9"),
        (["mlx5_0", "mlx5_1"], 2, "mlx5_[0:1]"),
        ([], 1, "1"),
        ([], 0, "-"),
    ):
        found["offers"] |= {"rdma": active, "rdma_devices": devices}
        assert f"  {shown}  " in host_table([found])
