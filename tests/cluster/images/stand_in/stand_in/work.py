"""The requests that an engine works on, and what it counts of them."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator

WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
"""What the text is made of."""


CRASHED = 139
"""The status that a crash ends with, as a segmentation fault does."""


class Aborted(Exception):
    """The engine is gone, and the request with it."""


class Failed(Exception):
    """The engine cannot answer this request."""


def limit(name: str) -> int | None:
    """The environment's STAND_IN_<name>, a number of completions."""
    text = os.environ.get(f"STAND_IN_{name}")
    return int(text) if text else None


class Latencies:
    """A histogram of seconds."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * len(bounds)
        self.count = 0
        self.sum = 0.0

    def add(self, seconds: float) -> None:
        """Count one more request."""
        self.count += 1
        self.sum += seconds
        for at, bound in enumerate(self.bounds):
            self.counts[at] += seconds <= bound


class Work:
    """A queue in front of `slots` requests that run at once, and a cache of `capacity` tokens."""

    def __init__(self, slots: int, capacity: int, token_seconds: float, bounds: tuple[float, ...] = ()) -> None:
        self.capacity = capacity
        self.latencies = Latencies(bounds)
        self.aborted = 0
        self._begun = 0
        self._fail_after, self._crash_after = limit("FAIL_AFTER"), limit("CRASH_AFTER")
        self._slots = slots
        self._token_seconds = token_seconds
        self._changed = threading.Condition()
        self._killed = threading.Event()
        self.running = 0
        self.waiting = 0
        self.tokens = 0
        self.finished = 0
        self.prompt_tokens = 0
        self.generated_tokens = 0

    @property
    def busy(self) -> bool:
        """Whether a request runs or waits."""
        return self.running + self.waiting > 0

    @property
    def usage(self) -> float:
        """How much of the cache is in use, 0 to 1."""
        return min(1.0, self.tokens / self.capacity)

    def kill(self) -> None:
        """End all requests, these and later ones, without an answer."""
        self._killed.set()
        with self._changed:
            self._changed.notify_all()

    def generate(self, prompt_tokens: int, count: int) -> Iterator[str]:
        """The words of an answer, each when its time has come. Raises Aborted when the engine is killed."""
        self._go_wrong()
        self._begin(prompt_tokens)
        produced, whole, began = 0, False, time.monotonic()
        try:
            for produced in range(1, count + 1):
                if self._killed.wait(self._token_seconds):
                    raise Aborted
                with self._changed:
                    self.tokens += 1
                yield f" {WORDS[(prompt_tokens + produced) % len(WORDS)]}"
            whole = True
        finally:
            with self._changed:
                self.finished += whole
                self.generated_tokens += produced if whole else 0
                self.aborted += not whole
                self.latencies.add(time.monotonic() - began)
            self._end(prompt_tokens + produced)

    def wait_idle(self, poll: float, limit: float | None = None) -> bool:
        """Wait until nothing runs, looking every `poll` seconds; False when `limit` seconds were not enough."""
        deadline = None if limit is None else time.monotonic() + limit
        while self.busy:
            if deadline is not None and time.monotonic() >= deadline:
                return False
            time.sleep(poll)
        return True

    def _go_wrong(self) -> None:
        """Do what the environment says, when it is time."""
        with self._changed:
            self._begun += 1
            begun = self._begun
        if self._crash_after is not None and begun > self._crash_after:
            print("Fatal Python error: Segmentation fault", file=sys.stderr, flush=True)
            os._exit(CRASHED)
        if self._fail_after is not None and begun > self._fail_after:
            raise Failed

    def _begin(self, prompt_tokens: int) -> None:
        with self._changed:
            self.waiting += 1
            self._changed.wait_for(lambda: self.running < self._slots or self._killed.is_set())
            self.waiting -= 1
            if self._killed.is_set():
                raise Aborted
            self.running += 1
            self.tokens += prompt_tokens
            self.prompt_tokens += prompt_tokens

    def _end(self, tokens: int) -> None:
        with self._changed:
            self.running -= 1
            self.tokens -= tokens
            self._changed.notify_all()
