#!/usr/bin/env python3
# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""What a run costs: the first one, one that changes nothing, and rendering many models.

    .venv/bin/python benchmarks/site.py [render] [site]

``site`` needs the embedded cluster and installs the local inventory into it from nothing (it
uninstalls first). All figures are of one run on one machine, side by side; compare ratios.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import yaml
from measure import Seconds, play

LOCAL = ["-i", "inventories/local", "-e", "inference_engine=sglang"]
MODELS = (1, 10, 100)


def waited(result: dict, role: str) -> float:
    """Return the seconds that tasks of ``role`` spent waiting for objects to become ready."""
    tasks = [task for one in result["plays"] for task in one["tasks"]]
    return sum(
        host.get("waited", 0)
        for task in tasks
        if task["task"]["name"].startswith(f"llm_d.multi_engine.{role} ")
        for host in task["hosts"].values()
    )


def changed(result: dict) -> int:
    """Return how many tasks changed something."""
    return result["stats"]["localhost"]["changed"]


def site() -> None:
    """Print what a first and a second run of site.yml cost."""
    play("playbooks/uninstall.yml", *LOCAL)
    first, result = play("site.yml", *LOCAL)
    engine = waited(result, "model_service")
    infrastructure = waited(result, "istio_gateway") + waited(result, "gaie")
    row("site.yml, first run", first, f"of it engine start {engine:.1f} s, gateway and picker {infrastructure:.1f} s")
    second, result = play("site.yml", *LOCAL)
    row("site.yml, second run", second, f"changed={changed(result)}, {second / (first - engine):.2f} of the first")
    check, result = play("site.yml", *LOCAL, "--check", "--diff")
    row("site.yml --check --diff", check, f"changed={changed(result)}, {check / second:.2f} of the second run")


def render() -> None:
    """Print what rendering 1, 10 and 100 models costs."""
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        for count in MODELS:
            inventory = Path(folder, f"{count}.yml")
            inventory.write_text(yaml.safe_dump(models(count)), encoding="utf-8")
            seconds, _result = play("playbooks/render.yml", "-i", str(inventory), "-e", f"render_dir={folder}/{count}")
            figures[count] = seconds
            row(f"render, {count} models", seconds, f"{seconds / figures[MODELS[0]]:.2f} of {MODELS[0]} model")
    most = MODELS[-1]
    growth = (figures[most] - figures[1]) / (most - 1) * 1000
    print(f"  growth: {growth:.0f} ms a model")


def models(count: int) -> dict:
    """Return an inventory of ``count`` models, on both engines in turn."""
    entries = [
        {
            "name": f"model-{index}",
            "source": f"hf://example/model-{index}",
            "engine": ("sglang", "vllm")[index % 2],
            "gpus": 2,
            "replicas": 2,
            "context_length": 32768,
        }
        for index in range(count)
    ]
    local = {"ansible_connection": "local", "llm_d_models": entries}
    return {"all": {"hosts": {"localhost": local}}}


def row(name: str, seconds: Seconds, remark: str) -> None:
    """Print one line of the table."""
    print(f"  {name:28}{seconds:7.1f} s   processor {seconds.processor:5.1f} s   {remark}", flush=True)


if __name__ == "__main__":
    chosen = sys.argv[1:] or ["render", "site"]
    for name in chosen:
        print(name)
        {"render": render, "site": site}[name]()
