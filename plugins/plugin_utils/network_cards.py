# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Which network cards of a GPU host its GPUs reach fastest by RDMA, and what a pool of hosts has in common.

All pods of a workload have the same template, so that all hosts which may run them have to have the same cards
under the same names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from .findings import listing

Host = Mapping[str, Any]
Card = Mapping[str, Any]
#: From near to far, in the words of ``nvidia-smi topo``.
_DISTANCES = ("PIX", "PXB", "PHB", "NODE", "SYS")
_NUMBERED = re.compile(r"(.*?)(\d+)")


def host(name: str, labels: Mapping[str, Any], given: Sequence[str] | None, facts: Mapping | None) -> dict[str, Any]:
    """Return what counts of a host when its network cards are chosen.

    :param labels: labels of its node, as far as the inventory knows them.
    :param given: network cards that the inventory names, None where it names none.
    :param facts: what module ``gpu_facts`` returned of it, None where it was not looked at.
    :returns: ``name``, ``labels``, ``gpus`` (vendor to number, None where that is not known) and ``cards``
        (``name`` and ``link_layer``, in the order of the GPUs; None where they are not known).
    """
    gpus = None
    if facts is not None:
        vendors = [card["vendor"] for card in facts["gpus"]]
        gpus = {vendor: vendors.count(vendor) for vendor in vendors}
    if given is not None:
        cards = [{"name": str(card), "link_layer": None} for card in given]
    else:
        cards = None if facts is None else beside_gpus(facts)
    return {"name": name, "labels": dict(labels), "gpus": gpus, "cards": cards}


def beside_gpus(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the RDMA devices that are nearest to some GPU, in the order of the GPUs.

    What is farther away from all of them serves storage or the host itself. A virtual function is one pod's.
    """
    able = {nic["address"]: nic for nic in facts["nics"] if not nic["virtual_function"] and _active(nic)}
    found: dict[str, dict[str, Any]] = {}
    for gpu in facts["gpus"]:
        ranks = {address: _DISTANCES.index(gpu["nics"][address]) for address in able if address in gpu["nics"]}
        nearest = [address for address, rank in ranks.items() if rank == min(ranks.values())]
        for device in (device for address in nearest for device in _active(able[address])):
            found.setdefault(device["name"], {"name": device["name"], "link_layer": device["link_layer"]})
    return list(found.values())


def _active(nic: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [device for device in nic["rdma"] if device["state"] == "active"]


def may_run(item: Host, vendor: str, gpus: int, node_selector: Mapping[str, Any]) -> bool:
    """Whether pods may run on a host, as far as its labels and GPUs are known."""
    if item["gpus"] is not None and item["gpus"].get(vendor, 0) < gpus:
        return False
    labels = item["labels"]
    return all(key not in labels or str(labels[key]) == str(value) for key, value in node_selector.items())


def problem_of(hosts: Sequence[Host]) -> tuple[str, str] | None:
    """Return why ``hosts`` have no list of cards in common, and what to do; None when they have one."""
    unseen = [item["name"] for item in hosts if item["cards"] is None]
    if unseen:
        return (
            f"the network cards of {listing(unseen)} are not known, for this run could not look.",
            "Let it log in there, or name the cards here, or in gpu_node_rdma_devices of the hosts.",
        )
    bare = [item["name"] for item in hosts if not item["cards"]]
    if bare:
        return (
            f"{listing(bare)} {'has' if len(bare) == 1 else 'have'} no active RDMA device.",
            "See gpu_report and gpu_node_rdma, or keep the model away from there with node_selector and gpu_node_labels.",
        )
    mixed = [item for item in hosts if len({card["link_layer"] for card in item["cards"]}) > 1]
    if mixed:
        layers: dict[str, list[str]] = {}
        for card in mixed[0]["cards"]:
            layers.setdefault(str(card["link_layer"]), []).append(card["name"])
        told = listing(f"{layer} ({named(names)})" for layer, names in layers.items())
        return (
            f"beside the GPUs of {listing(item['name'] for item in mixed)} there is both {told}.",
            "Name those to use here, or in gpu_node_rdma_devices of the hosts.",
        )
    return _difference(hosts)


def _difference(hosts: Sequence[Host]) -> tuple[str, str] | None:
    kinds: dict[tuple, list[Host]] = {}
    for item in hosts:
        layers = tuple(card["link_layer"] for card in item["cards"])
        kinds.setdefault((tuple(card["name"] for card in item["cards"]), layers), []).append(item)
    if len(kinds) < 2:
        return None
    most, *others = sorted(kinds.values(), key=len, reverse=True)
    usual = most[0]["cards"]
    told = [f"{listing(item['name'] for item in most)}: {_said(usual)}"]
    for items in others:
        lacks = [card for card in usual if card not in items[0]["cards"]]
        has = [card for card in items[0]["cards"] if card not in usual]
        differs = f"lacks {_said(lacks)}" if lacks else "lacks none"
        if has:
            differs += f" and has {_said(has)}"
        if not lacks and not has:
            differs = f"has them in another order, {_said(items[0]['cards'])}"
        told.append(f"{listing(item['name'] for item in items)} {differs}")
    remedy = (
        "Name those that all have, give cards the same names with udev, or split the hosts: tell them apart in "
        "gpu_node_labels and choose with node_selector."
    )
    return f"hosts that may run it differ in network cards, and all pods get the same. {'; '.join(told)}.", remedy


def _said(cards: Iterable[Card]) -> str:
    """Return cards for people, with the link layer where it is known."""
    groups = groupby(cards, key=lambda card: card["link_layer"])
    return listing(named(card["name"] for card in group) + (f" ({layer})" if layer else "") for layer, group in groups)


def named(names: Iterable[str]) -> str:
    """Return ``mlx5_[0:7]`` for the eight of them, as inventories write ranges."""
    runs: list[list] = []
    for name in names:
        match = _NUMBERED.fullmatch(name)
        stem, number = (match[1], match[2]) if match else (name, "")
        last = runs[-1] if runs else None
        if (
            last
            and number
            and last[0] == stem
            and last[2]
            and int(number) == int(last[2]) + 1
            and number == str(int(number))
        ):
            last[2] = number
        else:
            runs.append([stem, number, number])
    return listing(f"{stem}[{first}:{last}]" if first != last else f"{stem}{first}" for stem, first, last in runs)
