"""What pods get that talk to each other by RDMA, and every way to ask for it wrongly."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils import model_service
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.rdma import asks_hosts
from ansible_collections.llm_d.multi_engine.tests.unit.shipped import MODEL_OPTIONS, findings, one
from ansible_collections.llm_d.multi_engine.tests.unit.test_network_cards import EIGHT, a_host

WHERE = "llm_d_models[0] (qwen)"
PD = {"topology": "disaggregated"}
RDMA = {"rdma": {"resource": "rdma/ib"}}
POOL = [a_host("gpu-1", *EIGHT), a_host("gpu-2", *EIGHT)]
PORTS = ",".join(f"{name}:1" for name in EIGHT)
NETWORK = ("NCCL_IB_HCA", "UCX_NET_DEVICES", "NVSHMEM_HCA_LIST", "NVSHMEM_ENABLE_NIC_PE_MAPPING")


def network(pods: dict[str, Any]) -> dict[str, str]:
    return {name: value for name, value in pods["env"].items() if name in NETWORK}


def containers(model: dict[str, Any], **changed: Any) -> list[dict[str, Any]]:
    objects = model_service.compose("llm-d", "llm-d", one(model, **changed), MODEL_OPTIONS)
    templates = [item["spec"]["template"] for item in objects if item["kind"] == "Deployment"]
    return [container for template in templates for container in template["spec"]["containers"]]


def test_a_model_that_asks_for_nothing_gets_nothing() -> None:
    model = one({}, hosts=POOL)
    assert network(model) == {}
    assert (model["capabilities"], model["rdma_devices"], model["rdma_count"]) == ([], [], {})


def test_the_resource_and_locked_memory() -> None:
    for container in containers({**PD, "rdma": {"resource": "rdma/ib", "count": 2}, "capabilities": ["SYS_PTRACE"]}):
        assert container["resources"]["limits"] == {"nvidia.com/gpu": "1", "rdma/ib": "2"}
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert container["securityContext"]["capabilities"] == {"add": ["SYS_PTRACE", "IPC_LOCK"]}
        # Nobody knows the hosts: the engine chooses.
        assert not {entry["name"] for entry in container["env"]} & set(NETWORK)


def test_what_the_user_says_of_resources_wins() -> None:
    (container,) = containers({**RDMA, "resources": {"limits": {"rdma/ib": "4", "cpu": "8"}}})
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "1", "rdma/ib": "4", "cpu": "8"}


@pytest.mark.parametrize("engine", ["sglang", "vllm"])
def test_cards_of_whole_hosts(engine: str) -> None:
    model = one({**RDMA, "gpus": 8, "nodes": 2}, engine=engine, hosts=POOL)
    assert network(model) == {
        "NCCL_IB_HCA": f"={PORTS}",
        "UCX_NET_DEVICES": PORTS,
        "NVSHMEM_HCA_LIST": PORTS,
        "NVSHMEM_ENABLE_NIC_PE_MAPPING": "1",
    }
    assert not [argument for argument in model["args"] if "ib-device" in argument]
    assert model["rdma_devices"] == EIGHT
    assert model["rdma_count"] == {"rdma/ib": 1}


def test_pods_with_a_part_of_the_gpus() -> None:
    """Which GPU such a pod gets nobody knows, so NVSHMEM is not told which card is whose."""
    model = one({**RDMA, "gpus": 4, "nodes": 2}, hosts=POOL)
    assert network(model).keys() == {"NCCL_IB_HCA", "UCX_NET_DEVICES"}


def test_prefill_and_decode() -> None:
    for pods in one({**PD, **RDMA}, hosts=POOL)["roles"]:
        assert f"--disaggregation-ib-device={','.join(EIGHT)}" in pods["args"]
    for pods in one({**PD, **RDMA}, engine="vllm", hosts=POOL)["roles"]:
        assert pods["env"]["UCX_NET_DEVICES"] == PORTS
        assert not [argument for argument in pods["args"] if "ib-device" in argument]


def test_each_kind_of_pods_has_the_cards_of_its_own_pool() -> None:
    pools = [
        a_host("gpu-1", "mlx5_0", labels={"pool": "a"}),
        a_host("gpu-2", "mlx5_7", labels={"pool": "b"}),
    ]
    model = {**PD, **RDMA, "prefill": {"node_selector": {"pool": "a"}}, "decode": {"node_selector": {"pool": "b"}}}
    prefill, decode = one(model, hosts=pools)["roles"]
    assert (prefill["rdma_devices"], decode["rdma_devices"]) == (["mlx5_0"], ["mlx5_7"])


def test_hosts_that_cannot_run_it_do_not_count() -> None:
    small = a_host("gpu-3", "mlx5_ib0", gpus={"nvidia": 4})
    unseen = a_host("gpu-4", cards=None, gpus=None, labels={"pool": "other"})
    model = {**RDMA, "gpus": 8, "node_selector": {"pool": "big"}}
    assert one(model, hosts=[*POOL, small, unseen])["rdma_devices"] == EIGHT


def test_what_the_user_names_counts() -> None:
    model = one({**PD, "rdma": {"devices": ["mlx5_0", "mlx5_3:2"]}}, hosts=[a_host("gpu-1", cards=None)])
    for pods in model["roles"]:
        assert pods["env"]["NCCL_IB_HCA"] == "=mlx5_0:1,mlx5_3:2"
        assert "--disaggregation-ib-device=mlx5_0,mlx5_3" in pods["args"]
        assert pods["capabilities"] == ["IPC_LOCK"]
    free = one({"rdma": {"resource": "example.com/vf", "devices": []}}, hosts=[*POOL, a_host("gpu-3", "odd")])
    assert network(free) == {}
    own = one({"rdma": {"devices": ["mlx5_0"]}, "env": {"NCCL_IB_HCA": "mlx5"}})
    assert own["env"]["NCCL_IB_HCA"] == "mlx5"


def test_an_engine_that_uses_none() -> None:
    model = one({**RDMA}, engine="simulator", hosts=POOL)
    assert network(model) == {}


@pytest.mark.parametrize(
    ("hosts", "problem"),
    [
        (
            [*POOL, a_host("gpu-3", *EIGHT[:7], "mlx5_9")],
            "gpu-3 lacks mlx5_7 (InfiniBand) and has mlx5_9 (InfiniBand).",
        ),
        ([*POOL, a_host("gpu-3")], "gpu-3 has no active RDMA device."),
        (
            [*POOL, a_host("gpu-3", cards=None)],
            "the network cards of gpu-3 are not known, for this run could not look.",
        ),
    ],
)
def test_hosts_without_a_list_in_common_are_refused(hosts: list[dict[str, Any]], problem: str) -> None:
    (finding,) = findings({**RDMA, "gpus": 8}, hosts=hosts)
    assert finding.startswith(f"{WHERE}.rdma.devices: ")
    assert problem in finding
    assert finding.endswith("add 'rdma-hosts' to llm_d_overrides.")
    assert network(one({**RDMA, "gpus": 8}, hosts=hosts, overrides=["rdma-hosts"])) == {}


def test_both_kinds_of_pods_are_told_once() -> None:
    (finding,) = findings({**PD, **RDMA}, hosts=[a_host("gpu-1")])
    assert finding.startswith(f"{WHERE}.rdma.devices: gpu-1 has no active RDMA device.")


@pytest.mark.parametrize(
    ("model", "finding"),
    [
        ({"rdma": {"resources": "rdma/ib"}}, f"{WHERE}.rdma.resources: unknown key. Did you mean 'resource'?"),
        ({"rdma": {"resource": "rdma"}}, f"{WHERE}.rdma.resource: 'rdma' is not valid. Allowed: a resource with its domain"),
        ({"rdma": {"count": 2}}, f"{WHERE}.rdma.count: 2, but {WHERE}.rdma.resource is not set."),
        ({"rdma": {"devices": "mlx5_0"}}, f"{WHERE}.rdma.devices: 'mlx5_0' is not of type list."),
        ({"rdma": {"devices": ["mlx5_0,mlx5_1"]}}, f"{WHERE}.rdma.devices[0]: 'mlx5_0,mlx5_1' is not valid."),
        ({"rdma": True}, f"{WHERE}.rdma: True is not of type dict."),
        ({**PD, "disaggregation": {"rdma_resource": "rdma/ib"}}, f"{WHERE}.disaggregation.rdma_resource: unknown key."),
        (
            {**PD, "engine_args": {"sglang": {"disaggregation-ib-device": "mlx5_0"}}},
            f"{WHERE}.engine_args.sglang.disaggregation-ib-device: other objects depend on this value. Set rdma.devices",
        ),
    ],
)  # fmt: skip
def test_bad_input(model: dict[str, Any], finding: str) -> None:
    (found,) = findings(model)
    assert found.startswith(finding)


@pytest.mark.parametrize(
    ("models", "defaults", "expected"),
    [
        ([{"name": "a"}], {}, False),
        ([{"name": "a", "rdma": {"resource": "rdma/ib"}}], {}, True),
        ([{"name": "a", "rdma": {"resource": "rdma/ib", "devices": []}}], {}, False),
        ([{"name": "a", "rdma": {}}], {"rdma": {"resource": "rdma/ib"}}, False),
        ([{"name": "a"}], {"rdma": {"resource": "rdma/ib"}}, True),
        # Whatever is wrong is told elsewhere.
        ([], {"rdma": {"resource": "rdma/ib"}}, False),
        ("nonsense", None, False),
        ([None, 1, {"rdma": "yes"}], [], False),
    ],
)
def test_whether_hosts_have_to_be_looked_at(models: Any, defaults: Any, expected: bool) -> None:
    assert asks_hosts(models, defaults) is expected
