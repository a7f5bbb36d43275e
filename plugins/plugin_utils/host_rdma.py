# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""RDMA on a GPU host: what models lack there, and which packages and kernel modules bring it.

Network cards read the memory of GPUs by way of DMA-BUF, which needs no module beside the driver's open ones. The older
way, nvidia-peermem, needs DOCA-OFED's modules and breaks whenever one of the two drivers changes.
``facts`` is what module ``gpu_facts`` returns.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from .findings import Finding, listing
from .host_packages import of_system, repository_of, without_headers

Facts = Mapping[str, Any]
#: DMA-BUF of NVIDIA's driver: the first kernel, and architectures without open kernel modules.
#: https://docs.nvidia.com/datacenter/cloud-native/gpu-operator/latest/gpu-operator-rdma.html
_KERNEL = (5, 12)
_OLDER_THAN_TURING = ("kepler", "maxwell", "pascal", "volta")
PEERMEM = "nvidia-peermem"


def missing(facts: Facts, asking: Sequence[str], host: str) -> list[Finding]:
    """Return why models find no network card for RDMA.

    :param asking: names of the models that may run here and ask for it.
    """
    devices = [device for nic in facts["nics"] for device in nic["rdma"]]
    if not asking or any(device["state"] == "active" for device in devices):
        return []
    who = f"{listing(asking)} {'asks' if len(asking) == 1 else 'ask'} for RDMA"
    if devices:
        states = listing(f"{device['name']} is {device['state'] or 'in an unknown state'}" for device in devices)
        problem = f"{who}, and no RDMA device is active: {states}."
        remedy = "Look at cables and switches; on InfiniBand a port stays in init until a subnet manager runs."
    else:
        problem = f"{who}, and the host has no RDMA device."
        remedy = "Where it has such a card, set gpu_node_rdma: inbox and gpu_node_prepare: true."
    remedy += " Or leave rdma out of the model."
    return [Finding("rdma-device", f"{host} (network)", problem, remedy, overridable=True)]


def notes(facts: Facts, asking: Sequence[str]) -> list[str]:
    """Return what keeps network cards from the memory of GPUs."""
    lacks = without_dma_buf(facts) if asking and facts["driver"]["loaded"] else None
    return [f"Network cards reach the memory of GPUs by way of the processor only: {lacks}."] if lacks else []


def without_dma_buf(facts: Facts) -> str | None:
    """Return why network cards cannot read the memory of NVIDIA's GPUs by DMA-BUF; None when they can."""
    cards = [card for card in facts["gpus"] if card["vendor"] == "nvidia"]
    old = sorted({card["name"] for card in cards if card["architecture"] in _OLDER_THAN_TURING})
    if old:
        return f"{listing(old)} has no open kernel modules, which DMA-BUF needs"
    loaded = facts["driver"]["loaded"]
    if cards and loaded and loaded["flavour"] == "proprietary":
        return "the driver's kernel modules are proprietary, and DMA-BUF needs the open ones"
    kernel = re.match(r"(\d+)\.(\d+)", facts["kernel"]["running"] or "")
    if kernel and (int(kernel[1]), int(kernel[2])) < _KERNEL:
        return f"kernel {facts['kernel']['running']} is older than 5.12, the first with DMA-BUF for it"
    return None


def plan(facts: Facts, host: str, settings: Mapping[str, Any], knowledge: Mapping[str, Any]) -> dict[str, Any]:
    """Return what RDMA needs on a host, before any repository is asked.

    :param settings: ``stack`` (``inbox`` or ``doca``), ``peermem`` (bool), ``version``, ``repository``, ``key`` and
        ``fingerprint``.
    :param knowledge: data file of role ``gpu_node``.
    :returns: ``format``, ``names``, ``headers`` (packages that its modules are built with), ``repository`` (None for
        the distribution's), ``pins`` (of apt), ``modules`` (of the kernel), ``peermem`` and ``findings`` (list of str).
    """
    stack = settings["stack"]
    found = of_system(knowledge[stack]["systems"], facts)
    findings = [*_peermem(facts, settings, host)]
    if not found:
        problem = f"no packages of {knowledge[stack]['title']} are known for {facts['os']['name']}."
        remedy = f"Install them yourself and leave it empty{'' if stack == 'inbox' else ', or use inbox'}."
        return {
            "findings": [
                str(item) for item in [*findings, Finding("rdma-packages", f"{host} (gpu_node_rdma)", problem, remedy)]
            ]
        }
    repository, headers = None, []
    if stack == "doca":
        data = knowledge["doca"]
        values = {
            "version": settings["version"],
            "folder": found["folder"],
            "machine": data["machines"][facts["machine"]],
        }
        url = data["url"].format(**values)
        repository, problems = repository_of(
            "rdma", found["format"], url, data["key"], data["fingerprint"], settings, host
        )
        findings += problems
        headers = [data["headers"][found["format"]].format(kernel=kernel) for kernel in without_headers(facts)]
    drivers = list(dict.fromkeys(nic["driver"] for nic in facts["nics"] if nic["driver"]))
    modules = [module for driver in drivers for module in knowledge["drivers"].get(driver, [])]
    return {
        "format": found["format"],
        "names": list(found["names"]),
        "headers": headers,
        "repository": repository,
        "pins": list(knowledge[stack].get("pins", [])) if found["format"] == "apt" else [],
        "modules": [*modules, *knowledge["modules"]] if modules else [],
        "peermem": PEERMEM if settings["peermem"] else None,
        "findings": [str(item) for item in findings],
    }


def _peermem(facts: Facts, settings: Mapping, host: str) -> list[Finding]:
    if not settings["peermem"]:
        return []
    where = f"{host} (gpu_node_rdma_peermem)"
    lacks = without_dma_buf(facts)
    if not lacks:
        problem = (
            f"{PEERMEM} is not needed: the open kernel modules and kernel {facts['kernel']['running']} have DMA-BUF."
        )
        remedy = (
            "Leave it out; it breaks when the driver of the GPU or of the network card changes, and DMA-BUF does not."
        )
        return [Finding("rdma-peermem", where, problem, remedy)]
    if settings["stack"] != "doca":
        problem = f"{PEERMEM} needs the modules of DOCA-OFED; those of the kernel refuse it (invalid argument)."
        return [Finding("rdma-peermem", where, problem, f"Set gpu_node_rdma: doca. Or get DMA-BUF: {lacks}.")]
    return []
