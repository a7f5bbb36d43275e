# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""What gives GPUs to the pods of a cluster: a chart with its values, and the marks of GPU nodes.

``knowledge`` is a data file of role ``gpu_cluster``; ``hosts`` says what the inventory decided about each
GPU host; ``cluster`` is what module ``cluster_facts`` returns, None where only files are written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from ansible_collections.llm_d.multi_engine.plugins.module_utils.scheduling import has_ended

from . import images
from .findings import Finding, listing
from .objects import workloads_of
from .profiles import merge
from .versions import is_version, matches

#: Modes in which a chart is installed.
CHARTS = ("device_plugin", "operator")
_MODE = "gpu_cluster_devices"
_TAINT_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")


def cluster_plan(
    settings: Mapping[str, Any],
    hosts: Mapping[str, Mapping[str, Any]],
    resolved: Mapping[str, Any],
    knowledge: Mapping[str, Any],
    cluster: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Return what gives GPUs to pods, and everything that speaks against it.

    :param settings: the variables of role ``gpu_cluster`` without their prefix.
    :param hosts: name to ``driver``, ``driver_version``, ``driver_branch``, ``toolkit``, ``default_runtime``,
        ``dcgm``, ``mig`` and ``labels``, as the variables of role ``gpu_node`` hold them.
    :returns: ``chart`` (``name``, ``ref``, ``repository``, ``version``, ``settings``; None where none is
        installed), ``namespace``, ``mark``, ``images``, ``resources`` (patterns of names), ``nodes`` (name to
        ``labels`` and ``taints``), ``installed`` (bool, whether it is ours already) and ``findings``.
    """
    mode = settings["devices"]
    findings = [*_settings(settings), *_vendors(mode, resolved, knowledge)]
    chart, needed = None, []
    known = knowledge["charts"].get(mode, {})
    namespace = settings["namespace"] or known.get("namespace", "")
    if mode in CHARTS:
        problems, ours = {"device_plugin": _plugin, "operator": _operator}[mode](settings, hosts, known)
        findings += problems
        version = settings["version"] or known["version"]
        ref = settings["chart"] or known["chart"]
        chart = {
            "name": known["release"],
            "ref": ref,
            "repository": "" if "/" in ref else settings["chart_repository"] or known["repository"],
            "version": version,
            "settings": merge(ours, settings["values"]),
        }
        needed = _images(mode, chart, known)
    nodes = _nodes(settings, hosts, known, cluster)
    installed = False
    if cluster is not None:
        findings += _node_findings(mode, nodes, cluster)
        if chart:
            mark = cluster["marks"].get(f"{namespace}/{knowledge['mark']}")
            installed = bool(mark and mark["stack"] == resolved["stack"])
            findings += _cluster_findings(settings, resolved, chart, namespace, knowledge, cluster)
            findings += _runtimes(settings, nodes, knowledge, cluster)
    kept = [item for item in findings if not (item.overridable and item.rule in settings["overrides"])]
    return {
        "chart": chart,
        "namespace": namespace,
        "mark": knowledge["mark"],
        "images": needed,
        "resources": list(knowledge["vendors"]["nvidia"]["resources"]),
        "nodes": nodes,
        "installed": installed,
        "findings": [str(item) for item in kept],
    }


def users(pods: Iterable[Mapping[str, Any]], patterns: Sequence[str], stack_label: str, stack: str) -> list[str]:
    """Return the pods of others than ``stack`` that hold a GPU, as ``namespace/name``."""
    found = []
    for pod in pods:
        metadata = pod["metadata"]
        ours = (metadata.get("labels") or {}).get(stack_label) == stack
        wanted = [
            name
            for container in pod["spec"].get("containers") or []
            for name in (container.get("resources") or {}).get("limits") or {}
        ]
        if not has_ended(pod) and not ours and any(offers(name, patterns) for name in wanted):
            found.append(f"{metadata['namespace']}/{metadata['name']}")
    return sorted(found)


def offers(name: str, patterns: Iterable[str]) -> bool:
    """Whether a resource's name is one of those that ``patterns`` (as of a shell) speak of."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _settings(settings: Mapping) -> list[Finding]:
    findings = []
    for index, taint in enumerate(settings["taints"]):
        where = f"gpu_cluster_taints[{index}]"
        if taint.get("effect") not in _TAINT_EFFECTS or not taint.get("key"):
            problem = f"{taint} is no taint."
            remedy = f"Write key, effect ({listing(_TAINT_EFFECTS)}) and, if it needs one, value."
            findings.append(Finding("taint", where, problem, remedy))
    if settings["devices"] == "none" and (settings["labels"] or settings["taints"]):
        problem = "'none' leaves the cluster alone, and there are labels or taints for its nodes."
        remedy = "Set it to existing, or take gpu_cluster_labels and gpu_cluster_taints out."
        findings.append(Finding("devices", _MODE, problem, remedy))
    return findings


def _vendors(mode: str, resolved: Mapping, knowledge: Mapping) -> list[Finding]:
    """Refuse to install NVIDIA's where the models ask for another vendor's GPUs alone."""
    asked = {name for model in resolved["models"] for pods in workloads_of(model) for name in pods["devices"]}
    if mode not in CHARTS or not asked:
        return []
    vendors = knowledge["vendors"]
    if any(offers(name, vendors["nvidia"]["resources"]) for name in asked):
        return []
    for vendor in vendors.values():
        if any(offers(name, vendor["resources"]) for name in asked) and vendor.get("refused"):
            problem = f"'{mode}' installs NVIDIA's, the models ask for {listing(sorted(asked))}."
            return [Finding("devices", _MODE, problem, vendor["refused"])]
    return []


def _plugin(settings: Mapping, hosts: Mapping, known: Mapping) -> tuple[list[Finding], dict[str, Any]]:
    """Return what speaks against NVIDIA's device plugin, and the values of its chart."""
    findings = []
    strange = sorted(name for name, host in hosts.items() if host["driver"] == "operator")
    if strange:
        problem = f"'device_plugin', but {listing(strange)} leave the driver to the GPU operator (gpu_node_driver)."
        remedy = f"Set {_MODE}: operator, or gpu_node_driver: managed or existing."
        findings.append(Finding("devices", _MODE, problem, remedy))
    image = settings["image"] or images.mirrored(known["image"], settings["image_registry"], {})
    repository, tag = images.split(image)
    values: dict[str, Any] = {
        "image": {"repository": repository, **({"tag": tag.removeprefix(":")} if tag else {})},
        "deviceListStrategy": settings["device_list_strategy"],
        "migStrategy": _mig_strategy(settings, hosts) or "none",
    }
    if settings["device_list_strategy"].startswith("cdi"):
        # Where the driver is on the host; the chart mounts it only when it is told, and devices are listed from it.
        values["nvidiaDriverRoot"] = "/"
    if settings["runtime_class"]:
        values["runtimeClassName"] = settings["runtime_class"]
    if settings["image_pull_secrets"]:
        values["imagePullSecrets"] = [{"name": name} for name in settings["image_pull_secrets"]]
    return findings, values


def _operator(settings: Mapping, hosts: Mapping, known: Mapping) -> tuple[list[Finding], dict[str, Any]]:
    """Return what speaks against the GPU operator, and the values of its chart: off is what the hosts have."""
    findings = [*_agree(hosts, "driver"), *_agree(hosts, "toolkit")]
    first = next(iter(hosts.values()), {})
    driver, toolkit = first.get("driver") == "operator", bool(hosts) and not first["toolkit"]
    values: dict[str, Any] = {
        "driver": {"enabled": driver},
        "toolkit": {"enabled": toolkit},
        "nfd": {"enabled": settings["nfd"]},
    }
    if strategy := _mig_strategy(settings, hosts):
        values["mig"] = {"strategy": strategy}
    if driver:
        problems, version = _driver_version(hosts, known)
        findings += problems
        values["driver"].update({"version": version} if version else {})
    if any(host["mig"] for host in hosts.values()):
        # Who splits a GPU is one: here the host's own unit.
        values["migManager"] = {"enabled": False}
    if any(host["dcgm"] for host in hosts.values()):
        # One host engine: the exporter asks the host's instead of starting its own.
        values["dcgmExporter"] = {
            "hostNetwork": True,
            "env": [{"name": "DCGM_REMOTE_HOSTENGINE_INFO", "value": "localhost:5555"}],
        }
    return findings, merge(_mirrored(settings, known), values)


def _agree(hosts: Mapping, what: str) -> list[Finding]:
    """One chart has one switch for all nodes."""
    groups: dict[Any, list[str]] = {}
    for name, host in hosts.items():
        groups.setdefault(host["driver"] == "operator" if what == "driver" else host["toolkit"], []).append(name)
    if len(groups) < 2:
        return []
    told = " and ".join(f"{listing(names)} ({_said(what, value)})" for value, names in groups.items())
    problem = f"GPU hosts differ in who brings the {what}: {told}."
    remedy = f"The operator has one switch for all nodes: give gpu_node_{what} one value for group gpu_nodes."
    return [Finding("devices", _MODE, problem, remedy)]


def _said(what: str, value: Any) -> str:
    return ("the operator" if value else "the host") if what == "driver" else ("the host" if value else "the operator")


def _driver_version(hosts: Mapping, known: Mapping) -> tuple[list[Finding], str]:
    """Return the version that the operator installs; empty for the chart's own."""
    versions = {str(host["driver_version"]) for host in hosts.values()}
    branches = {str(host["driver_branch"]) for host in hosts.values() if host["driver_branch"]}
    if len(versions) == 1 and versions != {""}:
        return [], versions.pop()
    other = sorted(branches - {known["driver"].partition(".")[0]})
    if len(versions) > 1 or other:
        problem = f"the operator's chart brings driver {known['driver']}, GPU hosts want {listing(other or sorted(versions))}."
        remedy = "Give gpu_node_driver_version one whole version for group gpu_nodes."
        return [Finding("driver-version", "gpu_node_driver_version", problem, remedy)], ""
    return [], ""


def _mig_strategy(settings: Mapping, hosts: Mapping) -> str:
    """Return how MIG's instances are offered: all of one kind count as GPUs, several kinds have their own names.

    Empty where no host is split.
    """
    if settings["mig_strategy"]:
        return settings["mig_strategy"]
    split = {str(host["mig"]) for host in hosts.values() if host["mig"] not in ("", "all-disabled")}
    if not split:
        return ""
    return "single" if all(name.startswith("all-") and name != "all-balanced" for name in split) else "mixed"


def _mirrored(settings: Mapping, known: Mapping) -> dict[str, Any]:
    """Return where the operator's parts are pulled from and with what, as far as that is not upstream's."""
    values: dict[str, Any] = {}
    for part in known["parts"]:
        if settings["image_registry"]:
            place = images.mirrored(part["repository"], settings["image_registry"], {})
            values = merge(values, _put(part["values"], "repository", place))
        names = settings["image_pull_secrets"]
        if names and part.get("secrets") == "objects":
            values = merge(
                values, _put(part["values"].partition(".")[0], "imagePullSecrets", [{"name": name} for name in names])
            )
        elif names and part.get("secrets") != "none":
            values = merge(values, _put(part["values"], "imagePullSecrets", list(names)))
    return values


def _put(path: str, key: str, value: Any) -> dict[str, Any]:
    """Return ``{a: {b: {key: value}}}`` for the path ``a.b``."""
    result = {key: value}
    for name in reversed(path.split(".")):
        result = {name: result}
    return result


def _images(mode: str, chart: Mapping, known: Mapping) -> list[dict[str, str]]:
    """Return what is pulled and where upstream has it; of an operator's version that is not known, nothing."""
    values, version = chart["settings"], chart["version"]
    if mode == "device_plugin":
        upstream = f"{known['image']}:v{version.removeprefix('v')}"
        tag = values["image"].get("tag") or f"v{version.removeprefix('v')}"
        return [{"image": f"{values['image']['repository']}:{tag}", "source": upstream}]
    if version != known["version"]:
        return []
    found = {}
    for part in known["parts"]:
        if part.get("image") is None or not _runs(part, values):
            continue
        entry = _at(values, part["values"])
        places = (entry.get("repository") or part["repository"], part["repository"])
        tag = entry.get("version") or part["version"]
        image, source = (f"{place}/{part['image']}".rstrip("/") + f":{tag}" for place in places)
        found[image] = source
    return [{"image": image, "source": found[image]} for image in sorted(found)]


def _runs(part: Mapping, values: Mapping) -> bool:
    return "switch" not in part or _at(values, part["switch"]).get("enabled", True)


def _at(values: Mapping, path: str) -> Mapping:
    found: Any = values
    for name in path.split("."):
        found = found.get(name) or {}
    return found


def _nodes(settings: Mapping, hosts: Mapping, known: Mapping, cluster: Mapping | None) -> dict[str, dict[str, Any]]:
    """Return the nodes that have GPUs, by name, with the labels and taints that they get."""
    mode = settings["devices"]
    names = list(settings["nodes"])
    if not names and cluster and cluster["nodes"]:
        # Node Feature Discovery, the operator, or somebody's hand.
        names = [
            node["name"]
            for node in cluster["nodes"]
            if any(node["labels"].get(key) == "true" for key in known.get("node_labels", ()))
        ]
    ours = dict(known.get("labels") or {})
    return {
        name: {
            "labels": {
                **ours,
                **settings["labels"],
                **(
                    {key: str(value) for key, value in hosts[name]["labels"].items()}
                    if _own(settings, hosts, name)
                    else {}
                ),
            },
            "taints": list(settings["taints"]),
        }
        for name in names
        if mode != "none"
    }


def _own(settings: Mapping, hosts: Mapping, name: str) -> bool:
    return settings["host_labels"] and name in hosts


def _node_findings(mode: str, nodes: Mapping, cluster: Mapping) -> list[Finding]:
    if cluster["nodes"] is None:
        return []
    there = [node["name"] for node in cluster["nodes"]]
    missing = [name for name in nodes if name not in there]
    if missing:
        problem = f"{listing(missing)} are no nodes of the cluster, which has {listing(there[:8]) or 'none'}."
        remedy = "Name nodes as `kubectl get nodes` does, or let the hosts join first."
        return [Finding("nodes", "gpu_cluster_nodes", problem, remedy)]
    if mode in CHARTS and not nodes:
        problem = "no node is known to have GPUs: there is no group gpu_nodes, and no node is labelled so."
        remedy = "Name them, as `kubectl get nodes` does."
        return [Finding("nodes", "gpu_cluster_nodes", problem, remedy)]
    return []


def _cluster_findings(
    settings: Mapping, resolved: Mapping, chart: Mapping, namespace: str, knowledge: Mapping, cluster: Mapping
) -> list[Finding]:
    """Return what is in the cluster already and would fight with what is to be installed."""
    mode, known = settings["devices"], knowledge["charts"][settings["devices"]]
    findings = []
    supported = known.get("kubernetes", "")
    if is_version(cluster["version"]) and not matches(cluster["version"], supported):
        problem = (
            f"{chart['name']} {chart['version']} supports Kubernetes {supported}, the cluster is {cluster['version']}."
        )
        remedy = "Choose another version of it, or upgrade the cluster."
        findings.append(Finding("gpu-cluster-kubernetes", "gpu_cluster_version", problem, remedy, overridable=True))
    mark = cluster["marks"].get(f"{namespace}/{knowledge['mark']}")
    for other, about in knowledge["charts"].items():
        if (
            other != mode
            and (found := cluster["marks"].get(f"{about['namespace']}/{knowledge['mark']}"))
            and found["stack"]
        ):
            problem = f"'{mode}', but this collection installed {about['release']} for stack {found['stack']}: two would fight."
            remedy = f"Uninstall it first (playbook uninstall, --tags gpu_cluster), or set {_MODE}: {other}."
            return [*findings, Finding("devices", _MODE, problem, remedy)]
    if settings["adopt"] or (mark and mark["stack"] == resolved["stack"]):
        return findings
    if mark and mark["stack"]:
        problem = f"'{mode}', but stack {mark['stack']} looks after {chart['name']} in this cluster."
        remedy = f"Set {_MODE}: existing, or gpu_cluster_adopt: true to look after it here."
        return [*findings, Finding("devices", _MODE, problem, remedy)]
    return [*findings, *_foreign(mode, chart, settings, knowledge, cluster)]


def _foreign(mode: str, chart: Mapping, settings: Mapping, knowledge: Mapping, cluster: Mapping) -> list[Finding]:
    remedy = f"Set {_MODE}: existing to leave it alone, or gpu_cluster_adopt: true to take it over."
    releases = [place for place in cluster["helm_revisions"] or {} if place.rpartition("/")[2] in _releases(knowledge)]
    definitions = cluster["definitions"] or {}
    if releases:
        problem = f"'{mode}', but there is a Helm release that this collection did not install: {listing(releases)}."
        return [Finding("devices", _MODE, problem, remedy)]
    if knowledge["charts"]["operator"]["definition"] in definitions and mode == "device_plugin":
        problem = f"'{mode}', but the cluster has a GPU operator ({knowledge['charts']['operator']['definition']})."
        return [Finding("devices", _MODE, problem, remedy)]
    patterns = knowledge["vendors"]["nvidia"]["resources"]
    offering = [
        node["name"]
        for node in cluster["nodes"] or ()
        if any(offers(name, patterns) and str(count) != "0" for name, count in node["allocatable"].items())
    ]
    if offering:
        problem = f"'{mode}', but nodes offer GPUs already, by something that this collection did not install: {listing(offering)}."
        return [Finding("devices", _MODE, problem, remedy)]
    if mode == "operator" and settings["nfd"] and any(name.endswith(".nfd.k8s-sigs.io") for name in definitions):
        problem = "the cluster has Node Feature Discovery already, and two would fight for labels."
        return [Finding("nfd", "gpu_cluster_nfd", problem, "Set it to false.")]
    return []


def _releases(knowledge: Mapping) -> list[str]:
    return [chart["release"] for chart in knowledge["charts"].values()]


def _runtimes(settings: Mapping, nodes: Mapping, knowledge: Mapping, cluster: Mapping) -> list[Finding]:
    """CDI is a matter of the container runtime: one that does not know it starts pods without their GPUs."""
    if settings["devices"] != "device_plugin" or not settings["device_list_strategy"].startswith("cdi"):
        return []
    old = []
    for node in cluster["nodes"] or ():
        runtime, _sep, version = (node.get("runtime") or "").partition("://")
        least = knowledge["cdi"].get(runtime)
        if node["name"] in nodes and least and is_version(version) and not matches(version, least):
            old.append(f"{node['name']} ({runtime} {version})")
    if not old:
        return []
    problem = f"{settings['device_list_strategy']!r} needs CDI, which these nodes do not know: {listing(old)}."
    remedy = "Upgrade the runtime, or set it to envvar with gpu_node_default_runtime: nvidia and gpu_cluster_runtime_class: ''."
    return [Finding("cdi", "gpu_cluster_device_list_strategy", problem, remedy, overridable=True)]
