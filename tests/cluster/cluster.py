"""The commands: up, down, status, load-image."""

from __future__ import annotations

import os
import shutil
import string
import time
from pathlib import Path

import build
import cache
import charts
import containers
import control_plane
import debian
import files
import further
import health
import host
import node as node_daemons
import ports
from daemon import Daemon, Supervisor
from instance import CLUSTER_DOMAIN, DNS_SERVICE_IP, Instance
from log import Log
from paths import HERE, binary, cache_dir, versions
from shell import ClusterError, succeeds
from waiting import READY_SECONDS, kubectl, start, wait_for_node

REAL_SGLANG = "sglang"
"""The image that takes much longer to build and to load than all others together."""


def need_root() -> None:
    """Raise ClusterError unless this process may do what a node needs."""
    if os.geteuid() != 0:
        raise ClusterError("the embedded cluster needs root: it makes network devices, mounts and control groups")


# --------------------------------------------------------------------------------------------------
# build, up


def build_all(log: Log, *, sglang: bool = True) -> None:
    """Make everything that `up` needs in the cache and start nothing; `sglang` as in `up`."""
    need_root()
    debian.install(log)
    build.build(None, log)
    charts.make_charts(log)
    _build_images(log, sglang)


def _build_images(log: Log, sglang: bool) -> list[Path]:
    # Imported late: a bare API server does not need what makes images.
    import images

    names = [name for name in images.IMAGES if sglang or name != REAL_SGLANG]
    return images.build_images(names, cache_dir(), versions(), log)


def up(instance: Instance, log: Log, *, sglang: bool = True, nodes: int | None = None) -> None:
    """Build what is missing, start what does not run, wait until all is ready.

    `sglang` says whether the image of the real SGLang is built and loaded too (full cluster only).
    `nodes` is how many nodes there are to be; None leaves those that there are.
    """
    need_root()
    if nodes and not instance.node:
        raise ClusterError("a bare API server has no nodes: --nodes is for the full cluster")
    with cache.lock(f"instance-{instance.name}"):
        supervisor = Supervisor(instance.state)
        _check_ports(instance, supervisor)
        debian.install(log)
        build.build(build.API_ONLY if not instance.node else None, log)
        _lay_out(instance, charts.make_charts(log))
        control_plane.write_credentials(instance)
        if instance.node:
            with log.step("bridge and kernel parameters"):
                host.prepare(instance, instance.node)
        for daemon in _daemons(instance):
            start(instance, supervisor, daemon, log)
        _wait_for_service_account(instance, log)
        if instance.node:
            _fill(instance, log, sglang)
            further.resize(instance, nodes, log)
        log.info(f"kubeconfig: {instance.kubeconfig}")


def _check_ports(instance: Instance, supervisor: Supervisor) -> None:
    """Raise ClusterError when somebody else listens on a port of a component that is about to be started."""
    wanted = {port: name for port, name in instance.ports().items() if supervisor.record(name) is None}
    taken = ports.conflicts(wanted)
    if taken:
        raise ClusterError("cannot start: " + "; ".join(taken))


def _lay_out(instance: Instance, artifacts: Path) -> None:
    """Make the state directory's stable paths: bin, charts, manifests, models, logs."""
    for name in ("bin", "charts", "manifests", "models", "logs"):
        (instance.state / name).mkdir(parents=True, exist_ok=True)
    tools = {"helm": ("helm", "helm"), "helm3": ("helm3", "helm"), "kubectl": ("kubectl", "kubectl")}
    for link, (component, name) in tools.items():
        _link(instance.state / "bin" / link, binary(component, name))
    for folder in ("charts", "manifests"):
        for source in (artifacts / folder).iterdir():
            files.copy(source, instance.state / folder / source.name)


def _link(link: Path, target: Path) -> None:
    if link.is_symlink() and link.readlink() == target:
        return
    link.unlink(missing_ok=True)
    link.symlink_to(target)


def _daemons(instance: Instance) -> list[Daemon]:
    """All daemons of the instance in the order of starting; writes their configuration files."""
    node = node_daemons.daemons(instance, instance.node) if instance.node else []
    return [*control_plane.daemons(instance), *node]


def _wait_for_service_account(instance: Instance, log: Log) -> None:
    """Wait for the default service account: until it is there, no pod can be made in the default namespace."""
    argv = [binary("kubectl", "kubectl"), f"--kubeconfig={instance.kubeconfig}", "get", "serviceaccount", "default"]
    deadline = time.monotonic() + READY_SECONDS
    with log.step("wait for the default service account"):
        while not succeeds(argv):
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"no default service account after {READY_SECONDS} s; see kube-controller-manager.log"
                )
            time.sleep(0.2)


def _fill(instance: Instance, log: Log, sglang: bool) -> None:
    """Load the images, install the model and DNS, and wait until the node and DNS are ready."""
    import model

    containers.load(instance, _build_images(log, sglang), log)
    model.install_model(instance.state, cache_dir(), log)
    assert instance.node
    with log.step(f"node {instance.node.name} Ready"):
        wait_for_node(instance, instance.node.name)
    with log.step("DNS") as step:
        step.note(kubectl(instance, "apply", "--server-side", "-f", "-", stdin=dns_manifest(instance)).splitlines()[-1])
        kubectl(instance, "-n", "kube-system", "rollout", "status", "deployment/coredns", f"--timeout={READY_SECONDS}s")
        _wait_for_dns()


