"""Starts daemons and waits until they, and the nodes that they make, are ready."""

from __future__ import annotations

import json
import time
from datetime import datetime

import health
from daemon import Daemon, Supervisor
from instance import Instance
from log import Log
from paths import binary
from shell import ClusterError, output

READY_SECONDS = 120
"""Seconds a node, and then the cluster's DNS, may take to become ready."""


def start(instance: Instance, supervisor: Supervisor, daemon: Daemon, log: Log) -> None:
    """Have `daemon` run, and wait until it is well."""
    with log.step(f"start {daemon.name} {daemon.version}") as step:
        already = supervisor.start(daemon)
        health.wait(instance, supervisor, daemon)
        record = supervisor.record(daemon.name)
        detail = f"pid {record.pid}" if record else ""
        step.cached(detail) if already else step.note(detail)


def kubectl(instance: Instance, *arguments: str, stdin: str | None = None) -> str:
    """Run kubectl as the administrator and return what it prints; raises ClusterError when it fails."""
    return output([binary("kubectl", "kubectl"), f"--kubeconfig={instance.kubeconfig}", *arguments], stdin=stdin)


def wait_for_node(instance: Instance, name: str) -> None:
    """Wait until the node is ready and its present kubelet, not one before a restart, has said so."""
    deadline = time.monotonic() + READY_SECONDS
    supervisor = Supervisor(instance.state)
    while not _node_is_ready(instance, name, supervisor.started("kubelet")):
        if time.monotonic() > deadline:
            raise supervisor.failure("kubelet", f"has not made the node ready in {READY_SECONDS} s")
        time.sleep(0.2)


def _node_is_ready(instance: Instance, name: str, since: float) -> bool:
    """Whether the node is ready and its lease was renewed after `since` (seconds since the epoch)."""
    try:
        node = json.loads(kubectl(instance, "get", "node", name, "-o", "json"))
        lease = json.loads(kubectl(instance, "-n", "kube-node-lease", "get", "lease", name, "-o", "json"))
    except ClusterError:  # not registered yet
        return False
    renewed = datetime.fromisoformat(lease["spec"]["renewTime"].replace("Z", "+00:00"))
    ready = any(item["type"] == "Ready" and item["status"] == "True" for item in node["status"]["conditions"])
    return ready and renewed.timestamp() > since
