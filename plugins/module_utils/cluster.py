# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""The Kubernetes API as the modules of this collection use it, on kubernetes.core's client."""

from __future__ import annotations

import collections
import copy
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator

from ansible_collections.kubernetes.core.plugins.module_utils.k8s.client import get_api_client
from ansible_collections.kubernetes.core.plugins.module_utils.k8s.exceptions import CoreException
from ansible_collections.llm_d.multi_engine.plugins.module_utils.marks import FIELD_MANAGER

try:
    from kubernetes.client.exceptions import ApiException
    from kubernetes.client.rest import RESTClientObject
    from kubernetes.dynamic.exceptions import (
        DynamicApiError,
        ResourceNotFoundError,
    )
    from urllib3.exceptions import HTTPError
except ImportError:  # kubernetes.core's module class says so in its own words
    RESTClientObject = None
    ApiException = DynamicApiError = ResourceNotFoundError = HTTPError = type("Missing", (Exception,), {})

#: Seconds to connect and to wait for an answer.
TIMEOUTS = (10, 60)
#: Answers that a second try may better.
_PASSING = (429, 500, 502, 503, 504)
#: What an API server that has just started also says, until it has loaded roles and definitions.
_STARTING = (401, 403, 404)
#: Seconds after an outage in which it does.
_START_UP = 10
#: Seconds for which an API server that answered before may stay away or turn requests down.
PATIENCE = 60
#: Seconds before the next try: 0.5, 1, 2 and so on up to the second number.
_PAUSES = (0.5, 8)
#: How the API server calls an owner that only changed an object. One that applies is called without "using".
_BY_HAND = re.compile(
    r'conflict with "kubectl(-edit|-patch|-replace|-set|-label|-annotate)?"( with subresource "\w+")? using '
)
METADATA_ONLY = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"


class ClusterError(Exception):
    """An answer that ends the module; its text is for the user."""


class Unreachable(ClusterError):
    """Nothing answers at the API server's address, or it did not in time."""


class Unauthorized(ClusterError):
    """The credentials are not, or no longer, accepted."""


class Forbidden(ClusterError):
    """The credentials lack a permission."""


class Owned(ClusterError):
    """Fields belong to other managers.

    :ivar by_hand: whether all of them are programs by which a person changes an object once.
    :ivar fields: their paths, as the API server writes them (``.spec.replicas``).
    """

    def __init__(self, text: str, by_hand: bool, fields: frozenset[str] = frozenset()) -> None:
        super().__init__(text)
        self.by_hand, self.fields = by_hand, fields


class Conflict(ClusterError):
    """An object is not what it was when it was read, or exists already."""


class UnknownKind(ClusterError):
    """The API server does not know a kind."""


