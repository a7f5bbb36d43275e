"""Requests to a gateway for as long as something is tested, by Locust, and what became of each of them.

with Load("http://10.96.0.7", [{"model": "birds/swift"}, {"model": "birds/swift", "stream": True}]) as load:
    ...  # what is tested
load.unharmed()
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

LOCUSTFILE = Path(__file__).with_name("locustfile.py")
#: Seconds that requests in flight get at the end, and that the first one may take.
STOP, START = 60, 30


@dataclass(frozen=True)
class Record:
    """One request.

    :ivar at: when it began, in seconds since the epoch.
    :ivar ms: how long its whole answer took, in milliseconds.
    :ivar why: what was wrong with it; nothing when it was answered.
    """

    at: float
    model: str
    stream: bool
    ms: float
    why: str


def read(path: Path) -> list[Record]:
    """Return the requests that are written down, by their beginnings; a line that is not whole yet is left out."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    records = [Record(**json.loads(line)) for line in lines if line.endswith("\n")]
    return sorted(records, key=lambda record: record.at)


def per_second(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Return a record a second, as the timeline of a rollout takes them; a second without a request has one, too."""
    if not records:
        return []
    rows: dict[int, list[Record]] = {}
    for record in records:
        rows.setdefault(int(record.at), []).append(record)
    found = []
    for second in range(min(rows), max(rows) + 1):
        good = [record.ms for record in rows.get(second, ()) if not record.why]
        failed = len(rows.get(second, ())) - len(good)
        latency = round(sum(good) / len(good), 1) if good else None
        found.append({"at": second, "ok": len(good), "failed": failed, "latency_ms": latency})
    return found


def told(failures: Sequence[Record], since: float) -> str:
    """Return when and why each of ``failures`` failed, a line each; ``since`` is when it all began."""
    return "\n".join(
        f"+{record.at - since:.1f} s {record.model} {'stream' if record.stream else 'plain'},"
        f" after {record.ms:.0f} ms: {record.why}"
        for record in failures
    )


class Load:
    """Locust, from the first answer to the last."""

    def __init__(self, address: str, targets: Sequence[dict[str, Any]], pace: float = 0.5) -> None:
        """
        :param address: of the gateway, such as ``http://10.96.0.7``.
        :param targets: ``{model, path, stream, max_tokens, headers}``, only the first is needed; a client for each.
        :param pace: seconds between the beginnings of a client's requests.
        """
        self._folder = tempfile.TemporaryDirectory(prefix="load-")
        self.path, self._log = Path(self._folder.name) / "records", Path(self._folder.name) / "log"
        self.began = time.time()
        self._command = [
            *(sys.executable, "-m", "locust", "--locustfile", str(LOCUSTFILE), "--host", address, "--headless"),
            *("--users", str(len(targets)), "--spawn-rate", str(len(targets)), "--stop-timeout", str(STOP)),
            *("--only-summary", "--skip-log-setup"),
        ]
        self._environment = {
            **os.environ,
            "LOAD_TARGETS": json.dumps(targets),
            "LOAD_RECORDS": str(self.path),
            "LOAD_PACE": str(pace),
        }

    def __enter__(self) -> Load:  # noqa: PYI034 (typing.Self came with Python 3.11)
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                self._command, env=self._environment, stdout=log, stderr=subprocess.STDOUT, cwd=self._folder.name
            )
        deadline = time.monotonic() + START
        while not self.records():
            running = self._process.poll() is None
            if not running or time.monotonic() > deadline:
                self._stop()
                raise AssertionError(f"no request after {START} s: {self._log.read_text()[-2000:]}")
            time.sleep(0.1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # What a change breaks, it may break a moment later.
        time.sleep(1)
        died = self._process.poll() is not None
        self._stop()
        self._records = read(self.path)
        log = self._log.read_text()
        self._folder.cleanup()
        assert not died or error, f"the requests stopped before what was tested did: {log[-2000:]}"

    def _stop(self) -> None:
        """Let requests in flight end, but no others begin."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP + 10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def records(self) -> list[Record]:
        """Return the requests so far, or all of them at the end."""
        return read(self.path) if self.path.exists() else getattr(self, "_records", [])

    def failures(self) -> list[Record]:
        """Return the requests that were not answered as they should be."""
        return [record for record in self.records() if record.why]

    def traffic(self) -> list[dict[str, Any]]:
        """Return a record a second, for the timeline."""
        return per_second(self.records())

    def unharmed(self, at_least: int = 10) -> None:
        """Assert that requests were answered, all of them."""
        failures = self.failures()
        assert not failures, told(failures, self.began)
        answered = len(self.records())
        assert answered >= at_least, f"{answered} requests prove nothing"
