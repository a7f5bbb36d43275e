"""Ends programs as a machine does that loses its power."""

from __future__ import annotations

import contextlib

import psutil


def kill(pid: int) -> None:
    """Kill a process and all that it has started: Ansible's workers are sessions of their own, and would stay."""
    first = psutil.Process(pid)
    for process in [first, *first.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
