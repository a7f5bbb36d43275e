"""What gives GPUs to pods: charts and their values, marks of nodes, and what is refused beforehand."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from ansible_collections.llm_d.multi_engine.plugins.filter.gpu_host_settings import FilterModule as HostSettings
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils import gpu_cluster
from ansible_collections.llm_d.multi_engine.tests.unit import shipped

FOLDER = shipped.ROOT / "roles/gpu_cluster"
KNOWN = yaml.safe_load((FOLDER / "vars/charts.yml").read_text())["__gpu_cluster_knowledge"]
DEFAULTS = yaml.safe_load((FOLDER / "defaults/main.yml").read_text())
#: The defaults; what others decide is nothing.
SETTINGS: dict[str, Any] = {
    name: DEFAULTS.get(f"gpu_cluster_{name}")
    for name in yaml.safe_load((FOLDER / "vars/main.yml").read_text())["__gpu_cluster_settings"]
} | {"nodes": [], "image_registry": "", "image_pull_secrets": [], "runtime_class": "nvidia", "overrides": []}
MARK = "llm-d-multi-engine-gpu"
MIRROR = "registry.example.com/mirror"
read_host = HostSettings().filters()["gpu_host_settings"]


def host(**variables: Any) -> dict[str, Any]:
    return read_host({f"gpu_node_{name}": value for name, value in variables.items()})


def node(name: str, runtime: str = "containerd://2.1.5", **allocatable: str) -> dict[str, Any]:
    return {"name": name, "labels": {}, "schedulable": True, "allocatable": allocatable, "runtime": runtime}


def cluster(*nodes: dict[str, Any], **facts: Any) -> dict[str, Any]:
    """Return a cluster with two GPU nodes and nothing on them."""
    base = {"version": "v1.35.4", "nodes": list(nodes) or [node("gpu-1"), node("gpu-2")]}
    return {**base, "definitions": {}, "helm_revisions": {}, "marks": {}, **facts}


def plan(
    devices: str = "device_plugin",
    hosts: dict[str, Any] | None = None,
    seen: dict[str, Any] | None = None,
    models: tuple[dict[str, Any], ...] = (),
    **settings: Any,
) -> dict[str, Any]:
    hosts = {"gpu-1": host(), "gpu-2": host()} if hosts is None else hosts
    settings = {**SETTINGS, "devices": devices, "nodes": list(hosts), **settings}
    return gpu_cluster.cluster_plan(settings, hosts, shipped.resolved(*(models or ({},))), KNOWN, seen)


def values(devices: str = "device_plugin", *args: Any, **settings: Any) -> dict[str, Any]:
    found = plan(devices, *args, **settings)
    assert found["findings"] == []
    return found["chart"]["settings"]


def test_the_device_plugin() -> None:
    found = plan(seen=cluster())
    assert found["findings"] == []
    assert found["chart"] == {
        "name": "nvidia-device-plugin",
        "ref": "nvidia-device-plugin",
        "repository": "https://nvidia.github.io/k8s-device-plugin",
        "version": "0.19.0",
        "settings": {
            "image": {"repository": "nvcr.io/nvidia/k8s-device-plugin"},
            "deviceListStrategy": "cdi-cri",
            "migStrategy": "none",
            "nvidiaDriverRoot": "/",
            "runtimeClassName": "nvidia",
        },
    }
    assert (found["namespace"], found["installed"]) == ("nvidia-device-plugin", False)
    assert found["nodes"]["gpu-1"] == {"labels": {"nvidia.com/gpu.present": "true"}, "taints": []}


def test_where_nvidias_runtime_is_the_default() -> None:
    found = values(device_list_strategy="envvar", runtime_class="")
    assert found.keys() == {"image", "deviceListStrategy", "migStrategy"}


@pytest.mark.parametrize(
    ("settings", "image", "source"),
    [
        ({}, "nvcr.io/nvidia/k8s-device-plugin:v0.19.0", "v0.19.0"),
        ({"image_registry": MIRROR}, f"{MIRROR}/nvidia/k8s-device-plugin:v0.19.0", "v0.19.0"),
        ({"version": "0.18.2"}, "nvcr.io/nvidia/k8s-device-plugin:v0.18.2", "v0.18.2"),
        ({"image": "me/plugin:mine", "image_registry": MIRROR}, "me/plugin:mine", "v0.19.0"),
        ({"image": "me/plugin"}, "me/plugin:v0.19.0", "v0.19.0"),
    ],
)
def test_the_image_of_the_device_plugin(settings: dict[str, Any], image: str, source: str) -> None:
    source = f"nvcr.io/nvidia/k8s-device-plugin:{source}"
    assert plan(**settings)["images"] == [{"image": image, "source": source}]


def test_own_values_lie_on_top_and_a_chart_may_be_a_file() -> None:
    found = plan(values={"failOnInitError": False, "image": {"pullPolicy": "Never"}}, chart="/srv/plugin.tgz")
    assert found["chart"]["settings"]["image"] == {
        "repository": "nvcr.io/nvidia/k8s-device-plugin",
        "pullPolicy": "Never",
    }
    assert found["chart"]["settings"]["failOnInitError"] is False
    assert (found["chart"]["ref"], found["chart"]["repository"]) == ("/srv/plugin.tgz", "")


@pytest.mark.parametrize(
    ("hosts", "driver", "toolkit"),
    [
        ({}, False, False),
        ({"gpu-1": host()}, False, False),
        ({"gpu-1": host(driver="managed", driver_branch="595")}, False, False),
        ({"gpu-1": host(toolkit=False)}, False, True),
        ({"gpu-1": host(driver="operator")}, True, True),
        ({"gpu-1": host(driver="operator", toolkit="yes")}, True, False),
    ],
)
def test_the_operator_brings_what_the_hosts_do_not_have(hosts: dict[str, Any], driver: bool, toolkit: bool) -> None:
    found = values("operator", hosts)
    assert (found["driver"]["enabled"], found["toolkit"]["enabled"]) == (driver, toolkit)
    # Its chart's own way is right for hosts that are whole.
    assert "mig" not in found


def test_the_operator_leaves_mig_and_dcgm_to_hosts_that_have_them() -> None:
    found = values("operator", {"gpu-1": host(mig="all-1g.18gb", dcgm=True)})
    assert found["migManager"] == {"enabled": False}
    assert found["mig"] == {"strategy": "single"}
    assert found["dcgmExporter"]["env"] == [{"name": "DCGM_REMOTE_HOSTENGINE_INFO", "value": "localhost:5555"}]


@pytest.mark.parametrize(
    ("mig", "strategy"),
    [
        ([""], "none"),
        (["all-disabled"], "none"),
        (["all-1g.18gb", ""], "single"),
        (["all-1g.18gb", "all-3g.71gb"], "single"),
        (["all-balanced", "all-1g.18gb"], "mixed"),
    ],
)
def test_how_instances_of_mig_are_offered(mig: list[str], strategy: str) -> None:
    hosts = {f"gpu-{number}": host(mig=config) for number, config in enumerate(mig)}
    assert values(hosts=hosts)["migStrategy"] == strategy
    assert values(hosts=hosts, mig_strategy="mixed")["migStrategy"] == "mixed"


def test_the_operators_images_come_from_the_mirror() -> None:
    found = plan("operator", image_registry=MIRROR, image_pull_secrets=["registry"])
    wanted = found["chart"]["settings"]
    assert wanted["operator"] == {"repository": f"{MIRROR}/nvidia", "imagePullSecrets": ["registry"]}
    assert wanted["driver"]["manager"] == {"repository": f"{MIRROR}/nvidia/cloud-native"}
    assert wanted["node-feature-discovery"] == {
        "image": {"repository": f"{MIRROR}/nfd/node-feature-discovery"},
        "imagePullSecrets": [{"name": "registry"}],
    }
    assert found["images"] == [
        {"image": f"{MIRROR}/{name}", "source": f"{registry}/{name}"}
        for registry, name in (
            ("registry.k8s.io", "nfd/node-feature-discovery:v0.19.0"),
            ("nvcr.io", "nvidia/cloud-native/k8s-mig-manager:v0.15.0"),
            ("nvcr.io", "nvidia/gpu-operator:v26.7.0"),
            ("nvcr.io", "nvidia/k8s-device-plugin:v0.20.0"),
            ("nvcr.io", "nvidia/k8s/dcgm-exporter:4.6.0-4.8.3-distroless"),
        )
    ]
    assert plan("operator", version="v26.3.3")["images"] == []


@pytest.mark.parametrize(
    ("variables", "version"),
    [
        ({}, None),
        ({"driver_branch": 595}, None),
        ({"driver_version": "595.91.07"}, "595.91.07"),
    ],
)
def test_the_driver_that_the_operator_brings(variables: dict[str, Any], version: str | None) -> None:
    found = values("operator", {"gpu-1": host(driver="operator", **variables)})
    assert found["driver"].get("version") == version


def test_labels_of_hosts_and_taints() -> None:
    found = plan(
        hosts={"gpu-1": host(labels={"pool": "a", "rack": 7}), "gpu-2": host()},
        labels={"tier": "gpu"},
        taints=[{"key": "nvidia.com/gpu", "effect": "NoSchedule"}],
        host_labels=True,
    )
    ours = {"nvidia.com/gpu.present": "true", "tier": "gpu"}
    assert found["nodes"]["gpu-1"]["labels"] == {**ours, "pool": "a", "rack": "7"}
    assert found["nodes"]["gpu-2"]["labels"] == ours
    assert found["nodes"]["gpu-1"]["taints"] == [{"key": "nvidia.com/gpu", "effect": "NoSchedule"}]


def test_without_a_group_of_hosts_the_labels_of_nodes_tell() -> None:
    labelled = {**node("here"), "labels": {"feature.node.kubernetes.io/pci-10de.present": "true"}}
    assert list(plan(hosts={}, seen=cluster(labelled, node("other")))["nodes"]) == ["here"]


def refused(*args: Any, **settings: Any) -> str:
    (text,) = plan(*args, **settings)["findings"]
    return text


AMD = {"name": "amd", "source": "hf://a/b", "accelerator": "amd-mi30x", "engine": "sglang", "gpus": 1}
OURS = {"stack": "llm-d", "note": {}}


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"taints": [{"key": "a", "effect": "Never"}]}, "gpu_cluster_taints[0]: {'key': 'a', 'effect': 'Never'} is no taint."),
        ({"devices": "none", "labels": {"a": "b"}}, "gpu_cluster_devices: 'none' leaves the cluster alone, and there are labels"),
        ({"models": (AMD,)}, "gpu_cluster_devices: 'device_plugin' installs NVIDIA's, the models ask for amd.com/gpu. AMD's"),
        (
            {"hosts": {"gpu-1": host(driver="operator")}},
            "gpu_cluster_devices: 'device_plugin', but gpu-1 leave the driver to the GPU operator",
        ),
        (
            {"devices": "operator", "hosts": {"gpu-1": host(driver="operator", toolkit=True), "gpu-2": host()}},
            "gpu_cluster_devices: GPU hosts differ in who brings the driver: gpu-1 (the operator) and gpu-2 (the host).",
        ),
        (
            {"devices": "operator", "hosts": {"gpu-1": host(driver="operator", driver_branch="580")}},
            "gpu_node_driver_version: the operator's chart brings driver 595.91.07, GPU hosts want 580.",
        ),
        ({"hosts": {}, "seen": cluster()}, "gpu_cluster_nodes: no node is known to have GPUs"),
        ({"nodes": ["gpu-1", "gpu-9"], "seen": cluster()}, "gpu_cluster_nodes: gpu-9 are no nodes of the cluster, which has gpu-1"),
        (
            {"seen": cluster(helm_revisions={"kube-system/nvidia-device-plugin": 3})},
            "gpu_cluster_devices: 'device_plugin', but there is a Helm release that this collection did not install: kube-system/",
        ),
        (
            {"seen": cluster(definitions={"clusterpolicies.nvidia.com": {}})},
            "gpu_cluster_devices: 'device_plugin', but the cluster has a GPU operator",
        ),
        (
            {"seen": cluster(node("gpu-1", **{"nvidia.com/gpu": "8"}), node("gpu-2", **{"nvidia.com/gpu": "0"}))},
            "gpu_cluster_devices: 'device_plugin', but nodes offer GPUs already, by something that this collection did not install: gpu-1.",
        ),
        (
            {"seen": cluster(marks={f"nvidia-device-plugin/{MARK}": {"stack": "other", "note": {}}})},
            "gpu_cluster_devices: 'device_plugin', but stack other looks after nvidia-device-plugin in this cluster.",
        ),
        (
            {"seen": cluster(marks={f"gpu-operator/{MARK}": OURS})},
            "gpu_cluster_devices: 'device_plugin', but this collection installed gpu-operator for stack llm-d: two would fight.",
        ),
        (
            {"devices": "operator", "seen": cluster(definitions={"nodefeatures.nfd.k8s-sigs.io": {}})},
            "gpu_cluster_nfd: the cluster has Node Feature Discovery already",
        ),
        (
            {"devices": "operator", "seen": cluster(version="v1.32.0")},
            "gpu_cluster_version: gpu-operator v26.7.0 supports Kubernetes >=1.33,<1.37, the cluster is v1.32.0.",
        ),
        (
            {"seen": cluster(node("gpu-1", "containerd://1.6.20"), node("gpu-2", "cri-o://1.35.0"))},
            "gpu_cluster_device_list_strategy: 'cdi-cri' needs CDI, which these nodes do not know: gpu-1 (containerd 1.6.20).",
        ),
    ],
)  # fmt: skip
def test_refused(settings: dict[str, Any], why: str) -> None:
    assert refused(**settings).startswith(why)


@pytest.mark.parametrize(
    ("rule", "settings"),
    [
        ("cdi", {"seen": cluster(node("gpu-1", "containerd://1.6.20"), node("gpu-2"))}),
        ("gpu-cluster-kubernetes", {"devices": "operator", "seen": cluster(version="v1.40.0")}),
    ],
)
def test_waved_through(rule: str, settings: dict[str, Any]) -> None:
    assert f"add '{rule}' to llm_d_overrides" in refused(**settings)
    assert plan(**settings, overrides=[rule])["findings"] == []


def test_what_is_ours_or_to_be_taken_over_is_not_refused() -> None:
    offering = [node(name, **{"nvidia.com/gpu": "8"}) for name in ("gpu-1", "gpu-2")]
    ours = cluster(*offering, helm_revisions={f"nvidia-device-plugin/{MARK}": 1})
    ours["marks"] = {f"nvidia-device-plugin/{MARK}": OURS}
    assert plan(seen=ours)["findings"] == []
    assert plan(seen=ours)["installed"]
    assert plan(seen=cluster(*offering), adopt=True)["findings"] == []


def test_existing_is_left_alone_but_for_labels() -> None:
    found = plan("existing", seen=cluster(node("gpu-1", **{"nvidia.com/gpu": "8"}), node("gpu-2")), labels={"a": "b"})
    assert (found["findings"], found["chart"], found["images"]) == ([], None, [])
    assert found["nodes"]["gpu-1"]["labels"] == {"a": "b"}
    assert plan("none", seen=cluster())["nodes"] == {}


def test_what_credentials_may_not_see_forbids_nothing() -> None:
    blind = {**cluster(), "nodes": None, "definitions": None, "helm_revisions": None}
    assert plan(seen=blind)["findings"] == []


def pod(name: str, stack: str = "", phase: str = "Running", **limits: str) -> dict[str, Any]:
    labels = {"multi-engine.llm-d.ai/stack": stack} if stack else {}
    spec = {"containers": [{"resources": {"limits": limits} if limits else {}}]}
    return {"metadata": {"namespace": "n", "name": name, "labels": labels}, "spec": spec, "status": {"phase": phase}}


def test_others_who_use_gpus() -> None:
    gpu = {"nvidia.com/gpu": "1"}
    pods = [
        pod("theirs", **gpu),
        pod("slice", **{"nvidia.com/mig-1g.18gb": "1"}),
        pod("ours", "llm-d", **gpu),
        pod("neighbour", "other", **gpu),
        pod("done", phase="Succeeded", **gpu),
        pod("none"),
    ]
    patterns = KNOWN["vendors"]["nvidia"]["resources"]
    found = gpu_cluster.users(pods, patterns, "multi-engine.llm-d.ai/stack", "llm-d")
    assert found == ["n/neighbour", "n/slice", "n/theirs"]
