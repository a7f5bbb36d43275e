"""vLLM, as its server looks from outside."""

from __future__ import annotations

import json
import re
import secrets
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

from .arguments import number, parser
from .model import context_length
from .server import Engine, Handler, Refused, Request, bearer, histogram, metric, run, setting
from .work import Work

VERSION = "0.32.0"

GUARDED = ("/v1", "/v2", "/inference", "/cohere")
"""The paths that --api-key guards, with all that begins so."""

LATENCIES = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680)
"""The bounds of the histogram of latencies, in seconds."""

DEFAULT_MODEL = "Qwen/Qwen3-0.6B"
BLOCK_SIZE = 16


def serve(command_line: list[str] | None = None) -> None:
    """`vllm serve MODEL ...`."""
    given = sys.argv[1:] if command_line is None else command_line
    if given[:1] != ["serve"]:
        sys.exit("vllm: the stand-in knows one command: vllm serve MODEL ...")
    _main(_model_first(given[1:]), "vllm serve", "vllm")


def main(command_line: list[str] | None = None) -> None:
    """`python3 -m vllm.entrypoints.openai.api_server`."""
    _main(sys.argv[1:] if command_line is None else command_line, "api_server.py", "api_server.py")


def _main(given: list[str], prog: str, prog_of_unknown: str) -> None:
    commands = parser("vllm", prog)
    commands.add_argument("model_tag", nargs="?")
    arguments, unknown = commands.parse_known_args(_normalized(given))
    if unknown:
        commands.prog = prog_of_unknown
        commands.error(f"unrecognized arguments: {' '.join(unknown)}")
    if arguments.config:
        commands.error("argument --config: the stand-in does not read configuration files")
    model = arguments.model_tag or arguments.model or DEFAULT_MODEL
    asked = arguments.max_model_len
    length, own = context_length(model, None if asked in (None, "auto", "-1") else number(asked))
    if own and length > own:
        sys.exit(
            f"ValueError: User-specified max_model_len ({length}) is greater than the derived max_model_len"
            f" (max_position_embeddings={own} or model_max_length=None in model's config.json)."
        )
    adapters = _adapters(arguments)
    run(lambda: VLLM(arguments, model, length, adapters), arguments.host or "0.0.0.0", arguments.port or 8000)


def _adapters(arguments: Namespace) -> dict[str, str]:
    """LoRA adapters: name to path. They are loaded at the start, so one that is not there ends it."""
    modules = arguments.lora_modules or []
    if modules and not arguments.enable_lora:
        sys.exit("ValueError: LoRA is not enabled. Use --enable-lora to enable LoRA.")
    adapters = dict(module.split("=", 1) for module in modules)
    for path in adapters.values():
        # Others are of a repository.
        if path.startswith("/") and not Path(path, "adapter_config.json").is_file():
            sys.exit(f"ValueError: Call to add_lora method failed: No adapter found for {path}")
    return adapters


def _model_first(given: list[str]) -> list[str]:
    """Move the value of `--model` to the front, as `vllm serve` does with a warning; refuse a name without a model."""
    for at, word in enumerate(given):
        if re.match(r"--model(=.+|$)", word):
            print("WARNING: With `vllm serve`, you should provide the model as a positional argument", file=sys.stderr)
            if word != "--model":
                return [word.removeprefix("--model="), *given[:at], *given[at + 1 :]]
            return [*given[at + 1 : at + 2], *given[:at], *given[at + 2 :]]
    named = any(re.match(r"--served[-_]model[-_]name(=.+|$)", word) for word in given)
    if named and given[0].startswith("-"):
        sys.exit(
            "ValueError: `model` should be provided as the first positional argument when using `vllm serve`."
            " i.e. `vllm serve <model> --<arg> <value>`."
        )
    return given


def _normalized(given: list[str]) -> list[str]:
    """Flags as vLLM reads them: `_` is `-`, `--x.y V` is `--x '{"y": V}'`, `-O3` is `--optimization-level 3`."""
    words = []
    rest = iter(given)
    for word in rest:
        if word.startswith("-O") and len(word) > 2:
            words += ["--optimization-level", word[2:].lstrip("=")]
            continue
        if not word.startswith("--"):
            words.append(word)
            continue
        name, equals, value = word.partition("=")
        name, dot, key = name.partition(".")
        name = "--" + name[2:].replace("_", "-")
        if dot:
            words += [name, json.dumps({key: value if equals else next(rest, "")})]
        else:
            words.append(f"{name}{equals}{value}")
    return words


