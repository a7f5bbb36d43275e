"""Our objects around an endpoint picker next to those of upstream's own chart, difference by difference.

Needs the inferencepool chart and helm, which ``python tests/cluster up`` leaves in the cache of downloads, and runs
after it (``make e2e``, or ``pytest -m cluster``). Where they are not there the test is skipped, but not in CI.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.gaie import compose
from ansible_collections.llm_d.multi_engine.tests.unit.shipped import GAIE_OPTIONS, catalogue, resolved

#: As tests/cluster finds it.
CACHE = Path(
    os.environ.get("LLM_D_CACHE") or f"{os.environ.get('XDG_CACHE_HOME') or '~/.cache'}/llm-d-multi-engine"
).expanduser()
VERSION = catalogue()["releases"]["gaie-1.5"]["gaie"]["version"]
NAME, NAMESPACE = "qwen", "llm-d"
EPP = f"{NAME}-epp"

#: Ours differ on purpose. A path is ``kind.key.key``; lists of named items go by name, flags by flag.
REASONS = {
    "ours": "what a stack's objects have in common, so that `uninstall` finds them",
    "labels": "upstream's labels of the chart; ours are the common ones",
    "surge": "a picker that is ready before the old one goes leaves no gap when a configuration changes",
    "restart": "a changed configuration restarts the picker, which reads it once",
    "release": "an upgrade is told by the release that is there",
    "pods": "the pod's engine-type label chooses the metrics, so that engines can share a picker",
    "pull": "a fixed tag does not change; air-gapped nodes cannot pull",
    "size": "sized for what most clusters serve, `gaie_picker_resources` changes it",
    "start": "its health says ready before it listens, and gateways would be refused",
    "hardened": "the picker needs no root, no privileges and no writing",
    "links": "variables of all services of a namespace are of no use to it",
    "metrics": "authentication would need a ClusterRole that reviews tokens",
    "grpc": "Envoy speaks gRPC to it: without the protocol it would try HTTP/1.1",
    "default": "what the API server fills in, written out",
    "engine": "pods of this stack, model and engine only; upstream's selector is the user's",
    "pool": "each request is one stream to the picker; Istio sets no limit of its own, ours is far above any load and "
    "keeps a runaway client from taking the gateway's sockets",
    "drain": "requests in flight end with their picker: it stays as long as the pool's pods drain, and a little longer "
    "than gateways need to learn of the next one",
    "version": "the same kind's stable version",
    "timeout": "an answer may take as long as it streams; the engine ends it",
    "name": "the volume's and the file's own name",
    "namespace": "upstream leaves it to helm, or to the API server",
}

#: Path to the reason why it is there on one side only, or different.
DIFFERENCES = {
    "ServiceAccount.metadata.labels": "labels",
    "Role.metadata.labels": "labels",
    "RoleBinding.metadata.labels": "ours",
    "ConfigMap.metadata.labels": "ours",
    "ConfigMap.data.plugins.metrics-data-source": "default",
    "ConfigMap.data.plugins.core-metrics-extractor": "pods",
    "Service.metadata.labels": "labels",
    "Service.spec.type": "default",
    "Service.spec.selector": "labels",
    "Service.spec.ports.grpc-ext-proc.appProtocol": "grpc",
    "Deployment.metadata.annotations": "release",
    "Deployment.metadata.labels": "labels",
    "Deployment.spec.strategy": "surge",
    "Deployment.spec.selector": "labels",
    "Deployment.spec.template.metadata.labels": "labels",
    "Deployment.spec.template.metadata.annotations": "restart",
    "Deployment.spec.template.spec.enableServiceLinks": "links",
    "Deployment.spec.template.spec.securityContext": "hardened",
    "Deployment.spec.template.spec.volumes": "name",
    "Deployment.spec.template.spec.terminationGracePeriodSeconds": "drain",
    "Deployment.spec.template.spec.containers.epp.startupProbe": "start",
    "Deployment.spec.template.spec.containers.epp.lifecycle": "drain",
    "Deployment.spec.template.spec.containers.epp.securityContext": "hardened",
    "Deployment.spec.template.spec.containers.epp.imagePullPolicy": "pull",
    "Deployment.spec.template.spec.containers.epp.resources": "size",
    "Deployment.spec.template.spec.containers.epp.volumeMounts": "name",
    "Deployment.spec.template.spec.containers.epp.ports.grpc.protocol": "default",
    "Deployment.spec.template.spec.containers.epp.ports.grpc-health.protocol": "default",
    "Deployment.spec.template.spec.containers.epp.ports.metrics.protocol": "default",
    "Deployment.spec.template.spec.containers.epp.args.--config-file": "name",
    "Deployment.spec.template.spec.containers.epp.args.--metrics-endpoint-auth": "metrics",
    "Deployment.spec.template.spec.containers.epp.args.--total-queued-requests-metric": "pods",
    "Deployment.spec.template.spec.containers.epp.args.--total-running-requests-metric": "pods",
    "Deployment.spec.template.spec.containers.epp.args.--kv-cache-usage-percentage-metric": "pods",
    "Deployment.spec.template.spec.containers.epp.args.--cache-info-metric": "pods",
    "InferencePool.metadata.labels": "labels",
    "InferencePool.spec.selector": "engine",
    "InferencePool.spec.endpointPickerRef.group": "default",
    "InferencePool.spec.endpointPickerRef.kind": "default",
    "DestinationRule.apiVersion": "version",
    "DestinationRule.metadata.labels": "ours",
    "DestinationRule.metadata.namespace": "namespace",
    "DestinationRule.spec.trafficPolicy.connectionPool": "pool",
    "HTTPRoute.metadata.labels": "ours",
    "HTTPRoute.spec.parentRefs.llm-d-inference-gateway.namespace": "namespace",
    "HTTPRoute.spec.rules.0.backendRefs.qwen.port": "default",
    "HTTPRoute.spec.rules.0.backendRefs.qwen.weight": "default",
    "HTTPRoute.spec.rules.0.timeouts": "timeout",
}
#: Flags that upstream's chart does not set for vLLM, which the picker assumes.
METRICS = {path for path in DIFFERENCES if path.endswith("-metric")}


def needed() -> tuple[Path, Path]:
    """Return helm and the chart; skip without them, fail in CI."""
    helm = sorted(CACHE.glob("bin/helm-*/helm"))
    chart = sorted(CACHE.glob(f"artifacts-*/charts/inferencepool-{VERSION}.tgz"))
    if helm and chart:
        return helm[-1], chart[-1]
    missing = f"no helm and inferencepool-{VERSION}.tgz in {CACHE}: run python tests/cluster up --api-only"
    if os.environ.get("CI"):
        pytest.fail(missing)
    return pytest.skip(missing)


def upstream(engine: str, folder: Path) -> dict[str, dict[str, Any]]:
    """Return by kind what upstream's chart renders for the values that correspond to ours."""
    helm, chart = needed()
    picker = catalogue()["releases"]["gaie-1.5"]["endpoint_picker"]
    values = {
        "inferenceExtension": {"image": {"tag": picker["image"].rpartition(":")[2]}},
        "inferencePool": {"modelServerType": engine, "modelServers": {"matchLabels": {"app": NAME}}},
        "provider": {"name": "istio"},
        "experimentalHttpRoute": {"enabled": True, "inferenceGatewayName": "llm-d-inference-gateway"},
    }
    file = folder / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    command = [helm, "template", NAME, chart, "--namespace", NAMESPACE, "--values", file]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return by_kind([item for item in yaml.safe_load_all(done.stdout) if item])


