# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Applies objects on the server, and removes those that were applied before and are not wanted any more.

Reads first: one list a kind tells what is there, and managed fields tell whether it is as asked.
Where it is, nothing is written.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ansible_collections.llm_d.multi_engine.plugins.module_utils import applyset, documents, scaling
from ansible_collections.llm_d.multi_engine.plugins.module_utils.cluster import (
    Cluster,
    ClusterError,
    Conflict,
    Forbidden,
    Owned,
    Unauthorized,
    UnknownKind,
    Unreachable,
)
from ansible_collections.llm_d.multi_engine.plugins.module_utils.lease import RunLease
from ansible_collections.llm_d.multi_engine.plugins.module_utils.manifests import (
    awaited_first,
    foreign,
    in_groups,
    in_order,
    limited_to,
    name_of,
    presentable,
    with_digest,
)
from ansible_collections.llm_d.multi_engine.plugins.module_utils.marks import (
    ASKED,
    MANAGED_BY,
    MANAGED_BY_LABEL,
    MODEL_LABEL,
    ROLE_LABEL,
    STACK_LABEL,
    selector,
)
from ansible_collections.llm_d.multi_engine.plugins.module_utils.ownership import is_as_asked
from ansible_collections.llm_d.multi_engine.plugins.module_utils.readiness import judge

#: Objects applied at the same time.
_WORKERS = 8
#: Seconds until a definition is served, and until an object that is being deleted is gone.
_PROMPT = 60
DEFINITION = "CustomResourceDefinition"


