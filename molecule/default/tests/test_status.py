"""How the stack is, where nothing ever becomes ready: what is said of it, and that looking changes nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("converged", "unchanged")
READER = "reader"


def seen(run) -> dict:
    """What the run says of the stack."""
    (status,) = [result["status"] for _name, result in run.results if "status" in result]
    return status


def test_what_is_not_ready(ansible, api, tmp_path) -> None:
    file = tmp_path / "status.json"
    before = api.versions()
    run = ansible("status", status_json=str(file))
    assert api.versions() == before
    assert run.rc == 2
    assert run.message == "Stack molecule: not ready: gateway, first, second."
    assert run.changed == 0

    status = seen(run)
    # Written before the play fails.
    assert json.loads(file.read_text()) == status
    assert (status["schema"], status["ok"], status["failing"]) == (1, False, ["unready"])
    assert (status["stack"], status["namespace"], status["release"]) == ("molecule", "molecule", "gaie-1.5")
    assert (status["drift"], status["unknown"], status["others"]) == ([], [], [])
    first, second = status["models"]
    assert (first["name"], first["wanted"]["engine"], first["wanted"]["version"]) == ("first", "sglang", "0.5.23")
    assert (second["name"], second["wanted"]["engine"], second["wanted"]["version"]) == ("second", "vllm", "0.32.0")
    assert second["endpoints"] == {"ready": 0, "wanted": 2}
    reasons = {hop["hop"]: hop["reason"] for hop in second["hops"] if not hop["ready"]}
    assert "0 of 2 pods are ready" in reasons["server"] or "not observed yet" in reasons["server"]
    assert reasons["endpoints"]
    assert reasons["gateway"]


def test_the_terminal_shows_a_table(ansible) -> None:
    run = ansible("status", plain=True, stack_status_fail_on=[]).ok()
    lines = run.output.splitlines()
    title = next(
        index for index, line in enumerate(lines) if line.startswith("Stack molecule in namespace molecule of ")
    )
    table = [line.split() for line in lines[title + 2 : title + 5]]
    assert table[0] == ["MODEL", "WANTED", "RUNNING", "ENDPOINTS", "GPUS", "READY"]
    assert table[1][:6] == ["first", "sglang", "0.5.23", "nothing", "0/1", "-"]
    assert table[2][:6] == ["second", "vllm", "0.32.0", "nothing", "0/2", "-"]
    assert "Not as wanted: unready." in lines


def test_check_mode_looks_and_writes_no_file(ansible, tmp_path) -> None:
    file = tmp_path / "status.json"
    run = ansible("status", options="--check", status_json=str(file))
    assert seen(run)["failing"] == ["unready"]
    assert not file.exists()


@pytest.fixture
def edited(ansible, api) -> Iterator[None]:
    """A workload that somebody changed by hand."""
    patch = {"spec": {"replicas": 5, "template": {"spec": {"containers": [{"name": "model-server", "image": "x:1"}]}}}}
    api.kubectl("patch", "deployment", "-n", "molecule", "second-vllm", "-p", json.dumps(patch))
    yield
    ansible("models").ok(changed=1)


@pytest.fixture(scope="module")
def reader(api, tmp_path_factory) -> Iterator[Path]:
    """A kubeconfig that may only read."""
    name = ["clusterrole", READER]
    api.kubectl("create", "serviceaccount", READER, "-n", "default")
    api.kubectl("create", *name, "--verb=get,list", "--resource=*.*")
    api.kubectl("create", "clusterrolebinding", READER, f"--clusterrole={READER}", f"--serviceaccount=default:{READER}")
    config = json.loads(api.kubectl("config", "view", "--raw", "-o", "json"))
    config["users"][0]["user"] = {"token": api.kubectl("create", "token", READER, "-n", "default").strip()}
    path = tmp_path_factory.mktemp("reader") / "kubeconfig"
    path.write_text(json.dumps(config))
    yield path
    api.delete(*name)
    api.delete("clusterrolebinding", READER)
    api.delete("serviceaccount", READER, "-n", "default")


def test_who_may_only_read_sees_that_nothing_drifted(ansible, reader) -> None:
    status = seen(ansible("status", llm_d_kubeconfig=str(reader)))
    assert (status["failing"], status["drift"], status["unknown"]) == (["unready"], [], [])


@pytest.mark.usefixtures("edited")
def test_an_edit_by_hand(ansible, api, reader) -> None:
    before = api.versions()
    run = ansible("status", stack_status_fail_on=["drift"])
    assert run.message == "Stack molecule: not as the inventory wants it: Deployment molecule/second-vllm."
    assert seen(run)["drift"] == [
        {
            "object": "Deployment molecule/second-vllm",
            "role": "model_service",
            "state": "drifted",
            "fields": ["spec.replicas", "spec.template.spec.containers[model-server].image"],
        }
    ]
    # Only the permission to change it lets the API server say what would change.
    status = seen(ansible("status", llm_d_kubeconfig=str(reader), stack_status_fail_on=[]).ok())
    assert status["drift"] == []
    (unknown,) = status["unknown"]
    assert unknown["role"] == "model_service"
    assert 'deployments.apps "second-vllm" is forbidden' in unknown["reason"]
    assert "cannot patch resource" in unknown["reason"]
    assert api.versions() == before


def test_another_inventory(ansible) -> None:
    """One model fewer, and another engine for the other one."""
    only = [{"name": "first", "source": "hf://Qwen/Qwen3-0.6B", "engine": "vllm", "context_length": 2048}]
    run = ansible("status", llm_d_models=only, stack_status_fail_on=["drift"])
    assert run.message.startswith("Stack molecule: not as the inventory wants it: ")
    status = seen(run)
    drift = {entry["object"]: entry for entry in status["drift"]}
    assert drift["Deployment molecule/first-vllm"]["state"] == "missing"
    pool = drift["InferencePool molecule/first"]
    assert pool["state"] == "drifted"
    assert "spec.selector.matchLabels[llm-d.ai/engine-type]" in pool["fields"]
    others = [(item["object"], item["model"]) for item in status["others"]]
    assert sorted(others) == [
        ("Deployment molecule/first-sglang", "first"),
        ("Deployment molecule/second-vllm", "second"),
    ]


def test_a_stack_that_is_not_installed(ansible) -> None:
    run = ansible("status", llm_d_namespace="nowhere")
    assert run.rc == 2
    assert "Stack nowhere: not ready: gateway, first, second; not as the inventory wants it: " in run.message
    status = seen(run)
    assert {entry["state"] for entry in status["drift"]} == {"missing"}
    missing = {entry["object"] for entry in status["drift"]}
    assert {"Namespace nowhere", "Gateway nowhere/llm-d-inference-gateway", "Deployment nowhere/second-vllm"} <= missing
    reasons = {hop["reason"] for model in status["models"] for hop in model["hops"]}
    assert reasons == {"does not exist"}


def test_no_cluster_answers(ansible, tmp_path) -> None:
    file = tmp_path / "status.json"
    message = ansible("status", llm_d_kubeconfig="/nonexistent/kubeconfig", status_json=str(file)).message
    assert "No Kubernetes API answers" in message
    assert not file.exists()
