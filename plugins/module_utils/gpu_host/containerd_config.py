# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""containerd's configuration with NVIDIA's runtime in it, and nothing else changed.

Where drop-ins are merged value by value, our values stand in one of ours; otherwise in the root
file, between what is there. A drop-in never has a higher version than the root file: containerd
2.3 does not start with that, and earlier ones lose the root file's settings.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping

from ansible_collections.llm_d.multi_engine.plugins.module_utils.manifests import MASK
from ansible_collections.llm_d.multi_engine.plugins.module_utils.redact import Redactor

from . import toml

DROP_IN_FOLDER = "/etc/containerd/conf.d"
DROP_IN = f"{DROP_IN_FOLDER}/99-llm-d-nvidia.toml"
HEAD = "# Written by the Ansible role llm_d.multi_engine.gpu_node; changes are lost.\n"
#: Values of the root that may change: how a file is read, and what keeps Kubernetes out.
_OURS = ("disabled_plugins", "imports", "version")
#: Values that say as much as none.
_NOTHING = ('""', "''", "0", "false", "[]", "{}")
RUNC = "io.containerd.runc.v2"
#: Secrets of registries whose names say so to containerd alone.
_REGISTRY_SECRET = re.compile(
    r"""(\b(?:auth|identitytoken)["']?[ \t]*=[ \t]*)("(?:[^"\\\n]|\\.)+"|'[^'\n]+')""", re.IGNORECASE
)


class Refused(ValueError):
    """A configuration that cannot be changed safely; the message says what to do."""


def wanted(
    root: str | None, generation: Mapping, plugins: Mapping[str, str], settings: Mapping, config: str
) -> dict[str, str]:
    """Return the files that are to be, path to content; the root file only where it changes.

    :param root: content of the root file ``config``, None where there is none.
    :param generation: what is known of this containerd: ``config``, ``drop_in``, ``imports``, ``cdi``.
    :param plugins: the plugin that runs pods, by version of the configuration.
    :param settings: ``binary``, ``systemd_cgroup``, ``default_runtime``.
    :raises Refused: for a root file that cannot be understood.
    """
    try:
        number = version(root)
    except ValueError as error:
        raise Refused(f"{config}: {error}. Correct it; it was not changed.") from error
    if number is None:
        root, number = _new_root(root, generation["config"], config), generation["config"]
    plugin = plugins.get(str(number))
    if plugin is None or number > generation["config"]:
        raise Refused(
            f"{config}: its version is {number}, this containerd reads up to {generation['config']} and the role "
            f"knows {', '.join(sorted(plugins))}. `containerd config migrate` writes it in the version of containerd."
        )
    disabled = toml.values(root).get(((), "disabled_plugins"), "")
    if {"cri", plugin} & set(toml.strings(disabled)):
        raise Refused(
            f"{config}: disabled_plugins turns off the plugin that Kubernetes uses: {disabled}. Take it out of the list."
        )
    if not generation["drop_in"]:
        return {config: toml.edited(root, _values(plugin, generation, settings, toml.values(root)))}
    imports = _imports(root, generation)
    files = {
        DROP_IN: HEAD + toml.edited(f"version = {number}\n", _values(plugin, generation, settings, toml.values(root)))
    }
    if imports is not None:
        files[config] = toml.edited(root, {(): {"imports": imports}})
    else:
        files[config] = root
    return files


def version(root: str | None) -> int | None:
    """Return the version that a root file says it has.

    None for one that is not there, and for one with values of the root only, as packages bring it:
    then any version reads it alike.

    :raises ValueError: for a version that is no number.
    """
    if root is None:
        return None
    found = toml.entries(root)
    number = next((entry.value for entry in found if not entry.table and entry.key == "version"), None)
    if number is None:
        return 1 if any(entry.table for entry in found) else None
    if not number.isdigit():
        raise ValueError(f"version is {number}, which is no number")
    return int(number)