class Apply:
    """One run over the objects of one role of one stack, and what became of each.

    :param params: parameters of module ``apply``.
    :param dry_run: only ask the API server what would become of them.
    :param show: note down how each object changes.
    """

    def __init__(self, cluster: Cluster, params: dict, dry_run: bool, show: bool = True) -> None:
        #: What a person should know that is no error.
        self.warnings: list[str] = []
        #: Per object its ``name``, ``action`` and whether the API server has ``checked`` it.
        self.results: list[dict] = []
        self.diffs: list[dict] = []
        self._cluster, self._params, self._dry_run, self._is_shown = cluster, params, dry_run, show
        self._stack, self._role, self._namespace = params["stack"], params["role"], params["namespace"]
        self._set = applyset.set_name(self._stack, self._role) if self._role else ""
        self._id = applyset.set_id(self._set, self._namespace) if self._role else ""
        #: Live objects by name, as they were before this run.
        self._seen: dict[str, dict | None] = {}
        #: Live objects of the set by name, as far as they were read.
        self._members: dict[str, dict] = {}
        #: Namespaces that this run or an earlier task would make, in check mode.
        self._pending_namespaces: set[str] = set()
        #: Kinds that the cluster does not know, with its words.
        self._unknown: dict[tuple[str, str], str] = {}
        #: Objects of somebody else that are changed because we were told to.
        self._forced: set[str] = set()
        self._wanted: list[dict] = []
        self._held: RunLease | None = None
        #: Why there is no API server to talk to any more.
        self._gone: ClusterError | None = None

    @property
    def changed(self) -> bool:
        """Whether anything is or would be another than before."""
        return any(entry["action"] != "unchanged" for entry in self.results)

    # --- what the module does ---------------------------------------------------------------

    def all(
        self,
        objects: list[dict],
        sources: list[dict] | None = None,
        ready_first: Mapping[str, Sequence[str]] | None = None,
    ) -> list[dict]:
        """Apply ``objects`` in their order, none of them when one of them cannot be.

        :param sources: further objects, of other makers.
        :param ready_first: by kind the kinds of which those of the same model have to be ready before it changes.
        :returns: what was held back until then; call this again when they are ready.
        """
        sources = sources or []
        self._wanted = [self._labelled(item) for item in objects]
        self._look(sources + self._wanted)
        self._refuse_unknown(sources + self._wanted)
        self._refuse_foreign()
        self._refuse_emptiness()
        self._look_elsewhere()
        todo = self._todo(sources)
        done = all(self._is_done(item) for item in todo)
        if done:
            # The usual case, and so one without threads.
            for item in in_order(todo):
                self._remember_unchanged(item, checked=True)
        elif self._dry_run:
            self._apply(todo)
        if self._dry_run:
            self._show_removed()
        if done or self._dry_run:
            return []
        # The Lease needs its namespace.
        self._apply([item for item in todo if item["kind"] == "Namespace"])
        with self._lease():
            # Another run may have been there in the meantime.
            self._look(sources + self._wanted)
            self._refuse_foreign()
            self._widen()
            todo = [item for item in self._todo(sources) if item["kind"] != "Namespace"]
            self._retire_autoscalers()
            held_back = self._held_back(todo, ready_first or {})
            waiting = {name_of(item) for item in held_back}
            self._apply([item for item in todo if name_of(item) not in waiting])
        return held_back

    def _held_back(self, objects: list[dict], ready_first: Mapping[str, Sequence[str]]) -> list[dict]:
        """Return what of ``objects`` has to change and waits for another one of its model that is not ready yet."""
        first = awaited_first(objects, ready_first)
        late = {(item["kind"], _model(item)) for item in first if not self._is_ready(item)}
        return [
            item
            for item in objects
            if any((kind, _model(item)) in late for kind in ready_first.get(item["kind"], ()))
            and not self._is_done(item)
        ]

    def _is_ready(self, item: dict) -> bool:
        # By its digest: what the API server or a webhook writes otherwise is never as asked for.
        live = self._seen.get(name_of(item)) or {"metadata": {}}
        asked = item["metadata"]["annotations"][ASKED]
        there = (live["metadata"].get("annotations") or {}).get(ASKED) == asked
        return there and not live["metadata"].get("deletionTimestamp") and judge(live).ready

    def _todo(self, sources: list[dict]) -> list[dict]:
        """Return what is to be as it is asked for, what stands for the set included."""
        pruned = self._dry_run or not self.unwanted()
        return self._ours(sources) + self._wanted + self._parents(pruned)

    def unwanted(self) -> list[dict]:
        """Return live members of the set that are not wanted any more, in the order of removal."""
        return self._left() if self._params["prune"] else []

    def _left(self) -> list[dict]:
        """Return live members of the set that are not wanted any more, whether they are to go or not."""
        wanted = {_key(item) for item in self._wanted}
        labels = {MANAGED_BY_LABEL: MANAGED_BY, STACK_LABEL: self._stack, ROLE_LABEL: self._role}
        found = [
            live
            for live in self._members.values()
            if _key(live) not in wanted
            and not live["metadata"].get("deletionTimestamp")
            # Whoever copied the set's label has not copied all of them.
            and labels.items() <= live["metadata"]["labels"].items()
        ]
        return list(reversed(in_order(sorted(found, key=name_of))))

    def prune(self, objects: list[dict] | None = None) -> None:
        """Remove what is not wanted any more, and note down that the set has no such kinds left.

        :param objects: what was applied before, where another call did.
        """
        if objects is not None:
            self._wanted = [self._labelled(item) for item in objects]
        with self._lease():
            self._look(self._wanted)
            if applyset.asked_of(self._parent()) != self._asked():
                raise ClusterError(
                    f"Another run has changed role {self._role} of stack {self._stack} since: nothing was removed. "
                    "Run it again if this inventory is the one that counts."
                )
            doomed = self.unwanted()
            for live in doomed:
                self._check_lease()
                with contextlib.suppress(Conflict):  # somebody made it anew: not what we applied
                    self._cluster.delete(live, dry_run=False)
                    self._remember_removed(live)
            self._await_gone(doomed)
            self._apply(self._parents(pruned=True))

    # --- reading ----------------------------------------------------------------------------

    def _look_elsewhere(self) -> None:
        """Warn of what the role has left where the stack was before: nobody removes it."""
        if not self._role or self._parent():
            return
        with contextlib.suppress(Forbidden):  # who works inside a namespace need not see others
            for live in self._cluster.list("v1", "ConfigMap", None, selector(self._stack, self._role)):
                if live["metadata"]["name"] == self._set:
                    self.warnings.append(
                        f"Stack {self._stack} has objects of role {self._role} in namespace "
                        f"{live['metadata']['namespace']} too. They stay. To be rid of them, run the playbook "
                        f"uninstall with llm_d_namespace={live['metadata']['namespace']}."
                    )

    def _look(self, objects: list[dict]) -> None:
        """Read what is there, by one request for all of a kind where there are several."""
        self._seen, self._members = {}, {}
        parents = self._parents(pruned=True)
        for item in parents:
            self._see(self._cluster.get("v1", "ConfigMap", self._set, self._namespace))
            self._refuse_other_tool(self._seen.get(name_of(item)))
        kinds = applyset.kinds_of(self._parent())
        places: dict[tuple, list[dict]] = {}
        for item in objects:
            key = item["apiVersion"], item["kind"], item["metadata"].get("namespace")
            places.setdefault(key, []).append(item)
        for (api_version, kind, namespace), items in places.items():
            try:
                known = applyset.group_kind(items[0]) in kinds
                self._look_at(api_version, kind, namespace, items, known)
            except UnknownKind as error:
                self._unknown[api_version, kind] = str(error)
            except Forbidden:
                # Who works inside a namespace need not see it.
                if kind != "Namespace":
                    raise
                self._see(*items)
        self._look_for_members(kinds, {(applyset.group_kind(items[0]), place[2]) for place, items in places.items()})

    def _look_at(self, api_version: str, kind: str, namespace: str | None, items: list[dict], known: bool) -> None:
        """Read ``items``, which are of one kind and namespace.

        :param known: whether the set has members of that kind.
        """
        # Secrets of others are none of our business.
        if len(items) > 1 and namespace and kind != "Secret":
            self._see(*self._cluster.list(api_version, kind, namespace, known=True))
            return
        if known:
            self._see(*self._cluster.list(api_version, kind, namespace, self._selector(), known=True))
        for item in items:
            if name_of(item) not in self._seen:
                self._see(self._cluster.get(api_version, kind, item["metadata"]["name"], namespace))

    def _look_for_members(self, kinds: set[applyset.GroupKind], seen: set[tuple]) -> None:
        """Read members of kinds, or in namespaces, in which nothing is wanted any more."""
        for group, kind in kinds:
            for namespace in applyset.namespaces_of(self._parent()):
                if ((group, kind), namespace) in seen or ((group, kind), None) in seen:
                    continue
                api_version = self._cluster.served(group, kind)
                if api_version:
                    self._see(*self._cluster.list(api_version, kind, namespace, self._selector()))

    def _see(self, *found: dict | None) -> None:
        for live in found:
            if live:
                self._seen[name_of(live)] = live
                if self._id and applyset.is_member(live, self._id):
                    self._members[name_of(live)] = live

    def _selector(self) -> str:
        return f"{applyset.PART_OF}={self._id}"

    # --- the set ----------------------------------------------------------------------------

    def _labelled(self, item: dict) -> dict:
        """Return ``item`` as a member of the set. Namespaces are none: they are never removed."""
        if item["kind"] == "Namespace":
            return item
        if self._role:
            metadata = item["metadata"]
            labels = {**(metadata.get("labels") or {}), applyset.PART_OF: self._id}
            item = {**item, "metadata": {**metadata, "labels": labels}}
        return with_digest(item)

    def _parent(self) -> dict | None:
        return self._seen.get(f"ConfigMap {self._namespace}/{self._set}")

    def _parents(self, pruned: bool) -> list[dict]:
        """Return the object that stands for the set, if there is one.

        :param pruned: whether the set holds nothing but what is wanted.
        """
        if not self._role:
            return []
        members = self._members_wanted()
        kinds = {applyset.group_kind(item) for item in members}
        namespaces = {item["metadata"].get("namespace") or self._namespace for item in members}
        live = self._parent()
        if not pruned or not self._params["prune"]:
            kinds |= applyset.kinds_of(live)
            namespaces |= applyset.namespaces_of(live)
        return [applyset.parent(self._stack, self._role, self._namespace, kinds, namespaces, self._asked())]

    def _asked(self) -> str:
        """Return a digest of all that this run asks for."""
        asked = sorted([name_of(item), item["metadata"]["annotations"][ASKED]] for item in self._members_wanted())
        return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]

    def _members_wanted(self) -> list[dict]:
        return [item for item in self._wanted if item["kind"] != "Namespace"]

    def _widen(self) -> None:
        """Note down what the set is about to hold, before it does, so that nothing is ever forgotten."""
        for item in self._parents(pruned=False):
            if not self._is_done(item):
                self._cluster.apply(item, force=False, dry_run=False)

    @contextlib.contextmanager
    def _lease(self) -> Iterator[None]:
        """Keep other runs off the set meanwhile."""
        if not self._role:
            yield
            return
        with RunLease(self._cluster, self._stack, self._role, self._namespace, self._set) as self._held:
            if self._held.waited:
                self.warnings.append(f"Waited for it to end or to expire: {self._held.waited}")
            yield

    def _check_lease(self) -> None:
        """Refuse to go on when another run has taken over, after a long outage for example."""
        if self._held:
            self._held.check()

    # --- refusing, before anything changes --------------------------------------------------

    def _refuse_unknown(self, objects: list[dict]) -> None:
        """Refuse kinds that neither the cluster knows nor ``objects`` define. Check mode only shows them."""
        defined = {
            (item["spec"]["group"], item["spec"]["names"]["kind"]) for item in objects if item["kind"] == DEFINITION
        }
        missing = [
            reason
            for (api_version, kind), reason in self._unknown.items()
            if (api_version.split("/")[0], kind) not in defined
        ]
        if missing and not self._dry_run:
            raise ClusterError(f"Nothing was changed. {' '.join(missing)}")

    def _refuse_foreign(self) -> None:
        refused = [reason for item in self._wanted + self._parents(pruned=True) if (reason := self._foreign(item))]
        if refused:
            raise ClusterError(
                f"Nothing was changed. {' '.join(refused)} Choose other names or another namespace, or take them "
                "over with adopt (<role>_adopt)."
            )

    def _foreign(self, item: dict) -> str | None:
        ours = (item["metadata"].get("labels") or {}).get(MANAGED_BY_LABEL) == MANAGED_BY
        live = self._seen.get(name_of(item))
        if not ours or not live or self._params["adopt"] or item["kind"] == "Namespace":
            return None
        reason = foreign(live, self._stack)
        return f"{name_of(item)}: {reason}." if reason else None

    def _refuse_other_tool(self, live: dict | None) -> None:
        tool = applyset.tooling_of(live) if live else ""
        if tool and tool.partition("/")[0] != MANAGED_BY:
            raise ClusterError(
                f"Nothing was changed. ConfigMap {self._namespace}/{self._set} is an ApplySet that {tool} keeps. "
                "Give the stack another name (llm_d_stack)."
            )

    def _refuse_emptiness(self) -> None:
        """Refuse to remove everything because a variable was empty."""
        # A token is asked for whether there are models or not.
        left = [item for item in self._members_wanted() if item["kind"] != "Secret"]
        if left or self._params["allow_empty"] or not self.unwanted():
            return
        names = [name_of(live) for live in self.unwanted()]
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        raise ClusterError(
            f"Nothing was changed. Nothing is asked for any more, and everything that role {self._role} of stack "
            f"{self._stack} has applied would be removed: {', '.join(names[:5])}{more}. Is the list of models empty "
            "by mistake? If not, say so with llm_d_allow_empty=true, or use the playbook uninstall."
        )

    def _ours(self, sources: list[dict]) -> list[dict]:
        """Return which of ``sources`` to apply, with our labels on those that are ours or new."""
        labels, chosen = self._params["source_labels"], []
        for item in sources:
            live = self._seen.get(name_of(item))
            if live is None or foreign(live, self._stack) is None:
                item["metadata"]["labels"] = {**(item["metadata"].get("labels") or {}), **labels}
                chosen.append(with_digest(item))
            elif self._params["upgrade_sources"]:
                self._forced.add(name_of(item))
                chosen.append(with_digest(item))
        return chosen

    # --- writing ----------------------------------------------------------------------------

    def _is_done(self, item: dict) -> bool:
        """Whether ``item`` is there as it was asked for."""
        live = self._seen.get(name_of(item))
        if not live or live["metadata"].get("deletionTimestamp"):
            return False
        return item["kind"] == "Namespace" or (is_as_asked(item, live) and not _is_spent(live))

    def _apply(self, objects: list[dict]) -> None:
        for group in in_groups(objects):
            self._check_lease()
            self._await_gone(self._leaving(group) + self._remove_spent(group))
            errors = self._apply_group(group)
            if errors:
                raise ClusterError("\n".join([*dict.fromkeys(map(str, errors)), *self._so_far(len(objects))]))
            self._await_definitions(group)

    def _apply_group(self, group: list[dict]) -> list[ClusterError]:
        """Apply objects that do not need each other; return what went wrong."""
        pool = ThreadPoolExecutor(_WORKERS)
        tries = [pool.submit(self._one, item) for item in group]
        errors = []
        try:
            for item, one in zip(group, tries, strict=True):
                try:
                    after, checked = one.result()
                    self._record(item, self._seen.get(name_of(item)), after, checked)
                except ClusterError as error:
                    errors.append(error)
        finally:
            # Whoever interrupts this does not want the rest.
            pool.shutdown(wait=True, cancel_futures=True)
        return errors

    def _one(self, item: dict) -> tuple[dict, bool]:
        """Apply ``item``; return what it became and whether the API server has seen it."""
        if self._gone:
            # It would only find the same.
            raise self._gone
        if self._is_done(item):
            return self._seen[name_of(item)] or {}, True
        namespace = item["metadata"].get("namespace")
        if self._dry_run and namespace in self._pending_namespaces:
            return item, False
        if self._dry_run and item["kind"] == "Namespace":
            self._pending_namespaces.add(item["metadata"]["name"])
        try:
            force = self._params["force_conflicts"] or name_of(item) in self._forced
            return self._write(item, force), True
        except UnknownKind:
            if self._dry_run:
                return item, False
            raise
        except (Unreachable, Unauthorized) as error:
            self._gone = error
            raise
        except ClusterError as error:
            if self._dry_run and namespace and not self._cluster.get("v1", "Namespace", namespace):
                self._pending_namespaces.add(namespace)
                return item, False
            raise ClusterError(f"{name_of(item)}: {error}") from error

    def _write(self, item: dict, force: bool) -> dict:
        live = self._seen.get(name_of(item))
        sent = scaling.released(self._cluster, item, live, self._dry_run)
        try:
            after = self._cluster.apply(sent, force, self._dry_run)
        except Owned as error:
            # What a person changed once is drift. Who applies or controls an object will do so again.
            if not error.by_hand and not scaling.taken_back(item, live, error):
                raise scaling.explained(error) from error
            after = self._cluster.apply(sent, True, self._dry_run)
        if self._dry_run:
            return after
        return scaling.forgotten(self._cluster, item, scaling.started(self._cluster, item, live, after))

    def _retire_autoscalers(self) -> None:
        """Remove what scales a workload and is not wanted any more, before somebody else writes its replicas."""
        wanted = {(item["kind"], item["metadata"]["name"]) for item in self._wanted}
        doomed = [live for live in self._left() if scaling.is_autoscaler(live) and scaling.target_of(live) in wanted]
        if doomed and not self._params["prune"]:
            raise ClusterError(
                f"Nothing was changed. {', '.join(map(name_of, doomed))}: not asked for any more, and with "
                "llm_d_prune=false it would stay and go on scaling. Leave autoscaling as it is, or prune."
            )
        for live in doomed:
            self._check_lease()
            self._cluster.delete(live, dry_run=False)
            self._remember_removed(live)
            self._members.pop(name_of(live), None)
        # A ScaledObject takes its HorizontalPodAutoscaler along, a moment later.
        self._await_gone(doomed + [made for live in doomed if (made := scaling.made_by(self._cluster, live))])

    def _so_far(self, count: int) -> list[str]:
        """Say how far a run came that fails."""
        done = [entry for entry in self.results if entry["action"] != "unchanged"]
        if self._dry_run or not done:
            return []
        said = f"Before that, {len(done)} of {count} objects were created or changed."
        return [f"{said} They stay: the next run goes on from there."]

    def _leaving(self, group: list[dict]) -> list[dict]:
        """Return live objects of ``group`` that somebody has deleted and that are not gone yet."""
        if self._dry_run:
            return []
        found = [self._seen.get(name_of(item)) for item in group]
        return [live for live in found if live and live["metadata"].get("deletionTimestamp")]

    def _remove_spent(self, group: list[dict]) -> list[dict]:
        """Delete Jobs of ``group`` that have failed and return them: another try is another Job."""
        spent = [live for item in group if (live := self._seen.get(name_of(item))) and _is_spent(live)]
        for live in spent:
            if self._dry_run:
                self._seen.pop(name_of(live))
            else:
                self._cluster.delete(live, dry_run=False)
        return [] if self._dry_run else spent

    def _await_gone(self, leaving: list[dict]) -> None:
        """Wait until deleted objects are gone, so that what is applied next does not go with them."""
        deadline, left = time.monotonic() + min(_PROMPT, self._params["wait_timeout"]), leaving
        while left := [live for item in left if (live := self._still(item))]:
            if time.monotonic() > deadline:
                raise ClusterError("\n".join([*map(_held_back, left), *self._so_far(len(self._wanted))]))
            time.sleep(0.5)
        for item in leaving:
            self._seen.pop(name_of(item), None)

    def _still(self, item: dict) -> dict | None:
        """Return the very object as it is now (not a new one of the same name), or None when it is gone."""
        metadata = item["metadata"]
        live = self._cluster.get(item["apiVersion"], item["kind"], metadata["name"], metadata.get("namespace"))
        return live if live and live["metadata"]["uid"] == metadata["uid"] else None

    def _await_definitions(self, group: list[dict]) -> None:
        """Wait until the API server serves the kinds that ``group`` defines."""
        new = [item for item in group if item["kind"] == DEFINITION and not self._seen.get(name_of(item))]
        deadline = time.monotonic() + _PROMPT
        while new and not self._dry_run:
            states = [
                (item, judge(self._cluster.get(item["apiVersion"], item["kind"], item["metadata"]["name"])))
                for item in new
            ]
            new = [item for item, state in states if not state.ready]
            if new and time.monotonic() > deadline:
                raise ClusterError(
                    "\n".join(f"{name_of(item)}: {state.reason}" for item, state in states if not state.ready)
                )
            if new:
                time.sleep(0.2)

    # --- what is said of it -----------------------------------------------------------------

    def _record(self, item: dict, live: dict | None, after: dict, checked: bool) -> None:
        if live is None:
            self.results.append({"name": name_of(item), "action": "created", "checked": checked})
            # What the server fills in by default says nothing about the change.
            self._show(item, {}, presentable(item))
            return
        # The same one was not written at all.
        before, now = ({}, {}) if live is after else (presentable(live), presentable(after, live))
        if before == now:
            self._remember_unchanged(item, checked)
            return
        self.results.append({"name": name_of(item), "action": "changed", "checked": checked})
        self._show(item, *_narrow(before, now, item))

    def _remember_unchanged(self, item: dict, checked: bool) -> None:
        self.results.append({"name": name_of(item), "action": "unchanged", "checked": checked})

    def _show_removed(self) -> None:
        for live in self.unwanted():
            self._remember_removed(live)

    def _remember_removed(self, live: dict) -> None:
        self.results.append({"name": name_of(live), "action": "removed", "checked": True})
        self._show(live, presentable(live), {})

    def _show(self, item: dict, before: dict, after: dict) -> None:
        if not self._is_shown:
            return
        header = name_of(item)
        self.diffs.append(
            {"before_header": header, "after_header": header, "before": _dump(before), "after": _dump(after)}
        )


