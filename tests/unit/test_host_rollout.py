"""When a node may leave service, has left it, and may come back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils import host_rollout
from ansible_collections.llm_d.multi_engine.tests.unit.test_host_gate import good

DATA = Path(__file__).parent / "data" / "gpu_host"


def pod(name: str, node: str, ready: bool = True, role: str = "prefill-decode", **changed: Any) -> dict[str, Any]:
    """Return a model server's pod as the API has it; ``changed`` are labels, or ``deletionTimestamp``."""
    gone = {"deletionTimestamp": "2026-01-01T00:00:00Z"} if changed.pop("going", False) else {}
    labels = {"llm-d.ai/model": "qwen", "llm-d.ai/role": role, **changed}
    return {
        "metadata": {"name": name, "namespace": "llm-d", "labels": labels, **gone},
        "spec": {"nodeName": node},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": str(ready)}]},
    }


def group(name: str, *nodes: str, ready: bool = True) -> list[dict[str, Any]]:
    key = {"leaderworkerset.sigs.k8s.io/group-key": name}
    return [pod(f"{name}-{index}", node, ready, **key) for index, node in enumerate(nodes)]


LAST = "model qwen (prefill-decode) of namespace llm-d: "


@pytest.mark.parametrize(
    ("pods", "told"),
    [
        ([], []),
        ([pod("a", "one"), pod("b", "two")], []),
        ([pod("a", "one"), pod("b", "one")], [f"{LAST}a, b"]),
        # Another one that does not answer yet, or not for long, is none.
        ([pod("a", "one"), pod("b", "two", ready=False)], [f"{LAST}a"]),
        ([pod("a", "one"), pod("b", "two", going=True)], [f"{LAST}a"]),
        ([pod("a", "one"), pod("b", None, ready=False)], [f"{LAST}a"]),
        # What serves nobody now is nobody's loss.
        ([pod("a", "one", ready=False)], []),
        ([pod("a", "one", ready=False), pod("b", "two")], []),
        ([pod("a", "two")], []),
        # A pod on a node that goes at the same time.
        ([pod("a", "one"), pod("b", "three")], [f"{LAST}a, b"]),
        # Prefill alone answers nothing.
        (
            [pod("a", "one", role="prefill"), pod("b", "two", role="decode"), pod("c", "two", role="prefill")],
            [],
        ),
        (
            [pod("a", "one", role="prefill"), pod("b", "two", role="decode")],
            ["model qwen (prefill) of namespace llm-d: a"],
        ),
        # A group is one replica, and gone with any of its pods.
        (group("g", "two", "one"), [f"{LAST}g-0, g-1"]),
        ([*group("g", "two", "one"), *group("h", "two", "four")], []),
        ([*group("g", "two", "one"), *group("h", "two", "four", ready=False)], [f"{LAST}g-0, g-1"]),
        # Other models have their own replicas; pods without a model are nobody's.
        ([pod("a", "one"), pod("b", "two", **{"llm-d.ai/model": "gpt"})], [f"{LAST}a"]),
        ([{"metadata": {"name": "x", "namespace": "y"}, "spec": {"nodeName": "one"}}], []),
    ],
)
def test_last_replicas(pods: list[dict], told: list[str]) -> None:
    assert host_rollout.last_replicas(pods, ["one", "three"]) == told


def test_one_of_several_replicas_stays_while_the_others_move() -> None:
    several = [pod("b", "one"), pod("a", "three"), *group("g", "two", "one"), pod("c", "one", ready=False)]
    assert host_rollout.last_replicas(several, ["one", "three"], movable=True) == []
    assert host_rollout.held_back(several, ["one", "three"]) == [{"namespace": "llm-d", "name": "a"}]
    assert host_rollout.last_replicas([pod("a", "one")], ["one"], movable=True) == [f"{LAST}a"]
    # All pods of a group; nothing of models that serve elsewhere as well.
    assert [item["name"] for item in host_rollout.held_back(group("g", "two", "one"), ["one"])] == ["g-0", "g-1"]
    assert host_rollout.held_back([pod("a", "one"), pod("b", "two")], ["one"]) == []


def test_what_a_drained_node_still_has() -> None:
    daemon = pod("daemon", "one")
    daemon["metadata"]["ownerReferences"] = [{"kind": "DaemonSet", "name": "plugin"}]
    mirror = pod("mirror", "one")
    mirror["metadata"]["annotations"] = {"kubernetes.io/config.mirror": "x"}
    ended = pod("ended", "one")
    ended["status"]["phase"] = "Succeeded"
    owned = pod("owned", "one", going=True)
    owned["metadata"]["ownerReferences"] = [{"kind": "ReplicaSet", "name": "x"}]
    assert host_rollout.left([daemon, mirror, ended, owned, pod("alone", "one")]) == ["llm-d/alone", "llm-d/owned"]