def lost(before: str, after: str, changed: Mapping) -> list[str]:
    """Return what containerd would not have any more, or otherwise, apart from what was meant to change.

    ``before`` and ``after`` are what containerd makes of the configurations (``config dump``).
    """
    later = toml.values(after)
    told = []
    for (table, key), value in toml.values(before).items():
        if key in changed.get(table, {}) or (not table and key in _OURS):
            continue
        # Programs write some values only where their table is empty otherwise.
        if later.get((table, key)) != value and not ((table, key) not in later and value in _NOTHING):
            told.append(f"{'.'.join((*table, key))} = {value}")
    return told


def missing(after: str, values: Mapping) -> list[str]:
    """Return what containerd does not have although it was written."""
    later = toml.values(after)
    return [
        f"{'.'.join((*table, key))} = {value}"
        for table, pairs in values.items()
        for key, value in pairs.items()
        if toml.unquoted(later.get((table, key), "")) != toml.unquoted(value)
    ]


def hidden(text: str) -> str:
    """Return a configuration, or a message about one, without the passwords and tokens of registries."""
    return Redactor().text(_REGISTRY_SECRET.sub(rf'\1"{MASK}"', text))


def dumped(generation: Mapping, plugins: Mapping[str, str], settings: Mapping) -> dict:
    """Return what containerd has to say it has, in the version that it writes itself."""
    return _values(plugins[str(generation["config"])], generation, settings, {})


def _values(plugin: str, generation: Mapping, settings: Mapping, there: Mapping) -> dict:
    """Return table to key to value.

    runc is written too: a list of runtimes in a file takes the place of the built-in one.
    """
    section = ("plugins", plugin)
    runtimes = (*section, "containerd", "runtimes")
    cgroup = "true" if settings["systemd_cgroup"] else "false"
    wanted_values: dict = {}
    if generation["cdi"] not in ("", "always"):
        wanted_values[section] = {generation["cdi"]: "true"}
    wanted_values[(*section, "containerd")] = {"default_runtime_name": toml.string(settings["default_runtime"])}
    wanted_values[(*runtimes, "runc")] = {"runtime_type": toml.string(RUNC)}
    wanted_values[(*runtimes, "runc", "options")] = {"SystemdCgroup": cgroup}
    nvidia = {"runtime_type": toml.string(RUNC)}
    base = there.get(((*runtimes, "runc"), "base_runtime_spec"))
    if base and toml.unquoted(base):
        # Limits of containers are the same with and without GPUs.
        nvidia["base_runtime_spec"] = base
    wanted_values[(*runtimes, "nvidia")] = nvidia
    wanted_values[(*runtimes, "nvidia", "options")] = {
        "BinaryName": toml.string(settings["binary"]),
        "SystemdCgroup": cgroup,
    }
    return wanted_values


def _new_root(root: str | None, number: int, config: str) -> str:
    """Return a root file of this version: a new one, or the one that has values of the root only."""
    if root is None:
        return f"{HEAD.replace('; changes are lost', '')}version = {number}\n"
    pairs = {"version": str(number)}
    disabled = toml.values(root).get(((), "disabled_plugins"))
    if disabled:
        # Docker's package of containerd turns off what Kubernetes needs, and says nothing else.
        kept = [item for item in toml.strings(disabled) if item != "cri"]
        pairs["disabled_plugins"] = "[" + ", ".join(map(toml.string, kept)) + "]"
    return toml.edited(root, {(): pairs})


def _imports(root: str, generation: Mapping) -> str | None:
    """Return the list of imports that has our drop-in, None where it is read already."""
    text = toml.values(root).get(((), "imports"))
    listed = generation["imports"] if text is None else toml.strings(text)
    if any(fnmatch.fnmatch(DROP_IN, item if item.startswith("/") else f"/etc/containerd/{item}") for item in listed):
        return None
    return "[" + ", ".join(toml.string(item) for item in [*listed, f"{DROP_IN_FOLDER}/*.toml"]) + "]"
