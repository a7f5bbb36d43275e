# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Fills the caches of a model before its engines start: a claim by a Job, directories of nodes by a DaemonSet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.llm_d.multi_engine.plugins.module_utils.marks import MODEL_LABEL, PROGRESS, STACK_LABEL
from ansible_collections.llm_d.multi_engine.plugins.module_utils.scheduling import quantity

from . import weights
from .findings import Finding
from .objects import Object, digest, env_entries, labels, make, without_empty, workloads_of

RULE = "prefetch"
COMPONENT = "weights"
_CONTAINER = "prefetch"
_SCRIPT = "prefetch.py"
_FOLDER = "/prefetch"
#: Exit code by which the script says that another try would end the same way.
_HOPELESS = 78
#: Tries after a failure; the pauses between them grow from 10 s to 6 min.
_TRIES = 10


def resolve(
    pods: Mapping[str, Any], where: str, facts: Mapping[str, Any], offline: bool, findings: list[Finding]
) -> dict[str, Any]:
    """Return how the cache of a kind of pods is filled beforehand, or nothing where it is not.

    :param facts: effective profile of the engine.
    :param offline: whether it may only look whether everything is there.
    :returns: ``command``, ``arguments`` and ``offline``.
    """
    cache, place = pods["cache"], f"{where}.cache"
    if not cache.get("prefetch"):
        if cache.get("weights_size"):
            problem = f"{cache['weights_size']!r}, but {place}.prefetch is not set, and nothing else reads it."
            findings.append(Finding(RULE, f"{place}.weights_size", problem, "Set prefetch, or leave it out."))
        return {}
    found = _contradictions(pods, where, facts)
    findings += found
    if found and not all(item.overridable for item in found):
        return {}
    source = pods["weights"]
    arguments = [source["path"]]
    if source["revision"]:
        arguments.append(f"--revision={source['revision']}")
    if cache.get("weights_size"):
        arguments.append(f"--size={int(quantity(cache['weights_size']))}")
    kept = f"claim {cache['claim']}" if cache.get("claim") else f"{cache['host_path']} of node $(NODE_NAME)"
    return {
        "command": [*facts["python"], f"{_FOLDER}/{_SCRIPT}"],
        "arguments": [*arguments, f"--place={kept}"],
        "offline": offline,
    }


def _contradictions(pods: Mapping, where: str, facts: Mapping) -> list[Finding]:
    place = f"{where}.cache.prefetch"
    if weights.scheme_of(pods["source"]) != weights.HUB:
        problem = f"true, but {where}.source is {pods['source']!r}, of which nothing is downloaded."
        return [Finding(RULE, place, problem, "Leave it out.")]
    found = []
    if not weights.lasting(pods["cache"]):
        problem = f"true, but {where}.cache is an emptyDir, which is another one for each pod."
        found.append(Finding(RULE, place, problem, "Name a claim or a host_path beside it."))
    if not facts.get("python"):
        problem = f"true, but the profile of {facts['title']} names no python that has huggingface_hub in its image."
        found.append(Finding(RULE, place, problem, "Leave it out, or fill the cache by other means."))
    name = "HF_HUB_CACHE" if "HF_HUB_CACHE" in pods["env"] else "HF_HOME"
    home = pods["env"].get(name)
    if not isinstance(home, str) or not f"{home}/".startswith(f"{facts['cache_path']}/"):
        problem = f"true, but {where}.env.{name} is {home!r}, and the cache is mounted at {facts['cache_path']}."
        found.append(Finding(RULE, place, problem, f"Leave {name} out, or put it below {facts['cache_path']}."))
    chosen = pods["node_selector"] or pods["affinity"].get("nodeAffinity")
    if pods["cache"].get("host_path") and pods["devices"] and not chosen:
        problem = (
            f"true with {where}.cache.host_path, but {where}.node_selector is empty: nodes without "
            f"{' and '.join(pods['devices'])} would download the weights too."
        )
        remedy = "Choose the nodes by a label, such as nvidia.com/gpu.present: 'true', with node_selector or affinity."
        found.append(Finding("prefetch-nodes", place, problem, remedy, overridable=True))
    return found


def objects(
    stack: str, role: str, namespace: str, model: Mapping[str, Any], token: Mapping[str, str], script: str
) -> list[Object]:
    """Return what fills the caches of ``model``, each once, however many kinds of pods share it.

    :param token: Secret with the token for Hugging Face, ``name`` and ``key``, or empty.
    :param script: what runs there.
    """
    fills: dict[str, Mapping[str, Any]] = {}
    for pods in workloads_of(model):
        if pods["prefetch"]:
            fills.setdefault(digest([pods["cache"], _placement(pods)]), pods)
    if not fills:
        return []
    name, common = f"{model['name']}-weights", labels(stack, role, COMPONENT)
    made = [make("v1", "ConfigMap", name, namespace, common, data={_SCRIPT: script})]
    for pods in fills.values():
        own = f"{name}-{pods['pod_role']}" if len(fills) > 1 else name
        compose = _job if pods["cache"].get("claim") else _daemon_set
        template = _template(own, name, common, pods, token, script)
        made.append(compose(own, namespace, {**common, MODEL_LABEL: model["name"]}, template))
    return made