class Cluster:
    """Reads and writes plain dicts.

    What passes is waited for: too many requests, an overloaded server, one that restarts. An
    address where nothing has ever answered is not.

    :param module: an AnsibleK8SModule with kubernetes.core's authentication options.
    """

    def __init__(self, module) -> None:
        self._module = module
        self._kinds: dict[tuple[str, str], object] = {}
        self._lock = threading.RLock()
        #: Requests sent so far, by verb.
        self.calls: collections.Counter[str] = collections.Counter()
        #: When the API server answered last, and when it last did not, on the monotonic clock.
        self._answered = self._missed = 0.0
        #: Since when all requests have been in vain; one patience for all of them.
        self._vain_since: float | None = None
        self._patience: float = PATIENCE
        self._connect()

    def _connect(self) -> None:
        try:
            _bound_requests()
            self._client = get_api_client(module=self._module)
        except (CoreException, HTTPError, OSError) as error:
            raise Unreachable(self._unreachable(error)) from error
        except (ApiException, DynamicApiError) as error:
            raise self._refusal(error) from error

    def impatient(self) -> Cluster:
        """Return the same cluster for reads that are not worth waiting for."""
        other = copy.copy(self)
        other._patience = 0.0
        return other

    @property
    def server(self) -> str:
        """Address of the API server."""
        return self._client.configuration.host

    def raw(self, method: str, path: str, body: dict | None = None, **query: str) -> dict | None:
        """Return the answer to a request on ``path``, or None when there is no such thing."""
        accept = query.pop("accept", "application/json")
        return self._call(
            method,
            lambda: self._client.client.request(
                method,
                path,
                body=body,
                query_params=list(query.items()),
                header_params={"Accept": accept},
                serialize=False,
                _request_timeout=TIMEOUTS,
            ),
        )

    def get(self, api_version: str, kind: str, name: str, namespace: str | None = None) -> dict | None:
        """Return the live object, or None."""
        resource = self._resource(api_version, kind)
        return self._call(
            "get", lambda: resource.get(name=name, namespace=namespace, serialize=False, _request_timeout=TIMEOUTS)
        )

    def list(
        self, api_version: str, kind: str, namespace: str | None = None, labels: str = "", known: bool = False
    ) -> list[dict]:
        """Return live objects with ``labels`` (a selector); none where the kind is unknown.

        :param known: the kind is served for sure, so that not to find it is an error.
        """
        try:
            resource = self._resource(api_version, kind)
        except UnknownKind:
            if known:
                raise
            return []
        answer = self._call(
            "list",
            lambda: resource.get(
                namespace=namespace, label_selector=labels, serialize=False, _request_timeout=TIMEOUTS
            ),
        )
        if answer is None and known:
            raise self._unknown(kind, api_version)
        # Items of a list do not say what they are.
        return [{"apiVersion": api_version, "kind": kind, **item} for item in (answer or {}).get("items") or []]

    def apply(self, item: dict, force: bool, dry_run: bool, manager: str = FIELD_MANAGER) -> dict:
        """Apply ``item`` on the server and return what it made of it.

        :param manager: who is to own its fields.
        """
        resource = self._resource(item["apiVersion"], item["kind"])
        extra = {"dry_run": "All"} if dry_run else {}
        return self._call(
            "apply",
            lambda: resource.server_side_apply(
                item,
                namespace=item["metadata"].get("namespace"),
                field_manager=manager,
                force_conflicts=force,
                serialize=False,
                _request_timeout=TIMEOUTS,
                **extra,
            ),
            missing_is_none=False,
        )

    def write(self, item: dict) -> dict:
        """Create ``item``, or replace it if it still is what its ``resourceVersion`` says.

        :raises Conflict: if somebody else was faster.
        """
        resource = self._resource(item["apiVersion"], item["kind"])
        verb = "replace" if item["metadata"].get("resourceVersion") else "create"
        send = getattr(resource, verb)
        namespace = item["metadata"].get("namespace")
        return self._call(
            verb,
            lambda: send(
                body=item,
                namespace=namespace,
                field_manager=FIELD_MANAGER,
                serialize=False,
                _request_timeout=TIMEOUTS,
            ),
            missing_is_none=False,
        )

    def scale(self, item: dict, replicas: int) -> None:
        """Let ``item``, a workload of which nothing else is known to be wanted, have as many ``replicas``."""
        resource = self._resource(item["apiVersion"], item["kind"])
        metadata = item["metadata"]
        self._call(
            "patch",
            lambda: resource.patch(
                body={"spec": {"replicas": replicas}},
                name=metadata["name"],
                namespace=metadata.get("namespace"),
                content_type="application/merge-patch+json",
                field_manager=FIELD_MANAGER,
                serialize=False,
                _request_timeout=TIMEOUTS,
            ),
            missing_is_none=False,
        )

    def patch(self, path: str, body: dict) -> dict | None:
        """Merge ``body`` into what is at ``path`` and return that.

        :raises Conflict: if it is no more what the ``resourceVersion`` in ``body`` says.
        """
        return self._call(
            "patch",
            lambda: self._client.client.request(
                "patch",
                path,
                body=body,
                query_params=[("fieldManager", FIELD_MANAGER)],
                content_type="application/merge-patch+json",
                serialize=False,
                _request_timeout=TIMEOUTS,
            ),
            missing_is_none=False,
        )

    def served(self, group: str, kind: str) -> str | None:
        """Return the apiVersion that the API server prefers for ``kind``, or None when it has no such kind."""
        if not group:
            return "v1"
        answer = self.raw("get", f"/apis/{group}")
        for version in [(answer or {}).get("preferredVersion"), *((answer or {}).get("versions") or [])]:
            try:
                if version and self._resource(version["groupVersion"], kind):
                    return version["groupVersion"]
            except UnknownKind:
                continue
        return None

    def watch(self, api_version: str, kind: str, namespace: str | None, seconds: float) -> Iterator[dict[str, dict]]:
        """Yield all live objects of a kind by name, at first and after each change, for at most ``seconds``."""
        resource = self._resource(api_version, kind)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            listed = self._call(
                "list",
                lambda: resource.get(namespace=namespace, serialize=False, _request_timeout=TIMEOUTS),
            )
            if listed is None:
                raise UnknownKind(f"The cluster does not know {kind} ({api_version}).")
            found = {
                item["metadata"]["name"]: {"apiVersion": api_version, "kind": kind, **item}
                for item in listed.get("items") or []
            }
            yield dict(found)
            version = listed["metadata"]["resourceVersion"]
            for event in self._events(resource, namespace, version, deadline - time.monotonic()):
                item = event["object"]
                if event["type"] == "DELETED":
                    found.pop(item["metadata"]["name"], None)
                elif event["type"] in ("ADDED", "MODIFIED"):
                    found[item["metadata"]["name"]] = item
                else:  # ERROR, such as a version that is too old by now: begin again with a list
                    break
                yield dict(found)

    def _events(self, resource, namespace: str | None, version: str, seconds: float) -> Iterator[dict]:
        """Yield what a watch reports until it ends; a connection that breaks ends it as well."""
        if seconds <= 0:
            return
        self.calls["watch"] += 1
        try:
            answer = self._client.client.request(
                "get",
                resource.path(namespace=namespace),
                query_params=[
                    ("watch", "true"),
                    ("resourceVersion", version),
                    ("timeoutSeconds", str(max(1, int(seconds)))),
                ],
                serialize=False,
                _request_timeout=(TIMEOUTS[0], seconds + 1),
            )
            for line in _lines(answer):
                yield json.loads(line)
        except (ApiException, DynamicApiError, HTTPError, OSError, ValueError):
            # Whatever it was: the list that follows finds out, and says so if it lasts.
            time.sleep(_PAUSES[0])

    def delete(self, item: dict, dry_run: bool) -> None:
        """Delete ``item`` unless it became another object in the meantime."""
        resource = self._resource(item["apiVersion"], item["kind"])
        metadata = item["metadata"]
        options: dict = {"propagationPolicy": "Background", "preconditions": {"uid": metadata["uid"]}}
        if dry_run:
            options["dryRun"] = ["All"]
        self._call(
            "delete",
            lambda: resource.delete(
                name=metadata["name"],
                namespace=metadata.get("namespace"),
                body=options,
                serialize=False,
                _request_timeout=TIMEOUTS,
            ),
        )

    def proxy(
        self, method: str, path: str, headers: dict, body: dict | None, timeout: float
    ) -> tuple[int, dict, bytes]:
        """Return status, headers and body of a request that the API server passes on.

        :param path: path of a pod or service, with ``/proxy`` and what comes behind it.
        :param timeout: seconds to wait for the answer.
        """
        try:
            answer = self._client.client.request(
                method,
                path,
                body=body,
                header_params=dict(headers),
                serialize=False,
                _request_timeout=(TIMEOUTS[0], timeout),
            )
        except (ApiException, DynamicApiError) as error:
            data = error.body or b""
            return error.status, dict(error.headers or {}), data if isinstance(data, bytes) else data.encode()
        except (HTTPError, OSError) as error:
            return 0, {}, str(error).encode()
        return answer.status, dict(answer.getheaders()), answer.data

    def forwarded(self, namespace: str, pod: str, port: int) -> socket.socket:
        """Return a socket whose other end is a port of a pod.

        :raises OSError: when the API server does not forward it.
        """
        # Here, for they load every model of the API: most of a second, which each module would pay at its start.
        from kubernetes.client import CoreV1Api
        from kubernetes.stream import portforward

        # For the time of a call its client sends nothing else: other threads keep theirs.
        core = CoreV1Api(copy.copy(self._client.client.client))
        try:
            forward = portforward(core.connect_get_namespaced_pod_portforward, pod, namespace, ports=str(port))
        except ApiException as error:
            raise OSError(str(error.reason or error)) from error
        return forward.socket(port)

    def log_tail(self, namespace: str, pod: str, container: str, previous: bool, lines: int = 12) -> str:
        """Return the last log lines of a container; nothing where there are none to be had."""
        path = f"/api/v1/namespaces/{namespace}/pods/{pod}/log"
        query = [("container", container), ("tailLines", str(lines)), ("previous", str(previous).lower())]
        try:
            answer = self._client.client.request(
                "get", path, query_params=query, serialize=False, _request_timeout=TIMEOUTS
            )
        except (ApiException, DynamicApiError, HTTPError):
            return ""
        return answer.data.decode(errors="replace").strip()

    def text(self, path: str, **query: str) -> str:
        """Return an answer that is not JSON, such as a log; it is asked for once."""
        self.calls["get"] += 1
        try:
            answer = self._client.client.request(
                "get", path, query_params=list(query.items()), serialize=False, _request_timeout=TIMEOUTS
            )
        except (ApiException, DynamicApiError) as error:
            raise self._refusal(error) from error
        except (HTTPError, OSError) as error:
            raise Unreachable(self._unreachable(error)) from error
        return answer.data.decode(errors="replace")

    def _resource(self, api_version: str, kind: str):
        key = (api_version, kind)
        with self._lock:
            return self._discover(key)

    def _discover(self, key: tuple[str, str]):
        api_version, kind = key
        if key not in self._kinds:
            try:
                self._kinds[key] = self._persist("get", lambda: self._client.resource(kind, api_version))
            except ResourceNotFoundError as error:
                raise self._unknown(kind, api_version) from error
        return self._kinds[key]

    @staticmethod
    def _unknown(kind: str, api_version: str) -> UnknownKind:
        return UnknownKind(
            f"The cluster does not know {kind} ({api_version}): its CustomResourceDefinition is missing."
        )

    def _call(self, verb: str, request: Callable, missing_is_none: bool = True) -> dict | None:
        """Return the answer to ``request``, which is sent again while that may help."""
        answer = self._persist(verb, request, missing_is_none)
        # Discovery does not count: it may have been answered from a file.
        self._answered, self._vain_since = time.monotonic(), None
        if answer is None:
            return None
        try:
            return json.loads(answer.data)
        except ValueError as error:
            start = answer.data[:80].decode(errors="replace")
            raise ClusterError(f"What answers at {self.server} is no Kubernetes API: {start!r}.") from error

    def _persist(self, verb: str, request: Callable, missing_is_none: bool = False):
        """Return what ``request`` returns, trying again what may pass; None for what does not exist."""
        tries, renewed = 0, False
        while True:
            self.calls[verb] += 1
            tries += 1
            wait = min(_PAUSES[0] * 2 ** (tries - 1), _PAUSES[1])
            try:
                answer = request()
            except ResourceNotFoundError:
                raise
            except (ApiException, DynamicApiError) as error:
                if error.status == 401 and self._answered and not renewed:
                    # A token may have been exchanged for a new one where it came from.
                    renewed = True
                    self._renew_credentials()
                    continue
                if self._passes(error.status) and self._patient(wait):
                    time.sleep(max(wait, _retry_after(error)))
                    continue
                if not self._passes(error.status):
                    # An answer for good: the next trouble is another one.
                    self._vain_since = None
                if error.status == 404 and missing_is_none:
                    return None
                raise self._refusal(error) from error
            except (HTTPError, OSError) as error:
                self._missed = time.monotonic()
                if self._answered and self._patient(wait):
                    time.sleep(wait)
                    continue
                raise Unreachable(self._unreachable(error)) from error
            return answer

    def _patient(self, wait: float) -> bool:
        """Whether to wait and try again: not for ever, and not anew for each of many requests."""
        now = time.monotonic()
        if self._vain_since is None:
            self._vain_since = now
        return now - self._vain_since + wait < self._patience

    def _passes(self, status: int) -> bool:
        """Whether an answer may be another one soon."""
        starting = self._missed and time.monotonic() - self._missed < _START_UP
        return status in _PASSING or bool(starting and status in _STARTING)

    def _renew_credentials(self) -> None:
        """Read the kubeconfig again, and what it names: a token's file, a program that gets one."""
        with self._lock:
            fresh = get_api_client(module=self._module).configuration
            # Resources that were found hold on to the client that found them.
            self._client.client.client.configuration.api_key = fresh.api_key

    def _unreachable(self, error: Exception) -> str:
        params = self._module.params
        kubeconfig, context = params.get("kubeconfig"), params.get("context")
        said = f"kubeconfig {kubeconfig if isinstance(kubeconfig, str) else 'of the environment'}"
        said += f", context {context or 'current'}"
        client = getattr(self, "_client", None)
        where = f" at {client.configuration.host}" if client else ""
        return (
            f"No Kubernetes API answers{where} ({said}): {error}. Check llm_d_kubeconfig and llm_d_context, "
            "and that the API server runs."
        )

    def _refusal(self, error: Exception) -> ClusterError:
        """Return what to raise for an answer that is not a success."""
        status = getattr(error, "status", None)
        try:
            body = json.loads(error.body)
        except (TypeError, ValueError, AttributeError):
            body = {"message": str(error)}
        message = body.get("message", "")
        if status == 401:
            said = "no longer accepts" if self._answered else "does not accept"
            return Unauthorized(
                f"The API server {said} the credentials: {message}. Check llm_d_kubeconfig and llm_d_context."
            )
        if status == 403:
            return Forbidden(f"No permission: {message}. Ask for it, or use other credentials by llm_d_kubeconfig.")
        if status == 409:
            return _conflicts(body) or Conflict(message)
        if status == 404 and "kind" not in body:
            # No object is missing, but the path: what discovery once noted down in a file is served no more.
            return UnknownKind("The cluster does not know this kind any more: its CustomResourceDefinition is missing.")
        return ClusterError(f"The API server refused ({status}): {message}")


