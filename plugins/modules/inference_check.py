#!/usr/bin/python
# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
module: inference_check
short_description: Ask each model for a completion through the gateway
version_added: "0.1.0"
author: the llm_d.multi_engine authors (@llm-d)
description:
  - Asks for the list of models and for one completion of each model, the way that a client would,
    and checks the name of the model and that the answer came by way of the endpoint picker.
  - Tries again until O(timeout). Then it looks along the way of a request and names the first hop
    that is broken, with evidence.
  - Reaches the gateway through the API server unless O(url) is given, so that it works from
    anywhere and with every type of service.
options:
  gateway_name:
    description: Name of the Gateway.
    type: str
    required: true
  gateway_namespace:
    description: Namespace of the Gateway.
    type: str
    required: true
  gateway_service:
    description: Service of the Gateway.
    type: str
    required: true
  gateway_port:
    description: Port of that service.
    type: int
    default: 80
  url:
    description: Base URL of the gateway, to reach it directly.
    type: str
  validate_url_certs:
    description: Whether to check the certificate behind an https O(url).
    type: bool
    default: true
  namespace:
    description: Namespace of the models.
    type: str
    required: true
  models:
    description: Models to ask.
    type: list
    elements: dict
    required: true
    suboptions:
      name: {description: Name in the stack; of its InferencePool and HTTPRoute too., type: str, required: true}
      served_name: {description: Name that clients send., type: str, required: true}
      body_router:
        description: Deployment of the router before the Gateway that reads bodies. Empty where there is none.
        type: str
        default: ""
      picker: {description: Deployment of its endpoint picker., type: str, required: true}
      workloads:
        description: Workloads of its model servers.
        type: list
        elements: dict
        required: true
        suboptions:
          kind: {description: Deployment or LeaderWorkerSet., type: str, required: true}
          name: {description: Name of it., type: str, required: true}
      port: {description: Port of the model server., type: int, required: true}
      path: {description: Path prefix that routes to it., type: str, default: ""}
      headers: {description: Headers that route to it., type: dict, default: {}}
      by_body:
        description: Whether requests with a body are routed by it, and are sent without O(models[].headers).
        type: bool
        default: false
      adapters:
        description: Names of its LoRA adapters, which are asked for a completion, too.
        type: list
        elements: str
        default: []
      api_key:
        description:
          - Where the key lies that it wants. It is read from the cluster, and sent to the gateway directly or by a port
            that the API server forwards, for the API server keeps such a header to itself.
        type: dict
        suboptions:
          secret: {description: Secret in O(namespace)., type: str, required: true}
          key: {description: Key of the Secret., type: str, required: true}
  response_header:
    description: Header that the endpoint picker sets on answers.
    type: str
    required: true
  prompt:
    description: Prompt of the completion.
    type: str
    default: The capital of France is
  max_tokens:
    description: Length of the completion, in tokens.
    type: int
    default: 8
  timeout:
    description: Longest time until all models have answered, in seconds.
    type: int
    default: 120
extends_documentation_fragment:
  - kubernetes.core.k8s_auth_options
requirements:
  - python >= 3.10
  - kubernetes >= 24.2.0
notes:
  - Supports check mode, in which it asks nothing.
"""

EXAMPLES = r"""
- name: Ask the model
  llm_d.multi_engine.inference_check:
    gateway_name: llm-d-inference-gateway
    gateway_namespace: llm-d
    gateway_service: llm-d-inference-gateway-istio
    namespace: llm-d
    response_header: x-went-into-resp-headers
    models:
      - name: qwen3-32b
        served_name: Qwen/Qwen3-32B
        picker: qwen3-32b-epp
        workloads: [{kind: Deployment, name: qwen3-32b-sglang}]
        port: 8000
"""

RETURN = r"""
answers:
  description: What each model answered.
  returned: success
  type: list
  elements: dict
  contains:
    model: {description: Name in the stack., type: str}
    served_name: {description: Name in the answer., type: str}
    text: {description: The completion., type: str}
    tokens: {description: Its length in tokens., type: int}
    seconds: {description: How long the completion took., type: float}
