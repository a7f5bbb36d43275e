"""SGLang, as its server looks from outside."""

from __future__ import annotations

import sys
import threading
import time
import uuid
import warnings
from argparse import Namespace
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from typing import Any

from .arguments import number, parser
from .model import context_length
from .server import Engine, Handler, Refused, Request, bearer, histogram, metric, run, setting
from .work import Work

VERSION = "0.5.23"

HEALTH_SECONDS = 1.0
"""What a /health takes at least: SGLang generates a token and looks once a second whether it came."""

_BOOTSTRAP = ("bootstrap_host", "bootstrap_port", "bootstrap_room")

LATENCIES = (0.1, 0.2, 0.4, 0.6, 0.8, 1, 2, 4, 6, 8, 10, 20, 40, 60, 80, 100, 200, 400, 600, 1200, 1800, 2400)
"""The bounds of the histogram of latencies, in seconds."""

UNGUARDED = ("/health", "/ready", "/metrics")
"""The paths that --api-key does not guard, with all that begins so."""


def main(command_line: list[str] | None = None) -> None:
    """`python3 -m sglang.launch_server`."""
    warnings.warn(
        "'python -m sglang.launch_server' is still supported, but 'sglang serve' is the recommended entrypoint.\n"
        "  Example: sglang serve --model-path <model> [options]",
        stacklevel=1,
    )
    commands = parser("sglang", "sglang serve")
    arguments = commands.parse_args(command_line)
    if arguments.config:
        commands.error("argument --config: the stand-in does not read configuration files")
    length, own = context_length(arguments.model_path, number(arguments.context_length or "0"))
    if own and length > own:
        sys.exit(
            f"ValueError: User-specified context_length ({length}) is greater than the derived context_length ({own})."
            " This may lead to incorrect model outputs or CUDA errors."
        )
    run(lambda: SGLang(arguments, length), arguments.host or "127.0.0.1", arguments.port or 30000)