class VLLM(Engine):
    """The server of one model."""

    def __init__(self, arguments: Namespace, model: str, length: int, adapters: dict[str, str]) -> None:
        self.block_size = int(arguments.block_size or BLOCK_SIZE)
        self.blocks = arguments.num_gpu_blocks_override or -(-8 * length // self.block_size)
        slots = int(arguments.max_num_seqs or 256)
        super().__init__(
            arguments, Work(slots, self.blocks * self.block_size, setting("TOKEN_SECONDS", 0.01), LATENCIES)
        )
        self.model = model
        self.length = length
        self.names: list[str] = arguments.served_model_name or [model]
        self.adapters = adapters
        self.routes = self._routes()

    def _routes(self) -> dict[str, dict[str, Handler]]:
        get: dict[str, Handler] = {
            "/health": lambda request: request.send_empty(),
            "/ping": lambda request: request.send_empty(),
            "/version": lambda request: request.send_json({"version": VERSION}),
            "/load": lambda request: request.send_json({"server_load": self.work.running + self.work.waiting}),
            "/v1/models": self._models,
            "/metrics": lambda request: request.send_text(self.metrics(), "text/plain; version=1.0.0; charset=utf-8"),
        }
        routes = {path: {"GET": handler} for path, handler in get.items()}
        routes["/ping"]["POST"] = get["/ping"]
        routes["/v1/completions"] = {"POST": self._completion}
        routes["/v1/chat/completions"] = {"POST": self._chat}
        return routes

    def authorized(self, request: Request) -> bool:
        """Whether one of the keys is there, or none is needed."""
        keys = self.arguments.api_key
        return not keys or not request.route.startswith(GUARDED) or bearer(request) in keys

    def logs_access(self, route: str) -> bool:
        """All is logged but the paths that were named."""
        silent = (self.arguments.disable_access_log_for_endpoints or "").split(",")
        return not self.arguments.disable_uvicorn_access_log and route not in silent

    def stop(self, server: ThreadingHTTPServer) -> None:
        """End at once, with requests in flight left hanging, unless --shutdown-timeout says how long they have.

        In that time /health stays 200, and new requests are answered 500.
        """
        limit = float(self.arguments.shutdown_timeout or 0)
        self.draining = True
        if not limit or not self.work.wait_idle(0.1, limit):
            server.shutdown()
            server.server_close()
            self.work.kill()
            self.wait_for_hanging()
        time.sleep(0.2)

    # --------------------------------------------------------------- requests

    def _models(self, request: Request) -> None:
        cards = [self._card(name) for name in self.names]
        cards += [
            {**self._card(name), "root": path, "parent": self.names[0], "max_model_len": None}
            for name, path in self.adapters.items()
        ]
        request.send_json({"object": "list", "data": cards})

    def _card(self, name: str) -> dict[str, Any]:
        now = int(time.time())
        allowed = {"allow_create_engine": False, "allow_sampling": True, "allow_logprobs": True}
        allowed |= {"allow_search_indices": False, "allow_view": True, "allow_fine_tuning": False}
        permission = {
            "id": f"modelperm-{secrets.token_hex(8)}",
            "object": "model_permission",
            "created": now,
            **allowed,
            "organization": "*",
            "group": None,
            "is_blocking": False,
        }
        return {
            "id": name,
            "object": "model",
            "created": now,
            "owned_by": "vllm",
            "root": self.model,
            "parent": None,
            "max_model_len": self.length,
            "permission": [permission],
        }

    def _read(self, request: Request, required: str) -> dict[str, Any]:
        try:
            body = request.body()
        except ValueError:
            message = "1 validation error:\n  {'type': 'json_invalid', 'loc': 'body.0', 'msg': 'JSON decode error'}"
            raise Refused(400, _error(message, "Bad Request", "body.0")) from None
        self._check_model(body.get("model"))
        if required not in body:
            if required == "prompt":
                message = "Either prompt or prompt_embeds must be provided and non-empty. (parameter=prompt)"
                raise Refused(400, _error(message, "BadRequestError", "prompt"))
            message = f"1 validation error:\n  {{'type': 'missing', 'loc': 'body.{required}', 'msg': 'Field required'}}"
            raise Refused(400, _error(message, "Bad Request", f"body.{required}"))
        if self.draining:
            raise Refused(500, _error("EngineCore is shutting down", "InternalServerError", None, 500))
        return body

    def _check_model(self, name: str | None) -> None:
        if name and name not in self.names and name not in self.adapters:
            message = f"The model `{name}` does not exist."
            if len(self.names) > 1:
                message += f" Valid aliases: {', '.join(self.names)}."
            raise Refused(404, _error(message, "NotFoundError", "model", 404))

    def _words(self, prompt: str, count: int) -> Iterator[str]:
        size = len(prompt.encode())
        if count > self.length:
            message = (
                f"max_tokens={count} cannot be greater than max_model_len={self.length}."
                f" Please request fewer output tokens. (parameter=max_tokens, value={count})"
            )
            raise Refused(400, _error(message, "BadRequestError", "max_tokens"))
        if size + count > self.length:
            message = (
                f"This model's maximum context length is {self.length} tokens. However, you requested {count} output"
                f" tokens and your prompt contains {size} input tokens, for a total of {size + count} tokens."
            )
            raise Refused(400, _error(message, "BadRequestError", "input_tokens"))
        yield from self.work.generate(size, count)

    def _head(self, prefix: str, kind: str, body: dict[str, Any]) -> dict[str, Any]:
        """What every answer begins with. The model's name is the first one, whichever the request said; an adapter's is its own."""
        identity = f"{prefix}-{secrets.token_hex(8)}"
        name = body["model"] if body.get("model") in self.adapters else self.names[0]
        return {"id": identity, "object": kind, "created": int(time.time()), "model": name}

    def _completion(self, request: Request) -> None:
        body = self._read(request, "prompt")
        prompts = [str(one) for one in (body["prompt"] if isinstance(body["prompt"], list) else [body["prompt"]])]
        count = int(body.get("max_tokens") or 16)
        head = self._head("cmpl", "text_completion", body)
        size = sum(len(prompt.encode()) for prompt in prompts)
        if body.get("stream"):
            request.send_events(self._completion_events(head, body, prompts, count, size))
            return
        choices = []
        for index, prompt in enumerate(prompts):
            more = {"token_ids": None, "prompt_logprobs": None, "prompt_token_ids": None, "routed_experts": None}
            text = "".join(self._words(prompt, count))
            choices.append({"index": index, "text": text, **_finished(True), **more})
        answer = {**head, "choices": choices, "service_tier": None, "system_fingerprint": FINGERPRINT}
        answer |= {"usage": _usage(size, count * len(prompts)), "kv_transfer_params": None}
        request.send_json({**answer, "ec_transfer_params": None, "metrics": None})

    def _completion_events(
        self, head: dict[str, Any], body: dict[str, Any], prompts: list[str], count: int, size: int
    ) -> Iterator[Any]:
        for index, prompt in enumerate(prompts):
            for at, word in enumerate(self._words(prompt, count), start=1):
                choice = {"index": index, "text": word, **_finished(at == count)}
                yield {**head, "choices": [{**choice, "prompt_token_ids": None, "token_ids": None}]}
        if _wants_usage(body):
            usage = _usage(size, count * len(prompts), False)
            yield {**head, "choices": [], "usage": usage, "system_fingerprint": FINGERPRINT}

    def _chat(self, request: Request) -> None:
        body = self._read(request, "messages")
        prompt = "\n".join(str(message.get("content", "")) for message in body["messages"])
        count = int(body.get("max_completion_tokens") or body.get("max_tokens") or 16)
        if body.get("stream"):
            head = self._head("chatcmpl", "chat.completion.chunk", body)
            request.send_events(self._chat_events(head, body, prompt, count))
            return
        text = "".join(self._words(prompt, count))
        nothing = dict.fromkeys(("refusal", "annotations", "audio", "function_call", "reasoning"))
        message = {"role": "assistant", "content": text, **nothing}
        choice = {"index": 0, "message": message, **_finished(True), "token_ids": None, "routed_experts": None}
        answer = {**self._head("chatcmpl", "chat.completion", body), "choices": [choice], "service_tier": None}
        answer |= {"system_fingerprint": FINGERPRINT, "usage": _usage(len(prompt.encode()), count)}
        last = (
            "prompt_logprobs",
            "prompt_token_ids",
            "prompt_text",
            "kv_transfer_params",
            "ec_transfer_params",
            "metrics",
        )
        request.send_json({**answer, **dict.fromkeys(last)})

    def _chat_events(self, head: dict[str, Any], body: dict[str, Any], prompt: str, count: int) -> Iterator[Any]:
        for at, word in enumerate(self._words(prompt, count), start=1):
            if at == 1:
                first = {
                    "index": 0,
                    "delta": {"role": "assistant", "content": ""},
                    "logprobs": None,
                    "finish_reason": None,
                }
                yield {**head, "choices": [first], "prompt_token_ids": None, "prompt_text": None}
            reason = _finished(True) if at == count else {"logprobs": None, "finish_reason": None}
            yield {**head, "choices": [{"index": 0, "delta": {"content": word}, **reason, "token_ids": None}]}
        if _wants_usage(body):
            usage = _usage(len(prompt.encode()), count, False)
            yield {**head, "choices": [], "usage": usage, "system_fingerprint": FINGERPRINT}

    # ---------------------------------------------------------------- metrics

    def metrics(self) -> str:
        """The metrics page."""
        work = self.work
        labels = {"engine": "0", "model_name": self.names[0]}
        cache = {"engine": "0", "block_size": str(self.block_size), "num_gpu_blocks": str(self.blocks)}
        cache |= {"cache_dtype": self.arguments.kv_cache_dtype or "auto"}
        simple: list[tuple[str, str, str, float]] = [
            ("num_requests_running", "gauge", "Number of requests in model execution batches.", work.running),
            ("num_requests_waiting", "gauge", "Number of requests waiting to be processed.", work.waiting),
            ("kv_cache_usage_perc", "gauge", "KV-cache usage. 1 means 100 percent usage.", work.usage),
            ("prompt_tokens_total", "counter", "Number of prefill tokens processed.", work.prompt_tokens),
            ("generation_tokens_total", "counter", "Number of generation tokens processed.", work.generated_tokens),
        ]
        page = [metric(f"vllm:{name}", kind, text, [(labels, value)]) for name, kind, text, value in simple]
        finished = [
            ({**labels, "finished_reason": reason}, {"length": work.finished, "abort": work.aborted}.get(reason, 0))
            for reason in ("stop", "length", "abort", "error", "repetition")
        ]
        page.append(
            metric("vllm:request_success_total", "counter", "Count of successfully processed requests.", finished)
        )
        if self.arguments.enable_lora:
            loras = {"max_lora": str(self.arguments.max_loras or 1)}
            loras |= {"running_lora_adapters": "", "waiting_lora_adapters": ""}
            page.append(
                metric("vllm:lora_requests_info", "gauge", "Running stats on lora requests.", [(loras, time.time())])
            )
        text = "Histogram of e2e request latency in seconds."
        page.append(histogram("vllm:e2e_request_latency_seconds", text, labels, work.latencies))
        page.append(metric("vllm:cache_config_info", "gauge", "Information of the LLMEngine CacheConfig", [(cache, 1)]))
        return "".join(page)


FINGERPRINT = f"vllm-{VERSION}-stand-in"


def _finished(last: bool) -> dict[str, Any]:
    return {"logprobs": None, "finish_reason": "length" if last else None, "stop_reason": None}


def _usage(prompt_tokens: int, generated: int, details: bool = True) -> dict[str, Any]:
    usage: dict[str, Any] = {
        "prompt_tokens": prompt_tokens,
        "total_tokens": prompt_tokens + generated,
        "completion_tokens": generated,
    }
    return {**usage, "prompt_tokens_details": None, "completion_tokens_details": None} if details else usage


def _wants_usage(body: dict[str, Any]) -> bool:
    return bool((body.get("stream_options") or {}).get("include_usage"))


def _error(message: str, kind: str, param: str | None, code: int = 400) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
