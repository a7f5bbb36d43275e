"""Clients of an inference gateway, for Locust: each asks again and again, and checks each answer to its end.

Told by the environment: LOAD_TARGETS, a JSON list of `{model, path, stream, max_tokens, headers}`, and LOAD_RECORDS,
the file that gets a line of JSON a request. `load.py` starts it. By hand, with a page that draws it:

    LOAD_TARGETS='[{"model": "tiny-qwen3"}]' LOAD_RECORDS=/tmp/records locust -f tests/load/locustfile.py -H http://...
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator
from typing import Any

from gevent.lock import Semaphore
from locust import User, constant_pacing, task
from requests import RequestException, Response, Session

TARGETS = json.loads(os.environ["LOAD_TARGETS"])
#: Seconds between the beginnings of a client's requests, and those after which one counts as lost.
PACE, TIMEOUT = float(os.environ.get("LOAD_PACE", "0.5")), float(os.environ.get("LOAD_TIMEOUT", "60"))
RECORDS = open(os.environ["LOAD_RECORDS"], "a", buffering=1, encoding="utf-8")  # noqa: SIM115 (for as long as it runs)
_writing = Semaphore()


class Wrong(Exception):
    """An answer that is not what was asked for."""


class Client(User):
    """Asks one of the targets, over a connection that it keeps.

    Not Locust's HttpUser, which takes an answer for whole before a stream of it was read.
    """

    wait_time = constant_pacing(PACE)
    count = 0

    def on_start(self) -> None:
        """Choose the target: one after the other."""
        self.target: dict[str, Any] = TARGETS[Client.count % len(TARGETS)]
        self.session = Session()
        Client.count += 1

    @task
    def ask(self) -> None:
        """Ask for a completion, and note down what became of it."""
        began, clock, why = time.time(), time.monotonic(), ""
        streamed = bool(self.target.get("stream"))
        try:
            check(self.send(streamed), streamed)
        except (RequestException, Wrong, OSError, ValueError) as error:
            why = f"{type(error).__name__}: {error}"
        passed = 1000 * (time.monotonic() - clock)
        record = {"at": began, "model": self.target["model"], "stream": streamed, "ms": round(passed, 1), "why": why}
        with _writing:
            RECORDS.write(json.dumps(record) + "\n")
        # For Locust's own table and page.
        self.environment.events.request.fire(
            request_type="stream" if streamed else "plain",
            name=self.target["model"],
            response_time=passed,
            response_length=0,
            exception=Wrong(why) if why else None,
            context={},
        )

    def send(self, streamed: bool) -> Response:
        """Send the request; the body of the answer is read by :func:`check`."""
        return self.session.post(
            f"{self.host}{self.target.get('path', '')}/v1/completions",
            json={
                "model": self.target["model"],
                "prompt": "The capital of France is",
                "max_tokens": self.target.get("max_tokens", 8),
                "stream": streamed,
            },
            headers=self.target.get("headers"),
            stream=streamed,
            timeout=TIMEOUT,
        )


def check(response: Response, streamed: bool) -> None:
    """Read ``response`` to its end. Raises Wrong when it is not the whole completion."""
    if response.status_code != 200:
        raise Wrong(f"{response.status_code} {response.text[:200]!r}")
    if streamed:
        reasons = list(_events(response.iter_lines()))
    else:
        reasons = [choice.get("finish_reason") for choice in response.json().get("choices", [])]
    if not any(reasons):
        raise Wrong(f"it has no end: finish_reason is {reasons[-1:]}")


def _events(lines: Iterable[bytes]) -> Iterator[Any]:
    """Give the finish_reason of each choice of server-sent events, which have to end with [DONE]."""
    data = ""
    for line in lines:
        if not line.startswith(b"data: "):
            continue
        data = line[6:].decode()
        if data == "[DONE]":
            return
        event = json.loads(data)
        if "error" in event:
            raise Wrong(f"an error in the stream: {data[:200]}")
        yield from (choice.get("finish_reason") for choice in event.get("choices", []))
    raise Wrong(f"the stream ended without [DONE], after {data[:200]!r}")
