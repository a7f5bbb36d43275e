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


def test_the_picker_refuses_what_it_lacks(tmp_path: Path) -> None:
    config = {**CONFIGS[0].values[0], "plugins": [{"type": "always-disagg-pd-decider"}]}
    *_, last = said(config, tmp_path)
    assert REFUSED in last
