"""Step logger: what runs now, how long it took, what came from the cache.

The output is meant for a terminal and for a CI log alike, so nothing is ever redrawn:

* a step that ends within a second prints one line;
* a longer one prints a line when it starts, one every 20 seconds, and one when it ends.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

START_LINE_AFTER = 1.0
"""Seconds after which a running step announces itself."""

PROGRESS_EVERY = 20.0
"""Seconds between two progress lines of a running step."""


class Step:
    """One running step. Only `Log.step` makes them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.started = time.monotonic()
        self.outcome = "done"
        self.detail = ""
        self.doing = ""

    @property
    def elapsed(self) -> float:
        """Seconds since the step began."""
        return time.monotonic() - self.started

    def cached(self, detail: str = "") -> None:
        """Say that there was nothing to do; `detail` says what was found."""
        self.outcome = "cached"
        self.detail = detail or self.detail

    def note(self, detail: str) -> None:
        """Add `detail` to the step's last line."""
        self.detail = detail

    def progress(self, doing: str) -> None:
        """Set what the next progress line says; safe to call often and from another thread."""
        self.doing = doing


class Log:
    """Prints steps to `stream` (standard error by default, so that commands can be piped)."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._lock = threading.Lock()

    def info(self, text: str) -> None:
        """Print one line as it is."""
        with self._lock:
            print(text, file=self._stream, flush=True)

    def warn(self, text: str) -> None:
        """Print one line that stands out."""
        self.info(f"WARNING: {text}")

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """Run the body as the step `name`; an exception is reported and passed on.

        >>> with Log().step("image pause:3.10") as step:  # doctest: +SKIP
        ...     step.cached("sha256:1f5c...")
        """
        step = Step(name)
        finished = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(step, finished), daemon=True)
        watcher.start()
        try:
            yield step
        except BaseException:
            step.outcome = "FAILED"
            raise
        finally:
            finished.set()
            watcher.join()
            self._line(step, step.outcome, step.detail)

    def _watch(self, step: Step, finished: threading.Event) -> None:
        """Print the start line and the progress lines of `step` until it has `finished`."""
        if finished.wait(START_LINE_AFTER):
            return
        self._line(step, "...", "")
        while not finished.wait(PROGRESS_EVERY):
            self._line(step, "...", step.doing)

    def _line(self, step: Step, outcome: str, detail: str) -> None:
        text = f"{step.name:<60} {outcome:<7} {step.elapsed:6.1f} s"
        self.info(f"{text}  {detail}".rstrip())
