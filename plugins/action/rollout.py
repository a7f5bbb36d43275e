# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Plans the change of a model, and lets module ``rollout`` take step after step: a running module cannot print."""

from __future__ import annotations

import time
from typing import Any

from ansible_collections.kubernetes.core.plugins.module_utils.args_common import AUTH_ARG_SPEC
from ansible_collections.llm_d.multi_engine.plugins.module_utils import canary
from ansible_collections.llm_d.multi_engine.plugins.module_utils.lease import whoami
from ansible_collections.llm_d.multi_engine.plugins.modules import rollout as module
from ansible_collections.llm_d.multi_engine.plugins.modules import rollout_history
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils import rollout
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.here import ModuleAction
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.plain import to_plain
from ansible_collections.llm_d.multi_engine.plugins.plugin_utils.progress import clock, first_line

#: Seconds that each part of a step takes at most: short ones first, to say soon what is missing.
SLICES = (10, 10, 20)
_PLACE = ("stack", "namespace")


class ActionModule(ModuleAction):
    """Changes what serves a model, shows how far it is, and goes back when the new one is not fit."""

    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict | None = None) -> dict:
        result = super().run(tmp, task_vars)
        looked = self._module({}, task_vars)
        if looked.get("failed"):
            result.update(looked)
            return result
        return self.follow(result, looked["room"], task_vars)

    def follow(self, result: dict, room: dict, task_vars: dict | None) -> dict:
        """Go on with what the cluster has ``room`` for."""
        change = to_plain(self._task.args["change"])
        wanted = rollout.Change(**change["plan"])
        plan = rollout.plan(wanted, rollout.Room(**to_plain(room)))
        result.update(strategy=plan.strategy, words=list(plan.words), room=room, changed=not plan.refusals)
        if plan.refusals:
            result.update(failed=True, msg="\n".join(["Nothing was changed.", *plan.refusals]))
            return result
        self._display.display("\n".join(f"  {line}" for line in plan.words))
        result["serving"] = change["target"]
        before = f"served by: {wanted.old['label'] if wanted.old else 'nothing'}\n"
        result["diff"] = [
            {
                "before_header": f"Model {wanted.model}",
                "after_header": f"Model {wanted.model}",
                "before": before,
                "after": "\n".join([f"served by: {wanted.new['label']}", *plan.words[1:], ""]),
            }
        ]
        if self._task.check_mode:
            return result
        result.update(objects=[], timeline=[], notes=[])
        # What pickers had counted at the last look, by pod.
        self._counted: dict[str, Any] = {}
        holder = whoami()
        failure = self._all(plan.steps, wanted, holder, result, task_vars)
        if failure:
            self._fail(failure, plan, wanted, holder, result, task_vars)
            self._keep(wanted, result["msg"], task_vars)
        return result

    def _fail(
        self,
        failure: dict,
        plan: rollout.Plan,
        wanted: rollout.Change,
        holder: str,
        result: dict,
        task_vars: dict | None,
    ) -> None:
        """Go back to the old one where the new one is at fault, and say why."""
        result.update(failed=True, msg=failure.get("msg", "the module did not say why"))
        del result["serving"]
        result["notes"].append(result["msg"])
        if not failure.get("worse"):
            result["msg"] += f"\nModel {wanted.model} is in the middle of a change. The next run goes on from there."
            return
        begun = [plan.steps[entry["step"] - 1] for entry in result["timeline"]]
        # One that has begun to go answers nobody any more: what is there of the new one is all that serves.
        if not plan.back or any(step.old == 0 for step in begun):
            result["msg"] += f"\nModel {wanted.model} has no old one to go back to. Mend it and run this again."
            return
        old = wanted.old["label"] if wanted.old else ""
        # What a new one that serves has spoilt is not known to the last request.
        unharmed = "" if any(step.serve != rollout.OLD for step in begun) else ", and lost no request"
        if unharmed and any(step.testers and not step.attempt for step in begun):
            unharmed += " but those of testers"
        self._display.display(f"  {first_line({'name': '', 'reason': result['msg']})}: going back to {old}")
        again = self._all(plan.back, wanted, holder, result, task_vars, len(plan.steps))
        if again:
            result["msg"] += f"\nGoing back to {old} failed, too: {again.get('msg')}\nRun this again."
        else:
            result["msg"] = f"Model {wanted.model} stays on {old}{unharmed}. {result['msg']}"

    def _keep(self, wanted: rollout.Change, reason: str, task_vars: dict | None) -> None:
        """Note down why it failed, for the status and whoever looks into it."""
        given = {name: self._task.args[name] for name in (*_PLACE, *AUTH_ARG_SPEC) if name in self._task.args}
        failure = {"model": wanted.model, "revision": wanted.new["revision"], "wanted": wanted.new["label"]}
        self.call(rollout_history, {**given, "failure": {**failure, "reason": reason}}, task_vars)

    def _all(
        self,
        steps: Any,
        wanted: rollout.Change,
        holder: str,
        result: dict,
        task_vars: dict | None,
        before: int = 0,
    ) -> dict | None:
        """Take ``steps``, ``before`` which there were others; return the answer of the one that failed, if one did."""
        for number, step in enumerate(steps, 1):
            head = f"model {wanted.model}, step {number} of {len(steps)}: {step.words}"
            part = {"step": vars(step), "holder": holder, "last": number == len(steps)}
            progress: dict[str, Any] = {}
            turn, began = 0, time.time()
            self._begin(result, wanted, before + number, step)
            while not progress.get("done"):
                slice_ = SLICES[min(turn, len(SLICES) - 1)]
                answer = self._module({"part": {**part, "progress": progress, "slice": slice_}}, task_vars)
                self._join(result, answer)
                if answer.get("failed"):
                    self._note(result, wanted, before + number, step, answer)
                    return answer
                if answer["progress"]["holds"] != progress.get("holds", 0):
                    said = answer["progress"]["said"]
                    result["notes"].append(f"{step.words}: {said}")
                    self._display.display(f"  {said}")
                progress, turn = answer["progress"], turn + 1
                self._note(result, wanted, before + number, step, answer)
                self._show(head, answer, time.time() - began)
        return None

    @staticmethod
    def _begin(result: dict, wanted: rollout.Change, number: int, step: rollout.Step) -> None:
        """Write down when a step begins: what was there at the end of the one before is there still."""
        last = result["timeline"][-1]["ready"] if result["timeline"] else {"old": wanted.old_ready, "new": 0}
        entry = {"model": wanted.model, "step": number, "words": step.words, "serve": step.serve, "ready": last}
        result["timeline"].append({"at": round(time.time(), 1), **entry})

    def _note(self, result: dict, wanted: rollout.Change, number: int, step: rollout.Step, answer: dict) -> None:
        """Write down what is there at this moment."""
        if not answer.get("ready"):
            # The API server was away.
            return
        entry = {"model": wanted.model, "step": number, "words": step.words, "serve": step.serve}
        entry["ready"] = answer["ready"]
        last = result["timeline"][-1] if result["timeline"] else {}
        seen = answer.get("pickers") or {}
        if seen or {key: last.get(key) for key in entry} != entry:
            traffic = canary.between(self._counted, seen) if seen else {}
            result["timeline"].append({"at": round(time.time(), 1), **entry, **traffic})
        self._counted.update(seen)

    def _show(self, head: str, answer: dict, spent: float) -> None:
        ready = answer["ready"]
        counts = f" ({ready['old']} old, {ready['new']} new ready)" if ready else ""
        lines = [f"  {clock(spent)} {head}{counts}"]
        lines += [f"    {entry['name']}: {first_line(entry)}" for entry in answer["progress"]["pending"]]
        self._display.display("\n".join(lines))

    def _module(self, more: dict[str, Any], task_vars: dict | None) -> dict:
        return self.call(module, {**self._task.args, **more}, task_vars)

    @staticmethod
    def _join(result: dict, answer: dict) -> None:
        """Add to ``result`` what a call of the module did."""
        result["objects"] += answer.get("objects", [])
        result["diff"] += answer.get("diff", [])
