"""Hosts of group gpu_nodes are looked at before anything in the cluster changes; here they are made-up trees."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from ansible_collections.llm_d.multi_engine.tests.unit import hosts

GPU = {"name": "first", "source": "hf://Qwen/Qwen3-0.6B", "accelerator": "nvidia", "engine": "sglang"}
SETTINGS = {"llm_d_models": [{**GPU, "gpus": 2}], "llm_d_overrides": ["disk-space"]}


@pytest.fixture(scope="module")
def inventory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three GPU hosts: one that can serve, one with an old driver, one without GPUs and with swap."""
    folder = tmp_path_factory.mktemp("hosts")
    hosts.b200(folder / "good")
    hosts.a100(folder / "old")
    hosts.Host(folder / "bare").write("/proc/swaps", "Filename Type Size Used Priority\n/swap.img file 99 0 -2\n")
    members = {name: {"gpu_node_root": str(folder / name)} for name in ("good", "old", "bare")}
    settings = {"ansible_connection": "local", "ansible_python_interpreter": "{{ ansible_playbook_python }}"}
    file = folder / "hosts.yml"
    file.write_text(yaml.safe_dump({"gpu_nodes": {"hosts": members, "vars": settings}}))
    return file


@pytest.fixture(scope="module")
def refused(ansible, inventory: Path):
    return ansible("site", options=f"-i {inventory}", **SETTINGS)


def test_every_host_is_refused_at_once(refused) -> None:
    assert refused.rc != 0
    lines = refused.message.splitlines()
    assert lines.count("This host cannot serve the models; nothing was changed:") == 2
    assert [
        line for line in lines if line.startswith("- old (the loaded driver): driver is 535.183.06, needed is >=580")
    ]
    assert [line for line in lines if line.startswith("- bare (GPUs): no GPU is on the PCI bus.")]
    assert [line for line in lines if line.startswith("- bare (memory): swap is on: /swap.img.")]
    assert not [line for line in lines if line.startswith("- good")]


def test_nothing_of_the_cluster_was_looked_at(refused) -> None:
    names = [name for name, _result in refused.results]
    assert any("Gate | Refuse what cannot serve" in name for name in names)
    assert not [name for name in names if "istio_gateway" in name]


def test_hosts_that_can_serve_pass_also_in_check_mode(ansible, inventory: Path) -> None:
    for mode in ("", "--check --diff"):
        ansible("gpu_nodes", options=f"-i {inventory} --limit localhost,good {mode}", **SETTINGS).ok(changed=0)


def test_the_report_refuses_nothing(ansible, inventory: Path, tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    run = ansible("gpu_report", options=f"-i {inventory}", plain=True, gpu_node_report_file=str(file), **SETTINGS).ok()
    assert "2 of 3 hosts cannot serve as they are: bare, old." in run.output, run.output[-3000:]
    reports = {report["host"]: report for report in json.loads(file.read_text())}
    assert reports["good"]["findings"] == []
    assert reports["good"]["offers"]["gpus"] == "8 x NVIDIA B200"
    assert len(reports["bare"]["findings"]) == 2


def test_hosts_are_left_alone_on_request(ansible, inventory: Path) -> None:
    run = ansible("gpu_nodes", options=f"-i {inventory}", gpu_node_gate=False, **SETTINGS).ok(changed=0)
    assert not [name for name, result in run.results if "Look at the host" in name and not result.get("skipped")]


def test_no_hosts(ansible) -> None:
    ansible("gpu_nodes", "gpu_report").ok(changed=0)


def test_a_root_that_is_none(ansible, inventory: Path) -> None:
    run = ansible("gpu_nodes", options=f"-i {inventory}", gpu_node_root="/nonexistent", **SETTINGS)
    assert "root: /nonexistent is not a folder. Name the root of a host, usually /." in run.message
