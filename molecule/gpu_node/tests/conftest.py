"""Playbooks run against made-up hosts, and what is on them before and after."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
BIN = Path(sys.executable).parent
STATE = Path("/var/lib/llm-d-gpu-hosts")
PODMAN = [
    "podman",
    "--root",
    str(STATE / "storage"),
    "--runroot",
    "/run/llm-d-gpu-hosts",
    "--cgroup-manager",
    "cgroupfs",
]
PODMAN += ["--runtime", "runc"]


@dataclass
class Run:
    """What a run of ansible-playbook ended with.

    :ivar changed: names of changed tasks.
    :ivar hosts: per host the names of its changed tasks.
    :ivar message: what failed, as the user reads it.
    """

    rc: int
    output: str
    changed: list[str]
    message: str
    hosts: dict[str, list[str]]

    def ok(self) -> Run:
        assert self.rc == 0, self.message or self.output[-5000:]
        return self


class GpuHost:
    """A made-up host."""

    def __init__(self, name: str = "gpu-1") -> None:
        self.name = name

    ROOT = ROOT

    def run(self, command: str) -> str:
        """Return what a shell command prints; it has to succeed."""
        done = subprocess.run(
            [*PODMAN, "exec", self.name, "sh", "-c", command], check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    def write(self, path: str, content: str) -> None:
        command = [*PODMAN, "exec", "-i", self.name, "sh", "-c", f"cat > {path}"]
        subprocess.run(command, check=True, input=content, text=True)

    def state(self) -> str:
        """Return all that a run could change: files of /etc with their content, packages, holds, services."""
        return self.run(
            # Not what looking leaves: apt and ansible write below /var and /root.
            "find /etc /var/lib/llm-d -type f 2>/dev/null | sort | xargs sha256sum;"
            " dpkg-query -W; apt-mark showhold; systemctl list-unit-files --no-legend; systemctl show -P MainPID containerd"
        )

    def versions(self) -> dict[str, str]:
        """Return installed packages of NVIDIA."""
        lines = self.run("dpkg-query -W -f '${Package} ${Version}\\n' '*nvidia*'").splitlines()
        return dict(line.split() for line in lines if len(line.split()) == 2)

    def playbook(
        self, *options: str, limit: str = "", playbook: str = "llm_d.multi_engine.gpu_nodes", **variables: object
    ) -> Run:
        """Run a playbook on the host, or on ``limit``, with ``variables`` on top of the inventory."""
        words = [str(BIN / "ansible-playbook"), "-i", str(ROOT / "molecule/gpu_node/inventory/hosts.yml"), *options]
        words += ["--limit", f"localhost,{limit or self.name}", "-e", json.dumps(variables), playbook]
        environment = {
            **os.environ,
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
            "ANSIBLE_JSON_INDENT": "0",
        }
        done = subprocess.run(words, check=False, capture_output=True, text=True, env=environment, cwd=ROOT)
        reports = [line for line in done.stdout.splitlines() if line.startswith("{")]
        assert reports, done.stdout + done.stderr
        changed, failed = {}, []
        for play in json.loads(reports[-1])["plays"]:
            for task in play["tasks"]:
                for host, result in task["hosts"].items():
                    name = task["task"]["name"].rpartition(" : ")[2]
                    changed.setdefault(host, []).extend([name] if result.get("changed") else [])
                    failed += [str(result.get("msg", result))] if result.get("failed") else []
        every = [name for names in changed.values() for name in names]
        return Run(done.returncode, done.stdout + done.stderr, every, "\n".join(failed), changed)


@pytest.fixture(scope="session")
def gpu_host() -> GpuHost:
    return GpuHost()


@pytest.fixture
def unchanged(gpu_host: GpuHost):
    """Assert that a test leaves the host as it was."""
    before = gpu_host.state()
    yield
    assert gpu_host.state() == before