def _lines(answer) -> Iterator[bytes]:
    """Yield the lines of an answer as they come."""
    rest = b""
    for chunk in answer.stream():
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines


def _bound_requests() -> None:
    """Give every request of the client a deadline, discovery included, which has none.

    Somebody who accepts connections and never answers, a tunnel or a load balancer, would be
    waited for without end.
    """
    plain = RESTClientObject.request
    if getattr(plain, "bounded", False):
        return

    def request(self, *args, _request_timeout=None, **options):
        # urllib3's own tries would multiply every timeout by four.
        self.pool_manager.connection_pool_kw["retries"] = False
        return plain(self, *args, _request_timeout=_request_timeout or TIMEOUTS, **options)

    request.bounded = True
    RESTClientObject.request = request


def _retry_after(error: Exception) -> float:
    """Return the seconds that an answer asks to wait for."""
    headers = getattr(error, "headers", None) or {}
    try:
        return min(float(headers.get("Retry-After", 0)), 10)
    except ValueError:  # a date
        return 0


def _conflicts(body: dict) -> Owned | None:
    """Return which fields another manager owns, of the answer to a conflicting apply."""
    causes = [
        (cause.get("field"), cause.get("message", ""))
        for cause in (body.get("details") or {}).get("causes") or []
        if cause.get("reason") == "FieldManagerConflict"
    ]
    if not causes:
        return None
    fields = "; ".join(f"{field} ({message})" for field, message in causes)
    return Owned(
        f"Fields belong to somebody else: {fields}. Leave them to their owner, or take them over "
        "with force_conflicts (<role>_force_conflicts).",
        by_hand=all(_BY_HAND.match(message) for _field, message in causes),
        fields=frozenset(str(field) for field, _message in causes),
    )
