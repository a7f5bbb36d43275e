"""Long-running processes that outlive this program, each known by a record in the state directory.

A record is only believed when the process it names has the same start time and the machine has not been
booted since, so a pid that now belongs to somebody else is never taken for ours, nor killed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from shell import ClusterError, tail

STOP_SECONDS = 10
"""Seconds between SIGTERM and SIGKILL."""


@dataclass(frozen=True)
class Daemon:
    """One process: its name, command line, and the files whose change means that it has to be restarted."""

    name: str
    argv: tuple[str, ...]
    version: str
    reads: tuple[Path, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)

    def fingerprint(self) -> str:
        """Changes when the command line or the content of a file that it reads at its start does."""
        digest = hashlib.sha256(repr((self.argv, sorted(self.env.items()))).encode())
        for path in self.reads:
            digest.update(path.read_bytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class Record:
    """What is known of a started process: `born` is its start time in clock ticks since boot."""

    pid: int
    born: int
    boot: str
    fingerprint: str


def start_time(pid: int) -> int | None:
    """When the process `pid` started, in clock ticks since boot; None if it does not run (or is a zombie)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The second field is the name in parentheses, which may itself hold blanks and parentheses.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def boot_id() -> str:
    """The kernel's name for the time since the last boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


class Supervisor:
    """Starts and stops the daemons of one state directory."""

    def __init__(self, state: Path) -> None:
        self._records = state / "run"
        self.logs = state / "logs"

    def log_file(self, name: str) -> Path:
        """Where the daemon `name` writes."""
        return self.logs / f"{name}.log"

    def record(self, name: str) -> Record | None:
        """What is known of the daemon `name`, if it runs."""
        try:
            record = Record(**json.loads((self._records / f"{name}.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):  # none, or half-written when the machine went down
            return None
        alive = record.boot == boot_id() and start_time(record.pid) == record.born
        return record if alive else None

    def start(self, daemon: Daemon) -> bool:
        """Have `daemon` run with its present command line; returns True if it already did.

        One that runs with another command line or other files is restarted.
        """
        running = self.record(daemon.name)
        fingerprint = daemon.fingerprint()
        if running and running.fingerprint == fingerprint:
            return True
        self.stop(daemon.name)
        self._launch(daemon, fingerprint)
        return False

    def _launch(self, daemon: Daemon, fingerprint: str) -> None:
        self.logs.mkdir(parents=True, exist_ok=True)
        with self.log_file(daemon.name).open("ab") as log:
            try:
                process = subprocess.Popen(
                    daemon.argv,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd="/",
                    env={**os.environ, **daemon.env},
                    start_new_session=True,
                )
            except OSError as error:
                raise ClusterError(f"cannot start {daemon.name}: {error}") from error
        born = start_time(process.pid)
        if born is None:
            raise self.failure(daemon.name, "ended at once")
        record = {"pid": process.pid, "born": born, "boot": boot_id(), "fingerprint": fingerprint}
        self._records.mkdir(parents=True, exist_ok=True)
        (self._records / f"{daemon.name}.json").write_text(json.dumps(record), encoding="utf-8")

    def failure(self, name: str, what: str) -> ClusterError:
        """The error for a daemon that does not do its work: the end of its log, and where it is."""
        path = self.log_file(name)
        return ClusterError(f"{name} {what}; the last lines of its log:\n{tail(path)}\nlog: {path}")

    def stop(self, name: str, seconds: float = STOP_SECONDS) -> None:
        """Stop the daemon `name` if it runs: SIGTERM, and SIGKILL after `seconds`."""
        record = self.record(name)
        if record:
            terminate(record.pid, record.born, seconds)
        (self._records / f"{name}.json").unlink(missing_ok=True)

    def started(self, name: str) -> float:
        """When the daemon `name` was started, in seconds since the epoch; 0 if it never was."""
        record = self._records / f"{name}.json"
        return record.stat().st_mtime if record.exists() else 0.0

    def names(self) -> list[str]:
        """The daemons that have a record, running or not."""
        return sorted(path.stem for path in self._records.glob("*.json"))


def terminate(pid: int, born: int, seconds: float) -> None:
    """End the process `pid` that was started at `born`, and wait until it is gone."""
    for number, patience in ((signal.SIGTERM, seconds), (signal.SIGKILL, 10.0)):
        if start_time(pid) != born:
            return
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return
        _wait_for_end(pid, born, patience)


def _wait_for_end(pid: int, born: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while start_time(pid) == born and time.monotonic() < deadline:
        _reap(pid)
        time.sleep(0.05)


def _reap(pid: int) -> None:
    """Collect the exit status if the process is our own child (started by this very run)."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
