"""What counts as an answer, and which hop is told to be broken."""

from __future__ import annotations

import base64
import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from unittest import mock

import pytest
from ansible_collections.llm_d.multi_engine.plugins.module_utils.cluster import ClusterError
from ansible_collections.llm_d.multi_engine.plugins.modules import inference_check
from ansible_collections.llm_d.multi_engine.plugins.modules.inference_check import (
    Answer,
    ThroughApiServer,
    Unanswered,
    ask,
    diagnose,
    run,
    time_left,
)

MODEL = {
    "name": "qwen",
    "served_name": "Qwen/Qwen3-32B",
    "body_router": "",
    "picker": "qwen-epp",
    "workloads": [{"kind": "Deployment", "name": "qwen-sglang"}],
    "port": 8000,
    "path": "/qwen",
    "headers": {"X-Model": "q"},
}
PARAMS = {
    "gateway_name": "gateway",
    "gateway_namespace": "edge",
    "gateway_service": "gateway-istio",
    "gateway_port": 80,
    "url": None,
    "namespace": "llm-d",
    "models": [MODEL],
    "response_header": "x-picked",
    "prompt": "The capital of France is",
    "max_tokens": 8,
    "timeout": 0,
}
LIST = {"data": [{"id": "Qwen/Qwen3-32B"}]}
COMPLETION = {"model": "Qwen/Qwen3-32B", "choices": [{"text": " Paris"}], "usage": {"completion_tokens": 8}}
PICKED = {"X-Picked": "true"}


class FakeGateway:
    """Answers each path with what it was given."""

    def __init__(self, listed: Any = LIST, completion: Any = COMPLETION, headers: dict[str, str] | None = None) -> None:
        self._answers = {"/v1/models": listed, "/v1/completions": completion}
        self._headers = PICKED if headers is None else headers
        self.asked: list[tuple] = []

    def request(self, method: str, model: dict, path: str, body: dict | None = None) -> Answer:
        self.asked.append((method, model["name"], path, body))
        return Answer(self._headers, json.dumps(self._answers[path]).encode())


def test_an_answer() -> None:
    gateway = FakeGateway()
    answer = ask(gateway, MODEL, PARAMS)
    assert answer.pop("seconds") >= 0
    assert answer == {"model": "qwen", "served_name": "Qwen/Qwen3-32B", "text": " Paris", "tokens": 8}
    question = {
        "model": "Qwen/Qwen3-32B",
        "prompt": "The capital of France is",
        "max_tokens": 8,
        "temperature": 0,
    }
    assert gateway.asked == [("get", "qwen", "/v1/models", None), ("post", "qwen", "/v1/completions", question)]


class Adapting(FakeGateway):
    """Knows one adapter."""

    def request(self, method: str, model: dict, path: str, body: dict | None = None) -> Answer:
        name = (body or {}).get("model")
        if body and name not in ("Qwen/Qwen3-32B", "Qwen/Qwen3-32B:sql"):
            raise Unanswered(f"no {name}")
        self._answers["/v1/completions"] = {**COMPLETION, "model": name}
        return super().request(method, model, path, body)


def test_adapters_are_asked_too() -> None:
    gateway = Adapting()
    ask(gateway, {**MODEL, "adapters": ["Qwen/Qwen3-32B:sql"]}, PARAMS)
    assert [body["model"] for *_, body in gateway.asked if body] == ["Qwen/Qwen3-32B", "Qwen/Qwen3-32B:sql"]
    with pytest.raises(Unanswered, match="no Qwen/Qwen3-32B:chat"):
        ask(gateway, {**MODEL, "adapters": ["Qwen/Qwen3-32B:chat"]}, PARAMS)


