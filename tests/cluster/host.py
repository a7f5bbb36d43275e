"""What a node changes on the machine itself, and how all of it is undone.

Before the first change the machine's state is written down (`host.json` in the state directory). What was there
before (kernel parameters, another program's iptables chains, directories) is left, or put back, as it was.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
import time
from pathlib import Path

from daemon import boot_id
from instance import Instance, Node
from node import network_name
from shell import output, succeeds

SYSCTLS_WANTED = {"net/ipv4/ip_forward": "1", "net/bridge/bridge-nf-call-iptables": "1"}
"""Kernel parameters a node needs, where the kernel has them."""

SYSCTLS_CHANGED = (
    *SYSCTLS_WANTED,
    # These are set by the kubelet and by kube-proxy.
    "kernel/keys/root_maxbytes",
    "kernel/keys/root_maxkeys",
    "kernel/panic",
    "kernel/panic_on_oops",
    "net/ipv4/conf/all/route_localnet",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
)

CGROUP = "k8s.io"
"""containerd puts a container's control groups below this one when the kubelet names no other."""

CNI_RECORDS = Path("/var/lib/cni")
CONTAINER_LOG_LINKS = Path("/var/log/containers")

KUBELET_DIRECTORY = Path("/var/lib/kubelet")
"""Where a kubelet makes a socket for device plugins, whatever its root directory."""

COMPILED_IN = (KUBELET_DIRECTORY, CONTAINER_LOG_LINKS, CNI_RECORDS, Path("/run/containerd"))
"""Directories that no option moves; those that were not there before are removed once they are empty."""


def snapshot_file(instance: Instance) -> Path:
    """Where the machine's former state is written down."""
    return instance.state / "host.json"


def prepare(instance: Instance, node: Node) -> None:
    """Make the machine ready for the node's processes; repeating it repairs what is missing."""
    before = _remember(instance)
    if before["boot"] != boot_id():
        # Containers, sockets and addresses of the time before the reboot only confuse what starts now.
        shutil.rmtree(instance.runtime, ignore_errors=True)
        snapshot_file(instance).write_text(json.dumps(before | {"boot": boot_id()}), encoding="utf-8")
    for name, value in SYSCTLS_WANTED.items():
        _set_sysctl(name, value)
    _make_bridge(node)


def _remember(instance: Instance) -> dict:
    """The machine's state as it was before the first change."""
    path = snapshot_file(instance)
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    before = {
        "boot": boot_id(),
        "sysctls": {name: value for name in SYSCTLS_CHANGED if (value := _sysctl(name)) is not None},
        "chains": {family: sorted(map("/".join, chains(_save(family)))) for family in FAMILIES},
        "directories": [str(path) for path in COMPILED_IN if path.exists()],
    }
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(before), encoding="utf-8")
    temporary.rename(path)
    return before


def clean(instance: Instance, node: Node) -> None:
    """Undo everything; all processes of the node must have ended. Works half-way through too."""
    unmount_below(instance.state)
    if succeeds(["ip", "link", "show", node.bridge]):
        output(["ip", "link", "delete", node.bridge])
    for group in container_cgroups(instance):
        _remove_cgroup(group)
    for hierarchy in cgroup_hierarchies():
        _prune(hierarchy / CGROUP)
    _remove_records(instance)
    if snapshot_file(instance).exists():
        before = json.loads(snapshot_file(instance).read_text(encoding="utf-8"))
        _restore(before)


def _restore(before: dict) -> None:
    for family in FAMILIES:
        sweep_iptables(family, set(before["chains"][family]))
    for name, value in before["sysctls"].items():
        if _sysctl(name) != value:
            _set_sysctl(name, value)
    if str(KUBELET_DIRECTORY) not in before["directories"]:
        shutil.rmtree(KUBELET_DIRECTORY / "device-plugins", ignore_errors=True)
    for directory in COMPILED_IN:
        if str(directory) not in before["directories"]:
            _prune(directory)


def _prune(directory: Path) -> None:
    """Remove the empty directories at and below `directory`; what somebody else keeps there stays.

    A control group counts as empty although the kernel's files are in it; one in use cannot be removed.
    """
    if directory.is_dir() and not directory.is_symlink():
        for child in list(directory.iterdir()):
            _prune(child)
        with contextlib.suppress(OSError):
            directory.rmdir()


def _remove_records(instance: Instance) -> None:
    """Remove what CNI, containerd and the kubelet write outside of the state directory, as far as it is ours."""
    # CNI names a record <network>-<pod>-<interface>; the loopback has one network for everybody.
    pods = {f"cni-loopback-{identifier}-lo" for identifier in container_ids(instance)}
    for record in (CNI_RECORDS / "results").glob("*"):
        if record.name in pods or record.name.startswith(f"{network_name(instance)}-"):
            record.unlink()
    if CONTAINER_LOG_LINKS.is_dir():
        for link in CONTAINER_LOG_LINKS.iterdir():
            if link.is_symlink() and link.readlink().is_relative_to(instance.pod_logs):
                link.unlink()


# --------------------------------------------------------------------------------------------------
# Kernel parameters, bridge, mounts, control groups


def _sysctl(name: str) -> str | None:
    try:
        return (Path("/proc/sys") / name).read_text(encoding="ascii").strip()
    except OSError:
        return None


