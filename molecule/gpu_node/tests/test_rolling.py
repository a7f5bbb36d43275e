"""Hosts are rolled: their reboot starts all anew, and a real API server drains the real nodes that stand for them.

gpu-1 and gpu-2 are the further nodes of the embedded cluster, gpu-3 is in no cluster yet.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from ansible_collections.llm_d.multi_engine.molecule.gpu_node.tests.conftest import ROOT, GpuHost

STATE = Path("/var/lib/llm-d-embedded")
NODES = {"gpu-1": "embedded-1", "gpu-2": "embedded-2"}
MARK = "multi-engine.llm-d.ai/maintenance"
FAILED = f"{MARK}-failed"
REBOOTED = "Reboot | Reboot the host"
UNCORDONED = "Back in service | Uncordon it"
ROLL = {"gpu_node_gate": False, "gpu_node_reboot": "when_needed"}


def kubectl(*arguments: str, stdin: str | None = None) -> str:
    command = [STATE / "bin/kubectl", f"--kubeconfig={STATE / 'kubeconfig'}", *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True, input=stdin)
    assert done.returncode == 0, f"{arguments}\n{done.stderr}"
    return done.stdout


def cluster(*arguments: str) -> None:
    subprocess.run([sys.executable, ROOT / "tests/cluster", "up", "--without-sglang", *arguments], check=True)


@pytest.fixture(scope="module", autouse=True)
def nodes() -> Iterator[None]:
    """Have two hosts be nodes, with GPUs, a model and something else on them."""
    there = (STATE / "nodes").exists()
    cluster("--nodes", "3")
    devices = {"status": {"capacity": {"nvidia.com/gpu": "2"}, "allocatable": {"nvidia.com/gpu": "2"}}}
    for host, node in NODES.items():
        GpuHost(host).run("mkdir -p /var/lib/kubelet/pods")
        # What a run that was interrupted left there.
        kubectl("annotate", "node", node, f"{MARK}-", f"{FAILED}-")
        kubectl("uncordon", node)
        kubectl("patch", "node", node, "--subresource=status", "--type=merge", "-p", json.dumps(devices))
    kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects()}))
    settled()
    yield
    kubectl("delete", "namespace", "rolling", "--wait=false")
    for host in NODES:
        GpuHost(host).run("rm -r /var/lib/kubelet/pods")
    if not there:
        cluster("--nodes", "1")


def objects() -> list[dict]:
    """A model without a disruption budget, and something else that has one; two pods each."""
    model = {
        "app.kubernetes.io/managed-by": "llm_d.multi_engine",
        "app.kubernetes.io/component": "model-server",
        "llm-d.ai/model": "qwen",
        "llm-d.ai/role": "prefill-decode",
    }
    meta = {"name": "other", "namespace": "rolling"}
    budget = {"minAvailable": 1, "selector": {"matchLabels": {"app": "other"}}}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "rolling"}},
        deployment("model", model, {"limits": {"nvidia.com/gpu": "1"}}),
        deployment("other", {}, {}),
        {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": meta, "spec": budget},
    ]


def deployment(name: str, labels: dict[str, str], resources: dict) -> dict:
    """Return two pods that do nothing, on the further nodes, and not both on one if that can be."""
    place = {"key": "kubernetes.io/hostname", "operator": "In", "values": list(NODES.values())}
    apart = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": name}}}
    pod = {
        "terminationGracePeriodSeconds": 1,
        "tolerations": [{"key": "multi-engine.llm-d.ai/further-node", "operator": "Exists"}],
        "affinity": {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [place]}]}
            },
            "podAntiAffinity": {
                "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": apart}]
            },
        },
        "containers": [
            {
                "name": "server",
                "image": "registry.k8s.io/pause:3.10",
                "resources": resources,
                "volumeMounts": [{"name": "memory", "mountPath": "/dev/shm"}],
            }
        ],
        "volumes": [{"name": "memory", "emptyDir": {"medium": "Memory"}}],
    }
    template = {"metadata": {"labels": {"app": name, **labels}}, "spec": pod}
    spec = {"replicas": 2, "selector": {"matchLabels": {"app": name}}, "template": template}
    meta = {"name": name, "namespace": "rolling"}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": spec}


def settled() -> None:
    for name in ("model", "other"):
        kubectl("-n", "rolling", "rollout", "status", f"deployment/{name}", "--timeout=60s")


def pods() -> dict[str, str]:
    """Return the pods there are, with their nodes."""
    found = json.loads(kubectl("-n", "rolling", "get", "pods", "-o", "json"))["items"]
    return {pod["metadata"]["name"]: pod["spec"].get("nodeName", "") for pod in found}


def node(name: str) -> tuple[bool, dict[str, str]]:
    """Return whether a node is cordoned, and what this role wrote on it."""
    found = json.loads(kubectl("get", "node", name, "-o", "json"))
    notes = {key: value for key, value in found["metadata"]["annotations"].items() if key in (MARK, FAILED)}
    return found["spec"].get("unschedulable", False), notes


def loaded(host: str) -> str:
    return (
        GpuHost(host).run("nvidia-smi -q -x | sed -n 's/.*<driver_version>\\(.*\\)<.driver_version>.*/\\1/p'").strip()
    )


@contextmanager
def watched() -> Iterator[dict[str, int]]:
    """Yield a dict that gets, at the end, the fewest ready pods of each kind that there were at any time."""
    command = [STATE / "bin/kubectl", f"--kubeconfig={STATE / 'kubeconfig'}", "-n", "rolling", "get", "pods"]
    fewest: dict[str, int] = {}
    # Not a pipe: one that nobody reads meanwhile takes a dozen events and no more.
    with (
        tempfile.TemporaryFile("w+") as events,
        subprocess.Popen([*command, "--watch", "--output-watch-events", "-o", "json"], stdout=events) as watch,
    ):
        try:
            yield fewest
        finally:
            watch.terminate()
            watch.wait()
            events.seek(0)
            text = events.read()
    ready: dict[str, set[str]] = {"model": set(), "other": set()}
    decoder, at, seen = json.JSONDecoder(), 0, 0
    while at < len(text.rstrip()):
        try:
            event, end = decoder.raw_decode(text[at:].lstrip())
        except json.JSONDecodeError:
            # It was ended in the midst of its last word.
            break
        at += end + len(text[at:]) - len(text[at:].lstrip())
        pod, seen = event["object"], seen + 1
        conditions = pod["status"].get("conditions", [])
        answers = any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)
        answers = answers and event["type"] != "DELETED" and "deletionTimestamp" not in pod["metadata"]
        names = ready[pod["metadata"]["labels"]["app"]]
        (names.add if answers else names.discard)(pod["metadata"]["name"])
        # The first events tell what is there already, one pod after the other.
        if seen >= 4:
            for app, found in ready.items():
                fewest[app] = min(fewest.get(app, len(found)), len(found))


def test_check_mode_tells_and_drains_nothing(gpu_host) -> None:
    before = pods()
    run = gpu_host.playbook("--check", "--tags", "gpu_node_driver", **ROLL).ok()
    assert run.hosts["gpu-1"] == ["Out of service | Cordon it", "Drain | Evict the pods", REBOOTED]
    assert (node("embedded-1"), pods()) == ((False, {}), before)


def test_three_hosts_are_rolled(gpu_host) -> None:
    before = pods()
    assert sorted(before.values()) == ["embedded-1", "embedded-1", "embedded-2", "embedded-2"]
    with watched() as fewest:
        run = gpu_host.playbook("--tags", "gpu_node_driver", limit="all", **ROLL).ok()
    # One host after the other; the last one first, for it is in no cluster.
    assert list(run.hosts) == ["localhost", "gpu-1", "gpu-2", "gpu-3"]
    for host, changed in list(run.hosts.items())[1:]:
        assert REBOOTED in changed
        versions = GpuHost(host).versions()
        assert loaded(host) == versions["nvidia-driver-cuda"].removesuffix("-1")
    for host, name in NODES.items():
        assert UNCORDONED in run.hosts[host]
        assert node(name) == (False, {})
    # The third gets its first driver, and there is nothing to take it out of.
    assert "Driver | Hold it" in run.hosts["gpu-3"]
    assert not {"Out of service | Cordon it", "Drain | Evict the pods", UNCORDONED} & set(run.hosts["gpu-3"])
    assert GpuHost("gpu-1").run("systemctl is-active nvidia-fabricmanager").strip() == "active"
    # All were moved, and somebody answered all the time.
    assert not set(before) & set(pods())
    assert fewest == {"model": 1, "other": 1}
    settled()


def test_a_driver_is_not_replaced_where_no_reboot_follows(gpu_host) -> None:
    run = gpu_host.playbook("--tags", "gpu_node_driver", gpu_node_gate=False, gpu_node_driver_version="595.91.07")
    assert "gpu-1 runs driver 595.58.03 and is to get 595.91.07" in run.message
    assert "Set gpu_node_reboot: when_needed" in run.message
    assert node("embedded-1") == (False, {})
    assert gpu_host.versions()["nvidia-driver-cuda"] == "595.58.03-1"


def test_a_host_that_fails_stops_the_others_and_stays_cordoned(gpu_host) -> None:
    settled()
    untouched = GpuHost("gpu-2").versions()
    gpu_host.run("mkdir -p /etc/made-up; touch /etc/made-up/refuse-driver")
    run = gpu_host.playbook(
        "--tags", "gpu_node_driver", limit="all", gpu_node_driver_version="595.91.07", gpu_node_ready_timeout=3, **ROLL
    )
    assert run.rc != 0
    assert "driver 595.91.07 is installed and not loaded" in run.message
    assert "Node embedded-1 stays cordoned" in run.message
    cordoned, notes = node("embedded-1")
    assert cordoned
    assert "driver 595.91.07 is installed and not loaded" in notes[FAILED]
    mark = json.loads(notes[MARK])
    assert (mark["gpus"], mark["devices"]) == (2, {"nvidia.com/gpu": "2"})
    assert "driver 595.58.03 is replaced by 595.91.07" in mark["why"]
    assert node("embedded-2") == (False, {})
    assert GpuHost("gpu-2").versions() == untouched


def test_the_next_run_goes_on_from_there(gpu_host) -> None:
    """What somebody else has cordoned stays so."""
    gpu_host.run("rm /etc/made-up/refuse-driver")
    kubectl("cordon", "embedded-2")
    try:
        run = gpu_host.playbook(
            "--tags", "gpu_node_driver", limit="all", gpu_node_driver_version="595.91.07", **ROLL
        ).ok()
        assert UNCORDONED in run.hosts["gpu-1"]
        assert node("embedded-1") == (False, {})
        assert REBOOTED in run.hosts["gpu-2"]
        assert UNCORDONED not in run.hosts["gpu-2"]
        assert node("embedded-2") == (True, {})
        assert {loaded(host) for host in NODES} == {"595.91.07"}
        assert set(pods().values()) == {"embedded-1"}
    finally:
        kubectl("uncordon", "embedded-2")


def test_the_last_replica_of_a_model_is_not_drained(gpu_host) -> None:
    kubectl("-n", "rolling", "scale", "deployment/model", "--replicas=1")
    kubectl("-n", "rolling", "wait", "--for=jsonpath={.status.replicas}=1", "deployment/model", "--timeout=30s")
    run = gpu_host.playbook(
        "--tags", "gpu_node_driver", gpu_node_driver_version="595.58.03", gpu_node_drain_timeout=1, **ROLL
    )
    assert "no ready replica would be left of model qwen (prefill-decode) of namespace rolling" in run.message
    assert "gpu_node_drain_last_replicas: true" in run.message
    assert node("embedded-1") == (False, {})
    assert gpu_host.versions()["nvidia-driver-cuda"] == "595.91.07-1"