"""

import base64
import http.client
import json
import time

from ansible.module_utils.common.parameters import remove_values
from ansible.module_utils.urls import open_url
from ansible_collections.kubernetes.core.plugins.module_utils.args_common import AUTH_ARG_SPEC
from ansible_collections.kubernetes.core.plugins.module_utils.k8s.core import AnsibleK8SModule
from ansible_collections.llm_d.multi_engine.plugins.module_utils.cluster import Cluster, ClusterError
from ansible_collections.llm_d.multi_engine.plugins.module_utils.explain import why_not_ready
from ansible_collections.llm_d.multi_engine.plugins.module_utils.marks import MODEL_SERVERS, selecting
from ansible_collections.llm_d.multi_engine.plugins.module_utils.pods import is_ready
from ansible_collections.llm_d.multi_engine.plugins.module_utils.readiness import judge
from ansible_collections.llm_d.multi_engine.plugins.module_utils.serving import GATEWAY_API, INFERENCE_API, backend_of

ARGUMENTS = {
    "gateway_name": {"type": "str", "required": True},
    "gateway_namespace": {"type": "str", "required": True},
    "gateway_service": {"type": "str", "required": True},
    "gateway_port": {"type": "int", "default": 80},
    "url": {"type": "str"},
    "validate_url_certs": {"type": "bool", "default": True},
    "namespace": {"type": "str", "required": True},
    "models": {
        "type": "list",
        "elements": "dict",
        "required": True,
        "options": {
            "name": {"type": "str", "required": True},
            "served_name": {"type": "str", "required": True},
            "body_router": {"type": "str", "default": ""},
            "picker": {"type": "str", "required": True},
            "workloads": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {"kind": {"type": "str", "required": True}, "name": {"type": "str", "required": True}},
            },
            "port": {"type": "int", "required": True},
            "path": {"type": "str", "default": ""},
            "headers": {"type": "dict", "default": {}},
            "by_body": {"type": "bool", "default": False},
            "adapters": {"type": "list", "elements": "str", "default": []},
            # Only where it lies.
            "api_key": {
                "type": "dict",
                "no_log": False,
                "options": {
                    "secret": {"type": "str", "required": True, "no_log": False},
                    "key": {"type": "str", "required": True, "no_log": False},
                },
            },
        },
    },
    "response_header": {"type": "str", "required": True},
    "prompt": {"type": "str", "default": "The capital of France is"},
    "max_tokens": {"type": "int", "default": 8, "no_log": False},
    "timeout": {"type": "int", "default": 120},
}
#: Seconds for one answer: the first one may compile kernels.
ANSWER_SECONDS = 120.0
#: Seconds between two rounds of questions.
PAUSE = 2


class Unanswered(Exception):
    """An answer that is not what a client needs; its text says why."""


def main() -> None:
    module = AnsibleK8SModule(argument_spec={**AUTH_ARG_SPEC, **ARGUMENTS}, supports_check_mode=True)
    if module.check_mode:
        module.exit_json(changed=False, answers=[])
    keys: dict[str, str] = {}
    try:
        cluster = Cluster(module)
        keys = read_keys(cluster, module.params)
        answers = run(cluster, module.params, keys)
    except ClusterError as error:
        module.fail_json(msg=remove_values(str(error), keys.values()))
    # Whatever an answer says.
    module.exit_json(changed=False, answers=remove_values(answers, keys.values()))


def read_keys(cluster: Cluster, params: dict) -> dict[str, str]:
    """Return the key of each model that wants one, by the model's name.

    :raises ClusterError: when one is not there, or no client can send it.
    """
    keys = {}
    for model in params["models"]:
        place = model.get("api_key")
        if not place:
            continue
        where = f"Secret {params['namespace']}/{place['secret']}, with the API key of model {model['name']},"
        secret = cluster.get("v1", "Secret", place["secret"], params["namespace"])
        data = (secret or {}).get("data") or {}
        if place["key"] not in data:
            there = f"has no key {place['key']}; it has: {', '.join(sorted(data)) or 'none'}"
            raise ClusterError(f"{where} {there if secret else 'does not exist'}.")
        key = base64.b64decode(data[place["key"]]).decode(errors="replace")
        if not key or key != key.strip() or not key.isprintable() or not key.isascii():
            raise ClusterError(
                f"{where} has one that no client can send: it is empty, begins or ends with space or a line break, or has "
                "characters outside of ASCII."
            )
        keys[model["name"]] = key
    return keys


def run(cluster: Cluster, params: dict, keys: dict[str, str] | None = None) -> list[dict]:
    """Return the answers of all models.

    :param keys: API keys by the model's name.
    :raises ClusterError: with the hop that is broken, for each model that does not answer.
    """
    deadline = time.monotonic() + params["timeout"]
    plain = Direct(params, deadline) if params["url"] else ThroughApiServer(cluster, params, deadline)
    keyed = {
        name: Direct(params, deadline, key) if params["url"] else Forwarded(cluster, params, deadline, key)
        for name, key in (keys or {}).items()
    }
    answers: dict[str, dict] = {}
    while True:
        complaints = {}
        for model in params["models"]:
            if model["name"] in answers:
                continue
            try:
                answers[model["name"]] = ask(keyed.get(model["name"], plain), model, params)
            except Unanswered as error:
                complaints[model["name"]] = str(error)
        if not complaints:
            return [answers[model["name"]] for model in params["models"]]
        if time.monotonic() >= deadline:
            silent = [model for model in params["models"] if model["name"] in complaints]
            raise ClusterError(
                "\n".join(diagnose(cluster, model, params, complaints[model["name"]]) for model in silent)
            )
        time.sleep(PAUSE)


def time_left(deadline: float) -> float:
    """Return the seconds that one answer may take, a second at least."""
    return max(1.0, min(ANSWER_SECONDS, deadline - time.monotonic()))


def ask(client, model: dict, params: dict) -> dict:
    """Ask ``model`` once for the list of models and for a completion."""
    listed = client.request("get", model, "/v1/models")
    names = [entry.get("id") for entry in listed.body.get("data") or []]
    if model["served_name"] not in names:
        raise Unanswered(f"/v1/models lists {names}, not {model['served_name']}")
    start = time.monotonic()
    answer = complete(client, model, model["served_name"], params)
    seconds = round(time.monotonic() - start, 2)
    for adapter in model.get("adapters") or []:
        complete(client, model, adapter, params)
    return {
        "model": model["name"],
        "served_name": answer.body["model"],
        "text": answer.body["choices"][0].get("text", ""),
        "tokens": (answer.body.get("usage") or {}).get("completion_tokens", 0),
        "seconds": seconds,
    }


def complete(client, model: dict, name: str, params: dict) -> Answer:
    """Return a completion of ``model``, or of the adapter of it that is served as ``name``."""
    question = {"model": name, "prompt": params["prompt"], "max_tokens": params["max_tokens"], "temperature": 0}
    answer = client.request("post", model, "/v1/completions", question)
    if answer.body.get("model") != name or not answer.body.get("choices"):
        raise Unanswered(f"the completion is not of model {name}: {json.dumps(answer.body)[:500]}")
    if params["response_header"] not in answer.headers:
        raise Unanswered(
            f"the completion did not come by way of the endpoint picker: it has no header {params['response_header']}"
        )
    return answer


class Answer:
    """An HTTP 200 with a JSON body.

    :ivar headers: names in lower case to values.
    """

    def __init__(self, headers, data: bytes) -> None:
        self.headers = {name.lower(): value for name, value in headers.items()}
        try:
            self.body = json.loads(data)
        except ValueError as error:
            raise Unanswered(f"the answer is not JSON: {data[:200]!r}") from error
        if not isinstance(self.body, dict):
            raise Unanswered(f"the answer is not a JSON object: {data[:200]!r}")


def headers_for(model: dict, key: str = "", body: dict | None = None) -> dict:
    """Return the headers of a request to ``model``."""
    own = {"Authorization": f"Bearer {key}"} if key else {}
    routing = {} if body and model.get("by_body") else model["headers"]
    return {"Accept": "application/json", "Content-Type": "application/json", **routing, **own}


class Direct:
    """Sends requests to the gateway's own address."""

    def __init__(self, params: dict, deadline: float, key: str = "") -> None:
        self._deadline, self._key = deadline, key
        self._base, self._certs = params["url"].rstrip("/"), params["validate_url_certs"]

    def request(self, method: str, model: dict, path: str, body: dict | None = None) -> Answer:
        """Return the answer to a request that routes to ``model``."""
        url = f"{self._base}{model['path']}{path}"
        try:
            response = open_url(
                url,
                method=method.upper(),
                data=json.dumps(body) if body else None,
                headers=headers_for(model, self._key, body),
                validate_certs=self._certs,
                timeout=time_left(self._deadline),
            )
            return Answer(response.headers, response.read())
        except OSError as error:
            detail = error.read().decode(errors="replace")[:500] if hasattr(error, "read") else ""
            raise Unanswered(f"{method.upper()} {url}: {error} {detail}".strip()) from error


