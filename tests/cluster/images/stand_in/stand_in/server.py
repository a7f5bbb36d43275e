"""HTTP as uvicorn speaks it, and an engine's life from the start to SIGTERM."""

from __future__ import annotations

import ipaddress
import json
import os
import select
import signal
import socket
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from .work import Aborted, Failed, Latencies, Work

HANG_SECONDS = 60
"""How long a connection is held open that will never be answered."""


ENDS = {signal.SIGTERM, signal.SIGINT}
"""The signals that end an engine."""


def setting(name: str, default: float) -> float:
    """The environment's STAND_IN_<name> as a number."""
    return float(os.environ.get(f"STAND_IN_{name}", default))


class Refused(Exception):
    """A request that is answered with an error: its status and body."""

    def __init__(self, status: int, body: Any) -> None:
        super().__init__(status)
        self.status = status
        self.body = body


class Request(BaseHTTPRequestHandler):
    """One request. The engine's methods answer it through `send_json`, `send_text`, `send_empty` and `send_events`."""

    protocol_version = "HTTP/1.1"
    engine: Engine
    """Set by the class that `serve` makes."""

    @property
    def route(self) -> str:
        """The path without the query."""
        return self.path.split("?", 1)[0]

    def version_string(self) -> str:
        """The value of the `server` header."""
        return "uvicorn"

    def do_GET(self) -> None:
        """Answer a GET."""
        self._answer()

    def do_POST(self) -> None:
        """Answer a POST."""
        self._answer()

    def body(self) -> Any:
        """The request's body as JSON. Raises ValueError."""
        return json.loads(self._content)

    def send_json(self, value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        """Answer with JSON."""
        self._send(status, json.dumps(value, separators=(",", ":")).encode(), "application/json", headers)

    def send_text(self, text: str, kind: str | None = None) -> None:
        """Answer with text."""
        self._send(200, text.encode(), kind)

    def send_empty(self, status: int = 200) -> None:
        """Answer with a status only."""
        self._send(status, b"", None)

    def send_events(self, events: Iterable[Any]) -> None:
        """Answer with server-sent events, each when it is there, and the last `[DONE]`."""
        # The first one is asked for before anything is sent: until then the answer may still be an error.
        waiting = iter(events)
        first = next(waiting, None)
        self.send_response(200)
        self.send_header("content-type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if first is not None:
            self._event(json.dumps(first, separators=(",", ":")))
        for event in waiting:
            self._event(json.dumps(event, separators=(",", ":")))
        self._event("[DONE]")
        self.wfile.write(b"0\r\n\r\n")

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """The access log."""
        if self.engine.logs_access(self.route):
            client = ":".join(str(part) for part in self.client_address[:2])
            print(f'INFO:     {client} - "{self.requestline}" {int(code)}', flush=True)

    def _answer(self) -> None:
        self._content = self._read_content()
        try:
            self.engine.answer(self)
        except Refused as refused:
            self.send_json(refused.body, refused.status)
        except Failed:
            self.send_json(
                {"error": {"message": "Internal Server Error", "type": "InternalServerError", "code": 500}}, 500
            )
        except Aborted:
            self._hang()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _read_content(self) -> bytes:
        """The body, whole or in chunks; a gateway that lets an endpoint picker read it sends chunks."""
        if self.headers.get("transfer-encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("content-length") or 0))
        pieces = []
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():  # trailers
            pass
        return b"".join(pieces)

    def _hang(self) -> None:
        """Hold the connection open without an answer until the client has had enough."""
        self.close_connection = True
        with self.engine.hanging():
            select.select([self.connection], [], [], HANG_SECONDS)

    def _event(self, text: str) -> None:
        chunk = f"data: {text}\n\n".encode()
        self.wfile.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
        self.wfile.flush()

    def _send(self, status: int, content: bytes, kind: str | None, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(content)))
        if kind:
            self.send_header("content-type", kind)
        self.end_headers()
        self.wfile.write(content)


Handler = Callable[[Request], None]


class Engine:
    """What both engines have. `routes` says what is answered: path to method to handler."""

    def __init__(self, arguments: Namespace, work: Work) -> None:
        self.arguments = arguments
        self.work = work
        self.up = False
        self.draining = False
        self.routes: dict[str, dict[str, Handler]] = {}
        self._hanging = 0
        self._lock = threading.Lock()

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Count a connection that will never be answered."""
        with self._lock:
            self._hanging += 1
        try:
            yield
        finally:
            with self._lock:
                self._hanging -= 1

    def wait_for_hanging(self) -> None:
        """Wait until the last client of a killed engine has gone."""
        while self.work.busy or self._hanging:
            time.sleep(0.1)

    def answer(self, request: Request) -> None:
        """Answer one request."""
        if not self.authorized(request):
            raise Refused(401, {"error": "Unauthorized"})
        methods = self.find(request.route)
        if not methods:
            raise Refused(404, {"detail": "Not Found"})
        if request.command not in methods:
            allowed = ", ".join(sorted(methods))
            request.send_json({"detail": "Method Not Allowed"}, 405, {"allow": allowed})
            return
        methods[request.command](request)

    def find(self, route: str) -> dict[str, Handler]:
        """The handlers of a path by method."""
        return self.routes.get(route, {})

    def authorized(self, request: Request) -> bool:
        """Whether the request may be answered."""
        raise NotImplementedError

    def logs_access(self, route: str) -> bool:
        """Whether requests for this path are logged."""
        raise NotImplementedError

    def warm_up(self) -> None:
        """What comes between the open port and readiness."""

    def stop(self, server: ThreadingHTTPServer) -> None:
        """What SIGTERM starts; the process ends with status 0 when it returns."""
        raise NotImplementedError


def bearer(request: Request) -> str:
    """The token of the `Authorization` header, empty where there is none."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token if scheme.lower() == "bearer" else ""


def run(make_engine: Callable[[], Engine], host: str, port: int) -> None:
    """Live as an engine does. Returns after SIGTERM, when all is done.

    Until the port is open SIGTERM keeps its default, like the engines': it ends the process, except as the first
    process of a container, where the kernel then ignores it.
    """
    time.sleep(setting("LOAD_SECONDS", 1.0))
    engine = make_engine()
    # Blocked and waited for, not handled: a handler that sets an event can meet the wait for it and block for ever.
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDS)
    server = _listen(engine, host, port)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    print(f"INFO:     Uvicorn running on http://{host}:{server.server_port} (Press CTRL+C to quit)", flush=True)
    engine.warm_up()
    engine.up = True
    signal.sigwait(ENDS)
    engine.stop(server)
    sys.stdout.flush()
    # Connections that hang do not hold the process.
    os._exit(0)


def _listen(engine: Engine, host: str, port: int) -> ThreadingHTTPServer:
    class Bound(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 2048
        address_family = socket.AF_INET6 if _is_ipv6(host) else socket.AF_INET

    return Bound((host, port), type("Bound", (Request,), {"engine": engine}))


def _is_ipv6(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).version == 6
    except ValueError:
        return False


def histogram(name: str, text: str, labels: Mapping[str, str], latencies: Latencies) -> str:
    """One histogram in Prometheus' text format."""
    bounds = [*map(str, map(float, latencies.bounds)), "+Inf"]
    counts = [*latencies.counts, latencies.count]
    lines = [f"# HELP {name} {text}\n# TYPE {name} histogram\n"]
    lines += [_sample(f"{name}_bucket", {**labels, "le": bound}, n) for bound, n in zip(bounds, counts, strict=True)]
    lines += [_sample(f"{name}_count", labels, latencies.count), _sample(f"{name}_sum", labels, latencies.sum)]
    # Nothing is said of what was never observed.
    return "".join(lines if latencies.count else lines[:1])


def metric(name: str, kind: str, text: str, samples: Iterable[tuple[Mapping[str, str], float]]) -> str:
    """One metric in Prometheus' text format."""
    head = f"# HELP {name} {text}\n# TYPE {name} {kind}\n"
    return head + "".join(_sample(name, labels, value) for labels, value in samples)


def _sample(name: str, labels: Mapping[str, str], value: float) -> str:
    listed = ",".join(f'{key}="{labels[key]}"' for key in sorted(labels))
    return f"{name}{{{listed}}} {float(value)}\n"