def named_by_content(items: list[Object]) -> list[Object]:
    """Return ``items`` with Jobs called by what they do: a Job cannot be changed, another one can be made.

    The old one is removed as everything is that nobody asks for any more.
    """
    return [
        {**item, "metadata": {**item["metadata"], "name": f"{item['metadata']['name']}-{digest(item['spec'])[:6]}"}}
        if item["kind"] == "Job"
        else item
        for item in items
    ]


def _job(name: str, namespace: str, common: Mapping[str, str], template: dict[str, Any]) -> Object:
    template["spec"]["restartPolicy"] = "Never"
    rules = [
        {"action": "FailJob", "onExitCodes": {"containerName": _CONTAINER, "operator": "In", "values": [_HOPELESS]}},
        # A node that is drained is no failure.
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
    ]
    spec = {"backoffLimit": _TRIES, "podFailurePolicy": {"rules": rules}, "template": template}
    return make("batch/v1", "Job", name, namespace, common, spec=spec)


def _daemon_set(name: str, namespace: str, common: Mapping[str, str], template: dict[str, Any]) -> Object:
    """Return what fills the directory of each node, of nodes that come later too."""
    spec = template["spec"]
    download = spec["containers"][0]
    spec["initContainers"] = [*spec.get("initContainers", []), download]
    # Of the image that is there already; a DaemonSet has no pods that end.
    idle = {key: download[key] for key in ("image", "imagePullPolicy", "securityContext")}
    spec["containers"] = [{"name": "idle", **idle, "command": ["sleep", "infinity"]}]
    spec["terminationGracePeriodSeconds"] = 1
    content = {
        "selector": {"matchLabels": {**_own_labels(name), STACK_LABEL: common[STACK_LABEL]}},
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "100%"}},
        "template": template,
    }
    return make("apps/v1", "DaemonSet", name, namespace, common, spec=content)


def _own_labels(name: str) -> dict[str, str]:
    # No label that the model's pool selects.
    return {"app.kubernetes.io/name": name}


def _placement(pods: Mapping) -> dict[str, Any]:
    """Return where pods may run, as far as nodes are concerned; how they get along with each other is the engines'."""
    affinity = pods["affinity"].get("nodeAffinity")
    return {
        "nodeSelector": pods["node_selector"],
        "tolerations": pods["tolerations"],
        "affinity": {"nodeAffinity": affinity} if affinity else {},
    }


def _template(
    name: str, config_map: str, common: Mapping[str, str], pods: Mapping, token: Mapping, script: str
) -> dict[str, Any]:
    fill = pods["prefetch"]
    env = {key: value for key, value in pods["env"].items() if key != "HF_HUB_OFFLINE"}
    if fill["offline"]:
        env["HF_HUB_OFFLINE"] = "1"
    if token:
        env.setdefault("HF_TOKEN", {"secretKeyRef": dict(token)})
    node = {"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}
    container = {
        "name": _CONTAINER,
        "image": pods["image"],
        "imagePullPolicy": pods["image_pull_policy"],
        "command": fill["command"],
        "args": fill["arguments"],
        "env": [node, *env_entries(env)],
        "securityContext": {**weights.security_context(pods), "seccompProfile": {"type": "RuntimeDefault"}},
        "volumeMounts": [
            {"name": "cache", "mountPath": pods["cache_path"]},
            {"name": "script", "mountPath": _FOLDER, "readOnly": True},
        ],
    }
    spec = {
        "enableServiceLinks": False,
        "automountServiceAccountToken": False,
        "priorityClassName": pods.get("priority_class"),
        **_placement(pods),
        "imagePullSecrets": [{"name": secret} for secret in pods["image_pull_secrets"]],
        "securityContext": weights.pod_security_context(pods),
        "initContainers": weights.owning_containers(pods),
        "containers": [container],
        "volumes": [
            {"name": "cache", **weights.cache_volume(pods["cache"])},
            {"name": "script", "configMap": {"name": config_map}},
        ],
    }
    annotations = {PROGRESS: _CONTAINER, "multi-engine.llm-d.ai/script": digest(script)}
    return {
        "metadata": {"labels": {**common, **_own_labels(name)}, "annotations": annotations},
        "spec": without_empty(spec),
    }
