"""Changes and accidents while requests come in: those who ask do not notice."""

from __future__ import annotations

import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from ansible_collections.llm_d.multi_engine.molecule.site.tests.tools import Traffic, eventually, restart_api_server

#: Metric of each engine with the requests that a pod is answering.
RUNNING = {"swift": "sglang:num_running_reqs", "robin": "vllm:num_requests_running"}
#: Seconds that the engines' profiles let a pod serve on after it was told to go.
PRE_STOP = 15
#: Another argument for the pickers than the inventory has.
PICKER = {"gaie_picker_args": ["--refresh-metrics-interval=250ms"]}


@pytest.fixture
def traffic(stand_ins, kube):
    """Make a stream of requests to both models, once all of them is there."""
    eventually(lambda: all_ready(kube))
    return lambda: Traffic(stand_ins.client, stand_ins.swift, stand_ins.robin)


def all_ready(kube) -> bool:
    deployments = json.loads(kube("get", "deployments", "-n", "stand-ins", "-o", "json"))["items"]
    return all(item["status"].get("readyReplicas") == item["spec"]["replicas"] for item in deployments)


def busy_pod(kube, model: str) -> str:
    """Return the pod of ``model`` that is answering most."""

    def running(pod: dict) -> float:
        lines = kube.through(pod, "/metrics").splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"{RUNNING[model]}{{"))

    pods = kube.pods("stand-ins", model=model)
    pod = max(pods, key=running)
    assert running(pod) > 0
    return pod["metadata"]["name"]


def test_a_pod_finishes_its_streams_before_it_goes(stand_ins, traffic, kube) -> None:
    targets = (stand_ins.swift, stand_ins.robin) * 2
    with traffic() as requests, ThreadPoolExecutor(len(targets)) as pool:
        # Still running when the pods get SIGTERM.
        streams = [
            pool.submit(stand_ins.client.complete, **target, max_tokens=700, stream=True, prompt=f"{number} birds")
            for number, target in enumerate(targets)
        ]
        time.sleep(1)
        doomed = [busy_pod(kube, model) for model in ("swift", "robin")]
        began = time.monotonic()
        kube("delete", "pod", "-n", "stand-ins", *doomed)
        gone = time.monotonic() - began
        answers = [stream.result() for stream in streams]
    assert gone > PRE_STOP
    assert all(answer.arrivals[-1] > PRE_STOP + 2 for answer in answers)
    assert [len(answer.events) for answer in answers if answer.events[-1] == "[DONE]"] == [701] * 2 + [701] * 2
    requests.unharmed()


def test_a_killed_engine_costs_its_own_requests_only(traffic, kube) -> None:
    pod = kube.pods("stand-ins", model="swift")[0]
    name, status = pod["metadata"]["name"], pod["status"]["containerStatuses"][0]
    container = status["containerID"].rpartition("/")[2]
    (process,) = [
        int(path.parent.name) for path in Path("/proc").glob("[0-9]*/cgroup") if container in path.read_text()
    ]
    with traffic() as requests:
        time.sleep(1)
        os.kill(process, signal.SIGKILL)
        killed = requests.seconds()

        def restarted() -> bool:
            now = kube.get("stand-ins", "pod", name)["status"]["containerStatuses"][0]
            return now["restartCount"] > status["restartCount"] and now["ready"]

        eventually(restarted)
    # Only what it was answering at that moment; one request at a time is sent to its model.
    assert len(requests.failures) <= 1, requests.failures
    assert all(failure.model == "birds/swift" and failure.began < killed for failure in requests.failures)
    assert requests.answered > 10


def test_a_changed_picker_takes_over(traffic, ansible, kube) -> None:
    before = kube.get("stand-ins", "deployment", "swift-epp")["metadata"]["generation"]
    with traffic() as requests:
        run = ansible("stand-ins", "models", options="--tags gaie", **PICKER)
        assert run.ok(changed=True).changed == [
            "llm_d.multi_engine.gaie : Apply | Endpoint pickers, pools and routes",
            # A picker is part of what one can go back to.
            "llm_d.multi_engine.rollout : Remember | What serves, to be able to go back to it",
        ]
    assert kube.get("stand-ins", "deployment", "swift-epp")["metadata"]["generation"] > before
    requests.unharmed()


def test_requests_do_not_need_the_api_server(traffic, ansible, host) -> None:
    with traffic() as requests:
        restart_api_server(host)
    requests.unharmed()
    ansible("stand-ins", "site", **PICKER).ok(changed=False)
