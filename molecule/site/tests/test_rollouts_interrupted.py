"""Rollouts that are interrupted, or whose new engine is not fit, while requests come in: those who ask do not notice.

One model of the stand-ins' stack is changed to and fro; every test begins and ends with it on SGLang.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from ansible_collections.llm_d.multi_engine.molecule.site.tests.tools import (
    BIN,
    ROOT,
    STACKS,
    Kube,
    eventually,
    restart_api_server,
)
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.timeline_page import page
from ansible_collections.llm_d.multi_engine.tests.load.load import Load
from ansible_collections.llm_d.multi_engine.tests.tools import processes

VARIABLES = yaml.safe_load((ROOT / "molecule/site/stand_ins/group_vars/all.yml").read_text())
SWIFT, ROBIN, *OTHERS = VARIABLES["llm_d_models"]
NAMESPACE, IMAGE = "stand-ins", "localhost/llm-d-multi-engine/stand-in-{}:1"
ENGINE = "llm-d.ai/engine-type"
VLLM = {"engine": "vllm", "engine_version": "0.32.0", "image": IMAGE.format("vllm")}
#: Of plain requests and streams, some of which outlive the whole switch: 700 tokens take 21 s.
TARGETS = [
    {"model": "birds/swift"},
    {"model": "birds/swift", "stream": True},
    {"model": "birds/swift", "stream": True, "max_tokens": 700},
]


def models(strategy: str = "surge", env: dict | None = None, **swift: object) -> list[dict]:
    """Return the stack's models, the first one with ``swift`` on top."""
    changed = {**copy.deepcopy(SWIFT), "rollout": {"strategy": strategy, "hold_seconds": 3}, **swift}
    if env:
        changed["env"] = {**VARIABLES["llm_d_model_defaults"]["env"], **env}
    return [changed, ROBIN, *OTHERS]


def engines(kube: Kube) -> dict[str, int]:
    """Return by engine how many pods of the model answer."""
    found: dict[str, int] = {}
    for pod in kube.pods(NAMESPACE, model="swift"):
        if all(status["ready"] for status in pod["status"].get("containerStatuses", [{"ready": False}])):
            found[pod["metadata"]["labels"][ENGINE]] = found.get(pod["metadata"]["labels"][ENGINE], 0) + 1
    return found


def pool(kube: Kube) -> str:
    """Return whom the pool of the model sends requests to: an engine, or both."""
    selector = kube.get(NAMESPACE, "inferencepool", "swift")["spec"]["selector"]["matchLabels"]
    return selector.get(ENGINE, "both")


@pytest.fixture
def load(stand_ins, ansible, kube, request, tmp_path_factory) -> Iterator[Load]:
    """Requests for the time of the test, all answered; afterwards its picture lies beside the logs of pytest."""
    ansible("stand-ins", "models", llm_d_models=models()).ok()
    assert engines(kube) == {"sglang": 2}
    with Load(f"http://{stand_ins.client.address}", TARGETS) as requests:
        yield requests
    # Those that were under way at the end, too.
    requests.unharmed()
    folder = tmp_path_factory.getbasetemp()
    seen = requests.traffic()
    event = {"at": seen[0]["at"], "model": "swift", "step": 1, "serve": "old", "ready": {"old": 2, "new": 0}}
    (folder / f"{request.node.name}.html").write_text(page(request.node.name, [event], seen))


class Play:
    """A run of playbook models that can be killed."""

    def __init__(self, folder: Path, **variables: object) -> None:
        command = [str(BIN / "ansible-playbook"), *STACKS["stand-ins"], "-e", json.dumps(variables)]
        environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
        self._log = folder / "play.log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [*command, "llm_d.multi_engine.models"],
                cwd=ROOT,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def kill_when(self, state: Callable[[], bool], seconds: float = 120) -> None:
        """Kill it, as a controller that loses its power, as soon as ``state()`` is true."""
        deadline = time.monotonic() + seconds
        while not state():
            assert self._process.poll() is None, f"it ended before: {self._log.read_text()[-3000:]}"
            assert time.monotonic() < deadline, self._log.read_text()[-3000:]
            time.sleep(0.2)
        processes.kill(self._process.pid)
        self._process.wait()


