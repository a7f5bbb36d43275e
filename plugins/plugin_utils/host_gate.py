# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""What would keep a GPU host from serving its models, told before anything is changed.

``facts`` is what module ``gpu_facts`` returns; what it could not see (``None``) forbids nothing.
Findings refuse a host, notes only tell.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from . import compatibility, host_rdma, network_cards
from .findings import Finding, listing
from .objects import workloads_of
from .versions import VersionError, matches

Facts = Mapping[str, Any]
_GIB = 2**30
_UNLIMITED = ("infinity", "unlimited")
#: What images take on disk for each byte of their compressed layers: the layers and twice as much unpacked.
_UNPACKED = 3


def host_report(
    host: str,
    facts: Facts,
    resolved: Mapping[str, Any],
    knowledge: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Return what ``host`` offers, what its models need, and why that does not fit.

    :param resolved: the stack, as role ``inference_engine`` resolves it.
    :param knowledge: ``operating_systems`` and ``architectures`` of role ``gpu_node``.
    :param settings: ``driver`` (``existing``, ``managed`` or ``operator``), ``branch``, ``labels``,
        ``image_gib``, ``kubelet_gib``, ``overrides``, and ``mends``: rules whose findings the role
        puts right itself, so that they are only told.
    :returns: ``host``, ``offers``, ``needs``, ``models`` (``name``, ``image``, ``cuda``, ``gpus``, and
        ``why`` it cannot run here, None when it can), ``findings`` and ``notes`` (lists of str).
    """
    asking = [pods for model in resolved["models"] for pods in workloads_of(model) if pods["devices"]]
    cards = _cards(facts, asking)
    placed = [{"model": model, "why": _why_not(model, cards, settings["labels"])} for model in asking]
    here = [item["model"] for item in placed if not item["why"]]
    branch = _needed_branch(cards, here, resolved["rules"], knowledge)
    images = _images(here)
    findings = [
        *_gpus(facts, cards, asking, host),
        *_placement(placed, cards, host),
        *_system(facts, knowledge, host),
        *_installs(facts, settings, host),
        *_driver(facts, cards, settings, branch, host),
        *_branches(facts, cards, here, resolved["rules"], knowledge, settings, host),
        *_fabric_manager(facts, settings, host),
        *_building(facts, settings, host),
        *_secure_boot(facts, settings, host),
        *_space(facts, images, settings, host),
        *_swap(facts, host),
        *host_rdma.missing(facts, _asking_rdma(here), host),
    ]
    kept = [item for item in findings if not (item.overridable and item.rule in settings["overrides"])]
    mended = [item for item in kept if item.rule in settings["mends"]]
    return {
        "host": host,
        "offers": _offers(facts, cards),
        "needs": {
            "driver": f">={branch}" if branch else None,
            "images": images,
            "space_gib": len(images) * settings["image_gib"],
        },
        "models": [_told(item["model"], item["why"]) for item in placed],
        "findings": [str(item) for item in kept if item not in mended],
        "notes": [
            *(f"{item.problem[0].upper()}{item.problem[1:]} It is going to be mended." for item in mended),
            *_notes(facts, cards, here, knowledge),
            *host_rdma.notes(facts, _asking_rdma(here)),
        ],
    }


def _cards(facts: Facts, models: Sequence[Mapping]) -> list[Mapping]:
    """Return the GPUs that count: those of the vendor that the models ask for, all when none asks."""
    wanted = {model["vendor"] for model in models}
    return [card for card in facts["gpus"] if not wanted or card["vendor"] in wanted]


def _why_not(model: Mapping, cards: Sequence[Mapping], labels: Mapping[str, Any]) -> str | None:
    """Return why a model cannot run on a host, as far as a host can tell."""
    fitting = len([card for card in cards if card["vendor"] == model["vendor"]])
    # A GPU that MIG splits offers its instances instead of itself.
    split = [card for card in cards if card["mig_instances"]]
    count = fitting - len(split) + sum(card["mig_instances"] for card in split)
    wanted = sum(model["devices"].values())
    if count < wanted:
        return f"needs {wanted} of {count} GPUs"
    for key, value in model["node_selector"].items():
        if key in labels and str(labels[key]) != str(value):
            return f"wants label {key}={value}"
    return None


def _name(model: Mapping) -> str:
    """Return what to call a kind of pods: the model, with the kind where it has several."""
    return " ".join(filter(None, (model["name"], model.get("pod_role"))))


def _asking_rdma(models: Iterable[Mapping]) -> list[str]:
    return [_name(model) for model in models if model["rdma"]]


def _told(model: Mapping, why: str | None) -> dict[str, Any]:
    return {
        "name": _name(model),
        "image": model["image"],
        "cuda": model["facts"]["cuda"],
        "gpus": sum(model["devices"].values()),
        "why": why,
    }


def _needed_branch(
    cards: Iterable[Mapping], models: Iterable[Mapping], rules: Sequence[Mapping], knowledge: Mapping
) -> int | None:
    """Return the oldest driver branch that knows the GPUs and satisfies every image."""
    bounds = [knowledge["architectures"].get(card["architecture"], {}).get("first") for card in cards]
    for model in models:
        for wanted in compatibility.needed(rules, model["facts"], "driver"):
            bounds += [int(number) for number in re.findall(r">=\s*(\d+)", str(wanted))]
    return max((bound for bound in bounds if bound), default=None)


def _images(models: Iterable[Mapping]) -> list[str]:
    return list(dict.fromkeys(model["image"] for model in models))


def _gpus(facts: Facts, cards: Sequence[Mapping], asking: Sequence[Mapping], host: str) -> list[Finding]:
    where = f"{host} (GPUs)"
    if not facts["gpus"]:
        remedy = (
            "Check that the cards have power and sit well, that the firmware decodes addresses above 4G, and that a "
            "guest is given them; or take the host out of group gpu_nodes."
        )
        return [Finding("no-gpu", where, "no GPU is on the PCI bus.", remedy, overridable=True)]
    if not cards:
        wanted = listing(sorted({model["vendor"] for model in asking}))
        problem = (
            f"its GPUs are of {listing(sorted({card['vendor'] for card in facts['gpus']}))}, the models need {wanted}."
        )
        remedy = "Take the host out of group gpu_nodes, or choose another accelerator for the models."
        return [Finding("gpu-vendor", where, problem, remedy, overridable=True)]
    held = [card["address"] for card in cards if card["driver"] == "nouveau"]
    if held or facts["nouveau"]["loaded"]:
        problem = f"the kernel's own driver nouveau {'holds ' + listing(held) if held else 'is loaded'}."
        remedy = "Blacklist it in /etc/modprobe.d, make the initramfs anew and reboot."
        return [Finding("nouveau", where, problem, remedy, overridable=True)]
    return []


def _placement(placed: Sequence[Mapping], cards: Sequence[Mapping], host: str) -> list[Finding]:
    if not placed or not cards or any(not item["why"] for item in placed):
        return []
    reasons = listing(f"{_name(item['model'])} {item['why']}" for item in placed)
    remedy = "Use fewer GPUs per replica or other labels, or take the host out of group gpu_nodes."
    return [
        Finding("no-model-fits", f"{host} (models)", f"no model can run here: {reasons}.", remedy, overridable=True)
    ]


def _system(facts: Facts, knowledge: Mapping, host: str) -> list[Finding]:
    system, known = facts["os"], knowledge["operating_systems"]
    said = system["name"] or listing(filter(None, (system["id"], system["version"]))) or "unknown"
    supported = listing(f"{entry['name']} {' or '.join(entry['versions'])}" for entry in known.values())
    entry = known.get(system["id"])
    version = str(system["version"] or "")
    if entry and any(version == item or version.startswith(f"{item}.") for item in entry["versions"]):
        if facts["machine"] in entry["machines"]:
            return []
        problem = f"{said} on {facts['machine']} is not supported."
        remedy = f"Supported processors: {listing(entry['machines'])}."
    else:
        problem, remedy = f"the operating system {said} is not supported.", f"Supported: {supported}."
    return [Finding("operating-system", f"{host} (system)", problem, remedy, overridable=True)]


def _installs(facts: Facts, settings: Mapping, host: str) -> list[Finding]:
    """Two installations of a driver overwrite each other's files."""
    words = {"packages": "packages", "run": "NVIDIA's .run installer", "operator": "the GPU operator"}
    found, wanted = facts["driver"]["installs"], settings["driver"]
    allowed = {"managed": ["packages"], "operator": ["operator"], "existing": found[:1]}[wanted]
    foreign = [kind for kind in found if kind not in allowed]
    if not foreign and (found or wanted != "managed" or not facts["driver"]["loaded"]):
        return []
    if foreign:
        problem = f"a driver was installed by {' and by '.join(words[kind] for kind in found)}."
    else:
        problem = "a driver is loaded that no package, installer or operator brought."
    remedy = {
        "managed": "Remove it (nvidia-uninstall, or the operator's driver), or set gpu_node_driver: existing.",
        "operator": "Remove the host's driver, or set gpu_node_driver: existing and turn the operator's driver off.",
        "existing": "Keep one and remove the others.",
    }[wanted]
    return [Finding("foreign-driver", f"{host} (driver)", problem, remedy, overridable=True)]


def _driver(facts: Facts, cards: Sequence[Mapping], settings: Mapping, branch: int | None, host: str) -> list[Finding]:
    """Findings about a driver that is to be there already."""
    if settings["driver"] != "existing" or not any(card["vendor"] == "nvidia" for card in cards):
        return []
    where, driver, kernel = f"{host} (driver)", facts["driver"], facts["kernel"]
    loaded, following = driver["loaded"], driver["next_kernel"]
    findings = []
    if not loaded:
        here = driver["running_kernel"]
        if here:
            problem = f"driver {here['version']} is installed and not loaded."
            remedy = "Reboot, or run modprobe nvidia; the kernel's log tells why it was refused."
        elif following:
            problem = f"the driver is installed for kernel {kernel['next']}, {kernel['running']} runs."
            remedy = "Reboot."
        else:
            problem = "no NVIDIA driver is installed."
            least = f" of branch {branch} or later" if branch else ""
            remedy = f"Install one{least} with open kernel modules, or set gpu_node_driver: operator."
        findings.append(Finding("driver-missing", where, problem, remedy, overridable=True))
    elif driver["libraries"] and loaded["version"] not in driver["libraries"]:
        problem = f"driver {loaded['version']} is loaded, its libraries are {listing(driver['libraries'])}."
        remedy = "Reboot, so that both are of one version; hold the packages against unattended upgrades."
        findings.append(Finding("driver-libraries", where, problem, remedy, overridable=True))
    # A guest may get kernel and modules from outside.
    if loaded and not following and kernel["next_by"] != "running" and "operator" not in driver["installs"]:
        problem = f"the next boot takes kernel {kernel['next']}, for which no driver is installed."
        remedy = "Install its headers and build the module (dkms autoinstall), or let grub start another kernel."
        findings.append(Finding("driver-next-boot", where, problem, remedy, overridable=True))
    return findings


def _drivers(facts: Facts, settings: Mapping) -> dict[str, dict[str, Any]]:
    """Return the drivers to judge, by what to call them: the coming one, or those of now and of the next boot."""
    if settings["driver"] != "existing":
        branch = str(settings["branch"] or "")
        return {"gpu_node_driver_branch": {"version": branch, "flavour": "open"}} if branch else {}
    loaded, following = facts["driver"]["loaded"], facts["driver"]["next_kernel"]
    found = {"the loaded driver": loaded, "the driver of the next boot": following}
    if loaded and following and loaded["version"] == following["version"]:
        del found["the driver of the next boot"]
    return {name: driver for name, driver in found.items() if driver and driver["version"]}


def _branches(
    facts: Facts,
    cards: Sequence[Mapping],
    models: Sequence[Mapping],
    rules: Sequence[Mapping],
    knowledge: Mapping,
    settings: Mapping,
    host: str,
) -> list[Finding]:
    """Compare drivers with GPUs and with the images of the models that can run here."""
    kinds = {card["architecture"]: card["name"] for card in cards if card["vendor"] == "nvidia"}
    findings = []
    for name, driver in _drivers(facts, settings).items():
        where, version = f"{host} ({name})", driver["version"]
        for kind, card in kinds.items():
            findings += _card(where, driver, card, kind, knowledge["architectures"].get(kind))
        refused: dict[str, tuple[Finding, list[str]]] = {}
        for model in models:
            for item in compatibility.judge(rules, {**model["facts"], "driver": version}, where):
                refused.setdefault(item.rule, (item, []))[1].append(f"{_name(model)} ({model['image']})")
        for item, names in refused.values():
            problem = f"{item.problem} Models: {listing(names)}."
            findings.append(Finding(item.rule, where, problem, item.remedy, overridable=True))
    return findings


def _card(where: str, driver: Mapping, card: str, kind: str, known: Mapping | None) -> list[Finding]:
    if not known:
        return []
    version, flavour = driver["version"], driver["flavour"]
    findings = []
    if known.get("first") and not _at_least(version, known["first"]):
        problem = f"{version} is older than branch {known['first']}, the first one for {card} ({kind})."
        findings.append(
            Finding("driver-too-old", where, problem, f"Upgrade it to {known['first']} or later.", overridable=True)
        )
    if known.get("last") and _at_least(version, known["last"] + 1):
        problem = f"{version} is newer than branch {known['last']}, the last one for {card} ({kind})."
        findings.append(Finding("driver-too-new", where, problem, f"Use branch {known['last']}.", overridable=True))
    if flavour and flavour not in known["modules"]:
        problem = f"its kernel modules are {flavour}; {card} ({kind}) needs {' or '.join(known['modules'])} ones."
        findings.append(
            Finding("module-flavour", where, problem, "Install the other flavour of modules.", overridable=True)
        )
    return findings


def _at_least(version: str, branch: int) -> bool:
    try:
        return matches(version, f">={branch}")
    except VersionError:
        return True


def _fabric_manager(facts: Facts, settings: Mapping, host: str) -> list[Finding]:
    driver = facts["driver"]
    if settings["driver"] != "existing" or not facts["nvswitches"] or not driver["loaded"]:
        return []
    where, version, manager = f"{host} (NVSwitches)", driver["loaded"]["version"], driver["fabric_manager"]
    if manager == version or (not manager and "packages" not in driver["installs"]):
        return []
    if manager:
        problem = f"the Fabric Manager is {manager}, the driver {version}; they have to be equal to the last digit."
    else:
        problem = "there are NVSwitches and no Fabric Manager: CUDA fails with error 802."
    remedy = f"Install nvidia-fabricmanager {version}, and hold both against unattended upgrades."
    return [Finding("fabric-manager", where, problem, remedy, overridable=True)]


def _building(facts: Facts, settings: Mapping, host: str) -> list[Finding]:
    """A package of the driver builds its module on the host."""
    kernel = facts["kernel"]
    if settings["driver"] != "managed":
        return []
    names = {kernel["running"]: kernel["running_headers"], kernel["next"]: kernel["next_headers"]}
    lacking = [name for name, there in names.items() if name and not there]
    if not lacking:
        return []
    problem = f"headers of kernel {listing(lacking)} are missing, so that no module can be built."
    remedy = "Install them (linux-headers-* or kernel-devel-*); where they are gone, upgrade the kernel and reboot."
    return [Finding("kernel-headers", f"{host} (kernel)", problem, remedy, overridable=True)]


def _secure_boot(facts: Facts, settings: Mapping, host: str) -> list[Finding]:
    if not facts["secure_boot"]:
        return []
    driver = facts["driver"]
    module = driver["next_kernel"] or driver["running_kernel"]
    if settings["driver"] == "existing":
        if driver["loaded"] or not module or module["signer"]:
            return []
        problem = f"Secure Boot is on, and the module of driver {module['version']} bears no signature."
    else:
        maker = "DKMS builds" if settings["driver"] == "managed" else "the GPU operator's driver builds"
        problem = f"Secure Boot is on; modules that {maker} are signed with a key that the firmware does not know."
    remedy = (
        "Use the distribution's signed modules (linux-modules-nvidia-*), enrol a key of your own with mokutil, which "
        "somebody has to confirm at the console, or turn Secure Boot off."
    )
    return [Finding("secure-boot", f"{host} (firmware)", problem, remedy, overridable=True)]


def _space(facts: Facts, images: Sequence[str], settings: Mapping, host: str) -> list[Finding]:
    disks = facts["disks"]
    needs = {"images": len(images) * settings["image_gib"], "kubelet": settings["kubelet_gib"]}
    variables = {"images": "gpu_node_image_gib", "kubelet": "gpu_node_kubelet_gib"}
    findings = []
    for name, gib in needs.items():
        disk = disks[name]
        if disk["free"] is None:
            continue
        # Images that are there already took theirs.
        have = disk["free"] + _UNPACKED * disk.get("stored", 0)
        if have < gib * _GIB:
            problem = f"{disk['path']} has {have // _GIB} GiB for {name}, needed are {gib}."
            if name == "images":
                problem = f"{problem[:-1]}: {listing(images)}."
            remedy = f"Give it a larger filesystem, or correct {variables[name]}."
            findings.append(Finding("disk-space", f"{host} (disk)", problem, remedy, overridable=True))
    return findings


def _swap(facts: Facts, host: str) -> list[Finding]:
    active = facts["swap"]["active"]
    if not active:
        return []
    remedy = "Run swapoff -a and take it out of /etc/fstab and systemd's units; the kubelet does not start with swap."
    return [Finding("swap", f"{host} (memory)", f"swap is on: {listing(active)}.", remedy, overridable=True)]


def _notes(facts: Facts, cards: Sequence[Mapping], models: Sequence[Mapping], knowledge: Mapping) -> list[str]:
    """Return what is worth knowing and refuses nothing."""
    notes = []
    kernel, driver = facts["kernel"], facts["driver"]
    unknown = sorted({card["name"] for card in cards if card["architecture"] not in knowledge["architectures"]})
    if unknown:
        notes.append(f"Which drivers know {listing(unknown)} is not known here.")
    if len({card["name"] for card in cards}) > 1:
        notes.append(f"The GPUs differ: {listing(sorted({card['name'] for card in cards}))}.")
    blind = _images(model for model in models if model["facts"].get("cuda") is None)
    if blind:
        notes.append(f"Nobody told which CUDA these images are built for, so no driver is asked for: {listing(blind)}.")
    if kernel["next"] != kernel["running"]:
        notes.append(f"Kernel {kernel['running']} runs, the next boot takes {kernel['next']}.")
    loaded, following = driver["loaded"], driver["next_kernel"]
    if loaded and following and following["version"] and following["version"] != loaded["version"]:
        notes.append(f"Driver {loaded['version']} is loaded, the next boot takes {following['version']}.")
    if facts["secure_boot"] is None:
        notes.append("Whether Secure Boot is on could not be told.")
    if facts["cgroup_version"] == 1:
        notes.append("The host uses cgroup v1, which Kubernetes refuses from 1.35 on.")
    programs = facts["containerd"]["programs"]
    if len({item["version"] for item in programs}) > 1:
        told = listing(f"{item['path']} {item['version'] or 'of unknown version'}" for item in programs)
        notes.append(f"There are several containerd: {told}.")
    config = facts["containerd"]["config"]
    if config and "cri" in config["disabled_plugins"] and not facts["containerd"]["distribution"]:
        notes.append("containerd's configuration turns its plugin cri off; the kubelet needs it.")
    return [*notes, *_neighbours(facts, cards)]


def _neighbours(facts: Facts, cards: Sequence[Mapping]) -> list[str]:
    """Return what slows traffic between GPUs, and between GPUs and network cards."""
    notes = []
    iommu = facts["iommu"]
    rdma = [item for nic in facts["nics"] for item in nic["rdma"] if item["state"] == "active"]
    if len(cards) > 1 or rdma:
        if iommu["acs_bridges"]:
            notes.append(
                f"{len(iommu['acs_bridges'])} PCIe bridges send traffic between devices by way of the processor (ACS): "
                "GPUs and network cards talk slowly or hang."
            )
        if any(str(card["iommu"]).startswith("DMA") for card in cards):
            notes.append("The IOMMU translates the GPUs' addresses; iommu=pt lets them talk directly.")
    limits = facts["memlock"]
    tight = [
        unit for unit, limit in limits.items() if (limit["running"] or limit["configured"]) not in (*_UNLIMITED, None)
    ]
    if rdma and tight:
        notes.append(f"Locked memory is limited for {listing(tight)}; RDMA needs LimitMEMLOCK=infinity.")
    return notes


def _card_name(card: Mapping) -> str:
    """Return the name of a GPU; one that MIG splits offers its instances instead of itself."""
    return f"{card['name']} in {card['mig_instances']} MIG instances" if card["mig_instances"] else card["name"]


def _runtime(facts: Facts) -> str:
    """Return what runs containers, as far as it is there yet."""
    found = facts["containerd"]
    versions = [f"containerd {item['version'] or ''}".strip() for item in found["programs"]]
    return listing(dict.fromkeys(filter(None, [found["distribution"], *versions]))) or "none"


def _offers(facts: Facts, cards: Sequence[Mapping]) -> dict[str, Any]:
    """Return what a host has, in words that fit a table."""
    names = [_card_name(card) for card in cards or facts["gpus"]]
    loaded = facts["driver"]["loaded"]
    free = facts["disks"]["images"]["free"]
    return {
        "gpus": listing(f"{names.count(name)} x {name}" for name in dict.fromkeys(names)) or "none",
        "nvswitches": len(facts["nvswitches"]),
        "rdma": len([item for nic in facts["nics"] for item in nic["rdma"] if item["state"] == "active"]),
        # Those that models get.
        "rdma_devices": [card["name"] for card in network_cards.beside_gpus(facts)],
        "driver": f"{loaded['version']} {loaded['flavour']}" if loaded else "none",
        "runtime": _runtime(facts),
        "system": facts["os"]["name"] or "unknown",
        "kernel": facts["kernel"]["running"] or "unknown",
        "image_gib": None if free is None else free // _GIB,
    }
