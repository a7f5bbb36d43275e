# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""What a person is told while objects are waited for."""

from __future__ import annotations

#: Objects that are named at once.
_LINES = 6


class Progress:
    """Remembers since when each object is waited for.

    :param count: number of objects in all.
    :param timeout: seconds until waiting has failed.
    """

    def __init__(self, count: int, timeout: int) -> None:
        self._count, self._timeout = count, timeout
        self._since: dict[tuple[str, str], float] = {}

    def text(self, pending: list[dict[str, str]], waited: float) -> str:
        """Return what is ready, what is not, why, and for how long it has been so.

        :param pending: ``name`` and ``reason`` of each object that is not ready.
        :param waited: seconds spent so far.
        """
        ready = max(0, self._count - len(pending))
        lines = [f"  {clock(waited)} of {clock(self._timeout)}: {ready} of {self._count} objects are ready"]
        now = {
            (entry["name"], first_line(entry)): self._since.get((entry["name"], first_line(entry)), waited)
            for entry in pending
        }
        self._since = now
        for (name, reason), since in list(now.items())[:_LINES]:
            lasts = f" (for {clock(waited - since)})" if waited > since else ""
            lines.append(f"    {name}: {reason}{lasts}")
        if len(now) > _LINES:
            lines.append(f"    and {len(now) - _LINES} more")
        return "\n".join(lines)


def first_line(entry: dict[str, str]) -> str:
    """Return what is wrong with an object, and the first detail of it."""
    prefix = f"{entry['name']}: "
    lines = [line.strip() for line in entry["reason"].removeprefix(prefix).splitlines()]
    return "; ".join(lines[:2])


def clock(seconds: float) -> str:
    """Return ``2:05`` for 125."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
