"""A host that has nothing of NVIDIA's: looking changes nothing, and what is wrong is refused before anything is changed."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.usefixtures("unchanged")


def test_check_mode_tells_everything_and_changes_nothing(gpu_host) -> None:
    run = gpu_host.playbook("--check", "--diff").ok()
    told = "\n".join(run.changed)
    for part in ("Sysctl | Set", "Memlock | Set", "Nouveau | Keep", "Driver repository | Add", "Containerd | Add"):
        assert part in told, part
    for name in (
        "nvidia-kernel-open-dkms",
        "nvidia-fabricmanager",
        "nvidia-container-toolkit=1.20.0-1",
        "4-cuda13=1:4.5.2-1",
        "BinaryName",
    ):
        assert name in run.output, name


def test_variables_that_are_wrong_are_all_told_at_once(gpu_host) -> None:
    wrong = {"gpu_node_driver_branch": "596", "gpu_node_toolkit_version": "1.16.0"}
    run = gpu_host.playbook(gpu_node_gate=False, **wrong)
    assert run.rc != 0
    assert run.changed == []
    assert "gpu_node_driver_branch: branch 596 is not known. Known are 535" in run.message
    assert "gpu_node_toolkit_version: 1.16.0 lets a container take over its host" in run.message


@pytest.mark.parametrize(
    ("variables", "why"),
    [
        ({"gpu_node_mig": "7 pieces"}, "gpu_node_mig: '7 pieces' is no configuration of MIG. Write all-<profile>"),
        ({"gpu_node_dcgm_version": "4.2.3"}, "gpu_node_dcgm_version: 4.2.3 does not know drivers of branch 595."),
    ],
)
def test_dcgm_and_mig_that_are_refused(gpu_host, variables: dict, why: str) -> None:
    run = gpu_host.playbook(gpu_node_gate=False, **variables)
    assert run.rc != 0
    assert why in run.message
    assert run.changed == []


@pytest.mark.parametrize(
    ("variables", "why"),
    [
        ({"gpu_node_driver_fingerprint": "A" * 40}, f"expected is {'A' * 40}. Somebody else's key"),
        (
            {"gpu_node_driver_repository": "http://127.0.0.1:9/cuda"},
            "repository: http://127.0.0.1:9/cuda/InRelease could not",
        ),
    ],
)
def test_repositories_that_are_refused(gpu_host, variables: dict, why: str) -> None:
    run = gpu_host.playbook("--tags", "gpu_node_driver", gpu_node_gate=False, **variables)
    assert run.rc != 0
    assert why in run.message
    assert "Nothing was changed." in run.message
    assert run.changed == []
