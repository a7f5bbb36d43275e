"""Made-up GPU hosts: Debian with systemd in podman, GPUs in their sysfs, NVIDIA's packages as stand-ins.

python tests/hosts up      make what is missing and start them
python tests/hosts down    remove them; keeps the cache

gpu-1 has NVSwitches, gpu-2 and gpu-3 have not. A reboot ends and starts again all that a host runs; its kernel is the
machine's and goes on, so a unit does what the kernel would do at boot: it shows the installed driver as the loaded one.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import time
from pathlib import Path

import places  # first: it makes the cluster's programs importable

import debian  # isort: skip
import repository  # isort: skip
from cache import lock  # isort: skip
from log import Log, Step  # isort: skip
from paths import cache_dir  # isort: skip
from shell import ClusterError, logged, output, succeeds  # isort: skip

RELEASE = "bookworm"
BOOT_DEADLINE = 60
# What a host of a test needs that NVIDIA's packages do not bring.
INCLUDE = "systemd,systemd-sysv,dbus,kmod,procps,python3,python3-apt,containerd,iproute2,ca-certificates"
# Limits that need CAP_SYS_RESOURCE, which not every machine of a test has.
CONTAINERD_UNIT = "[Service]\nOOMScoreAdjust=0\nLimitNPROC=1024\nLimitCORE=0\nLimitNOFILE=1024\n"
CONTAINERS_CONF = """[containers]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""
COMMAND = (
    "mmdebstrap",
    "--quiet",
    "--mode=root",
    "--variant=minbase",
    f"--include={INCLUDE}",
    '--aptopt=Apt::Install-Recommends "false"',
    *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "info", "locale", "man")),
    # Nothing of a host comes from Debian's own mirrors: it has no network.
    "--customize-hook=rm -rf $1/etc/apt/sources.list $1/etc/apt/sources.list.d/* $1/var/lib/apt/lists/* $1/var/cache/apt/*",
    RELEASE,
)
# Vendor, device and class: two H100, and two NVSwitches.
GPUS = dict.fromkeys(("0000:1b:00.0", "0000:43:00.0"), ("0x10de", "0x2330", "0x030200"))
NVSWITCHES = dict.fromkeys(("0000:05:00.0", "0000:06:00.0"), ("0x10de", "0x22a3", "0x068000"))
HOSTS = {"gpu-1": {**GPUS, **NVSWITCHES}, "gpu-2": GPUS, "gpu-3": GPUS}


def podman(*arguments: str | Path) -> list[str | Path]:
    """A command line of podman with a storage of our own."""
    places_of = ["--root", places.STATE / "storage", "--runroot", "/run/llm-d-gpu-hosts"]
    return ["podman", *places_of, "--cgroup-manager", "cgroupfs", "--runtime", "runc", *arguments]


def root_archive(step: Step) -> Path:
    """The host's file system in the cache, keyed by what it is made from."""
    key = hashlib.sha256(" ".join(COMMAND).encode()).hexdigest()[:12]
    path = cache_dir() / "images" / "layers" / f"gpu-host-{RELEASE}-{key}.tar"
    with lock("gpu-host"):
        if path.exists():
            step.cached(path.name)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f".{path.name}")
            logged([*COMMAND, partial], cache_dir() / "logs" / "mmdebstrap-gpu-host.log", step)
            partial.replace(path)
    return path


# Stands in for the kernel: a module that it refuses (Secure Boot, say) is not loaded. The module's own words are kept.
LOAD_DRIVER = """#!/bin/sh
module=/lib/modules/$(uname -r)/updates/dkms/nvidia.ko
[ -e $module ] && [ ! -e /etc/made-up/refuse-driver ] || exit 0
version=$(tr '\\0' '\\n' < $module | sed -n 's/^version=//p')
mkdir -p /run/made-up/nvidia
echo "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  $version  Release Build  (made up)" > /run/made-up/nvidia/version
mount --bind /run/made-up /proc/driver
"""
UNITS = {
    "load-driver.service": "[Unit]\nBefore=nvidia-persistenced.service nvidia-fabricmanager.service\n"
    "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/usr/local/sbin/load-driver\n",
    "multi-user.target.d/10-test.conf": "[Unit]\nWants=load-driver.service\nAfter=load-driver.service\n",
    "containerd.service.d/10-test.conf": CONTAINERD_UNIT,
}


