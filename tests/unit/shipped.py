"""The catalogue and the roles' defaults as the collection ships them, for tests that resolve and compose."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.catalogue_files import load as load_catalogue
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.resolve import resolve

ROOT = Path(__file__).resolve().parents[2]
VARS = ROOT / "roles" / "inference_engine" / "vars"
MODEL = {"name": "qwen", "source": "hf://Qwen/Qwen3-32B"}

#: What a role's variables are where an inventory decides about them; the rest are the role's defaults.
_DECIDED: dict[str, Any] = {
    "gaie_gateway_name": "llm-d-inference-gateway",
    "gaie_gateway_namespace": "llm-d",
    "gaie_image_pull_secrets": [],
    "model_service_gateway_name": "llm-d-inference-gateway",
    "model_service_gateway_namespace": "llm-d",
    "istio_gateway_name": "llm-d-inference-gateway",
    "istio_gateway_namespace": "llm-d",
}


def _options(role: str) -> dict[str, Any]:
    """Return the options that ``role`` hands to its filter when nobody sets its variables."""
    folder = ROOT / "roles" / role
    names = yaml.safe_load((folder / "vars/main.yml").read_text())[f"__{role}_options"]
    values = {**yaml.safe_load((folder / "defaults/main.yml").read_text()), **_DECIDED}
    return {name: values.get(f"{role}_{name}") for name in names}


GAIE_OPTIONS = _options("gaie")
GATEWAY_OPTIONS = _options("istio_gateway")
#: In the place of the script that fills caches, which is long.
SCRIPT = "# roles/model_service/files/prefetch.py\n"
MODEL_OPTIONS = {**_options("model_service"), "hf_token_secret": {}, "pod_monitor": False, "prefetch_script": SCRIPT}


def load(*path: str) -> Any:
    return yaml.safe_load(VARS.joinpath(*path).read_text())


@functools.cache
def _catalogue() -> dict[str, Any]:
    return load_catalogue(VARS)


def catalogue(*files: Path) -> dict[str, Any]:
    """Return a copy of the catalogue, for tests that change it, with the engines of the user's ``files``."""
    return {**copy.deepcopy(_catalogue()), "engine_files": {path.name: path.read_text() for path in files}}


def settings(*models: Any, **changed: Any) -> dict[str, Any]:
    """Return the settings of a stack with ``models``, each laid over :data:`MODEL`."""
    return {
        "engine": "sglang",
        "release": "llm-d-0.10",
        "namespace": "llm-d",
        "stack": "llm-d",
        "accelerator": "nvidia",
        "models": [{**MODEL, **model} if isinstance(model, dict) else model for model in models],
        "model_defaults": {},
        "patches": [],
        "image_registry": "",
        "images": {},
        "image_pull_secrets": [],
        "overrides": [],
        **changed,
    }


def resolved(*models: Any, files: Iterable[Path] = (), **changed: Any) -> dict[str, Any]:
    """Return what the models resolve to, which has to be without findings."""
    result = resolve(settings(*models, **changed), catalogue(*files) if files else _catalogue())
    assert not result["findings"]
    return result


def findings(*models: Any, **changed: Any) -> list[str]:
    """Return why the models are refused."""
    return resolve(settings(*models, **changed), _catalogue())["findings"]


def one(model: dict[str, Any] | None = None, **changed: Any) -> dict[str, Any]:
    """Return the only model of a stack, resolved."""
    (only,) = resolved(model or {}, **changed)["models"]
    return only


def inventory(name: str, *files: str, **changed: Any) -> dict[str, Any]:
    """Return what the example inventory ``name`` resolves to, findings included.

    :param files: with further variables, below it.
    """
    folder = ROOT / "inventories"
    given: dict[str, Any] = {}
    for file in ("group_vars/all/main.yml", *files):
        given |= yaml.safe_load((folder / name / file).read_text())
    profiles = given.pop("llm_d_engine_profiles", [])
    paths = [Path(path.replace("{{ inventory_dir }}/..", str(folder))) for path in profiles]
    named = {"inference_engine": "engine", **{f"llm_d_{key}": key for key in settings()}}
    stack = {named[key]: value for key, value in given.items()}
    # As the role has it.
    stack["stack"] = stack["namespace"]
    return resolve({**settings(), "engine": "", **stack, **changed}, catalogue(*paths))
