"""The load of the rollouts' tests: an answer counts when it is whole, and each that is not is found again."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import pytest
from ansible_collections.llm_d.multi_engine.tests.load.load import Load, Record, per_second, read, told

CHOICE = {"choices": [{"text": " one", "finish_reason": None}]}
LAST = {"choices": [{"text": " two", "finish_reason": "length"}]}


def events(*items: object) -> bytes:
    return b"".join(f"data: {item if isinstance(item, str) else json.dumps(item)}\n\n".encode() for item in items)


#: By model: status and body, and what is said of it.
ANSWERS: dict[str, tuple[int, bytes, str]] = {
    "plain": (200, json.dumps(LAST).encode(), ""),
    "stream": (200, events(CHOICE, LAST, "[DONE]"), ""),
    "refused": (503, b"no healthy upstream", "503 'no healthy upstream'"),
    "cut": (200, events(CHOICE, CHOICE), "the stream ended without [DONE]"),
    "endless": (200, events(CHOICE, "[DONE]"), "it has no end"),
    "failing": (200, events(CHOICE, {"error": {"message": "gone"}}, "[DONE]"), "an error in the stream"),
    "half": (200, b'{"choices": [', "JSONDecodeError"),
    "hung": (0, b"", "ConnectionError"),
}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status, content, _why = ANSWERS[body["model"]]
        if not status:
            self.close_connection = True
            return
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


@pytest.fixture
def address() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


# Looked for and not imported: Locust changes how threads work.
@pytest.mark.skipif(not find_spec("locust"), reason="only the newest environment has Locust")
def test_only_whole_answers_count(address: str) -> None:
    streamed = ("stream", "cut", "endless", "failing")
    with Load(address, [{"model": model, "stream": model in streamed} for model in ANSWERS], pace=0.2) as load:
        pass
    for model, (_status, _body, why) in ANSWERS.items():
        found = {record.why for record in load.records() if record.model == model}
        assert len(found) == 1, (model, found)
        assert why in found.pop() if why else found == {""}, model
    assert {record.model for record in load.failures()} == ANSWERS.keys() - {"plain", "stream"}
    with pytest.raises(AssertionError, match="refused plain, after"):
        load.unharmed()
    assert sum(row["failed"] for row in load.traffic()) == len(load.failures())


def record(at: float, why: str = "", ms: float = 100.0) -> Record:
    return Record(at, "a", False, ms, why)


def test_seconds_without_a_request_are_told() -> None:
    rows = per_second([record(10.9), record(10.1, ms=300.0), record(13.0, "gone"), record(13.5)])
    assert [tuple(row.values()) for row in rows] == [
        (10, 2, 0, 200.0),
        (11, 0, 0, None),
        (12, 0, 0, None),
        (13, 1, 1, 100.0),
    ]
    assert per_second([]) == []


def test_failures_say_when_and_why() -> None:
    assert told([record(12.5, "503 'x'")], 10.0) == "+2.5 s a plain, after 100 ms: 503 'x'"


def test_a_line_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "records"
    assert read(path) == []
    line = json.dumps({"at": 1.0, "model": "a", "stream": False, "ms": 1.0, "why": ""})
    path.write_text(f"{line}\n{line[:20]}")
    assert len(read(path)) == 1
