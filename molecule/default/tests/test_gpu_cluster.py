"""NVIDIA's device plugin by its own chart, and the marks of nodes; here nobody runs it, so nodes are told what they offer."""

from __future__ import annotations

import json

import pytest

STATE = "/var/lib/llm-d-embedded-api"
NODES = ("gpu-1", "gpu-2")
NAMESPACE = "nvidia-device-plugin"
TAINT = {"key": "nvidia.com/gpu", "effect": "NoSchedule"}
PLUGIN = {
    "gpu_cluster_devices": "device_plugin",
    "gpu_cluster_nodes": list(NODES),
    "gpu_cluster_chart": f"{STATE}/charts/nvidia-device-plugin-0.19.0.tgz",
    "gpu_cluster_taints": [TAINT],
    "gpu_cluster_labels": {"pool": "a"},
}
GPU = {"name": "third", "source": "hf://Qwen/Qwen3-4B", "accelerator": "nvidia", "gpus": 8}
OURS = {
    f"ConfigMap {NAMESPACE}/llm-d-multi-engine-gpu",
    f"DaemonSet {NAMESPACE}/nvidia-device-plugin",
    f"DaemonSet {NAMESPACE}/nvidia-device-plugin-mps-control-daemon",
    "RuntimeClass /nvidia",
}


def offer(api, **counts: str) -> None:
    """Have both nodes offer devices, as a kubelet does once the plugin has told it."""
    body = json.dumps({"status": dict.fromkeys(("capacity", "allocatable"), counts)})
    for name in NODES:
        api.kubectl("patch", "node", name, "--subresource=status", "--type=merge", "-p", body)


def marks(api, name: str) -> tuple[dict, list[str]]:
    """Return labels and keys of taints of a node, without those of controllers."""
    live = api.get("node", name, "")
    keys = [taint["key"] for taint in live["spec"].get("taints", [])]
    return live["metadata"].get("labels", {}), [key for key in keys if not key.startswith("node.kubernetes.io/")]


@pytest.fixture(scope="module", autouse=True)
def nodes(api):
    """Two nodes; one has a label and a taint of somebody else."""
    for name in NODES:
        theirs = {"labels": {"zone": "z"}} if name == "gpu-2" else {}
        taints = {"taints": [{"key": "theirs", "effect": "NoSchedule"}]} if name == "gpu-2" else {}
        api.kubectl("create", "-f", "-", stdin={
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": name, **theirs}, "spec": taints,
        })  # fmt: skip
    yield
    api.delete("node", *NODES)
    api.delete("namespace", NAMESPACE)


@pytest.fixture
def installed(ansible, api):
    """The plugin, on nodes that offer GPUs."""
    offer(api, **{"nvidia.com/gpu": "8"})
    ansible("gpu_cluster", **PLUGIN, gpu_cluster_adopt=True).ok()
    yield
    ansible("uninstall", options="--tags gpu_cluster", **PLUGIN).ok()


def test_nothing_is_done_unless_it_is_asked_for(ansible) -> None:
    run = ansible("gpu_cluster").ok(changed=0)
    assert not [name for name, result in run.results if "Look at the cluster" in name and not result.get("skipped")]


def test_check_mode_shows_it_all_and_what_follows_counts_on_it(ansible, api) -> None:
    earlier = api.objects()
    wanted = {**PLUGIN, "llm_d_models": [GPU], "llm_d_namespace": "gpus"}
    run = ansible("gpu_cluster", "gateway", "models", options="--check --diff", **wanted).ok(changed=True)
    assert {name.replace(" /", " ") for name in OURS} <= run.diffs.keys()
    assert "+nvidia.com/gpu.present: 'true'" in "\n".join(run.diffs["Node gpu-1"]).replace('"', "'")
    assert "Deployment gpus/third-sglang" in run.diffs
    assert api.changed_since(earlier) == set()


