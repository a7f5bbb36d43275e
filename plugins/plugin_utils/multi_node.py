# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""One replica over several nodes: a group of pods, of which the leader answers and the workers only compute.

LeaderWorkerSet makes such groups and tells each pod its place in one: the environment variables ``LWS_LEADER_ADDRESS``
and ``LWS_WORKER_INDEX``, which profiles name in arguments.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import tracks
from .autoscaling import extremes
from .findings import Finding
from .placeholders import fill_text

RULE = "nodes"
#: Makes a group the only one in a part of the cluster.
EXCLUSIVE_TOPOLOGY = "leaderworkerset.sigs.k8s.io/exclusive-topology"
_HOSTNAME = "kubernetes.io/hostname"
#: Longest value of a label. Kubernetes labels a StatefulSet's pods with its name and a hash of ten characters, and
#: the workers of a group are a StatefulSet that is named by the workload and the group's index.
_LABEL, _HASH = 63, 11


def is_several(pods: Mapping[str, Any]) -> bool:
    """Whether a replica of ``pods`` is more than one pod."""
    return pods["nodes"] > 1


def arguments(
    model: Mapping[str, Any], where: str, workload: str, facts: Mapping[str, Any], findings: list[Finding]
) -> list[str]:
    """Return the arguments by which the engines of a group find each other; say what cannot be spread.

    :param model: the model as these pods see it.
    :param workload: name of the LeaderWorkerSet.
    :param facts: effective profile of its engine.
    """
    topology = model.get("exclusive_topology")
    if not is_several(model):
        if topology:
            problem = f"set, but {where}.nodes is 1."
            findings.append(Finding(RULE, f"{where}.exclusive_topology", problem, "Leave it out, or set nodes."))
        return []
    own = facts.get("multi_node")
    if not own:
        problem = f"{facts['title']} cannot spread a replica over several nodes, as far as its profile knows."
        findings.append(Finding(RULE, f"{where}.nodes", problem, "Leave it out."))
        return []
    for setting, reason in own["lacks"].items():
        if (model.get(setting) or 1) != 1:
            problem = f"{model[setting]}, but {where}.nodes is {model['nodes']}: {reason}."
            findings.append(Finding(RULE, f"{where}.{setting}", problem, "Leave it out, or use one node."))
    # Every other rollout of the same engine names it so.
    longest = _LABEL - _HASH - len(f"-{tracks.CANARY}-{max(1, extremes(model)[1]) - 1}")
    if len(workload) > longest:
        problem = f"the pods of {workload} and of its rollouts would get labels of more than {_LABEL} characters."
        remedy = f"With nodes, the name may have {longest - len(workload) + len(model['name'])} characters."
        findings.append(Finding(RULE, f"{where}.name", problem, remedy))
    if topology == _HOSTNAME:
        problem = f"{topology!r} would put all nodes of a replica on the same host."
        remedy = "Use a label that the hosts of a rack or a network block share."
        findings.append(Finding(RULE, f"{where}.exclusive_topology", problem, remedy))
    return [fill_text(argument, {"nodes": model["nodes"]}) for argument in own["arguments"]]


def check_sizes(
    nodes: int, gpus: int, tensor: int, pipeline: int, data: int, where: str, findings: list[Finding]
) -> None:
    """Say where the parts of a replica do not end where its nodes do.

    :param gpus: accelerators of one node; what is used of all nodes is as many as there are.
    """
    copy = tensor * pipeline
    if max(copy, gpus) % min(copy, gpus):
        problem = (
            f"{nodes}, but tensor x pipeline parallel = {copy} and {gpus} gpus a node: a data-parallel copy would "
            "begin in the middle of a node."
        )
        remedy = "Make one a multiple of the other."
        findings.append(Finding(RULE, f"{where}.nodes", problem, remedy))
        return
    of_copy = max(1, copy // gpus)
    if max(of_copy, pipeline) % min(of_copy, pipeline):
        problem = f"{of_copy}, but pipeline_parallel is {pipeline}: a stage would begin in the middle of a node."
        remedy = "Make one a multiple of the other."
        findings.append(Finding(RULE, f"{where}.nodes", problem, remedy))


def worker(pods: Mapping[str, Any], facts: Mapping[str, Any], probes: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return in what workers differ from their leader, or None where there are none.

    :param pods: the leader, resolved.
    :param probes: the workers' own, with times.
    :returns: ``args``, ``probes`` and ``pre_stop`` (command, may be empty).
    """
    if not is_several(pods) or not facts.get("multi_node"):
        return None
    own = facts["multi_node"]["worker"]
    more = [argument for argument in own["arguments"] if argument not in pods["args"]]
    return {
        "args": [*pods["args"], *more],
        "probes": dict(probes),
        "pre_stop": [fill_text(part, {"engine_port": pods["engine_port"]}) for part in own["pre_stop"]],
    }


def pods_away(given: Mapping[str, str], replicas: int) -> int:
    """Return how many pods may be away when whole groups are counted: each takes its group along.

    :param given: ``min_available`` or ``max_unavailable``, as a number or a percentage.
    """
    ((name, text),) = given.items()
    value = int(text.rstrip("%"))
    # Kubernetes rounds percentages up.
    groups = -(-value * replicas // 100) if text.endswith("%") else value
    return replicas - groups if name == "min_available" else groups
