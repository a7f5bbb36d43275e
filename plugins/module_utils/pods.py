# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Pure functions that tell from a pod and its events why it is not ready."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.llm_d.multi_engine.plugins.module_utils import events as told

#: Reasons of a waiting container that no time heals.
HOPELESS = ("InvalidImageName", "ErrImageNeverPull", "CreateContainerConfigError")
#: Restarts after which a crash loop counts as one.
CRASHES = 3
#: What registries and container runtimes say of an image that is not there, as opposed to not answering.
_MISSING = ("not found", "manifest unknown", "name unknown", "repository does not exist", "no match for platform")
#: What a runtime misses on its own disk is no word of the registry.
_NOT_MISSING = ("content digest",)
#: Events that say why a pod does not start.
_HOLDS_UP = (
    "FailedMount",
    "FailedAttachVolume",
    "FailedMapVolume",
    "FailedCreatePodSandBox",
    "FailedCreatePodContainer",
    "FailedPrepareDynamicResources",
    "NetworkNotReady",
)
#: Reasons of an end that leave no log, so that the message is all there is.
_NEVER_RAN = ("StartError", "ContainerCannotRun")
#: Exit codes of what Kubernetes stopped.
_STOPPED = (0, 137, 143)
#: Seconds after the end of its grace, for nodes that are busy and clocks that differ.
OVERDUE_SECONDS = 300
_PREEMPTION = re.compile(r" (no new claims to deallocate, )?preemption: .*", re.DOTALL)


def is_ready(pod: Mapping[str, Any]) -> bool:
    """Whether a pod takes requests."""
    return any(
        condition["type"] == "Ready" and condition["status"] == "True"
        for condition in (pod.get("status") or {}).get("conditions") or []
    )


def stays_ready(pod: Mapping[str, Any]) -> bool:
    """Whether a pod takes requests, and goes on to."""
    return is_ready(pod) and not pod["metadata"].get("deletionTimestamp")


def is_overdue(pod: Mapping[str, Any], now: float) -> bool:
    """Whether a pod should have been gone long ago: only a node that is lost keeps one, and nobody is answered by it.

    :param now: seconds since the epoch.
    """
    # When its grace ends.
    due = told.seconds(pod["metadata"].get("deletionTimestamp"))
    return due is not None and now > due + OVERDUE_SECONDS