def test_a_play_that_is_killed_at_each_boundary_is_gone_on_with(ansible, kube, host, load, tmp_path) -> None:
    wanted = {"llm_d_models": models(**VLLM)}
    boundaries: list[Callable[[], bool]] = [
        lambda: "vllm" in {pod["metadata"]["labels"][ENGINE] for pod in kube.pods(NAMESPACE, model="swift")},
        lambda: pool(kube) == "both",
        lambda: pool(kube) == "vllm",
        lambda: len(kube.pods(NAMESPACE, model="swift")) == 2,
    ]
    for boundary in boundaries:
        Play(tmp_path, **wanted).kill_when(boundary)
    ansible("stand-ins", "models", **wanted).ok(changed=True)
    assert (engines(kube), pool(kube)) == ({"vllm": 2}, "vllm")
    ansible("stand-ins", "models", **wanted).ok(changed=False)
    # And back, replica by replica, without the API server for a while.
    with ThreadPoolExecutor(1) as background:
        back = background.submit(ansible, "stand-ins", "models", llm_d_models=models("in_place"))
        eventually(lambda: pool(kube) == "both", 90)
        restart_api_server(host)
        back.result().ok(changed=True)
    assert (engines(kube), pool(kube)) == ({"sglang": 2}, "sglang")


def test_an_engine_that_fails_its_first_completion_gets_no_request(ansible, kube, load) -> None:
    unfit = models(**VLLM, env={"STAND_IN_FAIL_AFTER": 0})
    message = ansible("stand-ins", "models", llm_d_models=unfit).failed()
    assert "Model swift stays on sglang" in message
    assert "500" in message
    assert (engines(kube), pool(kube)) == ({"sglang": 2}, "sglang")


def test_an_engine_that_crashes_under_load_gets_no_request(ansible, kube, load) -> None:
    # One completion is fine, and a few more.
    rollout = {"strategy": "surge", "hold_seconds": 3, "trial_requests": 8}
    unfit = models(**VLLM, env={"STAND_IN_CRASH_AFTER": 3}, rollout=rollout)
    message = ansible("stand-ins", "models", llm_d_models=unfit).failed()
    assert "Model swift stays on sglang" in message
    assert "ended with exit code 139" in message
    assert (engines(kube), pool(kube)) == ({"sglang": 2}, "sglang")


@pytest.fixture
def further_nodes(host, kube) -> Iterator[tuple[str, str]]:
    """Two more nodes, for those who tolerate them."""

    def up(nodes: int) -> None:
        done = host.run(f"{sys.executable} {ROOT / 'tests/cluster'} up --nodes {nodes}")
        assert done.rc == 0, done.stdout + done.stderr

    up(3)
    kube("uncordon", "embedded-1")
    yield "embedded-1", "embedded-2"
    up(1)


def test_a_node_is_drained_in_the_middle(ansible, kube, load, further_nodes) -> None:
    drained, other = further_nodes
    place = {"key": "kubernetes.io/hostname", "operator": "In", "values": [drained, other]}
    elsewhere = {
        "tolerations": [{"key": "multi-engine.llm-d.ai/further-node", "operator": "Exists"}],
        "affinity": {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [place]}]}
            }
        },
        "topology_spread": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": {"llm-d.ai/model": "swift"}},
            }
        ],
        "disruption_budget": {"max_unavailable": "1"},
        # Of what is evicted, too, requests end: the longest take 21 s.
        "drain_seconds": 30,
    }
    ansible("stand-ins", "models", llm_d_models=models(**elsewhere)).ok(changed=True)
    with ThreadPoolExecutor(1) as background:
        play = background.submit(ansible, "stand-ins", "models", llm_d_models=models(**VLLM, **elsewhere))
        eventually(lambda: pool(kube) == "both", 90)
        assert drained in {pod["spec"]["nodeName"] for pod in kube.pods(NAMESPACE, model="swift")}
        kube("drain", drained, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=120s")
        play.result().ok(changed=True)
    assert (engines(kube), pool(kube)) == ({"vllm": 2}, "vllm")
    assert {pod["spec"]["nodeName"] for pod in kube.pods(NAMESPACE, model="swift")} == {other}
    ansible("stand-ins", "models", llm_d_models=models()).ok(changed=True)
