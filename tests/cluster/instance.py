"""The two clusters there can be on a machine: their names, directories, addresses and ports."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from pki import Pki, User

SERVICE_CIDR = "10.96.0.0/16"
API_SERVICE_IP = "10.96.0.1"
DNS_SERVICE_IP = "10.96.0.10"
CLUSTER_DOMAIN = "cluster.local"

CLUSTER_CIDR = "10.244.0.0/16"
"""All pods; each node has a /24 of it, the first one 10.244.0.0/24."""

MOST_NODES = 4
"""Nodes that one machine may have."""

FURTHER_NODE_TAINT = "multi-engine.llm-d.ai/further-node"
"""Keeps pods that do not tolerate it (effect NoSchedule) from all nodes but the first."""

ADMIN = User("admin", "kubernetes-admin", "system:masters")
API_SERVER_ETCD_CLIENT = User("etcd-client", "kube-apiserver", "llm-d-embedded")
API_SERVER_KUBELET_CLIENT = User("kubelet-client", "kube-apiserver-kubelet-client", "system:masters")
CONTROLLER_MANAGER = User("controller-manager", "system:kube-controller-manager", "system:kube-controller-manager")
SCHEDULER = User("scheduler", "system:kube-scheduler", "system:kube-scheduler")
PROXY = User("proxy", "system:kube-proxy", "system:node-proxier")


@dataclass(frozen=True)
class Node:
    """A node: its name, its own address, and its pods' bridge and subnet.

    Its address sits on the bridge, not on the machine's network card: so it is there without a network, stays the
    same when the machine's address changes, and a second node of the same machine can have another one.
    Where there is a `taint`, only pods that tolerate it come here.
    """

    name: str = "embedded-0"
    address: str = "10.243.0.1"
    bridge: str = "llmd0"
    gateway: str = "10.244.0.1"
    subnet: str = "10.244.0.0/24"
    kubelet_port: int = 10250
    kubelet_health_port: int = 10248
    proxy_health_port: int = 10256
    proxy_metrics_port: int = 10249
    taint: str = ""

    @property
    def user(self) -> User:
        """Who the node's kubelet is to the API server."""
        return User(f"kubelet-{self.name}", f"system:node:{self.name}", "system:nodes")


@dataclass(frozen=True)
class Instance:
    """One cluster. `node` is None for one that is only an API.

    One that has `joined` another is a further node of it: a containerd and a kubelet, and nothing else.
    """

    name: str
    state: Path
    etcd_port: int
    etcd_peer_port: int
    api_port: int
    controller_port: int
    scheduler_port: int
    node: Node | None = None
    joined: bool = False

    @property
    def pki(self) -> Pki:
        """Its keys and certificates."""
        return Pki(self.state / "pki")

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig; its context has the instance's name."""
        return self.state / "kubeconfig"

    @property
    def server(self) -> str:
        """The API server's URL for clients on this machine."""
        return f"https://127.0.0.1:{self.api_port}"

    @property
    def config(self) -> Path:
        """Configuration files of the components."""
        return self.state / "config"

    @property
    def runtime(self) -> Path:
        """What means nothing any more after a reboot: sockets, running containers, addresses of pods."""
        return self.state / "runtime"

    @property
    def containerd_socket(self) -> Path:
        """Where this instance's own containerd listens."""
        return self.runtime / "containerd.sock"

    def ports(self) -> dict[int, str]:
        """Every TCP port that it listens on, and the daemon that does."""
        if self.node and self.joined:
            return {self.node.kubelet_port: "kubelet", self.node.kubelet_health_port: "kubelet"}
        ports = {
            self.etcd_port: "etcd",
            self.etcd_peer_port: "etcd",
            self.api_port: "kube-apiserver",
            self.controller_port: "kube-controller-manager",
        }
        if self.node:
            ports |= {
                self.scheduler_port: "kube-scheduler",
                self.node.kubelet_port: "kubelet",
                self.node.kubelet_health_port: "kubelet",
                self.node.proxy_health_port: "kube-proxy",
                self.node.proxy_metrics_port: "kube-proxy",
            }
        return ports

    @property
    def further_nodes(self) -> Path:
        """Where its further nodes have their state, a directory each."""
        return self.state / "nodes"

    def further_node(self, number: int) -> Instance:
        """A further node on the same machine: a real one, with a bridge and a subnet of its own.

        Everybody else's pods stay away from it: it has few images, and comes and goes with a test.
        """
        node = Node(
            name=f"embedded-{number}",
            address=f"10.243.0.{number + 1}",
            bridge=f"llmd{number}",
            gateway=f"10.244.{number}.1",
            subnet=f"10.244.{number}.0/24",
            kubelet_port=10260 + 10 * number,
            kubelet_health_port=10261 + 10 * number,
            taint=FURTHER_NODE_TAINT,
        )
        state = self.further_nodes / node.name
        return replace(self, name=f"{self.name}-{number}", state=state, node=node, joined=True)

    @property
    def tasks(self) -> Path:
        """Where containerd has a directory for each running container, named with the container's id."""
        return self.runtime / "containerd" / "io.containerd.runtime.v2.task" / "k8s.io"

    @property
    def pod_logs(self) -> Path:
        """Where the kubelet keeps the logs of containers."""
        return self.state / "logs" / "pods"


FULL = Instance(
    name="llm-d-embedded",
    state=Path("/var/lib/llm-d-embedded"),
    etcd_port=12379,
    etcd_peer_port=12380,
    api_port=16443,
    controller_port=10257,
    scheduler_port=10259,
    node=Node(),
)

API_ONLY = Instance(
    name="llm-d-embedded-api",
    state=Path("/var/lib/llm-d-embedded-api"),
    etcd_port=22379,
    etcd_peer_port=22380,
    api_port=26443,
    controller_port=20257,
    scheduler_port=20259,
)