def _set_sysctl(name: str, value: str) -> None:
    path = Path("/proc/sys") / name
    if path.exists() and _sysctl(name) != value:
        path.write_text(value, encoding="ascii")


def _make_bridge(node: Node) -> None:
    """Make the pods' bridge: CNI would only do so with the first pod, and the node's own address is on it."""
    if not succeeds(["ip", "link", "show", node.bridge]):
        output(["ip", "link", "add", node.bridge, "type", "bridge"])
    prefix = node.subnet.rsplit("/", 1)[1]
    output(["ip", "address", "replace", f"{node.gateway}/{prefix}", "dev", node.bridge])
    output(["ip", "address", "replace", f"{node.address}/32", "dev", node.bridge])
    output(["ip", "link", "set", node.bridge, "up"])


def unmount_below(directory: Path) -> None:
    """Unmount everything mounted at or below `directory`, the deepest first; busy mounts are detached."""
    text = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    for point in reversed(mount_points(text, directory)):
        succeeds(["umount", "--lazy", point])


def mount_points(mountinfo: str, directory: Path) -> list[Path]:
    """The mount points at or below `directory` in the text of /proc/self/mountinfo, in the order of mounting."""
    points = (line.split()[4] for line in mountinfo.splitlines())
    # The kernel writes blanks and the like as three octal digits.
    decoded = (Path(point.encode("ascii", "backslashreplace").decode("unicode_escape")) for point in points)
    return [point for point in decoded if point.is_relative_to(directory)]


def cgroup_hierarchies() -> list[Path]:
    """Where control groups are mounted: one directory (version 2) or one for each controller (version 1)."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        left, _, right = line.partition(" - ")
        if right.split()[0] in ("cgroup", "cgroup2"):
            found.append(Path(left.split()[4]))
    return found


def container_cgroups(instance: Instance) -> list[Path]:
    """The control groups of the instance's containers; another containerd's are beside them and not listed."""
    groups = (hierarchy / CGROUP / name for hierarchy in cgroup_hierarchies() for name in container_ids(instance))
    return [group for group in groups if group.is_dir()]


def container_ids(instance: Instance) -> list[str]:
    """The ids of the instance's containers (pods' sandboxes are containers too) that run or did not end in order."""
    return [task.name for task in instance.tasks.iterdir()] if instance.tasks.is_dir() else []


def _remove_cgroup(group: Path) -> None:
    if not group.is_dir():
        return
    for child in list(group.iterdir()):
        if child.is_dir():
            _remove_cgroup(child)
    for _attempt in range(50):
        try:
            group.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError:  # the kernel still cleans up after a process that has just ended
            time.sleep(0.1)


def cgroup_processes(instance: Instance) -> set[int]:
    """The pids of all processes in the control groups of the instance's containers."""
    pids: set[int] = set()
    for group in container_cgroups(instance):
        for listing in group.rglob("cgroup.procs"):
            try:
                # A process outside of this pid namespace is listed as 0.
                pids.update(int(pid) for pid in listing.read_text(encoding="ascii").split() if int(pid) > 1)
            except OSError:  # the group went away meanwhile
                continue
    return pids


# --------------------------------------------------------------------------------------------------
# iptables

FAMILIES = ("iptables", "ip6tables")
OURS = ("KUBE-", "CNI-")
"""How the chains of kubelet, kube-proxy and the CNI plugins begin."""


def _save(family: str) -> str:
    return output([f"{family}-save"])


def chains(saved: str) -> set[tuple[str, str]]:
    """(table, chain) of every chain in the output of iptables-save."""
    found, table = set(), ""
    for line in saved.splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith(":"):
            found.add((table, line[1:].split()[0]))
    return found


def sweep_script(saved: str, keep: set[str]) -> str:
    """The input for `iptables-restore --noflush` that removes our chains and every rule that leads to them.

    `saved` is the output of iptables-save; `keep` has the chains, as `table/chain`, that are not ours whatever
    their name.
    """
    doomed = {
        (table, chain) for table, chain in chains(saved) if chain.startswith(OURS) and f"{table}/{chain}" not in keep
    }
    script: list[str] = []
    for table in sorted({table for table, _chain in doomed}):
        names = sorted(chain for owner, chain in doomed if owner == table)
        script += [f"*{table}", *_rules_leading_to(saved, table, set(names))]
        script += [f"-F {chain}" for chain in names] + [f"-X {chain}" for chain in names] + ["COMMIT"]
    return "".join(f"{line}\n" for line in script)


def _rules_leading_to(saved: str, table: str, names: set[str]) -> list[str]:
    """`-D` for each rule of other chains in `table` that jumps or goes to one of `names`."""
    lines, current = [], ""
    for line in saved.splitlines():
        if line.startswith("*"):
            current = line[1:]
        words = line.split()
        if current != table or len(words) < 2 or words[0] != "-A" or words[1] in names:
            continue
        if any(word in ("-j", "-g") and target in names for word, target in itertools.pairwise(words)):
            lines.append(f"-D{line[2:]}")
    return lines


def sweep_iptables(family: str, keep: set[str]) -> None:
    """Remove our chains from every table of `family` ('iptables' or 'ip6tables')."""
    script = sweep_script(_save(family), keep)
    if script:
        output([f"{family}-restore", "--noflush"], stdin=script)
