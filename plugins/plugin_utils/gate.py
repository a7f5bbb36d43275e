# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""What a cluster's facts forbid, told before anything is changed.

``cluster`` is what module ``cluster_facts`` returns; what it could not see (``None``) forbids
nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from . import autoscaling, compatibility, upgrade
from .findings import Finding, listing
from .gateway import INFERENCE_SWITCH
from .objects import workload_kind, workloads_of
from .versions import is_version, matches, parse

Cluster = Mapping[str, Any]
#: Facts that only a cluster tells.
_FACTS = {"kubernetes", "runtime", "runtime_version", "driver"}
#: Where NVIDIA's feature discovery tells the driver of a node, the deprecated place last (source: GFD 0.18).
_DRIVER_LABELS = ("nvidia.com/cuda.driver-version.full", "nvidia.com/cuda.driver.major")
#: Places of one kind that a finding names.
_NAMED = 4


def stack_findings(resolved: Mapping[str, Any], cluster: Cluster, overrides: Sequence[str]) -> list[str]:
    """Return why ``cluster`` cannot run the ``resolved`` stack.

    :param overrides: names of rules to wave through.
    """
    findings = [*_version(resolved["release"], cluster), *_permissions(cluster)]
    for model in resolved["models"]:
        for pods in workloads_of(model):
            findings += _devices(pods, cluster)
            findings += _rdma(pods, cluster)
            findings += autoscaling.cluster_findings(pods, cluster)
        findings += _rules(model, resolved["rules"], cluster)
    findings += _groups(resolved, cluster)
    return _kept(findings, overrides)


def istio_findings(
    mode: str,
    release: Mapping[str, Any],
    cluster: Cluster,
    adopt: bool,
    overrides: Sequence[str],
    rules: Sequence[Mapping[str, Any]] = (),
    version: str = "",
) -> list[str]:
    """Return why the Istio of ``cluster`` and ``mode`` do not go together.

    :param mode: ``managed`` or ``existing``.
    :param adopt: whether an Istio that this collection did not install may be taken over.
    :param rules: of ``compatibility.yml``; those about a change of Istio are asked where it is managed.
    :param version: that will be installed; nothing for the release's.
    """
    planes = cluster["istio"]
    if planes is None:
        return []
    if mode == "existing":
        findings = _existing_istio(release, planes, cluster)
    else:
        findings = [] if adopt else _unexpected_istio(planes)
        findings += upgrade.istio_findings(planes, version or release["istio"]["version"], rules)
    return _kept(findings, overrides)


def bundle_state(bundle: Mapping[str, Any], cluster: Cluster) -> str:
    """Return ``missing``, ``partial``, ``older``, ``same``, ``newer`` or ``unknown`` for a bundle of definitions.

    ``partial`` are newer ones than the bundle's that lack some of it: mixing the two is nobody's
    release.

    :param bundle: ``version``, ``crds`` (names) and ``bundle_annotation``, as a release has them.
    """
    definitions = cluster["definitions"]
    if definitions is None:
        return "unknown"
    present = [name for name in bundle["crds"] if name in definitions]
    if not present:
        return "missing"
    versions = [definitions[name]["annotations"].get(bundle["bundle_annotation"], "") for name in present]
    if not all(is_version(version) for version in versions):
        return "unknown"
    oldest, wanted = min(parse(version) for version in versions), parse(bundle["version"])
    if oldest == wanted:
        return "same" if len(present) == len(bundle["crds"]) else "missing"
    if len(present) < len(bundle["crds"]) and oldest > wanted:
        return "partial"
    return "older" if oldest < wanted else "newer"


