# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Waits for many objects at once, by one watch a kind."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from ansible_collections.llm_d.multi_engine.plugins.module_utils.cluster import (
    Cluster,
    ClusterError,
    Unauthorized,
)
from ansible_collections.llm_d.multi_engine.plugins.module_utils.manifests import name_of
from ansible_collections.llm_d.multi_engine.plugins.module_utils.readiness import JUDGED, State, judge

#: Seconds between two looks at why objects are not ready.
_EXPLAIN_EVERY = 3
#: Seconds for the first look at all objects.
_FIRST_LOOK = 2
#: Seconds that objects were applied before the wait for them, at most: what failed earlier may be mended by now.
_APPLIED_BEFORE = 15
#: Seconds until a watch that failed is tried again.
_PAUSE = 2


@dataclass(frozen=True)
class Pending:
    """An object that is not ready.

    :ivar name: kind, namespace and name.
    :ivar reason: why, in Kubernetes' words where it has some; several lines.
    """

    name: str
    reason: str


def wait(
    cluster: Cluster, objects: list[dict], timeout: float, until: float | None = None, waited: float = 0
) -> list[Pending]:
    """Wait until all ``objects`` are ready and return those that are not.

    :param timeout: seconds after which waiting has failed.
    :param until: seconds after which to return even though waiting has not failed.
    :param waited: seconds that were waited before.
    :raises ClusterError: at the end of ``timeout``, or earlier when waiting cannot help, with the reasons.
    """
    start, explained, reasons = time.monotonic(), 0.0, {}
    since = time.time() - waited - _APPLIED_BEFORE
    span = timeout if until is None else min(timeout, until)
    items = [item for item in objects if item["kind"] in JUDGED]
    # They try again by themselves, and tell meanwhile what is wrong.
    with _Watches(cluster.impatient(), items, span) as watches:
        while True:
            late = [(item, watches.live(item), state) for item in items if not (state := watches.state(item)).ready]
            spent = time.monotonic() - start
            if not late:
                return []
            if spent - explained >= _EXPLAIN_EVERY or spent >= span:
                explained = spent
                # Here, for where all is ready it is not needed, and it takes its time to load.
                from ansible_collections.llm_d.multi_engine.plugins.module_utils.looking import Look

                look = Look(cluster.impatient(), since)
                found = [(item, *look.explain(item, live, state)) for item, live, state in late]
                reasons = {name_of(item): reason for item, reason, _final in found}
                if spent >= timeout or any(final for _item, _reason, final in found):
                    texts = [look.explain(*one, logs=True)[0] for one in late]
                    raise ClusterError(failure(texts, waited + spent, spent >= timeout))
            if spent >= span:
                return [Pending(name_of(item), reasons.get(name_of(item), state.reason)) for item, _live, state in late]
            watches.changed(min(1.0, span - spent))


def failure(reasons: list[str], spent: float, timed_out: bool) -> str:
    """Return the message of a wait that failed."""
    why = f"Not ready after {spent:.0f} s" if timed_out else f"Given up after {spent:.0f} s, waiting cannot help"
    return "\n".join([f"{why}:", *reasons])


class _Watches:
    """Live objects, kept up to date in the background.

    :param seconds: after which nothing is kept up to date any more.
    """

    def __init__(self, cluster: Cluster, items: list[dict], seconds: float) -> None:
        # A first look takes its time even where there is none to wait.
        self._cluster, self._deadline = cluster, time.monotonic() + max(seconds, _FIRST_LOOK)
        self._places = {self._place(item) for item in items}
        self._live: dict[tuple, dict[str, dict]] = {}
        self._errors: dict[tuple, str] = {}
        #: What no waiting heals.
        self._end: ClusterError | None = None
        self._changed = threading.Event()

    def __enter__(self):
        for place in self._places:
            # Daemons: one that still waits for the API server does not hold up the end.
            threading.Thread(target=self._follow, args=(place,), daemon=True).start()
        deadline = time.monotonic() + _FIRST_LOOK
        while len(self._live) + len(self._errors) < len(self._places) and time.monotonic() < deadline:
            self.changed(0.2)
        return self

    def __exit__(self, *_error: object) -> None:
        self._deadline = 0

    @staticmethod
    def _place(item: dict) -> tuple:
        return item["apiVersion"], item["kind"], item["metadata"].get("namespace")

    def changed(self, seconds: float) -> None:
        """Return when an object changed, or ``seconds`` have passed.

        :raises ClusterError: when nothing will be seen any more.
        """
        self._changed.wait(seconds)
        self._changed.clear()
        if self._end:
            raise self._end

    def live(self, item: dict) -> dict | None:
        """Return what is known of an object."""
        return self._live.get(self._place(item), {}).get(item["metadata"]["name"])

    def state(self, item: dict) -> State:
        """Return the state of an object."""
        place = self._place(item)
        if error := self._errors.get(place):
            return State(False, f"cannot be read: {error}")
        if place not in self._live:
            return State(False, "not read yet")
        return judge(self.live(item))

    def _follow(self, place: tuple) -> None:
        while (left := self._deadline - time.monotonic()) > 0:
            try:
                for found in self._cluster.watch(*place, left):
                    self._live[place] = found
                    self._errors.pop(place, None)
                    self._changed.set()
                    if self._deadline == 0:
                        return
            except Unauthorized as error:
                self._end = error
                self._changed.set()
                return
            except ClusterError as error:
                self._errors[place] = str(error)
                self._changed.set()
                time.sleep(_PAUSE)
