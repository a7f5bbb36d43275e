"""The stand-ins of the engines: as strict as the engines at their command lines, over HTTP, and when they stop.

What is expected here was seen of SGLang 0.5.23 and vLLM 0.32.0 themselves.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.llm_d.multi_engine.plugins.module_utils.judgement import reading, traffic
from ansible_collections.llm_d.multi_engine.tests.unit import shipped

HERE = Path(__file__).parent
SOURCES = HERE.parent / "cluster" / "images" / "stand_in"
FLAGS = HERE / "data" / "flags"

COMMANDS = {
    "sglang": ["-m", "sglang.launch_server"],
    "vllm": ["-c", "import sys; from vllm.entrypoints.cli.main import main; sys.exit(main())", "serve"],
    "vllm-module": ["-m", "vllm.entrypoints.openai.api_server"],
}
MODEL = {"sglang": ["--model-path", "org/model"], "vllm": ["org/model"], "vllm-module": ["--model", "org/model"]}
VLLM_NOT_FOUND = (
    '{"error":{"message":"The model `wrong` does not exist. Valid aliases: tiny, small.",'
    '"type":"NotFoundError","param":"model","code":404}}'
)
QUICK = {"STAND_IN_LOAD_SECONDS": "0", "STAND_IN_WARMUP_SECONDS": "0", "STAND_IN_DRAIN_POLL_SECONDS": "0.2"}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-ins as they lie in their images."""
    root = tmp_path_factory.mktemp("stand-in") / "packages"
    shutil.copytree(SOURCES, root, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(FLAGS / "sglang-0.5.23.json", root / "stand_in" / "sglang.json")
    shutil.copy(FLAGS / "vllm-0.32.0.json", root / "stand_in" / "vllm.json")
    return root


def start(installed: Path, command: str, arguments: list[str], **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", *COMMANDS[command], *arguments],
        env={**os.environ, **QUICK, **environment, "PYTHONPATH": str(installed)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@dataclass
class Server:
    """A running stand-in."""

    port: int
    process: subprocess.Popen[str]

    def call(self, path: str, body: Any = None, **headers: str) -> tuple[int, str]:
        """Status and body of an answer; a body makes it a POST. Status 0 where nothing listens."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        with closing(connection):
            content = body if isinstance(body, (str, type(None))) else json.dumps(body)
            try:
                connection.request("GET" if body is None else "POST", path, content, headers)
                answer = connection.getresponse()
            except ConnectionError:
                return 0, ""
            return answer.status, answer.read().decode()

    def json(self, path: str, body: Any = None, **headers: str) -> Any:
        status, text = self.call(path, body, **headers)
        assert status == 200, text
        return json.loads(text)

    def until(self, path: str, status: int, seconds: float = 20) -> None:
        wait(lambda: self.call(path)[0] == status, seconds)

    def metric(self, name: str) -> float:
        """The value of the first sample of a metric."""
        lines = self.call("/metrics")[1].splitlines()
        return next(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"{name}{{"))


def wait(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


@contextmanager
def running(installed: Path, command: str, *arguments: str, ready: bool = True, **environment: str) -> Iterator[Server]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    listen = ["--host", "127.0.0.1", "--port", str(port)]
    process = start(installed, command, [*MODEL[command], *listen, *arguments], **environment)
    server = Server(port, process)
    try:
        if ready:
            server.until("/ping", 200)
        yield server
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def sglang(installed: Path) -> Iterator[Server]:
    with running(installed, "sglang", "--served-model-name", "tiny", "--enable-metrics", "--page-size", "16") as server:
        yield server


@pytest.fixture(scope="module")
def vllm(installed: Path) -> Iterator[Server]:
    with running(installed, "vllm", "--served-model-name", "tiny", "small", "--max-model-len", "1k") as server:
        yield server


class Background:
    """A request in a thread; `answer` is None until it is there, and an exception where none came."""

    def __init__(self, server: Server, path: str, body: Any) -> None:
        self.answer: Any = None
        self.thread = threading.Thread(target=self._call, args=(server, path, body), daemon=True)
        self.thread.start()

    def _call(self, server: Server, path: str, body: Any) -> None:
        try:
            self.answer = server.call(path, body)
        except (OSError, http.client.HTTPException) as error:
            self.answer = error


# ------------------------------------------------------------------------------------------------ command lines


@pytest.mark.parametrize(
    ("command", "arguments", "status", "said"),
    [
        (
            "sglang",
            ["--model-path", "m", "--foo-bar", "3"],
            2,
            "sglang serve: error: unrecognized arguments: --foo-bar 3",
        ),
        ("sglang", ["--model-path", "m", "--pp", "2"], 2, "sglang serve: error: ambiguous option: --pp could match"),
        ("sglang", ["--port", "30"], 2, "the following arguments are required: --model-path/--model"),
        ("sglang", ["--model-path", "m", "--page-size", "abc"], 2, "argument --page-size: invalid int value: 'abc'"),
        ("sglang", ["--model-path", "m", "--served-model-name", "a", "b"], 2, "unrecognized arguments: b"),
        ("sglang", ["--model-path", "m", "--cuda-graph-max-bs", "8"], 2, "ambiguous option: --cuda-graph-max-bs"),
        ("sglang", ["--model-path", "m", "--tensor-parallel", "many"], 2, "--tp-size/--tensor-parallel-size"),
        ("sglang", ["--model-path", "m", "--disaggregation-mode", "both"], 2, "invalid choice: 'both'"),
        ("sglang", ["--model-path", "/models/none"], 1, "Repo id must be in the form 'repo_name'"),
        ("vllm", ["m", "--foo", "1"], 2, "vllm: error: unrecognized arguments: --foo 1"),
        ("vllm", ["m", "--port", "abc"], 2, "vllm serve: error: argument --port: invalid int value: 'abc'"),
        ("vllm", ["m", "--page-size", "16"], 2, "unrecognized arguments: --page-size"),
        ("vllm", ["--served-model-name", "a"], 1, "`model` should be provided as the first positional argument"),
        ("vllm", ["/models/none"], 1, "Repo id must be in the form 'repo_name'"),
        ("vllm", ["m", "--lora-modules", "a=/none"], 1, "LoRA is not enabled"),
        ("vllm", ["m", "--enable-lora", "--lora-modules", "a=/none"], 1, "No adapter found for /none"),
        ("vllm-module", ["--model", "m", "--foo"], 2, "api_server.py: error: unrecognized arguments: --foo"),
    ],
)
def test_a_wrong_command_line_is_refused(
    installed: Path, command: str, arguments: list[str], status: int, said: str
) -> None:
    process = start(installed, command, arguments)
    output, _ = process.communicate(timeout=20)
    assert process.returncode == status, output
    assert said in output


def test_a_directory_without_a_model_is_refused(installed: Path, tmp_path: Path) -> None:
    process = start(installed, "sglang", ["--model-path", str(tmp_path)])
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "does not appear to have a file named config.json" in output


def test_a_longer_context_than_the_models_is_refused(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"max_position_embeddings": 1024}')
    for command, arguments in (
        ("sglang", ["--model-path", str(tmp_path), "--context-length", "2048"]),
        ("vllm", [str(tmp_path), "--max-model-len", "2k"]),
    ):
        process = start(installed, command, arguments)
        output, _ = process.communicate(timeout=20)
        assert process.returncode == 1
        assert "greater than the derived" in output


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("sglang", ["--tensor-parallel-size=2", "--chunked-prefill", "512", "--lora-paths", "a=b", "c=d"]),
        ("vllm", ["--tensor_parallel_size", "2", "-O3", "--no-enable-prefix-caching", "--api-key", "a", "b"]),
        ("vllm", ["--kv-transfer-config.kv_connector", "NixlConnector", "--max-log-len", "None"]),
        ("vllm-module", ["--enforce-eager", "--quantization", "fp8"]),
    ],
)
def test_what_the_engine_takes_is_taken(installed: Path, command: str, arguments: list[str]) -> None:
    with running(installed, command, *arguments):
        pass


# ------------------------------------------------------------------------------------------------------ starting


def test_sglang_refuses_then_says_503_then_200(installed: Path) -> None:
    slow = {"STAND_IN_LOAD_SECONDS": "1", "STAND_IN_WARMUP_SECONDS": "2"}
    with running(installed, "sglang", ready=False, **slow) as server:
        seen = []
        while not seen or seen[-1] != 200:
            status = server.call("/ready")[0]
            if status not in seen:
                seen.append(status)
            time.sleep(0.02)
        assert seen == [0, 503, 200]


def test_vllm_refuses_then_says_200(installed: Path) -> None:
    with running(installed, "vllm", ready=False, STAND_IN_LOAD_SECONDS="1") as server:
        seen = []
        while not seen or seen[-1] != 200:
            status = server.call("/health")[0]
            if status not in seen:
                seen.append(status)
            time.sleep(0.02)
        assert seen == [0, 200]


# ------------------------------------------------------------------------------------------------------- SGLang


def test_sglangs_health_takes_a_second_and_ready_does_not(sglang: Server) -> None:
    began = time.monotonic()
    assert sglang.call("/ready") == (200, "")
    between = time.monotonic()
    assert sglang.call("/health") == (200, "")
    assert between - began < 1.0 <= time.monotonic() - between


def test_sglang_takes_any_models_name(sglang: Server) -> None:
    answer = sglang.json("/v1/completions", {"model": "wrong", "prompt": "hello", "max_tokens": 3})
    assert answer["model"] == "wrong"
    assert answer["object"] == "text_completion"
    assert answer["choices"][0]["finish_reason"] == "length"
    assert (answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]) == (5, 3)
    assert set(answer) == {"id", "object", "created", "model", "choices", "usage", "metadata"}


@pytest.mark.parametrize("engine", ["sglang", "vllm"])
def test_a_request_may_come_in_chunks(engine: str, request: pytest.FixtureRequest) -> None:
    server: Server = request.getfixturevalue(engine)
    text = json.dumps(
        {"model": server.json("/v1/models")["data"][0]["id"], "prompt": "Hello", "max_tokens": 2}
    ).encode()
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)) as connection:
        for _again in range(2):
            connection.request("POST", "/v1/completions", iter([text[:9], text[9:]]), encode_chunked=True)
            answer = connection.getresponse()
            assert json.loads(answer.read())["usage"]["completion_tokens"] == 2
            assert answer.status == 200


def test_sglang_chats(sglang: Server) -> None:
    request = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    answer = sglang.json("/v1/chat/completions", request)
    assert answer["choices"][0]["message"]["role"] == "assistant"
    assert len(answer["choices"][0]["message"]["content"].split()) == 2


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
@pytest.mark.parametrize("engine", ["sglang", "vllm"])
def test_an_answer_can_be_streamed(engine: str, path: str, request: pytest.FixtureRequest) -> None:
    server: Server = request.getfixturevalue(engine)
    asked = {"model": "tiny", "prompt": "hi", "messages": [{"role": "user", "content": "hi"}]}
    asked |= {"max_tokens": 3, "stream": True, "stream_options": {"include_usage": True}}
    status, text = server.call(path, asked)
    events = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert status == 200
    assert events[-1] == "[DONE]"
    read = [json.loads(event) for event in events[:-1]]
    assert read[-1]["usage"]["completion_tokens"] == 3
    assert [one["choices"][0]["finish_reason"] for one in read[:-1]].count("length") == 1
    assert len({one["id"] for one in read}) == 1


def test_sglang_generates(sglang: Server) -> None:
    answer = sglang.json("/generate", {"text": "hello", "sampling_params": {"max_new_tokens": 4}})
    assert answer["meta_info"]["completion_tokens"] == 4
    assert answer["meta_info"]["finish_reason"] == {"type": "length", "length": 4}


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/nope", None, 404, '{"detail":"Not Found"}'),
        ("/version", None, 404, "Not Found"),
        ("/v1/completions", None, 405, '{"detail":"Method Not Allowed"}'),
        ("/v1/completions", "not json", 400, "json_invalid"),
        ("/v1/completions", {"model": "tiny"}, 400, "Field required"),
        (
            "/v1/completions",
            {"prompt": "hi", "max_tokens": 99999},
            400,
            "exceeds the model's maximum context length of 32768",
        ),
        ("/generate", {}, 400, "Either text, input_ids or input_embeds should be provided."),
        ("/v1/models/other", None, 404, "model_not_found"),
        ("/v1/models/tiny", None, 200, '"owned_by":"sglang"'),
        ("/v1/models", None, 200, '"max_model_len":32768'),
        ("/get_model_info", None, 200, '"model_path":"org/model"'),
        ("/server_info", None, 200, '"page_size":16'),
        ("/", None, 200, '"SGLang is running"'),
    ],
)
def test_sglangs_answers(sglang: Server, path: str, body: Any, status: int, said: str) -> None:
    answer = sglang.call(path, body)
    assert answer[0] == status
    assert said in answer[1]


def test_sglangs_metrics_are_named_and_labelled_as_its_own(sglang: Server) -> None:
    page = sglang.call("/metrics")[1]
    labels = '{engine_type="unified",model_name="tiny",moe_ep_rank="0",pp_rank="0",tp_rank="0"}'
    for name in ("num_queue_reqs", "num_running_reqs", "token_usage", "page_size", "num_pages"):
        assert f"# TYPE sglang:{name} gauge" in page
        assert f"sglang:{name}{labels} " in page
    assert sglang.metric("sglang:page_size") == 16


def test_sglang_has_no_metrics_unless_asked(installed: Path) -> None:
    with running(installed, "sglang") as server:
        assert server.call("/metrics")[0] == 404


def test_sglangs_key_guards_all_but_probes_and_metrics(installed: Path) -> None:
    with running(installed, "sglang", "--api-key", "secret", "--enable-metrics", ready=False) as server:
        server.until("/ready", 200)
        for path in ("/health", "/ready", "/metrics"):
            assert server.call(path)[0] == 200
        for path in ("/ping", "/v1/models", "/nope"):
            assert server.call(path) == (401, '{"error":"Unauthorized"}')
        assert server.call("/v1/models", Authorization="Bearer secret")[0] == 200


def test_sglang_decode_wants_a_room(installed: Path) -> None:
    with running(installed, "sglang", "--disaggregation-mode", "decode") as server:
        status, text = server.call("/v1/completions", {"prompt": "hi"})
        assert status == 400
        assert "Disaggregated request received without bootstrap room id" in text
        assert server.call("/v1/completions", {"prompt": "hi", "bootstrap_room": 7})[0] == 200


def test_sglang_logs_where_both_sides_meet(installed: Path) -> None:
    with running(installed, "sglang", "--disaggregation-mode", "decode", "--log-requests") as server:
        body = {"prompt": "hi", "bootstrap_host": "10.0.0.1", "bootstrap_port": 8998, "bootstrap_room": 7}
        assert server.call("/v1/completions", body)[0] == 200
        assert server.process.stdout is not None
        logged = next(line for line in server.process.stdout if line.startswith("Receive"))
        assert "bootstrap_host='10.0.0.1', bootstrap_port=8998, bootstrap_room=7" in logged


def test_requests_beyond_the_slots_queue(installed: Path) -> None:
    options = ["--max-running-requests", "1", "--enable-metrics"]
    with running(installed, "sglang", *options, STAND_IN_TOKEN_SECONDS="0.3") as server:
        asked = [Background(server, "/v1/completions", {"prompt": "hi", "max_tokens": 8}) for _ in range(2)]
        wait(lambda: server.metric("sglang:num_queue_reqs") == 1)
        assert server.metric("sglang:num_running_reqs") == 1
        assert server.metric("sglang:token_usage") > 0
        wait(lambda: all(one.answer for one in asked))
        assert server.metric("sglang:num_queue_reqs") == 0
        assert server.metric("sglang:token_usage") == 0
        assert server.metric("sglang:num_requests_total") == 2


def test_sglang_drains_and_still_takes_requests(installed: Path) -> None:
    with running(installed, "sglang", "--enable-metrics", STAND_IN_TOKEN_SECONDS="0.1") as server:
        early = Background(server, "/v1/completions", {"prompt": "hi", "max_tokens": 30})
        wait(lambda: server.metric("sglang:num_running_reqs") == 1)
        server.process.send_signal(signal.SIGTERM)
        server.until("/ready", 503)
        assert server.call("/health")[0] == 503
        late = server.call("/v1/completions", {"prompt": "hi", "max_tokens": 2})
        assert late[0] == 200
        assert server.process.wait(20) == 0
        wait(lambda: early.answer is not None)
        assert early.answer[0] == 200


# --------------------------------------------------------------------------------------------------------- vLLM


def test_vllm_answers_under_its_first_name(vllm: Server) -> None:
    answer = vllm.json("/v1/completions", {"model": "small", "prompt": "hello", "max_tokens": 3})
    assert answer["model"] == "tiny"
    assert answer["id"].startswith("cmpl-")
    assert answer["usage"]["total_tokens"] == 8


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/health", None, 200, ""),
        ("/version", None, 200, '{"version":"0.32.0"}'),
        ("/load", None, 200, '{"server_load":0}'),
        ("/v1/models", None, 200, '"id":"small"'),
        ("/v1/models", None, 200, '"root":"org/model","parent":null,"max_model_len":1000'),
        ("/ready", None, 404, '{"detail":"Not Found"}'),
        ("/generate", {}, 404, "Not Found"),
        (
            "/v1/completions",
            {"model": "wrong", "prompt": "hi"},
            404,
            VLLM_NOT_FOUND,
        ),
        ("/v1/completions", {"model": "tiny"}, 400, "Either prompt or prompt_embeds must be provided"),
        ("/v1/chat/completions", {"model": "tiny"}, 400, "'loc': 'body.messages', 'msg': 'Field required'"),
        ("/v1/completions", "not json", 400, "json_invalid"),
        ("/v1/completions", {"prompt": "hi", "max_tokens": 5000}, 400, "cannot be greater than max_model_len=1000"),
    ],
)
def test_vllms_answers(vllm: Server, path: str, body: Any, status: int, said: str) -> None:
    answer = vllm.call(path, body)
    assert answer[0] == status
    assert said in answer[1]


def test_vllms_adapters_answer_under_their_own_names(installed: Path) -> None:
    flags = ("--served-model-name", "tiny", "--enable-lora", "--lora-modules", "tiny:sql=org/sql")
    with running(installed, "vllm", *flags) as server:
        assert '"id":"tiny:sql"' in server.call("/v1/models")[1]
        assert '"root":"org/sql","parent":"tiny"' in server.call("/v1/models")[1]
        for name in ("tiny", "tiny:sql"):
            answer = server.json("/v1/completions", {"model": name, "prompt": "hello", "max_tokens": 3})
            assert answer["model"] == name
        assert server.call("/v1/completions", {"model": "tiny:other", "prompt": "hello"})[0] == 404
        assert 'vllm:lora_requests_info{max_lora="1"' in server.call("/metrics")[1]


def test_vllms_metrics_are_always_there(vllm: Server) -> None:
    page = vllm.call("/metrics")[1]
    for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"):
        assert f'vllm:{name}{{engine="0",model_name="tiny"}} 0.0' in page
    assert 'block_size="16"' in page
    assert "num_gpu_blocks=" in page


def test_vllms_keys_guard_the_api_only(installed: Path) -> None:
    with running(installed, "vllm", "--api-key", "one", "two") as server:
        for path in ("/health", "/metrics", "/ping", "/version"):
            assert server.call(path)[0] == 200
        assert server.call("/v1/models") == (401, '{"error":"Unauthorized"}')
        assert server.call("/v1/models", Authorization="Bearer two")[0] == 200


def test_vllm_drains_for_as_long_as_it_is_told(installed: Path) -> None:
    with running(installed, "vllm", "--shutdown-timeout", "20", STAND_IN_TOKEN_SECONDS="0.1") as server:
        early = Background(server, "/v1/completions", {"prompt": "hi", "max_tokens": 30})
        wait(lambda: server.metric("vllm:num_requests_running") == 1)
        server.process.send_signal(signal.SIGTERM)
        wait(lambda: server.call("/v1/completions", {"prompt": "hi"})[0] == 500)
        assert server.call("/health")[0] == 200
        assert server.process.wait(20) == 0
        wait(lambda: early.answer is not None)
        assert early.answer[0] == 200


def test_vllm_leaves_requests_hanging_without_a_timeout(installed: Path) -> None:
    with running(installed, "vllm", STAND_IN_TOKEN_SECONDS="0.05") as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        connection.request("POST", "/v1/completions", json.dumps({"prompt": "hi", "max_tokens": 400}))
        wait(lambda: server.metric("vllm:num_requests_running") == 1)
        server.process.send_signal(signal.SIGTERM)
        wait(lambda: server.call("/health")[0] == 0)
        time.sleep(1)
        assert server.process.poll() is None
        connection.close()
        assert server.process.wait(20) == 0


def test_an_idle_vllm_ends_soon(installed: Path) -> None:
    with running(installed, "vllm") as server:
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(5) == 0


@pytest.mark.parametrize("engine", ["sglang", "vllm"])
def test_rollouts_can_judge_by_their_metrics(installed: Path, engine: str) -> None:
    more = ["--enable-metrics"] if engine == "sglang" else []
    with running(installed, engine, *more, STAND_IN_FAIL_AFTER="2") as server:
        page = partial(reading, metrics=shipped.catalogue()["engines"][engine]["metrics"])
        body = {"model": "org/model", "prompt": "x", "max_tokens": 2}
        before = page(server.call("/metrics")[1])
        assert [server.call("/v1/completions", body)[0] for _ in range(4)] == [200, 200, 500, 500]
        assert traffic(before, page(server.call("/metrics")[1])) == {
            "requests": 2,
            "failures": 0,
            "latency_ms": pytest.approx(20, abs=500),
        }


@pytest.mark.parametrize("engine", ["sglang", "vllm"])
def test_they_crash_when_they_are_to(installed: Path, engine: str) -> None:
    with running(installed, engine, STAND_IN_CRASH_AFTER="1") as server:
        body = {"model": "org/model", "prompt": "x", "max_tokens": 2}
        assert server.call("/v1/completions", body)[0] == 200
        assert server.call("/v1/completions", body)[0] == 0
        assert server.process.wait(10) == 139