class ThroughApiServer:
    """Sends requests to the gateway's service by way of the API server."""

    def __init__(self, cluster: Cluster, params: dict, deadline: float) -> None:
        self._deadline = deadline
        service = f"{params['gateway_service']}:{params['gateway_port']}"
        self._cluster = cluster
        self._base = f"/api/v1/namespaces/{params['gateway_namespace']}/services/{service}/proxy"

    def request(self, method: str, model: dict, path: str, body: dict | None = None) -> Answer:
        """Return the answer to a request that routes to ``model``."""
        status, headers, data = self._cluster.proxy(
            method, f"{self._base}{model['path']}{path}", headers_for(model, body=body), body, time_left(self._deadline)
        )
        if status != 200:
            said = data.decode(errors="replace").strip()[:500]
            raise Unanswered(f"{method.upper()} {model['path']}{path} is answered {status}: {said or '(nothing)'}")
        return Answer(headers, data)


class Forwarded:
    """Sends requests to a pod of the gateway, by a port that the API server forwards.

    The API server takes a header Authorization for its own, and passes it on to nobody.
    """

    def __init__(self, cluster: Cluster, params: dict, deadline: float, key: str) -> None:
        self._cluster, self._deadline, self._key = cluster, deadline, key
        self._namespace, self._service = params["gateway_namespace"], params["gateway_service"]
        self._port = params["gateway_port"]

    def request(self, method: str, model: dict, path: str, body: dict | None = None) -> Answer:
        """Return the answer to a request that routes to ``model``."""
        what = f"{method.upper()} {model['path']}{path}"
        pod, port = self._behind()
        connection = http.client.HTTPConnection(self._service)
        try:
            connection.sock = self._cluster.forwarded(self._namespace, pod, port)
            connection.sock.settimeout(time_left(self._deadline))
            headers = {**headers_for(model, self._key, body), "Connection": "close"}
            connection.request(method.upper(), f"{model['path']}{path}", json.dumps(body) if body else None, headers)
            response = connection.getresponse()
            data = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise Unanswered(
                f"{what}, by port {port} of pod {self._namespace}/{pod}: {error or repr(error)}"
            ) from error
        finally:
            connection.close()
        if response.status != 200:
            said = data.decode(errors="replace").strip()[:500]
            raise Unanswered(f"{what} is answered {response.status}: {said or '(nothing)'}")
        return Answer(response.headers, data)

    def _behind(self) -> tuple[str, int]:
        """Return a ready pod of the gateway's service, and the port that the service sends requests to."""
        service = self._cluster.get("v1", "Service", self._service, self._namespace)
        ports = [port for port in (service or {"spec": {"ports": []}})["spec"]["ports"] if port["port"] == self._port]
        if not ports:
            raise Unanswered(f"there is no Service {self._namespace}/{self._service} with port {self._port}")
        labels = selecting(service["spec"]["selector"])
        ready = [pod for pod in self._cluster.list("v1", "Pod", self._namespace, labels) if is_ready(pod)]
        if not ready:
            raise Unanswered(f"no pod of Service {self._namespace}/{self._service} is ready")
        target = ports[0].get("targetPort") or self._port
        named = [
            port["containerPort"]
            for container in ready[0]["spec"]["containers"]
            for port in container.get("ports") or []
            if port.get("name") == target
        ]
        return ready[0]["metadata"]["name"], int((named or [target])[0])