@pytest.mark.parametrize(
    ("gateway", "complaint"),
    [
        (FakeGateway(listed={"data": []}), r"/v1/models lists \[\], not Qwen/Qwen3-32B"),
        (FakeGateway(listed={"data": None}), r"/v1/models lists \[\], not Qwen/Qwen3-32B"),
        (FakeGateway(listed={"data": [{}]}), r"/v1/models lists \[None\], not Qwen/Qwen3-32B"),
        (FakeGateway(listed={"data": [{"id": "other"}]}), r"/v1/models lists \['other'\], not Qwen/Qwen3-32B"),
        (FakeGateway(listed=[]), "the answer is not a JSON object"),
        (FakeGateway(completion={**COMPLETION, "model": "other"}), "the completion is not of model Qwen/Qwen3-32B: "),
        (FakeGateway(completion={**COMPLETION, "choices": []}), "the completion is not of model Qwen/Qwen3-32B: "),
        (FakeGateway(completion={"error": "x"}), "the completion is not of model Qwen/Qwen3-32B: .*error"),
        (FakeGateway(headers={}), "did not come by way of the endpoint picker: it has no header x-picked"),
    ],
)
def test_what_is_no_answer(gateway: FakeGateway, complaint: str) -> None:
    with pytest.raises(Unanswered, match=complaint):
        ask(gateway, MODEL, PARAMS)


def test_a_completion_without_usage() -> None:
    assert ask(FakeGateway(completion={**COMPLETION, "usage": None}), MODEL, PARAMS)["tokens"] == 0


def test_an_answer_that_is_not_json() -> None:
    with pytest.raises(Unanswered, match="the answer is not JSON: b'<html>'"):
        Answer({}, b"<html>")


