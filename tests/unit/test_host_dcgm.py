"""Which packages of DCGM a host gets, and what is refused beforehand."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils import host_dcgm
from ansible_collections.llm_d.multi_engine.tests.unit import shipped
from ansible_collections.llm_d.multi_engine.tests.unit.test_host_packages import DRIVER, FINGERPRINT, SETTINGS, SYSTEMS
from ansible_collections.llm_d.multi_engine.tests.unit.test_host_packages import host as facts_of

KNOWN = yaml.safe_load((shipped.ROOT / "roles/gpu_node/vars/dcgm.yml").read_text())["__gpu_node_dcgm_knowledge"]


def plan(facts: dict[str, Any], origin: str = "existing", version: str = "", **driver: str) -> dict[str, Any]:
    settings = {"version": version, "origin": origin, "driver": {**SETTINGS, **driver}}
    return host_dcgm.dcgm_plan(facts, "gpu-1", settings, KNOWN, DRIVER)


@pytest.mark.parametrize(
    ("origin", "branch", "cuda"),
    [("existing", "535", 13), ("managed", "535", 12), ("managed", "580", 13), ("managed", "620", 13)],
)
def test_the_cuda_of_the_driver_decides(origin: str, branch: str, cuda: int) -> None:
    # The host runs 580.159.04.
    found = plan(facts_of(), origin, branch=branch)
    assert found["findings"] == []
    assert found["names"] == [
        "datacenter-gpu-manager-4-core",
        f"datacenter-gpu-manager-4-cuda{cuda}",
        "datacenter-gpu-manager-4-proprietary",
        f"datacenter-gpu-manager-4-proprietary-cuda{cuda}",
    ]
    assert found["install"] == found["names"]


def test_it_comes_from_the_drivers_repository() -> None:
    mirror = {"repository": "file:///srv/nvidia", "key": "/home/me/key.asc", "fingerprint": FINGERPRINT}
    repository = plan(facts_of(), **mirror)["repository"]
    assert repository["index"] == "file:///srv/nvidia/InRelease"
    assert repository["path"] == "/etc/apt/sources.list.d/llm-d-nvidia-driver.sources"


@pytest.mark.parametrize(
    ("system", "version", "first"),
    [
        ("ubuntu 24.04", "4.6.0", "datacenter-gpu-manager-4-core=1:4.6.0-1"),
        ("rhel 9.6", "4.6.0-1", "datacenter-gpu-manager-4-core-4.6.0-1"),
    ],
)
def test_one_version_for_all(system: str, version: str, first: str) -> None:
    assert plan(facts_of(system), version=version)["install"][0] == first


def test_every_supported_system_has_a_repository() -> None:
    for name, system in SYSTEMS.items():
        for version in system["versions"]:
            assert plan(facts_of(f"{name} {version}"), fingerprint=FINGERPRINT)["findings"] == []


@pytest.mark.parametrize(
    ("facts", "settings", "why"),
    [
        ({}, {"origin": "operator"}, "gpu_node_dcgm: the driver of gpu-1 is in the GPU operator's container"),
        ({"loaded": None, "next_kernel": None}, {}, "gpu_node_dcgm: gpu-1 has no driver, whose CUDA decides"),
        ({"packages": {"datacenter-gpu-manager": "3.3.6"}}, {}, "gpu-1 (DCGM): datacenter-gpu-manager 3.3.6 is installed"),
        ({}, {"version": "newest"}, "gpu_node_dcgm_version: 'newest' is no version."),
        ({}, {"origin": "managed", "version": "4.2.3"}, "gpu_node_dcgm_version: 4.2.3 does not know drivers of branch 595."),
        ({}, {"fingerprint": "1234"}, "gpu_node_driver_fingerprint: '1234' is no fingerprint"),
    ],
)  # fmt: skip
def test_refused(facts: dict[str, Any], settings: dict[str, Any], why: str) -> None:
    seen = facts_of()
    seen["driver"] = {**seen["driver"], **facts}
    (text,) = plan(seen, **settings)["findings"]
    assert text.startswith(why)


def test_a_system_without_packages() -> None:
    (text,) = plan(facts_of("sles 15.6"))["findings"]
    assert text == "gpu-1 (DCGM): no packages of DCGM are known for sles 15.6. Set gpu_node_dcgm: false for this host."
