"""Requests to the API server: what is sent again, what is not, and what is said then."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import kubernetes
import pytest
from ansible_collections.llm_d.multi_engine.plugins.module_utils import cluster as calls
from ansible_collections.llm_d.multi_engine.plugins.module_utils.cluster import (
    Cluster,
    ClusterError,
    Conflict,
    Forbidden,
    Owned,
    UnknownKind,
    Unreachable,
)
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import MaxRetryError, ReadTimeoutError


def answer(content: Any = None) -> SimpleNamespace:
    return SimpleNamespace(data=json.dumps(content or {"fine": True}).encode())


def refusal(status: int, message: str = "no", headers: dict[str, str] | None = None, **body: Any) -> ApiException:
    error = ApiException(status=status)
    error.body, error.headers = json.dumps({"message": message, **body}), headers or {}
    return error


AWAY = MaxRetryError(None, "/", ConnectionRefusedError("refused"))


class Server:
    """Answers one after the other; the last one for ever."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)

    def __call__(self, *_item: Any, **_options: Any) -> Any:
        found = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(found, Exception):
            raise found
        return found


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds of each pause; the clock goes on by as much."""
    pauses: list[float] = []
    monkeypatch.setattr(calls.time, "sleep", pauses.append)
    monkeypatch.setattr(calls.time, "monotonic", lambda: 1000 + sum(pauses))
    return pauses


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    configuration = SimpleNamespace(host="https://api", api_key={"authorization": "Bearer old"})
    client = SimpleNamespace(configuration=configuration)
    whole = SimpleNamespace(client=SimpleNamespace(client=client), configuration=configuration)
    monkeypatch.setattr(calls, "get_api_client", lambda module: whole)
    return Cluster(SimpleNamespace(params={}))


def ask(cluster: Cluster, *answers: Any, verb: str = "get") -> Any:
    return cluster._call(verb, Server(*answers))


def test_an_answer(cluster: Cluster, slept: list[float]) -> None:
    assert ask(cluster, answer()) == {"fine": True}
    assert ask(cluster, refusal(404)) is None
    assert (slept, cluster.calls) == ([], {"get": 2})


def test_an_address_where_nothing_ever_answered_is_not_waited_for(cluster: Cluster, slept: list[float]) -> None:
    with pytest.raises(Unreachable, match=r"^No Kubernetes API answers at https://api"):
        ask(cluster, AWAY)
    assert slept == []


def test_a_server_that_restarts_is_waited_for(cluster: Cluster, slept: list[float]) -> None:
    ask(cluster, answer())
    assert ask(cluster, AWAY, AWAY, AWAY, answer()) == {"fine": True}
    assert slept == [0.5, 1, 2]


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_server_that_has_just_started_does_not_know_yet(cluster: Cluster, slept: list[float], status: int) -> None:
    ask(cluster, answer())
    assert ask(cluster, AWAY, refusal(status), answer()) == {"fine": True}


def test_a_server_that_stays_away_is_given_up(cluster: Cluster, slept: list[float]) -> None:
    ask(cluster, answer())
    with pytest.raises(Unreachable):
        ask(cluster, AWAY)
    assert calls.PATIENCE - 10 < sum(slept) < calls.PATIENCE


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_what_passes_is_tried_again_and_not_for_ever(cluster: Cluster, slept: list[float], status: int) -> None:
    assert ask(cluster, refusal(status), answer()) == {"fine": True}
    with pytest.raises(ClusterError, match=rf"The API server refused \({status}\): busy"):
        ask(cluster, refusal(status, "busy"))
    assert sum(slept) < calls.PATIENCE + 1
    assert max(slept) == 8


@pytest.mark.parametrize(
    ("header", "pause"), [("3", 3), ("600", 10), ("0", 0.5), ("Wed, 21 Oct 2026 07:28:00 GMT", 0.5)]
)
def test_the_server_says_how_long_to_wait(cluster: Cluster, slept: list[float], header: str, pause: float) -> None:
    ask(cluster, refusal(429, headers={"Retry-After": header}), answer())
    assert slept == [pause]


@pytest.mark.parametrize("status", [400, 403, 405, 422])
def test_what_does_not_pass_is_not_tried_again(cluster: Cluster, slept: list[float], status: int) -> None:
    with pytest.raises(ClusterError):
        ask(cluster, refusal(status))
    assert (slept, cluster.calls) == ([], {"get": 1})


def test_credentials_that_never_worked(cluster: Cluster, slept: list[float]) -> None:
    with pytest.raises(ClusterError, match=r"^The API server does not accept the credentials: no. Check"):
        ask(cluster, refusal(401))


def test_credentials_that_end_are_read_again(cluster: Cluster, slept: list[float]) -> None:
    ask(cluster, answer())
    assert ask(cluster, refusal(401), answer()) == {"fine": True}
    with pytest.raises(ClusterError, match=r"^The API server no longer accepts the credentials: no. Check"):
        ask(cluster, refusal(401))
    assert slept == []


def test_a_kind_that_is_served_no_more(cluster: Cluster, slept: list[float]) -> None:
    """Discovery has it in a file still."""
    gone, missing = refusal(404), refusal(404, 'namespaces "x" not found', kind="Status")
    gone.body = "404 page not found"
    cluster._client.resource = lambda kind, api_version: SimpleNamespace(
        get=Server(gone), server_side_apply=Server(gone, missing)
    )
    item = {"apiVersion": "v1", "kind": "Gone", "metadata": {"name": "a"}}
    assert cluster.list("v1", "Gone") == []
    with pytest.raises(UnknownKind, match=r"^The cluster does not know Gone \(v1\)"):
        cluster.list("v1", "Gone", known=True)
    with pytest.raises(UnknownKind):
        cluster.apply(item, force=False, dry_run=False)
    with pytest.raises(ClusterError, match=r"refused \(404\): namespaces"):
        cluster.apply(item, force=False, dry_run=False)


def test_refusals_are_told_apart(cluster: Cluster, slept: list[float]) -> None:
    with pytest.raises(Forbidden, match=r"^No permission: no. Ask for it"):
        ask(cluster, refusal(403))
    with pytest.raises(Conflict):
        ask(cluster, refusal(409))


@pytest.mark.parametrize(
    ("message", "by_hand"),
    [
        ('conflict with "kubectl-edit" using v1', True),
        ('conflict with "kubectl-patch" using v1 at 2026-01-01T00:00:00Z', True),
        ('conflict with "kubectl" with subresource "scale" using apps/v1', True),
        # kubectl apply --server-side
        ('conflict with "kubectl"', False),
        ('conflict with "kubectl-client-side-apply" using v1', False),
        ('conflict with "helm" using v1', False),
        ('conflict with "keda-operator" with subresource "scale" using apps/v1', False),
    ],
)
def test_owners_of_fields(cluster: Cluster, slept: list[float], message: str, by_hand: bool) -> None:
    cause = {"reason": "FieldManagerConflict", "field": ".data.x", "message": message}
    with pytest.raises(Owned) as caught:
        ask(cluster, refusal(409, details={"causes": [cause]}))
    assert str(caught.value).startswith(f"Fields belong to somebody else: .data.x ({message}). Leave them")
    assert caught.value.by_hand is by_hand
    both = [cause, {**cause, "message": 'conflict with "helm" using v1'}]
    with pytest.raises(Owned) as caught:
        ask(cluster, refusal(409, details={"causes": both}))
    assert not caught.value.by_hand


def test_patience_is_one_for_many_requests(cluster: Cluster, slept: list[float]) -> None:
    ask(cluster, answer())
    for _request in range(50):
        with pytest.raises(Unreachable):
            ask(cluster, AWAY)
    assert sum(slept) < calls.PATIENCE
    ask(cluster, answer())
    assert ask(cluster, AWAY, answer()) == {"fine": True}


def test_what_is_not_worth_waiting_for(cluster: Cluster, slept: list[float]) -> None:
    ask(cluster, answer())
    with pytest.raises(Unreachable):
        ask(cluster.impatient(), AWAY)
    with pytest.raises(ClusterError):
        ask(cluster.impatient(), refusal(503))
    assert slept == []


def test_what_is_no_kubernetes_api(cluster: Cluster, slept: list[float]) -> None:
    page = SimpleNamespace(data=b"<html>Please log in</html>")
    with pytest.raises(ClusterError, match=r"What answers at https://api is no Kubernetes API: '<html>Please log in"):
        ask(cluster, page)


def test_every_request_has_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Discovery included, which the client sends without one."""
    monkeypatch.setattr(calls, "TIMEOUTS", (0.3, 0.3))
    calls._bound_requests()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/version"
        rest = kubernetes.client.rest.RESTClientObject(kubernetes.client.Configuration())
        with pytest.raises(ReadTimeoutError):
            rest.request("GET", url, headers={})


def test_what_discovery_has_in_a_file_is_no_answer(cluster: Cluster, slept: list[float]) -> None:
    cluster._client.resource = lambda kind, api_version: SimpleNamespace(kind=kind)
    assert cluster._resource("v1", "ConfigMap").kind == "ConfigMap"
    with pytest.raises(Unreachable):
        ask(cluster, AWAY)
    assert slept == []


def test_the_models_of_the_api_are_not_loaded() -> None:
    """All of them at once cost half a second, which every call of a module would pay."""
    program = (
        "import sys, ansible_collections.kubernetes.core.plugins.module_utils.k8s.client\n"
        "before = set(sys.modules)\n"
        "import ansible_collections.llm_d.multi_engine.plugins.module_utils.cluster\n"
        "print(sorted(name for name in set(sys.modules) - before if name.startswith('kubernetes.client.models.')))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "[]"
