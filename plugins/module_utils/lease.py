# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""One run at a time: a Lease beside the objects that a run is about to change."""

from __future__ import annotations

import contextlib
import getpass
import os
import socket
import threading
import time
import uuid
from datetime import datetime, timezone

from ansible_collections.llm_d.multi_engine.plugins.module_utils.cluster import Cluster, ClusterError, Conflict
from ansible_collections.llm_d.multi_engine.plugins.module_utils.marks import (
    MANAGED_BY,
    MANAGED_BY_LABEL,
    ROLE_LABEL,
    STACK_LABEL,
)

API_VERSION, KIND = "coordination.k8s.io/v1", "Lease"
#: Seconds after which a run that does not renew its Lease counts as dead.
DURATION = 15
#: Seconds between two renewals.
RENEWAL = 5


class RunLease:
    """Held while a run changes the objects of one role of one stack.

    A run that was killed holds it for ``duration`` seconds more; who comes then waits for that long.

    :param name: name of the Lease.
    :param holder: who holds it, where several modules are one run, each for a while. The Lease then outlives each of
        them; the last one says so by :attr:`last`.
    :param duration: seconds after which a run that does not renew its Lease counts as dead.
    """

    def __init__(
        self,
        cluster: Cluster,
        stack: str,
        role: str,
        namespace: str,
        name: str,
        holder: str = "",
        duration: int = DURATION,
    ) -> None:
        self._cluster, self._namespace, self._name = cluster, namespace, name
        self._labels = {MANAGED_BY_LABEL: MANAGED_BY, STACK_LABEL: stack, ROLE_LABEL: role}
        self.holder = holder or whoami()
        self._duration = duration
        #: Whether nobody of the same run comes after this one.
        self.last = not holder
        self._live: dict = {}
        self._stop = threading.Event()
        #: When the Lease was last known to be ours, on the monotonic clock.
        self._renewed_at = 0.0
        self._renewer: threading.Thread | None = None
        #: What to say of another run that was waited for, if one was.
        self.waited: str | None = None
        #: Why the Lease was lost, if it was.
        self.lost: str | None = None

    def __enter__(self):
        self._acquire()
        self._renewer = threading.Thread(target=self._renew, daemon=True)
        self._renewer.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        if self._renewer:
            self._renewer.join(RENEWAL)
        if not self.lost and self.last:
            self._release()

    def check(self) -> None:
        """Refuse to go on when somebody else has the Lease, after a long outage for example."""
        if not self.lost and time.monotonic() - self._renewed_at > self._duration - RENEWAL:
            self._check_who(self._cluster)
        if self.lost:
            raise ClusterError(self.lost)

    def _acquire(self) -> None:
        seen_renewed, seen_at = None, time.monotonic()
        while True:
            live = self._cluster.get(API_VERSION, KIND, self._name, self._namespace)
            spec = (live or {}).get("spec") or {}
            holder = spec.get("holderIdentity")
            if holder and holder != self.holder:
                self.waited = busy(self._labels, spec)
                # Not by its time stamps: the clocks of two machines differ.
                if seen_renewed is None:
                    seen_renewed = spec.get("renewTime")
                elif spec.get("renewTime") != seen_renewed:
                    raise ClusterError(busy(self._labels, spec))
                if time.monotonic() - seen_at < spec.get("leaseDurationSeconds", DURATION):
                    time.sleep(1)
                    continue
            try:
                self._live = self._cluster.write(self._claim(live, spec))
                self._renewed_at = time.monotonic()
                return
            except Conflict:  # somebody was faster
                seen_renewed, seen_at = None, time.monotonic()

    def _claim(self, live: dict | None, spec: dict) -> dict:
        metadata = {"name": self._name, "namespace": self._namespace, "labels": self._labels}
        if live:
            metadata["resourceVersion"] = live["metadata"]["resourceVersion"]
        ours = spec.get("holderIdentity") == self.holder
        transitions = spec.get("leaseTransitions", 0) + (1 if live and not ours else 0)
        claim = {
            "holderIdentity": self.holder,
            "leaseDurationSeconds": self._duration,
            "acquireTime": spec.get("acquireTime") if ours else _now(),
            "renewTime": _now(),
            "leaseTransitions": transitions,
        }
        return {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": claim}

    def _renew(self) -> None:
        # The work finds out by itself when the API server is away; what counts here is to be in time.
        cluster = self._cluster.impatient()
        while not self._stop.wait(RENEWAL) and not self.lost:
            with contextlib.suppress(ClusterError):
                try:
                    self._live = cluster.write(self._with(renewTime=_now()))
                    self._renewed_at = time.monotonic()
                except Conflict:
                    self._check_who(cluster)

    def _check_who(self, cluster: Cluster) -> None:
        live = cluster.get(API_VERSION, KIND, self._name, self._namespace)
        spec = (live or {}).get("spec") or {}
        if live and spec.get("holderIdentity") == self.holder:
            self._live, self._renewed_at = live, time.monotonic()
        else:
            self.lost = busy(self._labels, spec)

    def _release(self) -> None:
        try:
            self._cluster.write(self._with(holderIdentity=""))
        except ClusterError:
            # It ends by itself.
            return

    def _with(self, **spec: str) -> dict:
        return {
            "apiVersion": API_VERSION,
            "kind": KIND,
            **self._live,
            "spec": {**self._live["spec"], **spec},
        }


def busy(labels: dict[str, str], spec: dict) -> str:
    """Return the message about another run that is at work."""
    return (
        f"Another run is changing role {labels[ROLE_LABEL]} of stack {labels[STACK_LABEL]}: "
        f"{spec.get('holderIdentity') or 'somebody'}, since {spec.get('acquireTime')}. Nothing of this run was "
        "lost: run it again when the other one has ended."
    )


def whoami() -> str:
    """Return what tells this run from all others."""
    return f"{_user()}@{socket.gethostname()}/{os.getpid()}-{uuid.uuid4().hex[:8]}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return str(os.getuid())


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
