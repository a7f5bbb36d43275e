# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Whether a new one is fit to serve: it is tried before it gets requests, and watched and judged while it does."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.llm_d.multi_engine.plugins.module_utils import canary, trying
from ansible_collections.llm_d.multi_engine.plugins.module_utils.cluster import Cluster, ClusterError
from ansible_collections.llm_d.multi_engine.plugins.module_utils.explain import why_not_ready
from ansible_collections.llm_d.multi_engine.plugins.module_utils.manifests import name_of
from ansible_collections.llm_d.multi_engine.plugins.module_utils.pods import ended_since, restarts, stays_ready
from ansible_collections.llm_d.multi_engine.plugins.module_utils.readiness import judge
from ansible_collections.llm_d.multi_engine.plugins.module_utils.sides import Sides
from ansible_collections.llm_d.multi_engine.plugins.module_utils.waiting import Pending

#: Seconds for which a new one that serves may be unready: probes of a busy node fail now and then.
_ILL_SECONDS = 20.0
#: Seconds between two looks at pods.
LOOK_EVERY = 1.0


class Worse(ClusterError):
    """The new one is not fit to serve: the old one has to."""


@dataclass
class Progress:
    """How far a step is.

    :ivar done: whether it is.
    :ivar waited: seconds waited for the new one in this step.
    :ivar held: seconds for which the new one has been well without a break since it got requests.
    :ivar ill: seconds for which it has not been ready since.
    :ivar restarts: of the new one's containers when it got them; None before.
    :ivar tried: pods that have given their completions.
    :ivar trial_restarts: as :func:`pods.restarts` tells them, of each container when it was seen first in its trial.
    :ivar begin: what old, new and pickers had counted when the new one got requests, where it is judged by that.
    :ivar holds: how often it has been judged.
    :ivar said: what came of it the last time.
    :ivar drained: seconds for which the end of requests was waited for, of one that was taken over.
    :ivar pending: what is waited for.
    """

    done: bool = False
    waited: float = 0
    held: float = 0
    ill: float = 0
    restarts: int | None = None
    tried: list[str] = field(default_factory=list)
    trial_restarts: dict[str, int] = field(default_factory=dict)
    begin: dict[str, Any] | None = None
    holds: int = 0
    said: str = ""
    drained: float = 0
    pending: list[Pending] = field(default_factory=list)


