"""Which variables of kubespray come of an inventory, and what does not go together."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils import kubespray
from ansible_collections.llm_d.multi_engine.tests.unit import shipped

VARS = yaml.safe_load((shipped.ROOT / "roles/kubernetes/vars/main.yml").read_text())
KNOWLEDGE, NAMES = VARS["__kubernetes_knowledge"], VARS["__kubernetes_names"]
GROUPS = {
    "kube_control_plane": ["control-1"],
    "etcd": ["control-1"],
    "kube_node": ["gpu-1", "gpu-2", "cpu-1"],
    "gpu_nodes": ["gpu-1", "gpu-2"],
}
SETTINGS = {
    "version": "",
    "release": "llm-d-0.10",
    "supported": ">=1.31,<1.36",
    "registry": "",
    "environment": {},
    "labels": {},
    "gpu_runtime": True,
    "default_runtime": "runc",
    "systemd_cgroup": True,
    "memlock": "infinity",
}
INSTALLED = {"version": "2.32.0", "requires_ansible": ">=2.18.0,<2.19.0", "kubernetes": ["1.36.4", "1.35.8", "1.34.9"]}
RUNTIME = {
    "name": "nvidia",
    "type": "io.containerd.runc.v2",
    "engine": "",
    "root": "",
    "base_runtime_spec": "cri-base.json",
    # Text: kubespray's template would write "True" in quotes for a boolean.
    "options": {"BinaryName": "/usr/bin/nvidia-container-runtime", "SystemdCgroup": "true"},
}
KATA = {"name": "kata", "type": "io.containerd.kata.v2", "options": {"Root": ""}}


def mapped(
    host: str = "gpu-1",
    given: dict[str, Any] | None = None,
    installed: dict[str, Any] | None = INSTALLED,
    groups: dict[str, list[str]] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    return kubespray.handed_over(host, groups or GROUPS, {**SETTINGS, **settings}, given or {}, installed, KNOWLEDGE)


def variables(*args: Any, **changed: Any) -> dict[str, Any]:
    result = mapped(*args, **changed)
    assert result["findings"] == []
    assert result["variables"].keys() <= set(NAMES)
    return result["variables"]


def test_a_gpu_host() -> None:
    assert variables() == {
        "kube_version": "1.35.8",
        "containerd_use_systemd_cgroup": True,
        "containerd_limit_mem_lock": "infinity",
        "containerd_additional_runtimes": [RUNTIME],
        "enable_cdi": True,
    }


@pytest.mark.parametrize("host", ["control-1", "cpu-1"])
def test_other_hosts_get_nothing_of_gpus(host: str) -> None:
    assert variables(host) == {"kube_version": "1.35.8", "containerd_use_systemd_cgroup": True}


def test_everything_that_can_be_set() -> None:
    proxies = {
        "HTTPS_PROXY": "http://proxy:3128",
        "http_proxy": "http://proxy:3129",
        "no_proxy": ".example.com",
        "X": "y",
    }
    found = variables(
        environment=proxies,
        registry="registry.example.com/mirror",
        labels={"pool": "a", "slots": 8},
        default_runtime="nvidia",
        systemd_cgroup=False,
        memlock="64G",
    )
    assert found.keys() == set(NAMES)
    assert {name: found[name] for name in NAMES if name.endswith("proxy")} == {
        "http_proxy": "http://proxy:3129",
        "https_proxy": "http://proxy:3128",
        # no_proxy would take the place of the nodes' addresses, which kubespray finds itself.
        "additional_no_proxy": ".example.com",
    }
    assert {name: found[name] for name in NAMES if name.endswith("_repo")} == dict.fromkeys(
        ("kube_image_repo", "gcr_image_repo", "docker_image_repo", "quay_image_repo", "github_image_repo"),
        "registry.example.com/mirror",
    )
    assert found["node_labels"] == {"pool": "a", "slots": "8"}
    assert found["containerd_additional_runtimes"][0]["options"]["SystemdCgroup"] == "false"
    assert (found["containerd_default_runtime"], found["containerd_limit_mem_lock"]) == ("nvidia", "64G")


def test_the_gpu_operator_brings_the_runtime() -> None:
    assert variables(gpu_runtime=False, memlock="") == {"kube_version": "1.35.8", "containerd_use_systemd_cgroup": True}


@pytest.mark.parametrize(
    ("given", "runtimes"),
    [
        ([KATA], [KATA, RUNTIME]),
        ([], [RUNTIME]),
        # Somebody knows better.
        ([{**RUNTIME, "type": "own"}, KATA], None),
    ],
)
def test_runtimes_of_the_inventory_stay(given: list[dict[str, Any]], runtimes: list[dict[str, Any]] | None) -> None:
    found = variables(given={"containerd_additional_runtimes": given})
    assert found.get("containerd_additional_runtimes") == runtimes


def test_what_the_inventory_says_counts() -> None:
    given = {"kube_version": "1.34.2", "enable_cdi": False, "node_labels": {}, "containerd_limit_mem_lock": "8G"}
    found = variables(given=given, labels={"pool": "a"}, version="1.35.8", installed=None)
    assert found == {"containerd_use_systemd_cgroup": True, "containerd_additional_runtimes": [RUNTIME]}


@pytest.mark.parametrize(
    ("version", "given", "installed", "expected"),
    [
        ("", {}, INSTALLED, "1.35.8"),
        ("1.34.9", {}, INSTALLED, "1.34.9"),
        ("v1.34.9", {}, INSTALLED, "1.34.9"),
        # Nobody knows what kubespray elsewhere can install.
        ("1.33.1", {}, None, "1.33.1"),
        ("1.33.1", {}, {**INSTALLED, "kubernetes": []}, "1.33.1"),
    ],
)
def test_versions(version: str, given: dict[str, str], installed: dict[str, Any] | None, expected: str) -> None:
    assert variables(version=version, given=given, installed=installed)["kube_version"] == expected


@pytest.mark.parametrize(
    ("version", "given", "installed", "finding"),
    [
        (
            "",
            {},
            None,
            (
                "kubernetes_version: it is empty, and kubespray is not here to tell which versions it knows. Release "
                "llm-d-0.10 supports >=1.31,<1.36."
            ),
        ),
        (
            "1.36.4",
            {},
            INSTALLED,
            (
                "kubernetes_version: release llm-d-0.10 does not support Kubernetes 1.36.4. Release llm-d-0.10 supports "
                ">=1.31,<1.36. Of these kubespray 2.32.0 knows 1.35.8, 1.34.9."
            ),
        ),
        ("", {"kube_version": "1.36.4"}, None, "kube_version: release llm-d-0.10 does not support Kubernetes 1.36.4."),
        ("1.35.7", {}, INSTALLED, "kubernetes_version: kubespray 2.32.0 does not know Kubernetes 1.35.7."),
        ("latest", {}, INSTALLED, "kubernetes_version: 'latest' is not a version."),
        (
            "",
            {},
            {**INSTALLED, "kubernetes": ["1.37.0", "1.36.4"]},
            "kubernetes_version: kubespray 2.32.0 knows no version that the release supports.",
        ),
    ],
)
def test_versions_that_are_refused(
    version: str, given: dict[str, str], installed: dict[str, Any] | None, finding: str
) -> None:
    (found,) = mapped(version=version, given=given, installed=installed)["findings"]
    assert found.startswith(finding)


@pytest.mark.parametrize(
    ("changed", "finding"),
    [
        ({"kube_control_plane": []}, "kube_control_plane: no host is in this group of the inventory."),
        ({"kube_node": ["gpu-2"]}, "gpu_nodes: gpu-1: it is not in kube_node. Make gpu_nodes a child of kube_node"),
    ],
)
def test_groups(changed: dict[str, list[str]], finding: str) -> None:
    (found,) = mapped(groups={**GROUPS, **changed})["findings"]
    assert found.startswith(finding)


@pytest.mark.parametrize(
    ("installed", "ansible", "why"),
    [
        (INSTALLED, "2.18.6", None),
        ({**INSTALLED, "requires_ansible": ""}, "2.21.5", None),
        (
            INSTALLED,
            "2.21.5",
            "kubernetes_sigs.kubespray 2.32.0 needs ansible-core >=2.18.0,<2.19.0, this is 2.21.5.",
        ),
        (None, "2.18.6", "The collection kubernetes_sigs.kubespray is not installed here."),
    ],
)
def test_whether_it_can_be_started(installed: dict[str, Any] | None, ansible: str, why: str | None) -> None:
    assert kubespray.why_not(installed, ansible) == why


def test_what_an_installed_collection_tells() -> None:
    sums = {"kubelet_checksums": {"amd64": {"1.35.10": "a", "1.35.9": "b", "odd": "c"}, "arm64": {"1.36.0": "d"}}}
    files = {
        "manifest": '{"collection_info": {"version": "2.31.0"}}',
        "galaxy": None,
        "runtime": 'requires_ansible: ">=2.18.0,<2.19.0"',
        "checksums": yaml.safe_dump(sums),
    }
    assert kubespray.described(files) == {
        "version": "2.31.0",
        "requires_ansible": ">=2.18.0,<2.19.0",
        "kubernetes": ["1.36.0", "1.35.10", "1.35.9"],
    }
    # A checkout has the other file.
    assert kubespray.described({"galaxy": "version: 2.32.0"})["version"] == "2.32.0"
    assert kubespray.described({"manifest": "{", "checksums": "[]"}) == {
        "version": "",
        "requires_ansible": "",
        "kubernetes": [],
    }


def test_an_inventory_of_variables() -> None:
    hosts = {
        "control-1": {"kube_version": "1.35.8"},
        "gpu-1": {"kube_version": "1.35.8", "enable_cdi": True, "node_labels": {"pool": "a"}},
        "gpu-2": {"kube_version": "1.35.8", "enable_cdi": True, "node_labels": {"pool": "b"}},
    }
    assert kubespray.inventory(hosts, ["gpu-1", "gpu-2", "elsewhere"]) == {
        "all": {
            "hosts": {"gpu-1": {"node_labels": {"pool": "a"}}, "gpu-2": {"node_labels": {"pool": "b"}}},
            "children": {
                "k8s_cluster": {"vars": {"kube_version": "1.35.8"}},
                "gpu_nodes": {"vars": {"enable_cdi": True}},
            },
        }
    }
    assert yaml.safe_load(kubespray.dumped(hosts, ["gpu-1", "gpu-2"])) == kubespray.inventory(hosts, ["gpu-1", "gpu-2"])


def test_values_that_differ_stay_with_their_hosts() -> None:
    hosts = {"a": {"kube_version": "1.35.8"}, "b": {"kube_version": "1.34.9"}}
    assert kubespray.inventory(hosts, []) == {"all": {"hosts": hosts}}
    assert kubespray.inventory({}, []) == {"all": {}}


def test_the_example_inventory_serves_both() -> None:
    children = yaml.safe_load((shipped.ROOT / "inventories/bare_metal/hosts.yml").read_text())["all"]["children"]
    assert children.keys() == {"kube_control_plane", "etcd", "kube_node", "gpu_nodes", "k8s_cluster"}
    assert children["kube_node"]["children"].keys() == {"gpu_nodes"}
    assert children["k8s_cluster"]["children"].keys() == {"kube_control_plane", "kube_node"}