def bundle_decision(
    bundle: Mapping[str, Any],
    cluster: Cluster,
    name: str,
    policy: str,
    variable: str,
    rules: Sequence[Mapping[str, Any]] = (),
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """Return ``state`` (see :func:`bundle_state`), ``apply`` (bool) and ``findings``.

    :param name: what to call the bundle.
    :param policy: ``install``, ``upgrade`` or ``existing``.
    :param variable: variable that holds the policy.
    :param rules: of ``compatibility.yml``; those about a change of definitions are asked where they are changed.
    """
    state = bundle_state(bundle, cluster)
    apply = state in {"install": ("missing",), "upgrade": ("missing", "older"), "existing": ()}[policy]
    findings = upgrade.definition_findings(bundle, cluster["definitions"], rules, variable) if apply else []
    findings = [item for item in findings if item.rule not in overrides]
    if state == "missing" and not apply:
        problem = f"the cluster lacks definitions of {name}: {listing(bundle['crds'])}."
        findings.append(
            Finding("definitions", variable, problem, f"Install {bundle['manifest']}, or set it to install.")
        )
    if state == "partial":
        problem = f"the cluster has newer definitions of {name} than {bundle['version']}, and not all that are needed."
        remedy = f"Complete them with {listing(bundle['crds'])} of their own version."
        findings.append(Finding("definitions", variable, problem, remedy))
    if state == "older" and not apply:
        problem = f"the cluster's definitions of {name} are older than {bundle['version']}, which the release needs."
        remedy = "Upgrade them, or set it to upgrade; others in this cluster may use them too."
        findings.append(Finding("definitions", variable, problem, remedy))
    return {"state": state, "apply": apply, "findings": [str(item) for item in findings]}


def release_change(resolved: Mapping[str, Any], cluster: Cluster, overrides: Sequence[str]) -> dict[str, list[str]]:
    """Return what a change of the release changes (``words``), and why it cannot be (``findings``)."""
    wanted, known = resolved["release"], resolved["releases"]
    before = upgrade.installed(resolved["stack"], cluster.get("pickers"), known)
    findings = upgrade.release_findings(before, wanted, known, resolved["rules"])
    return {"words": upgrade.words(before, wanted, known), "findings": _kept(findings, overrides)}


def _kept(findings: list[Finding], overrides: Sequence[str]) -> list[str]:
    return [str(item) for item in findings if not (item.overridable and item.rule in overrides)]


def _version(release: Mapping, cluster: Cluster) -> list[Finding]:
    wanted, version = release["kubernetes"], cluster["version"]
    if matches(version, wanted):
        return []
    problem = f"release {release['name']} supports Kubernetes {wanted}, the cluster is {version}."
    remedy = "Choose another release or upgrade the cluster."
    return [Finding("kubernetes-version", "llm_d_release", problem, remedy, overridable=True)]


def _permissions(cluster: Cluster) -> list[Finding]:
    if not cluster["denied"]:
        return []
    problem = f"the credentials lack permission to {'; '.join(cluster['denied'])}."
    remedy = "Ask for them, or name other credentials."
    return [Finding("permissions", "llm_d_kubeconfig", problem, remedy, overridable=True)]


def _groups(resolved: Mapping, cluster: Cluster) -> list[Finding]:
    """Return whether the cluster can make the groups of pods that models over several nodes are."""
    needed, definitions = resolved["release"]["leader_worker_set"], cluster["definitions"]
    places = [
        f"{pods['where']}.nodes"
        for model in resolved["models"]
        for pods in workloads_of(model)
        if workload_kind(pods) == "LeaderWorkerSet"
    ]
    if not places or definitions is None or needed["crd"] in definitions:
        return []
    problem = f"replicas over several nodes are LeaderWorkerSets, which the cluster does not know ({needed['crd']})."
    remedy = (
        f"Install LeaderWorkerSet {needed['versions']}, for example its chart {needed['chart']}, or leave nodes out."
    )
    return [Finding("leader-worker-set", listing(places), problem, remedy)]


def _devices(model: Mapping, cluster: Cluster) -> list[Finding]:
    nodes = cluster["nodes"]
    if nodes is None:
        return []
    findings = []
    for resource, count in model["devices"].items():
        offers = [int(node["allocatable"].get(resource, 0)) for node in nodes if node["schedulable"]]
        most = max(offers, default=0)
        each = "replica" if model["nodes"] == 1 else "node of a replica"
        where = f"{model['where']}.gpus"
        if not most:
            problem = f"no schedulable node of {len(nodes)} offers {resource}, the model asks for {count} per {each}."
            remedy = "Prepare GPU nodes (driver, container runtime, device plugin), or choose another accelerator."
            findings.append(Finding("no-devices", where, problem, remedy, overridable=True))
        elif most < count:
            problem = f"a node offers at most {most} {resource}, the model asks for {count} per {each}."
            remedy = f"Use at most {most}, or spread a replica over several nodes."
            findings.append(Finding("no-devices", where, problem, remedy, overridable=True))
    return findings


def _rdma(pods: Mapping, cluster: Cluster) -> list[Finding]:
    """Return whether nodes with enough devices for ``pods`` offer what they ask for to use RDMA."""
    nodes = [node for node in cluster["nodes"] or () if _may_take(pods, node)]
    findings = []
    # Nodes without devices are told already.
    for resource, count in pods["rdma_count"].items() if nodes else ():
        most = max(int(node["allocatable"].get(resource, 0)) for node in nodes)
        if most >= count:
            continue
        offered = f"offers {resource}" if not most else f"offers more than {most} {resource}"
        problem = f"no schedulable node that fits {offered}, the model asks for {count} per pod."
        known = sorted({name for node in nodes for name in node["allocatable"] if "rdma" in name})
        told = (
            f"These nodes offer {listing(known)}."
            if known
            else "Install an RDMA device plugin, or leave rdma.resource out."
        )
        findings.append(Finding("rdma-resource", f"{pods['where']}.rdma.resource", problem, told, overridable=True))
    return findings


def _rules(model: Mapping, rules: Sequence[Mapping], cluster: Cluster) -> list[Finding]:
    """Return what the rules about clusters say of ``model``, once for all places that it is true of."""
    rules = [rule for rule in rules if _FACTS & rule["needs"].keys()]
    places: dict[Finding, list[str]] = {}
    seen = [("the API server", {"kubernetes": cluster["version"]})]
    seen += [(f"node {node['name']}", _node_facts(node)) for node in cluster["nodes"] or () if _may_run(model, node)]
    for place, facts in seen:
        for finding in compatibility.judge(rules, {**model["facts"], **facts}, model["where"]):
            places.setdefault(finding, []).append(place)
    return [replace(finding, problem=f"{finding.problem} {_told(names)}") for finding, names in places.items()]


def _told(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"So it is on {listing(names[:_NAMED])}{more}."


def _node_facts(node: Mapping) -> dict[str, Any]:
    runtime, _sep, version = (node.get("runtime") or "").partition("://")
    labels = node.get("labels", {})
    return {
        "kubernetes": node.get("kubelet"),
        "runtime": runtime or None,
        "runtime_version": version or None,
        "driver": next((labels[label] for label in _DRIVER_LABELS if labels.get(label)), None),
    }


def _may_run(model: Mapping, node: Mapping) -> bool:
    """Whether the scheduler may choose ``node`` for a kind of pods of ``model``, as far as labels and devices say."""
    return any(_may_take(pods, node) for pods in workloads_of(model))


def _may_take(pods: Mapping, node: Mapping) -> bool:
    return (
        node["schedulable"]
        and pods["node_selector"].items() <= node.get("labels", {}).items()
        and all(int(node["allocatable"].get(name, 0)) >= count for name, count in pods["devices"].items())
    )


def _existing_istio(release: Mapping, planes: Sequence[Mapping], cluster: Cluster) -> list[Finding]:
    variable, range_ = "istio_gateway_istio", release["istio"]["existing"]
    if not planes:
        remedy = "Install Istio, or set istio_gateway_istio: managed."
        return [Finding("istio", variable, "'existing', but no istiod runs in the cluster.", remedy)]
    findings = []
    able = [plane for plane in planes if _can_do_inference(plane)]
    if not able:
        problem = f"no istiod has {INFERENCE_SWITCH}=true ({listing(_place(plane) for plane in planes)})."
        remedy = "Set it in pilot.env of its values and restart it."
        findings.append(Finding("istio", variable, problem, remedy))
    versions = [plane["version"] for plane in able or planes]
    if not any(is_version(version) and matches(version, range_) for version in versions):
        problem = f"release {release['name']} works with Istio {range_}, the cluster runs {listing(versions)}."
        findings.append(Finding("istio-version", variable, problem, "Upgrade Istio or choose another release.", True))
    return findings


def _unexpected_istio(planes: Sequence[Mapping]) -> list[Finding]:
    others = [plane for plane in planes if not plane["ours"]]
    if not others:
        return []
    problem = f"'managed', but an Istio that this collection did not install runs: {listing(map(_place, others))}."
    remedy = "Set istio_gateway_istio: existing to leave it alone, or istio_gateway_adopt: true to take it over."
    return [Finding("istio", "istio_gateway_istio", problem, remedy)]


def _can_do_inference(plane: Mapping) -> bool:
    return str(plane["env"].get(INFERENCE_SWITCH, "")).lower() == "true"


def _place(plane: Mapping) -> str:
    return f"{plane['namespace']}/{plane['name']} {plane['version']}"
