"""Where things are: the cache, the binaries in it, the versions.

The modules of this directory import each other by their plain names (`import paths`):
`python tests/cluster` puts the directory itself on the module search path.

The cache's layout is a contract; other programs look binaries up there:

    <cache>/bin/<component>-<version>/<binary>     e.g. bin/kubernetes-1.35.4/kubelet
    <cache>/images/...                             image tars and what they are made from
    <cache>/tmp/                                   unfinished work, safe to delete when nothing runs
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

import yaml

HERE = Path(__file__).resolve().parent
"""This directory."""


def cache_dir() -> Path:
    """The cache: `$LLM_D_CACHE`, or `llm-d-multi-engine` in the user's cache directory. Not created."""
    override = os.environ.get("LLM_D_CACHE")
    if override:
        return Path(override).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser().absolute() / "llm-d-multi-engine"


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """The content of `versions.yml`: component (or `<component>_module`, ...) to version, all strings.

    The result is shared: do not change it.
    """
    loaded = yaml.safe_load((HERE / "versions.yml").read_text(encoding="utf-8"))
    return {str(name): str(version) for name, version in loaded.items()}


COMPONENT_OF_VERSION = {"helm3": "helm"}
"""Two versions of one component are two directories `<component>-<version>`, not two components."""


def component_dir(component: str) -> Path:
    """The cache's directory of the binaries of `component`, a key of `versions.yml`.

    Raises KeyError for a component that has no version. The directory need not exist.
    """
    directory = COMPONENT_OF_VERSION.get(component, component)
    return cache_dir() / "bin" / f"{directory}-{versions()[component]}"


def binary(component: str, name: str) -> Path:
    """The path of one binary, for example `binary("kubernetes", "kubelet")`; it need not exist yet."""
    return component_dir(component) / name
