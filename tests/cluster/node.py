"""containerd, kubelet and kube-proxy of a node: their configuration files and command lines."""

from __future__ import annotations

import ipaddress
import json
from pathlib import Path

import yaml

import files
from daemon import Daemon
from debian import installed_version
from instance import CLUSTER_CIDR, CLUSTER_DOMAIN, DNS_SERVICE_IP, PROXY, Instance, Node
from paths import binary, versions

CNI_BINARIES = "/usr/lib/cni"

CONTAINERD_CONFIG = """\
version = 2
root = "{state}/containerd"
state = "{runtime}/containerd"
# The file systems that these need are not there; without this each start logs errors.
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]

[grpc]
  address = "{socket}"

[plugins."io.containerd.internal.v1.opt"]
  path = "{state}/containerd/opt"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "registry.k8s.io/pause:{pause}"
  # A machine that is itself a container or a small VM may not lower an OOM score, nor have AppArmor.
  restrict_oom_score_adj = true
  disable_apparmor = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{cni_binaries}"
    conf_dir = "{config}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        Root = "{runtime}/runc"
        SystemdCgroup = false
"""


def daemons(instance: Instance, node: Node) -> list[Daemon]:
    """The node's processes in the order in which they start; writes their configuration files first."""
    started = [_containerd(instance, node), _kubelet(instance, node)]
    # One serves the whole machine, whose rules it writes.
    return started if instance.joined else [*started, _proxy(instance, node)]


def _containerd(instance: Instance, node: Node) -> Daemon:
    config = instance.config / "containerd.toml"
    text = CONTAINERD_CONFIG.format(
        state=instance.state,
        runtime=instance.runtime,
        socket=instance.containerd_socket,
        config=instance.config,
        pause=versions()["pause"],
        cni_binaries=CNI_BINARIES,
    )
    network = files.write(instance.config / "cni" / "10-llm-d.conflist", json.dumps(_network(instance, node), indent=2))
    argv = ("/usr/bin/containerd", "--config", str(config))
    return Daemon("containerd", argv, installed_version("containerd"), reads=(files.write(config, text), network))


def network_name(instance: Instance) -> str:
    """The name of the pod network; CNI keeps its own records under it."""
    return instance.name


def _network(instance: Instance, node: Node) -> dict:
    return {
        "cniVersion": "0.4.0",
        "name": network_name(instance),
        "plugins": [
            {
                "type": "bridge",
                "bridge": node.bridge,
                "isGateway": True,
                "ipMasq": True,
                # A pod that reaches itself through its Service comes back on the port it left by.
                "hairpinMode": True,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": node.subnet, "gateway": node.gateway}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                    "dataDir": str(instance.runtime / "ipam"),
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }


def _kubelet(instance: Instance, node: Node) -> Daemon:
    config = files.write(
        instance.config / "kubelet.yaml", yaml.safe_dump(_kubelet_config(instance, node), sort_keys=False)
    )
    resolver = files.write(instance.config / "resolv.conf", resolver_config(Path("/etc/resolv.conf")))
    kubeconfig = instance.config / f"{node.user.file}.kubeconfig"
    certificate = instance.pki.certificate(f"kubelet-{node.name}-server")
    argv = (
        str(binary("kubernetes", "kubelet")),
        f"--config={config}",
        f"--kubeconfig={kubeconfig}",
        f"--root-dir={instance.state / 'kubelet'}",
        f"--hostname-override={node.name}",
        f"--node-ip={node.address}",
    )
    return Daemon("kubelet", argv, versions()["kubernetes"], reads=(config, resolver, kubeconfig, certificate))


def _kubelet_config(instance: Instance, node: Node) -> dict:
    server = f"kubelet-{node.name}-server"
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": node.address,
        "port": node.kubelet_port,
        "healthzBindAddress": "127.0.0.1",
        "healthzPort": node.kubelet_health_port,
        "tlsCertFile": str(instance.pki.certificate(server)),
        "tlsPrivateKeyFile": str(instance.pki.key(server)),
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(instance.pki.ca)},
        },
        "authorization": {"mode": "Webhook"},
        "clusterDNS": [DNS_SERVICE_IP],
        "clusterDomain": CLUSTER_DOMAIN,
        "resolvConf": str(instance.config / "resolv.conf"),
        "containerRuntimeEndpoint": f"unix://{instance.containerd_socket}",
        "cgroupDriver": "cgroupfs",
        # Control groups per quality of service need controllers that small machines lack.
        "cgroupsPerQOS": False,
        "enforceNodeAllocatable": [],
        "failCgroupV1": False,
        "failSwapOn": False,
        # Lets the kubelet go on where it may not set kernel parameters or its own OOM score.
        "featureGates": {"KubeletInUserNamespace": True},
        "podLogsDir": str(instance.pod_logs),
        "volumePluginDir": str(instance.state / "kubelet" / "volume-plugins"),
        # There is no registry to get an image back from, so none is ever collected,
        # and a fairly full disk is no reason to evict.
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "imageMinimumGCAge": "168h",
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        **({"registerWithTaints": [{"key": node.taint, "effect": "NoSchedule"}]} if node.taint else {}),
    }


def resolver_config(source: Path) -> str:
    """The resolver configuration for pods: `source` without name servers on the loopback.

    Those (systemd-resolved's, for one) cannot be reached from a pod, and make CoreDNS ask itself.
    """
    lines = source.read_text(encoding="utf-8").splitlines() if source.exists() else []
    return "".join(f"{line}\n" for line in lines if not _is_loopback_server(line))


def _is_loopback_server(line: str) -> bool:
    words = line.split()
    if len(words) < 2 or words[0] != "nameserver":
        return False
    try:
        return ipaddress.ip_address(words[1].split("%")[0]).is_loopback
    except ValueError:
        return False


def _proxy(instance: Instance, node: Node) -> Daemon:
    kubeconfig = instance.config / f"{PROXY.file}.kubeconfig"
    argv = (
        str(binary("kubernetes", "kube-proxy")),
        f"--kubeconfig={kubeconfig}",
        f"--hostname-override={node.name}",
        "--proxy-mode=iptables",
        f"--cluster-cidr={CLUSTER_CIDR}",
        # The machine's connection tracking limits stay as they are.
        "--conntrack-max-per-core=0",
        "--conntrack-tcp-timeout-established=0",
        "--conntrack-tcp-timeout-close-wait=0",
        "--oom-score-adj=0",
        f"--healthz-bind-address=127.0.0.1:{node.proxy_health_port}",
        f"--metrics-bind-address=127.0.0.1:{node.proxy_metrics_port}",
    )
    return Daemon("kube-proxy", argv, versions()["kubernetes"], reads=(kubeconfig,))
