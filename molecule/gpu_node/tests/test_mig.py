"""GPUs split by MIG, with real units of systemd and a stand-in for nvidia-smi."""

from __future__ import annotations

import json

import pytest

SMI = "/usr/bin/nvidia-smi"
UNIT = "/etc/systemd/system/llm-d-mig.service"


@pytest.fixture(autouse=True, scope="module")
def nvidia_smi(gpu_host):
    """The stand-in, on a host that is as it was afterwards."""
    gpu_host.write(SMI, (gpu_host.ROOT / "tests/hosts/nvidia_smi.py").read_text())
    gpu_host.run(f"chmod 755 {SMI}")
    yield
    gpu_host.run(
        f"systemctl disable llm-d-mig 2>/dev/null; rm -f {SMI} {UNIT} /run/nvidia-smi.*; systemctl daemon-reload"
    )


def instances(gpu_host) -> list[list[int]]:
    return [card["instances"] for card in json.loads(gpu_host.run("cat /run/nvidia-smi.json"))]


def split(gpu_host, config: str, *options: str):
    return gpu_host.playbook(*options, playbook="molecule/gpu_node/playbooks/mig.yml", gpu_node_mig=config)


def test_split_now_and_at_every_boot(gpu_host) -> None:
    assert "MIG | Split the GPUs" in " ".join(split(gpu_host, "all-1g.10gb", "--check", "--diff").ok().changed)
    gpu_host.run(f"test ! -e {UNIT}")
    split(gpu_host, "all-1g.10gb").ok()
    assert instances(gpu_host) == [[19] * 7] * 2
    assert split(gpu_host, "all-1g.10gb").ok().changed == []
    assert split(gpu_host, "all-1g.10gb", "--check", "--diff").ok().changed == []
    assert gpu_host.run("systemctl is-enabled llm-d-mig").strip() == "enabled"

    # A boot forgets mode and instances.
    gpu_host.run("rm /run/nvidia-smi.json; systemctl start llm-d-mig")
    assert instances(gpu_host) == [[19] * 7] * 2
    # Where they are split it does nothing.
    gpu_host.run("systemctl restart llm-d-mig")
    assert instances(gpu_host) == [[19] * 7] * 2


def test_a_profile_that_the_gpu_does_not_have(gpu_host) -> None:
    before = gpu_host.run(f"cat {UNIT} /run/nvidia-smi.json")
    run = split(gpu_host, "all-1g.18gb")
    assert (
        "gpu_node_mig: 'all-1g.18gb': GPU 0 (NVIDIA H100 80GB HBM3) has no such profile. It has all-1g.10gb,"
        in run.message
    )
    assert gpu_host.run(f"cat {UNIT} /run/nvidia-smi.json") == before


def test_gpus_in_use(gpu_host) -> None:
    gpu_host.write("/run/nvidia-smi.users", "4711, sglang::scheduler\n")
    before = gpu_host.run(f"cat {UNIT} /run/nvidia-smi.json")
    run = split(gpu_host, "all-balanced")
    assert "GPUs are in use by sglang::scheduler (4711)" in run.message
    assert gpu_host.run(f"cat {UNIT} /run/nvidia-smi.json") == before
    gpu_host.run("rm /run/nvidia-smi.users")


def test_split_otherwise_and_whole_again(gpu_host) -> None:
    split(gpu_host, "all-balanced").ok()
    assert instances(gpu_host) == [[9, 14, 19, 19]] * 2
    split(gpu_host, "all-disabled").ok()
    assert instances(gpu_host) == [[], []]
    gpu_host.run(f"test ! -e {UNIT}")
    assert split(gpu_host, "all-disabled").ok().changed == []