def diagnose(cluster: Cluster, model: dict, params: dict, complaint: str) -> str:
    """Return a message that names the first broken hop on the way to ``model``."""
    try:
        hop = broken_hop(cluster, model, params)
    except ClusterError as error:
        hop = f"not found: {error}"
    return (
        f"Model {model['name']} did not answer within {params['timeout']} s: {complaint}.\n"
        f"Broken hop: {hop or 'none that the cluster shows; the answer above is all there is'}"
    )


def broken_hop(cluster: Cluster, model: dict, params: dict) -> str | None:
    """Return the first broken hop on the way of a request, with evidence."""
    gateway_api, name, namespace = GATEWAY_API, model["name"], params["namespace"]
    routers = [model["body_router"]] if model["body_router"] else []
    pool = pool_of(cluster, model, namespace)
    picker = ((pool or {"spec": {}})["spec"].get("endpointPickerRef") or {}).get("name") or model["picker"]
    hops = (
        ("gateway", gateway_api, "Gateway", params["gateway_name"], params["gateway_namespace"]),
        ("gateway", "apps/v1", "Deployment", params["gateway_service"], params["gateway_namespace"]),
        *(("body-router", "apps/v1", "Deployment", router, namespace) for router in routers),
        ("route", gateway_api, "HTTPRoute", name, namespace),
        ("picker", "apps/v1", "Deployment", picker, namespace),
    )
    for hop, api_version, kind, item, place in hops:
        live = cluster.get(api_version, kind, item, place)
        state = judge(live)
        if not state.ready or scaled_down(live):
            return "\n  ".join([f"{hop}: {kind} {place}/{item}: {state.reason}".rstrip(": "), *evidence(cluster, live)])
    return broken_pool(cluster, model, params, pool)


