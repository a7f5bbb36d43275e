"""GAIE's own endpoint picker loads every configuration that we give it, and no other: parsing is strict."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from ansible_collections.llm_d.multi_engine.molecule.site.tests.tools import ROOT, STATE

#: What tests/cluster built; without it there is nothing to ask.
CACHE = Path(os.environ.get("LLM_D_CACHE", Path.home() / ".cache/llm-d-multi-engine"))
PICKER = sorted(CACHE.glob("bin/gaie-*/epp"))
RELEASE = yaml.safe_load((ROOT / "roles/inference_engine/vars/releases/gaie-1.5.yml").read_text())["gaie-1.5"]
CONFIGS = [
    pytest.param(config, id=f"{topology} {routing}")
    for topology, configs in RELEASE["endpoint_picker"]["config"].items()
    for routing, config in configs.items()
]
#: What an engine from the user's files adds: metrics under names that no picker knows.
(OWN,) = [
    yaml.safe_load(item["data"]["config.yaml"])
    for item in yaml.safe_load_all((ROOT / "tests/golden/own_engine/gaie/qwen3-8b.yaml").read_text())
    if item["kind"] == "ConfigMap"
]
METRICS = [plugin for plugin in OWN["plugins"] if "metrics" in plugin["type"]]
#: Said once the configuration is loaded, and when it cannot be.
LOADED, REFUSED = "Controller manager starting", "Failed to parse configuration"


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def said(config: dict, folder: Path) -> Iterator[str]:
    """Give what the picker logs until it has decided about ``config``."""
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    ports = zip(("--grpc-port", "--grpc-health-port", "--metrics-port"), free_ports(3), strict=True)
    command = [
        *("timeout", "60", str(PICKER[-1]), "--pool-name=none", "--pool-namespace=default", "--tracing=false"),
        *(f"--config-file={path}", "--metrics-endpoint-auth=false", "--zap-encoder=json"),
        *(f"{flag}={port}" for flag, port in ports),
    ]
    environment = {**os.environ, "KUBECONFIG": str(STATE / "kubeconfig")}
    with subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        try:
            for line in process.stdout or ():
                yield line
                if LOADED in line or REFUSED in line:
                    break
        finally:
            process.terminate()


@pytest.mark.parametrize("config", CONFIGS)
def test_the_picker_loads(config: dict, tmp_path: Path) -> None:
    *_, last = said(config, tmp_path)
    assert LOADED in last


def test_the_picker_reads_the_metrics_of_an_engine_that_it_does_not_know(tmp_path: Path) -> None:
    config = CONFIGS[0].values[0]
    lines = list(said({**config, "plugins": [*config["plugins"], *METRICS]}, tmp_path))
    assert LOADED in lines[-1]
    assert any('"Registered engine mapping","engine":"llama-cpp"' in line for line in lines)


def test_the_picker_refuses_what_it_lacks(tmp_path: Path) -> None:
    config = {**CONFIGS[0].values[0], "plugins": [{"type": "always-disagg-pd-decider"}]}
    *_, last = said(config, tmp_path)
    assert REFUSED in last