READY = [{"type": "Ready", "status": "True"}]
AVAILABLE = {"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "availableReplicas": 1}
TRUE = [{"type": name, "status": "True"} for name in ("Accepted", "Programmed", "ResolvedRefs")]
PROXY = "/api/v1/namespaces/edge/services/gateway-istio:80/proxy/qwen"
ENGINE = "/api/v1/namespaces/llm-d/pods/qwen-1:8000/proxy/v1/models"


class FakeCluster:
    """A cluster where all is well but for what a test takes away or changes."""

    def __init__(self, changed: dict[tuple[str, str], dict | None] | None = None, **answers: Any) -> None:
        deployment = {"kind": "Deployment", "metadata": {"generation": 1}, "spec": {}, "status": AVAILABLE}
        self._objects = {
            ("Gateway", "gateway"): {
                "kind": "Gateway",
                "metadata": {},
                "status": {"conditions": TRUE, "addresses": [{"value": "gateway-istio.edge"}]},
            },
            ("Deployment", "gateway-istio"): deployment,
            ("HTTPRoute", "qwen"): {
                "kind": "HTTPRoute",
                "spec": {"parentRefs": [{"name": "gateway"}]},
                "metadata": {},
                "status": {"parents": [{"parentRef": {"name": "gateway"}, "conditions": TRUE}]},
            },
            ("Deployment", "qwen-epp"): deployment,
            ("InferencePool", "qwen"): {
                "kind": "InferencePool",
                "spec": {"selector": {"matchLabels": {"llm-d.ai/model": "qwen"}}},
            },
            ("Deployment", "qwen-sglang"): deployment,
            **(changed or {}),
        }
        self._pods = answers.get("pods", [{"metadata": {"name": "qwen-1"}, "status": {"conditions": READY}}])
        self._answers = {
            f"{PROXY}/v1/models": (503, {}, b"no healthy upstream"),
            ENGINE: (200, {}, b"{}"),
            **answers.get("proxied", {}),
        }
        self._error = answers.get("error")

    def get(self, _api_version: str, kind: str, name: str, _namespace: str) -> dict | None:
        if self._error:
            raise ClusterError(self._error)
        return self._objects.get((kind, name))

    def list(self, _api_version: str, _kind: str, _namespace: str, labels: str) -> list[dict]:
        assert labels == "llm-d.ai/model=qwen"
        return self._pods

    def proxy(
        self, _method: str, path: str, headers: dict, _body: Any, _timeout: float
    ) -> tuple[int, dict[str, str], bytes]:
        assert headers["X-Model"] == "q"
        return self._answers[path]


SCALED_DOWN = {"kind": "Deployment", "metadata": {"name": "scaled"}, "spec": {"replicas": 0}, "status": {}}
WHY = ["pod x, container y: restarted 3 times", "last log lines of pod x, container y:", "  no such model"]
STARTING = {"kind": "Deployment", "metadata": {"generation": 1}, "spec": {}, "status": {"observedGeneration": 1}}


@pytest.mark.parametrize(
    ("cluster", "hop"),
    [
        (FakeCluster({("Gateway", "gateway"): None}), "gateway: Gateway edge/gateway: does not exist"),
        (
            FakeCluster({("Deployment", "gateway-istio"): STARTING}),
            (
                "gateway: Deployment edge/gateway-istio: 0 of 1 pods are ready\n"
                "  pod x, container y: restarted 3 times\n"
                "  last log lines of pod x, container y:\n    no such model"
            ),
        ),
        (
            FakeCluster({("HTTPRoute", "qwen"): {"kind": "HTTPRoute", "metadata": {}}}),
            "route: HTTPRoute llm-d/qwen: no gateway has taken it",
        ),
        (
            FakeCluster({("Deployment", "qwen-epp"): STARTING}),
            "picker: Deployment llm-d/qwen-epp: 0 of 1 pods are ready\n  pod x",
        ),
        (
            FakeCluster({("Deployment", "qwen-epp"): SCALED_DOWN}),
            "picker: Deployment llm-d/qwen-epp\n  Deployment scaled is scaled to 0",
        ),
        (
            FakeCluster({("Deployment", "qwen-sglang"): SCALED_DOWN}, pods=[]),
            "pool: none of the 0 pods with llm-d.ai/model=qwen is ready\n  Deployment scaled is scaled to 0",
        ),
        (FakeCluster({("InferencePool", "qwen"): None}), "pool: InferencePool llm-d/qwen does not exist"),
        (FakeCluster(pods=[]), "pool: none of the 0 pods with llm-d.ai/model=qwen is ready\n  pod x, container y"),
        (
            FakeCluster({("Deployment", "qwen-sglang"): None}, pods=[{"metadata": {"name": "qwen-1"}}]),
            "pool: none of the 1 pods with llm-d.ai/model=qwen is ready",
        ),
        (
            FakeCluster(proxied={ENGINE: (404, {}, b"not here")}),
            "engine: pod qwen-1 answers 404 to GET /v1/models on port 8000: not here",
        ),
        (FakeCluster(), "none that the cluster shows; the answer above is all there is"),
        (FakeCluster(error="No permission: x"), "not found: No permission: x"),
    ],
)
def test_diagnose(monkeypatch: pytest.MonkeyPatch, cluster: FakeCluster, hop: str) -> None:
    monkeypatch.setattr(inference_check, "why_not_ready", lambda *_args: (WHY, True))
    said = diagnose(cluster, MODEL, PARAMS, "complaint")
    assert said.startswith(f"Model qwen did not answer within 0 s: complaint.\nBroken hop: {hop}")


@pytest.mark.parametrize(
    ("router", "said"),
    [
        (STARTING, ": 0 of 1 pods are ready\n  pod x"),
        (SCALED_DOWN, "\n  Deployment scaled is scaled to 0"),
        (None, ": does not exist"),
    ],
)
def test_diagnose_the_router_of_bodies(monkeypatch: pytest.MonkeyPatch, router: dict | None, said: str) -> None:
    """It stands before the routes, so that it is told before them."""
    monkeypatch.setattr(inference_check, "why_not_ready", lambda *_args: (WHY, True))
    cluster = FakeCluster({("Deployment", "body-based-router"): router, ("HTTPRoute", "qwen"): None})
    hop = inference_check.broken_hop(cluster, {**MODEL, "body_router": "body-based-router"}, PARAMS)
    assert hop.startswith(f"body-router: Deployment llm-d/body-based-router{said}")
    assert inference_check.broken_hop(cluster, MODEL, PARAMS).startswith("route: ")


def test_diagnose_replicas_over_several_nodes() -> None:
    model = {**MODEL, "workloads": [{"kind": "LeaderWorkerSet", "name": "qwen-sglang"}]}
    scaled = {("LeaderWorkerSet", "qwen-sglang"): {**SCALED_DOWN, "kind": "LeaderWorkerSet"}}
    said = diagnose(FakeCluster(scaled, pods=[]), model, PARAMS, "complaint")
    assert said.endswith(
        "none of the 0 pods with llm-d.ai/model=qwen is ready\n  LeaderWorkerSet scaled is scaled to 0"
    )


def test_run_through_the_api_server() -> None:
    proxied = {
        f"{PROXY}/v1/models": (200, {}, json.dumps(LIST).encode()),
        f"{PROXY}/v1/completions": (200, PICKED, json.dumps(COMPLETION).encode()),
    }
    (answer,) = run(FakeCluster(proxied=proxied), PARAMS)
    assert answer["text"] == " Paris"


def test_run_without_an_answer() -> None:
    with pytest.raises(ClusterError) as caught:
        run(FakeCluster(), PARAMS)
    assert "GET /qwen/v1/models is answered 503: no healthy upstream.\nBroken hop: none" in str(caught.value)


def test_an_empty_refusal() -> None:
    client = ThroughApiServer(FakeCluster(proxied={f"{PROXY}/v1/models": (0, {}, b"")}), PARAMS, time.monotonic() + 60)
    with pytest.raises(Unanswered, match=r"GET /qwen/v1/models is answered 0: \(nothing\)"):
        client.request("get", MODEL, "/v1/models")


KEYED = {**MODEL, "api_key": {"secret": "keys", "key": "api-key"}}


def secret(**data: bytes) -> FakeCluster:
    content = {name.replace("_", "-"): base64.b64encode(value).decode() for name, value in data.items()}
    return FakeCluster({("Secret", "keys"): {"kind": "Secret", "data": content}})


def test_keys_are_read_for_the_models_that_want_one() -> None:
    params = {**PARAMS, "models": [MODEL, {**KEYED, "name": "keyed"}]}
    assert inference_check.read_keys(secret(api_key=b"s3cret"), params) == {"keyed": "s3cret"}


@pytest.mark.parametrize(
    ("cluster", "complaint"),
    [
        (FakeCluster({("Secret", "keys"): None}), "Secret llm-d/keys, with the API key of model qwen, does not exist."),
        (secret(), "has no key api-key; it has: none."),
        (secret(other=b"x"), "has no key api-key; it has: other."),
        (secret(api_key=b"s3cret\n"), "has one that no client can send: "),
        (secret(api_key=b""), "has one that no client can send: "),
        (secret(api_key=b"s3\xffcret\x00"), "has one that no client can send: "),
        # Printable, and not of what headers are made.
        (secret(api_key="s3crét".encode()), "or has characters outside of ASCII."),
    ],
)
def test_keys_that_cannot_be_sent(cluster: FakeCluster, complaint: str) -> None:
    with pytest.raises(ClusterError) as caught:
        inference_check.read_keys(cluster, {**PARAMS, "models": [KEYED]})
    assert complaint in str(caught.value)
    assert "s3" not in str(caught.value)


class Gateway(BaseHTTPRequestHandler):
    """A gateway's pod whose engine wants a key."""

    def do_GET(self) -> None:
        self._answer(LIST)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(COMPLETION)

    def _answer(self, content: dict) -> None:
        right = self.headers["Authorization"] == "Bearer s3cret" and self.headers["X-Model"] == "q"
        data = json.dumps(content if right else {"error": "Unauthorized"}).encode()
        self.send_response(200 if right else 401)
        for name, value in {**PICKED, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_words: object) -> None:
        pass


@pytest.fixture(scope="module")
def gateway() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Gateway) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