def _wait_for_dns() -> None:
    """Wait until the cluster's DNS answers this machine: Service, kube-proxy and CoreDNS all work then."""
    deadline = time.monotonic() + READY_SECONDS
    while not health.dns_answers(DNS_SERVICE_IP, f"kubernetes.default.svc.{CLUSTER_DOMAIN}"):
        if time.monotonic() > deadline:
            raise ClusterError(f"the cluster's DNS at {DNS_SERVICE_IP} has not answered in {READY_SECONDS} s")
        time.sleep(0.2)


def dns_manifest(instance: Instance) -> str:
    """The objects of CoreDNS; it forwards to the machine's name servers if there is one that pods can reach."""
    resolver = (instance.config / "resolv.conf").read_text(encoding="utf-8")
    template = string.Template((HERE / "manifests" / "coredns.yaml").read_text(encoding="utf-8"))
    return template.safe_substitute(
        address=DNS_SERVICE_IP,
        domain=CLUSTER_DOMAIN,
        forward="forward . /etc/resolv.conf" if "nameserver" in resolver else "",
        version=versions()["coredns"],
    )


# --------------------------------------------------------------------------------------------------
# down


def down(instance: Instance, log: Log) -> None:
    """End every process of the instance and undo all it changed; the cache stays. Works half-way through too."""
    need_root()
    with cache.lock(f"instance-{instance.name}"):
        for joined in further.existing(instance):
            further.remove(joined, log)
        supervisor = Supervisor(instance.state)
        with log.step(f"stop {instance.name}") as step:
            running = [name for name in supervisor.names() if supervisor.record(name)]
            step.note(", ".join(running) or "nothing was running")
            # Nothing they could still write is kept, so nobody is asked to end in good order.
            for name in supervisor.names():
                supervisor.stop(name, seconds=0)
            if instance.node:
                containers.kill_all(instance)
        if instance.node:
            with log.step("restore the machine"):
                host.clean(instance, instance.node)
        with log.step(f"remove {instance.state}"):
            if instance.state.exists():
                shutil.rmtree(instance.state)


# --------------------------------------------------------------------------------------------------
# status, load-image


def status(instance: Instance) -> bool:
    """Print tables of the components, the node and the images; returns whether all is healthy."""
    supervisor = Supervisor(instance.state)
    rows, healthy = [("COMPONENT", "PID", "VERSION", "HEALTHY")], True
    for name, version in _component_versions(instance).items():
        record = supervisor.record(name)
        well = record is not None and health.is_healthy(instance, name)
        healthy = healthy and well
        rows.append((name, str(record.pid) if record else "-", version, "yes" if well else "NO"))
    for joined in further.existing(instance):
        for name in ("containerd", "kubelet"):
            record = Supervisor(joined.state).record(name)
            well = record is not None and health.is_healthy(joined, name)
            healthy = healthy and well
            rows.append(
                (f"{name} of {joined.state.name}", str(record.pid) if record else "-", "", "yes" if well else "NO")
            )
    print(_table(rows))
    if instance.node:
        healthy = _node_status(instance) and healthy
    print(f"\nkubeconfig: {instance.kubeconfig}" if healthy else f"\nNOT healthy; logs: {supervisor.logs}")
    return healthy


def _component_versions(instance: Instance) -> dict[str, str]:
    names = dict.fromkeys(instance.ports().values())
    debian_packages = {"etcd": "etcd-server", "containerd": "containerd"}
    if instance.node:
        names["containerd"] = None
    return {
        name: debian.installed_version(debian_packages[name]) if name in debian_packages else versions()["kubernetes"]
        for name in names
    }


def _node_status(instance: Instance) -> bool:
    """Print the node and the images; returns whether the node is ready."""
    try:
        print("\n" + kubectl(instance, "get", "nodes", "-o", "wide", "--request-timeout=5s").rstrip())
        ready = kubectl(instance, "get", "nodes", "-o", READY_PATH, "--request-timeout=5s").split()
    except ClusterError as error:
        print(f"\nnode: unknown ({error.args[0].splitlines()[-1]})")
        ready = []
    if containers.responds(instance):
        answers = health.dns_answers(DNS_SERVICE_IP, f"kubernetes.default.svc.{CLUSTER_DOMAIN}")
        print(f"\nDNS at {DNS_SERVICE_IP}: {'answers' if answers else 'does NOT answer'}")
        ready = ready if answers else []
        images = containers.images(instance)
        print("\n" + _table([("IMAGE", "SIZE"), *((name, size) for name, (_digest, size) in sorted(images.items()))]))
    return bool(ready) and set(ready) == {"True"}


READY_PATH = 'jsonpath={.items[*].status.conditions[?(@.type=="Ready")].status}'


def _table(rows: list[tuple[str, ...]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip() for row in rows
    )


def load_images(instance: Instance, tars: list[Path], log: Log, node: str = "") -> None:
    """Import image archives into a node of the running cluster, the first one by default.

    Raises ClusterError when it does not run.
    """
    need_root()
    if node and instance.node and node != instance.node.name:
        found = {joined.state.name: joined for joined in further.existing(instance)}
        if node not in found:
            raise ClusterError(f"no node {node}; there are: {', '.join([instance.node.name, *found])}")
        instance = found[node]
    if not containers.responds(instance):
        raise ClusterError(f"{instance.name} does not run; start it with: python tests/cluster up")
    containers.load(instance, tars, log)
