# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""A real completion of what nobody else need send requests to yet."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.llm_d.multi_engine.plugins.module_utils.cluster import Cluster
from ansible_collections.llm_d.multi_engine.plugins.module_utils.pods import stays_ready

#: Seconds for one answer: the first one may compile kernels.
_ANSWER_SECONDS = 120
#: Tries, for a connection through the API server may break, and seconds between two.
_TRIES, _PAUSE = 3, 2.0
#: The same by a gateway: it learns of routes and pools within seconds.
_GATEWAY_TRIES = 15
_GATEWAY_LABEL = "gateway.networking.k8s.io/gateway-name"
PROMPT = "The capital of France is"
#: What is asked for.
PATH = "/v1/completions"


class Failed(Exception):
    """An answer that is not a completion of the model; its text says what it is."""


@dataclass(frozen=True)
class Door:
    """Where a request goes in.

    :ivar port: of ``pod``.
    :ivar headers: that it needs there.
    :ivar host: name for which TLS is spoken, None where it is not.
    """

    namespace: str
    pod: str
    port: int
    headers: Mapping[str, str] = field(default_factory=dict)
    host: str | None = None


def ask_pod(
    cluster: Cluster, namespace: str, pod: Mapping[str, Any], question: Mapping[str, Any], times: int = 1
) -> None:
    """Ask ``pod`` for a completion.

    :param question: ``served_name``, ``port`` and ``api_key`` (``secret`` and ``key``, or None).
    :param times: how often, at the same time.
    :raises Failed: when it gives none.
    :raises ClusterError: when the API server stays away.
    """
    door = Door(namespace, pod["metadata"]["name"], question["port"])
    asking = _Asking(cluster, door, question["served_name"], _key(cluster, namespace, question.get("api_key")))
    asking.at_once(times)


def ask_gateway(
    cluster: Cluster, gateway: Mapping[str, Any], namespace: str, question: Mapping[str, Any], times: int = 1
) -> None:
    """Ask for a completion by way of ``gateway``, which may need a moment to learn of a route.

    :param gateway: ``name``, ``namespace``, and ``headers`` that lead to whom to ask.
    :param namespace: of the model.
    :param times: how often, at the same time.
    :raises Failed: when there is none.
    """
    place = gateway["namespace"]
    live = cluster.get("gateway.networking.k8s.io/v1", "Gateway", gateway["name"], place)
    listeners = ((live or {}).get("spec") or {}).get("listeners") or []
    pods = cluster.list("v1", "Pod", place, f"{_GATEWAY_LABEL}={gateway['name']}")
    ready = [pod["metadata"]["name"] for pod in pods if stays_ready(pod)]
    if not listeners or not ready:
        raise Failed(f"Gateway {place}/{gateway['name']} has no listener, or no pod of it is ready")
    plain = [listener for listener in listeners if listener["protocol"] == "HTTP"]
    listener = (plain or listeners)[0]
    host = None if plain else (listener.get("hostname") or gateway["name"]).lstrip("*.")
    door = Door(place, ready[0], listener["port"], gateway["headers"], host)
    asking = _Asking(cluster, door, question["served_name"], _key(cluster, namespace, question.get("api_key")))
    # Until the way is there. From then on an answer is the model's.
    asking.until_told(_GATEWAY_TRIES, patient=True)
    if times > 1:
        asking.at_once(times)


@dataclass(frozen=True)
class _Asking:
    """Requests of one kind, for a completion of ``model``.

    :ivar over: set when nobody waits for answers any more.
    """

    cluster: Cluster
    door: Door
    model: str
    key: str
    over: threading.Event = field(default_factory=threading.Event)

    def at_once(self, times: int) -> None:
        """Ask so many times at the same time.

        :raises Failed: when one of them is not answered.
        :raises ClusterError: when the API server stays away, whatever else is wrong.
        """
        if times == 1:
            self.until_told(_TRIES)
            return
        threads = ThreadPoolExecutor(times)
        try:
            asked = [threads.submit(self.until_told, _TRIES) for _number in range(times)]
            errors = [error for error in (one.exception() for one in asked) if error]
        finally:
            # Whoever is interrupted does not wait for answers.
            self.over.set()
            threads.shutdown(wait=False, cancel_futures=True)
        for error in sorted(errors, key=lambda error: isinstance(error, Failed)):
            raise error

    def until_told(self, tries: int, patient: bool = False) -> None:
        """Ask until there is an answer.

        :param tries: how often it may break.
        :param patient: whether an answer that is no completion counts as one of them.
        """
        for left in reversed(range(tries)):
            try:
                _ask_once(self.cluster, self.door, self.model, self.key)
            except (OSError, http.client.HTTPException) as error:
                # The way leads through the API server, which is waited for: that it is away says nothing of the pod.
                there = self.cluster.get("v1", "Pod", self.door.pod, self.door.namespace)
                if not left or not there:
                    reason = (error or repr(error)) if there else "the pod is gone"
                    raise Failed(f"no connection to port {self.door.port}: {reason}") from error
            except Failed:
                if not left or not patient:
                    raise
            else:
                return
            if self.over.wait(_PAUSE):
                return


def _ask_once(cluster: Cluster, door: Door, model: str, key: str) -> None:
    body = {"model": model, "prompt": PROMPT, "max_tokens": 8, "temperature": 0}
    headers = {"Content-Type": "application/json", "Accept": "application/json", "Connection": "close", **door.headers}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    connection = http.client.HTTPConnection(door.host or door.pod)
    try:
        connection.sock = cluster.forwarded(door.namespace, door.pod, door.port)
        connection.sock.settimeout(_ANSWER_SECONDS)
        if door.host:
            # Whose certificate it is does not matter here: the API server leads to the pod itself.
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            connection.sock = context.wrap_socket(connection.sock, server_hostname=door.host)
        connection.request("POST", PATH, json.dumps(body), headers)
        response = connection.getresponse()
        data = response.read()
    finally:
        connection.close()
    said = data.decode(errors="replace").strip()
    if key:
        said = said.replace(key, "(hidden)")
    if response.status != 200:
        raise Failed(f"POST {PATH} is answered {response.status}: {said[:500] or '(nothing)'}")
    try:
        answer = json.loads(data)
        fine = answer["model"] == model and answer["choices"]
    except (ValueError, KeyError, TypeError):
        fine = False
    if not fine:
        raise Failed(f"the completion is not of model {model}: {said[:500]}")


def _key(cluster: Cluster, namespace: str, place: Mapping[str, str] | None) -> str:
    if not place:
        return ""
    secret = cluster.get("v1", "Secret", place["secret"], namespace)
    data = (secret or {}).get("data") or {}
    if place["key"] not in data:
        raise Failed(f"Secret {namespace}/{place['secret']} with its API key has no {place['key']}")
    return base64.b64decode(data[place["key"]]).decode(errors="replace")
