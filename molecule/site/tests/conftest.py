"""Fixtures of all tests of this scenario."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
import testinfra
from ansible_collections.llm_d.multi_engine.molecule.site.tests.tools import (
    Ansible,
    Client,
    Kube,
    Run,
    StandIns,
    cluster_ip,
)


@pytest.fixture(scope="session")
def host():
    """This machine; testinfra's own fixture is of a narrower scope."""
    return testinfra.get_host("local://")


@pytest.fixture(scope="session")
def ansible(host) -> Ansible:
    return Ansible(host)


@pytest.fixture(scope="session")
def kube(host) -> Kube:
    return Kube(host)


@pytest.fixture(scope="session")
def gateway(kube) -> Client:
    """The gateway of the first stack, which converge made."""
    return Client(cluster_ip(kube, "llm-d", "llm-d-inference-gateway-istio"))


@pytest.fixture(scope="session")
def broken(ansible, kube) -> Iterator[Future[dict[str, Run]]]:
    """What became of a stack that cannot work. It is waited for mostly, so others need not wait for it."""

    def runs() -> dict[str, Run]:
        balanced = {"istio_gateway_name": "balanced", "istio_gateway_service_type": "LoadBalancer"}
        return {
            # Its own Gateway works, and may take longer than what is to fail.
            "site": ansible(
                "broken",
                "site",
                gaie_picker_image="localhost/llm-d-multi-engine/epp:none",
                istio_gateway_wait_timeout=60,
            ),
            "verify": ansible("broken", "verify"),
            "model_service": ansible("broken", "models", options="--tags model_service"),
            # Under another name: it has never had an address.
            "gateway": ansible("broken", "gateway", **balanced),
            "uninstall": ansible("broken", "uninstall"),
        }

    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(runs)
    kube("delete", "namespace", "broken", "--wait=false")


@pytest.fixture(scope="session")
def stand_ins(ansible, kube, host, tmp_path_factory, broken) -> StandIns:
    """The second stack, installed; with a certificate that somebody put there before."""
    before = kube.objects()
    # So that a second run of the tests, while one works on them, need not begin from nothing.
    there = {name for name in before if " stand-ins/" in name or name == "Namespace /stand-ins"}
    certificate = tmp_path_factory.mktemp("certificate") / "tls.crt"
    if not there:
        key = certificate.with_suffix(".key")
        names = "-subj /CN=aviary.example -addext subjectAltName=DNS:aviary.example"
        made = host.run(f"openssl req -x509 -newkey rsa:2048 -nodes -days 1 {names} -keyout {key} -out {certificate}")
        assert made.rc == 0, made.stderr
        kube("create", "namespace", "stand-ins")
        kube("create", "-n", "stand-ins", "secret", "tls", "aviary", f"--cert={certificate}", f"--key={key}")
    secret = kube.get("stand-ins", "secret", "aviary")
    certificate.write_bytes(base64.b64decode(secret["data"]["tls.crt"]))
    ansible("stand-ins", "site").ok(changed=None if there else True)
    before = {name: state for name, state in before.items() if name not in there}
    return StandIns(before, certificate, Client(cluster_ip(kube, "stand-ins", "aviary-istio")))
