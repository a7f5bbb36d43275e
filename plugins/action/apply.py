# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Runs module ``apply`` and shows what a long wait waits for: a running module cannot print."""

from __future__ import annotations

from typing import Any

from ansible_collections.kubernetes.core.plugins.module_utils.args_common import AUTH_ARG_SPEC
from ansible_collections.llm_d.multi_engine.plugins.module_utils.documents import objects_of
from ansible_collections.llm_d.multi_engine.plugins.module_utils.manifests import awaited_first
from ansible_collections.llm_d.multi_engine.plugins.modules import apply, ready
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.here import ModuleAction
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.progress import Progress

#: Seconds that each part of a wait takes at most: short ones first, to say soon what is missing.
SLICES = (10, 10, 20, 30)
#: Times that what was held back is tried anew although nothing is waited for: somebody may have been quicker.
TRIES = 3
MODULES = {"apply": apply, "ready": ready}
#: Options that say how to reach the cluster, by all their names.
ACCESS = {name for option, spec in AUTH_ARG_SPEC.items() for name in (option, *spec.get("aliases", ()))}


class ActionModule(ModuleAction):
    """Applies objects, waits for them with progress on the screen, then removes what is not wanted any more."""

    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict | None = None) -> dict:
        result = super().run(tmp, task_vars)
        arguments = self._task.args
        result.update(self._module("apply", {**arguments, "wait_slice": SLICES[0]}, task_vars))
        return self.follow(result, task_vars)

    def follow(self, result: dict, task_vars: dict | None) -> dict:
        """Go on after a first call of the module with what it left to do."""
        arguments = self._task.args
        vain = 0
        while result.get("held_back") and not result.get("failed"):
            vain = 0 if result["pending"] else vain + 1
            if vain > TRIES:
                names = ", ".join(result["held_back"])
                result.update(
                    failed=True, msg=f"Not applied: {names}. What has to be ready before is, and is not kept."
                )
                return result
            self._wait(result, task_vars)
            if not result.get("failed"):
                left = max(1, self._timeout() - int(result["waited"]))
                again = {**arguments, "wait_slice": SLICES[0], "wait_timeout": left}
                self._join(result, self._module("apply", again, task_vars))
        if result.get("failed") or not result.get("pending"):
            return result
        self._wait(result, task_vars)
        if not result.get("failed") and result.get("unwanted"):
            # What replaces them is ready.
            rest = self._module("apply", {**arguments, "only_prune": True}, task_vars)
            self._join(result, rest)
        return result

    def _wait(self, result: dict, task_vars: dict | None) -> None:
        """Wait on in slices and show in between what is missing."""
        arguments = self._task.args
        timeout = self._timeout()
        awaited = [_reference(item) for item in objects_of(arguments.get("objects") or [])]
        count = len(result["objects"])
        if result.get("held_back"):
            awaited = awaited_first(awaited, arguments["ready_first"])
            count = len(awaited)
        progress = Progress(count, timeout)
        access = {key: value for key, value in arguments.items() if key in ACCESS}
        turn = 0
        while result["pending"]:
            turn += 1
            self._display.display(progress.text(result["pending"], result["waited"]))
            wait = {
                "objects": awaited,
                "timeout": max(0, timeout - int(result["waited"])),
                "slice": SLICES[min(turn, len(SLICES) - 1)],
                "waited": result["waited"],
            }
            answer = self._module("ready", {**access, **wait}, task_vars)
            result["waited"] = round(result["waited"] + answer.get("waited", 0), 1)
            if answer.get("failed"):
                # What was changed before stays said.
                result.update({key: answer[key] for key in ("failed", "msg", "exception") if key in answer})
                if result.get("held_back"):
                    result["msg"] += f"\nNot applied, and as it was until then: {', '.join(result['held_back'])}."
                if result.get("unwanted"):
                    result["msg"] += f"\nNot asked for any more, and left until then: {', '.join(result['unwanted'])}."
                return
            result["pending"] = answer["pending"]

    def _timeout(self) -> int:
        return int(self._task.args.get("wait_timeout", 300))

    def _module(self, name: str, arguments: dict[str, Any], task_vars: dict | None) -> dict:
        return self.call(MODULES[name], arguments, task_vars)

    @staticmethod
    def _join(result: dict, rest: dict) -> None:
        """Add to ``result`` what a second call of the module did."""
        news = [entry for entry in rest.get("objects", []) if entry["action"] != "unchanged"]
        for key in ("failed", "msg", "unwanted", "pending", "held_back"):
            if key in rest:
                result[key] = rest[key]
        result["objects"] = result["objects"] + news
        result["diff"] = result.get("diff", []) + rest.get("diff", [])
        result["waited"] = round(result.get("waited", 0) + rest.get("waited", 0), 1)
        result["changed"] = result["changed"] or rest.get("changed", False)
        for verb, count in rest.get("calls", {}).items():
            result["calls"][verb] = result["calls"].get(verb, 0) + count


def _reference(item: dict) -> dict:
    """Return what names an object."""
    metadata = {key: item["metadata"][key] for key in ("name", "namespace") if key in item["metadata"]}
    return {"apiVersion": item["apiVersion"], "kind": item["kind"], "metadata": metadata}
