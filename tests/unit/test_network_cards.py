"""Network cards beside the GPUs of hosts, and what hosts that a model may run on have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils import network_cards
from ansible_collections.llm_d.multi_engine.tests.unit import hosts
from ansible_collections.llm_d.multi_engine.tests.unit.hosts import GPU, NIC, Host

EIGHT = [f"mlx5_{index}" for index in range(8)]


def card(name: str, layer: str | None = "InfiniBand") -> dict[str, Any]:
    return {"name": name, "link_layer": layer}


def a_host(name: str, *names: str, layer: str | None = "InfiniBand", **changed: Any) -> dict[str, Any]:
    cards = [card(one, layer) for one in names]
    return {"name": name, "labels": {}, "gpus": {"nvidia": 8}, "cards": cards, **changed}


def names(host: Host) -> list[str]:
    return [one["name"] for one in network_cards.beside_gpus(host.facts())]


def add_card(host: Host, address: str, name: str, way: str, numa: int = 0, **port: str) -> Host:
    host.pci(address, 0x15B3, 0x1021, NIC, way=way, driver="mlx5_core", numa=numa)
    host.rdma(address, name, way, f"if{name}")
    for file, content in port.items():
        host.write(f"/sys/devices/{way}/{address}/infiniband/{name}/ports/1/{file}", content + "\n")
    return host


def test_a_card_beside_each_gpu(tmp_path: Path) -> None:
    host = hosts.b200(tmp_path)
    # On a bridge of its own: storage, and farther from every GPU than the others.
    add_card(host, "0000:e1:00.0", "mlx5_8", "pci0000:e0/0000:e0:01.0")
    found = network_cards.beside_gpus(host.facts())
    assert found == [card(name) for name in EIGHT]


def test_the_order_is_that_of_the_gpus(tmp_path: Path) -> None:
    """Names follow the order of discovery, which need not be that of the GPUs."""
    host = Host(tmp_path)
    for index, name in enumerate(("mlx5_1", "mlx5_0")):
        way = f"pci0000:{index}0/0000:{index}0:01.0"
        host.pci(f"0000:{index}1:00.0", 0x10DE, 0x2330, GPU, way=way)
        add_card(host, f"0000:{index}2:00.0", name, way)
    assert names(host) == ["mlx5_1", "mlx5_0"]


def test_gpus_share_a_card(tmp_path: Path) -> None:
    host = Host(tmp_path)
    way = "pci0000:00/0000:00:01.0"
    for index in range(2):
        host.pci(f"0000:0{index + 1}:00.0", 0x10DE, 0x2330, GPU, way=way)
    add_card(host, "0000:03:00.0", "mlx5_0", way)
    assert names(host) == ["mlx5_0"]


@pytest.mark.parametrize(
    ("numa", "other"),
    [(0, ["near"]), (1, ["near", "far"])],
    ids=["one GPU has no use for the far card", "each NUMA node has a GPU"],
)
def test_numa_nodes(tmp_path: Path, numa: int, other: list[str]) -> None:
    host = Host(tmp_path)
    host.pci("0000:01:00.0", 0x10DE, 0x2330, GPU, way="pci0000:00", numa=0)
    host.pci("0000:41:00.0", 0x10DE, 0x2330, GPU, way="pci0000:40", numa=numa)
    add_card(host, "0000:21:00.0", "near", "pci0000:20", numa=0)
    add_card(host, "0000:61:00.0", "far", "pci0000:60", numa=1)
    assert names(host) == other


def test_what_does_not_count(tmp_path: Path) -> None:
    host = Host(tmp_path)
    way = "pci0000:00/0000:00:01.0"
    host.pci("0000:01:00.0", 0x10DE, 0x2330, GPU, way=way)
    add_card(host, "0000:02:00.0", "down", way, state="1: DOWN")
    add_card(host, "0000:03:00.0", "without_subnet_manager", way, state="2: INIT")
    add_card(host, "0000:04:00.0", "virtual", way)
    host.link(f"/sys/devices/{way}/0000:04:00.0/physfn", "../0000:02:00.0")
    host.pci("0000:05:00.0", 0x8086, 0x1592, NIC, way=way, driver="ice")
    assert names(host) == []


def test_a_guest_with_a_gpu_and_no_rdma(tmp_path: Path) -> None:
    """As it was recorded: a network card of virtio beside an H200."""
    host = hosts.h200_guest(tmp_path)
    assert network_cards.host("guest", {}, None, host.facts()) == {
        "name": "guest",
        "labels": {},
        "gpus": {"nvidia": 1},
        "cards": [],
    }


@pytest.mark.parametrize(
    ("given", "seen", "cards"),
    [
        (["mlx5_9"], True, [card("mlx5_9", None)]),
        (["mlx5_9"], False, [card("mlx5_9", None)]),
        ([], True, []),
        (None, True, [card(name) for name in EIGHT]),
        (None, False, None),
    ],
)
def test_what_the_inventory_names_counts(
    tmp_path: Path, given: list[str] | None, seen: bool, cards: list[dict] | None
) -> None:
    facts = hosts.b200(tmp_path).facts() if seen else None
    host = network_cards.host("gpu-1", {"pool": "a"}, given, facts)
    assert host["cards"] == cards
    assert host["gpus"] == ({"nvidia": 8} if seen else None)


@pytest.mark.parametrize(
    ("host", "selector", "expected"),
    [
        ({}, {}, True),
        ({"gpus": None}, {}, True),
        ({"gpus": {"nvidia": 2}}, {}, False),
        ({"gpus": {"amd": 8}}, {}, False),
        ({"labels": {"pool": "a"}}, {"pool": "a"}, True),
        ({"labels": {"pool": "b"}}, {"pool": "a"}, False),
        # A label that the inventory does not know.
        ({"labels": {"zone": "1"}}, {"pool": "a"}, True),
        ({"labels": {"slots": 8}}, {"slots": "8"}, True),
    ],
)
def test_which_hosts_may_run_pods(host: dict[str, Any], selector: dict[str, str], expected: bool) -> None:
    assert network_cards.may_run(a_host("gpu-1", **host), "nvidia", 4, selector) is expected


@pytest.mark.parametrize(
    ("pool", "problem"),
    [
        ([], None),
        ([a_host("a", *EIGHT), a_host("b", *EIGHT)], None),
        ([a_host("a", "x", cards=None), a_host("b", *EIGHT)], "the network cards of a are not known"),
        ([a_host("a"), a_host("b", *EIGHT), a_host("c")], "a, c have no active RDMA device."),
        (
            [a_host("a", cards=[card("mlx5_0"), card("mlx5_1"), card("mlx5_2", "Ethernet")])],
            "beside the GPUs of a there is both InfiniBand (mlx5_[0:1]), Ethernet (mlx5_2).",
        ),
        # Somebody replaced a card, and the kernel gave it another name.
        (
            [a_host("a", *EIGHT), a_host("b", *EIGHT[:4], "mlx5_ib4", *EIGHT[5:]), a_host("c", *EIGHT)],
            "a, c: mlx5_[0:7] (InfiniBand); b lacks mlx5_4 (InfiniBand) and has mlx5_ib4 (InfiniBand).",
        ),
        (
            [a_host("a", *EIGHT), a_host("b", *EIGHT[:7])],
            "a: mlx5_[0:7] (InfiniBand); b lacks mlx5_7 (InfiniBand).",
        ),
        (
            [a_host("a", *EIGHT[:2]), a_host("b", *EIGHT[:3]), a_host("c", *EIGHT[:2])],
            "a, c: mlx5_[0:1] (InfiniBand); b lacks none and has mlx5_2 (InfiniBand).",
        ),
        # The same names on another network.
        (
            [a_host("a", "mlx5_0"), a_host("b", "mlx5_0", layer="Ethernet")],
            "a: mlx5_0 (InfiniBand); b lacks mlx5_0 (InfiniBand) and has mlx5_0 (Ethernet).",
        ),
        (
            [a_host("a", "mlx5_0", "mlx5_1"), a_host("b", "mlx5_1", "mlx5_0")],
            "b has them in another order, mlx5_1, mlx5_0 (InfiniBand).",
        ),
    ],
)
def test_why_hosts_have_no_list_in_common(pool: list[dict[str, Any]], problem: str | None) -> None:
    found = network_cards.problem_of(pool)
    if problem is None:
        assert found is None
    else:
        assert found is not None
        assert problem in found[0]
        assert found[1]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (EIGHT, "mlx5_[0:7]"),
        (["mlx5_9", "mlx5_10", "mlx5_11"], "mlx5_[9:11]"),
        (["mlx5_0", "mlx5_2"], "mlx5_0, mlx5_2"),
        (["mlx5_bond_0"], "mlx5_bond_0"),
        (["ib08", "ib09"], "ib08, ib09"),
        (["rocep26s0", "rocep27s0"], "rocep26s0, rocep27s0"),
        ([], ""),
    ],
)
def test_names_are_said_in_short(given: list[str], said: str) -> None:
    assert network_cards.named(given) == said