def restarts(pods: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Return by ``pod container`` how often it was restarted; one that has ended and was not yet counts as if."""
    return {
        f"{pod['metadata']['name']} {status['name']}": _restarts(status) for pod in pods for status in _statuses(pod)
    }


def ended_since(pods: Iterable[Mapping[str, Any]], before: Mapping[str, int]) -> list[str]:
    """Return how containers have ended that were restarted since ``before``, what :func:`restarts` told then."""
    found = []
    for pod in pods:
        for status in _statuses(pod):
            name = pod["metadata"]["name"]
            if _restarts(status) > before.get(f"{name} {status['name']}", _restarts(status)):
                found.append(f"container {status['name']} of pod {name} ended{_how_ended(status)}")
    return found


def _statuses(pod: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return (pod.get("status") or {}).get("containerStatuses") or []


def _restarts(status: Mapping[str, Any]) -> int:
    return status.get("restartCount", 0) + ("terminated" in (status.get("state") or {}))


def _how_ended(status: Mapping[str, Any]) -> str:
    """Return how a container has ended the last time, such as `` with exit code 139 (Error)``; nothing where unknown."""
    states = [status.get(name) or {} for name in ("state", "lastState")]
    ended = next((state["terminated"] for state in states if "terminated" in state), None)
    if not ended:
        return ""
    reason = f" ({ended['reason']})" if ended.get("reason") else ""
    return f" with exit code {ended.get('exitCode')}{reason}"


@dataclass(frozen=True)
class Trouble:
    """Why a pod is not ready.

    :ivar text: pod, container and Kubernetes' reason.
    :ivar container: container whose last log lines tell more, if any.
    :ivar previous: whether those are of its previous run.
    :ivar final: whether waiting cannot help.
    """

    text: str
    container: str | None = None
    previous: bool = False
    final: bool = False


def trouble(pod: dict) -> Trouble | None:
    """Return the first reason why ``pod`` is not ready, or None when it is or nothing is known."""
    return next(iter(troubles(pod)), None)


def troubles(pod: dict, events: Sequence[dict] = (), since: float | None = None) -> list[Trouble]:
    """Return why ``pod`` is not ready; nothing when it is, or when nothing is known.

    :param events: about the pod, in their order.
    :param since: time before which nothing counts as final: a change elsewhere may have mended it.
    """
    status, name = pod.get("status") or {}, pod["metadata"]["name"]
    if message := unscheduled(pod):
        return [Trouble(f"pod {name} is not scheduled: {message}")]
    if status.get("phase") == "Failed" and status.get("reason"):
        return [Trouble(f"pod {name} failed: {status['reason']}: {status.get('message')}")]
    statuses = (status.get("initContainerStatuses") or []) + (status.get("containerStatuses") or [])
    found = [one for container in statuses if (one := _Container(pod, container, events, since).trouble())]
    # One that runs and is not ready often only waits for another one.
    broken = [one for one, running in found if not running]
    if broken or found:
        return broken or [one for one, _running in found]
    if status.get("phase") == "Failed":
        return [Trouble(f"pod {name} failed: {status.get('reason')}: {status.get('message')}")]
    return _held_up(pod, events)


def unscheduled(pod: dict) -> str | None:
    """Return why ``pod`` has no node, in the scheduler's words; None when it has one."""
    for condition in (pod.get("status") or {}).get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            message = condition.get("message") or condition.get("reason") or "no reason is given"
            # Why no other pod makes room says the same once more.
            return _PREEMPTION.sub("", message)
    return None


def _held_up(pod: dict, events: Sequence[dict]) -> list[Trouble]:
    """Return the last warning about a pod that does not start and does not say why: volumes that it misses."""
    if (pod.get("status") or {}).get("phase") != "Pending":
        return []
    warnings = [
        event for event in events if event.get("type") == "Warning" and event.get("reason") != "FailedScheduling"
    ]
    event = told.last(warnings, *_HOLDS_UP) or (warnings[-1] if warnings else None)
    if not event:
        return []
    return [Trouble(f"pod {pod['metadata']['name']}: {event.get('reason')}: {told.message(event)}")]


class _Container:
    """One container of a pod."""

    def __init__(self, pod: dict, status: dict, events: Sequence[dict], since: float | None) -> None:
        self._status, self._events, self._since = status, events, since
        self._name, self._state = status["name"], status.get("state") or {}
        self._where = f"pod {pod['metadata']['name']}, container {self._name}"
        spec = pod.get("spec") or {}
        initial = {container["name"]: container for container in spec.get("initContainers") or []}
        every = {container["name"]: container for container in spec.get("containers") or []}
        self._spec = {**initial, **every}.get(self._name, {})
        #: Whether it must end before others start; a sidecar among them must not.
        self._runs_first = self._name in initial and self._spec.get("restartPolicy") != "Always"

    def trouble(self) -> tuple[Trouble, bool] | None:
        """Return what is wrong, and whether nothing is but that it is not ready yet."""
        if self._status.get("ready"):
            return None
        waiting = self._state.get("waiting") or {}
        reason, restarts = waiting.get("reason"), self._status.get("restartCount", 0)
        ended = self._state.get("terminated") or (self._status.get("lastState") or {}).get("terminated")
        if reason == "CrashLoopBackOff" or (ended and restarts):
            return self._crashed(reason, restarts, ended), False
        if reason and reason not in ("ContainerCreating", "PodInitializing"):
            return self._waits(reason, waiting.get("message") or ""), False
        if "terminated" in self._state and self._state["terminated"].get("exitCode"):
            return Trouble(f"{self._where}: ended with {self._end(self._state['terminated'])}", self._name), False
        if "running" in self._state:
            return self._runs(), True
        return None

    def _crashed(self, reason: str | None, restarts: int, ended: dict | None) -> Trouble:
        text = f"{self._where}: restarted {restarts} times, last with {self._end(ended)}"
        probe = told.last(self._events, "Killing", container=self._name, word=" probe")
        # Of events that repeat themselves, Kubernetes drops many: their time tells nothing here.
        if probe and (ended or {}).get("exitCode") in _STOPPED and ended.get("reason") != "OOMKilled":
            text += f", stopped by Kubernetes: {told.message(probe)}"
            text += self._unhealthy("Startup" if "startup" in probe["message"] else "Liveness")
        # One that runs again may yet become ready. Between two runs it need not say CrashLoopBackOff.
        final = (
            "running" not in self._state
            and restarts >= CRASHES
            and told.fresh(self._since, told.seconds((ended or {}).get("finishedAt")))
        )
        return Trouble(text, self._name, "terminated" not in self._state, final)

    def _end(self, ended: dict | None) -> str:
        if not ended:
            return "unknown exit"
        text, reason = f"exit code {ended['exitCode']} ({ended.get('reason')})", ended.get("reason")
        if reason == "OOMKilled":
            limit = ((self._spec.get("resources") or {}).get("limits") or {}).get("memory")
            # What ends is then killed for the sake of the pod or the node.
            text += f": out of memory, its limit is {limit}" if limit else ": out of memory, it has no limit of its own"
        elif reason in _NEVER_RAN and ended.get("message"):
            text += f": {ended['message'].strip()}"
        return text

    def _waits(self, reason: str, message: str) -> Trouble:
        # Not "Error: ImagePullBackOff": that is no new word of the registry.
        word = "Failed to pull image" if "ImagePull" in reason else ""
        failed = told.last(self._events, "Failed", container=self._name, word=word)
        # Before Kubernetes 1.32 only an event tells what the registry said.
        if reason == "ImagePullBackOff" and failed and ": " not in message:
            message = told.message(failed)
        final = reason in HOPELESS or _image_missing(reason, message)
        final = final and told.fresh(self._since, told.at(failed) if failed else None)
        return Trouble(f"{self._where}: {reason}: {message}", final=final)

    def _runs(self) -> Trouble:
        started = (self._state.get("running") or {}).get("startedAt")
        since = f", since {started}" if started else ""
        if self._runs_first:
            return Trouble(f"{self._where}: the pod waits for it to end; it runs{since}", self._name)
        said = self._unhealthy("Startup" if self._status.get("started") is False else "Readiness")
        return Trouble(f"{self._where}: runs and is not ready yet{since}{said}", self._name)

    def _unhealthy(self, probe: str) -> str:
        event = told.last(self._events, "Unhealthy", container=self._name, word=f"{probe} probe")
        return f"; {told.message(event).rstrip(':')}" if event else ""


def _image_missing(reason: str, message: str) -> bool:
    """Whether a registry said that the image is not there, as opposed to not answering."""
    return (
        reason in ("ErrImagePull", "ImagePullBackOff")
        and any(phrase in message for phrase in _MISSING)
        and not any(phrase in message for phrase in _NOT_MISSING)
    )
