"""GAIE's own endpoint picker loads every configuration that we give it, and no other: parsing is strict."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.llm_d.multi_engine.molecule.site.tests.tools import ROOT, STATE
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils import gaie
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.resolve import resolve
from ansible_collections.llm_d.multi_engine.tests.unit import shipped

#: What tests/cluster built; without it there is nothing to ask.
CACHE = Path(os.environ.get("LLM_D_CACHE", Path.home() / ".cache/llm-d-multi-engine"))
PICKER = sorted(CACHE.glob("bin/gaie-*/epp"))
#: What changes a configuration, besides topology and routing: models with adapters, and an engine that no picker knows.
MODELS = {
    "sglang": {"engine": "sglang"},
    "adapters": {"engine": "vllm", "lora_adapters": [{"name": "sql", "source": "pvc://adapters/sql"}]},
    "own engine": {"engine": "llama-cpp"},
}
OWN_ENGINE = ROOT / "inventories/engines/llama-cpp.yml"
#: What the picker does not know: plugins of llm-d's.
LLM_D = "llm-d.ai/"


def composed(release: str, topology: str, routing: str, model: dict[str, Any]) -> dict[str, Any] | None:
    """Return the configuration of a model's picker, nothing where there is none."""
    given = {**shipped.MODEL, **model, "topology": topology, "routing": routing}
    # The release names no vLLM.
    given |= {"engine_version": "0.32.0"} if (release, model["engine"]) == ("llm-d-0.6", "vllm") else {}
    stack = resolve(shipped.settings(given, release=release), shipped.catalogue(OWN_ENGINE))
    if stack["findings"]:
        return None
    objects = gaie.compose("llm-d", "llm-d", stack["models"][0], stack["release"], shipped.GAIE_OPTIONS)
    (text,) = [item["data"][gaie.CONFIG_FILE] for item in objects if item["kind"] == "ConfigMap"]
    return yaml.safe_load(text)


def configurations() -> dict[str, dict[str, Any]]:
    """Return every configuration of every release that is not for llm-d's own picker, each once, by what it is for."""
    found: dict[str, dict[str, Any]] = {}
    for name, release in shipped.catalogue()["releases"].items():
        for topology, configs in release["endpoint_picker"]["config"].items():
            for routing, (kind, model) in itertools.product(configs, MODELS.items()):
                config = composed(name, topology, routing, model)
                if config and not config["apiVersion"].startswith(LLM_D) and config not in found.values():
                    found[f"{name} {topology} {routing} {kind}"] = config
    return found


CONFIGS = configurations()
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


@pytest.mark.parametrize("name", CONFIGS)
def test_the_picker_loads(name: str, tmp_path: Path) -> None:
    lines = list(said(CONFIGS[name], tmp_path))
    assert LOADED in lines[-1]
    # It is told the metrics of an engine that it does not know.
    told = any('"Registered engine mapping","engine":"llama-cpp"' in line for line in lines)
    assert told == name.endswith("own engine")


def test_the_picker_refuses_what_it_lacks(tmp_path: Path) -> None:
    config = {**next(iter(CONFIGS.values())), "plugins": [{"type": "always-disagg-pd-decider"}]}
    *_, last = said(config, tmp_path)
    assert REFUSED in last
