# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Adds to the module's input what only the controller knows: the inventory, its secrets, and versions."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import platform
import re
from collections.abc import Mapping
from typing import Any

import yaml
from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible.release import __version__ as core_version
from ansible_collections.llm_d.multi_engine.plugins.module_utils.redact import (
    MASK,
    SHORTEST,
    Redactor,
    is_secret_name,
)
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.plain import stack_of, to_plain
from jinja2 import TemplateError

COLLECTION = "llm_d.multi_engine"
#: Variables of this collection, without what its roles have found out.
OURS = re.compile(r"(inference_engine|llm_d|istio_gateway|gaie|model_service|smoke_test|stack_status)(_|$)")
FACTS = ("inference_engine_resolved", "inference_engine_cluster")
#: How ansible-core calls an encrypted value, up to 2.18 and from then on.
VAULTED = ("AnsibleVaultEncryptedUnicode", "EncryptedString")
#: What a template of the user may raise.
BROKEN = (AnsibleError, TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


class NoValue(str):
    """Why a variable has no value."""


class ActionModule(ActionBase):
    """Runs the module with what the inventory says, without secrets."""

    _supports_check_mode = True
    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict | None = None) -> dict:
        result = super().run(tmp, task_vars)
        arguments, variables = to_plain(self._task.args), task_vars or {}
        secrets = self._secrets(variables)
        redactor = Redactor([*secrets, *(arguments.get("secrets") or [])])
        inputs, broken = self._inputs(variables)
        arguments["inputs"] = redactor.value({**inputs, **(arguments.get("inputs") or {})})
        arguments["resolved"] = redactor.value(stack_of(arguments.get("resolved") or {}))
        arguments["findings"] = redactor.text("\n".join(filter(None, [arguments.get("findings"), *broken])))
        arguments["versions"] = {**versions(), **(arguments.get("versions") or {})}
        arguments["secrets"] = sorted({*secrets, *(arguments.get("secrets") or [])})
        # Where the caller is, wherever the module runs.
        arguments["dest"] = os.path.abspath(os.path.expanduser(arguments.get("dest") or "."))
        result.update(self._execute_module(f"{COLLECTION}.support_bundle", arguments, task_vars=variables))
        return result

    def _inputs(self, variables: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """Return the collection's variables, as the inventory sets them, and which of them have no value."""
        names = sorted(name for name in variables if OURS.match(name) and name not in FACTS)
        # However short they are, encrypted values are not shown.
        values = {name: self._value(without_vaulted(variables[name])) for name in names}
        broken = [f"{name}: {value}" for name, value in values.items() if isinstance(value, NoValue)]
        return to_plain(values), broken

    def _secrets(self, variables: Mapping[str, Any]) -> set[str]:
        """Return the values of variables that are secret by their name, specification or encryption."""
        hidden = no_log_options()
        found: set[str] = set()
        for name, value in variables.items():
            if name in ("hostvars", "vars", "groups") or name in FACTS:
                continue
            found |= vaulted(value)
            if name in hidden or name.startswith("vault_") or is_secret_name(name):
                content = self._value(value)
                found |= set() if isinstance(content, NoValue) else texts(content)
        return {value for value in found if len(value) >= SHORTEST}

    def _value(self, value: Any) -> Any:
        """Return a variable's value; of one that cannot be told, why."""
        try:
            return to_plain(self._templar.template(value))
        except BROKEN as error:
            return NoValue(f"it has no value: {error}")


def texts(value: Any) -> set[str]:
    """Return all text in plain data."""
    if isinstance(value, Mapping):
        return set().union(*map(texts, value.values())) if value else set()
    if isinstance(value, (list, tuple)):
        return set().union(*map(texts, value)) if value else set()
    return {str(value)} if isinstance(value, (str, int)) and not isinstance(value, bool) else set()


def vaulted(value: Any) -> set[str]:
    """Return all text in a variable that is encrypted where it was read."""
    if type(value).__name__ in VAULTED:
        try:
            return {str(value)}
        except AnsibleError:  # without the password nobody can show it either
            return set()
    if isinstance(value, Mapping):
        return set().union(*map(vaulted, value.values())) if value else set()
    if isinstance(value, (list, tuple)):
        return set().union(*map(vaulted, value)) if value else set()
    return set()


def without_vaulted(value: Any) -> Any:
    """Return a variable with its encrypted parts hidden."""
    if type(value).__name__ in VAULTED:
        return MASK
    if isinstance(value, Mapping):
        return {key: without_vaulted(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_vaulted(item) for item in value]
    return value


def folder(collection: str) -> str | None:
    """Return where a collection is installed."""
    try:
        spec = importlib.util.find_spec(f"ansible_collections.{collection}")
    except ImportError:
        return None
    places = list(spec.submodule_search_locations or []) if spec else []
    return places[0] if places else None


def no_log_options() -> set[str]:
    """Return the variables that the specifications of this collection's roles call secret."""
    roles = os.path.join(folder(COLLECTION) or "", "roles")
    names: set[str] = set()
    for role in os.listdir(roles) if os.path.isdir(roles) else []:
        specs = read(os.path.join(roles, role, "meta", "argument_specs.yml")).get("argument_specs") or {}
        entries = (specs.get("main") or {}).get("options") or {}
        names |= {name for name, option in entries.items() if option.get("no_log")}
    return names


def versions() -> dict[str, str]:
    """Return versions of what runs on the controller."""
    found = {"ansible-core": core_version, "python": platform.python_version()}
    for collection in (COLLECTION, "kubernetes.core"):
        found[collection] = collection_version(collection)
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        found["kubernetes (Python)"] = importlib.metadata.version("kubernetes")
    return found


def collection_version(collection: str) -> str:
    """Return the version of an installed collection, or of a checkout."""
    place = folder(collection)
    if not place:
        return "not installed"
    manifest = read(os.path.join(place, "MANIFEST.json")).get("collection_info") or {}
    checkout = read(os.path.join(place, "galaxy.yml"))
    return manifest.get("version") or (f"{checkout['version']} (a checkout)" if "version" in checkout else "unknown")


def read(path: str) -> dict:
    """Return the data of a YAML or JSON file, none where there is no such file."""
    try:
        with open(path, encoding="utf-8") as file:
            return yaml.safe_load(file) or {}
    except (OSError, yaml.YAMLError):
        return {}