def made_up(folder: Path, devices: dict[str, tuple[str, str, str]]) -> list[str]:
    """Write what a host sees instead of the machine's own; returns podman's options for it."""
    for address, values in devices.items():
        device = folder / "devices" / address
        device.mkdir(parents=True, exist_ok=True)
        for name, value in zip(("vendor", "device", "class"), values, strict=True):
            (device / name).write_text(f"{value}\n", encoding="ascii")
    modules = folder / "modules" / repository.KERNEL
    modules.mkdir(parents=True, exist_ok=True)
    (modules / "modules.dep").write_text("updates/dkms/nvidia.ko:\n", encoding="ascii")
    script = folder / "load-driver"
    script.write_text(LOAD_DRIVER, encoding="ascii")
    script.chmod(0o755)
    mounts = {
        folder / "devices": "/sys/bus/pci/devices:ro",
        folder / "modules": "/lib/modules",
        script: "/usr/local/sbin/load-driver:ro",
        places.REPOSITORY: "/srv/nvidia:ro",
    }
    for name, content in UNITS.items():
        unit = folder / name.replace("/", "-")
        unit.write_text(content, encoding="ascii")
        mounts[unit] = f"/etc/systemd/system/{name}:ro"
    return [word for source, target in mounts.items() for word in ("--volume", f"{source}:{target}")]


def up(log: Log) -> None:
    """Start the hosts anew."""
    debian.install(log, places.HERE)
    down(log)
    places.STATE.mkdir(parents=True, exist_ok=True)
    (places.STATE / "containers.conf").write_text(CONTAINERS_CONF, encoding="utf-8")
    with log.step("repository of stand-ins"):
        fingerprint = repository.make(places.REPOSITORY)
        (places.STATE / "repository.json").write_text(json.dumps({"fingerprint": fingerprint}), encoding="utf-8")
    with log.step("Debian with systemd") as step:
        archive = root_archive(step)
    environment = {"CONTAINERS_CONF": str(places.STATE / "containers.conf")}
    with log.step(f"start {', '.join(HOSTS)}"):
        image = f"localhost/llm-d/gpu-host:{archive.stem}"
        output(podman("import", archive, image), env=environment)
        # What ends by itself is started again: that is a reboot.
        options = ["--detach", "--restart=always", "--privileged", "--systemd=always", "--network=none"]
        for name, devices in HOSTS.items():
            volumes = made_up(places.STATE / "made-up" / name, devices)
            names = ["--name", name, "--hostname", name]
            output(podman("run", *options, *names, *volumes, image, "/lib/systemd/systemd"), env=environment)
        for name in HOSTS:
            _wait(name, environment)


def _wait(name: str, environment: dict[str, str]) -> None:
    deadline = time.monotonic() + BOOT_DEADLINE
    running = podman("exec", name, "systemctl", "is-system-running")
    while time.monotonic() < deadline:
        if succeeds(running):
            return
        time.sleep(0.5)
    failed = output(podman("exec", name, "systemctl", "--failed", "--plain", "--no-legend"), env=environment)
    raise ClusterError(f"{name} did not start within {BOOT_DEADLINE} s; failed units:\n{failed}")


def down(log: Log) -> None:
    """Remove the hosts and everything but the cache."""
    if not places.STATE.exists():
        return
    with log.step("remove the hosts"):
        if shutil.which("podman"):
            succeeds(podman("rm", "--force", "--time", "0", *HOSTS))
            succeeds(podman("rmi", "--all", "--force"))
        shutil.rmtree(places.STATE, ignore_errors=True)


def main() -> int:
    """Run the program; an error that the user can act on is one message on standard error."""
    log = Log()
    command = {"up": up, "down": down}.get(sys.argv[1] if len(sys.argv) == 2 else "")
    if not command:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        command(log)
    except ClusterError as error:
        log.info(f"ERROR: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