class SGLang(Engine):
    """The server of one model."""

    def __init__(self, arguments: Namespace, length: int) -> None:
        self.page_size = arguments.page_size or 1
        capacity = (arguments.max_total_tokens or 8 * length) // self.page_size * self.page_size
        slots = arguments.max_running_requests or 4096
        super().__init__(arguments, Work(slots, capacity, setting("TOKEN_SECONDS", 0.01), LATENCIES))
        self.length = length
        self.name = arguments.served_model_name or arguments.model_path
        self.mode = arguments.disaggregation_mode or "null"
        self.requests = {"true": [0, 0, 0], "false": [0, 0, 0]}
        """Requests, prompt tokens and generated tokens, by whether the answer was streamed."""
        self.routes = self._routes()
        if self.mode == "prefill":
            _serve_bootstrap(arguments.host or "127.0.0.1", arguments.disaggregation_bootstrap_port or 8998)

    def _routes(self) -> dict[str, dict[str, Handler]]:
        get: dict[str, Handler] = {
            "/": lambda request: request.send_json("SGLang is running"),
            "/health": self._health,
            "/health_generate": self._health,
            "/ready": self._flag,
            "/ping": self._flag,
            "/v1/models": lambda request: request.send_json({"object": "list", "data": [self._card()]}),
            "/model_info": self._model_info,
            "/get_model_info": self._model_info,
            "/server_info": self._server_info,
            "/get_server_info": self._server_info,
        }
        if self.arguments.enable_metrics:
            get["/metrics"] = lambda request: request.send_text(
                self.metrics(), "text/plain; version=1.0.0; charset=utf-8"
            )
        routes = {path: {"GET": handler} for path, handler in get.items()}
        routes["/v1/completions"] = {"POST": self._completion}
        routes["/v1/chat/completions"] = {"POST": self._chat}
        routes["/generate"] = {"POST": self._generate, "PUT": self._generate}
        routes["/flush_cache"] = {"GET": self._flush, "POST": self._flush}
        return routes

    def find(self, route: str) -> dict[str, Handler]:
        """The handlers of a path; below /v1/models every name is one."""
        prefix = "/v1/models/"
        if route.startswith(prefix) and len(route) > len(prefix):
            return {"GET": lambda request: self._model(request, route[len(prefix) :])}
        return super().find(route)

    def authorized(self, request: Request) -> bool:
        """Whether the key is there, or not needed."""
        key = self.arguments.api_key
        return not key or request.route.startswith(UNGUARDED) or bearer(request) == key

    def logs_access(self, route: str) -> bool:
        """All is logged but the prefixes that were named."""
        return not route.startswith(tuple(self.arguments.uvicorn_access_log_exclude_prefixes or ()))

    def warm_up(self) -> None:
        """Let the port be open and 503 for a while."""
        time.sleep(setting("WARMUP_SECONDS", 1.0))
        print("The server is fired up and ready to roll!", flush=True)

    def stop(self, server: ThreadingHTTPServer) -> None:
        """Say 503 at once, take requests all the same, and end when a look every few seconds finds none running."""
        self.draining = True
        poll = setting("DRAIN_POLL_SECONDS", 5.0)
        time.sleep(poll)
        self.work.wait_idle(poll)

    # ------------------------------------------------------------------ state

    def _flag(self, request: Request) -> None:
        request.send_empty(200 if self.up and not self.draining else 503)

    def _health(self, request: Request) -> None:
        if self.up and not self.draining:
            time.sleep(HEALTH_SECONDS)
        self._flag(request)

    def _card(self) -> dict[str, Any]:
        return {
            "id": self.name,
            "object": "model",
            "created": int(time.time()),
            "owned_by": "sglang",
            "root": self.name,
            "parent": None,
            "max_model_len": self.length,
        }

    def _model(self, request: Request, name: str) -> None:
        if name == self.name:
            request.send_json(self._card())
            return
        message = f"The model '{name}' does not exist"
        error = {"message": message, "type": "invalid_request_error", "param": "model", "code": "model_not_found"}
        raise Refused(404, {"error": error})

    def _model_info(self, request: Request) -> None:
        request.send_json(
            {
                "model_path": self.arguments.model_path,
                "served_model_name": self.name,
                "tokenizer_path": self.arguments.tokenizer_path or self.arguments.model_path,
                "is_generation": True,
                "weight_version": "default",
                "reasoning_parser": self.arguments.reasoning_parser,
                "tool_call_parser": self.arguments.tool_call_parser,
                "disaggregation_mode": self.mode,
            }
        )

    def _server_info(self, request: Request) -> None:
        request.send_json(
            {
                "model_path": self.arguments.model_path,
                "served_model_name": self.name,
                "host": self.arguments.host or "127.0.0.1",
                "port": self.arguments.port or 30000,
                "page_size": self.page_size,
                "max_total_num_tokens": self.work.capacity,
                "disaggregation_mode": self.mode,
                "launch_command": " ".join(sys.argv),
                "version": VERSION,
            }
        )

    def _flush(self, request: Request) -> None:
        if self.work.busy:
            raise Refused(400, {"detail": "there are running requests"})
        request.send_text("Cache flushed.\nPlease check backend logs for more details. ")

    # --------------------------------------------------------------- requests

    def _read(self, request: Request, required: str) -> dict[str, Any]:
        try:
            body = request.body()
        except ValueError:
            raise Refused(400, _error("1 validation error:\n  {'type': 'json_invalid'}", "Bad Request")) from None
        if not isinstance(body, dict) or required not in body:
            missing = (
                f"1 validation error:\n  {{'type': 'missing', 'loc': ('body', '{required}'), 'msg': 'Field required'}}"
            )
            raise Refused(400, _error(missing, "Bad Request"))
        self._want_room(body)
        return body

    def _want_room(self, body: dict[str, Any]) -> None:
        if self.mode != "null" and body.get("bootstrap_room") is None:
            message = "Disaggregated request received without bootstrap room id."
            raise Refused(400, _error(message, "BadRequestError"))
        if self.arguments.log_requests:
            met = ", ".join(f"{name}={body.get(name)!r}" for name in _BOOTSTRAP)
            print(f"Receive: obj=GenerateReqInput({met})", flush=True)

    def _words(self, prompt: str, count: int, streamed: bool) -> Iterator[str]:
        """The words of one answer; counts the request."""
        size = len(prompt.encode())
        if size + count > self.length:
            raise Refused(
                400,
                _error(
                    f"Requested token count exceeds the model's maximum context length of {self.length} tokens."
                    f" You requested a total of {size + count} tokens: {size} tokens from the input messages and"
                    f" {count} tokens for the completion. Please reduce the number of tokens in the input messages or"
                    " the completion to fit within the limit.",
                    "BadRequestError",
                ),
            )
        yield from self.work.generate(size, count)
        counts = self.requests["true" if streamed else "false"]
        for at, more in enumerate((1, size, count)):
            counts[at] += more

    def _completion(self, request: Request) -> None:
        body = self._read(request, "prompt")
        prompts = body["prompt"] if isinstance(body["prompt"], list) else [body["prompt"]]
        count = int(body.get("max_tokens") or 16)
        head = _head(body, uuid.uuid4().hex, "text_completion")
        if body.get("stream"):
            request.send_events(self._completion_events(head, body, [str(prompt) for prompt in prompts], count))
            return
        choices = []
        for index, prompt in enumerate(prompts):
            text = "".join(self._words(str(prompt), count, False))
            choices.append({"index": index, "text": text, **_finished(True)})
        sizes = sum(len(str(prompt).encode()) for prompt in prompts)
        request.send_json({**head, "choices": choices, **_tail(sizes, count * len(prompts), count)})

    def _completion_events(
        self, head: dict[str, Any], body: dict[str, Any], prompts: list[str], count: int
    ) -> Iterator[Any]:
        for index, prompt in enumerate(prompts):
            for at, word in enumerate(self._words(prompt, count, True), start=1):
                choice = {"index": index, "text": word, **_finished(at == count)}
                yield {**head, "choices": [choice], "usage": None}
        if _wants_usage(body):
            size = sum(len(prompt.encode()) for prompt in prompts)
            yield {**head, "choices": [], "usage": _usage(size, count * len(prompts))}

    def _chat(self, request: Request) -> None:
        body = self._read(request, "messages")
        prompt = "\n".join(str(message.get("content", "")) for message in body["messages"])
        count = int(body.get("max_completion_tokens") or body.get("max_tokens") or 16)
        identity = uuid.uuid4().hex
        if body.get("stream"):
            head = _head(body, identity, "chat.completion.chunk")
            request.send_events(self._chat_events(head, body, prompt, count))
            return
        text = "".join(self._words(prompt, count, False))
        message = {"role": "assistant", "content": text, "reasoning_content": None}
        choice = {"index": 0, "message": message, **_finished(True)}
        head = _head(body, identity, "chat.completion")
        request.send_json({**head, "choices": [choice], **_tail(len(prompt.encode()), count, count)})

    def _chat_events(self, head: dict[str, Any], body: dict[str, Any], prompt: str, count: int) -> Iterator[Any]:
        def event(delta: dict[str, Any], last: bool) -> dict[str, Any]:
            choice = {"index": 0, "delta": {"reasoning_content": None, **delta}, **_finished(last)}
            return {**head, "choices": [choice]}

        first = {"role": "assistant", "content": ""}
        for word in self._words(prompt, count, True):
            if first:
                yield event(first, False)
                first = {}
            yield event({"content": word}, False)
        yield event({}, True)
        if _wants_usage(body):
            yield {**head, "choices": [], "usage": _usage(len(prompt.encode()), count)}

    def _generate(self, request: Request) -> None:
        body = request.body()
        if not isinstance(body, dict) or not (body.get("text") or body.get("input_ids")):
            message = "Either text, input_ids or input_embeds should be provided."
            raise Refused(400, {"error": {"message": message}})
        self._want_room(body)
        prompt = str(body.get("text") or "x" * len(body["input_ids"]))
        count = int((body.get("sampling_params") or {}).get("max_new_tokens") or 16)
        identity, size = uuid.uuid4().hex, len(prompt.encode())
        if body.get("stream"):
            request.send_events(self._generate_events(identity, prompt, count))
            return
        text = "".join(self._words(prompt, count, False))
        request.send_json(_generated(identity, text, size, count, count))

    def _generate_events(self, identity: str, prompt: str, count: int) -> Iterator[Any]:
        text = ""
        for at, word in enumerate(self._words(prompt, count, True), start=1):
            text += word
            yield _generated(identity, text, len(prompt.encode()), at, count)

    # ---------------------------------------------------------------- metrics

    def metrics(self) -> str:
        """The metrics page."""
        work = self.work
        labels = {
            "model_name": self.name,
            "engine_type": "unified" if self.mode == "null" else self.mode,
            "tp_rank": "0",
            "pp_rank": "0",
            "moe_ep_rank": "0",
        }
        gauges: dict[str, tuple[str, float]] = {
            "page_size": ("KV cache page size in tokens.", self.page_size),
            "num_pages": ("Total number of KV cache pages.", work.capacity // self.page_size),
            "max_total_num_tokens": ("Maximum total number of tokens in the KV cache pool.", work.capacity),
            "context_len": ("Maximum context length.", self.length),
            "num_running_reqs": ("The number of running requests.", work.running),
            "num_queue_reqs": ("The number of requests in the waiting queue.", work.waiting),
            "token_usage": ("The token usage.", work.usage),
            "num_used_tokens": ("The number of used tokens.", work.tokens),
            "kv_available_tokens": ("KV cache tokens that are free.", max(0, work.capacity - work.tokens)),
            "kv_used_tokens": ("KV cache tokens that are in use.", work.tokens),
            "utilization": ("The utilization.", work.usage),
            "cache_hit_rate": ("The prefix cache hit rate.", 0.0),
        }
        page = [metric(f"sglang:{name}", "gauge", text, [(labels, value)]) for name, (text, value) in gauges.items()]
        for at, (name, text) in enumerate(
            (
                ("num_requests_total", "Number of requests processed."),
                ("prompt_tokens_total", "Number of prefill tokens processed."),
                ("generation_tokens_total", "Number of generation tokens processed."),
            )
        ):
            shared = {"model_name": self.name, "engine_type": labels["engine_type"]}
            samples = [({**shared, "is_streaming": kind}, counts[at]) for kind, counts in self.requests.items()]
            page.append(metric(f"sglang:{name}", "counter", text, [sample for sample in samples if sample[1]]))
        ended = {"model_name": self.name, "engine_type": labels["engine_type"]}
        text = "Number of requests aborted."
        page.append(
            metric("sglang:num_aborted_requests_total", "counter", text, [(ended, work.aborted)][: work.aborted])
        )
        text = "Histogram of End-to-end request latency in seconds"
        page.append(histogram("sglang:e2e_request_latency_seconds", text, ended, work.latencies))
        return "".join(page)


def _head(body: dict[str, Any], identity: str, kind: str) -> dict[str, Any]:
    """What every answer begins with. The model's name is what the request said, right or wrong."""
    return {"id": identity, "object": kind, "created": int(time.time()), "model": body.get("model") or "default"}


def _finished(last: bool) -> dict[str, Any]:
    return {"logprobs": None, "finish_reason": "length" if last else None, "matched_stop": None}


def _tail(prompt_tokens: int, generated: int, longest: int) -> dict[str, Any]:
    weights = [{"version": "default", "start": 0, "end": longest}]
    metadata = {"weight_version": "default", "weight_versions": weights}
    return {"usage": _usage(prompt_tokens, generated), "metadata": metadata}


def _usage(prompt_tokens: int, generated: int) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt_tokens,
        "total_tokens": prompt_tokens + generated,
        "completion_tokens": generated,
        "prompt_tokens_details": None,
        "reasoning_tokens": 0,
        "completion_tokens_details": None,
    }


def _wants_usage(body: dict[str, Any]) -> bool:
    return bool((body.get("stream_options") or {}).get("include_usage"))


def _generated(identity: str, text: str, prompt_tokens: int, at: int, count: int) -> dict[str, Any]:
    """An answer of /generate."""
    reason = {"type": "length", "length": count} if at == count else None
    meta = {
        "id": identity,
        "finish_reason": reason,
        "prompt_tokens": prompt_tokens,
        "weight_version": "default",
        "completion_tokens": at,
        "cached_tokens": 0,
    }
    return {"text": text, "output_ids": list(range(at)), "meta_info": meta}


def _error(message: str, kind: str) -> dict[str, Any]:
    return {"object": "error", "message": message, "type": kind, "param": None, "code": 400}


class _Bootstrap(BaseHTTPRequestHandler):
    """What decode servers find on a prefill server's bootstrap port: here only that it is there."""

    def do_GET(self) -> None:
        """Answer /health."""
        found = self.path == "/health"
        self.send_response(200 if found else 404)
        self.end_headers()
        self.wfile.write(b"OK" if found else b"")

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""


def _serve_bootstrap(host: str, port: int) -> None:
    threading.Thread(target=HTTPServer((host, port), _Bootstrap).serve_forever, daemon=True).start()
