"""Models take their network cards from the GPU hosts, whichever playbook asks; here hosts are made-up trees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.llm_d.multi_engine.tests.unit import hosts

MODEL = {
    "name": "big",
    "source": "pvc://weights/big",
    "accelerator": "nvidia",
    "engine": "sglang",
    "gpus": 8,
    "nodes": 2,
    "rdma": {"resource": "rdma/ib"},
}
PORTS = ",".join(f"mlx5_{index}:1" for index in range(8))
LOOK = "Host | Look at its network cards"


@pytest.fixture(scope="module")
def inventory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two GPU hosts that are alike, and one whose last card has another name."""
    folder = tmp_path_factory.mktemp("hosts")
    for name in ("gpu-1", "gpu-2", "odd"):
        hosts.b200(folder / name)
    (last,) = folder.glob("odd/sys/devices/**/infiniband/mlx5_7")
    last.rename(last.with_name("mlx5_9"))
    members: dict[str, Any] = {name: {"gpu_node_root": str(folder / name)} for name in ("gpu-1", "gpu-2", "odd")}
    members["odd"]["gpu_node_labels"] = {"pool": "odd"}
    settings = {"ansible_connection": "local", "ansible_python_interpreter": "{{ ansible_playbook_python }}"}
    file = folder / "hosts.yml"
    file.write_text(yaml.safe_dump({"gpu_nodes": {"hosts": members, "vars": settings}}))
    return file


def looked(run: Any) -> int:
    return len([name for name, _result in run.results if name.endswith(LOOK)])


def test_what_an_earlier_play_saw_is_handed_over(ansible, inventory: Path, tmp_path: Path) -> None:
    given = {"llm_d_models": [{**MODEL, "node_selector": {"pool": "first"}}], "render_dir": str(tmp_path)}
    overrides = ["disk-space", "no-model-fits"]
    run = ansible("gpu_nodes", "render", options=f"-i {inventory}", llm_d_overrides=overrides, **given).ok()
    assert looked(run) == 0
    assert any(name.endswith("Look at GPU hosts") for name, _result in run.results)
    assert (tmp_path / "model_service/big.yaml").read_text().count(f"value: ={PORTS}") == 2


def test_hosts_are_looked_at_and_refused_where_they_differ(ansible, inventory: Path, tmp_path: Path) -> None:
    run = ansible("render", options=f"-i {inventory}", render_dir=str(tmp_path), llm_d_models=[MODEL])
    assert run.rc != 0
    assert looked(run) == 3
    told = (
        "llm_d_models[0] (big).rdma.devices: hosts that may run it differ in network cards, and all pods get the same. "
        "gpu-1, gpu-2: mlx5_[0:7] (InfiniBand); odd lacks mlx5_7 (InfiniBand) and has mlx5_9 (InfiniBand)."
    )
    assert told in run.message


def test_a_host_out_of_reach(ansible, tmp_path: Path) -> None:
    """It is asked itself, and not the machine that plays run on."""
    file = tmp_path / "far.yml"
    file.write_text(yaml.safe_dump({"gpu_nodes": {"hosts": {"far": {"ansible_host": "127.0.0.1", "ansible_port": 9}}}}))
    run = ansible("render", options=f"-i {file}", render_dir=str(tmp_path), llm_d_models=[MODEL])
    assert "the network cards of far are not known, for this run could not look." in run.message
