"""etcd, API server, controller manager and scheduler: their certificates and command lines."""

from __future__ import annotations

from pathlib import Path

import files
from daemon import Daemon
from debian import installed_version
from instance import (
    ADMIN,
    API_SERVER_ETCD_CLIENT,
    API_SERVER_KUBELET_CLIENT,
    API_SERVICE_IP,
    CLUSTER_CIDR,
    CLUSTER_DOMAIN,
    CONTROLLER_MANAGER,
    PROXY,
    SCHEDULER,
    SERVICE_CIDR,
    Instance,
)
from paths import binary, versions

API_NAMES = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", f"kubernetes.default.svc.{CLUSTER_DOMAIN}")


def write_credentials(instance: Instance) -> None:
    """Write all certificates and kubeconfigs that are missing, the administrator's too."""
    users = [ADMIN, API_SERVER_ETCD_CLIENT, API_SERVER_KUBELET_CLIENT, CONTROLLER_MANAGER, SCHEDULER, PROXY]
    addresses = ["127.0.0.1", API_SERVICE_IP]
    servers = {"etcd": ["IP:127.0.0.1", "DNS:localhost"]}
    if instance.node:
        users.append(instance.node.user)
        addresses.append(instance.node.address)
        servers[f"kubelet-{instance.node.name}-server"] = [f"IP:{instance.node.address}", f"DNS:{instance.node.name}"]
    names = [f"DNS:{name}" for name in ("localhost", *API_NAMES)]
    servers["apiserver"] = [*names, *(f"IP:{address}" for address in addresses)]
    instance.pki.make(users, servers)
    components = [CONTROLLER_MANAGER, SCHEDULER, PROXY, *([instance.node.user] if instance.node else [])]
    for user in components:
        instance.pki.kubeconfig(instance.config / f"{user.file}.kubeconfig", user, instance.server, instance.name)
    instance.pki.kubeconfig(instance.kubeconfig, ADMIN, instance.server, instance.name)


def write_node_credentials(cluster: Instance, joined: Instance) -> None:
    """Write what a further node of `cluster` needs, in its own directory: the API server restarts when its own grows."""
    assert joined.node
    joined.pki.directory.mkdir(parents=True, exist_ok=True)
    for source in (cluster.pki.ca, cluster.pki.front_proxy_ca, cluster.pki.service_account_key):
        for path in {source, source.with_suffix(".key")}:
            files.copy(path, joined.pki.directory / path.name)
    node = joined.node
    joined.pki.make([ADMIN, node.user], {f"kubelet-{node.name}-server": [f"IP:{node.address}", f"DNS:{node.name}"]})
    kubeconfig = joined.config / f"{node.user.file}.kubeconfig"
    joined.pki.kubeconfig(kubeconfig, node.user, cluster.server, cluster.name)
    joined.pki.kubeconfig(joined.kubeconfig, ADMIN, cluster.server, cluster.name)


def daemons(instance: Instance) -> list[Daemon]:
    """The control plane in the order in which it starts."""
    scheduler = [_scheduler(instance)] if instance.node else []
    return [_etcd(instance), _api_server(instance), _controller_manager(instance), *scheduler]


def _kubernetes(name: str, arguments: list[str], *reads: Path) -> Daemon:
    return Daemon(name, (str(binary("kubernetes", name)), *arguments), versions()["kubernetes"], reads)


def _etcd(instance: Instance) -> Daemon:
    pki = instance.pki
    client, peer = f"https://127.0.0.1:{instance.etcd_port}", f"https://127.0.0.1:{instance.etcd_peer_port}"
    arguments = [
        f"--data-dir={instance.state / 'etcd'}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        # Who can write to etcd can do everything in the cluster, and so everything on this machine.
        f"--cert-file={pki.certificate('etcd')}",
        f"--key-file={pki.key('etcd')}",
        f"--trusted-ca-file={pki.ca}",
        "--client-cert-auth",
        f"--peer-cert-file={pki.certificate('etcd')}",
        f"--peer-key-file={pki.key('etcd')}",
        f"--peer-trusted-ca-file={pki.ca}",
        "--peer-client-cert-auth",
        "--enable-grpc-gateway=false",
        "--logger=zap",
        "--log-outputs=stderr",
    ]
    reads = (pki.ca, pki.certificate("etcd"))
    return Daemon("etcd", ("/usr/bin/etcd", *arguments), installed_version("etcd-server"), reads)


