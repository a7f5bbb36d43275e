# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Why objects that are waited for are not ready yet."""

from __future__ import annotations

from ansible_collections.llm_d.multi_engine.plugins.module_utils.cluster import (
    Cluster,
    ClusterError,
    Unreachable,
)
from ansible_collections.llm_d.multi_engine.plugins.module_utils.explain import (
    WORKLOADS,
    Around,
    why_not_ready,
)
from ansible_collections.llm_d.multi_engine.plugins.module_utils.manifests import name_of
from ansible_collections.llm_d.multi_engine.plugins.module_utils.readiness import State
from ansible_collections.llm_d.multi_engine.plugins.module_utils.redact import Redactor


class Look:
    """One look at why objects are not ready. It does not wait for an API server that is away."""

    def __init__(self, cluster: Cluster, since: float) -> None:
        self._cluster, self._since, self._around = cluster, since, Around(cluster)
        self._away = False
        self._redactor = Redactor()

    def explain(self, item: dict, live: dict | None, state: State, logs: bool = False) -> tuple[str, bool]:
        """Return why ``item`` is not ready, and whether waiting is hopeless."""
        lines, final = [], state.final
        if live and item["kind"] in WORKLOADS and not self._away:
            try:
                lines, hopeless = why_not_ready(self._cluster, live, logs, self._since, self._around)
                final = final or hopeless
            except ClusterError as error:
                self._away = isinstance(error, Unreachable)
                lines = str(error).splitlines()
        # Engines print their arguments when they start.
        lines = self._redactor.text("\n".join(lines)).splitlines()
        return "\n".join([f"{name_of(item)}: {state.reason}", *(f"  {line}" for line in lines)]), final
