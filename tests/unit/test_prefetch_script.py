"""The script that fills a cache, run as in a pod against a stand-in of the Hub, with the real library."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.llm_d.multi_engine.tests.unit.hub import COMMIT, LARGE, REPOSITORY, Hub, serving
from ansible_collections.llm_d.multi_engine.tests.unit.shipped import ROOT

SCRIPT = ROOT / "roles/model_service/files/prefetch.py"
#: What the library writes at once.
CHUNK = 10 * 1024 * 1024
WEIGHTS = os.urandom(CHUNK + CHUNK // 2)
SMALL = WEIGHTS[:LARGE]
HOPELESS = 78
TOKEN = "hf_notForAnybodysEyes"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving(Hub(config__json=b"{}", model__safetensors=SMALL, pytorch_model__bin=b"x")) as one:
        yield one


class Cache:
    """A cache of Hugging Face's layout, and the script that fills it."""

    def __init__(self, home: Path, hub: Hub) -> None:
        self.home = home
        self.path = home / "hub/models--birds--finch"
        self._environment = {
            "PATH": os.environ["PATH"],
            "HF_HOME": str(home),
            "HF_ENDPOINT": hub.url,
            "PREFETCH_PROGRESS_SECONDS": "0.05",
        }

    def start(self, *options: str, repository: str = REPOSITORY, **environment: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, SCRIPT, repository, *options],
            env={**self._environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *options: str, **more: Any) -> tuple[int, str]:
        process = self.start(*options, **more)
        said, _nothing = process.communicate(timeout=60)
        return process.returncode, said

    def parts(self) -> list[int]:
        return [path.stat().st_size for path in self.path.glob("blobs/*.prefetch")]

    def weights(self) -> bytes:
        return (self.path / "snapshots" / COMMIT / "model.safetensors").read_bytes()


@pytest.fixture
def cache(tmp_path: Path, hub: Hub) -> Cache:
    return Cache(tmp_path, hub)


def until(condition: Any) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_download_that_was_killed_goes_on_where_it_was(hub: Hub, cache: Cache) -> None:
    hub.files["model.safetensors"] = WEIGHTS
    hub.stall = CHUNK + 1000
    killed = cache.start()
    until(lambda: cache.parts() == [CHUNK])
    killed.kill()
    killed.communicate()
    hub.stall = None
    status, said = cache.run()
    assert status == 0, said
    assert hub.ranges("model.safetensors") == ["bytes=0-", f"bytes={CHUNK}-"]
    assert f"{REPOSITORY}: 16 MB, 5 MB of it missing; " in said
    assert cache.weights() == WEIGHTS
    assert cache.parts() == []


def test_what_is_there_is_not_fetched_again_and_found_offline(hub: Hub, cache: Cache) -> None:
    place = "--place=claim weights"
    assert cache.run("--revision=main")[0] == 0
    hub.requests.clear()
    status, said = cache.run("--revision=main")
    assert (status, hub.ranges("model.safetensors"), hub.ranges("config.json")) == (0, [], [])
    assert "0 B of it missing" in said
    assert cache.run(place, HF_HUB_OFFLINE="1") == (0, "birds/finch is in claim weights\n")
    # The same weights in another format were left out.
    assert sorted(path.name for path in (cache.path / "snapshots" / COMMIT).iterdir()) == [
        "config.json",
        "model.safetensors",
    ]


def test_offline_without_the_weights(hub: Hub, cache: Cache) -> None:
    status, said = cache.run("--place=claim weights", "--revision=v1", HF_HUB_OFFLINE="1")
    assert status == HOPELESS
    assert said == (
        "given up: birds/finch@v1 is not, or not as a whole, in claim weights, and nothing may be downloaded (offline).\n"
    )
    assert hub.requests == []


def test_too_little_room_is_told_before_anything_is_fetched(hub: Hub, cache: Cache) -> None:
    hub.sizes = False
    status, said = cache.run(f"--size={10**18}", "--place=/var/lib/cache of node gpu-1")
    assert status == HOPELESS
    assert "given up: not enough room in /var/lib/cache of node gpu-1: birds/finch needs 1000000000.0 GB more, " in said
    assert hub.requests == []


def test_sizes_that_nobody_tells(hub: Hub, cache: Cache) -> None:
    hub.sizes = False
    status, said = cache.run()
    assert status == 0, said
    assert "the Hub tells no sizes and none is given (cache.weights_size): free space is not checked" in said


def test_progress(hub: Hub, cache: Cache) -> None:
    hub.files["model.safetensors"] = WEIGHTS
    hub.stall = CHUNK + 1000
    process = cache.start()
    assert process.stdout
    lines = iter(process.stdout.readline, "")
    line = next(line for line in lines if line.startswith("10 MB of "))
    assert line.startswith("10 MB of 16 MB (66 %), ")
    assert line.endswith(" left\n")
    # As Kubernetes ends a pod.
    process.send_signal(signal.SIGTERM)
    assert process.wait(5) == 143


@pytest.mark.parametrize(
    ("options", "environment", "message"),
    [
        ({"repository": "birds/dodo"}, {}, "gives no birds/dodo: it does not exist, or it needs a token."),
        (
            {},
            {"HF_TOKEN": TOKEN},
            "gives no birds/finch: it does not exist, or the token that is given may not read it.",
        ),
        ({"revision": "--revision=v9"}, {}, "birds/finch has no revision 'v9' at http://127.0.0.1:"),
    ],
)
def test_what_no_new_try_mends(
    hub: Hub, cache: Cache, options: dict[str, str], environment: dict[str, str], message: str
) -> None:
    hub.token = "another" if environment else None
    revision = [options["revision"]] if "revision" in options else []
    status, said = cache.run(*revision, repository=options.get("repository", REPOSITORY), **environment)
    assert status == HOPELESS, said
    assert said.startswith("given up: ")
    assert message in said
    assert TOKEN not in said


def test_the_token_reaches_the_hub_and_no_output(hub: Hub, cache: Cache) -> None:
    hub.token = TOKEN
    status, said = cache.run(HF_TOKEN=TOKEN)
    assert status == 0, said
    assert TOKEN not in said


def test_what_arrived_damaged_is_fetched_anew(hub: Hub, cache: Cache) -> None:
    hub.wrong = bytes(len(SMALL))
    status, said = cache.run()
    assert status == 1
    assert "failed, the next try goes on from here: OSError: model.safetensors is not what the Hub says it is" in said
    hub.wrong = None
    assert cache.run()[0] == 0
    assert cache.weights() == SMALL


def test_a_hub_that_does_not_answer_is_tried_again(hub: Hub, cache: Cache) -> None:
    status, said = cache.run(HF_ENDPOINT="http://127.0.0.1:1")
    assert status == 1
    assert said.startswith("failed, the next try goes on from here: ")


def test_one_download_into_a_cache_at_a_time(cache: Cache) -> None:
    (cache.home / "hub").mkdir()
    with (cache.home / "hub/.prefetch.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = cache.start()
        assert process.stdout
        assert process.stdout.readline() == "another download into this cache is under way: waiting for it\n"
        assert not cache.path.exists()
    said, _nothing = process.communicate(timeout=60)
    assert process.returncode == 0, said
