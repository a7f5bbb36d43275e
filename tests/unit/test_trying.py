"""A completion of one pod or by way of a gateway, over sockets as the API server forwards them."""

from __future__ import annotations

import base64
import json
import socket
import threading
from typing import Any

import pytest
from ansible_collections.llm_d.multi_engine.plugins.module_utils import trying
from ansible_collections.llm_d.multi_engine.plugins.module_utils.cluster import Unreachable

POD = {"metadata": {"name": "qwen-1"}}
QUESTION = {"served_name": "qwen", "port": 8000, "api_key": None}
KEYED = {**QUESTION, "api_key": {"secret": "keys", "key": "one"}}
FINE = {"model": "qwen", "choices": [{"text": "Paris"}]}
LISTENER = {"name": "http", "protocol": "HTTP", "port": 80}


class Cluster:
    """Forwards to an engine that gives prepared answers, of which the last one stays.

    :param answers: status and body, or an error of the connection.
    :param together: requests that have to be there before any is answered.
    """

    def __init__(
        self, *answers: tuple[int, Any] | OSError, listeners: Any = (LISTENER,), pod: Any = POD, together: int = 1
    ) -> None:
        self._answers, self._listeners, self._pod = list(answers), list(listeners), pod
        self._together, self._lock = threading.Barrier(together, timeout=5), threading.Lock()
        self.asked: list[tuple[str, int, str]] = []

    def forwarded(self, _namespace: str, pod: str, port: int) -> socket.socket:
        with self._lock:
            answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, OSError):
            raise answer
        ours, theirs = socket.socketpair()
        threading.Thread(target=self._serve, args=(theirs, pod, port, *answer), daemon=True).start()
        return ours

    def _serve(self, end: socket.socket, pod: str, port: int, status: int, body: Any) -> None:
        request = b""
        while b"\r\n\r\n" not in request or not request.endswith(b"}"):
            request += end.recv(65536)
        self.asked.append((pod, port, request.decode()))
        try:
            self._together.wait()
        except threading.BrokenBarrierError:
            status = 503
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        end.sendall(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (status, len(data), data))
        end.close()

    def get(self, _api: str, kind: str, _name: str, _namespace: str) -> dict | None:
        if kind == "Gateway":
            return {"spec": {"listeners": self._listeners}}
        if kind == "Pod":
            if isinstance(self._pod, Exception):
                raise self._pod
            return self._pod
        return {"data": {"one": base64.b64encode(b"sk-secret").decode()}}

    def list(self, *_arguments: str) -> list[dict]:
        ready = {"conditions": [{"type": "Ready", "status": "True"}]}
        return [
            {"metadata": {"name": "gone", "deletionTimestamp": "now"}, "status": ready},
            {**GATEWAY_POD, "status": ready},
        ]


GATEWAY_POD = {"metadata": {"name": "gateway-1"}}
GATEWAY = {"name": "gateway", "namespace": "edge", "headers": {"x-multi-engine-revision": "abc"}}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trying, "_PAUSE", 0)


def test_a_pod_is_asked_for_a_completion() -> None:
    cluster = Cluster((200, FINE))
    trying.ask_pod(cluster, "llm-d", POD, QUESTION)
    ((pod, port, request),) = cluster.asked
    assert (pod, port) == ("qwen-1", 8000)
    assert request.startswith("POST /v1/completions HTTP/1.1\r\n")
    assert json.loads(request.partition("\r\n\r\n")[2])["model"] == "qwen"
    assert "Authorization" not in request


def test_an_api_server_that_is_away_says_nothing_of_the_pod() -> None:
    with pytest.raises(Unreachable):
        trying.ask_pod(Cluster(ConnectionRefusedError("refused"), pod=Unreachable("away")), "llm-d", POD, QUESTION)
    with pytest.raises(trying.Failed, match="no connection to port 8000: the pod is gone"):
        trying.ask_pod(Cluster(ConnectionRefusedError("refused"), pod=None), "llm-d", POD, QUESTION)
    # It is back, and so is the way to the pod.
    trying.ask_pod(Cluster(ConnectionRefusedError("refused"), (200, FINE)), "llm-d", POD, QUESTION)