def pool_of(cluster: Cluster, model: dict, namespace: str) -> dict | None:
    """Return the pool that requests of ``model`` go to: a rollout may have given it another one."""
    route = cluster.get(GATEWAY_API, "HTTPRoute", model["name"], namespace)
    return cluster.get(INFERENCE_API, "InferencePool", backend_of(route) or model["name"], namespace)


def evidence(cluster: Cluster, live: dict | None) -> list[str]:
    """Return why a workload has no ready pods."""
    if scaled_down(live):
        return [f"{live['kind']} {live['metadata']['name']} is scaled to 0"]
    return why_not_ready(cluster, live)[0] if live and live["kind"] in MODEL_SERVERS else []


def scaled_down(live: dict | None) -> bool:
    """Whether ``live`` is a workload that is to have no pods: nothing is amiss with it, and nothing answers."""
    return bool(live) and live["kind"] in MODEL_SERVERS and live["spec"].get("replicas") == 0


def broken_pool(cluster: Cluster, model: dict, params: dict, pool: dict | None) -> str | None:
    """Return what is wrong with the pool's endpoints or with the engine itself."""
    namespace = params["namespace"]
    if not pool:
        return f"pool: InferencePool {namespace}/{model['name']} does not exist"
    labels = selecting(pool["spec"]["selector"]["matchLabels"])
    pods = cluster.list("v1", "Pod", namespace, labels)
    ready = [pod for pod in pods if is_ready(pod)]
    if not ready:
        live = [
            cluster.get(MODEL_SERVERS[entry["kind"]], entry["kind"], entry["name"], namespace)
            for entry in model["workloads"]
        ]
        text = f"pool: none of the {len(pods)} pods with {labels} is ready"
        return "\n  ".join([text, *(line for workload in live for line in evidence(cluster, workload))])
    name = ready[0]["metadata"]["name"]
    path = f"/api/v1/namespaces/{namespace}/pods/{name}:{model['port']}/proxy/v1/models"
    status, _headers, data = cluster.proxy("get", path, headers_for(model), None, 30)
    # It was asked without a key.
    if status != 200 and not (status == 401 and model.get("api_key")):
        said = data.decode(errors="replace")[:300]
        return f"engine: pod {name} answers {status} to GET /v1/models on port {model['port']}: {said}"
    return None


if __name__ == "__main__":
    main()
