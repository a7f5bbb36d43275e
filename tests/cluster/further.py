"""Further nodes of the full cluster, on the same machine: real ones, for what needs more than one.

Each is an instance of its own below the cluster's state directory, so that what is true of the first node
(start, repair, cleaning up) is true of it too.
"""

from __future__ import annotations

import shutil

import containers
import control_plane
import host
import node as node_daemons
import ports
from daemon import Supervisor
from instance import MOST_NODES, Instance
from log import Log
from paths import cache_dir, versions
from shell import ClusterError
from waiting import kubectl, start, wait_for_node

IMAGES = ("pause", "stand-in-sglang", "stand-in-vllm")
"""What pods can run there without more; `load-image --node` brings others."""


def existing(cluster: Instance) -> list[Instance]:
    """The further nodes that there are, running or not."""
    numbers = range(1, MOST_NODES)
    return [node for node in map(cluster.further_node, numbers) if node.state.exists()]


def resize(cluster: Instance, nodes: int | None, log: Log) -> None:
    """Have `nodes` nodes, the first one included; None: start again what there is of further ones."""
    there = existing(cluster)
    wanted = there if nodes is None else [cluster.further_node(number) for number in range(1, nodes)]
    for joined in there:
        if joined not in wanted:
            assert joined.node
            kubectl(cluster, "delete", "node", joined.node.name, "--ignore-not-found")
            remove(joined, log)
    for joined in wanted:
        _join(cluster, joined, log)


def _join(cluster: Instance, joined: Instance, log: Log) -> None:
    # Imported late, as for the first node.
    import images

    assert joined.node
    supervisor = Supervisor(joined.state)
    if supervisor.record("kubelet") is None and (taken := ports.conflicts(joined.ports())):
        raise ClusterError("cannot start: " + "; ".join(taken))
    control_plane.write_node_credentials(cluster, joined)
    host.prepare(joined, joined.node)
    for daemon in node_daemons.daemons(joined, joined.node):
        start(joined, supervisor, daemon, log)
    containers.load(joined, images.build_images(IMAGES, cache_dir(), versions(), log), log)
    with log.step(f"node {joined.node.name} Ready"):
        wait_for_node(joined, joined.node.name)


def remove(joined: Instance, log: Log) -> None:
    """End a node and undo what it changed on the machine; works half-way through too."""
    assert joined.node
    with log.step(f"stop {joined.node.name}"):
        supervisor = Supervisor(joined.state)
        for name in supervisor.names():
            supervisor.stop(name, seconds=0)
        containers.kill_all(joined)
        host.clean(joined, joined.node)
        shutil.rmtree(joined.state)
