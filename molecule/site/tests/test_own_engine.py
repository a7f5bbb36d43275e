"""An engine that only a file of the user's knows, from its pod to a completion through the gateway."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from ansible_collections.llm_d.multi_engine.molecule.site.tests.tools import eventually

KESTREL = {"model": "birds/kestrel", "path": "/kestrel"}


@pytest.fixture(scope="module")
def pod(stand_ins, kube) -> dict:
    (pod,) = kube.pods("stand-ins", model="kestrel")
    return pod


def test_it_runs_as_its_file_says(pod) -> None:
    assert pod["metadata"]["labels"]["llm-d.ai/engine-type"] == "falcon"
    (container,) = pod["spec"]["containers"]
    assert container["image"] == "localhost/llm-d-multi-engine/stand-in-vllm:1"
    assert container["command"] == ["python3", "-m", "vllm.entrypoints.openai.api_server"]
    arguments = (
        "--model birds/kestrel --served-model-name birds/kestrel --host 0.0.0.0 --port 9009 --max-model-len 1024"
    )
    assert " ".join(container["args"]) == arguments
    paths = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "readiness", "liveness")}
    assert paths == {"startup": "/ping", "readiness": "/version", "liveness": "/ping"}
    # By these probes it was found ready.
    (status,) = pod["status"]["containerStatuses"]
    assert (status["ready"], status["restartCount"]) == (True, 0)


def test_it_answers_through_gateway_and_picker(stand_ins, pod, kube) -> None:
    def count() -> int:
        return int(sum(map(float, re.findall(r"^vllm:request_success_total{.*} ([\d.]+)", page(), re.MULTILINE))))

    def page() -> str:
        return kube.through(pod, "/metrics", 9009)

    before = count()
    answer = stand_ins.client.complete(**KESTREL)
    assert answer.status == 200, answer
    assert answer.json["model"] == "birds/kestrel"
    assert answer.headers["x-went-into-resp-headers"] == "true"
    assert count() == before + 1


def test_its_picker_reads_the_metrics_that_the_file_names(stand_ins, kube) -> None:
    labels = "app.kubernetes.io/name=kestrel-epp"
    (picker,) = json.loads(kube("get", "pods", "-n", "stand-ins", "-l", labels, "-o", "json"))["items"]

    def running() -> float:
        found = re.search(
            r"^inference_pool_average_running_requests{.*} (.+)$", kube.through(picker, "/metrics", 9090), re.MULTILINE
        )
        return float(found[1]) if found else -1.0

    eventually(lambda: running() == 0)
    with ThreadPoolExecutor(1) as pool:
        stream = pool.submit(stand_ins.client.complete, **KESTREL, max_tokens=200, stream=True)
        eventually(lambda: running() == 1, 6)
        assert stream.result().events[-1] == "[DONE]"
