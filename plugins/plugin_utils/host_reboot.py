# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Why a GPU host has to be rebooted, from what runs and what the next boot starts.

Nothing of an earlier run is remembered, so that an interrupted one forgets no reboot.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def reasons(facts: Mapping[str, Any]) -> list[str]:
    """Return why a reboot is needed; ``facts`` is what module ``gpu_facts`` returns."""
    told = []
    kernel, driver = facts["kernel"], facts["driver"]
    if kernel["next"] != kernel["running"]:
        told.append(f"kernel {kernel['running']} runs, the next boot takes {kernel['next']}")
    if facts["nouveau"]["loaded"] and facts["nouveau"]["blacklisted"]:
        told.append("nouveau is loaded, the next boot leaves it out")
    loaded, following = driver["loaded"], driver["next_kernel"]
    if following and loaded and following["version"] and following["version"] != loaded["version"]:
        told.append(f"driver {loaded['version']} is loaded, the next boot takes {following['version']}")
    if following and not loaded and facts["gpus"]:
        told.append(f"driver {following['version']} is installed and none is loaded")
    return told + network(facts)


def network(facts: Mapping[str, Any]) -> list[str]:
    """Return whether NVIDIA's network cards have another driver after the next boot, such as DOCA-OFED's."""
    module, kernel = facts.get("mlx5_core"), facts["kernel"]
    if not module or not module["next_kernel"]:
        return []
    loaded, following = module["loaded"], module["next_kernel"]
    # Every kernel is built from other sources, and not every one tells of which.
    known = kernel["next"] == kernel["running"] and loaded["srcversion"] and following["srcversion"]
    if loaded["version"] != following["version"]:
        comes = following["version"] or "the kernel's own"
    elif known and loaded["srcversion"] != following["srcversion"]:
        comes = "another build"
    else:
        return []
    return [f"mlx5_core {loaded['version'] or 'of the kernel'} is loaded, the next boot takes {comes}"]