def ours(engine: str) -> dict[str, dict[str, Any]]:
    stack = resolved({"name": NAME}, engine=engine, release="gaie-1.5")
    return by_kind(compose(stack["stack"], NAMESPACE, stack["models"][0], stack["release"], GAIE_OPTIONS))


def by_kind(objects: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the only object of each kind; of roles, which upstream has two of, one with the rules of all."""
    result: dict[str, dict[str, Any]] = {}
    for item in objects:
        kind = item["kind"]
        if kind in result:
            assert kind in ("Role", "RoleBinding")
        if kind in ("Role", "RoleBinding"):
            # Upstream names them after what they are for.
            item["metadata"]["name"] = EPP
            item.get("roleRef", {}).update(name=EPP)
            item["rules"] = result.get(kind, {}).get("rules", []) + item.get("rules", [])
        result[kind] = item
    return result


def flat(value: Any, path: str) -> dict[str, Any]:
    """Return every leaf of ``value`` by its path."""
    if isinstance(value, dict):
        return {key: leaf for name, item in value.items() for key, leaf in flat(item, f"{path}.{name}").items()}
    if isinstance(value, list) and path.endswith(".args"):
        return flat(flags(value), path)
    if isinstance(value, list):
        named = {
            str(item.get("name", item.get("type", index))): item
            for index, item in enumerate(value)
            if isinstance(item, dict)
        }
        return flat(named, path) if len(named) == len(value) else {path: value}
    return {path: value}


def flags(arguments: list[str]) -> dict[str, str]:
    """Return ``--flag=value`` and ``--flag value`` alike by flag."""
    result: dict[str, str] = {}
    name = ""
    for argument in arguments:
        if argument.startswith("--"):
            name, _separator, value = argument.partition("=")
            result[name] = value.strip('"')
        else:
            result[name] = argument
    return result


def leaves(item: dict[str, Any]) -> dict[str, Any]:
    """Return the leaves of an object, of a picker's configuration those of the YAML in it."""
    item = {**item}
    if item["kind"] == "ConfigMap":
        (text,) = item["data"].values()
        item["data"] = yaml.safe_load(text)
    if item["kind"] == "Role":
        item["rules"] = sorted(
            (sorted(rule["apiGroups"]), sorted(rule["resources"]), sorted(rule["verbs"])) for rule in item["rules"]
        )
    return flat(item, item["kind"])


@pytest.mark.cluster
@pytest.mark.parametrize("engine", ["sglang", "vllm"])
def test_differences_are_those_that_are_listed(engine: str, tmp_path: Path) -> None:
    theirs, mine = upstream(engine, tmp_path), ours(engine)
    assert mine.keys() == theirs.keys()
    unlisted, used = [], set()
    for kind in mine:
        one, other = leaves(mine[kind]), leaves(theirs[kind])
        for path in sorted(one.keys() | other.keys()):
            if one.get(path, ...) == other.get(path, ...):
                continue
            listed = [prefix for prefix in DIFFERENCES if f"{path}.".startswith(f"{prefix}.")]
            used.update(listed)
            if not listed:
                unlisted.append(f"{path}: ours {one.get(path)!r}, upstream's {other.get(path)!r}")
    assert unlisted == []
    expected = DIFFERENCES.keys() - (METRICS if engine == "vllm" else set())
    assert sorted(expected - used) == []


def test_every_difference_has_a_reason() -> None:
    assert set(DIFFERENCES.values()) == REASONS.keys()
