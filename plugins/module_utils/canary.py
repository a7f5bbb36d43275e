# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Reads what old and new do with requests, and says what a canary's hold comes to.

Pods are asked by way of the API server's port-forward, as those are that are tried: nobody has to reach them.
"""

from __future__ import annotations

import http.client
from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.llm_d.multi_engine.plugins.module_utils import judgement
from ansible_collections.llm_d.multi_engine.plugins.module_utils.cluster import Cluster
from ansible_collections.llm_d.multi_engine.plugins.module_utils.pods import stays_ready
from ansible_collections.llm_d.multi_engine.plugins.module_utils.prometheus import QueryError
from ansible_collections.llm_d.multi_engine.plugins.module_utils.prometheus_query import ask

#: Seconds for a page of metrics.
_PAGE_SECONDS = 10
_PICKER_LABEL = "app.kubernetes.io/name"


def page(cluster: Cluster, pod: Mapping[str, Any], port: int, path: str) -> str | None:
    """Return what ``pod`` shows to Prometheus; None where it cannot be read, for a while or at all."""
    name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
    connection = http.client.HTTPConnection(name)
    try:
        connection.sock = cluster.forwarded(namespace, name, port)
        connection.sock.settimeout(_PAGE_SECONDS)
        connection.request("GET", path, headers={"Accept": "text/plain", "Connection": "close"})
        response = connection.getresponse()
        return response.read().decode(errors="replace") if response.status == 200 else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def readings(cluster: Cluster, pods: Iterable[dict], port: int, metrics: Mapping[str, Any]) -> dict[str, dict]:
    """Return by name what each of ``pods`` that answers has counted, and how often it was restarted.

    :param metrics: ``path``, and ``requests``, ``errors`` and ``latency`` as :func:`judgement.reading` takes them.
    """
    found = {}
    for pod in pods:
        if not stays_ready(pod):
            continue
        text = page(cluster, pod, port, metrics.get("path") or "/metrics")
        restarts = sum(
            status.get("restartCount", 0) for status in (pod.get("status") or {}).get("containerStatuses") or []
        )
        if text is not None:
            found[pod["metadata"]["name"]] = {**judgement.reading(text, metrics), "restarts": restarts}
    return found


def pickers(cluster: Cluster, namespace: str, pools: Iterable[str], metrics: Mapping[str, Any]) -> dict[str, dict]:
    """Return by pod what the pickers of ``pools`` have counted.

    :param metrics: as for :func:`readings`, and ``port``, without which nobody is asked.
    """
    found: dict[str, dict] = {}
    for pool in dict.fromkeys(pools if "port" in metrics else ()):
        pods = cluster.list("v1", "Pod", namespace, f"{_PICKER_LABEL}={pool}-epp")
        found |= readings(cluster, pods, metrics["port"], metrics)
    return found


def between(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``requests``, ``failures`` and ``latency_ms`` that pickers have counted between two readings of theirs.

    :returns: as a timeline's event has them; None each where nobody counted.
    """
    parts = [judgement.traffic(before.get(name), reading) for name, reading in after.items()] if before else []
    parts = [part for part in parts if part["requests"] is not None]
    if not parts:
        return {"requests": None, "failures": None, "latency_ms": None}
    timed = [(part["requests"], part["latency_ms"]) for part in parts if part["latency_ms"] is not None]
    count = sum(requests for requests, _latency in timed)
    return {
        "requests": sum(part["requests"] for part in parts),
        "failures": sum(part["failures"] for part in parts),
        "latency_ms": round(sum(requests * latency for requests, latency in timed) / count, 1) if count else None,
    }


def judged(
    begin: Mapping[str, Any], end: Mapping[str, Any], settings: Mapping[str, Any], holds: int
) -> tuple[str, str]:
    """Return what follows from a hold (``on``, ``hold`` or ``back``), and why.

    :param begin: of the hold: ``old``, ``new``, ``pickers`` and ``testers`` (their pickers), readings by pod.
    :param settings: the model's ``rollout``.
    :param holds: how many holds this step had.
    """
    limits = judgement.Limits(
        **(settings.get("limits") or {}),
        **{name: settings[name] for name in ("on_unknown", "max_holds") if name in settings},
    )
    query = settings.get("prometheus")
    value, silence = _queried(query) if query else (None, "")
    verdict = judgement.judge(_scrape(begin, begin), _scrape(end, begin), limits, value)
    if silence and verdict.outcome != judgement.WORSE:
        verdict = judgement.Verdict(judgement.UNKNOWN, silence, verdict.figures)
    return judgement.decide(verdict, holds, limits), f"{verdict.outcome}: {verdict.words}"


def _queried(query: Mapping[str, Any]) -> tuple[tuple[float, float] | None, str]:
    try:
        return (ask(query["url"], query["query"]), float(query["limit"])), ""
    except QueryError as error:
        # It is what the user judges by: without it nothing is known.
        return None, str(error)


def _scrape(scraped: Mapping[str, Any], begin: Mapping[str, Any]) -> dict[str, Any]:
    """Return what :func:`judgement.judge` compares; an old pod that could not be read at first is left out."""
    known = [name for name in scraped["pickers"] if name in begin["pickers"]]
    return {
        "old": {name: pod for name, pod in scraped["old"].items() if name in begin["old"]},
        "new": scraped["new"],
        "testers": scraped.get("testers") or {},
        "picker": scraped["pickers"][known[0]] if known else None,
    }