class Forwarding(FakeCluster):
    """Forwards ports of the gateway's pod."""

    def __init__(self, port: int, target: object = "http") -> None:
        service = {"spec": {"ports": [{"port": 80, "targetPort": target}], "selector": {"app": "gateway"}}}
        super().__init__({("Service", "gateway-istio"): service})
        self._port = port

    def list(self, _api_version: str, _kind: str, _namespace: str, labels: str) -> list[dict]:
        assert labels == "app=gateway"
        ready = {"conditions": [{"type": "Ready", "status": "True"}]}
        ports = [{"name": "http", "containerPort": self._port}]
        waiting = {"metadata": {"name": "waiting"}, "spec": {"containers": []}, "status": {}}
        return [waiting, {"metadata": {"name": "pod"}, "spec": {"containers": [{"ports": ports}]}, "status": ready}]

    def forwarded(self, namespace: str, pod: str, port: int) -> socket.socket:
        assert (namespace, pod) == ("edge", "pod")
        return socket.create_connection(("127.0.0.1", port))


def test_a_key_is_sent_by_a_forwarded_port(gateway: int) -> None:
    (answer,) = run(Forwarding(gateway), {**PARAMS, "models": [{**KEYED, "path": ""}]}, {"qwen": "s3cret"})
    assert answer["text"] == " Paris"


