# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Pure functions on Kubernetes' events and times."""

from __future__ import annotations

import datetime
from collections.abc import Iterable


def seconds(time: str | None) -> float | None:
    """Return a time as Kubernetes writes it in seconds since 1970, None for none."""
    if not time:
        return None
    return datetime.datetime.fromisoformat(time.replace("Z", "+00:00")).timestamp()


def at(event: dict) -> float:
    """Return when ``event`` was seen last."""
    times = (
        event.get("lastTimestamp"),
        (event.get("series") or {}).get("lastObservedTime"),
        event.get("eventTime"),
        event.get("firstTimestamp"),
    )
    return max((seconds(time) or 0.0 for time in times), default=0.0)


def message(event: dict) -> str:
    """Return what ``event`` says."""
    return (event.get("message") or "").removeprefix("(combined from similar events): ").strip()


def about(events: Iterable[dict], item: dict) -> list[dict]:
    """Return which of ``events`` are about ``item``, the last one last."""
    uid = item["metadata"].get("uid")
    return sorted((event for event in events if uid and event["involvedObject"].get("uid") == uid), key=at)


def last(events: Iterable[dict], *reasons: str, container: str | None = None, word: str = "") -> dict | None:
    """Return the last of ``events``, which are in their order, with one of ``reasons``.

    :param container: of which it must be.
    :param word: part of its message.
    """
    found = None
    for event in events:
        path = event["involvedObject"].get("fieldPath") or ""
        if (
            event.get("reason") in reasons
            and (container is None or path.endswith(f"{{{container}}}"))
            and word in (event.get("message") or "")
        ):
            found = event
    return found


def fresh(since: float | None, *times: float | None) -> bool:
    """Whether something is known to be of after ``since``; what has no time counts as new."""
    known = [time for time in times if time]
    # Kubernetes writes whole seconds.
    return since is None or not known or max(known) >= int(since)