def test_with_its_key_which_nobody_is_told() -> None:
    cluster = Cluster((401, b"wrong key sk-secret"))
    with pytest.raises(trying.Failed) as refused:
        trying.ask_pod(cluster, "llm-d", POD, KEYED)
    assert "Authorization: Bearer sk-secret" in cluster.asked[0][2]
    assert str(refused.value) == "POST /v1/completions is answered 401: wrong key (hidden)"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((500, b"CUDA error"), "is answered 500: CUDA error"),
        ((500, b""), "is answered 500: (nothing)"),
        ((200, {"model": "other", "choices": [1]}), "the completion is not of model qwen"),
        ((200, {"model": "qwen", "choices": []}), "the completion is not of model qwen"),
        ((200, b"<html>"), "the completion is not of model qwen: <html>"),
        ((200, [1]), "the completion is not of model qwen"),
        (OSError("refused"), "no connection to port 8000: refused"),
    ],
)
def test_what_is_no_completion(answer: Any, said: str) -> None:
    cluster = Cluster(answer)
    with pytest.raises(trying.Failed, match=said.replace("(", r"\(").replace(")", r"\)")):
        trying.ask_pod(cluster, "llm-d", POD, QUESTION)
    # What a pod says it is asked for once.
    assert len(cluster.asked) == (0 if isinstance(answer, OSError) else 1)


def test_many_at_once() -> None:
    cluster = Cluster((200, FINE), together=5)
    trying.ask_pod(cluster, "llm-d", POD, QUESTION, 5)
    assert len(cluster.asked) == 5
    with pytest.raises(trying.Failed, match="answered 500: CUDA error"):
        trying.ask_pod(Cluster((200, FINE), (200, FINE), (500, b"CUDA error")), "llm-d", POD, QUESTION, 3)


def test_a_gateway_is_waited_for_and_then_asked_many_times_at_once() -> None:
    cluster = Cluster((404, b""), (200, FINE))
    trying.ask_gateway(cluster, GATEWAY, "llm-d", QUESTION, 4)
    assert len(cluster.asked) == 2 + 4
    # Once there is a way, an answer is the model's: with less company it would have given another one.
    cluster = Cluster((404, b""), (200, FINE), (200, FINE), (500, b"CUDA error"), (200, FINE))
    with pytest.raises(trying.Failed, match="answered 500: CUDA error"):
        trying.ask_gateway(cluster, GATEWAY, "llm-d", QUESTION, 4)


def test_an_api_server_that_is_away_matters_more_than_a_bad_answer() -> None:
    cluster = Cluster((500, b""), ConnectionRefusedError("refused"), pod=Unreachable("away"))
    with pytest.raises(Unreachable):
        trying.ask_pod(cluster, "llm-d", POD, QUESTION, 3)


def test_who_is_interrupted_does_not_wait_for_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, end = threading.Event(), threading.Event()

    def asks(*_arguments: Any) -> None:
        begun.set()
        end.wait(20)

    def interrupted(_future: Any, _timeout: Any = None) -> None:
        assert begun.wait(5)
        raise KeyboardInterrupt

    monkeypatch.setattr(trying, "_ask_once", asks)
    monkeypatch.setattr("concurrent.futures.Future.exception", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trying.ask_pod(Cluster((200, FINE)), "llm-d", POD, QUESTION, 2)
    # They are still at it.
    assert not end.is_set()
    end.set()


def test_a_connection_that_breaks_once_is_no_answer() -> None:
    trying.ask_pod(Cluster(OSError("reset"), (200, FINE)), "llm-d", POD, QUESTION)


def test_a_gateway_may_need_a_moment() -> None:
    cluster = Cluster((404, b""), (500, b""), (200, FINE))
    trying.ask_gateway(cluster, GATEWAY, "llm-d", QUESTION)
    pod, port, request = cluster.asked[-1]
    assert (pod, port) == ("gateway-1", 80)
    assert "x-multi-engine-revision: abc\r\n" in request
    assert len(cluster.asked) == 3


def test_a_gateway_without_a_listener() -> None:
    with pytest.raises(trying.Failed, match="Gateway edge/gateway has no listener"):
        trying.ask_gateway(Cluster((200, FINE), listeners=()), GATEWAY, "llm-d", QUESTION)