def test_a_key_is_sent_to_a_url(gateway: int) -> None:
    params = {**PARAMS, "url": f"http://127.0.0.1:{gateway}", "validate_url_certs": True, "models": [KEYED]}
    (answer,) = run(FakeCluster(), params, {"qwen": "s3cret"})
    assert answer["text"] == " Paris"


@pytest.mark.parametrize(
    ("cluster", "complaint"),
    [
        (lambda port: Forwarding(port), "GET /v1/models is answered 401: "),
        (lambda _port: Forwarding(1), "GET /v1/models, by port 1 of pod edge/pod: "),
        (lambda _port: Forwarding(1, 1), "by port 1 of pod edge/pod: "),
        (
            lambda _port: FakeCluster({("Service", "gateway-istio"): None}),
            "there is no Service edge/gateway-istio with",
        ),
    ],
)
def test_a_forwarded_port_without_an_answer(gateway: int, cluster: Any, complaint: str) -> None:
    client = inference_check.Forwarded(cluster(gateway), PARAMS, time.monotonic() + 60, "wr0ng")
    with pytest.raises(Unanswered) as caught:
        client.request("get", {**KEYED, "path": ""}, "/v1/models")
    assert complaint in str(caught.value)
    assert "wr0ng" not in str(caught.value)


def test_an_engine_that_wants_a_key_is_no_broken_hop() -> None:
    cluster = FakeCluster(proxied={ENGINE: (401, {}, b"")})
    assert inference_check.broken_hop(cluster, KEYED, PARAMS) is None
    assert "answers 401" in inference_check.broken_hop(cluster, MODEL, PARAMS)


@pytest.mark.parametrize(("left", "seconds"), [(500, 120), (30, 30), (0, 1), (-5, 1)])
def test_an_answer_takes_no_longer_than_the_deadline_allows(left: float, seconds: float) -> None:
    assert time_left(time.monotonic() + left) == pytest.approx(seconds, abs=0.5)


@pytest.mark.parametrize(("fails", "method"), [(False, "exit_json"), (True, "fail_json")])
def test_no_output_shows_a_key(monkeypatch: pytest.MonkeyPatch, fails: bool, method: str) -> None:
    """The module has what kubernetes.core's class has and no more, which is less than AnsibleModule has."""
    module = mock.create_autospec(inference_check.AnsibleK8SModule, instance=True, check_mode=False, params={})
    module.exit_json.side_effect = module.fail_json.side_effect = SystemExit
    monkeypatch.setattr(inference_check, "AnsibleK8SModule", lambda **_spec: module)
    monkeypatch.setattr(inference_check, "Cluster", lambda _module: None)
    monkeypatch.setattr(inference_check, "read_keys", lambda *_args: {"qwen": "s3cret"})

    def run(*_args: Any) -> list[dict[str, Any]]:
        if fails:
            raise ClusterError("engine: it says s3cret")
        return [{"model": "qwen", "text": "it says s3cret", "tokens": 8}]

    monkeypatch.setattr(inference_check, "run", run)
    with pytest.raises(SystemExit):
        inference_check.main()
    said = str(getattr(module, method).call_args)
    assert "it says" in said
    assert "s3cret" not in said