def _key(item: dict) -> tuple:
    """Return what tells an object from all others, whatever version it is written in."""
    metadata = item["metadata"]
    return applyset.group_kind(item), metadata.get("namespace"), metadata["name"]


def _model(item: dict) -> str | None:
    """Return the model that ``item`` is of, if it is of one."""
    return (item["metadata"].get("labels") or {}).get(MODEL_LABEL)


def _is_spent(live: dict) -> bool:
    """Whether ``live`` is a Job that has failed for good."""
    return live["kind"] == "Job" and judge(live).final


def _narrow(before: dict, now: dict, item: dict) -> tuple[dict, dict]:
    """Leave out defaults, unless the change is among them (a field that is given up)."""
    asked = presentable(item)
    narrow = limited_to(before, asked), limited_to(now, asked)
    return narrow if narrow[0] != narrow[1] else (before, now)


def _held_back(live: dict) -> str:
    """Return why an object that was deleted is still there."""
    metadata: dict[str, Any] = live["metadata"]
    finalizers = metadata.get("finalizers") or (live.get("spec") or {}).get("finalizers")
    why = f"it waits for finalizers {', '.join(finalizers)}" if finalizers else "nothing says why"
    return (
        f"{name_of(live)} was deleted at {metadata.get('deletionTimestamp')} and is still there: {why}. Whoever set "
        "them has to finish and take them away (is its controller running?); then run this again."
    )


def _dump(item: dict) -> str:
    """Return ``item`` as YAML, nothing for an empty one."""
    return documents.dump([item] if item else [], explicit_start=False)
