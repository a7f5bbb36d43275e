"""Installs the Debian packages of `debian-packages.txt` that are missing."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cache import lock
from log import Log, Step
from paths import HERE, cache_dir
from shell import ClusterError, logged

POLICY = Path("/usr/sbin/policy-rc.d")
"""Debian asks this program whether a package may start its service."""


def wanted(directory: Path = HERE) -> list[str]:
    """The package names of the directory's `debian-packages.txt`."""
    lines = (directory / "debian-packages.txt").read_text(encoding="utf-8").splitlines()
    return [name for line in lines if (name := line.split("#")[0].strip())]


def missing(packages: list[str]) -> list[str]:
    """Those of `packages` that are not installed."""
    query = ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *packages]
    said = subprocess.run(query, capture_output=True, text=True, check=False).stdout
    installed = {line.split()[0] for line in said.splitlines() if line.endswith(" installed")}
    return [package for package in packages if package not in installed]


def installed_version(package: str) -> str:
    """The upstream part of an installed package's version, or '' when it is not installed."""
    query = ["dpkg-query", "-W", "-f", "${Version}", package]
    said = subprocess.run(query, capture_output=True, text=True, check=False).stdout
    return re.split(r"[-~+]", said)[0]


def install(log: Log, directory: Path = HERE) -> None:
    """Install what of the directory's list is missing; nothing is asked of the network when nothing is. Needs root.

    Raises ClusterError when this is not a Debian, or with apt's last lines when it fails.
    """
    if not shutil.which("dpkg-query") or not shutil.which("apt-get"):
        raise ClusterError("the tests install etcd, containerd, podman and more with apt-get; there is none here")
    # Two clusters may be started at once, and apt-get does not wait for another one.
    with log.step("Debian packages") as step, lock("debian-packages"):
        packages = missing(wanted(directory))
        if not packages:
            step.cached(f"{len(wanted(directory))} installed")
            return
        step.note(f"installed {' '.join(packages)}")
        with _services_stay_down():
            _apt_get(["update"], step)
            _apt_get(["install", "-y", "--no-install-recommends", *packages], step)


def _apt_get(arguments: list[str], step: Step) -> None:
    logged(
        ["apt-get", "-q", *arguments],
        cache_dir() / "logs" / f"apt-{arguments[0]}.log",
        step,
        env={"DEBIAN_FRONTEND": "noninteractive"},
    )


@contextmanager
def _services_stay_down() -> Iterator[None]:
    """Keep the packages' own etcd and containerd services from starting; a policy that is there already stays."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n", encoding="utf-8")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink(missing_ok=True)
