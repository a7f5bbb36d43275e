"""The hand-over to kubespray: what its plays receive, with a collection of its name that only tells it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
VARS = yaml.safe_load((ROOT / "roles/kubernetes/vars/main.yml").read_text())
NAMES = VARS["__kubernetes_names"]
KATA = {"name": "kata", "type": "io.containerd.kata.v2", "options": {"Root": ""}}
NVIDIA = {
    **VARS["__kubernetes_knowledge"]["runtime"],
    "options": {"BinaryName": "/usr/bin/nvidia-container-runtime", "SystemdCgroup": "true"},
}
#: As kubespray's: plays for its groups, the roles that they name found in the collection, and nothing connected to.
CLUSTER = """
- name: Settle the groups
  hosts: all
  gather_facts: false
  roles:
    - kubespray_defaults

- name: Tell what was received
  hosts: k8s_cluster:etcd
  gather_facts: false
  tasks:
    - name: Received
      ansible.builtin.debug:
        msg:
          host: "{{ inventory_hostname }}"
          variables: "{{ dict(names | zip(query('ansible.builtin.vars', *names))) }}"
      vars:
        names: "{{ query('ansible.builtin.varnames', '^(NAMES)$') }}"
"""
SUMS = {"kubelet_checksums": {"amd64": {"1.36.4": "sha256:0", "1.35.8": "sha256:1", "1.35.7": "sha256:2"}}}


def collection(folder: Path, requires: str = ">=2.16") -> Path:
    """Put a collection of kubespray's name and layout there."""
    place = folder / "ansible_collections/kubernetes_sigs/kubespray"
    defaults = place / "roles/kubespray_defaults"
    files = {
        place / "galaxy.yml": "namespace: kubernetes_sigs\nname: kubespray\nversion: 2.32.0\n",
        place / "meta/runtime.yml": f"requires_ansible: '{requires}'\n",
        place / "playbooks/cluster.yml": CLUSTER.replace("NAMES", "|".join(NAMES)),
        place
        / "playbooks/scale.yml": "- {hosts: all, gather_facts: false, tasks: [{name: Scaled, ansible.builtin.debug: }]}\n",
        defaults / "vars/main/checksums.yml": yaml.safe_dump(SUMS, sort_keys=False),
        defaults / "tasks/main.yml": "- {name: Own role, ansible.builtin.debug: }\n",
    }
    for file, content in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return folder


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    """Hosts that nobody can log in to."""
    own = {"containerd_additional_runtimes": [KATA], "gpu_node_labels": {"pool": "a"}}
    groups = {
        "kube_control_plane": {"hosts": {"control-1": {}}},
        "etcd": {"hosts": {"control-1": {}}},
        "kube_node": {"children": {"gpu_nodes": {}}, "hosts": {"cpu-1": {}}},
        "gpu_nodes": {"hosts": {"gpu-1": {}, "gpu-2": own}},
        "k8s_cluster": {
            "children": {"kube_control_plane": {}, "kube_node": {}},
            "vars": {"ansible_host": "192.0.2.1", "gpu_node_environment": {"https_proxy": "http://proxy:3128"}},
        },
    }
    file = tmp_path / "inventory.yml"
    file.write_text(yaml.safe_dump({"all": {"children": groups}}))
    return file


def environment(*folders: Path) -> dict[str, str]:
    return {"ANSIBLE_COLLECTIONS_PATH": ":".join(map(str, (ROOT / ".collections", *folders)))}


def received(run: Any) -> dict[str, dict[str, Any]]:
    told = [result["msg"] for name, result in run.results if name == "Received"]
    return {item["host"]: item["variables"] for item in told}


EVERYWHERE = {
    "kube_version": "1.35.8",
    "https_proxy": "http://proxy:3128",
    "containerd_use_systemd_cgroup": True,
}
GPU = {**EVERYWHERE, "containerd_limit_mem_lock": "infinity", "enable_cdi": True}
EXPECTED = {
    "control-1": EVERYWHERE,
    "cpu-1": EVERYWHERE,
    "gpu-1": {**GPU, "containerd_additional_runtimes": [NVIDIA]},
    "gpu-2": {**GPU, "containerd_additional_runtimes": [KATA, NVIDIA], "node_labels": {"pool": "a"}},
}


def test_kubespray_receives_what_the_stack_needs(ansible, inventory: Path, tmp_path: Path) -> None:
    run = ansible("kubernetes", options=f"-i {inventory}", environment=environment(collection(tmp_path / "c"))).ok(
        changed=0
    )
    assert received(run) == EXPECTED
    assert [name for name, _result in run.results].count("kubernetes_sigs.kubespray.kubespray_defaults : Own role") == 5


def test_the_file_gives_the_same_to_kubespray_elsewhere(ansible, inventory: Path, tmp_path: Path) -> None:
    """Beside the inventory, for kubespray in an environment of its own and for its other playbooks."""
    file = tmp_path / "kubespray.yml"
    options = f"-i {inventory}"
    given = {"kubernetes_inventory_file": str(file), "kubernetes_version": "1.35.8"}
    run = ansible("kubernetes", options=options, **given).ok(changed=1)
    assert "The collection kubernetes_sigs.kubespray is not installed here." in run.said()
    assert f"ansible-playbook -i INVENTORY -i {file} --become kubernetes_sigs.kubespray.cluster" in run.said()
    # Not among playbooks of this collection: as somebody starts kubespray alone.
    place = collection(tmp_path / "c") / "ansible_collections/kubernetes_sigs/kubespray/playbooks/cluster.yml"
    alone = ansible(options=f"{options} -i {file} {place}", environment=environment(tmp_path / "c")).ok(changed=0)
    assert received(alone) == EXPECTED


def test_what_is_wrong_is_told_once_and_kubespray_not_started(ansible, inventory: Path, tmp_path: Path) -> None:
    place = environment(collection(tmp_path / "c"))
    run = ansible("kubernetes", options=f"-i {inventory}", environment=place, kube_version="1.36.4")
    assert run.rc != 0
    assert run.message.count("- kube_version: release gaie-1.5 does not support Kubernetes 1.36.4.") == 1
    assert "Of these kubespray 2.32.0 knows 1.35.8, 1.35.7." in run.message
    assert received(run) == {}


def test_which_playbook_is_started(ansible, inventory: Path, tmp_path: Path) -> None:
    """It is known when the playbook is read."""

    def read(**changed: Any) -> str:
        options = f"-i {inventory} --list-tasks"
        place = environment(collection(tmp_path / "c", changed.pop("requires", ">=2.16")))
        return ansible("kubernetes", options=options, environment=place, plain=True, **changed).output

    assert "Scaled" in read(kubernetes_playbook="scale")
    told = "kubernetes_playbook: 'reset' is not allowed. Allowed: cluster, scale, upgrade_cluster."
    assert told in read(kubernetes_playbook="reset")
    # For an Ansible that kubespray does not take, as where there is none.
    other = read(requires=">=2.1,<2.2")
    assert "Say that there is no cluster" in other
    assert "Received" not in other
