"""Asks the components whether they are well."""

from __future__ import annotations

import http.client
import socket
import ssl
import struct
import time
from collections.abc import Callable

import containers
from daemon import Daemon, Supervisor
from instance import ADMIN, API_SERVER_ETCD_CLIENT, Instance

ASK_EVERY = 0.2
"""Seconds between two questions while waiting."""

START_SECONDS = 90.0
"""Seconds a component may take until it is well."""


def is_healthy(instance: Instance, name: str) -> bool:
    """Whether the component `name` says that it is well."""
    return _checks(instance)[name]()


def wait(instance: Instance, supervisor: Supervisor, daemon: Daemon) -> None:
    """Wait until `daemon` is well. Raises ClusterError with its last log lines when it ends or takes too long."""
    deadline = time.monotonic() + START_SECONDS
    while not is_healthy(instance, daemon.name):
        if supervisor.record(daemon.name) is None:
            raise supervisor.failure(daemon.name, "ended")
        if time.monotonic() > deadline:
            raise supervisor.failure(daemon.name, f"was not well after {START_SECONDS:.0f} s")
        time.sleep(ASK_EVERY)


def _checks(instance: Instance) -> dict[str, Callable[[], bool]]:
    known: dict[str, Callable[[], bool]] = {
        "etcd": lambda: _https_ok(instance, instance.etcd_port, "/health", API_SERVER_ETCD_CLIENT.file),
        "kube-apiserver": lambda: _https_ok(instance, instance.api_port, "/readyz", ADMIN.file),
        "kube-controller-manager": lambda: _https_ok(instance, instance.controller_port, "/healthz"),
    }
    node = instance.node
    if node:
        known |= {
            "kube-scheduler": lambda: _https_ok(instance, instance.scheduler_port, "/healthz"),
            "containerd": lambda: containers.responds(instance),
            "kubelet": lambda: _http_ok(node.kubelet_health_port),
            "kube-proxy": lambda: _http_ok(node.proxy_health_port),
        }
    return known


def _https_ok(instance: Instance, port: int, path: str, user: str = "") -> bool:
    """Whether https://127.0.0.1:port/path answers 200.

    With a `user` (one of our certificates) the server has to prove who it is. Without, it has a certificate that it
    made itself, and what is asked is no secret.
    """
    try:
        context = ssl.create_default_context(cafile=str(instance.pki.ca))
        if user:
            context.load_cert_chain(instance.pki.certificate(user), instance.pki.key(user))
        else:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
    except OSError:  # no certificates: it was never started
        return False
    return _answers(http.client.HTTPSConnection("127.0.0.1", port, timeout=5, context=context), path)


def _http_ok(port: int) -> bool:
    return _answers(http.client.HTTPConnection("127.0.0.1", port, timeout=5), "/healthz")


def dns_answers(server: str, name: str) -> bool:
    """Whether the DNS server at the address `server` has an IPv4 address for `name`."""
    question = b"".join(bytes([len(label)]) + label.encode("ascii") for label in name.split("."))
    # Header: an id, "recursion desired", one question; then the question: type A, class IN.
    query = struct.pack(">6H", 1, 0x0100, 1, 0, 0, 0) + question + b"\0" + struct.pack(">2H", 1, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.settimeout(1.0)
        try:
            udp.sendto(query, (server, 53))
            answer = udp.recv(512)
        except OSError:
            return False
    _id, flags, _questions, answers, _authorities, _additional = struct.unpack(">6H", answer[:12])
    return flags & 0x000F == 0 and answers > 0


def _answers(connection: http.client.HTTPConnection, path: str) -> bool:
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
