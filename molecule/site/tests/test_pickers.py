"""Endpoint pickers load every configuration that we give them, with the arguments beside it, and no other: both are strict."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
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
GAIE, LLM_D = (sorted(CACHE.glob(f"bin/{name}-*/epp")) for name in ("gaie", "llm_d_picker"))
#: Whose release it is the picker of; all others are GAIE's own, or in no package registry.
OF_LLM_D = "llm-d-0.6"
#: What changes a configuration, besides topology and routing: models with adapters, and an engine that no picker knows.
MODELS = {
    "sglang": {"engine": "sglang"},
    "adapters": {"engine": "vllm", "lora_adapters": [{"name": "sql", "source": "pvc://adapters/sql"}]},
    "own engine": {"engine": "llama-cpp"},
}
OWN_ENGINE = ROOT / "inventories/engines/llama-cpp.yml"
#: What neither knows: plugins of later pickers of llm-d's.
LATER = "llm-d.ai/"


@dataclass(frozen=True)
class Given:
    """What a model's picker gets.

    :ivar config: its configuration.
    :ivar arguments: its command line, without the configuration's path.
    """

    config: dict[str, Any]
    arguments: tuple[str, ...]


def composed(release: str, topology: str, routing: str, model: dict[str, Any]) -> Given | None:
    """Return what a model's picker gets, nothing where there is none."""
    given = {**shipped.MODEL, **model, "topology": topology, "routing": routing}
    # The release names no vLLM.
    given |= {"engine_version": "0.32.0"} if (release, model["engine"]) == (OF_LLM_D, "vllm") else {}
    stack = resolve(shipped.settings(given, release=release), shipped.catalogue(OWN_ENGINE))
    if stack["findings"]:
        return None
    objects = gaie.compose("llm-d", "llm-d", stack["models"][0], stack["release"], shipped.GAIE_OPTIONS)
    (text,) = [item["data"][gaie.CONFIG_FILE] for item in objects if item["kind"] == "ConfigMap"]
    (deployment,) = [item for item in objects if item["kind"] == "Deployment"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    arguments = tuple(word for word in container["args"] if not word.startswith("--config-file="))
    return Given(yaml.safe_load(text), arguments)


def all_given() -> dict[str, Given]:
    """Return what pickers of every release get, but for later ones of llm-d's, each once, by what it is for."""
    found: dict[str, Given] = {}
    for name, release in shipped.catalogue()["releases"].items():
        for topology, configs in release["endpoint_picker"]["config"].items():
            for routing, (kind, model) in itertools.product(configs, MODELS.items()):
                given = composed(name, topology, routing, model)
                if given and not given.config["apiVersion"].startswith(LATER) and given not in found.values():
                    found[f"{name} {topology} {routing} {kind}"] = given
    return found


GIVEN = all_given()
#: Said once the configuration is loaded, and when it cannot be.
LOADED, REFUSED = "Controller manager starting", ("Failed to parse configuration", "Failed to validate flags")


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def said(picker: Path, given: Given, folder: Path) -> Iterator[str]:
    """Give what ``picker`` logs until it has decided about what it is given."""
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(given.config))
    ports = zip(("--grpc-port", "--grpc-health-port", "--metrics-port"), free_ports(3), strict=True)
    command = [
        *("timeout", "60", str(picker), *given.arguments, f"--config-file={path}"),
        *(f"{flag}={port}" for flag, port in ports),
    ]
    environment = {**os.environ, "KUBECONFIG": str(STATE / "kubeconfig")}
    with subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        try:
            for line in process.stdout or ():
                yield line
                if any(word in line for word in (LOADED, *REFUSED)):
                    break
        finally:
            process.terminate()


@pytest.mark.parametrize("name", GIVEN)
def test_the_picker_loads(name: str, tmp_path: Path) -> None:
    older = name.startswith(OF_LLM_D)
    lines = list(said((LLM_D if older else GAIE)[-1], GIVEN[name], tmp_path))
    assert LOADED in lines[-1], lines[-1]
    # It is told the metrics of an engine that it does not know.
    words = ("data layer configuration", "model-server-protocol-metrics") if older else ("Registered", "llama-cpp")
    told = any(all(word in line for word in words) for line in lines)
    assert told == name.endswith(("own engine", "sglang") if older else "own engine")


def test_the_picker_refuses_what_it_lacks(tmp_path: Path) -> None:
    given = next(iter(GIVEN.values()))
    config = {**given.config, "plugins": [{"type": "always-disagg-pd-decider"}]}
    *_, last = said(GAIE[-1], replace(given, config=config), tmp_path)
    assert REFUSED[0] in last
    # The flags for metrics are in llm-d's picker and not to be given.
    older = next(given for name, given in GIVEN.items() if name.startswith(OF_LLM_D))
    flags = (*older.arguments, "--total-queued-requests-metric=sglang:num_queue_reqs")
    *_, last = said(LLM_D[-1], replace(older, arguments=flags), tmp_path)
    assert REFUSED[1] in last