def test_it_comes_is_left_alone_changes_and_goes(ansible, api) -> None:
    earlier = api.objects()
    # Helm 3 for a change: test_helm.py has both.
    wanted = {**PLUGIN, "gpu_cluster_helm": f"{STATE}/bin/helm3"}
    offer(api, **{"nvidia.com/gpu": "0"})
    late = ansible("gpu_cluster", **wanted, gpu_cluster_wait_timeout=1)
    assert "2 node(s) offer no nvidia.com/gpu or nvidia.com/mig-* (after " in late.message
    assert "- gpu-1: " in late.message

    offer(api, **{"nvidia.com/gpu": "8"})
    # What an earlier run did not see to its end is nothing to be done again.
    ansible("gpu_cluster", **wanted).ok(changed=0)
    ansible("gpu_cluster", options="--check --diff", **wanted).ok(changed=0)
    assert api.objects().keys() >= OURS
    assert marks(api, "gpu-1") == ({"nvidia.com/gpu.present": "true", "pool": "a"}, ["nvidia.com/gpu"])
    assert marks(api, "gpu-2")[1] == ["theirs", "nvidia.com/gpu"]
    spec = api.get("daemonset", "nvidia-device-plugin", NAMESPACE)["spec"]["template"]["spec"]
    assert spec["runtimeClassName"] == "nvidia"
    assert {"name": "DEVICE_LIST_STRATEGY", "value": "cdi-cri"} in spec["containers"][0]["env"]

    other = {**wanted, "gpu_cluster_mig_strategy": "single", "gpu_cluster_taints": []}
    shown = ansible("gpu_cluster", options="--check --diff", **other).ok(changed=True).diffs
    assert "+value: single" in shown[f"DaemonSet {NAMESPACE}/nvidia-device-plugin"]
    ansible("gpu_cluster", **other).ok(changed=True)
    assert marks(api, "gpu-2")[1] == ["theirs"]

    run = ansible("uninstall", options="--tags gpu_cluster", **other).ok(changed=True)
    assert {name.partition(" ")[2] for name in api.changed_since(earlier)} <= {f"/{NAMESPACE}", *_of_namespace()}, (
        run.output
    )
    assert marks(api, "gpu-2") == ({"zone": "z"}, ["theirs"])
    ansible("uninstall", options="--tags gpu_cluster", **other).ok(changed=0)


def _of_namespace() -> set[str]:
    return {f"{NAMESPACE}/kube-root-ca.crt", f"{NAMESPACE}/default"}


def test_what_somebody_else_installed_is_refused(ansible, api) -> None:
    offer(api, **{"nvidia.com/gpu": "8"})
    earlier = api.objects()
    message = ansible("gpu_cluster", **PLUGIN).message
    assert "nodes offer GPUs already, by something that this collection did not install: gpu-1, gpu-2." in message
    assert "Set gpu_cluster_devices: existing to leave it alone, or gpu_cluster_adopt: true" in message
    message = ansible("gpu_cluster", **{**PLUGIN, "gpu_cluster_nodes": ["gpu-9"]}, gpu_cluster_adopt=True).message
    assert "gpu_cluster_nodes: gpu-9 are no nodes of the cluster" in message
    message = ansible("gpu_cluster", gpu_cluster_nodes=list(NODES), gpu_cluster_labels={"zone": "other"}).message
    assert "Node gpu-2: label zone is 'z', not 'other', and somebody else put it there." in message
    assert api.changed_since(earlier) == set()


@pytest.mark.usefixtures("installed")
def test_others_who_use_gpus_keep_it(ansible, api) -> None:
    api.create("v1", "Pod", "theirs", namespace="default", spec={
        "containers": [{"name": "a", "image": "a", "resources": {"limits": {"nvidia.com/gpu": "1"}}}],
        # Nobody runs it, and nobody has to see it off.
        "terminationGracePeriodSeconds": 0,
    })  # fmt: skip
    try:
        run = ansible("uninstall", options="--tags gpu_cluster", **PLUGIN).ok(changed=0)
        assert "What gives GPUs to pods stays: these use them: default/theirs." in run.said()
    finally:
        api.delete("pod", "theirs", "-n", "default", "--force")


@pytest.mark.usefixtures("installed")
def test_another_stack_leaves_it_to_the_first(ansible) -> None:
    message = ansible("gpu_cluster", **PLUGIN, llm_d_namespace="other").message
    assert "stack molecule looks after nvidia-device-plugin in this cluster" in message
    ansible("uninstall", options="--tags gpu_cluster", **PLUGIN, llm_d_namespace="other").ok(changed=0)