def _api_server(instance: Instance) -> Daemon:
    pki = instance.pki
    arguments = [
        f"--etcd-servers=https://127.0.0.1:{instance.etcd_port}",
        f"--etcd-cafile={pki.ca}",
        f"--etcd-certfile={pki.certificate(API_SERVER_ETCD_CLIENT.file)}",
        f"--etcd-keyfile={pki.key(API_SERVER_ETCD_CLIENT.file)}",
        f"--secure-port={instance.api_port}",
        f"--tls-cert-file={pki.certificate('apiserver')}",
        f"--tls-private-key-file={pki.key('apiserver')}",
        f"--client-ca-file={pki.ca}",
        f"--kubelet-client-certificate={pki.certificate(API_SERVER_KUBELET_CLIENT.file)}",
        f"--kubelet-client-key={pki.key(API_SERVER_KUBELET_CLIENT.file)}",
        f"--kubelet-certificate-authority={pki.ca}",
        # Without this, logs and exec look the node's name up, which no DNS knows.
        "--kubelet-preferred-address-types=InternalIP",
        f"--service-account-issuer=https://kubernetes.default.svc.{CLUSTER_DOMAIN}",
        f"--service-account-key-file={pki.service_account_key}",
        f"--service-account-signing-key-file={pki.service_account_key}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        f"--service-cluster-ip-range={SERVICE_CIDR}",
        "--allow-privileged=true",
        f"--requestheader-client-ca-file={pki.front_proxy_ca}",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-username-headers=X-Remote-User",
        f"--proxy-client-cert-file={pki.certificate('front-proxy-client')}",
        f"--proxy-client-key-file={pki.key('front-proxy-client')}",
    ]
    if instance.node:
        arguments.append(f"--advertise-address={instance.node.address}")
    else:
        # Nothing reaches it through a Service, so the Service needs no endpoint (and a loopback one is refused).
        arguments += ["--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", "--endpoint-reconciler-type=none"]
    certificates = sorted(pki.directory.glob("*.crt"))
    return _kubernetes("kube-apiserver", arguments, *certificates)


def _controller_manager(instance: Instance) -> Daemon:
    kubeconfig = instance.config / f"{CONTROLLER_MANAGER.file}.kubeconfig"
    arguments = [
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        "--bind-address=127.0.0.1",
        f"--secure-port={instance.controller_port}",
        "--leader-elect=false",
        "--use-service-account-credentials=true",
        # Its own account for every controller: at the default rate that alone takes seconds.
        "--kube-api-qps=200",
        "--kube-api-burst=400",
        f"--service-account-private-key-file={instance.pki.service_account_key}",
        f"--root-ca-file={instance.pki.ca}",
        f"--cluster-signing-cert-file={instance.pki.ca}",
        f"--cluster-signing-key-file={instance.pki.ca.with_suffix('.key')}",
    ]
    if instance.node:
        arguments += ["--allocate-node-cidrs=true", f"--cluster-cidr={CLUSTER_CIDR}"]
        arguments += [f"--service-cluster-ip-range={SERVICE_CIDR}"]
    return _kubernetes("kube-controller-manager", arguments, kubeconfig)


def _scheduler(instance: Instance) -> Daemon:
    kubeconfig = instance.config / f"{SCHEDULER.file}.kubeconfig"
    arguments = [
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        "--bind-address=127.0.0.1",
        f"--secure-port={instance.scheduler_port}",
        "--leader-elect=false",
    ]
    return _kubernetes("kube-scheduler", arguments, kubeconfig)