def node(ready: str = "True", **allocatable: str) -> dict[str, Any]:
    conditions = [{"type": "DiskPressure", "status": "False"}, {"type": "Ready", "status": ready, "message": "PLEG"}]
    return {"metadata": {"name": "one"}, "status": {"conditions": conditions, "allocatable": allocatable}}


def test_devices_are_what_has_a_domain() -> None:
    offered = node(**{"cpu": "8", "hugepages-2Mi": "0", "nvidia.com/gpu": "8", "rdma/hca": "1k", "nvidia.com/mig": "0"})
    assert host_rollout.devices(offered) == {"nvidia.com/gpu": "8", "rdma/hca": "1k"}
    assert host_rollout.devices({}) == {}


@pytest.mark.parametrize(
    ("found", "before", "faults"),
    [
        (node(), {}, []),
        (node(**{"nvidia.com/gpu": "8"}), {"nvidia.com/gpu": "8"}, []),
        (node(**{"nvidia.com/gpu": "7"}), {"nvidia.com/gpu": "8"}, ["nvidia.com/gpu is 7, before it was 8"]),
        (node(), {"nvidia.com/gpu": "8"}, ["nvidia.com/gpu is 0, before it was 8"]),
        (node(**{"rdma/hca": "1k"}), {"rdma/hca": "1000"}, []),
        (node("False"), {}, ["it is not Ready: PLEG"]),
        ({}, {}, ["it is not Ready: its kubelet has said nothing"]),
    ],
)
def test_nodes(found: dict, before: dict, faults: list[str]) -> None:
    assert host_rollout.node_faults(found, before) == faults


def host(**changed: Any) -> dict[str, Any]:
    facts = good()
    facts["driver"] = {**facts["driver"], **changed.pop("driver", {})}
    return {**facts, **changed}


def test_hosts() -> None:
    facts = host()
    gpus, version = len(facts["gpus"]), facts["driver"]["loaded"]["version"]
    assert host_rollout.host_faults(facts, gpus) == []
    assert host_rollout.host_faults(facts, gpus + 1) == [
        f"{gpus} GPUs are on the PCI bus, before there were {gpus + 1}"
    ]
    (missing,) = host_rollout.host_faults(host(driver={"loaded": None}), gpus)
    assert missing == f"driver {version} is installed and not loaded; the kernel's log tells why"
    (old,) = host_rollout.host_faults(host(driver={"loaded": {"version": "1.2.3"}}), gpus)
    assert old == f"driver 1.2.3 is loaded, installed is {version}"
    # Without a driver of its own (operator) there is none to compare.
    assert host_rollout.host_faults(host(driver={"loaded": None, "running_kernel": None}), gpus) == []


def test_hosts_after_a_reboot() -> None:
    kernel = {**good()["kernel"], "running": "6.8.0-1", "next": "6.8.0-2"}
    facts = host(kernel=kernel, nouveau={"loaded": True, "blacklisted": True})
    assert host_rollout.host_faults(facts, 1) == []
    doca = {"loaded": {"version": None, "srcversion": None}, "next_kernel": {"version": "24.10", "srcversion": None}}
    assert host_rollout.host_faults(host(mlx5_core=doca), 8, rebooted=True) == [
        "mlx5_core of the kernel is loaded, the next boot takes 24.10, and this one did not; make the initramfs anew"
    ]
    assert host_rollout.host_faults(facts, 1, rebooted=True) == [
        "kernel 6.8.0-1 runs, 6.8.0-2 should",
        "nouveau is loaded again; make the initramfs anew",
    ]


RECORDED = (DATA / "nvidia-smi-q.xml").read_text()


@pytest.mark.parametrize(
    ("old", "new", "faults"),
    [
        ("", "", []),
        ("<state>N/A</state>", "<state>Completed</state>", []),
        ("<state>N/A</state>", "<state>In Progress</state>", ["state of its fabric is In Progress, not Completed"]),
        ("<dram_uncorrectable>0", "<dram_uncorrectable>2", ["2 memory errors that could not be corrected"]),
        ("<remapped_row_failure>No", "<remapped_row_failure>Yes", ["its memory has no spare rows any more"]),
        ("<remapped_row_pending>No", "<remapped_row_pending>Yes", ["rows of its memory wait to be remapped"]),
    ],
)
def test_what_the_driver_says_of_its_gpus(old: str, new: str, faults: list[str]) -> None:
    facts = host(gpus=good()["gpus"][:1])
    found = host_rollout.host_faults(facts, 1, RECORDED.replace(old, new, 1) if old else RECORDED)
    assert [fault.startswith(f"GPU 00000000:00:06.0: {start}") for fault, start in zip(found, faults, strict=True)] == [
        True
    ] * len(faults)


def test_a_gpu_that_the_driver_does_not_answer_for() -> None:
    facts = host(gpus=good()["gpus"][:2])
    assert host_rollout.host_faults(facts, 2, RECORDED) == ["the driver answers for 1 of 2 GPUs"]
    said = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."
    assert host_rollout.host_faults(facts, 2, said) == [f"nvidia-smi tells nothing of the GPUs: {said}"]
