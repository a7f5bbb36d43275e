# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""How many replicas of old and new a canary has in each of its steps: pure functions."""

from __future__ import annotations

from collections.abc import Sequence


def shares(percents: Sequence[int], count: int, had: int, least: int, beside: int | None) -> list[tuple[int, int]]:
    """Return replicas of the new and of the old one, step by step; the old one is there until the last.

    The old one keeps all of its replicas as long as the new one finds room beside it, so that it can take all requests
    back at once; after that one goes for each that comes.

    :param percents: how much of the new one is to be there, in percent of ``count``; all of it comes last anyway.
    :param count: how often the new one is wanted.
    :param had: how often the old one was there.
    :param least: how many replicas have to answer at any time.
    :param beside: how many of the new one find room beside the old one, None where all of them do.
    """
    room = count if beside is None else min(beside, count)
    # A way back needs one of the old one.
    most = min(count, room + had - 1)
    found: list[tuple[int, int]] = []
    new = 0
    for percent in sorted({*percents, 100}):
        wanted = min(most, max(1, -(-count * percent // 100)))
        while new < wanted:
            # Before the pods of this step are ready, those of the one before answer beside the old ones.
            new = min(wanted, new + max(1, room + had - least))
            found.append((new, min(had, had - (new - room))))
    return found
