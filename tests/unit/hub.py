"""A stand-in of Hugging Face's Hub with one model, which tells what it was asked for."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

REPOSITORY = "birds/finch"
COMMIT = "c" * 40
#: Files from this size on are kept apart, as on the Hub.
LARGE = 1 << 20


class Hub:
    """What the stand-in has, how it misbehaves, and what it was asked for.

    :ivar files: name to content.
    :ivar stall: bytes of a large file after which nothing more comes; None for all.
    :ivar sizes: whether it tells them.
    :ivar token: the only one that it takes; None takes everybody.
    :ivar requests: method, path and range of each request for a file.
    """

    def __init__(self, **files: bytes) -> None:
        self.files = {name.replace("__", "."): content for name, content in files.items()}
        self.stall: int | None = None
        self.sizes = True
        self.token: str | None = None
        self.wrong: bytes | None = None
        self.requests: list[tuple[str, str, str | None]] = []
        self.over = threading.Event()
        self.url = ""

    def ranges(self, name: str) -> list[str | None]:
        """Return the ranges in which a file was fetched."""
        return [asked for method, path, asked in self.requests if method == "GET" and path == name]

    def about(self, name: str) -> dict[str, Any]:
        """Return what the Hub's API says of a file."""
        content = self.files[name]
        entry: dict[str, Any] = {"rfilename": name, "blobId": hashlib.sha1(content).hexdigest()}
        if self.sizes:
            entry["size"] = len(content)
        if len(content) >= LARGE:
            entry["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
        return entry


@contextmanager
def serving(hub: Hub, address: str = "127.0.0.1") -> Iterator[Hub]:
    """Serve ``hub`` meanwhile."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
                self._answer(401, b"{}", {"X-Error-Code": "RepoNotFound"})
            elif found := re.fullmatch(rf"/api/models/{REPOSITORY}(/revision/(\w+))?", path):
                if found[2] not in (None, "main", COMMIT):
                    self._answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
                    return
                told = {"id": REPOSITORY, "sha": COMMIT, "siblings": [hub.about(name) for name in hub.files]}
                self._answer(200, json.dumps(told).encode())
            elif path == f"/api/models/{REPOSITORY}/tree/{COMMIT}":
                self._answer(200, json.dumps([self._entry(name) for name in hub.files]).encode())
            elif found := re.fullmatch(rf"/{REPOSITORY}/resolve/\w+/(.+)", path):
                self._file(found[1])
            elif f"/{REPOSITORY}/" in path:
                self._answer(404, b"{}", {"X-Error-Code": "EntryNotFound"})
            else:
                self._answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})

        def _entry(self, name: str) -> dict[str, Any]:
            about = hub.about(name)
            entry = {"type": "file", "path": name, "oid": about["blobId"], "size": len(hub.files[name])}
            if "lfs" in about:
                entry["lfs"] = {"oid": about["lfs"]["sha256"], "size": entry["size"], "pointerSize": 134}
            return entry

        def _file(self, name: str) -> None:
            if name not in hub.files:
                self._answer(404, b"{}", {"X-Error-Code": "EntryNotFound"})
                return
            content, about, asked = hub.files[name], hub.about(name), self.headers.get("Range")
            hub.requests.append((self.command, name, asked))
            tag = about["lfs"]["sha256"] if "lfs" in about else about["blobId"]
            headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{tag}"', "Accept-Ranges": "bytes"}
            if "lfs" in about:
                headers |= {"X-Linked-Etag": f'"{tag}"', "X-Linked-Size": str(len(content))}
                content = hub.wrong or content
            if not asked:
                self._answer(200, content, headers)
                return
            start = int(asked.removeprefix("bytes=").partition("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self._answer(206, content[start:], headers, hub.stall)

        def _answer(
            self, status: int, body: bytes, headers: dict[str, str] | None = None, stall: int | None = None
        ) -> None:
            self.send_response(status)
            for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "HEAD":
                return
            self.wfile.write(body[:stall])
            if stall is not None:
                hub.over.wait(60)

        def log_message(self, *_words: Any) -> None:
            pass

    server = ThreadingHTTPServer((address, 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hub.url = f"http://{address}:{server.server_port}"
    try:
        yield hub
    finally:
        hub.over.set()
        server.shutdown()
        server.server_close()
