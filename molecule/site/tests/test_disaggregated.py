"""llm-d's own routing proxy: between prefill and decode pods, and in front of an engine that does both.

No endpoint picker that could choose the pods is to be had here, so the tests choose them, in the header that a picker
would set.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.llm_d.multi_engine.molecule.site.tests.tools import ROOT, Client, Kube, eventually

HEADER = "x-prefiller-host-port"
RELEASES = ROOT / "roles/inference_engine/vars/releases"


def own_release(folder: Path) -> Path:
    """Write a release for disaggregated models that needs no llm-d picker, and return its path.

    The proxy that can be built here does not understand the selector of a v1 pool: without its protection, then.
    """
    release = yaml.safe_load((RELEASES / "gaie-1.5.yml").read_text())["gaie-1.5"]
    picker, proxy = release["endpoint_picker"], release["routing_proxy"]
    picker["config"]["disaggregated"] = picker["config"]["aggregated"]
    picker["deciders"] = {"none": {"plugin": {"type": "none"}}}
    unprotected = ("--enable-ssrf-protection", "--inference-pool", "--pool-group")
    proxy["arguments"] = [argument for argument in proxy["arguments"] if not argument.startswith(unprotected)]
    path = folder / "own.yml"
    path.write_text(yaml.safe_dump({"own": release}))
    return path


@pytest.fixture(scope="module")
def pairs(ansible, kube, tmp_path_factory) -> Iterator[Any]:
    """The stack of disaggregated models; call it to run it again."""
    release = own_release(tmp_path_factory.mktemp("release"))

    def run() -> Any:
        return ansible("disaggregated", "models", options="--tags model_service", llm_d_release=str(release))

    run().ok()
    yield run
    kube("delete", "namespace", "pairs", "--wait=false")


def pod(kube: Kube, model: str, role: str) -> dict:
    return kube.pods("pairs", model=model, role=role)[0]


def address(pod: dict, port: int = 8000) -> str:
    return f"{pod['status']['podIP']}:{port}"


def client(pod: dict, port: int = 8000) -> Client:
    return Client(pod["status"]["podIP"], port)


def met(kube: Kube, pod: dict) -> dict[str, str]:
    """Return where the last request of an engine met its other side: what its log says."""
    name = pod["metadata"]["name"]
    log = kube("logs", "-n", "pairs", name, "-c", "model-server")
    found = re.findall(r"bootstrap_host='(.*?)', bootstrap_port=(\d+), bootstrap_room=(\d+)", log)
    return dict(zip(("host", "port", "room"), found[-1], strict=True)) if found else {}


def test_each_side_has_its_pods(pairs, kube) -> None:
    assert len(kube.pods("pairs", model="finch", role="prefill")) == 2
    assert len(kube.pods("pairs", model="finch", role="decode")) == 1
    for model in ("finch", "wren"):
        assert "initContainers" not in pod(kube, model, "prefill")["spec"]
        (proxy,) = pod(kube, model, "decode")["status"]["initContainerStatuses"]
        assert (proxy["name"], proxy["ready"], proxy["restartCount"]) == ("routing-proxy", True, 0)


def test_both_sides_meet_in_one_room(pairs, kube) -> None:
    prefill, decode = pod(kube, "finch", "prefill"), pod(kube, "finch", "decode")
    rooms = set()
    for _ in range(2):
        answer = client(decode).complete("birds/finch", headers={HEADER: address(prefill)})
        assert answer.status == 200, answer
        assert answer.json["choices"]
        # The proxy does not wait for the prefill side.
        eventually(lambda: met(kube, prefill) and met(kube, prefill) == met(kube, decode))
        where = met(kube, decode)
        assert (where["host"], where["port"]) == (prefill["status"]["podIP"], "9998")
        rooms.add(where["room"])
    assert len(rooms) == 2


def test_decode_pods_of_sglang_refuse_what_nobody_prefilled(pairs, kube) -> None:
    answer = client(pod(kube, "finch", "decode")).complete("birds/finch")
    assert answer.status == 400
    assert b"without bootstrap room id" in answer.body


def test_the_prefill_side_is_where_it_says(pairs, kube) -> None:
    prefill = pod(kube, "finch", "prefill")
    assert client(prefill, 9998).ask("/health").body == b"OK"


def test_vllm_prefills_and_decodes(pairs, kube) -> None:
    prefill, decode = pod(kube, "wren", "prefill"), pod(kube, "wren", "decode")
    counter = re.compile(r"^vllm:request_success_total{.*} ([\d.]+)", re.MULTILINE)

    def count(pod: dict) -> int:
        return int(sum(map(float, counter.findall(kube.through(pod, "/metrics")))))

    before = count(prefill), count(decode)
    answer = client(decode).complete("birds/wren", headers={HEADER: address(prefill)})
    assert answer.status == 200, answer
    assert (count(prefill), count(decode)) == (before[0] + 1, before[1] + 1)


def test_a_second_run_changes_nothing(pairs) -> None:
    pairs().ok(changed=False)


@pytest.fixture(scope="module")
def heron(ansible, kube) -> Iterator[dict]:
    """The pod of an aggregated model behind the proxy as the shipped release has it."""
    ansible("proxied", "models", options="--tags model_service").ok()
    (pod,) = kube.pods("proxied", model="heron")
    yield pod
    kube("delete", "namespace", "proxied", "--wait=false")


def test_an_engine_behind_the_proxy(heron) -> None:
    assert client(heron).complete("birds/heron").status == 200
    # The engine itself, for probes and metrics.
    assert client(heron, 8200).ask("/ready").status == 200
    # What the endpoint picker reads comes through the proxy, too.
    assert b"sglang:num_running_reqs" in client(heron).ask("/metrics").body


def test_clients_cannot_send_the_proxy_anywhere(heron, kube) -> None:
    dns = kube.get("kube-system", "service", "kube-dns")["spec"]["clusterIP"]
    for target in (f"{dns}:9153", "169.254.169.254:80"):
        answer = client(heron).complete("birds/heron", headers={HEADER: target})
        assert answer.status == 403, answer


def test_the_engine_has_no_credentials(heron, kube) -> None:
    mounts = {
        container["name"]: [mount["mountPath"] for mount in container["volumeMounts"]]
        for container in heron["spec"]["containers"] + heron["spec"]["initContainers"]
    }
    secrets = "/var/run/secrets/kubernetes.io/serviceaccount"
    assert secrets in mounts["routing-proxy"]
    assert secrets not in mounts["model-server"]