class Proof:
    """Asks the new one of a model.

    :param params: as of :class:`rolling.Rolling`.
    :param gateway: for one behind a pool of its own, ``name``, ``namespace`` and the ``headers`` that lead to it there;
        None where its pods are asked one by one.
    :param is_led_to: whether these headers still lead there.
    """

    def __init__(
        self,
        cluster: Cluster,
        params: Mapping[str, Any],
        sides: Sides,
        gateway: Mapping[str, Any] | None,
        is_led_to: Callable[[], bool],
    ) -> None:
        self._cluster, self._params, self._sides = cluster, params, sides
        self._gateway, self._is_led_to = gateway, is_led_to

    def try_first(self, progress: Progress) -> None:
        """Let each pod of the new one give completions before others ask it, all of a pod's at the same time.

        :raises Worse: when one does not give them, or is restarted meanwhile.
        """
        progress.trial_restarts = {**restarts(self._pods()), **progress.trial_restarts}
        try:
            if self._gateway:
                self._ask_by_gateway("is ready and does not answer as it should", self._trial_requests)
            else:
                self._try_pods(progress)
        except Worse as error:
            raise Worse("\n  ".join([str(error), *ended_since(self._pods(), progress.trial_restarts)])) from error
        if ended := ended_since(self._pods(), progress.trial_restarts):
            raise Worse("\n  ".join(["The new one was restarted while it was tried.", *ended]))

    def _try_pods(self, progress: Progress) -> None:
        for pod in self._answering():
            name = pod["metadata"]["name"]
            if name in progress.tried:
                continue
            try:
                self._ask(pod, self._trial_requests)
            except trying.Failed as error:
                raise Worse(f"Pod {name} is ready and does not answer as it should: {error}") from error
            progress.tried.append(name)

    @property
    def _trial_requests(self) -> int:
        return self._params["settings"].get("trial_requests", 1)

    def held(self, seconds: float, progress: Progress, deadline: float) -> bool:
        """Watch the new one while it serves; return whether it was well for long enough.

        :raises Worse: when it does not stay well.
        """
        while True:
            well = self._is_well(progress)
            left = seconds - progress.held
            pause = min(LOOK_EVERY, max(left, 0.1), deadline - time.monotonic())
            over = well and left <= 0
            if well and (over or pause <= 0):
                self._ask_again()
            if over or pause <= 0:
                return over
            time.sleep(pause)
            progress.held, progress.ill = (progress.held + pause, 0) if well else (0, progress.ill + pause)

    def judged(self, seconds: float, progress: Progress, deadline: float, testers: Sequence[str]) -> bool:
        """Watch the new one while it serves, and compare it with the old one; return whether it may go on.

        :param testers: pools by which testers are led to it meanwhile.
        :raises Worse: when it does worse, or too little is known and the model goes back then.
        """
        if progress.begin is None:
            progress.begin = self._counted(testers)
        while self.held(seconds, progress, deadline):
            progress.holds += 1
            follows, progress.said = canary.judged(
                progress.begin, self._counted(testers), self._params["settings"], progress.holds
            )
            if follows == "on":
                return True
            if follows == "back":
                raise Worse(f"The new one was judged after {progress.holds} holds of {seconds} s. {progress.said}")
            progress.held = 0
        return False

    def pickers(self) -> dict[str, dict]:
        """Return by pod what the pickers of both have counted."""
        return self._pickers(*(side["pool"] for side in (self._sides.old, self._sides.new) if side))

    def _pickers(self, *pools: str) -> dict[str, dict]:
        metrics = self._params["metrics"].get("picker", {})
        return canary.pickers(self._cluster, self._params["namespace"], pools, metrics)

    def _ask(self, pod: dict, times: int = 1) -> None:
        trying.ask_pod(self._cluster, self._params["namespace"], pod, self._params["question"], times)

    def _ask_by_gateway(self, words: str, times: int = 1) -> None:
        """Let the new one give a completion: prefill and decode pods answer together, by a picker that is new, too.

        :raises Worse: when it does not, with ``words``.
        """
        try:
            trying.ask_gateway(self._cluster, self._gateway, self._params["namespace"], self._params["question"], times)
        except trying.Failed as error:
            raise Worse(f"The new one {words}: {error}") from error

    def _ask_again(self) -> None:
        """Let each pod of the new one that serves give one more completion; one of them, behind a pool of its own.

        Counters do not tell of all that fails: an engine counts what it has begun, and a picker what it has sent.

        :raises Worse: when a pod that is ready does not give one.
        """
        if self._gateway:
            # Role gaie removes the way when all is done, or when it was run alone in the middle.
            if self._is_led_to():
                self._ask_by_gateway("serves and does not answer as it should any more")
            return
        for pod in self._answering():
            name = pod["metadata"]["name"]
            try:
                self._ask(pod)
            except trying.Failed as error:
                # One that has gone meanwhile is missed by others.
                if name in [other["metadata"]["name"] for other in self._answering()]:
                    raise Worse(f"Pod {name} serves and does not answer as it should any more: {error}") from error

    def _answering(self) -> list[dict]:
        """Return the pods of the new one that answer requests."""
        return list(filter(stays_ready, self._sides.serving(self._sides.new)))

    def _pods(self) -> list[dict]:
        return self._sides.pods(self._sides.new)

    def _counted(self, testers: Sequence[str]) -> dict[str, Any]:
        """Return what the pods of old and new, and their pickers and that of testers, have counted."""
        sides = {"old": self._sides.old, "new": {**self._sides.new, "port": self._params["question"]["port"]}}
        metrics = self._params["metrics"]
        counted = {
            name: canary.readings(self._cluster, self._sides.serving(side), side["port"], metrics.get(name, {}))
            for name, side in sides.items()
            if side
        }
        return {**counted, "pickers": self.pickers(), "testers": self._pickers(*testers)}

    def _is_well(self, progress: Progress) -> bool:
        """Whether the new one is ready.

        :raises Worse: when it is not for too long, or a container of it has restarted since it got requests.
        """
        count = sum(restarts(self._pods()).values())
        if progress.restarts is None:
            progress.restarts = count
        live = self._sides.workloads(self._sides.new)
        ill = [item for item in live if not judge(item).ready]
        if count <= progress.restarts and progress.ill < (_ILL_SECONDS if ill else float("inf")):
            return not ill
        reasons = []
        for item in ill or live:
            lines, _final = why_not_ready(self._cluster, item)
            reasons.append("\n  ".join([f"{name_of(item)}: {judge(item).reason or 'it has restarted'}", *lines]))
        raise Worse("\n".join(["The new one did not stay well when it got requests:", *reasons]))
