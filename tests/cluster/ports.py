"""Finds out whether a TCP port is taken, and by whom."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

LISTEN = "0A"
"""The state of a listening socket in /proc/net/tcp."""


def listening(table: str) -> dict[int, set[str]]:
    """Ports with listening sockets, and the sockets' inodes, from the text of /proc/net/tcp or tcp6."""
    found: dict[int, set[str]] = {}
    for line in table.splitlines()[1:]:
        fields = line.split()
        if fields[3] == LISTEN:
            found.setdefault(int(fields[1].rsplit(":", 1)[1], 16), set()).add(fields[9])
    return found


def listeners() -> dict[int, set[str]]:
    """Every TCP port that somebody listens on in this network namespace, and the sockets' inodes."""
    found: dict[int, set[str]] = {}
    for family in ("tcp", "tcp6"):
        table = Path("/proc/net") / family
        if table.exists():
            for port, inodes in listening(table.read_text(encoding="ascii")).items():
                found.setdefault(port, set()).update(inodes)
    return found


def holder(inodes: Iterable[str]) -> str:
    """The process that has one of the sockets `inodes` open, as `name (pid N)`, or '' when it cannot be seen."""
    targets = {f"socket:[{inode}]" for inode in inodes}
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and targets & _open_files(process):
            name = (process / "comm").read_text(encoding="utf-8", errors="replace").strip()
            return f"{name} (pid {process.name})"
    return ""


def _open_files(process: Path) -> set[str]:
    try:
        return {os.readlink(entry) for entry in os.scandir(process / "fd")}
    except OSError:  # the process has ended, or it is not ours to look at
        return set()


def conflicts(ports: dict[int, str]) -> list[str]:
    """One sentence for each of `ports` (port: what we need it for) that is taken."""
    taken = listeners()
    sentences = []
    for port, purpose in sorted(ports.items()):
        if port in taken:
            who = holder(taken[port]) or "an unknown process"
            sentences.append(f"port {port} ({purpose}) is in use by {who}")
    return sentences
